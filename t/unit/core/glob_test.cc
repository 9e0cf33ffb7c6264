// Globs, against the plainest definition of them.
#include "core/glob.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace keel {
namespace {

bool means(std::string_view pattern, std::string_view text) {
    if (pattern.empty()) return text.empty();
    const std::string_view rest = pattern.substr(1);
    if (pattern[0] == '*') {
        return means(rest, text) || (!text.empty() && means(pattern, text.substr(1)));
    }
    return !text.empty() && (pattern[0] == '?' || pattern[0] == text[0]) &&
           means(rest, text.substr(1));
}

// Calls visit(text) for every text of at most `most` of these characters.
template <class Visit>
void for_each_text(std::string_view characters, std::size_t most, const Visit& visit,
                   const std::string& begin = "") {
    visit(begin);
    if (begin.size() == most) return;
    for (const char one : characters) {
        for_each_text(characters, most, visit, begin + one);
    }
}

TEST(Glob, EveryShortPatternAgainstEveryShortText) {
    int matches = 0;
    for_each_text("ab*?", 4, [&matches](const std::string& pattern) {
        for_each_text("ab", 5, [&](const std::string& text) {
            const bool expected = means(pattern, text);
            matches += expected ? 1 : 0;
            ASSERT_EQ(matches_glob(pattern, text), expected) << pattern << " on " << text;
        });
    });
    EXPECT_GT(matches, 1000);
}

TEST(Glob, ManyStarsTakeNoLongTime) {
    std::string pattern;
    for (int i = 0; i < 200; ++i) {
        pattern += "a*";
    }
    EXPECT_FALSE(matches_glob(pattern + "b", std::string(20'000, 'a')));
    EXPECT_FALSE(matches_glob("*b" + pattern, std::string(20'000, 'a')));
}

}  // namespace
}  // namespace keel
