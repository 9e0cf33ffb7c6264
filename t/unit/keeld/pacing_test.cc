// How many rollouts may start: the sliding window over what was intended.
#include "keeld/rollout/pacing.h"

#include <gtest/gtest.h>

#include "keeld/ledger/ledger.h"
#include "unit/keeld/peer.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::at;

constexpr std::int64_t kHour = 3600;

PacingConfig limits(int cluster, int ns) {
    PacingConfig config;
    config.cluster.count = cluster;
    config.ns.count = ns;
    return config;
}

TEST(Pacing, R5_NoMoreThanTheLimitInAnyHour) {
    Pacing pacing(limits(3, 0), {});
    for (const std::int64_t when : {0, 600, 1200}) {
        ASSERT_FALSE(pacing.next_free("a", at(when)));
        pacing.take("a", at(when));
    }
    EXPECT_EQ(pacing.next_free("b", at(1200)), at(kHour)) << "when the first of three leaves";
    EXPECT_EQ(pacing.next_free("b", at(kHour - 1)), at(kHour));
    EXPECT_FALSE(pacing.next_free("b", at(kHour)));
    pacing.take("b", at(kHour));
    EXPECT_EQ(pacing.next_free("b", at(kHour)), at(600 + kHour)) << "it slides, it does not reset";
}

TEST(Pacing, R5_OtherRatesCountWhatWasStartedBefore) {
    Pacing pacing(limits(3, 0), {});
    for (const std::int64_t when : {0, 600})
        pacing.take("a", at(when));
    PacingConfig day = limits(3, 0);
    day.cluster.per = std::chrono::hours{24};
    // The ledger tells of one that the hour had forgotten, and of those that are counted already.
    pacing.configure(day, {{at(-7'200), "b"}, {at(0), "a"}, {at(600), "a"}});
    EXPECT_EQ(pacing.used(at(700)), 3);
    EXPECT_EQ(pacing.next_free("c", at(700)), at(-7'200) + std::chrono::hours{24});
    pacing.configure(limits(3, 0), {});
    EXPECT_FALSE(pacing.next_free("c", at(700)));
}

TEST(Pacing, R5_NeverMoreThanNInAnyWindowHoweverItIsAsked) {
    Pacing pacing(limits(5, 2), {});
    std::vector<std::pair<std::int64_t, std::string>> started;
    const std::string namespaces[] = {"a", "b", "c", "d"};
    for (std::int64_t when = 0; when < 5 * kHour; when += 37) {
        const std::string& ns = namespaces[(when / 37) % 4];
        if (!pacing.next_free(ns, at(when))) {
            pacing.take(ns, at(when));
            started.emplace_back(when, ns);
        }
    }
    EXPECT_GE(started.size(), 25U) << "five an hour are used";
    for (const auto& [end, last] : started) {
        int all = 0;
        std::map<std::string, int> each;
        for (const auto& [when, ns] : started) {
            if (when > end - kHour && when <= end) {
                ++all;
                ++each[ns];
            }
        }
        EXPECT_LE(all, 5);
        for (const auto& [ns, count] : each)
            EXPECT_LE(count, 2) << ns;
    }
}

TEST(Pacing, R5_ANamespaceHasALimitOfItsOwn) {
    Pacing pacing(limits(5, 2), {});
    pacing.take("a", at(0));
    pacing.take("a", at(10));
    EXPECT_EQ(pacing.next_free("a", at(20)), at(kHour));
    EXPECT_FALSE(pacing.next_free("b", at(20)));
    pacing.take("b", at(20));
    pacing.take("c", at(30));
    pacing.take("d", at(40));
    EXPECT_EQ(pacing.next_free("a", at(50)), at(kHour)) << "the later of both limits";
    EXPECT_EQ(pacing.next_free("e", at(50)), at(kHour));
    EXPECT_EQ(pacing.used(at(50)), 5);
    EXPECT_EQ(pacing.used(at(kHour + 15)), 3);
}

TEST(Pacing, UnlimitedIsUnlimited) {
    Pacing pacing(limits(0, 0), {});
    for (int i = 0; i < 1000; ++i) {
        ASSERT_FALSE(pacing.next_free("a", at(0)));
        pacing.take("a", at(0));
    }
}

TEST(Pacing, APlaceThatWasNotUsedIsGivenBackOnce) {
    Pacing pacing(limits(2, 0), {});
    pacing.take("a", at(0));
    pacing.take("b", at(0));
    ASSERT_TRUE(pacing.next_free("c", at(1)));
    pacing.give_back("c", at(0));  // never taken
    EXPECT_TRUE(pacing.next_free("c", at(1)));
    pacing.give_back("b", at(0));
    EXPECT_FALSE(pacing.next_free("c", at(1)));
    EXPECT_EQ(pacing.used(at(1)), 1);
}

TEST(Pacing, WindowsOfDifferentLength) {
    PacingConfig config;
    config.cluster = {2, Millis{60'000}};
    config.ns = {1, Millis{3'600'000}};
    Pacing pacing(config, {});
    pacing.take("a", at(0));
    EXPECT_FALSE(pacing.next_free("b", at(1)));
    pacing.take("b", at(1));
    EXPECT_EQ(pacing.next_free("c", at(2)), at(60));
    EXPECT_FALSE(pacing.next_free("c", at(61)));
    EXPECT_EQ(pacing.next_free("a", at(61)), at(kHour)) << "not forgotten with the shorter window";
}

TEST(Pacing, R5_AHistoryInAnyOrderCounts) {
    Pacing pacing(limits(2, 0), {{at(600), "b"}, {at(0), "a"}});
    EXPECT_EQ(pacing.next_free("c", at(700)), at(kHour));
}

// What the ledger remembers of rollouts, after a restart of keeld.
TEST(Pacing, R5_ItHoldsOverARestart) {
    const test::ScratchDirectory directory;
    const std::string path = directory.file("ledger.db");
    Loop loop;
    const auto intend = [](Ledger& ledger, const std::string& id, const std::string& ns, Time when,
                           Time ended) {
        RolloutRow row;
        row.id = id;
        row.ns = ns;
        row.workload = "Deployment/" + ns + "/web";
        row.targets = "[]";
        row.intended = when;
        row.ended = ended;
        ledger.put(row);
    };
    {
        const auto ledger = test::open_ledger(loop, path);
        intend(*ledger, "1", "a", at(0), at(60));
        intend(*ledger, "2", "a", at(1800), Time{});   // still open
        intend(*ledger, "3", "b", at(-kHour), at(0));  // has left the window
        intend(*ledger, "4", "b", Time{}, at(0));      // was never intended
        ASSERT_TRUE(test::await(loop, ledger->durable()));
    }
    const auto ledger = test::open_ledger(loop, path);
    const Time now = at(1900);
    const PacingConfig config = limits(3, 2);
    Pacing pacing(config, ledger->intended_since(now - config.cluster.per));
    EXPECT_EQ(pacing.used(now), 2);
    EXPECT_EQ(pacing.next_free("a", now), at(kHour));
    EXPECT_FALSE(pacing.next_free("b", now));
    pacing.take("b", now);
    EXPECT_EQ(pacing.next_free("c", now), at(kHour));
}

TEST(Pacing, R7_AGroupNeedsAPlaceForEach) {
    Pacing pacing(limits(5, 3), {});
    pacing.take("a", at(0));
    pacing.take("a", at(600));
    EXPECT_EQ(pacing.next_free({{"a", 2}}, at(700)), at(kHour)) << "the first of two must leave";
    EXPECT_EQ(pacing.next_free({{"a", 3}}, at(700)), at(600 + kHour));
    EXPECT_FALSE(pacing.next_free({{"a", 1}, {"b", 2}}, at(700)));
    EXPECT_EQ(pacing.next_free({{"a", 1}, {"b", 3}}, at(700)), at(kHour)) << "four of five";
    EXPECT_EQ(pacing.exceeds({{"a", 3}, {"b", 2}}), "");
    EXPECT_EQ(pacing.exceeds({{"a", 4}}), "pacing.namespace");
    EXPECT_EQ(pacing.exceeds({{"a", 3}, {"b", 3}}), "pacing.cluster");
    EXPECT_EQ(Pacing(limits(0, 0), {}).exceeds({{"a", 99}}), "");
}

}  // namespace
}  // namespace keel
