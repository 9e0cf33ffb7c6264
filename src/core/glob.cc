#include "core/glob.h"

#include <algorithm>

namespace keel {

// A star takes as little as it can, and more when the rest does not fit; earlier stars need not be
// tried again. What follows the last one has its place at the end, which most texts do not share.
bool matches_glob(std::string_view pattern, std::string_view text) noexcept {
    while (!pattern.empty() && pattern.back() != '*') {
        if (text.empty() || (pattern.back() != '?' && pattern.back() != text.back())) {
            return false;
        }
        pattern.remove_suffix(1);
        text.remove_suffix(1);
    }
    std::size_t p = 0;
    std::size_t t = 0;
    std::size_t star = std::string_view::npos;
    std::size_t retry = 0;
    while (t < text.size()) {
        if (p < pattern.size() && pattern[p] == '*') {
            star = p++;
            retry = t;
        } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
            ++p;
            ++t;
        } else if (star != std::string_view::npos) {
            p = star + 1;
            t = ++retry;
        } else {
            return false;
        }
    }
    while (p < pattern.size() && pattern[p] == '*')
        ++p;
    return p == pattern.size();
}

bool matches_any(const std::vector<std::string>& patterns, std::string_view text) noexcept {
    return std::ranges::any_of(patterns,
                               [text](const std::string& one) { return matches_glob(one, text); });
}

}  // namespace keel
