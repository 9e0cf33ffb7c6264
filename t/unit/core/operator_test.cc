// The workloads of a real operator with his policies, and lists of tags as their repositories may
// have them: what is chosen is checked by rules of its own, not by those that chose.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "core/policy.h"
#include "core/reference.h"
#include "unit/tree.h"

namespace keel {
namespace {

// What a name consists of, read the plain way: text without digits, numbers joined by dots, rest.
struct Plain {
    std::string before;
    std::vector<long long> numbers;
    std::string after;
};

Plain plain(const std::string& name) {
    static const std::regex kParts("([^0-9]*)([0-9]+(?:\\.[0-9]+)*)(.*)");
    Plain result;
    std::smatch parts;
    if (!std::regex_match(name, parts, kParts)) return result;
    result.before = parts[1];
    result.after = parts[3];
    std::string number;
    for (const char c : parts[2].str() + ".") {
        if (c != '.') {
            number += c;
        } else {
            result.numbers.push_back(std::atoll(number.substr(0, 18).c_str()));
            number.clear();
        }
    }
    return result;
}

std::string with_numbers(const Plain& parts, const std::vector<long long>& numbers,
                         const std::string& after) {
    std::string name = parts.before;
    for (std::size_t i = 0; i < numbers.size(); ++i)
        name += (i == 0 ? "" : ".") + std::to_string(numbers[i]);
    return name + after;
}

// Newer ones, older ones, other streams, other spellings, and what his registries really held when
// something else took it (facts of his outages).
std::set<std::string> listing(const std::string& name) {
    std::set<std::string> all{"latest",
                              "stable",
                              "nightly",
                              "main",
                              "edge",
                              "1.0",
                              "0.1.1",
                              "24.0.2",
                              "8.0.6-alpine",
                              "3.21.7",
                              "14.3.9",
                              "1.18",
                              "2.0",
                              "v26.5.0-debug-amd64-debian",
                              "4.0.0.9",
                              "1.16.1",
                              "a1b2c3d",
                              "71b32438",
                              "20260822",
                              "v.1.1.2",
                              "22",
                              "pr-1234",
                              "sha-0a1b2c3",
                              "RELEASE.2026-01-01T00-00-00Z",
                              "20240303.2-unstable-armhf",
                              name};
    const Plain parts = plain(name);
    for (std::size_t field = 0; field < parts.numbers.size(); ++field) {
        for (const int step : {-7, -1, 1, 2, 40}) {
            std::vector<long long> numbers = parts.numbers;
            numbers[field] = std::max(0LL, numbers[field] + step);
            for (std::size_t i = field + 1; i < numbers.size(); ++i)
                numbers[i] = 0;
            for (const char* other :
                 {"", "-alpine", "-debug", "-rc1", "rc1", "-arm64v8", "-ubi8", "-ls1", "_1"}) {
                all.insert(with_numbers(parts, numbers, parts.after + other));
                all.insert(with_numbers(parts, numbers, other));
            }
            for (const char* before : {"", "v", "V", "version-", "release-v"})
                all.insert(before + with_numbers({}, numbers, parts.after));
            numbers.push_back(1);
            all.insert(with_numbers(parts, numbers, parts.after));
            numbers.resize(std::max<std::size_t>(numbers.size(), 3) - 2);
            all.insert(with_numbers(parts, numbers, parts.after));
        }
    }
    std::erase_if(all, [](const std::string& one) { return !is_tag_name(one); });
    return all;
}

struct Row {
    const std::vector<std::string>& columns;
    [[nodiscard]] const std::string& image() const { return columns[4]; }
    // His explicit policy, else what he had injected where he enrolled, else none.
    [[nodiscard]] std::string policy() const {
        const std::string& effective = columns[8];
        if (!columns[5].empty()) return columns[5];
        if (effective.starts_with("never")) return "never";
        return effective.starts_with("patch") ? "patch" : "";
    }
};

// Judges one reference and checks the choice. Returns the reason.
std::string check(const std::string& image, const std::string& policy) {
    const auto reference = Reference::parse(image);
    EXPECT_TRUE(reference) << image;
    const auto rule = Policy::parse(policy);
    EXPECT_TRUE(rule) << policy;
    if (reference->name.empty()) return "no-tag";
    const std::set<std::string> names = listing(reference->name);
    const std::vector<std::string_view> listed(names.begin(), names.end());
    const std::string current = reference->name;
    const TagChoice choice = choose_tag(*rule, {current, listed});
    const std::string what = policy + " " + image;
    EXPECT_FALSE(sentence(*rule, current, choice).empty()) << what;
    if (choice.reason != Reason::newer_tag) {
        EXPECT_EQ(choice.selected, "") << what;
        return std::string(to_string(choice.reason));
    }
    const std::string selected(choice.selected);
    EXPECT_TRUE(names.contains(selected)) << what;
    const Plain before = plain(current);
    const Plain after = plain(selected);
    // The stream: what stands before and behind the numbers, and how many there are.
    EXPECT_EQ(after.before, before.before) << what << " → " << selected;
    if (policy != "all") {
        EXPECT_EQ(after.after, before.after) << what << " → " << selected;
    }
    EXPECT_EQ(after.numbers.size(), before.numbers.size()) << what << " → " << selected;
    EXPECT_GT(after.numbers, before.numbers) << what << " → " << selected << " goes down";
    const std::size_t kept = policy == "patch" ? 2 : policy == "minor" ? 1 : 0;
    for (std::size_t i = 0; i < kept; ++i)
        EXPECT_EQ(after.numbers[i], before.numbers[i]) << what << " → " << selected;
    // The reference: nothing but the name after the last colon is another one.
    const auto written = reference->with_tag(selected, reference->digest.value_or(Digest{}));
    EXPECT_TRUE(written) << what;
    if (!written) return "newer-tag";
    if (!reference->digest && reference->name_written) {
        const std::string stem = image.substr(0, image.size() - current.size());
        EXPECT_EQ(*written, stem + selected) << what;
    }
    const auto again = Reference::parse(*written);
    EXPECT_TRUE(again) << *written;
    if (!again) return "newer-tag";
    EXPECT_EQ(again->registry, reference->registry) << *written;
    EXPECT_EQ(again->repository, reference->repository) << *written;
    return "newer-tag";
}

TEST(Operator, V2_V3_V5_NothingOfARealClusterGoesDownOrElsewhere) {
    const auto rows = test::read_tsv(test::tree() / "t/data/workloads.tsv");
    ASSERT_EQ(rows.size(), 412U);
    std::map<std::string, int> reasons;
    std::map<std::string, std::map<std::string, int>> others;
    for (const auto& columns : rows) {
        const Row row{columns};
        ++reasons[check(row.image(), row.policy())];
        for (const char* policy : {"force", "patch", "minor", "major", "all"})
            ++others[policy][check(row.image(), policy)];
    }
    const auto print = [](const std::string& policy, const std::map<std::string, int>& counts) {
        std::cout << "  " << policy << ":";
        for (const auto& [reason, count] : counts)
            std::cout << " " << reason << " " << count;
        std::cout << "\n";
    };
    std::cout << "an operator's " << rows.size() << " references, verdicts by reason\n";
    print("his own policies", reasons);
    for (const auto& [policy, counts] : others)
        print("all under " + policy, counts);
    // What the rows themselves fix.
    EXPECT_EQ(reasons["no-tag"], 4);
    EXPECT_EQ(reasons["vetoed"], 30);
    EXPECT_EQ(others["force"]["newer-tag"], 0);
    EXPECT_GT(reasons["newer-tag"], 50);
    EXPECT_GT(others["major"]["newer-tag"], reasons["newer-tag"]);
}

}  // namespace
}  // namespace keel
