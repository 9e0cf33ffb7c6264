// D1: a watch that cannot fire is found, with its reason, whatever keeps it from firing.
#include "keeld/api/watches.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::at;
using test::container;
using test::deployment;
using test::digest;
using test::enrolled;
using test::tag;

// One enrolled Deployment that follows docker.io/library/nginx:1.27 every hour, answered at 0.
class WatchesTest : public testing::Test {
  protected:
    WatchesTest() {
        config.registries["docker.io"].direct = "http://127.0.0.1:1";
        catalogue.upsert(enrolled("shop"));
        answered(0);
    }

    void answered(std::int64_t when) {
        tags.observe(tag(), digest('a'), ManifestKind::index, at(when), "look-up direct");
    }
    std::vector<Watch> all(std::int64_t now = 0) {
        workload.resource_version = std::to_string(++version);
        ++workload.generation;
        catalogue.upsert(workload);
        std::vector<Watch> found;
        each_watch(WatchParts{config, phases, catalogue, tags, &listings, registry, &gone}, at(now),
                   [&found](const Watch& watch) { found.push_back(watch); });
        return found;
    }
    Watch only(std::int64_t now = 0) {
        const std::vector<Watch> found = all(now);
        EXPECT_EQ(found.size(), 1U);
        return found.empty() ? Watch{} : found.front();
    }
    void policy(const std::string& text) { workload.annotations["keel.sh/policy"] = text; }

    int version = 1;
    static constexpr std::int64_t kHour = 3600;
    Loop loop;
    HttpClient http{loop, "keeld/test"};
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Config config;
    PhaseStates phases;
    Registry registry{http, config, *ledger};
    Tags tags{*ledger};
    Listings listings{*ledger};
    std::map<Tag, std::string> gone;
    Catalogue catalogue{[](const WorkloadKey&) {}};
    Workload workload =
        deployment("shop", "web", {container("app", "docker.io/library/nginx:1.27")});
};

TEST_F(WatchesTest, D1_OneThatIsAnsweredIsFine) {
    const Watch watch = only();
    EXPECT_EQ(watch.state, "fine");
    EXPECT_TRUE(watch.can_fire());
    EXPECT_EQ(watch.confirmed, at(0));
    EXPECT_EQ(watch.schedule, "@every 1h");
}

TEST_F(WatchesTest, D1_TheyAreCountedAgainAfterAChangeOrAMinute) {
    WatchCounts counts;
    const WatchParts parts{config, phases, catalogue, tags, &listings, registry};
    using Counted = std::map<std::string, std::size_t>;
    EXPECT_EQ(counts.of(parts, at(0)), (Counted{{"fine", 0}}));
    EXPECT_EQ(only().state, "fine");  // the workload is there now
    EXPECT_EQ(counts.of(parts, at(1)), (Counted{{"fine", 1}}));
    tags.failed(tag(), "why", "denied");
    EXPECT_EQ(counts.of(parts, at(60)), (Counted{{"fine", 1}})) << "kept for a minute";
    EXPECT_EQ(counts.of(parts, at(61)), (Counted{{"denied", 1}, {"fine", 0}}));
    catalogue.remove(workload.key);
    EXPECT_EQ(counts.of(parts, at(61)), (Counted{{"fine", 0}}));
    all(61);
    EXPECT_EQ(counts.of(parts, at(61)), (Counted{{"denied", 1}, {"fine", 0}}));
    // A clock that was set back counts again too.
    tags.observe(tag(), digest('b'), ManifestKind::index, at(61), "look-up direct");
    EXPECT_EQ(counts.of(parts, at(0)), (Counted{{"fine", 1}}));
}

TEST_F(WatchesTest, D1_NoSuccessfulCheckInThreeIntervals) {
    EXPECT_EQ(only(3 * kHour).state, "fine");
    tags.failed(tag(), "connection refused", "unreachable");
    EXPECT_EQ(only(3 * kHour).state, "fine") << "what passes is given its time";
    const Watch late = only(3 * kHour + 301);
    EXPECT_EQ(late.state, "stale");
    EXPECT_NE(late.sentence.find("connection refused"), std::string::npos) << late.sentence;
    EXPECT_NE(late.sentence.find("@every 1h"), std::string::npos) << late.sentence;
    workload.annotations["keel.sh/pollSchedule"] = "@every 12h";
    EXPECT_EQ(only(3 * kHour + 301).state, "fine");
    answered(4 * kHour);
    EXPECT_EQ(only(5 * kHour).state, "fine");
}

// Half past midnight in Tokyo is 15:30 UTC: the third after 16:00 is 71.5 hours away, where UTC's
// own half past midnight comes for the third time after 56.5.
TEST_F(WatchesTest, D1_IntervalsAreCountedInTheZoneOfTheSchedule) {
    config.time_zone = "Asia/Tokyo";
    workload.annotations["keel.sh/pollSchedule"] = "0 30 0 * * *";
    constexpr std::int64_t kFour = 4 * kHour;  // 16:00 UTC
    answered(kFour);
    EXPECT_EQ(only(kFour + 71 * kHour).state, "fine");
    EXPECT_EQ(only(kFour + 72 * kHour).state, "stale");
    config.time_zone = "UTC";
    EXPECT_EQ(only(kFour + 71 * kHour).state, "stale");
}

TEST_F(WatchesTest, D1_OneThatWasNeverAnswered) {
    workload.containers.front().image = "docker.io/library/nginx:other";
    EXPECT_EQ(only().state, "waiting");
    tags.failed(tag("other"), "connection refused", "unreachable");
    EXPECT_EQ(only().state, "never-answered");
}

TEST_F(WatchesTest, D1_WhatNoTimeMendsIsToldAtOnce) {
    for (const auto& [code, state] :
         {std::pair{"no-credential", "no-credential"}, std::pair{"denied", "denied"},
          std::pair{"token-empty", "denied"}, std::pair{"token-scope", "denied"},
          std::pair{"not-found", "not-found"}}) {
        tags.failed(tag(), "why", code);
        const Watch watch = only();
        EXPECT_EQ(watch.state, state) << code;
        EXPECT_EQ(watch.sentence, "why");
        EXPECT_FALSE(watch.next.empty());
    }
    config.registries.clear();
    EXPECT_EQ(only().state, "no-path");
}

TEST_F(WatchesTest, D1_SettingsThatMeanNothing) {
    policy("Force");
    Watch watch = only();
    EXPECT_EQ(watch.state, "setting-invalid");
    EXPECT_NE(watch.sentence.find("keel.sh/policy: \"Force\""), std::string::npos);
    policy("force");
    workload.annotations["keel.sh/pollSchedule"] = "@every never";
    watch = only();
    EXPECT_EQ(watch.state, "setting-invalid");
    EXPECT_NE(watch.sentence.find("keel.sh/pollSchedule"), std::string::npos);
    workload.annotations.erase("keel.sh/pollSchedule");
    workload.annotations["keel.sh/trigger"] = "webhook";
    EXPECT_EQ(only().state, "no-receiver");
    config.webhooks["quay"] = {};
    EXPECT_EQ(only().state, "fine");
    EXPECT_EQ(only(400 * kHour).state, "fine") << "it is looked at when a webhook says so";
    workload.containers.front().image = "docker.io/library/nginx:other";
    EXPECT_EQ(only().state, "fine") << "nobody has asked, and nobody has to";
    tags.failed(tag("other"), "why", "denied");
    EXPECT_EQ(only().state, "denied");
}

TEST_F(WatchesTest, D1_AHeldTagMovesNothing) {
    Held held;
    held.digest = digest('a');
    held.author = "alice";
    held.reason = "b crashes";
    tags.hold(tag(), held, at(1));
    const Watch watch = only();
    EXPECT_EQ(watch.state, "held");
    EXPECT_NE(watch.sentence.find("alice (b crashes)"), std::string::npos) << watch.sentence;
}

TEST_F(WatchesTest, D1_AListThatCannotBeReadUnderATagPolicy) {
    listings.failed("docker.io", "library/nginx", "answered 403");
    EXPECT_EQ(only().state, "fine") << "force needs no list";
    policy("minor");
    const Watch watch = only();
    EXPECT_EQ(watch.state, "list-unreadable");
    EXPECT_NE(watch.sentence.find("answered 403"), std::string::npos) << watch.sentence;
    listings.listed("docker.io", "library/nginx", {"1.27"}, true, at(0));
    EXPECT_EQ(only().state, "fine");
    listings.failed("docker.io", "library/nginx", "answered 403");
    EXPECT_EQ(only(kHour).state, "fine") << "the newest list is not old";
    answered(3 * kHour);
    EXPECT_EQ(only(3 * kHour + 301).state, "list-unreadable");
    workload.containers.front().image = "docker.io/library/nginx:latest";
    tags.observe(tag("latest"), digest('a'), ManifestKind::index, at(3 * kHour), "look-up direct");
    EXPECT_EQ(only(3 * kHour + 301).state, "fine") << "a channel needs none either";
}

TEST_F(WatchesTest, D1_WhatIsMonitoredIsWatchedAnImageVolumeByItsOwnName) {
    workload.containers.push_back(container("volume/models", "docker.io/library/nginx:1.27"));
    workload.containers.back().volume = true;
    workload.annotations["keel.sh/monitorContainers"] = "^models$";
    EXPECT_EQ(only().container, "volume/models");
}

// What a kubelet pulls past the caches nobody here sees, and no hold reaches it.
TEST_F(WatchesTest, D1_ANodeThatBypassesTheCaches) {
    workload.containers.front().pull = PullPolicy::always;
    const auto started = [this](std::int64_t when, const std::string& name = "app") {
        all();
        Running running;
        running.known = true;
        running.images.push_back(
            RunningImage{name, false, digest('a').to_string(), "linux/amd64", 1, at(when)});
        catalogue.set_running(workload.key, running, catalogue.changes());
    };
    started(5 * kHour);
    EXPECT_EQ(only().state, "fine") << "no cache told when a kubelet asked";
    tags.seen(tag(), at(4 * kHour), at(4 * kHour));
    EXPECT_EQ(only().state, "fine") << "the caches were not read since";
    tags.traffic_read(at(5 * kHour - 1));
    EXPECT_EQ(only().state, "fine") << "nor now";
    tags.traffic_read(at(5 * kHour));
    const Watch watch = only();
    EXPECT_EQ(watch.state, "bypassed");
    EXPECT_FALSE(watch.can_fire());
    EXPECT_NE(watch.sentence.find(format_time(at(5 * kHour))), std::string::npos) << watch.sentence;
    EXPECT_NE(watch.sentence.find(format_time(at(4 * kHour))), std::string::npos) << watch.sentence;
    EXPECT_NE(watch.next.find("hosts.toml"), std::string::npos) << watch.next;

    started(5 * kHour - 1);
    EXPECT_EQ(only().state, "fine") << "a pull takes its time";
    started(5 * kHour, "sidecar");
    EXPECT_EQ(only().state, "fine") << "another container's";
    started(5 * kHour);
    workload.containers.front().pull = PullPolicy::if_not_present;
    EXPECT_EQ(only().state, "fine") << "the node had it";
    workload.containers.front().pull = PullPolicy::always;
    workload.containers.front().image =
        workload.containers.front().image.str() + "@" + digest('a').to_string();
    EXPECT_EQ(only().state, "fine") << "asked for by its digest";
    workload.containers.front().image = "docker.io/library/nginx:1.27";
    EXPECT_EQ(only().state, "bypassed");
    Held held;
    held.digest = digest('a');
    held.since = at(4 * kHour + 1);
    tags.hold(tag(), held, at(4 * kHour + 1));
    tags.hold(tag(), std::nullopt, at(5 * kHour));
    EXPECT_EQ(only().state, "fine") << "what passes under a hold is not seen";
    tags.seen(tag(), at(5 * kHour), at(5 * kHour));
    EXPECT_EQ(only().state, "fine");
}

TEST_F(WatchesTest, D4_ATagThatIsGone) {
    gone[tag()] = "the list does not have it";
    const Watch watch = only();
    EXPECT_EQ(watch.state, "tag-gone");
    EXPECT_EQ(watch.sentence, "the list does not have it");
    EXPECT_FALSE(watch.next.empty());
}

TEST_F(WatchesTest, D4_ATagThatStandsStillWhileOthersOfItsRepositoryMove) {
    constexpr std::int64_t kDay = 24 * kHour;
    const auto moves = [this](const std::string& name, char letter, std::int64_t day) {
        tags.observe(tag(name), digest(letter), ManifestKind::index, at(day * kDay), "traffic");
    };
    moves("latest", 'b', 0);  // the first known is no move
    moves("latest", 'c', 10);
    moves("latest", 'd', 20);
    answered(31 * kDay);
    EXPECT_EQ(only(31 * kDay).state, "fine") << "two moves may be chance";
    moves("1.28", 'e', 0);
    moves("1.28", 'f', 25);
    answered(29 * kDay);
    EXPECT_EQ(only(29 * kDay).state, "fine") << "it may still come";
    answered(31 * kDay);
    const Watch watch = only(31 * kDay);
    EXPECT_EQ(watch.state, "abandoned");
    EXPECT_FALSE(watch.can_fire());
    EXPECT_EQ(watch.sentence, "docker.io/library/nginx:1.27 has stood still since " +
                                  format_time(at(0)) +
                                  ", while other tags of its repository moved 3 times, 1.28 at " +
                                  format_time(at(25 * kDay)));
    EXPECT_EQ(watch.next, "name a tag that its publisher still moves");

    policy("minor");
    listings.listed("docker.io", "library/nginx", {"1.27", "1.28"}, true, at(31 * kDay));
    EXPECT_EQ(only(31 * kDay).state, "fine") << "it goes to others";
    policy("force");
    workload.containers.front().image = "docker.io/library/nginx:1.27.0";
    moves("1.27.0", 'a', 0);
    moves("1.27.0", 'a', 31);
    EXPECT_EQ(only(31 * kDay).state, "fine") << "versions stand still";
    workload.containers.front().image = "docker.io/library/nginx:1.27";
    moves("1.27", 'g', 31);
    EXPECT_EQ(only(31 * kDay).state, "fine") << "it moved";
}

TEST_F(WatchesTest, D4_ARegistryThatNobodyDeclared) {
    workload.containers.front().image = "registry.example/app:1.27";
    const Watch watch = only();
    EXPECT_EQ(watch.state, "no-path");
    EXPECT_NE(watch.next.find("registry.example"), std::string::npos) << watch.next;
}

TEST_F(WatchesTest, D1_APatternThatTakesTooManySteps) {
    workload.annotations["keel.sh/monitorContainers"] = "^(a+)+$";
    workload.containers.front().name = std::string(40, 'a') + "b";
    const Watch watch = only();
    EXPECT_EQ(watch.state, "setting-invalid");
    EXPECT_NE(watch.sentence.find("too many steps"), std::string::npos) << watch.sentence;
}

TEST_F(WatchesTest, D1_AReferenceThatCannotBeRead) {
    workload.containers.front().image = "docker.io/library/nginx:a b";
    const Watch watch = only();
    EXPECT_EQ(watch.state, "reference-invalid");
    EXPECT_FALSE(watch.tag);
    EXPECT_FALSE(watch.sentence.empty());
}

TEST_F(WatchesTest, OnlyWhatIsFollowedIsAWatch) {
    policy("never");
    EXPECT_TRUE(all().empty());
    policy("force");
    workload.containers.front().image = "docker.io/library/nginx@" + digest('a').to_string();
    EXPECT_TRUE(all().empty()) << "a digest and no tag";
    workload.containers.front().image = "docker.io/library/nginx:1.27";
    workload.annotations["keel.sh/monitorContainers"] = "^sidecar$";
    EXPECT_TRUE(all().empty());
    workload.annotations.clear();
    Namespace plain = enrolled("shop");
    plain.labels.clear();
    catalogue.upsert(plain);
    EXPECT_TRUE(all().empty());
}

}  // namespace
}  // namespace keel
