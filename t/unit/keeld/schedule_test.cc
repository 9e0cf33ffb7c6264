// When tags are looked at: one look-up per tag and interval, and only where somebody uses it.
#include "keeld/policy/schedule.h"

#include <gtest/gtest.h>

#include "keeld/zone.h"
#include "unit/keeld/samples.h"
#include "unit/keeld/scripted_peer.h"

namespace keel {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;
using test::at;
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
        asio::co_spawn(loop, schedule.run(), [this](const std::exception_ptr&) { ended = true; });
    }
    ~ScheduleTest() override {
        schedule.stop();
        EXPECT_TRUE(test::run_until(loop, [this] { return ended; }));
    }
    bool until(const std::function<bool()>& done) { return test::run_until(loop, done); }
    static Wish every(const std::string& schedule, Wish::List list = Wish::List::never) {
        return {*PollSchedule::parse(schedule), list};
    }
    // As the planner does, for a workload that says this.
    void follow(const std::string& name, const Wish& wish = every("@every 1h")) {
        wanted[name] = {wish};
        schedule.follow(tag(name), wish);
    }
    // The clock goes on, and everything that comes due is answered.
    void pass(Millis time) {
        clock.time += time;
        schedule.clock_moved();
        loop.restart();
        while (loop.poll() > 0)
            loop.restart();
        ASSERT_TRUE(until([this] { return schedule.waiting() == 0; }));
    }
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
    Listings listings{*ledger};
    std::map<std::string, std::vector<Wish>> wanted;
    std::set<std::string> unused;
    std::vector<std::string> lists;  // repositories that were listed
    Expected<Schedule::Names> listed = Schedule::Names{{"one", "two"}, true};
    std::vector<Tag> told;
    std::vector<std::tuple<std::string, Digest, Time>> answers;
    std::function<void()> on_freshen = [] {};
    Schedule schedule{Schedule::Parts{loop, config, clock, tags, observations, listings,
                                      [this](const Tag& which) {
                                          return unused.contains(which.name) ? std::vector<Wish>{}
                                                                             : wanted[which.name];
                                      },
                                      [this](Tag which) -> Task<Expected<Schedule::Names>> {
                                          lists.push_back(which.repository);
                                          co_return listed;
                                      },
                                      [this](const Tag& which) { told.push_back(which); },
                                      [this]() -> Task<void> {
                                          on_freshen();
                                          co_return;
                                      },
                                      Millis{20}, Millis{0},
                                      [this](const Tag& which, const Digest& what, Time asked) {
                                          answers.emplace_back(which.name, what, asked);
                                      }}};
    bool ended = false;
};

TEST_F(ScheduleTest, D6_ATagIsAskedOnceHoweverManyFollowIt) {
    for (int i = 0; i < 5; ++i)
        follow("one");
    ASSERT_TRUE(until([this] { return tags.find(tag("one")) != nullptr; }));
    for (int i = 0; i < 5; ++i)
        follow("one");
    follow("two");
    ASSERT_TRUE(until([this] { return asked("two") == 1; }));
    EXPECT_EQ(asked("one"), 1);
}

TEST_F(ScheduleTest, D6_OncePerTagAndIntervalAllDay) {
    for (int i = 0; i < 10; ++i)
        follow("t" + std::to_string(i));
    pass(Millis{0});
    std::size_t most = 0;
    for (int minute = 0; minute < 24 * 60; ++minute) {
        const std::size_t before = peer.asked.size();
        pass(minutes{1});
        most = std::max(most, peer.asked.size() - before);
    }
    for (int i = 0; i < 10; ++i) {
        const int count = asked("t" + std::to_string(i));
        EXPECT_LE(count, 1 + 24);
        EXPECT_GE(count, 1 + 22) << "five minutes are the widest spread";
    }
    EXPECT_LT(most, 10U) << "they began together and did not stay so";
}

TEST_F(ScheduleTest, D6_CronTicksAreSpread) {
    clock.time = at(60);  // 12:01
    for (int i = 0; i < 40; ++i)
        follow("t" + std::to_string(i), every("0 0 * * * *"));
    pass(Millis{0});
    ASSERT_EQ(peer.asked.size(), 40U) << "nothing was known of them";
    pass(minutes{59} - Millis{1});
    EXPECT_EQ(peer.asked.size(), 40U) << "13:00 is still to come";
    pass(Millis{1});
    EXPECT_LT(peer.asked.size(), 60U);
    pass(minutes{2} + seconds{30});
    EXPECT_GT(peer.asked.size(), 44U);
    EXPECT_LT(peer.asked.size(), 76U);
    pass(minutes{2} + seconds{30});
    EXPECT_EQ(peer.asked.size(), 80U) << "five minutes after the tick all have been asked";
    pass(minutes{54});
    EXPECT_EQ(peer.asked.size(), 80U);
}

TEST_F(ScheduleTest, D6_TheShortestScheduleCounts) {
    wanted["one"] = {every("@every 2h"), every("@every 10m")};
    for (const Wish& wish : wanted["one"])
        schedule.follow(tag("one"), wish);
    pass(Millis{0});
    pass(minutes{10} - seconds{1});
    EXPECT_EQ(asked("one"), 1);
    pass(minutes{1} + seconds{1});
    EXPECT_EQ(asked("one"), 2);
    wanted["one"] = {every("@every 2h")};  // the other one is gone
    pass(minutes{100});
    EXPECT_EQ(asked("one"), 2);
    pass(minutes{26});
    EXPECT_EQ(asked("one"), 3);
}

TEST_F(ScheduleTest, D6_AChangedScheduleTakesEffectAtOnce) {
    follow("one", every("@every 24h"));
    pass(Millis{0});
    pass(hours{2});
    EXPECT_EQ(asked("one"), 1);
    follow("one", every("@every 1h"));
    pass(Millis{0});
    EXPECT_EQ(asked("one"), 2) << "an hour had passed already";
    pass(hours{1} + minutes{5});
    EXPECT_EQ(asked("one"), 3);
}

TEST_F(ScheduleTest, D6_AScheduleThatIsEditedAgainAndAgainStillComes) {
    follow("one", every("@every 1h"));
    pass(Millis{0});
    for (int minute = 0; minute < 6 * 60; minute += 3) {
        follow("one", every("@every " + std::to_string(60 + minute % 2) + "m"));
        pass(minutes{3});
    }
    EXPECT_GE(asked("one"), 6);
    EXPECT_LE(asked("one"), 7);
}

TEST_F(ScheduleTest, D6_ALocalTimeIsTakenFromTheZone) {
    config.time_zone = "Europe/Sofia";
    schedule.clock_moved();
    clock.time = *parse_time("2026-11-22T12:00:00Z");
    follow("one", every("0 30 3 * * *"));
    pass(Millis{0});
    pass(hours{13} + minutes{30} - seconds{1});  // 03:30 there is 01:30 UTC in winter
    EXPECT_EQ(asked("one"), 1);
    pass(minutes{5} + seconds{1});
    EXPECT_EQ(asked("one"), 2);
}

// Every hour on the hour, spread over five minutes.
TEST(ScheduleTick, D6_ATickRightAfterAnAnswerIsAnswered) {
    const std::vector<PollSchedule> hourly{*PollSchedule::parse("0 0 * * * *")};
    const auto zone = zone_named("UTC");
    const auto after = [&](const char* answered, double share) {
        return format_time(due_after(*parse_time(answered), hourly, zone, share));
    };
    EXPECT_EQ(after("2026-11-22T11:54:00Z", 0), "2026-11-22T12:00:00.000Z");
    EXPECT_EQ(after("2026-11-22T11:54:00Z", 0.5), "2026-11-22T12:02:30.000Z");
    EXPECT_EQ(after("2026-11-22T11:56:00Z", 0), "2026-11-22T13:00:00.000Z");
}

TEST(ScheduleZone, DaylightSavingMovesTheTick) {
    const Zone sofia = zone_named("Europe/Sofia");
    const PollSchedule nightly = *PollSchedule::parse("0 30 3 * * *");
    const auto next = [&](const char* after) {
        return format_time(nightly.next(*parse_time(after), sofia));
    };
    EXPECT_EQ(next("2026-03-27T12:00:00Z"), "2026-03-28T01:30:00.000Z");
    // On 29 March 03:00 is 04:00: there is no 03:30.
    EXPECT_EQ(next("2026-03-28T12:00:00Z"), "2026-03-30T00:30:00.000Z");
    // On 25 October 04:00 is 03:00 again: there are two.
    EXPECT_EQ(next("2026-10-24T12:00:00Z"), "2026-10-25T00:30:00.000Z");
    EXPECT_EQ(next("2026-10-25T00:30:00Z"), "2026-10-25T01:30:00.000Z");
    EXPECT_EQ(next("2026-10-25T01:30:00Z"), "2026-10-26T01:30:00.000Z");
    const Zone none = zone_named("Nowhere/Else");
    EXPECT_EQ(none(at(0)).offset, seconds{0});
}

TEST_F(ScheduleTest, D6_WhatTrafficAnsweredIsNotAsked) {
    tags.observe(tag("one"), digest('a'), ManifestKind::index, clock.time, "event cache-a");
    follow("one");
    follow("two");
    ASSERT_TRUE(until([this] { return tags.find(tag("two")) != nullptr; }));
    schedule.hint(tag("two"));
    ASSERT_TRUE(until([this] { return asked("two") == 2; }));
    EXPECT_EQ(asked("one"), 0);
    schedule.hint(tag("one"));
    ASSERT_TRUE(until([this] { return asked("one") == 1; })) << "a hint asks all the same";
}

TEST_F(ScheduleTest, D6_TrafficIsLearnedOfBeforeATagIsAsked) {
    for (const char* name : {"one", "two"})
        follow(name);
    pass(Millis{0});
    for (int hour = 0; hour < 5; ++hour) {
        on_freshen = [this] { tags.seen(tag("one"), clock.time - minutes{5}); };
        pass(minutes{65});
    }
    EXPECT_EQ(asked("two"), 6);
    EXPECT_EQ(asked("one"), 1);
    tags.seen(tag("unknown"), clock.time);
    EXPECT_EQ(tags.find(tag("unknown")), nullptr)
        << "when it was asked for says nothing of what it is";
}

TEST_F(ScheduleTest, D6_AnAnswerOfTheFutureIsNotBelieved) {
    follow("one");
    pass(Millis{0});
    tags.seen(tag("one"), clock.time + hours{100});
    pass(minutes{66});
    EXPECT_EQ(asked("one"), 2);
}

TEST_F(ScheduleTest, D6_ATagThatNobodyUsesIsNotAsked) {
    unused = {"one"};
    follow("one");
    schedule.hint(tag("one"));
    follow("two");
    ASSERT_TRUE(until([this] { return asked("two") == 1; }));
    EXPECT_EQ(asked("one"), 0);
    unused.clear();
    follow("one");
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
        follow("t" + std::to_string(i));
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
    follow("one");
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
    follow("one");
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
    script = [](const std::string&, const std::string&) { return says('b'); };  // never confirms a
    for (const char* name : {"one", "two"}) {
        wanted[name] = {every("@every 1h")};
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
    follow("two");
    ASSERT_TRUE(until([this] { return asked("two") == 1; }));
    EXPECT_EQ(asked("one"), 0);
    unused.clear();
    follow("one");
    ASSERT_TRUE(until([this] { return asked("one") == 1; })) << "fresh or not, the hint counts";
}

TEST_F(ScheduleTest, D6_ListsAreFetchedOncePerRepositoryAndInterval) {
    follow("one", every("@every 1h", Wish::List::scheduled));
    follow("two", every("@every 2h", Wish::List::daily));
    follow("three", every("@every 1h"));
    pass(Millis{0});
    EXPECT_EQ(lists, std::vector<std::string>{"library/nginx"});
    for (int minute = 0; minute < 240; minute += 5)
        pass(minutes{5});
    EXPECT_GE(lists.size(), 1U + 3U);
    EXPECT_LE(lists.size(), 1U + 4U);
    EXPECT_TRUE(listings.find("docker.io", "library/nginx")->complete);
    EXPECT_EQ(told.size(), 3U) << "whoever follows one of its tags, and once: nothing is new later";
}

TEST_F(ScheduleTest, D6_AHintedListIsFetchedAtOnceWhereAPolicyNeedsIt) {
    follow("one", every("@every 1h", Wish::List::scheduled));
    pass(Millis{0});
    EXPECT_EQ(lists.size(), 1U);
    EXPECT_TRUE(schedule.lists_for_policies("docker.io", "library/nginx"));
    schedule.hint_list("docker.io", "library/nginx");
    ASSERT_TRUE(until([this] { return lists.size() == 2; }));
    pass(minutes{30});
    EXPECT_EQ(lists.size(), 2U) << "once for a hint";
    EXPECT_FALSE(schedule.lists_for_policies("docker.io", "library/other"));
    schedule.hint_list("docker.io", "library/other");
    pass(Millis{0});
    EXPECT_EQ(lists.size(), 2U);
}

TEST_F(ScheduleTest, D6_AListThatOnlyTellsOfTheNewestIsNotFetchedForAHint) {
    follow("one", every("@every 1h", Wish::List::daily));
    pass(Millis{0});
    EXPECT_EQ(lists.size(), 1U);
    EXPECT_FALSE(schedule.lists_for_policies("docker.io", "library/nginx"));
    schedule.hint_list("docker.io", "library/nginx");
    pass(minutes{30});
    EXPECT_EQ(lists.size(), 1U);
}

// keel.sh/trigger: push.
TEST_F(ScheduleTest, D6_WhatWebhooksAloneMoveIsAskedForAHintAndNeverOtherwise) {
    Wish wish = every("@every 1h", Wish::List::scheduled);
    wish.on_hint = true;
    follow("one", wish);
    pass(hours{50});
    EXPECT_EQ(asked("one"), 0);
    EXPECT_EQ(lists.size(), 0U);
    EXPECT_TRUE(schedule.lists_for_policies("docker.io", "library/nginx"));
    schedule.hint(tag("one"));
    schedule.hint_list("docker.io", "library/nginx");
    ASSERT_TRUE(until([this] { return asked("one") == 1 && lists.size() == 1; }));
    ASSERT_TRUE(until([this] { return !answers.empty(); }));
    EXPECT_EQ(answers.front(), std::make_tuple(std::string("one"), digest('a'), clock.time));
    pass(hours{50});
    EXPECT_EQ(asked("one"), 1);
    EXPECT_EQ(lists.size(), 1U);
    // Another workload has a schedule for the same tag.
    wanted["one"] = {wish, every("@every 1h")};
    schedule.follow(tag("one"), every("@every 1h"));
    pass(hours{2});
    EXPECT_GE(asked("one"), 2);
    EXPECT_EQ(lists.size(), 1U) << "that one wants no list";
}

TEST_F(ScheduleTest, D6_AHintThatFailsIsAskedAgain) {
    Wish wish = every("@every 1h", Wish::List::scheduled);
    wish.on_hint = true;
    int times = 0;
    script = [&times](const std::string&, const std::string&) {
        return ++times == 1 ? Reply{"503 Service Unavailable", "", ""} : says('b');
    };
    listed = fail("rate-limited", "docker.io answered 429", Millis{100});
    follow("one", wish);
    schedule.hint(tag("one"));
    schedule.hint_list("docker.io", "library/nginx");
    ASSERT_TRUE(until([this] { return lists.size() == 1; }));
    listed = Schedule::Names{{"one"}, true};
    ASSERT_TRUE(until([this] { return lists.size() == 2 && answers.size() == 1; }));
    pass(hours{50});
    EXPECT_EQ(lists.size(), 2U);
    EXPECT_EQ(times, 2);
}

TEST_F(ScheduleTest, D6_ListsOnceADayAndNotAtAll) {
    follow("two", every("@every 1h", Wish::List::daily));
    follow("three", every("@every 1h"));
    pass(Millis{0});
    pass(hours{24} - seconds{1});
    EXPECT_EQ(lists.size(), 1U);
    pass(minutes{5} + seconds{1});
    EXPECT_EQ(lists.size(), 2U);
    wanted["two"] = {every("@every 1h")};
    pass(hours{48});
    EXPECT_EQ(lists.size(), 2U);
}

TEST_F(ScheduleTest, D6_AKnownListIsNotFetchedAgainAfterARestart) {
    listings.listed("docker.io", "library/nginx", {"one"}, true, clock.time - hours{2});
    follow("one", every("@every 1h", Wish::List::daily));
    pass(Millis{0});
    EXPECT_EQ(lists.size(), 0U);
    pass(hours{22} + minutes{5});
    EXPECT_EQ(lists.size(), 1U);
}

TEST_F(ScheduleTest, D6_WhoSaysWhenToComeBackIsAskedThen) {
    listed = fail("rate-limited", "docker.io answered 429", Millis{700});
    follow("one", every("@every 1h", Wish::List::scheduled));
    const Steady::time_point began = Steady::now();
    ASSERT_TRUE(until([this] { return lists.size() == 1; }));
    clock.time += hours{3};  // whatever the schedule says
    schedule.clock_moved();
    listed = Schedule::Names{{"one"}, true};
    ASSERT_TRUE(until([this] { return lists.size() == 2; }));
    EXPECT_GE(Steady::now() - began, Millis{700});
    EXPECT_LT(Steady::now() - began, Millis{1700});
    EXPECT_TRUE(listings.find("docker.io", "library/nginx")->failure.empty());
}

TEST_F(ScheduleTest, D4_ATagThatIsGoneIsFlagged) {
    std::string missing = "/manifests/never";
    script = [&missing](const std::string& line, const std::string&) {
        return line.find(missing) != std::string::npos ? Reply{"404 Not Found", "", ""} : says('a');
    };
    listed = Schedule::Names{{"one", "three"}, true};
    follow("one", every("@every 1h", Wish::List::daily));
    follow("four");
    follow("three");
    follow("never");
    pass(Millis{0});
    ASSERT_EQ(schedule.gone().size(), 1U) << "what was never answered was not there before either";
    missing = "/manifests/three";
    unused = {"never"};
    pass(minutes{70});
    ASSERT_EQ(schedule.gone().size(), 2U);
    EXPECT_NE(schedule.gone().at(tag("four")).find("does not have it"), std::string::npos);
    EXPECT_NE(schedule.gone().at(tag("three")).find("404"), std::string::npos);
    script = [](const std::string&, const std::string&) { return says('a'); };
    unused = {"four", "never"};
    pass(hours{25});
    EXPECT_TRUE(schedule.gone().empty()) << "it is back, and nobody uses the other one";
}

TEST_F(ScheduleTest, D4_WhatACutListLacksIsNotGone) {
    listed = Schedule::Names{{"two"}, false};
    follow("one", every("@every 1h", Wish::List::daily));
    pass(Millis{0});
    EXPECT_EQ(lists.size(), 1U);
    EXPECT_TRUE(schedule.gone().empty());
}

TEST(ScheduleRule, D6_WhoseTagsAreListedWhen) {
    using List = Wish::List;
    const auto rule = [](const char* policy, const char* name) {
        return list_rule(*Policy::parse(policy), name);
    };
    for (const char* policy : {"patch", "minor", "major", "all"}) {
        EXPECT_EQ(rule(policy, "1.2.3"), List::scheduled);
        EXPECT_EQ(rule(policy, "8-alpine"), List::scheduled);
        for (const char* name : {"latest", "1a2b3c4d", "20260223", "pg16-v0.1.2"})
            EXPECT_EQ(rule(policy, name), List::never) << policy << " " << name;
    }
    for (const char* name : {"1.2.3", "8-alpine"})
        EXPECT_EQ(rule("force", name), List::daily);
    for (const char* name : {"latest", "1a2b3c4d", "20260223", "pg16-v0.1.2"}) {
        EXPECT_EQ(rule("force", name), List::never);
        EXPECT_EQ(rule("glob:*", name), List::scheduled);
        EXPECT_EQ(rule("regexp:.", name), List::scheduled);
    }
    EXPECT_EQ(rule("never", "1.2.3"), List::never);
}

}  // namespace
}  // namespace keel
