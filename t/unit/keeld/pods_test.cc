// What the pods of workloads run. The peer stands for an API server in the middle of changes that a
// real one cannot be made to show on purpose.
#include "keeld/catalogue/pods.h"

#include <gtest/gtest.h>

#include <map>

#include "unit/keeld/samples.h"
#include "unit/keeld/scripted_peer.h"

namespace keel {
namespace {

using test::container;
using test::digest;
using test::Reply;
using test::ScriptedPeer;

constexpr const char* kReplicaSets = "/apis/apps/v1/namespaces/shop/replicasets";
constexpr const char* kJobs = "/apis/batch/v1/namespaces/shop/jobs";
constexpr const char* kPods = "/api/v1/namespaces/shop/pods";
constexpr const char* kNodes = "/api/v1/nodes";

std::string owner(const std::string& kind, const std::string& uid) {
    return R"("ownerReferences":[{"apiVersion":"apps/v1","kind":")" + kind +
           R"(","name":"x","uid":")" + uid + R"(","controller":true}])";
}

std::string replica_set(const std::string& uid, const std::string& of, int revision) {
    return R"({"metadata":{"name":")" + uid + R"(","namespace":"shop","uid":")" + uid +
           R"(","annotations":{"deployment.kubernetes.io/revision":")" + std::to_string(revision) +
           R"("},)" + owner("Deployment", of) + "}}";
}

std::string pod(const std::string& name, const std::string& of, char hex,
                const std::string& more_metadata = "", const std::string& phase = "Running") {
    return R"({"metadata":{"name":")" + name + R"(","namespace":"shop","uid":")" + name + R"(",)" +
           more_metadata + owner("ReplicaSet", of) +
           R"(},"spec":{"nodeName":"node-1"},"status":{"phase":")" + phase +
           R"(","containerStatuses":[{"name":"app","imageID":"x/y@)" + digest(hex).to_string() +
           R"(","ready":true,"state":{"running":{}}}]}})";
}

Reply list(const std::string& items, const std::string& next = "") {
    return {"200 OK", "Content-Type: application/json\r\n",
            R"({"metadata":{"resourceVersion":"7","continue":")" + next + R"("},"items":[)" +
                items + "]}"};
}

class PodsTest : public testing::Test {
  protected:
    PodsTest() {
        answers[kNodes] = list(
            R"({"metadata":{"name":"node-1"},"status":{"nodeInfo":{"operatingSystem":"linux","architecture":"amd64"}}})");
        answers[kJobs] = list("");
        Workload web = test::deployment("shop", "web", {container("app", "nginx:1.27")});
        web.selector = "app=web";
        catalogue.upsert(web);
        access.server = peer.url();
    }

    Reply answer(const std::string& line) {
        const std::string target = line.substr(4);
        const std::string path = target.substr(0, target.find('?'));
        if (on_request) on_request(target);
        const auto found = answers.find(path);
        return found != answers.end() ? found->second : Reply{"404 Not Found", "", "{}"};
    }
    [[nodiscard]] const Running& running() { return catalogue.find(key)->running; }
    // "a×2 b×1 on linux/amd64", sorted.
    [[nodiscard]] std::string images() {
        std::map<std::string, int> counted;
        for (const RunningImage& image : running().images)
            counted[image.digest.str().substr(7, 1) + " on " + image.platform.str()] += image.pods;
        std::string all;
        for (const auto& [what, pods] : counted)
            all += (all.empty() ? "" : ", ") + std::to_string(pods) + " " + what;
        return all;
    }

    const WorkloadKey key{WorkloadKind::deployment, "shop", "web"};
    Loop loop;
    HttpClient http{loop, "keeld/test"};
    test::TestClock clock;
    Catalogue catalogue{[](const WorkloadKey&) {}};
    std::map<std::string, Reply> answers;
    std::function<void(const std::string&)> on_request;
    ScriptedPeer peer{loop,
                      [this](const std::string& line, const std::string&) { return answer(line); }};
    ClusterAccess access;
};

TEST_F(PodsTest, TheBaselineOfANamespace) {
    answers[kReplicaSets] =
        list(replica_set("rs-1", "uid-web", 1) + "," + replica_set("rs-2", "uid-web", 2));
    answers[kPods] =
        list(pod("web-1", "rs-1", 'a') + "," + pod("web-2", "rs-2", 'b') + "," +
             pod("web-3", "rs-2", 'b') + "," + pod("other-1", "rs-9", 'c') + "," +
             pod("done-1", "rs-2", 'd', "", "Succeeded") + "," +
             pod("going-1", "rs-2", 'e', R"("deletionTimestamp":"2026-11-22T12:00:00Z",)"));
    ClusterClient client(loop, http, access);
    PodReader reader(client, catalogue, clock);
    const auto done = test::await(loop, reader.read_namespace("shop"));
    ASSERT_TRUE(done) << done.error().text;
    EXPECT_TRUE(running().usable());
    EXPECT_EQ(running().pods, 3);
    EXPECT_EQ(images(), "1 a on linux/amd64, 2 b on linux/amd64");
    EXPECT_EQ(reader.platforms(), std::vector<std::string>{"linux/amd64"});
}

TEST_F(PodsTest, WithoutNodesPlatformsStayUnknown) {
    answers[kNodes] = {"403 Forbidden", "",
                       R"({"kind":"Status","reason":"Forbidden","message":"no"})"};
    answers[kReplicaSets] = list(replica_set("rs-1", "uid-web", 1));
    answers[kPods] = list(pod("web-1", "rs-1", 'a'));
    ClusterClient client(loop, http, access);
    PodReader reader(client, catalogue, clock);
    ASSERT_TRUE(test::await(loop, reader.read_namespace("shop")));
    EXPECT_EQ(images(), "1 a on ");
}

TEST_F(PodsTest, AListingThatStartsOverCountsNoPodTwice) {
    answers[kReplicaSets] = list(replica_set("rs-1", "uid-web", 1));
    answers[kPods] = list(pod("web-1", "rs-1", 'a'), "more");
    on_request = [this](const std::string& target) {
        if (target.find("continue=more") != std::string::npos) {
            answers[kPods] = {"410 Gone", "",
                              R"({"kind":"Status","reason":"Expired","message":"too old"})"};
        } else if (target.starts_with(kPods) && peer.asked.size() > 5) {
            answers[kPods] = list(pod("web-1", "rs-1", 'a'));
        }
    };
    ClusterClient client(loop, http, access);
    PodReader reader(client, catalogue, clock);
    const auto done = test::await(loop, reader.read_namespace("shop"));
    ASSERT_TRUE(done) << done.error().text;
    EXPECT_EQ(running().pods, 1);
    EXPECT_EQ(images(), "1 a on linux/amd64");
}

TEST_F(PodsTest, R1_NewAndOlderPodsOfOneWorkload) {
    answers[kReplicaSets] =
        list(replica_set("rs-2", "uid-web", 10) + "," + replica_set("rs-1", "uid-web", 9));
    answers[kPods] = list(pod("web-1", "rs-1", 'a') + "," + pod("web-2", "rs-2", 'b'));
    answers["/api/v1/nodes/node-1"] = {
        "200 OK", "",
        R"({"metadata":{"name":"node-1"},"status":{"nodeInfo":{"operatingSystem":"linux","architecture":"arm64"}}})"};
    ClusterClient client(loop, http, access);
    PodReader reader(client, catalogue, clock);
    const auto pods = test::await(loop, reader.read_workload(key));
    ASSERT_TRUE(pods) << pods.error().text;
    ASSERT_EQ(pods->updated.size(), 1U);
    EXPECT_EQ(pods->updated[0].name, "web-2") << "10 comes after 9";
    ASSERT_EQ(pods->older.size(), 1U);
    EXPECT_EQ(images(), "1 a on linux/arm64, 1 b on linux/arm64");
    EXPECT_NE(peer.asked.at(0).find("labelSelector=app%3Dweb"), std::string::npos);
}

// A canary beside it carries all of its labels and one more.
TEST_F(PodsTest, O6_PodsOfAnotherDeploymentThatTheSelectorMatchesAreNotItsOwn) {
    answers[kReplicaSets] =
        list(replica_set("rs-1", "uid-web", 1) + "," + replica_set("rs-8", "uid-canary", 8));
    answers[kPods] = list(pod("web-1", "rs-1", 'a') + "," + pod("canary-1", "rs-8", 'b'));
    ClusterClient client(loop, http, access);
    PodReader reader(client, catalogue, clock);
    const auto pods = test::await(loop, reader.read_workload(key));
    ASSERT_TRUE(pods);
    EXPECT_EQ(pods->updated.size(), 1U);
    EXPECT_EQ(pods->updated[0].name, "web-1");
    EXPECT_TRUE(pods->older.empty());
    EXPECT_EQ(running().pods, 1);
}

TEST_F(PodsTest, WhatChangesWhileItIsReadIsStale) {
    answers[kReplicaSets] = list(replica_set("rs-1", "uid-web", 1));
    answers[kPods] = list(pod("web-1", "rs-1", 'a'));
    on_request = [this](const std::string& target) {
        if (!target.starts_with(kPods)) return;
        Workload web = catalogue.find(key)->object;
        web.resource_version = "2";
        web.updated = 1;
        catalogue.upsert(web);
    };
    ClusterClient client(loop, http, access);
    PodReader reader(client, catalogue, clock);
    ASSERT_TRUE(test::await(loop, reader.read_workload(key)));
    EXPECT_TRUE(running().known);
    EXPECT_FALSE(running().usable());
    on_request = nullptr;
    ASSERT_TRUE(test::await(loop, reader.read_workload(key)));
    EXPECT_TRUE(running().usable());
}

TEST_F(PodsTest, AWorkloadThatIsGoneIsAnError) {
    ClusterClient client(loop, http, access);
    PodReader reader(client, catalogue, clock);
    catalogue.remove(key);
    EXPECT_EQ(test::await(loop, reader.read_workload(key)).error().code, "not-found");
    EXPECT_TRUE(peer.asked.empty());
}

}  // namespace
}  // namespace keel
