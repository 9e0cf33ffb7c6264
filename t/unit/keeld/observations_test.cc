// The one place where answers become knowledge: what caches tell and what keeld looks up itself, in
// any order.
#include "keeld/catalogue/observations.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"
#include "unit/keeld/scripted_peer.h"

namespace keel {
namespace {

using test::at;
using test::digest;
using test::Reply;
using test::ScriptedPeer;
using test::tag;

class ObservationsTest : public testing::Test {
  protected:
    ObservationsTest() {
        CacheConfig& cache = config.caches.emplace_back();
        cache.name = "cache-a";
        cache.lookup["*"] = peer.url();
        config.registries["docker.io"].upstream = peer.url("/upstream");
    }

    CacheNews news(char hex, std::int64_t first, std::int64_t last) {
        CacheNews result;
        result.source = "event cache-a";
        result.state.tag = tag();
        result.state.digest = digest(hex);
        result.state.kind = ManifestKind::index;
        result.state.change = Change::changed;
        result.state.first_seen = at(first);
        result.state.last_seen = at(last);
        return result;
    }
    static Sighting sighting(char hex, std::int64_t first, std::int64_t last) {
        return {digest(hex), at(first), at(last)};
    }
    // The cache answers this digest to look-ups.
    void cache_says(char hex, Signal* until = nullptr) {
        reply = {
            "200 OK",
            "Content-Type: application/vnd.oci.image.index.v1+json\r\nDocker-Content-Digest: " +
                digest(hex).to_string() + "\r\n",
            "{}", until};
    }
    [[nodiscard]] const TagInfo& info() const { return *tags.find(tag()); }
    // "current" or "current/pending".
    [[nodiscard]] std::string known() const {
        const auto letter = [](const Digest& one) { return one.to_string().substr(7, 1); };
        return letter(info().current) +
               (info().pending.empty() ? "" : "/" + letter(info().pending));
    }

    Loop loop;
    HttpClient http{loop, "keeld/test"};
    test::TestClock clock;
    Config config;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Tags tags{*ledger};
    Registry registry{http, config, *ledger};
    Reply reply;
    ScriptedPeer peer{loop, [this](const std::string&, const std::string&) { return reply; }};
    int changed = 0;
    int settle = 0;
    Observations observations{loop,
                              clock,
                              *ledger,
                              tags,
                              registry,
                              [this](const Tag&) { ++changed; },
                              [this](const Tag&) { ++settle; }};
};

TEST_F(ObservationsTest, AFirstEventAndAMove) {
    observations.take(news('a', 1, 2));
    EXPECT_EQ(known(), "a");
    EXPECT_EQ(changed, 1);
    EXPECT_TRUE(info().without_history());
    EXPECT_EQ(info().confirmed_at, at(2));
    observations.take(news('a', 1, 3));
    EXPECT_EQ(changed, 1) << "the same again is no news";
    observations.take(news('b', 4, 5));
    EXPECT_EQ(known(), "b");
    EXPECT_EQ(changed, 2);
    EXPECT_EQ(settle, 0);
}

TEST_F(ObservationsTest, D7_WhatCachesTellIsInTheLedgerWithItsSource) {
    CacheNews one = news('a', 1, 2);
    one.state.asked_by = Asker::kubelet;
    one.state.node = "node-3";
    observations.take(one);
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    EntryQuery query;
    query.kind = EntryKind::received;
    const std::vector<Entry> lines = ledger->entries(query);
    ASSERT_EQ(lines.size(), 1U);
    EXPECT_EQ(lines[0].code, "new");
    EXPECT_EQ(lines[0].to, digest('a').to_string());
    EXPECT_EQ(lines[0].cause, "event cache-a");
    EXPECT_EQ(lines[0].text, "asked by kubelet from node-3");
}

TEST_F(ObservationsTest, TheHistoryOfACacheIsHistory) {
    CacheNews one = news('c', 30, 31);
    one.state.history = {sighting('a', 10, 11), sighting('b', 20, 21), sighting('c', 30, 31)};
    observations.take(one);
    EXPECT_EQ(known(), "c");
    EXPECT_FALSE(info().without_history());
    EXPECT_EQ(info().seen.size(), 3U);
    observations.take(news('a', 40, 41));
    EXPECT_EQ(known(), "c/a") << "it goes back to what the cache had before";
}

TEST_F(ObservationsTest, ThePreviousDigestOfAnEventIsHistory) {
    CacheNews one = news('b', 20, 21);
    one.state.previous = digest('a');
    observations.take(one);
    EXPECT_EQ(known(), "b");
    EXPECT_FALSE(info().without_history());
    EXPECT_LT(info().seen.at(digest('a')).first, info().seen.at(digest('b')).first);
}

// keeld meets a cache (or has lost its ledger) whose tag is already going back.
TEST_F(ObservationsTest, D5_AFirstMeetingWithATagThatGoesBackIsNoMove) {
    for (const bool with_history : {false, true}) {
        for (const bool in_order : {true, false}) {
            Tags fresh(*ledger);
            Observations again(
                loop, clock, *ledger, fresh, registry, [](const Tag&) {}, [](const Tag&) {});
            CacheNews one = news('b', 20, 21);
            one.in_order = in_order;
            one.state.pending = digest('a');
            if (with_history) one.state.history = {sighting('a', 10, 25), sighting('b', 20, 21)};
            again.take(one);
            const TagInfo& known = *fresh.find(tag());
            EXPECT_EQ(known.current, digest('b'));
            EXPECT_EQ(known.pending, digest('a'));
            EXPECT_LT(known.seen.at(digest('a')).first, known.seen.at(digest('b')).first);
        }
    }
}

TEST_F(ObservationsTest, D5_APendingDigestThatThisLedgerNeverSawIsNoMove) {
    observations.take(news('b', 20, 21));
    CacheNews back = news('b', 20, 21);
    back.state.pending = digest('a');
    observations.take(back);
    EXPECT_EQ(known(), "b/a");
}

// While keeld was away the tag moved on and back again; what a pod pulled in between is known as
// newer.
TEST_F(ObservationsTest, V2_AMissedMoveThatGoesBackIsTakenAsBoth) {
    observations.take(news('a', 1, 2));
    CacheNews back = news('b', 20, 21);
    back.state.previous = back.state.pending = digest('a');
    observations.take(back);
    EXPECT_EQ(known(), "b/a");
    EXPECT_GT(info().seen.at(digest('b')).first, info().seen.at(digest('a')).first);
}

TEST_F(ObservationsTest, NewsWithoutOrderIsSettledByALook) {
    observations.take(news('a', 1, 2));
    CacheNews one = news('b', 4, 5);
    one.in_order = false;
    observations.take(one);
    EXPECT_EQ(known(), "a");
    EXPECT_EQ(settle, 1);
    one.state.digest = digest('a');
    observations.take(one);
    EXPECT_EQ(settle, 1) << "what agrees needs no look";
}

TEST_F(ObservationsTest, NewsThatIsOlderThanALookIsSettledByALook) {
    clock.time = at(100);
    cache_says('b');
    ASSERT_TRUE(test::await(loop, observations.look_up(tag())));
    observations.take(news('a', 90, 95));
    EXPECT_EQ(known(), "b");
    EXPECT_EQ(settle, 1);
}

// An older history must not pass for the present where the order of the news is not known.
TEST_F(ObservationsTest, V2_HistoryNeverBecomesTheCurrentDigest) {
    CacheNews one = news('c', 30, 31);
    one.in_order = false;
    one.state.history = {sighting('b', 20, 21), sighting('a', 10, 11), sighting('c', 30, 31)};
    observations.take(one);
    EXPECT_EQ(known(), "c");
}

TEST_F(ObservationsTest, ALookIsRecordedAndAFailureTold) {
    cache_says('a');
    ASSERT_TRUE(test::await(loop, observations.look_up(tag())));
    EXPECT_EQ(known(), "a");
    EXPECT_EQ(info().cause, "look-up cache-a");
    EXPECT_EQ(changed, 1);
    reply = {"429 Too Many Requests", "", ""};
    EXPECT_FALSE(test::await(loop, observations.look_up(tag())));
    EXPECT_EQ(known(), "a");
    EXPECT_NE(info().failure.find("429"), std::string::npos);
    EXPECT_EQ(changed, 2);
    EXPECT_FALSE(test::await(loop, observations.look_up(tag())));
    EXPECT_EQ(changed, 2) << "the same failure again is no news";
}

TEST_F(ObservationsTest, LooksAtTheSameTagAreOne) {
    Signal answered(loop);
    cache_says('a', &answered);
    int ended = 0;
    for (int i = 0; i < 3; ++i) {
        asio::co_spawn(loop, observations.look_up(tag()),
                       [&ended](const std::exception_ptr&, const Expected<Answer>& answer) {
                           ended += answer && answer->digest == digest('a') ? 1 : 0;
                       });
    }
    ASSERT_TRUE(test::run_until(loop, [&] { return peer.asked.size() == 1; }));
    answered.notify();
    ASSERT_TRUE(test::run_until(loop, [&] { return ended == 3; }));
    EXPECT_EQ(peer.asked.size(), 1U);
    cache_says('b');
    EXPECT_EQ(test::await(loop, observations.look_up(tag()))->digest, digest('b'))
        << "the next one asks again";
}

// The cache answered a look just before the tag moved; the news of the move arrives first.
TEST_F(ObservationsTest, D5_AnAnswerThatWasOvertakenIsNoMoveBack) {
    observations.take(news('a', -20, -10));
    Signal answered(loop);
    cache_says('a', &answered);
    bool ended = false;
    asio::co_spawn(loop, observations.look_up(tag()),
                   [&ended](const std::exception_ptr&, const Expected<Answer>&) { ended = true; });
    ASSERT_TRUE(test::run_until(loop, [&] { return peer.asked.size() == 1; }));
    observations.take(news('b', 5, 5));
    answered.notify();
    ASSERT_TRUE(test::run_until(loop, [&] { return ended; }));
    EXPECT_EQ(known(), "b");
    EXPECT_EQ(settle, 1) << "another look tells which is true";
    cache_says('b');
    ASSERT_TRUE(test::await(loop, observations.look_up(tag())));
    EXPECT_EQ(known(), "b");
    EXPECT_EQ(settle, 1);
}

TEST_F(ObservationsTest, D5_TheSecondSourceConfirmsOnlyWhatIsPending) {
    observations.take(news('a', 1, 2));
    observations.take(news('b', 3, 4));
    observations.take(news('a', 5, 6));
    ASSERT_EQ(known(), "b/a");
    cache_says('c');
    ASSERT_TRUE(test::await(loop, observations.confirm(tag())));
    EXPECT_EQ(known(), "b/a");
    const int before = changed;
    cache_says('a');
    ASSERT_TRUE(test::await(loop, observations.confirm(tag())));
    EXPECT_EQ(known(), "a");
    EXPECT_EQ(changed, before + 1);
    EXPECT_TRUE(peer.asked.back().starts_with("HEAD /upstream/v2/"));
}

}  // namespace
}  // namespace keel
