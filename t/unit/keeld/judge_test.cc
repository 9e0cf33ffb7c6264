// Verdicts: one per container, from what is known now, with the first reason that applies.
#include "keeld/policy/judge.h"

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

constexpr const char* kImage = "docker.io/library/nginx:1.27";

// One enrolled Deployment "web" in "shop" with the container "app", whose two pods run digest a
// while its tag has moved from a to b, and everything is known. Tests change what they are about.
class World {
  public:
    World() {
        namespaces.push_back(enrolled("shop"));
        workload = deployment("shop", "web", {container("app", kImage)});
        running.known = true;
        running.pods = 2;
        runs("app", 'a', 2);
        see('a', 1);
        see('b', 2);
        for (const char hex : {'a', 'b', 'c'})
            know(hex, hex);
    }

    // An answer about a tag.
    void see(char hex, std::int64_t when, const Tag& which = tag()) {
        tags.observe(which, digest(hex), ManifestKind::index, at(when), "event cache-a");
    }
    // The caches hold the tag, all of them or some.
    void hold(char hex, bool everywhere = true) {
        Held held;
        held.digest = digest(hex);
        held.author = "alice";
        held.reason = "b crashes";
        held.since = at(3);
        held.until = at(3600);
        held.everywhere = everywhere;
        held.caches = "cache-a holds it, cache-b does not hold it";
        tags.hold(tag(), held, at(3));
    }
    void runs(const std::string& name, char hex, int pods, const std::string& platform = kAmd) {
        running.images.push_back(
            {name, false, hex == '-' ? "" : digest(hex).to_string(), platform, pods});
    }
    // The digest is an index for amd64 with this config.
    void know(char hex, char config) {
        contents[digest(hex)] = Content{digest(hex),
                                        ManifestKind::index,
                                        {{"linux/amd64", digest(config), digest(config), Time{}}}};
    }
    // The digest is an image without an index; "": its config, which names the platform, is unread.
    void know_image(char hex, const std::string& platform) {
        contents[digest(hex)] = Content{
            digest(hex), ManifestKind::image, {{platform, digest(hex), digest(hex), std::nullopt}}};
    }
    Container& app() { return workload.containers.front(); }

    WorkloadVerdict judge() {
        Catalogue catalogue([](const WorkloadKey&) {});
        for (const Namespace& ns : namespaces)
            catalogue.upsert(ns);
        catalogue.upsert(workload);
        catalogue.set_running(workload.key, running, catalogue.changes());
        const auto look = [](const auto& map) {
            return [&map](const auto& key) {
                const auto found = map.find(key);
                return found != map.end() ? &found->second : nullptr;
            };
        };
        const auto targeted = [](const std::map<std::string, std::string>& map) {
            return [&map](const std::string& uid, const Target& target) {
                const auto found =
                    map.find(uid + " " + target.container + " " + target.to.to_string());
                return found != map.end() ? &found->second : nullptr;
            };
        };
        const Knowledge knowledge{
            config,
            phases,
            catalogue,
            tags,
            choices,
            look(contents),
            look(failures),
            targeted(rejected),
            targeted(stalled),
            [this](const Tag& one) { return listings.find(one.registry, one.repository); },
            [this](const Tag& one) {
                return listings.first_seen(one.registry, one.repository, one.name);
            },
            [this](const std::string& uid, const std::string& name, const std::string& image) {
                return written == uid + " " + name + " " + image;
            },
            [this](const std::string& uid, const std::vector<Target>& targets) {
                return approved == uid + " " + targets_text(targets);
            },
            [this] { return nodes; },
            now,
            look(released),
            [this](const std::string& uid, const std::string& container) -> const Target* {
                return uid == workload.uid && back && back->container == container ? &*back
                                                                                   : nullptr;
            }};
        return keel::judge(*std::as_const(catalogue).find(workload.key), knowledge);
    }

    static constexpr const char* kAmd = "linux/amd64";

    Loop loop;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Tags tags{*ledger};
    Config config;
    PhaseStates phases;
    std::vector<Namespace> namespaces;
    Workload workload;
    Running running;
    std::map<Digest, Content> contents;
    std::map<Digest, Error> failures;
    std::map<std::string, std::string> rejected;  // "uid container digest" → why
    std::optional<Target> back;                   // where it goes after a failure
    std::map<std::string, std::string> stalled;
    std::string approved;  // "uid targets"
    Listings listings{*ledger};
    std::map<Tag, Digest> released;
    Choices choices;
    std::string written;  // "uid container image" that keeld wrote
    std::vector<std::string> nodes{kAmd};
    Time now = at(10);
};

std::shared_ptr<const Owner> owner() {
    return std::make_shared<const Owner>(Owner{"x/v1", "Database", "pg", "uid-pg"});
}

std::string name_of(Reason reason) {
    return std::string(to_string(reason));
}

struct Case {
    const char* name;
    std::function<void(World&)> change;
    Reason reason;
};

class JudgeCase : public testing::TestWithParam<Case> {};

// One container, so its verdict is the workload's.
TEST_P(JudgeCase, OneReason) {
    World world;
    GetParam().change(world);
    const WorkloadVerdict verdict = world.judge();
    ASSERT_EQ(verdict.containers.size(), 1U);
    const ContainerVerdict& one = verdict.containers.front();
    EXPECT_EQ(name_of(one.reason), name_of(GetParam().reason)) << one.sentence;
    EXPECT_EQ(one.verdict, verdict_of(GetParam().reason));
    EXPECT_EQ(verdict.reason, one.reason);
    EXPECT_EQ(verdict.verdict, one.verdict);
    EXPECT_FALSE(one.sentence.empty());
    const bool roll = one.verdict == Verdict::roll;
    EXPECT_EQ(verdict.targets.size(), roll ? 1U : 0U) << "only a roll has a target";
}

void annotate(World& world, const std::string& key, const std::string& value) {
    world.workload.annotations[key] = value;
}

INSTANTIATE_TEST_SUITE_P(
    All, JudgeCase,
    testing::Values(
        Case{"Moved", [](World&) {}, Reason::digest_moved},
        Case{"HeldAtWhatRuns", [](World& w) { w.hold('a'); }, Reason::held},
        Case{"HeldAtTheSameContent",
             [](World& w) {
                 w.know('c', 'a');
                 w.see('c', 0);
                 w.hold('c');
             },
             Reason::held},
        Case{"HeldAtWhatRunsByOneCacheOnly", [](World& w) { w.hold('a', false); }, Reason::held},
        Case{"HeldElsewhereByOneCacheOnly", [](World& w) { w.hold('b', false); },
             Reason::held_at_cache},
        Case{"HeldAtTheNewest", [](World& w) { w.hold('b'); }, Reason::digest_moved},
        Case{"HeldWhileTheTagGoesBackUpstream",
             [](World& w) {
                 w.see('a', 3);
                 w.hold('a');
             },
             Reason::held},
        Case{"HeldWhereItFailedBefore",
             [](World& w) {
                 w.hold('a');
                 w.rejected["uid-web app " + digest('a').to_string()] = "it crashed";
             },
             Reason::target_rejected},
        Case{"HeldAtADigestThatIsNotForItsPlatform",
             [](World& w) {
                 w.contents[digest('c')].platforms.front().platform = "linux/arm64";
                 w.hold('c');
             },
             Reason::target_not_pullable},
        Case{"V2_HeldAtADigestThatMayBeOlderWhereNothingGoesBack",
             [](World& w) {
                 w.config.defaults.reverts = Reverts::never;
                 w.hold('c');
             },
             Reason::revert_refused},
        Case{"AHeldTagOfACronJob",
             [](World& w) {
                 w.workload.key.kind = WorkloadKind::cron_job;
                 w.hold('a');
             },
             Reason::at_next_run},
        Case{"MovedUnderATagPolicy", [](World& w) { annotate(w, "keel.sh/policy", "minor"); },
             Reason::digest_moved},
        Case{"UpToDate",
             [](World& w) {
                 w.running.images.clear();
                 w.runs("app", 'b', 2);
             },
             Reason::up_to_date},
        Case{"R1_SameContent", [](World& w) { w.know('b', 'a'); }, Reason::same_content},
        Case{"SomePodsAreBehind",
             [](World& w) {
                 w.running.images.clear();
                 w.runs("app", 'b', 5);
                 w.runs("app", 'a', 1);
             },
             Reason::digest_moved},

        Case{"P4_NotEnrolled", [](World& w) { w.namespaces.front().labels.clear(); },
             Reason::not_enrolled},
        Case{"P4_NamespaceNotKnown", [](World& w) { w.namespaces.clear(); }, Reason::not_enrolled},
        Case{"P3_Vetoed", [](World& w) { annotate(w, "keel.sh/policy", "never"); }, Reason::vetoed},
        Case{"P3_VetoedByDefault", [](World& w) { w.config.defaults.policy = "never"; },
             Reason::vetoed},
        Case{"P4_Excluded", [](World& w) { w.config.enrolment.exclude = {"shop"}; },
             Reason::excluded_namespace},
        Case{"NoTag", [](World& w) { w.app().image = "nginx@" + digest('a').to_string(); },
             Reason::no_tag},
        Case{"D3_ReferenceInvalid", [](World& w) { w.app().image = "Not A Reference"; },
             Reason::reference_invalid},
        Case{"V4_PolicyInvalid", [](World& w) { annotate(w, "keel.sh/policy", "Force"); },
             Reason::policy_invalid},
        Case{"V4_AVetoThatIsMistyped", [](World& w) { annotate(w, "keel.sh/polcy", "never"); },
             Reason::policy_invalid},
        Case{"V4_APatternOfNamesThatTakesTooManySteps",
             [](World& w) {
                 w.app().name = std::string(40, 'a') + "b";
                 annotate(w, "keel.sh/monitorContainers", "^(a+)+$");
             },
             Reason::policy_invalid},
        Case{"V4_PolicyEmpty", [](World& w) { annotate(w, "keel.sh/policy", ""); },
             Reason::policy_invalid},
        Case{"V1_Pinned",
             [](World& w) { w.app().image = std::string(kImage) + "@" + digest('a').to_string(); },
             Reason::pinned},

        Case{"S2_StatefulSet", [](World& w) { w.workload.key.kind = WorkloadKind::stateful_set; },
             Reason::stateful},
        Case{"S2_StatefulSetIsNotReleasedByAPolicy",
             [](World& w) {
                 w.workload.key.kind = WorkloadKind::stateful_set;
                 annotate(w, "keel.sh/policy", "force");
             },
             Reason::stateful},
        Case{"S2_StatefulSetNotReleasedByAnyOtherWord",
             [](World& w) {
                 w.workload.key.kind = WorkloadKind::stateful_set;
                 annotate(w, "keel.sh/stateful", "true");
                 annotate(w, "keel.sh/operator-owned", "allow");
             },
             Reason::stateful},
        Case{"S2_StatefulSetReleased",
             [](World& w) {
                 w.workload.key.kind = WorkloadKind::stateful_set;
                 annotate(w, "keel.sh/stateful", "allow");
             },
             Reason::digest_moved},
        Case{"S2_Database", [](World& w) { w.config.stateful_images = {"*/nginx"}; },
             Reason::stateful},
        Case{"S2_DatabaseReleased",
             [](World& w) {
                 w.config.stateful_images = {"*/nginx"};
                 annotate(w, "keel.sh/stateful", "allow");
             },
             Reason::digest_moved},
        Case{"S2_OperatorOwned",
             [](World& w) {
                 w.workload.controller = owner();
             },
             Reason::operator_owned},
        Case{"S2_OperatorOwnedNotReleasedByTheOtherKey",
             [](World& w) {
                 w.workload.controller = owner();
                 annotate(w, "keel.sh/stateful", "allow");
             },
             Reason::operator_owned},
        Case{"S2_OperatorOwnedReleased",
             [](World& w) {
                 w.workload.controller = owner();
                 annotate(w, "keel.sh/operator-owned", "allow");
             },
             Reason::digest_moved},

        Case{"NeverAsked", [](World& w) { w.app().image = "nginx:other"; }, Reason::no_answer},
        Case{"D8_OnlyFailuresSoFar",
             [](World& w) {
                 w.app().image = "nginx:other";
                 w.tags.failed(tag("other"), "answered 429");
             },
             Reason::no_answer},
        Case{"D8_AFailureAfterAnAnswerChangesNothing",
             [](World& w) { w.tags.failed(tag(), "answered 404"); }, Reason::digest_moved},
        Case{"PodsNotRead", [](World& w) { w.running = Running{}; }, Reason::no_baseline},
        Case{"NoPodHasStarted",
             [](World& w) {
                 w.running.images.clear();
                 w.runs("app", '-', 2);
             },
             Reason::no_baseline},
        Case{"NoReplicasNoPods",
             [](World& w) {
                 w.running.images.clear();
                 w.workload.replicas = 0;
             },
             Reason::scaled_to_zero},
        Case{"ContentNotReadYet", [](World& w) { w.contents.clear(); }, Reason::no_answer},
        Case{"ContentNotToBeHad",
             [](World& w) {
                 w.contents.clear();
                 w.failures[digest('b')] = Error{"unavailable", "answered 500"};
             },
             Reason::target_not_pullable},
        Case{"OnlyWhatRunsIsNotToBeHad",
             [](World& w) {
                 w.contents.erase(digest('a'));
                 w.failures[digest('a')] = Error{"not-found", "answered 404"};
             },
             Reason::digest_moved},
        Case{"V4_AnImageWhosePlatformIsUnread", [](World& w) { w.know_image('b', ""); },
             Reason::no_answer},
        Case{"V4_AnImageWhosePlatformIsNotToBeHad",
             [](World& w) {
                 w.know_image('b', "");
                 w.failures[digest('b')] = Error{"unavailable", "answered 500"};
             },
             Reason::target_not_pullable},
        Case{"AnImageThatDoesNotSayForWhat",
             [](World& w) {
                 w.know_image('b', "");
                 w.contents[digest('b')].platforms[0].created = Time{};
             },
             Reason::digest_moved},
        Case{"AnImageForItsPlatform", [](World& w) { w.know_image('b', "linux/amd64"); },
             Reason::digest_moved},
        Case{"V2_AnImageForAnotherPlatform", [](World& w) { w.know_image('b', "linux/arm64"); },
             Reason::target_not_pullable},
        Case{"AnImageMarkedForAnotherPlatformLikeTheOneThatRuns",
             [](World& w) {
                 w.know_image('a', "linux/arm64");
                 w.know_image('b', "linux/arm64");
             },
             Reason::digest_moved},
        Case{"NothingForThePlatform",
             [](World& w) {
                 w.running.images.clear();
                 w.runs("app", 'a', 2, "linux/arm64");
             },
             Reason::target_not_pullable},

        Case{"TooYoung", [](World& w) { annotate(w, "keel.sh/minAge", "9s"); }, Reason::too_young},
        Case{"JustOldEnough", [](World& w) { annotate(w, "keel.sh/minAge", "8s"); },
             Reason::digest_moved},
        Case{"TooYoungForTheDefaultWhateverTheWorkloadSays",
             [](World& w) {
                 w.config.defaults.min_age = std::chrono::hours{1};
                 annotate(w, "keel.sh/minAge", "0s");
             },
             Reason::too_young},
        Case{"ANewerDigestIsYoungForItself",
             [](World& w) {
                 annotate(w, "keel.sh/minAge", "5s");
                 w.see('c', 8);
             },
             Reason::too_young},
        Case{"WhatCameBackIsAsOldAsItWas",
             [](World& w) {
                 annotate(w, "keel.sh/minAge", "5s");
                 w.running.images.clear();
                 w.runs("app", 'a', 2);
                 w.see('c', 7);
                 w.see('b', 8);
                 w.tags.confirm(tag(), digest('b'), at(9), "upstream");
             },
             Reason::digest_moved},
        Case{"APersonsHoldIsNotKeptWaiting",
             [](World& w) {
                 annotate(w, "keel.sh/minAge", "1h");
                 w.hold('b');
             },
             Reason::digest_moved},
        Case{"V4_AMinimumAgeThatMeansNothing",
             [](World& w) { annotate(w, "keel.sh/minAge", "a day"); }, Reason::policy_invalid},

        Case{"D5_GoingBack", [](World& w) { w.see('a', 3); }, Reason::revert_unconfirmed},
        Case{"D5_GoingBackFromContentThatIsGone",
             [](World& w) {
                 w.see('a', 3);
                 w.running.images.clear();
                 w.runs("app", 'c', 2);
                 w.contents.erase(digest('b'));
                 w.failures[digest('b')] = Error{"unavailable", "answered 500"};
             },
             Reason::revert_unconfirmed},
        Case{"V2_RevertsNever",
             [](World& w) {
                 w.see('a', 3);
                 w.tags.confirm(tag(), digest('a'), at(4), "upstream");
                 w.running.images.clear();
                 w.runs("app", 'b', 2);
                 w.config.defaults.reverts = Reverts::never;
             },
             Reason::revert_refused},
        Case{"R4_Rejected",
             [](World& w) { w.rejected["uid-web app " + digest('b').to_string()] = "it crashed"; },
             Reason::target_rejected},
        Case{
            "R4_RejectedElsewhere",
            [](World& w) { w.rejected["uid-other app " + digest('b').to_string()] = "it crashed"; },
            Reason::digest_moved},
        Case{"Stalled",
             [](World& w) { w.stalled["uid-web app " + digest('b').to_string()] = "no node"; },
             Reason::rollout_stalled},
        Case{"R1_IfNotPresent", [](World& w) { w.app().pull = PullPolicy::if_not_present; },
             Reason::restart_cannot_pull},
        Case{"R1_NeverPulls", [](World& w) { w.app().pull = PullPolicy::never; },
             Reason::restart_cannot_pull},
        Case{"OnDelete", [](World& w) { w.workload.on_delete = true; }, Reason::on_delete},
        Case{"Partitioned", [](World& w) { w.workload.partitioned = true; }, Reason::partitioned},
        Case{"R6_Paused", [](World& w) { w.workload.paused = true; }, Reason::deployment_paused},
        Case{"R6_ScaledToZeroWhilePodsEnd", [](World& w) { w.workload.replicas = 0; },
             Reason::scaled_to_zero},
        Case{"R1_AnImageVolume",
             [](World& w) {
                 w.app().name = "volume/app";
                 w.app().volume = true;
             },
             Reason::at_next_start},
        Case{"CronJob", [](World& w) { w.workload.key.kind = WorkloadKind::cron_job; },
             Reason::at_next_run},
        Case{"R1_CronJobThatDoesNotPull",
             [](World& w) {
                 w.workload.key.kind = WorkloadKind::cron_job;
                 w.app().pull = PullPolicy::if_not_present;
             },
             Reason::restart_cannot_pull}),
    [](const auto& info) { return info.param.name; });

// Each change blocks alone (above); all from one on, the first in the order of policy.md is told.
TEST(JudgeOrder, TheFirstReasonOfTheListIsTold) {
    const std::vector<std::pair<Reason, std::function<void(World&)>>> order{
        {Reason::policy_invalid, [](World& w) { annotate(w, "keel.sh/policy", "no"); }},
        {Reason::stateful, [](World& w) { w.config.stateful_images = {"*/nginx"}; }},
        {Reason::operator_owned, [](World& w) { w.workload.controller = owner(); }},
        {Reason::target_rejected,
         [](World& w) { w.rejected["uid-web app " + digest('b').to_string()] = "it crashed"; }},
        {Reason::rollout_stalled,
         [](World& w) { w.stalled["uid-web app " + digest('b').to_string()] = "no node"; }},
        {Reason::restart_cannot_pull, [](World& w) { w.app().pull = PullPolicy::never; }},
        {Reason::on_delete, [](World& w) { w.workload.on_delete = true; }},
        {Reason::partitioned, [](World& w) { w.workload.partitioned = true; }},
        {Reason::deployment_paused, [](World& w) { w.workload.paused = true; }},
        {Reason::scaled_to_zero, [](World& w) { w.workload.replicas = 0; }},
    };
    for (std::size_t first = 0; first < order.size(); ++first) {
        World world;
        for (std::size_t i = first; i < order.size(); ++i)
            order[i].second(world);
        EXPECT_EQ(name_of(world.judge().reason), name_of(order[first].first));
    }
}

TEST(Judge, V1_TheTargetIsTheTagAsItIsAndOnlyItsDigest) {
    for (const char* spelling : {"docker.io/library/nginx:1.27", "nginx:1.27",
                                 "docker.io/nginx:1.27", "index.docker.io/library/nginx:1.27"}) {
        World world;
        world.app().image = spelling;
        const WorkloadVerdict verdict = world.judge();
        ASSERT_EQ(verdict.targets.size(), 1U) << spelling;
        EXPECT_EQ(verdict.targets[0].container, "app");
        EXPECT_EQ(verdict.targets[0].tag, tag());
        EXPECT_EQ(verdict.targets[0].from, digest('a').to_string());
        EXPECT_EQ(verdict.targets[0].to, digest('b'));
        EXPECT_EQ(world.app().image, spelling);
    }
}

// A first answer that differs from what runs: nothing tells which is newer.
TEST(Judge, V2_AFirstAnswerIsNoNews) {
    World world;
    world.app().image = "nginx:first";
    world.see('b', 5, tag("first"));
    EXPECT_EQ(world.judge().reason, Reason::revert_unconfirmed);
    EXPECT_TRUE(world.judge().targets.empty());
    world.tags.confirm(tag("first"), digest('b'), at(6), "upstream");
    EXPECT_EQ(world.judge().reason, Reason::digest_moved);
}

TEST(Judge, V2_AFirstAnswerThatIsWhatRunsIsUpToDate) {
    World world;
    world.app().image = "nginx:first";
    world.see('a', 5, tag("first"));
    EXPECT_EQ(world.judge().reason, Reason::up_to_date);
}

TEST(Judge, V2_AConfirmedMoveBackAsksFirst) {
    World world;
    world.see('a', 3);
    world.tags.confirm(tag(), digest('a'), at(4), "upstream");
    world.running.images.clear();
    world.runs("app", 'b', 2);
    WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.reason, Reason::digest_moved);
    EXPECT_FALSE(verdict.vote_because.empty());
    EXPECT_TRUE(verdict.containers[0].revert);
    world.config.defaults.reverts = Reverts::follow;
    EXPECT_EQ(world.judge().vote_because, "");
}

TEST(Judge, V6_AForwardMoveNeedsNoApproval) {
    World world;
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.vote_because, "");
    EXPECT_FALSE(verdict.containers[0].revert);
}

TEST(Judge, TheTargetNamesWhatMostPodsRun) {
    World world;
    world.know('c', 'c');
    world.running.images.clear();
    world.runs("app", 'c', 1);
    world.runs("app", 'a', 3);
    world.runs("app", 'b', 9);
    EXPECT_EQ(world.judge().targets.at(0).from, digest('a').to_string());
}

TEST(Judge, WantsWhatItMustKnow) {
    World world;
    world.contents.clear();
    WorkloadVerdict verdict = world.judge();
    ASSERT_EQ(verdict.wants.size(), 2U);
    EXPECT_EQ(verdict.wants[0].digest, digest('a'));
    EXPECT_EQ(verdict.wants[1].digest, digest('b'));
    EXPECT_EQ(verdict.wants[0].tag, tag());

    world.running.images.clear();
    world.runs("app", 'b', 2);
    EXPECT_TRUE(world.judge().wants.empty()) << "the digest itself needs no comparison";
    EXPECT_EQ(world.judge().reason, Reason::up_to_date);
}

// ---- More than one container ----

struct Sidecar : World {
    Sidecar() {
        workload.containers.push_back(container("side", "nginx:side"));
        runs("side", 'a', 2);
        see('a', 1, tag("side"));
    }
    [[nodiscard]] std::string reasons() {
        std::string all;
        for (const ContainerVerdict& one : judge().containers)
            all += (all.empty() ? "" : " ") + name_of(one.reason);
        return all;
    }
};

TEST(JudgeSiblings, BothMoveTogether) {
    Sidecar world;
    world.see('c', 2, tag("side"));
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.verdict, Verdict::roll);
    ASSERT_EQ(verdict.targets.size(), 2U);
    EXPECT_EQ(verdict.targets[0].to, digest('b'));
    EXPECT_EQ(verdict.targets[1].to, digest('c'));
}

TEST(JudgeSiblings, OneMovesAndOneStays) {
    Sidecar world;
    EXPECT_EQ(world.reasons(), "digest-moved up-to-date");
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.verdict, Verdict::roll);
    ASSERT_EQ(verdict.targets.size(), 1U);
    EXPECT_EQ(verdict.targets[0].container, "app");
}

TEST(JudgeSiblings, ABlockedOneThatARestartWouldChangeBlocksAll) {
    Sidecar world;
    world.see('b', 2, tag("side"));
    world.see('a', 3, tag("side"));  // going back
    EXPECT_EQ(world.reasons(), "sibling-blocked revert-unconfirmed");
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.reason, Reason::revert_unconfirmed) << "the first in the order of the list";
    EXPECT_TRUE(verdict.targets.empty());
    EXPECT_NE(verdict.containers[0].sentence.find("side"), std::string::npos);
}

TEST(JudgeSiblings, ABlockedOneThatARestartLeavesAloneDoesNot) {
    Sidecar world;
    world.see('b', 2, tag("side"));
    world.workload.containers[1].pull = PullPolicy::if_not_present;
    EXPECT_EQ(world.reasons(), "digest-moved restart-cannot-pull");
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.verdict, Verdict::blocked) << "blocked comes first for the workload";
    ASSERT_EQ(verdict.targets.size(), 1U) << "and the other one is rolled";
    EXPECT_EQ(verdict.targets[0].container, "app");
}

TEST(JudgeSiblings, S2_ADatabaseInThePodKeepsThePodFromBeingRestarted) {
    for (const PullPolicy pull : {PullPolicy::always, PullPolicy::if_not_present}) {
        Sidecar world;
        world.workload.containers[1] = container("db", "postgres:17");
        world.workload.containers[1].pull = pull;
        EXPECT_EQ(world.reasons(), "sibling-blocked stateful");
        EXPECT_TRUE(world.judge().targets.empty());
        EXPECT_EQ(world.judge().reason, Reason::stateful);
        annotate(world, "keel.sh/stateful", "allow");
        EXPECT_NE(world.judge().reason, Reason::stateful);
    }
}

TEST(JudgeSiblings, AnUnansweredOneThatPullsBlocksAll) {
    Sidecar world;
    world.workload.containers[1].image = "nginx:unheard";
    EXPECT_EQ(world.reasons(), "sibling-blocked no-answer");
}

TEST(JudgeSiblings, AnIgnoredOneDoesNotBlock) {
    Sidecar world;
    world.workload.containers[1].image = "nginx@" + digest('a').to_string();
    EXPECT_EQ(world.reasons(), "digest-moved no-tag");
    EXPECT_EQ(world.judge().verdict, Verdict::roll);
}

TEST(JudgeSiblings, O6_AnInitContainerOfTheSameNameIsAnotherOne) {
    World world;
    Container init = container("setup", "nginx:1.27");
    init.init = true;
    world.workload.containers.insert(world.workload.containers.begin(), init);
    world.running.images.push_back({"setup", true, digest('b').to_string(), World::kAmd, 2});
    const WorkloadVerdict verdict = world.judge();
    ASSERT_EQ(verdict.containers.size(), 2U);
    EXPECT_EQ(verdict.containers[0].reason, Reason::up_to_date);
    EXPECT_EQ(verdict.containers[1].reason, Reason::digest_moved);
    world.running.images[1].digest = digest('a').to_string();
    EXPECT_EQ(world.judge().targets.at(0).container, "setup")
        << "digests of init containers are tracked as well";
}

TEST(JudgeSiblings, AWorkloadWithoutContainersSaysSo) {
    World world;
    world.workload.containers.clear();
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.verdict, Verdict::ignore);
    EXPECT_FALSE(verdict.sentence.empty());
}

// What pods have of it is not known, and that keeps nothing else from being rolled out.
TEST(Judge, R1_AnImageVolumeStandsBesideAContainerThatMoved) {
    World world;
    Container volume = world.app();
    volume.name = "volume/app";
    volume.volume = true;
    world.workload.containers.push_back(volume);
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.reason, Reason::digest_moved);
    ASSERT_EQ(verdict.containers.size(), 2U);
    EXPECT_EQ(verdict.containers[1].reason, Reason::at_next_start);
    ASSERT_EQ(verdict.targets.size(), 1U);
    EXPECT_EQ(verdict.targets[0].container, "app");
}

// --- newer tags ---

// The container runs 1.27.1 at digest a, and its tag answers that; the repository has `names`.
class TagWorld : public World {
  public:
    explicit TagWorld(const std::string& policy, std::vector<std::string> names,
                      const std::string& image = "nginx:1.27.1") {
        annotate(*this, "keel.sh/policy", policy);
        app().image = image;
        see('a', 1, tag(Reference::parse(image)->name));
        list(std::move(names));
    }
    void list(std::vector<std::string> names) {
        listings.listed("docker.io", "library/nginx", std::move(names), true, at(10));
    }
    // A tag that was asked, for amd64 unless said otherwise.
    void answers(const std::string& name, char hex, const std::string& platform = kAmd) {
        see(hex, 20, tag(name));
        contents[digest(hex)] = Content{
            digest(hex), ManifestKind::index, {{platform, digest(hex), digest(hex), Time{}}}};
    }
    void made(char hex, Time when) { contents[digest(hex)].platforms[0].created = when; }
    bool wants_answer(const std::string& name) {
        return std::ranges::any_of(judge().wants, [&](const WorkloadVerdict::Want& want) {
            return want.what == WorkloadVerdict::Want::What::answer && want.tag == tag(name);
        });
    }
    ContainerVerdict verdict() { return judge().containers.front(); }
};

TEST(JudgeTags, V1_ANewerTagIsWrittenAsTheReferenceIsSpelled) {
    for (const std::string before :
         {"docker.io/library/nginx", "nginx", "docker.io/nginx", "index.docker.io/library/nginx"}) {
        TagWorld world("patch", {"1.27.1", "1.27.2", "1.28.0"}, before + ":1.27.1");
        EXPECT_EQ(name_of(world.verdict().reason), "no-answer") << "its digest is not known yet";
        EXPECT_TRUE(world.wants_answer("1.27.2"));
        world.answers("1.27.2", 'b');
        const WorkloadVerdict verdict = world.judge();
        ASSERT_EQ(verdict.targets.size(), 1U) << verdict.sentence;
        const Target& target = verdict.targets.front();
        EXPECT_EQ(verdict.reason, Reason::newer_tag);
        EXPECT_EQ(target.tag, tag("1.27.2"));
        EXPECT_EQ(target.to, digest('b'));
        EXPECT_EQ(target.from, digest('a').to_string());
        EXPECT_EQ(target.image, before + ":1.27.2");
        EXPECT_EQ(target.from_image, before + ":1.27.1");
        EXPECT_TRUE(world.wants_answer("1.27.2")) << "looked at for as long as it is the candidate";
    }
}

TEST(JudgeTags, D2_NewestAllowedAndWhyTheRestIsNotTaken) {
    TagWorld world("patch", {"1.27.1", "1.27.2", "1.28.0", "weird_tag"});
    world.answers("1.27.2", 'b');
    ContainerVerdict one = world.verdict();
    EXPECT_EQ(one.newest, "1.28.0");
    EXPECT_EQ(one.allowed, "1.27.2");
    EXPECT_NE(one.sentence.find("1.28.0"), std::string::npos) << one.sentence;
    world.list({"1.27.1", "1.28.0"});
    one = world.verdict();
    EXPECT_EQ(name_of(one.reason), "beyond-policy");
    EXPECT_EQ(one.allowed, "");
    EXPECT_EQ(one.newest, "1.28.0");
    EXPECT_NE(one.sentence.find("patch does not allow it"), std::string::npos) << one.sentence;
}

// While the newer tag is being asked for, a restart would still pull what the old one answers.
TEST(JudgeTags, V2_ASiblingWaitsWhileTheAnswerAboutANewerTagIsUnderWay) {
    TagWorld world("minor", {"1.27.1", "1.28.0"});
    world.see('c', 5, tag("1.27.1"));
    world.see('a', 6, tag("1.27.1"));
    world.see('c', 7, tag("1.27.1"));  // seen before: it went back
    world.workload.containers.push_back(container("side", "docker.io/library/nginx:edge"));
    world.runs("side", 'a', 2);
    world.see('a', 1, tag("edge"));
    world.see('b', 2, tag("edge"));
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(name_of(verdict.containers[0].reason), "no-answer");
    EXPECT_EQ(name_of(verdict.containers[1].reason), "sibling-blocked")
        << verdict.containers[1].sentence;
}

// 14.3.9, which answers digest b, lies behind a jump.
struct JumpWorld : TagWorld {
    JumpWorld() : TagWorld("major", {"1.27.1", "14.3.9"}) { answers("14.3.9", 'b'); }
};

TEST(Judge, V5_AVoteForJustThatLetsItCrossToAnotherStream) {
    JumpWorld world;
    WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.reason, Reason::stream_jump);
    EXPECT_TRUE(verdict.targets.empty());
    const std::string asked = targets_text(verdict.asks);
    EXPECT_EQ(asked, "app " + tag("14.3.9").to_string() + " " + digest('b').to_string());
    EXPECT_NE(verdict.vote_because, "");

    for (const std::string& other : {"uid-other " + asked, "uid-web " + asked + "x"}) {
        world.approved = other;
        EXPECT_EQ(world.judge().reason, Reason::stream_jump) << other;
    }
    world.approved = "uid-web " + asked;
    verdict = world.judge();
    EXPECT_EQ(verdict.verdict, Verdict::roll);
    EXPECT_EQ(verdict.reason, Reason::newer_tag);
    EXPECT_EQ(targets_text(verdict.targets), asked);
    EXPECT_TRUE(verdict.asks.empty());
    EXPECT_NE(verdict.vote_because, "") << "the gate asks for the vote again";
}

TEST(Judge, V5_NobodyIsAskedForAJumpThatSomethingElseKeepsBack) {
    const std::pair<const char*, std::function<void(TagWorld&)>> cases[] = {
        {"its digest moved and goes first", [](TagWorld& w) { w.see('c', 30, tag("1.27.1")); }},
        {"it failed here before",
         [](TagWorld& w) { w.rejected["uid-web app " + digest('b').to_string()] = "crashed"; }},
        {"it is an older build",
         [](TagWorld& w) {
             w.made('a', at(0));
             w.made('b', at(0) - std::chrono::hours{25});
         }},
        {"it is not pulled", [](TagWorld& w) { w.app().pull = PullPolicy::never; }},
        {"what it holds is unread", [](TagWorld& w) { w.contents.erase(digest('b')); }},
    };
    for (const auto& [name, change] : cases) {
        JumpWorld world;
        change(world);
        EXPECT_TRUE(world.judge().asks.empty()) << name;
    }
}

struct TagCase {
    const char* name;
    std::function<void(TagWorld&)> change;
    Reason reason;
    const char* text;  // in the sentence
};

class JudgeTagCase : public testing::TestWithParam<TagCase> {};

// minor, 1.27.1 → 1.28.0, which answers digest b for amd64.
TEST_P(JudgeTagCase, OneReason) {
    TagWorld world("minor", {"1.27.1", "1.27.2", "1.28.0"});
    world.answers("1.28.0", 'b');
    GetParam().change(world);
    const ContainerVerdict one = world.verdict();
    EXPECT_EQ(name_of(one.reason), name_of(GetParam().reason)) << one.sentence;
    EXPECT_NE(one.sentence.find(GetParam().text), std::string::npos) << one.sentence;
}

INSTANTIATE_TEST_SUITE_P(
    All, JudgeTagCase,
    testing::Values(
        TagCase{"Newer", [](TagWorld&) {}, Reason::newer_tag, "1.28.0"},
        TagCase{"TheTagWinsOverItsMovedDigest", [](TagWorld& w) { w.see('c', 30, tag("1.27.1")); },
                Reason::newer_tag, "1.28.0"},
        TagCase{
            "RejectedAndNothingMoved",
            [](TagWorld& w) { w.rejected["uid-web app " + digest('b').to_string()] = "crashed"; },
            Reason::target_rejected, "crashed"},
        TagCase{"RejectedButTheDigestMoved",
                [](TagWorld& w) {
                    w.rejected["uid-web app " + digest('b').to_string()] = "crashed";
                    w.see('c', 30, tag("1.27.1"));
                },
                Reason::digest_moved, "1.28.0"},
        TagCase{"Stalled",
                [](TagWorld& w) {
                    w.stalled["uid-web app " + digest('b').to_string()] = "pods stayed";
                },
                Reason::rollout_stalled, "pods stayed"},
        TagCase{"OtherPlatformAndTheNextLowerIsAsked",
                [](TagWorld& w) { w.answers("1.28.0", 'b', "linux/arm64"); }, Reason::no_answer,
                "1.28.0 is passed over: it is not made for linux/amd64"},
        TagCase{"OtherPlatformAndTheNextLowerIsTaken",
                [](TagWorld& w) {
                    w.answers("1.28.0", 'b', "linux/arm64");
                    w.answers("1.27.2", 'c');
                },
                Reason::newer_tag, "allows 1.27.2"},
        TagCase{"OtherPlatformAll",
                [](TagWorld& w) {
                    w.answers("1.28.0", 'b', "linux/arm64");
                    w.answers("1.27.2", 'c', "linux/arm64");
                },
                Reason::incomplete, "1.27.2 is passed over"},
        TagCase{"NotForANodeThatTheOldOneIsMadeFor",
                [](TagWorld& w) {
                    w.nodes = {TagWorld::kAmd, "linux/arm64"};
                    w.contents[digest('a')].platforms.push_back(
                        {"linux/arm64", digest('d'), digest('d'), Time{}});
                    w.list({"1.27.1", "1.28.0"});
                },
                Reason::incomplete, "linux/arm64"},
        TagCase{"OnlyForNodesThatTheOldOneIsMadeFor",
                [](TagWorld& w) {
                    w.nodes = {TagWorld::kAmd, "linux/arm64"};
                },
                Reason::newer_tag, "1.28.0"},
        TagCase{"ListedAndGone",
                [](TagWorld& w) {
                    w.list({"1.27.1", "1.29.0"});
                    w.tags.failed(tag("1.29.0"), "answered 404", "not-found");
                },
                Reason::incomplete, "answered 404"},
        TagCase{"Unanswered",
                [](TagWorld& w) {
                    w.list({"1.27.1", "1.29.0"});
                    w.tags.failed(tag("1.29.0"), "answered 500", "unavailable");
                },
                Reason::no_answer, "answered 500"},
        TagCase{"UnansweredButTheDigestMoved",
                [](TagWorld& w) {
                    w.list({"1.27.1", "1.29.0"});
                    w.tags.failed(tag("1.29.0"), "answered 500", "unavailable");
                    w.see('c', 30, tag("1.27.1"));
                },
                Reason::digest_moved, "answered 500"},
        TagCase{"ContentUnread", [](TagWorld& w) { w.contents.erase(digest('b')); },
                Reason::no_answer, "is being read"},
        TagCase{"ContentGone",
                [](TagWorld& w) {
                    w.list({"1.27.1", "1.28.0"});
                    w.contents.erase(digest('b'));
                    w.failures[digest('b')] = Error{"not-found", "a platform is missing"};
                },
                Reason::incomplete, "a platform is missing"},
        TagCase{"V2_AnOlderBuildAndTheNextLowerIsAsked",
                [](TagWorld& w) {
                    w.made('a', at(0));
                    w.made('b', at(0) - std::chrono::hours{25});
                },
                Reason::no_answer, "1.28.0 is passed over: it was built 2026-11-21"},
        TagCase{"V2_OnlyOlderBuilds",
                [](TagWorld& w) {
                    w.list({"1.27.1", "1.28.0"});
                    w.made('a', at(0));
                    w.made('b', at(0) - std::chrono::hours{25});
                },
                Reason::older_build, "it was built 2026-11-21"},
        TagCase{"BuiltTheDayBefore",
                [](TagWorld& w) {
                    w.made('a', at(0));
                    w.made('b', at(0) - std::chrono::hours{23});
                },
                Reason::newer_tag, "1.28.0"},
        TagCase{"BuiltReproducibly",
                [](TagWorld& w) {
                    w.made('a', at(0));
                    w.made('b', *parse_time("1980-01-01T00:00:00Z"));
                },
                Reason::newer_tag, "1.28.0"},
        TagCase{"TheAgeOfWhatRunsIsAskedFirst",
                [](TagWorld& w) { w.contents[digest('a')].platforms[0].created.reset(); },
                Reason::no_answer, "the age of what runs is being read"},
        TagCase{"TheAgeOfWhatRunsIsGone",
                [](TagWorld& w) {
                    w.contents[digest('a')].platforms[0].created.reset();
                    w.failures[digest('a')] = Error{"not-found", "answered 404"};
                },
                Reason::newer_tag, "1.28.0"},
        TagCase{"V2_TheAgeOfWhatRunsCannotBeRead",
                [](TagWorld& w) {
                    w.contents[digest('a')].platforms[0].created.reset();
                    w.failures[digest('a')] = Error{"unavailable", "answered 503"};
                },
                Reason::no_answer, "cannot be read: answered 503"},
        TagCase{"NotForNodesThatTheTemplateLeavesOut",
                [](TagWorld& w) {
                    w.nodes = {TagWorld::kAmd, "linux/arm64"};
                    w.contents[digest('a')].platforms.push_back(
                        {"linux/arm64", digest('d'), digest('d'), Time{}});
                    w.workload.node_terms = {{NodeRule{false, true, {"amd64"}}}};
                },
                Reason::newer_tag, "1.28.0"},
        TagCase{"IfNotPresentPullsAnotherTag",
                [](TagWorld& w) { w.app().pull = PullPolicy::if_not_present; }, Reason::newer_tag,
                "1.28.0"},
        TagCase{"NeverPulls", [](TagWorld& w) { w.app().pull = PullPolicy::never; },
                Reason::restart_cannot_pull, "Never"},
        TagCase{"OnDelete", [](TagWorld& w) { w.workload.on_delete = true; }, Reason::on_delete,
                "OnDelete"},
        TagCase{"Webhooks", [](TagWorld& w) { annotate(w, "keel.sh/trigger", "default"); },
                Reason::awaiting_webhook, "webhooks alone"},
        TagCase{"WebhookForThatTag",
                [](TagWorld& w) {
                    annotate(w, "keel.sh/trigger", "push");
                    w.released[tag("1.28.0")] = digest('b');
                },
                Reason::newer_tag, "1.28.0"},
        TagCase{"WebhookForWhatItWasBefore",
                [](TagWorld& w) {
                    annotate(w, "keel.sh/trigger", "push");
                    w.released[tag("1.28.0")] = digest('9');
                    w.released[tag("1.27")] = digest('b');
                },
                Reason::awaiting_webhook, "none has named docker.io/library/nginx:1.28.0 since"},
        TagCase{"NoBaseline", [](TagWorld& w) { w.running = {}; }, Reason::no_baseline, "read yet"},
        TagCase{"Held",
                [](TagWorld& w) {
                    w.app().image = "nginx:1.27";
                    w.hold('a');
                },
                Reason::held, "alice"},
        TagCase{"V4_TheStepMeansNothing",
                [](TagWorld& w) { annotate(w, "keel.sh/step", "lowest"); }, Reason::policy_invalid,
                "keel.sh/step"},
        TagCase{"V2_AnotherNumbering",
                [](TagWorld& w) {
                    annotate(w, "keel.sh/policy", "major");
                    w.list({"1.27.1", "14.3.9"});
                },
                Reason::stream_jump, "14.3.9"},
        TagCase{"V2_ANumberingBehindAMovedDigest",
                [](TagWorld& w) {
                    annotate(w, "keel.sh/policy", "major");
                    w.list({"1.27.1", "14.3.9"});
                    w.see('c', 30, tag("1.27.1"));
                },
                Reason::digest_moved, "14.3.9"},
        TagCase{"V2_OnlyLower",
                [](TagWorld& w) {
                    w.list({"1.27.1", "1.26.9", "1.27.0"});
                },
                Reason::up_to_date, "what the tag answers"},
        TagCase{"V5_AnotherStream", [](TagWorld& w) { annotate(w, "keel.sh/policy", "glob:2.*"); },
                Reason::stream_unknown, "does not match"},
        TagCase{"V3_Fixed",
                [](TagWorld& w) {
                    w.app().image = "nginx:stable";
                    w.see('a', 1, tag("stable"));
                },
                Reason::fixed_tag, "no order"},
        TagCase{"NotMonitored",
                [](TagWorld& w) { annotate(w, "keel.sh/monitorContainers", "^other$"); },
                Reason::not_monitored, "^other$"},
        TagCase{"AnInitContainersTagStays",
                [](TagWorld& w) {
                    w.app().init = true;
                    w.running.images[0].init = true;
                },
                Reason::beyond_policy, "keel.sh/initContainers"},
        TagCase{"AnInitContainersTagMayChange",
                [](TagWorld& w) {
                    w.app().init = true;
                    w.running.images[0].init = true;
                    annotate(w, "keel.sh/initContainers", "true");
                },
                Reason::newer_tag, "1.28.0"}),
    [](const auto& info) { return info.param.name; });

// 1.28.0 is young: 1.27.5 does not take its place, and the digest of 1.27.1 is judged for itself.
TEST(JudgeTags, AYoungTagDoesNotFallToALowerOneAndKeepsNoDigestWaiting) {
    TagWorld world("minor", {"1.27.1", "1.27.5", "1.28.0"}, "nginx:1.27.1");
    world.answers("1.27.5", 'b');
    world.answers("1.28.0", 'c');
    annotate(world, "keel.sh/minAge", "1h");
    world.now = at(30);
    WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(name_of(verdict.reason), "too-young") << verdict.sentence;
    EXPECT_EQ(verdict.recheck, at(20) + std::chrono::hours{1});
    world.answers("1.27.1", 'd');
    world.now = at(20) + std::chrono::hours{1};
    world.see('e', 5'000, tag("1.28.0"));
    world.know('e', 'e');
    verdict = world.judge();
    EXPECT_EQ(name_of(verdict.reason), "digest-moved") << verdict.sentence;
    EXPECT_NE(verdict.sentence.find("1.28.0"), std::string::npos) << verdict.sentence;
    EXPECT_EQ(verdict.recheck, at(5'000) + std::chrono::hours{1});
    world.now = at(5'000) + std::chrono::hours{1};
    verdict = world.judge();
    EXPECT_EQ(name_of(verdict.reason), "newer-tag") << verdict.sentence;
    EXPECT_FALSE(verdict.recheck);
}

TEST(JudgeTags, TheDigestIsFollowedWhileNothingIsKnownOfOtherTags) {
    World world;
    annotate(world, "keel.sh/policy", "minor");
    WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.reason, Reason::digest_moved);
    EXPECT_NE(verdict.sentence.find("not been listed yet"), std::string::npos) << verdict.sentence;
    world.listings.failed("docker.io", "library/nginx", "answered 429");
    world.see('a', 30);
    world.tags.confirm(tag(), digest('a'), at(40), "upstream");
    verdict = world.judge();
    EXPECT_EQ(name_of(verdict.reason), "no-answer");
    EXPECT_NE(verdict.sentence.find("answered 429"), std::string::npos) << verdict.sentence;
}

struct PinCase {
    const char* name;
    const char* policy;
    bool own;      // on the workload itself
    bool written;  // by keeld
    bool newer;    // 1.28.0 is there
    Reason reason;
    const char* image;  // of the target
};

class JudgePin : public testing::TestWithParam<PinCase> {};

// nginx:1.27.1@sha256:aaaa…, where the tag answers b by now.
TEST_P(JudgePin, V1_APinIsSomebodysDecision) {
    const PinCase& one = GetParam();
    const std::string image = "nginx:1.27.1@" + digest('a').to_string();
    std::vector<std::string> names{"1.27.1"};
    if (one.newer) names.emplace_back("1.28.0");
    TagWorld world("force", names, image);
    world.workload.annotations.clear();
    (one.own ? world.workload.annotations : world.workload.template_annotations)["keel.sh/policy"] =
        one.policy;
    world.written = one.written ? "uid-web app " + image : "";
    world.answers("1.27.1", 'b');
    world.answers("1.28.0", 'c');
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(name_of(verdict.reason), name_of(one.reason)) << verdict.sentence;
    ASSERT_EQ(verdict.targets.size(), *one.image == '\0' ? 0U : 1U);
    if (!verdict.targets.empty()) {
        const Target& target = verdict.targets.front();
        EXPECT_EQ(target.image, one.image + target.to.to_string());
        EXPECT_EQ(target.from_image, image);
    }
}

INSTANTIATE_TEST_SUITE_P(
    All, JudgePin,
    testing::Values(
        PinCase{"ForceOfTheTemplate", "force", false, false, false, Reason::pinned, ""},
        PinCase{"ForceOfItsOwn", "force", true, false, false, Reason::digest_moved,
                "nginx:1.27.1@"},
        PinCase{"OursByForce", "force", false, true, false, Reason::digest_moved, "nginx:1.27.1@"},
        PinCase{"MinorOfTheTemplate", "minor", false, false, true, Reason::pinned, ""},
        PinCase{"MinorOfItsOwn", "minor", true, false, true, Reason::newer_tag, "nginx:1.28.0@"},
        PinCase{"MinorOfItsOwnAndNothingNewer", "minor", true, false, false, Reason::pinned, ""},
        PinCase{"OursByMinor", "minor", false, true, true, Reason::newer_tag, "nginx:1.28.0@"},
        PinCase{"OursByMinorAndNothingNewer", "minor", false, true, false, Reason::digest_moved,
                "nginx:1.27.1@"}),
    [](const auto& info) { return info.param.name; });

TEST(JudgeTags, V5_EqualReferencesMoveTogetherOrNotAtAll) {
    TagWorld world("minor", {"1.27.1", "1.28.0"});
    world.answers("1.28.0", 'b');
    Container init = container("migrate", "docker.io/nginx:1.27.1");
    init.init = true;
    world.workload.containers.insert(world.workload.containers.begin(), init);
    world.running.images.push_back({"migrate", true, digest('a').to_string(), World::kAmd, 2});
    WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(name_of(verdict.reason), "sibling-blocked") << verdict.sentence;
    EXPECT_TRUE(verdict.targets.empty());
    annotate(world, "keel.sh/initContainers", "true");
    verdict = world.judge();
    ASSERT_EQ(verdict.targets.size(), 2U) << verdict.sentence;
    EXPECT_EQ(verdict.targets[0].image, "docker.io/nginx:1.28.0");
    EXPECT_EQ(verdict.targets[1].image, "nginx:1.28.0");
}

TEST(JudgeTags, AListIsReadAgainOnlyWhenItIsAnother) {
    TagWorld world("minor", {"1.27.1"});
    EXPECT_EQ(name_of(world.verdict().reason), "up-to-date");
    world.list({"1.27.1", "1.28.0"});
    world.answers("1.28.0", 'b');
    EXPECT_EQ(name_of(world.verdict().reason), "newer-tag");
    world.list({"1.27.1"});
    EXPECT_EQ(name_of(world.verdict().reason), "up-to-date");
}

// S1: the image before, where it still is what it was; and only by who failed with the present one.
TEST(JudgeTags, S1_WhatFailedGoesBackToTheImageBefore) {
    struct FailedWorld : TagWorld {
        FailedWorld() : TagWorld("patch", {"1.27.1", "1.27.2"}, "nginx:1.27.2") {
            running.images = {RunningImage{"app", false, digest('b').to_string(), kAmd, 1, {}}};
            answers("1.27.1", 'a');
            answers("1.27.2", 'b');
            rejected["uid-web app " + digest('b').to_string()] = "it crashed";
            back = Target{"app",       tag("1.27.1"),  digest('b').to_string(),
                          digest('a'), "nginx:1.27.1", "nginx:1.27.2"};
        }
    };
    FailedWorld world;
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.reason, Reason::goes_back) << verdict.sentence;
    EXPECT_EQ(verdict.targets, std::vector<Target>{*world.back});
    EXPECT_EQ(verdict.targets.at(0).image, "nginx:1.27.1");
    EXPECT_NE(verdict.sentence.find("it crashed; it goes back to nginx:1.27.1"), std::string::npos);

    const std::pair<Reason, std::function<void(FailedWorld&)>> cases[] = {
        {Reason::target_rejected, [](FailedWorld& w) { w.back.reset(); }},
        {Reason::target_rejected, [](FailedWorld& w) { w.back->from_image = "nginx:1.27.3"; }},
        {Reason::target_rejected, [](FailedWorld& w) { w.back->image.clear(); }},
        {Reason::target_not_pullable, [](FailedWorld& w) { w.see('c', 40, tag("1.27.1")); }},
        {Reason::deployment_paused, [](FailedWorld& w) { w.workload.paused = true; }},
        {Reason::goes_back, [](FailedWorld& w) { annotate(w, "keel.sh/trigger", "push"); }},
        {Reason::newer_tag,
         [](FailedWorld& w) {
             w.list({"1.27.1", "1.27.2", "1.27.3"});
             w.answers("1.27.3", 'c');
         }},
    };
    for (const auto& [reason, change] : cases) {
        FailedWorld other;
        change(other);
        EXPECT_EQ(other.judge().reason, reason) << other.judge().sentence;
    }
}

// O1: what somebody else declares is not written: he would set it back. A restart writes no image.
TEST(JudgeTags, O1_ASecondOwnerOfTheImage) {
    using Change = std::function<void(TagWorld&)>;
    const auto written_by = [](const std::string& manager) -> Change {
        return [manager](TagWorld& w) {
            w.app().image_managers = {"kubectl-client-side-apply", manager};
        };
    };
    const std::pair<Reason, Change> cases[] = {
        {Reason::newer_tag, written_by("keeld")},
        {Reason::newer_tag, written_by("kubectl-edit")},
        {Reason::second_owner, written_by("HashiCorp")},
        {Reason::second_owner, written_by("argocd-controller")},
        {Reason::second_owner, [](TagWorld& w) { w.workload.managed_by = "Helm"; }},
        {Reason::second_owner,
         [](TagWorld& w) {
             w.app().image_managers = {"ci"};
             w.config.image_owners = {"ci*"};
         }},
        {Reason::newer_tag,
         [](TagWorld& w) {
             w.app().image_managers = {"helm"};
             w.config.image_owners = {"ci*"};
         }},
        {Reason::newer_tag,
         [](TagWorld& w) {
             w.workload.managed_by = "Helm";
             w.app().image_managers = {"helm"};
             annotate(w, "keel.sh/second-owner", "allow");
         }},
        {Reason::second_owner,
         [](TagWorld& w) {
             w.workload.managed_by = "Helm";
             annotate(w, "keel.sh/second-owner", "true");
         }},
    };
    for (const auto& [reason, change] : cases) {
        TagWorld world("patch", {"1.27.1", "1.27.2"});
        world.answers("1.27.2", 'b');
        change(world);
        const WorkloadVerdict verdict = world.judge();
        EXPECT_EQ(verdict.reason, reason) << verdict.sentence;
        EXPECT_EQ(verdict.targets.size(), reason == Reason::newer_tag ? 1U : 0U);
    }
    TagWorld world("patch", {"1.27.1", "1.27.2"});
    world.answers("1.27.2", 'b');
    world.see('c', 30, tag("1.27.1"));
    world.workload.managed_by = "Helm";
    const WorkloadVerdict verdict = world.judge();
    EXPECT_EQ(verdict.reason, Reason::digest_moved) << "a restart of what it is";
    EXPECT_NE(verdict.sentence.find("Helm"), std::string::npos) << verdict.sentence;
    ASSERT_EQ(verdict.targets.size(), 1U);
    EXPECT_EQ(verdict.targets.front().image, "");

    TagWorld pinned("force", {"1.27.1"}, "nginx:1.27.1@" + digest('a').to_string());
    pinned.see('b', 30, tag("1.27.1"));
    EXPECT_EQ(pinned.judge().reason, Reason::digest_moved);
    pinned.workload.managed_by = "Helm";
    EXPECT_EQ(pinned.judge().reason, Reason::second_owner) << "a digest is written, too";
}

TEST(JudgeTags, V2_KeelsForceWithoutMatchTagIsToldOnce) {
    TagWorld world("force", {"1.27.1", "1.28.0"});
    EXPECT_NE(world.judge().sentence.find("Keel's force"), std::string::npos);
    annotate(world, "keel.sh/match-tag", "true");
    EXPECT_EQ(world.judge().sentence.find("Keel's force"), std::string::npos);
    EXPECT_EQ(world.judge().reason, Reason::beyond_policy);
}

// Every code has its name and its kind: what the API prints and people's tools match.
TEST(Verdicts, CodesHaveNamesAndKinds) {
    const std::vector<std::pair<Verdict, std::string>> kinds{
        {Verdict::roll, "newer-tag digest-moved goes-back"},
        {Verdict::blocked,
         "policy-invalid reference-invalid phase-conflict second-owner stateful operator-owned "
         "pinned "
         "target-rejected "
         "revert-unconfirmed revert-refused unknown-order stream-unknown stream-jump "
         "older-build incomplete rollout-stalled restart-cannot-pull "
         "target-not-pullable held-at-cache too-young awaiting-webhook on-delete partitioned "
         "deployment-paused scaled-to-zero "
         "sibling-blocked no-baseline no-answer"},
        {Verdict::current,
         "up-to-date beyond-policy fixed-tag same-content held at-next-run at-next-start"},
        {Verdict::ignore,
         "not-enrolled vetoed no-policy no-tag excluded-namespace self not-monitored"},
    };
    std::map<Verdict, std::string> found;
    for (int i = 0; i <= static_cast<int>(Reason::not_monitored); ++i) {
        const auto reason = static_cast<Reason>(i);
        std::string& names = found[verdict_of(reason)];
        names += (names.empty() ? "" : " ") + name_of(reason);
    }
    for (const auto& [kind, names] : kinds)
        EXPECT_EQ(found[kind], names);
    EXPECT_EQ(to_string(Gate::awaiting_approval), "awaiting-approval");
    EXPECT_EQ(to_string(Gate::awaiting_pacing), "awaiting-pacing");
    EXPECT_EQ(to_string(Gate::observe_only), "observe-only");
    EXPECT_EQ(to_string(Gate::not_leader), "not-leader");
}

TEST(Judge, D2_AHeldTagSaysByWhomWhyUntilWhenAndWhatIsNewest) {
    World world;
    world.hold('a');
    EXPECT_EQ(world.judge().containers.front().sentence,
              "it runs sha256:aaaaaaaaaaaa, at which the tag is held by alice until "
              "2026-11-22T13:00:00.000Z (b crashes); newest: sha256:bbbbbbbbbbbb");
}

// A hold is somebody's wish, and going back still follows `reverts`.
TEST(Judge, V2_GoingBackToAHeldDigestNeedsItsApproval) {
    for (const char running : {'b', 'c'}) {  // known to be newer; and not known at all
        World world;
        world.running.images.clear();
        world.runs("app", running, 2);
        world.hold('a');
        WorkloadVerdict verdict = world.judge();
        EXPECT_EQ(name_of(verdict.reason), "digest-moved");
        ASSERT_EQ(verdict.targets.size(), 1U);
        EXPECT_EQ(verdict.targets.front().to, digest('a'));
        EXPECT_EQ(!verdict.vote_because.empty(), running == 'b');
        world.config.defaults.reverts = Reverts::follow;
        EXPECT_EQ(world.judge().vote_because, "");
    }
    World world;  // nobody knows how old c is
    world.hold('c');
    EXPECT_NE(world.judge().vote_because, "");
}

TEST(Judge, AHeldDigestIsTheTargetWhateverIsNewer) {
    World world;
    world.see('c', 4);
    world.hold('b');
    const WorkloadVerdict verdict = world.judge();
    ASSERT_EQ(verdict.targets.size(), 1U);
    EXPECT_EQ(verdict.targets.front().to, digest('b'));
    EXPECT_EQ(verdict.vote_because, "");
    world.tags.hold(tag(), std::nullopt, at(5));
    EXPECT_EQ(world.judge().targets.front().to, digest('c'));
}

}  // namespace
}  // namespace keel
