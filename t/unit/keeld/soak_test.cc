// Which pods stay well, and which do not (R3).
#include "keeld/rollout/soak.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::at;
using test::digest;

class SoakTest : public testing::Test {
  protected:
    SoakTest() { soak.begun = at(0); }

    static Pod pod(const std::string& name) {
        Pod one;
        one.name = name;
        one.uid = "uid-" + name;
        one.ready = true;
        one.ready_since = at(-10);
        ContainerStatus app;
        app.name = "app";
        app.ready = app.running = true;
        ContainerStatus side = app;
        side.name = "side";
        one.containers = {app, side};
        return one;
    }
    std::string look_at(int seconds) {
        const auto unwell = look(soak, pods, targets, at(seconds));
        container = unwell ? unwell->container : "";
        return unwell ? unwell->text : "";
    }
    ContainerStatus& app(std::size_t which = 0) { return pods[which].containers[0]; }

    Soak soak;
    std::vector<Pod> pods{pod("web-1"), pod("web-2")};
    std::vector<Target> targets{
        {"app", {"docker.io", "library/nginx", "latest"}, digest('a').to_string(), digest('b')}};
    std::string container;
};

TEST_F(SoakTest, R3_OneRestartIsNoneTooMany) {
    EXPECT_EQ(look_at(1), "");
    app().restarts = 1;
    EXPECT_EQ(look_at(2), "");
    app(1).restarts = 1;
    EXPECT_EQ(look_at(3), "pod web-2, container app: 2 restarts of the new pods while they soaked");
    EXPECT_EQ(container, "app");
}

TEST_F(SoakTest, R3_RestartsFromBeforeTheSoakDoNotCount) {
    app().restarts = 7;
    EXPECT_EQ(look_at(1), "");
    app().restarts = 8;
    EXPECT_EQ(look_at(2), "");
    app().restarts = 9;
    EXPECT_NE(look_at(3), "");
}

TEST_F(SoakTest, R3_WhatRestartedAsOftenBeforeIsNotTheContentsFault) {
    soak.usual = 60;
    EXPECT_EQ(look_at(1), "");
    app().restarts = 19;
    EXPECT_EQ(look_at(600), "") << "60 an hour are 10 in ten minutes, and twice that is allowed";
    app().restarts = 21;
    EXPECT_NE(look_at(600), "");
}

TEST_F(SoakTest, R3_WhatWasKilledForItsMemoryIsUnwellAtOnce) {
    app().terminated_reason = "OOMKilled";
    app().terminated_at = at(-1);
    EXPECT_EQ(look_at(1), "") << "that was before";
    app().terminated_at = at(2);
    EXPECT_EQ(look_at(3), "pod web-1, container app was killed for its memory while it soaked");
}

TEST_F(SoakTest, R3_ACrashLoopIsUnwellAtOnce) {
    app(1).waiting_reason = "CrashLoopBackOff";
    EXPECT_EQ(look_at(1), "pod web-2, container app crashes again and again while it soaks");
}

TEST_F(SoakTest, R3_ContainersThatWereNotRolledProveNothing) {
    ContainerStatus& side = pods[0].containers[1];
    side.restarts = 9;
    side.waiting_reason = "CrashLoopBackOff";
    side.terminated_reason = "OOMKilled";
    side.terminated_at = at(1);
    side.ready = pods[0].ready = false;
    pods[0].ready_since = at(1);
    EXPECT_EQ(look_at(600), "");
}

TEST_F(SoakTest, R3_UnreadyForAMinuteIsUnwell) {
    app().ready = pods[0].ready = false;
    pods[0].ready_since = at(10);
    EXPECT_EQ(look_at(69), "");
    EXPECT_EQ(look_at(70), "pod web-1, container app is not ready for more than a minute");
}

TEST_F(SoakTest, R3_ReadinessThatComesAndGoesIsUnwellTheFourthTime) {
    for (int times = 1; times <= 4; ++times) {
        pods[1].ready = true;
        EXPECT_EQ(look_at(times * 2), "");
        pods[1].ready = false;
        pods[1].ready_since = at(times * 2 + 1);
        EXPECT_EQ(look_at(times * 2 + 1),
                  times < 4 ? "" : "pod web-2 became unready 4 times while it soaked");
    }
}

TEST_F(SoakTest, P7_TheLedgerKeepsIt) {
    soak.usual = 0.5;
    soak.pods = {{"uid-web-1", {3, 2, false}}};
    const Soak kept = Soak::from_json(soak.to_json());
    EXPECT_EQ(kept.usual, 0.5);
    EXPECT_EQ(kept.begun, soak.begun);
    ASSERT_EQ(kept.pods.size(), 1U);
    const Soak::Seen& seen = kept.pods.at("uid-web-1");
    EXPECT_EQ(seen.restarts, 3);
    EXPECT_EQ(seen.flaps, 2);
    EXPECT_FALSE(seen.ready);
}

TEST(RestartsAnHour, AreThoseOfAllPodsTogether) {
    Running running;
    running.known = true;
    running.pods = 2;
    running.restarts = 6;
    EXPECT_EQ(restarts_an_hour(running), 0);
    running.lived = std::chrono::hours{4};  // two hours each
    EXPECT_EQ(restarts_an_hour(running), 3);
    running.known = false;
    EXPECT_EQ(restarts_an_hour(running), 0);
}

}  // namespace
}  // namespace keel
