// What the pods of a workload say about a rollout: the table of the design as a table here.
#include "keeld/rollout/outcome.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::digest;
using test::tag;

// From a to b; c is a later one. On amd64 d is the same content as b. 7 is of another repository.
constexpr char kFrom = 'a';
constexpr char kTo = 'b';

const std::map<Digest, Content>& contents() {
    const auto index = [](char hex, char manifest, char config) {
        return Content{
            digest(hex), ManifestKind::index, {{"linux/amd64", digest(manifest), digest(config)}}};
    };
    static const std::map<Digest, Content> kContents{
        {digest('a'), index('a', '1', '1')},
        {digest('b'), index('b', '2', '2')},
        {digest('c'), index('c', '3', '3')},
        {digest('d'), index('d', '4', '2')},
    };
    return kContents;
}

const Content* content_of(const Digest& wanted) {
    const auto found = contents().find(wanted);
    return found != contents().end() ? &found->second : nullptr;
}

ContainerStatus status(const std::string& name, char hex) {
    ContainerStatus result;
    result.name = name;
    result.image_id = hex == '-' ? "" : "docker.io/library/nginx@" + digest(hex).to_string();
    result.running = result.ready = hex != '-';
    return result;
}

Pod pod(const std::string& name, std::vector<ContainerStatus> statuses) {
    Pod result;
    result.name = name;
    result.node = "node-1";
    result.phase = "Running";
    result.containers = std::move(statuses);
    return result;
}

const std::vector<Target> kTargets{
    {"app", tag(), digest(kFrom).to_string(), digest(kTo)},
};

Finding look(const std::vector<Pod>& pods, bool at_deadline,
             const std::vector<Target>& targets = kTargets) {
    return inspect(pods, targets, {{"node-1", "linux/amd64"}}, content_of, at_deadline);
}

struct Case {
    const char* name;
    std::function<void(std::vector<Pod>&)> change;  // of two pods that have arrived
    Arrival before;                                 // the deadline
    Arrival at;
};

class Outcome : public testing::TestWithParam<Case> {};

TEST_P(Outcome, R1_R4_Table) {
    std::vector<Pod> pods{pod("web-1", {status("app", kTo)}), pod("web-2", {status("app", kTo)})};
    GetParam().change(pods);
    const Finding before = look(pods, false);
    EXPECT_EQ(static_cast<int>(before.arrival), static_cast<int>(GetParam().before)) << before.text;
    const Finding at = look(pods, true);
    EXPECT_EQ(static_cast<int>(at.arrival), static_cast<int>(GetParam().at)) << at.text;
    EXPECT_EQ(at.pods, static_cast<int>(pods.size()));
    if (at.arrival != Arrival::proven && !pods.empty()) {
        EXPECT_NE(at.text.find("web-"), std::string::npos) << "it names a pod: " << at.text;
        EXPECT_EQ(at.container, "app");
        EXPECT_LT(at.proven, at.pods);
    }
}

void not_started(Pod& pod, const std::string& waiting) {
    pod.containers[0] = status("app", '-');
    pod.containers[0].waiting_reason = waiting;
}

void unwell(Pod& pod, char hex) {
    pod.containers[0] = status("app", hex);
    pod.containers[0].running = pod.containers[0].ready = false;
    pod.containers[0].waiting_reason = "CrashLoopBackOff";
    pod.containers[0].restarts = 4;
}

INSTANTIATE_TEST_SUITE_P(
    All, Outcome,
    testing::Values(
        Case{"AllOnTheTarget", [](auto&) {}, Arrival::proven, Arrival::proven},
        Case{"AnotherDigestOfTheSameContent",
             [](auto& pods) { pods[1].containers[0] = status("app", 'd'); }, Arrival::proven,
             Arrival::proven},
        Case{"ThePlatformManifest", [](auto& pods) { pods[1].containers[0] = status("app", '2'); },
             Arrival::proven, Arrival::proven},
        Case{"OneHasNotStarted", [](auto& pods) { not_started(pods[1], "ContainerCreating"); },
             Arrival::on_the_way, Arrival::not_pulled},
        Case{"OneHasNoStatusYet", [](auto& pods) { pods[1].containers.clear(); },
             Arrival::on_the_way, Arrival::not_pulled},
        Case{"OneCannotPull", [](auto& pods) { not_started(pods[1], "ImagePullBackOff"); },
             Arrival::on_the_way, Arrival::not_pulled},
        Case{"OneFindsNoNode",
             [](auto& pods) {
                 pods[1].containers.clear();
                 pods[1].node.clear();
                 pods[1].unschedulable = true;
             },
             Arrival::on_the_way, Arrival::unschedulable},
        Case{"OneIsNotReady", [](auto& pods) { pods[1].containers[0].ready = false; },
             Arrival::on_the_way, Arrival::crashing},
        Case{"OneCrashesOnTheTarget", [](auto& pods) { unwell(pods[1], kTo); }, Arrival::on_the_way,
             Arrival::crashing},
        Case{"OneCrashesOnTheSameContent", [](auto& pods) { unwell(pods[1], 'd'); },
             Arrival::on_the_way, Arrival::crashing},
        Case{"OneOnThePreviousDigest",
             [](auto& pods) { pods[1].containers[0] = status("app", kFrom); }, Arrival::previous,
             Arrival::previous},
        Case{"OneCrashesOnThePreviousDigest", [](auto& pods) { unwell(pods[1], kFrom); },
             Arrival::previous, Arrival::previous},
        Case{"OneOnALaterDigest", [](auto& pods) { pods[1].containers[0] = status("app", 'c'); },
             Arrival::later, Arrival::later},
        Case{"OneCrashesOnALaterDigest", [](auto& pods) { unwell(pods[1], 'c'); }, Arrival::later,
             Arrival::later},
        Case{"OneOnADigestThatCannotBeResolved",
             [](auto& pods) { pods[1].containers[0] = status("app", 'e'); }, Arrival::cannot_tell,
             Arrival::cannot_tell},
        Case{"OneCrashesOnADigestThatCannotBeResolved", [](auto& pods) { unwell(pods[1], 'e'); },
             Arrival::cannot_tell, Arrival::cannot_tell},
        Case{"OneFindsNoNodeAndOneCrashes",
             [](auto& pods) {
                 pods[0].containers.clear();
                 pods[0].unschedulable = true;
                 unwell(pods[1], kTo);
             },
             Arrival::on_the_way, Arrival::crashing},
        Case{"NoPodAtAll", [](auto& pods) { pods.clear(); }, Arrival::on_the_way,
             Arrival::unschedulable}),
    [](const auto& info) { return info.param.name; });

// Only a crash on the target may reject it (R4).
TEST(OutcomeContainers, R4_OnlyTheFailingContainerIsNamed) {
    const std::vector<Target> targets{
        {"app", tag("app"), digest(kFrom).to_string(), digest(kTo)},
        {"sidecar", tag("sidecar"), digest('c').to_string(), digest('d')},
    };
    std::vector<Pod> pods{pod("web-1", {status("app", kTo), status("sidecar", 'd')})};
    EXPECT_EQ(look(pods, true, targets).arrival, Arrival::proven);
    EXPECT_EQ(look(pods, true, targets).proven, 1);
    pods[0].containers[1].ready = false;
    const Finding finding = look(pods, true, targets);
    EXPECT_EQ(finding.arrival, Arrival::crashing);
    EXPECT_EQ(finding.container, "sidecar");
    EXPECT_EQ(finding.proven, 0);
}

TEST(OutcomeContainers, O6_ContainersAreMetByNameWhateverTheirOrder) {
    const std::vector<Pod> pods{
        pod("web-1", {status("other", kFrom), status("app", kTo)}),
        pod("web-2", {status("app", kTo), status("other", kFrom)}),
    };
    EXPECT_EQ(look(pods, true).arrival, Arrival::proven);
}

struct InitCase {
    const char* name;
    bool running;
    bool ready;
    const char* waiting;
    const char* terminated;
    Arrival at_deadline;
};

class OutcomeInit : public testing::TestWithParam<InitCase> {};

TEST_P(OutcomeInit, R4_AnInitContainerFailsByItsOwnEnd) {
    ContainerStatus init = status("app", kTo);
    init.init = true;
    init.ready = GetParam().ready;
    init.running = GetParam().running;
    init.waiting_reason = GetParam().waiting;
    init.terminated_reason = GetParam().terminated;
    const Finding finding = look({pod("web-1", {init})}, true);
    EXPECT_EQ(static_cast<int>(finding.arrival), static_cast<int>(GetParam().at_deadline))
        << finding.text;
}

INSTANTIATE_TEST_SUITE_P(
    All, OutcomeInit,
    testing::Values(InitCase{"EndedWell", false, true, "", "Completed", Arrival::proven},
                    InitCase{"Sidecar", true, true, "", "", Arrival::proven},
                    InitCase{"SidecarThatWasRestarted", true, true, "", "Error", Arrival::proven},
                    InitCase{"StillRunning", true, false, "", "", Arrival::proven},
                    InitCase{"EndedBadly", false, false, "", "Error", Arrival::crashing},
                    InitCase{"KilledForMemory", false, false, "", "OOMKilled", Arrival::crashing},
                    InitCase{"RunsAgainAfterAFailure", true, false, "", "Error", Arrival::crashing},
                    InitCase{"WaitsForTheNextTry", false, false, "CrashLoopBackOff", "Error",
                             Arrival::crashing}),
    [](const auto& info) { return info.param.name; });

TEST(OutcomePlatform, AnUnknownNodeMakesTheStricterComparison) {
    const std::vector<Pod> pods{pod("web-1", {status("app", 'd')})};
    const Finding unknown = inspect(pods, kTargets, {}, content_of, true);
    EXPECT_EQ(unknown.arrival, Arrival::proven) << "the same on every platform that there is";
    const std::function<const Content*(const Digest&)> nothing = [](const Digest&) {
        return static_cast<const Content*>(nullptr);
    };
    EXPECT_EQ(inspect(pods, kTargets, {}, nothing, true).arrival, Arrival::cannot_tell);
    const std::vector<Pod> exact{pod("web-1", {status("app", kTo)})};
    EXPECT_EQ(inspect(exact, kTargets, {}, nothing, true).arrival, Arrival::proven);
}

}  // namespace
}  // namespace keel
