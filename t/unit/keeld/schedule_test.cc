// When tags are looked at: one look-up per tag and interval, and only where somebody uses it.
#include "keeld/policy/schedule.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"
#include "unit/keeld/scripted_peer.h"

namespace keel {
namespace {

using test::digest;
using test::Reply;
using test::ScriptedPeer;
using test::tag;

class ScheduleTest : public testing::Test {
  protected:
    ScheduleTest() {
        CacheConfig& cache = config.caches.emplace_back();
        cache.name = "cache-a";
        cache.lookup["*"] = peer.url("/cache");
        config.registries["docker.io"].upstream = peer.url("/upstream");
        config.defaults.poll = Millis{3'600'000};
        asio::co_spawn(loop, schedule.run(), [this](const std::exception_ptr&) { ended = true; });
    }
    ~ScheduleTest() override {
        schedule.stop();
        EXPECT_TRUE(test::run_until(loop, [this] { return ended; }));
    }
    bool until(const std::function<bool()>& done) { return test::run_until(loop, done); }
    // How often the cache, or upstream, was asked about a tag.
    int asked(const std::string& name, const std::string& whom = "/cache") {
        int count = 0;
        for (const std::string& line : peer.asked) {
            count +=
                line.starts_with("HEAD " + whom + "/v2/library/nginx/manifests/" + name + "?") ||
                line == "HEAD " + whom + "/v2/library/nginx/manifests/" + name;
        }
        return count;
    }
    static Reply says(char hex) {
        return {"200 OK",
                "Content-Type: application/vnd.oci.image.index.v1+json\r\nDocker-Content-Digest: " +
                    digest(hex).to_string() + "\r\n",
                "{}"};
    }

    Loop loop;
    HttpClient http{loop, "keeld/test"};
    test::TestClock clock;
    Config config;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Tags tags{*ledger};
    Registry registry{http, config, *ledger};
    ScriptedPeer::Script script = [](const std::string&, const std::string&) { return says('a'); };
    ScriptedPeer peer{loop, [this](const std::string& line, const std::string& request) {
                          return script(line, request);
                      }};
    Observations observations{loop,
                              clock,
                              *ledger,
                              tags,
                              registry,
                              [](const Tag&) {},
                              [this](const Tag& which) { schedule.hint(which); }};
    std::set<std::string> unused;
    Schedule schedule{
        loop, config,       clock,
        tags, observations, [this](const Tag& which) { return !unused.contains(which.name); }};
    bool ended = false;
};

TEST_F(ScheduleTest, D6_ATagIsAskedOnceHoweverManyFollowIt) {
    for (int i = 0; i < 5; ++i)
        schedule.follow(tag("one"));
    ASSERT_TRUE(until([this] { return tags.find(tag("one")) != nullptr; }));
    for (int i = 0; i < 5; ++i)
        schedule.follow(tag("one"));
    schedule.follow(tag("two"));
    ASSERT_TRUE(until([this] { return asked("two") == 1; }));
    EXPECT_EQ(asked("one"), 1);
}

TEST_F(ScheduleTest, D6_AgainAfterTheInterval) {
    config.defaults.poll = Millis{50};
    schedule.follow(tag("one"));
    ASSERT_TRUE(until([this] {
        clock.time += Millis{50};  // wall time goes on too
        return asked("one") >= 3;
    }));
}

TEST_F(ScheduleTest, D6_WhatTrafficAnsweredIsNotAsked) {
    tags.observe(tag("one"), digest('a'), ManifestKind::index, clock.time, "event cache-a");
    schedule.follow(tag("one"));
    schedule.follow(tag("two"));
    ASSERT_TRUE(until([this] { return tags.find(tag("two")) != nullptr; }));
    schedule.hint(tag("two"));
    ASSERT_TRUE(until([this] { return asked("two") == 2; }));
    EXPECT_EQ(asked("one"), 0);
    schedule.hint(tag("one"));
    ASSERT_TRUE(until([this] { return asked("one") == 1; })) << "a hint asks all the same";
}

TEST_F(ScheduleTest, D6_ATagThatNobodyUsesIsNotAsked) {
    unused = {"one"};
    schedule.follow(tag("one"));
    schedule.hint(tag("one"));
    schedule.follow(tag("two"));
    ASSERT_TRUE(until([this] { return asked("two") == 1; }));
    EXPECT_EQ(asked("one"), 0);
    unused.clear();
    schedule.follow(tag("one"));
    ASSERT_TRUE(until([this] { return asked("one") == 1; }));
}

TEST_F(ScheduleTest, D6_NoMoreThanEightAtOnce) {
    Signal answered(loop);
    script = [&](const std::string&, const std::string&) {
        Reply reply = says('a');
        if (peer.asked.size() == 1) reply.until = &answered;
        return reply;
    };
    for (int i = 0; i < 30; ++i)
        schedule.follow(tag("t" + std::to_string(i)));
    ASSERT_TRUE(until([this] { return peer.asked.size() == 30; }))
        << "one that hangs keeps no other back";
    answered.notify();
    ASSERT_TRUE(until([this] { return tags.all().size() == 30; }));
}

TEST_F(ScheduleTest, AHintDuringALookIsNotLost) {
    Signal answered(loop);
    script = [&](const std::string&, const std::string&) {
        Reply reply = says('a');
        if (peer.asked.size() == 1) reply.until = &answered;
        return reply;
    };
    schedule.follow(tag("one"));
    ASSERT_TRUE(until([this] { return asked("one") == 1; }));
    schedule.hint(tag("one"));
    answered.notify();
    ASSERT_TRUE(until([this] { return asked("one") == 2; }));
}

TEST_F(ScheduleTest, AFailureIsAskedAgainBeforeTheInterval) {
    bool broken = true;
    script = [&broken](const std::string&, const std::string&) {
        return std::exchange(broken, false) ? Reply{"503 Service Unavailable", "", ""} : says('a');
    };
    schedule.follow(tag("one"));
    ASSERT_TRUE(until([this] { return asked("one") == 2; }));
    ASSERT_TRUE(until([this] { return tags.find(tag("one"))->failure.empty(); }));
}

TEST_F(ScheduleTest, D5_TheSecondSourceSettlesAndIsLeftAlone) {
    tags.observe(tag("one"), digest('a'), ManifestKind::index, clock.time, "event cache-a");
    ASSERT_TRUE(tags.find(tag("one"))->without_history());
    schedule.want_confirmation(tag("one"));
    ASSERT_TRUE(until([this] { return !tags.find(tag("one"))->without_history(); }));
    EXPECT_EQ(asked("one", "/upstream"), 1);
    EXPECT_EQ(asked("one"), 0);
}

TEST_F(ScheduleTest, D6_TheSecondSourceIsNotAskedForWhatNobodyUsesAnyMore) {
    config.defaults.poll = Millis{20};
    script = [](const std::string&, const std::string&) { return says('b'); };  // never confirms a
    for (const char* name : {"one", "two"}) {
        tags.observe(tag(name), digest('a'), ManifestKind::index, clock.time, "event cache-a");
        schedule.want_confirmation(tag(name));
    }
    ASSERT_TRUE(until([this] { return asked("one", "/upstream") >= 2; }));
    unused = {"one"};
    const int before = asked("one", "/upstream");
    const int other = asked("two", "/upstream");
    ASSERT_TRUE(until([&] { return asked("two", "/upstream") >= other + 5; }));
    EXPECT_LE(asked("one", "/upstream"), before + 1) << "but for the one under way";
}

TEST_F(ScheduleTest, P7_AHintOfATagNotYetInUseIsKept) {
    // A cache tells of a move while workloads are not listed yet: the tag is not in use, and known
    // as fresh.
    unused = {"one"};
    tags.observe(tag("one"), digest('b'), ManifestKind::index, clock.time, "event cache-a");
    schedule.hint(tag("one"));
    schedule.follow(tag("two"));
    ASSERT_TRUE(until([this] { return asked("two") == 1; }));
    EXPECT_EQ(asked("one"), 0);
    unused.clear();
    schedule.follow(tag("one"));
    ASSERT_TRUE(until([this] { return asked("one") == 1; })) << "fresh or not, the hint counts";
}

}  // namespace
}  // namespace keel
