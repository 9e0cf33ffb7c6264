// Where tests find the checkout that they belong to: its sources and t/data.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace keel::test {

// The root of the checkout, from any directory inside it.
inline std::filesystem::path tree() {
    const std::filesystem::path start = std::filesystem::current_path();
    for (std::filesystem::path at = start;; at = at.parent_path()) {
        if (std::filesystem::exists(at / "src/core/digest.h")) {
            return at;
        }
        if (at == at.root_path()) {
            throw std::runtime_error(start.string() + " is not inside the checkout");
        }
    }
}

inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw std::runtime_error("cannot read " + path.string());
    }
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The rows of a file of tab-separated values, its heading left out. Empty fields stay.
inline std::vector<std::vector<std::string>> read_tsv(const std::filesystem::path& path) {
    std::vector<std::vector<std::string>> rows;
    std::vector<std::string> row(1);
    for (const char c : read_file(path)) {
        if (c == '\n') {
            rows.push_back(std::move(row));
            row.assign(1, "");
        } else if (c == '\t') {
            row.emplace_back();
        } else {
            row.back() += c;
        }
    }
    if (rows.empty()) {
        throw std::runtime_error(path.string() + " is empty");
    }
    rows.erase(rows.begin());
    return rows;
}

}  // namespace keel::test
