// What holds for whatever names a registry lists: random names of every shape, from a fixed seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "core/policy.h"

namespace keel {
namespace {

class Names {
  public:
    // Few values for each part, so that names meet others of their own stream.
    std::string next() {
        static const std::vector<std::string> kPrefixes{"", "", "", "v", "V", "release-", "app_v"};
        static const std::vector<std::string> kSuffixes{"",
                                                        "",
                                                        "",
                                                        "-rc1",
                                                        "-rc.2",
                                                        "rc3",
                                                        "-beta",
                                                        "-alpha2",
                                                        "-dev.1",
                                                        "-dev",
                                                        "-alpine",
                                                        "-alpine3.19",
                                                        "-alpine3.20",
                                                        "-ls9",
                                                        "-ls10",
                                                        "-1",
                                                        "-2-ubi8",
                                                        "-debug",
                                                        "-pg15",
                                                        "-pg17",
                                                        "-rc1-alpine",
                                                        "-g1a2b3c4",
                                                        "-arm64v8",
                                                        "-RC2"};
        static const std::vector<std::string> kOthers{
            "latest",  "stable-cuda", "a1b2c3d", "deadbeef1", "sha-1234567", "20240101",
            "1.2.3_4", "pg16-v0.1.2", "15-3.4",  "",          "-",           "1.2.3.4.5"};
        if (below(10) == 0) return kOthers[below(kOthers.size())];
        std::string name = kPrefixes[below(kPrefixes.size())];
        const std::size_t fields = below(8) == 0 ? 1 + below(4) : 3;
        for (std::size_t i = 0; i < fields; ++i) {
            static const std::vector<std::string> kNumbers{"0", "1",  "2",      "3",     "4",
                                                           "9", "10", "02",     "12",    "100",
                                                           "7", "8",  "100000", "99999", "1234567"};
            name += (i == 0 ? "" : ".") + kNumbers[below(i < 2 ? 12 : kNumbers.size())];
        }
        return name + kSuffixes[below(kSuffixes.size())];
    }
    std::size_t below(std::size_t limit) { return random_() % limit; }
    std::mt19937& random() { return random_; }

  private:
    std::mt19937 random_{20'261'122};
};

constexpr int kRounds = 20'000;

TEST(PolicyProperties, V2_OrderIsTotalOnWhatIsOrdered) {
    Names names;
    int ordered = 0;
    for (int round = 0; round < kRounds; ++round) {
        const std::string text[] = {names.next(), names.next(), names.next()};
        const TagShape shapes[] = {read_shape(text[0]), read_shape(text[1]), read_shape(text[2])};
        for (const Suffixes suffixes : {Suffixes::identical, Suffixes::ordered}) {
            const auto ab = compare(shapes[0], shapes[1], suffixes);
            const auto ba = compare(shapes[1], shapes[0], suffixes);
            const auto bc = compare(shapes[1], shapes[2], suffixes);
            const auto ac = compare(shapes[0], shapes[2], suffixes);
            const std::string what = text[0] + " " + text[1] + " " + text[2];
            ASSERT_EQ(ab.has_value(), ba.has_value()) << what;
            if (ab) {
                ASSERT_EQ(*ab > 0, *ba < 0) << what;
                ASSERT_EQ(*ab == 0, *ba == 0) << what;
                ASSERT_EQ(shapes[0].prefix, shapes[1].prefix) << what;
                ASSERT_EQ(shapes[0].count, shapes[1].count) << what;
            }
            if (!ab || !bc) continue;
            ++ordered;
            if (ac && *ab >= 0 && *bc >= 0) {
                ASSERT_TRUE(*ac >= 0 && (*ac == 0) == (*ab == 0 && *bc == 0)) << what;
            }
            // Numbers of different length beyond five digits are what alone keeps a from meeting c.
            if (!ac) {
                ASSERT_EQ(shapes[0].prefix, shapes[2].prefix) << what;
            }
        }
    }
    EXPECT_GT(ordered, 20) << "the names hardly ever meet: nothing was tried";
}

TEST(PolicyProperties, V2_V3_V5_NeverDownNorAcrossAndWhateverTheOrderOfTheList) {
    Names names;
    const char* policies[] = {"force",         "patch",
                              "minor",         "major",
                              "all",           "glob:*",
                              "glob:v*",       "glob:?.*",
                              "regexp:^v?\\d", "regexp:^(?<compare>\\d+\\.\\d+\\.\\d+)",
                              "regexp:alpine"};
    int chosen = 0;
    for (int round = 0; round < kRounds; ++round) {
        const std::string current = names.next();
        std::vector<std::string> all(1 + names.below(30));
        for (std::string& one : all)
            one = names.next();
        const std::string text = policies[names.below(std::size(policies))];
        const Policy policy = *Policy::parse(text);
        const bool match = names.below(2) == 0;
        const Step step = names.below(4) == 0 ? Step::next : Step::highest;
        std::vector<std::string_view> listed(all.begin(), all.end());
        const TagChoice choice = choose_tag(policy, {current, listed, match, step});
        const std::string selected(choice.selected);
        const std::string what = text + " " + current + " → " + selected;
        std::shuffle(listed.begin(), listed.end(), names.random());
        const TagChoice again = choose_tag(policy, {current, listed, match, step});
        ASSERT_EQ(again.reason, choice.reason) << what;
        ASSERT_EQ(again.selected, choice.selected) << what;
        ASSERT_EQ(again.beyond, choice.beyond) << what;
        listed.insert(listed.end(), all.begin(), all.end());  // each twice
        ASSERT_EQ(choose_tag(policy, {current, listed, match, step}).selected, selected) << what;
        ASSERT_EQ(choice.reason == Reason::newer_tag, !selected.empty()) << what;
        if (selected.empty()) continue;
        ++chosen;
        ASSERT_NE(std::ranges::find(all, selected), all.end()) << what;
        const TagShape from = read_shape(current);
        const TagShape to = read_shape(selected);
        if (policy.pattern() != nullptr) {
            if (!policy.pattern()->names_key()) {
                ASSERT_TRUE(same_skeleton(current, selected)) << what;
                ASSERT_TRUE(natural_order(selected, current) > 0) << what;
            }
        } else {
            ASSERT_NE(text, "force");
            const bool identical = match && text != "all";
            const auto order =
                compare(to, from, identical ? Suffixes::identical : Suffixes::ordered);
            ASSERT_TRUE(order && *order > 0) << what;
            ASSERT_EQ(to.prefix, from.prefix) << what;
            ASSERT_EQ(to.shape, from.shape) << what;
            if (identical) {
                ASSERT_EQ(to.suffix, from.suffix) << what;
            }
            if (text == "patch" || text == "minor") {
                ASSERT_EQ(to.fields[0], from.fields[0]) << what;
            }
        }
        // Passed over, the next one is lower than it and still higher than what runs.
        const std::string_view passed[] = {choice.selected};
        const TagChoice next = choose_tag(policy, {current, listed, match, step, nullptr, passed});
        ASSERT_NE(next.selected, choice.selected) << what;
        if (next.selected.empty() || policy.pattern() != nullptr) continue;
        const auto lower = compare(read_shape(next.selected), to, Suffixes::ordered);
        const auto higher = compare(read_shape(next.selected), from, Suffixes::ordered);
        ASSERT_TRUE(!lower || *lower <= 0) << what << ", then " << next.selected;
        ASSERT_TRUE(higher && *higher > 0) << what << ", then " << next.selected;
        // From there on nothing leads back.
        const TagChoice back = choose_tag(policy, {choice.selected, listed, match, step});
        ASSERT_NE(back.selected, std::string_view(current)) << what;
    }
    EXPECT_GT(chosen, kRounds / 20);
}

TEST(PolicyProperties, PassedOverNextStaysWithinItsFirstNumber) {
    const std::vector<std::string_view> listed{"5.1.0", "6.0.0", "6.1.0", "7.0.0"};
    const Policy major = *Policy::parse("major");
    const std::string_view none[] = {"6.0.0", "6.1.0"};
    const std::string_view highest[] = {"7.0.0"};
    EXPECT_EQ(choose_tag(major, {"5.1.0", listed, true, Step::next, nullptr, highest}).selected,
              "6.1.0");
    const TagChoice choice = choose_tag(major, {"5.1.0", listed, true, Step::next, nullptr, none});
    EXPECT_EQ(choice.reason, Reason::newer_tag);
    EXPECT_EQ(choice.selected, "") << "7 would skip 6";
    EXPECT_FALSE(sentence(major, "5.1.0", choice).empty());
    EXPECT_EQ(choose_tag(major, {"5.1.0", listed, true, Step::highest, nullptr, highest}).selected,
              "6.1.0");
}

}  // namespace
}  // namespace keel
