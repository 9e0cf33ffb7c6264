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
        contents[digest(hex)] = Content{
            digest(hex), ManifestKind::index, {{"linux/amd64", digest(config), digest(config)}}};
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
        const Knowledge knowledge{config,           catalogue,      tags,
                                  look(contents),   look(failures), targeted(rejected),
                                  targeted(stalled)};
        return keel::judge(*std::as_const(catalogue).find(workload.key), knowledge);
    }

    static constexpr const char* kAmd = "linux/amd64";

    Loop loop;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Tags tags{*ledger};
    Config config;
    std::vector<Namespace> namespaces;
    Workload workload;
    Running running;
    std::map<Digest, Content> contents;
    std::map<Digest, std::string> failures;
    std::map<std::string, std::string> rejected;  // "uid container digest" → why
    std::map<std::string, std::string> stalled;
};

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
                 w.workload.controller = Owner{"x/v1", "Database", "pg", "uid-pg"};
             },
             Reason::operator_owned},
        Case{"S2_OperatorOwnedNotReleasedByTheOtherKey",
             [](World& w) {
                 w.workload.controller = Owner{"x/v1", "Database", "pg", "uid-pg"};
                 annotate(w, "keel.sh/stateful", "allow");
             },
             Reason::operator_owned},
        Case{"S2_OperatorOwnedReleased",
             [](World& w) {
                 w.workload.controller = Owner{"x/v1", "Database", "pg", "uid-pg"};
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
                 w.failures[digest('b')] = "answered 500";
             },
             Reason::target_not_pullable},
        Case{"OnlyWhatRunsIsNotToBeHad",
             [](World& w) {
                 w.contents.erase(digest('a'));
                 w.failures[digest('a')] = "answered 404";
             },
             Reason::digest_moved},
        Case{"NothingForThePlatform",
             [](World& w) {
                 w.running.images.clear();
                 w.runs("app", 'a', 2, "linux/arm64");
             },
             Reason::target_not_pullable},

        Case{"D5_GoingBack", [](World& w) { w.see('a', 3); }, Reason::revert_unconfirmed},
        Case{"D5_GoingBackFromContentThatIsGone",
             [](World& w) {
                 w.see('a', 3);
                 w.running.images.clear();
                 w.runs("app", 'c', 2);
                 w.contents.erase(digest('b'));
                 w.failures[digest('b')] = "answered 500";
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
        {Reason::operator_owned,
         [](World& w) {
             w.workload.controller = Owner{"x/v1", "Database", "pg", "uid-pg"};
         }},
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
    EXPECT_TRUE(verdict.needs_approval);
    EXPECT_TRUE(verdict.containers[0].revert);
    world.config.defaults.reverts = Reverts::follow;
    EXPECT_FALSE(world.judge().needs_approval);
}

TEST(Judge, V6_AForwardMoveNeedsNoApproval) {
    World world;
    const WorkloadVerdict verdict = world.judge();
    EXPECT_FALSE(verdict.needs_approval);
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

// Every code has its name and its kind: what the API prints and people's tools match.
TEST(Verdicts, CodesHaveNamesAndKinds) {
    const std::vector<std::pair<Verdict, std::string>> kinds{
        {Verdict::roll, "newer-tag digest-moved"},
        {Verdict::blocked,
         "policy-invalid reference-invalid stateful operator-owned pinned target-rejected "
         "revert-unconfirmed revert-refused unknown-order stream-unknown stream-jump "
         "rollout-stalled restart-cannot-pull "
         "target-not-pullable held-at-cache on-delete partitioned deployment-paused scaled-to-zero "
         "sibling-blocked no-baseline no-answer"},
        {Verdict::current,
         "up-to-date beyond-policy fixed-tag same-content held at-next-run at-next-start"},
        {Verdict::ignore, "not-enrolled vetoed no-policy no-tag excluded-namespace self"},
    };
    std::map<Verdict, std::string> found;
    for (int i = 0; i <= static_cast<int>(Reason::self); ++i) {
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
        EXPECT_EQ(verdict.needs_approval, running == 'b');
        world.config.defaults.reverts = Reverts::follow;
        EXPECT_FALSE(world.judge().needs_approval);
    }
    World world;  // nobody knows how old c is
    world.hold('c');
    EXPECT_TRUE(world.judge().needs_approval);
}

TEST(Judge, AHeldDigestIsTheTargetWhateverIsNewer) {
    World world;
    world.see('c', 4);
    world.hold('b');
    const WorkloadVerdict verdict = world.judge();
    ASSERT_EQ(verdict.targets.size(), 1U);
    EXPECT_EQ(verdict.targets.front().to, digest('b'));
    EXPECT_FALSE(verdict.needs_approval);
    world.tags.hold(tag(), std::nullopt, at(5));
    EXPECT_EQ(world.judge().targets.front().to, digest('c'));
}

}  // namespace
}  // namespace keel
