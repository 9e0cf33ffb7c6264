#include "core/policy.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "unit/tree.h"

namespace keel {
namespace {

using Names = std::vector<std::string_view>;

std::vector<std::string_view> split(std::string_view text, char at) {
    std::vector<std::string_view> parts;
    for (;;) {
        const std::size_t end = std::min(text.find(at), text.size());
        parts.push_back(text.substr(0, end));
        if (end == text.size()) return parts;
        text.remove_prefix(end + 1);
    }
}

struct Answer {
    std::string verdict;
    std::string reason;
    std::string selected;

    friend bool operator==(const Answer&, const Answer&) = default;
    friend std::ostream& operator<<(std::ostream& out, const Answer& one) {
        return out << one.verdict << ' ' << one.reason << ' ' << one.selected;
    }
};

Answer ask(std::string_view policy, std::string_view current, const Names& listed,
           bool match_pre_release = true, const FirstSeen* first_seen = nullptr,
           Step step = Step::highest) {
    const auto parsed = Policy::parse(policy);
    if (!parsed) {
        EXPECT_EQ(parsed.error().code, "policy-invalid");
        return {"blocked", "policy-invalid", "-"};
    }
    const TagChoice choice =
        choose_tag(*parsed, {current, listed, match_pre_release, step, first_seen});
    EXPECT_FALSE(sentence(*parsed, current, choice).empty());
    return {std::string{to_string(verdict_of(choice.reason))},
            std::string{to_string(choice.reason)},
            choice.selected.empty() ? "-" : std::string{choice.selected}};
}

Answer roll(const std::string& name) {
    return {"roll", "newer-tag", name};
}
const Answer kUpToDate{"current", "up-to-date", "-"};
const Answer kBeyond{"current", "beyond-policy", "-"};
const Answer kFixed{"current", "fixed-tag", "-"};
const Answer kJump{"blocked", "stream-jump", "-"};
const Answer kUnknown{"blocked", "unknown-order", "-"};
const Answer kForeign{"blocked", "stream-unknown", "-"};
const Answer kInvalid{"blocked", "policy-invalid", "-"};

TEST(Policy, decides_every_worked_case) {
    const auto rows = test::read_tsv(test::tree() / "t/data/policy.tsv");
    EXPECT_EQ(rows.size(), 80u);
    for (const auto& row : rows) {
        ASSERT_EQ(row.size(), 7u) << row[0];
        const Answer expected{row[4], row[5], row[6]};
        EXPECT_EQ(ask(row[0], row[2], split(row[3], ','), row[1] == "true"), expected)
            << row[0] << ' ' << row[2] << ": " << row[3];
    }
}

TEST(Policy, v3_names_have_shapes) {
    const std::map<std::string_view, Shape> cases{
        {"1.2.3", Shape::version},
        {"v1.2.3", Shape::version},
        {"V1.2.3", Shape::version},
        {"1.2.3-rc1", Shape::version},
        {"3.14.0rc1", Shape::version},
        {"1.2.3-alpine3.19", Shape::version},
        {"4.0.14.2939-ls271", Shape::version},
        {"2024.01.02", Shape::version},
        {"1.0.20260223", Shape::version},
        {"1.0.1234567890", Shape::other},
        {"12345.1.1", Shape::other},
        {"1.12345.1", Shape::other},
        {"00001.1.1", Shape::version},
        {"release-1.2.3", Shape::version},
        {"version-v1.2.3", Shape::version},
        {"version-vv1.2.3", Shape::other},
        {"v.1.1.0", Shape::version},
        {"1.2", Shape::floating},
        {"8", Shape::floating},
        {"v3", Shape::floating},
        {"8-alpine", Shape::floating},
        {"stable-9955", Shape::floating},
        {"stable-100431", Shape::floating},
        {"stable-1004310", Shape::other},
        {"stable-10043.1", Shape::other},
        {"pr-123", Shape::other},
        {"PR-123", Shape::other},
        {"mr-17", Shape::other},
        {"commit-17", Shape::other},
        {"18beta3", Shape::floating},
        {"latest", Shape::channel},
        {"latest-cuda", Shape::channel},
        {"a.b_c-d", Shape::channel},
        {"a--b", Shape::other},
        {"a-", Shape::other},
        {"_a", Shape::other},
        {"71b32438", Shape::hash},
        {"1a2b3c", Shape::other},
        {"deadbeef", Shape::channel},
        {"sha-1a2b3c4", Shape::hash},
        {"sha-1234567", Shape::hash},
        {"git-12345678", Shape::hash},
        {"sha-123456", Shape::floating},
        {"20260820", Shape::number},
        {"v20260820", Shape::number},
        {"12345", Shape::number},
        {"1234", Shape::floating},
        {"pg16-v0.1.2", Shape::other},
        {"RELEASE.2024-01-01T00-00-00Z", Shape::other},
        {"1.2.3_4", Shape::other},
        {"1.2.3.4.5", Shape::other},
        {"1.2.3.", Shape::other},
        {"1.1.1a", Shape::other},
        {"2025.9.0.dev202508120214", Shape::other},
        {"15-3.4-alpine", Shape::other},
        {"nightly-2026-08-20", Shape::other},
        {"1.2.3-5-g1a2b3c4", Shape::other},
        {"1.2.3-71b32438", Shape::other},
        {"1.2.3-sha-1234567", Shape::other},
        {"12.2.0-17142428006", Shape::version},
        {"1.2.3-g1234567", Shape::other},
        {"1.2.3-", Shape::other},
        {"", Shape::other},
    };
    for (const auto& [name, shape] : cases) {
        EXPECT_EQ(to_string(read_shape(name).shape), to_string(shape)) << name;
    }
}

TEST(Policy, v3_spellings_of_the_policy_are_not_guessed) {
    for (const std::string_view text : {"Force", "FORCE", "force ", "sometimes", "glob:", "regexp:",
                                        "regexp:[", "regexp:(?<a", "glob", "semver"}) {
        EXPECT_EQ(ask(text, "1.2.3", {"1.2.4"}), kInvalid) << text;
    }
    EXPECT_EQ(ask("regexp:" + std::string(1'001, 'a'), "1.2.3", {"1.2.4"}), kInvalid);
    EXPECT_EQ(ask("", "1.2.3", {"1.2.4"}), (Answer{"ignore", "no-policy", "-"}));
}

TEST(Policy, v2_nothing_lower_and_nothing_equal_is_chosen) {
    for (const std::string_view policy : {"patch", "minor", "major", "all", "glob:*", "regexp:."}) {
        EXPECT_NE(ask(policy, "2.3.4", {"2.3.4", "2.3.3", "2.2.9", "1.9.9", "0.1.0"}).verdict,
                  "roll")
            << policy;
    }
    EXPECT_EQ(ask("minor", "1.2.3", {"1.02.3", "1.2.03"}), kUpToDate);
    EXPECT_EQ(ask("minor", "1.2.3", {"1.2.4", "1.02.04", "1.2.04"}), roll("1.2.4"));
    EXPECT_EQ(ask("minor", "1.2.3", {"1.2.04", "1.02.04"}), roll("1.02.04")) << "the lowest bytes";
}

TEST(Policy, v3_no_precision_is_invented) {
    EXPECT_EQ(ask("all", "1.2", {"1.2.9", "1.3.0", "2"}), kUpToDate);
    EXPECT_EQ(ask("all", "1.2.3", {"v1.2.4", "1.3", "1.2.4.1", "release-1.2.4"}), kUpToDate);
    EXPECT_EQ(ask("minor", "1.2.3.4", {"1.2.3.5", "1.2.4.0", "1.2.4"}), roll("1.2.4.0"));
    EXPECT_EQ(ask("patch", "1", {"2"}), kBeyond);
    EXPECT_EQ(ask("minor", "1", {"2"}), kBeyond);
    EXPECT_EQ(ask("patch", "1.2", {"1.3"}), kBeyond);
    EXPECT_EQ(ask("minor", "1.2", {"1.3", "2.0"}), roll("1.3"));
}

TEST(Policy, v3_long_fields_compare_only_when_they_are_equally_long) {
    EXPECT_EQ(ask("all", "1.0.20260223", {"1.0.9", "2.0.1"}), kUpToDate);
    EXPECT_EQ(ask("all", "1.0.9", {"1.0.20260223", "1.1.20260223"}), kUpToDate);
    EXPECT_EQ(ask("all", "1.0.99999", {"1.0.123456"}), kUpToDate);
    EXPECT_EQ(ask("patch", "1.0.999", {"1.0.1000"}), roll("1.0.1000"));
}

TEST(Policy, v3_variants_never_turn_into_others) {
    const std::vector<std::pair<std::string_view, std::string_view>> pairs{
        {"1.2.3-pg15", "1.2.4-pg17"},
        {"1.2.3-ltsc2019", "1.2.4-ltsc2022"},
        {"1.2.3-php8.1", "1.2.4-php8.4"},
        {"1.2.3-cu118", "1.2.4-cu128"},
        {"1.2.3-arm32v6", "1.2.4-arm64v8"},
        {"1.2.3-alpine", "1.2.4-debug"},
        {"1.2.3-alpine", "1.2.4"},
        {"1.2.3", "1.2.4-alpine"},
        {"1.2.3-alpine3.19", "1.2.4-alpine"},
        {"1.2.3-alpine3.19", "1.2.4-alpine3"},
        {"1.2.3-1", "1.2.4"},
        {"1.2.3-dev", "1.2.4"},
        {"1.2.3-a-b", "1.2.4-b-a"},
        {"1.2.3-LS9", "1.2.4-LS10"},
    };
    for (const auto& [from, to] : pairs)
        EXPECT_EQ(ask("all", from, {to}), kUpToDate) << to;
}

TEST(Policy, counters_are_numbers_after_everything_else) {
    EXPECT_EQ(ask("all", "1.2.3-ls9", {"1.2.3-ls10"}), roll("1.2.3-ls10"));
    EXPECT_EQ(ask("all", "1.2.3-alpine3.19", {"1.2.3-alpine3.20"}), roll("1.2.3-alpine3.20"));
    EXPECT_EQ(ask("all", "1.2.3-ls9", {"1.2.4-ls1"}), roll("1.2.4-ls1"));
    EXPECT_EQ(ask("all", "1.2.4-ls1", {"1.2.3-ls9"}), kUpToDate);
    EXPECT_EQ(ask("all", "1.2.3-rc1-ls9", {"1.2.3-rc2-ls1"}), roll("1.2.3-rc2-ls1"));
    EXPECT_EQ(ask("all", "1.2.3-1-ubi8", {"1.2.3-2-ubi8", "1.2.3-2-ubi9"}), roll("1.2.3-2-ubi8"));
    EXPECT_EQ(ask("all", "1.2.3-r099999999999999999999", {"1.2.3-r100000000000000000000"}),
              roll("1.2.3-r100000000000000000000"));
    EXPECT_EQ(ask("minor", "1.2.3-ls9", {"1.2.3-ls10"}), kBeyond) << "identical suffixes only";
}

TEST(Policy, pre_releases_order_as_in_semver) {
    const Names ascending{"1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-ALPHA2", "1.0.0-beta",
                          "1.0.0-dev1",  "1.0.0-ea.1",    "1.0.0-M2",     "1.0.0-pre1",
                          "1.0.0-rc",    "1.0.0-rc.1",    "1.0.0rc2",     "1.0.0-RC10",
                          "1.0.0"};
    for (std::size_t i = 0; i < ascending.size(); ++i) {
        for (std::size_t k = 0; k < ascending.size(); ++k) {
            const auto order =
                compare(read_shape(ascending[i]), read_shape(ascending[k]), Suffixes::ordered);
            ASSERT_TRUE(order) << ascending[i] << ' ' << ascending[k];
            EXPECT_EQ(*order, i <=> k) << ascending[i] << ' ' << ascending[k];
        }
    }
    EXPECT_EQ(ask("all", "1.2.3", {"1.2.3-rc1"}), kUpToDate);
    EXPECT_EQ(ask("all", "1.2.3-rc1-alpine", {"1.2.3-alpine"}), roll("1.2.3-alpine"));
    EXPECT_EQ(ask("minor", "1.2.3-rc1", {"1.2.3"}), kBeyond);
    EXPECT_EQ(ask("minor", "1.2.3-rc1", {"1.2.3"}, false), roll("1.2.3"));
    EXPECT_EQ(ask("major", "1.2.3", {"1.2.4-rc1"}), kBeyond);
}

TEST(Policy, v5_a_jump_ends_the_walk_up) {
    EXPECT_EQ(ask("major", "5.1.2", {"14.3.9"}), kJump);
    EXPECT_EQ(ask("major", "5.1.2", {"7.0.0", "9.0.0", "12.0.0"}), roll("9.0.0"));
    EXPECT_EQ(ask("major", "5.1.2", {"5.1.3", "14.3.9"}), roll("5.1.3"));
    EXPECT_EQ(ask("major", "5", {"9"}), kJump);
    EXPECT_EQ(ask("major", "100", {"190"}), roll("190"))
        << "a single number from 100 on counts builds";
    EXPECT_EQ(ask("major", "100.1", {"190.1"}), kJump);
    EXPECT_EQ(ask("glob:*", "5.1.2", {"14.3.9"}), roll("14.3.9")) << "a pattern releases it";
}

TEST(Policy, step_next_skips_no_major) {
    EXPECT_EQ(ask("major", "1.2.3", {"1.9.0", "2.1.0", "3.0.0"}, true, nullptr, Step::next),
              roll("1.9.0"));
    EXPECT_EQ(
        ask("major", "1.9.0", {"1.9.0", "2.1.0", "2.2.0", "3.0.0"}, true, nullptr, Step::next),
        roll("2.2.0"));
}

TEST(Policy, v3_hashes_and_numbers_never_move_under_a_version_policy) {
    for (const std::string_view name : {"latest", "71b32438", "20260820", "1.2.3_4", "pr-12"}) {
        for (const std::string_view policy : {"patch", "minor", "major", "all"}) {
            EXPECT_EQ(ask(policy, name, {"9.9.9", "99999999", "fffffff1", "zzz", "pr-99"}), kFixed)
                << policy << ' ' << name;
        }
        EXPECT_EQ(ask("force", name, {"9.9.9"}), kUpToDate);
    }
}

TEST(Policy, v5_a_pattern_stays_in_the_stream_of_the_running_tag) {
    EXPECT_EQ(ask("glob:v*", "1.2.3", {"v1.2.4"}), kForeign);
    EXPECT_EQ(ask("glob:*", "a-1", {"b-2", "a-2-x", "a-3"}), roll("a-3"));
    EXPECT_EQ(ask("glob:a-?", "a-1", {"a-10", "a-9"}), roll("a-9"));
    EXPECT_EQ(ask("glob:A-*", "a-1", {"a-2"}), kForeign) << "case matters";
    EXPECT_EQ(ask("glob:*-*-*", "x-1-y", {"x-2-y", "x-3"}), roll("x-2-y"));
    EXPECT_EQ(ask("regexp:^v(?<compare>[0-9]+)", "v1-a", {"v2-b", "v3"}), roll("v3"));
    EXPECT_EQ(ask("regexp:^v(?<compare>[0-9]*)", "v1", {"v", "v2"}), roll("v2"));
    EXPECT_EQ(ask("regexp:^v(?<compare>[0-9]*)", "v", {"v2"}), kForeign);
    EXPECT_EQ(ask("regexp:1\\.2", "1.2.3", {"1.2.4", "11.2.5", "1.3.0"}), roll("11.2.5"));
    EXPECT_EQ(ask("regexp:^(?<compare>[0-9.]+)", "1.1-a", {"1.1-b"}), kUnknown);
}

TEST(Policy, v3_hashes_are_ordered_by_our_own_first_sight) {
    std::map<std::string_view, std::uint64_t> listing{
        {"sha-1a2b3c4", 1}, {"sha-9f8e7d6", 2}, {"sha-2a3b4c5", 3}, {"sha-5555555", 3}};
    const FirstSeen seen = [&](std::string_view name) -> std::optional<std::uint64_t> {
        const auto found = listing.find(name);
        return found == listing.end() ? std::nullopt : std::optional{found->second};
    };
    const auto ask_hash = [&](std::string_view current, const Names& listed) {
        return ask("glob:sha-*", current, listed, true, &seen);
    };
    EXPECT_EQ(ask_hash("sha-1a2b3c4", {"sha-1a2b3c4", "sha-9f8e7d6", "sha-2a3b4c5"}),
              roll("sha-2a3b4c5"));
    EXPECT_EQ(ask_hash("sha-2a3b4c5", {"sha-1a2b3c4", "sha-9f8e7d6", "sha-2a3b4c5"}), kUpToDate);
    EXPECT_EQ(ask_hash("sha-1a2b3c4", {"sha-2a3b4c5", "sha-5555555"}), kUnknown) << "one listing";
    EXPECT_EQ(ask_hash("sha-2a3b4c5", {"sha-5555555", "sha-1a2b3c4"}), kUnknown);
    EXPECT_EQ(ask_hash("sha-1a2b3c4", {"sha-7777777"}), kUnknown) << "never seen";
    EXPECT_EQ(ask_hash("sha-1a2b3c4", {"sha-1a2b3c4"}), kUpToDate);
    EXPECT_EQ(ask("regexp:^[a-f0-9]+$", "12345678", {"deadbeef"}), kUnknown);
    EXPECT_EQ(ask("regexp:^[a-f0-9]+$", "12345678", {"12345679"}), roll("12345679"));
}

TEST(Policy, signatures_are_no_candidates) {
    const std::string signature = "sha256-" + std::string(64, 'f') + ".sig";
    EXPECT_EQ(ask("regexp:.", "a-1", {signature, "a-2"}), roll("a-2"));
}

TEST(Policy, v3_no_pattern_and_no_name_stalls_it) {
    const std::string name(128, 'a');
    const Names listed(1'000, std::string_view{name});
    const auto begun = std::chrono::steady_clock::now();
    EXPECT_EQ(ask("regexp:^(a+)+$|b", "b", {name + "!"}).verdict, "blocked");
    EXPECT_EQ(ask("regexp:^(?:a?){64}a{64}b", name, listed).verdict, "blocked");
    EXPECT_EQ(ask("regexp:(((a*)*)*)*$(?<!a)", name, listed).verdict, "blocked");
    (void)ask("glob:" + std::string(500, '*') + "b", name, listed);
    (void)ask("glob:*a*a*a*a*a*a*a*a*b", name, listed);
    EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds{20})
        << "bounded, not fast: without limits these take years";
}

TEST(Policy, long_listings_and_odd_names_are_taken) {
    std::vector<std::string> names;
    for (int i = 0; i < 5'000; ++i)
        names.push_back("1.0." + std::to_string(i));
    Names listed{names.begin(), names.end()};
    listed.push_back("");
    listed.push_back("....");
    const std::string dashes = "1.0.0" + std::string(123, '-');
    listed.push_back(dashes);
    const std::string parts = "1.0.0" + [] {
        std::string text;
        for (int i = 0; i < 61; ++i)
            text += "-x";
        return text;
    }();
    listed.push_back(parts);
    EXPECT_EQ(ask("all", "1.0.0", listed), roll("1.0.4999"));
    EXPECT_EQ(ask("all", parts, {parts + "y"}), kUpToDate);
}

}  // namespace
}  // namespace keel
