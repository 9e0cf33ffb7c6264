// The workloads, what their containers refer to and what their pods run, kept right by listings and
// single changes.
#include "keeld/catalogue/catalogue.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::container;
using test::deployment;
using test::enrolled;
using test::tag;

class CatalogueTest : public testing::Test {
  protected:
    WorkloadKey key(const std::string& ns, const std::string& name) {
        return {WorkloadKind::deployment, ns, name};
    }
    Workload web(const std::string& version = "1", const std::string& image = "nginx:1.27") {
        Workload workload = deployment("shop", "web", {container("app", image)});
        workload.resource_version = version;
        return workload;
    }
    void known(std::uint64_t as_of) {
        Running running;
        running.known = true;
        catalogue.set_running(key("shop", "web"), running, as_of);
    }
    [[nodiscard]] const CatalogueEntry& entry() { return *catalogue.find(key("shop", "web")); }

    std::vector<std::string> changed;
    Catalogue catalogue{[this](const WorkloadKey& one) { changed.push_back(one.to_string()); }};
};

TEST_F(CatalogueTest, TagsLeadToWorkloadsHoweverTheyAreSpelled) {
    catalogue.upsert(deployment("a", "one", {container("app", "nginx:1.27")}));
    catalogue.upsert(deployment("b", "two", {container("app", "docker.io/library/nginx:1.27")}));
    catalogue.upsert(deployment("b", "three", {container("app", "nginx:1.28")}));
    catalogue.upsert(deployment("b", "four", {container("app", "Not A Reference")}));
    const Consumers& both = catalogue.consumers(tag());
    EXPECT_EQ(std::vector<WorkloadKey>(both.begin(), both.end()),
              (std::vector{key("a", "one"), key("b", "two")}));
    EXPECT_EQ(catalogue.by_tag().size(), 2U);
    EXPECT_TRUE(catalogue.consumers(tag("none")).empty());
}

TEST_F(CatalogueTest, O6_InitContainersAreFollowedToo) {
    Container init = container("setup", "busybox:1");
    init.init = true;
    catalogue.upsert(deployment("shop", "web", {init, container("app", "nginx:1.27")}));
    EXPECT_EQ(catalogue.consumers(Tag{"docker.io", "library/busybox", "1"}).size(), 1U);
    EXPECT_EQ(entry().references.size(), 2U);
}

TEST_F(CatalogueTest, AChangedImageMovesTheWorkloadInTheIndex) {
    catalogue.upsert(web("1", "nginx:1.27"));
    catalogue.upsert(web("2", "nginx:1.28"));
    EXPECT_TRUE(catalogue.consumers(tag("1.27")).empty());
    EXPECT_EQ(catalogue.consumers(tag("1.28")).size(), 1U);
    catalogue.remove(key("shop", "web"));
    EXPECT_TRUE(catalogue.by_tag().empty());
    EXPECT_EQ(changed.size(), 3U);
    catalogue.remove(key("shop", "web"));
    EXPECT_EQ(changed.size(), 3U);
}

TEST_F(CatalogueTest, TheSameVersionIsNoChange) {
    catalogue.upsert(web());
    catalogue.upsert(web());
    EXPECT_EQ(changed.size(), 1U);
}

// A watch may tell of the end of a rollout before the answer to the patch that began it has come.
TEST_F(CatalogueTest, P7_AnAnswerDoesNotUndoWhatAWatchToldMeanwhile) {
    catalogue.upsert(web("9"));
    catalogue.upsert(web("11", "nginx:new"));
    catalogue.answered(web("10", "nginx:old"));
    EXPECT_EQ(entry().object.resource_version, "11");
    catalogue.answered(web("12", "nginx:newest"));
    EXPECT_EQ(entry().object.containers[0].image, "nginx:newest");
    // A listing after the server went back to a backup is believed all the same.
    catalogue.upsert(web("5"));
    EXPECT_EQ(entry().object.resource_version, "5");
    Workload namesake = web("1");
    namesake.uid = "uid-again";
    catalogue.answered(namesake);
    EXPECT_EQ(entry().object.uid, "uid-again");
}

TEST_F(CatalogueTest, P7_AListingEndsWhatItDidNotSee) {
    catalogue.upsert(deployment("a", "one", {}));
    catalogue.upsert(deployment("b", "two", {}));
    Workload other = deployment("b", "set", {});
    other.key.kind = WorkloadKind::stateful_set;
    catalogue.upsert(other);

    catalogue.begin(WorkloadKind::deployment, "");
    catalogue.upsert(deployment("b", "two", {}));
    catalogue.upsert(deployment("c", "three", {}));
    EXPECT_EQ(catalogue.workloads().size(), 4U) << "nothing goes before the end";
    catalogue.end(WorkloadKind::deployment, "");
    EXPECT_EQ(catalogue.workloads().size(), 3U);
    EXPECT_EQ(catalogue.find(key("a", "one")), nullptr);

    catalogue.begin(WorkloadKind::deployment, "b");
    catalogue.end(WorkloadKind::deployment, "b");
    EXPECT_EQ(catalogue.find(key("b", "two")), nullptr);
    EXPECT_NE(catalogue.find(key("c", "three")), nullptr) << "another namespace";
    EXPECT_NE(catalogue.find(other.key), nullptr) << "another kind";
}

TEST_F(CatalogueTest, P4_ANamespaceThatChangesConcernsItsWorkloads) {
    catalogue.upsert(deployment("shop", "web", {}));
    catalogue.upsert(deployment("other", "web", {}));
    changed.clear();
    catalogue.upsert(enrolled("shop"));
    EXPECT_EQ(changed, std::vector<std::string>{"Deployment/shop/web"});
    catalogue.upsert(enrolled("shop"));
    EXPECT_EQ(changed.size(), 1U) << "nothing of it changed";
    Namespace released = enrolled("shop");
    released.labels.clear();
    catalogue.upsert(released);
    EXPECT_EQ(changed.size(), 2U);
    catalogue.begin_namespaces("");
    catalogue.end_namespaces("");
    EXPECT_EQ(changed.size(), 3U);
    EXPECT_EQ(catalogue.find_namespace("shop"), nullptr);
}

TEST_F(CatalogueTest, WhatPodsRunGoesStaleWithTheirWorkload) {
    catalogue.upsert(web("1"));
    EXPECT_FALSE(entry().running.known);
    known(catalogue.changes());
    EXPECT_TRUE(entry().running.usable());
    Workload annotated = web("2");
    annotated.annotations["keel.sh/policy"] = "never";
    catalogue.upsert(annotated);
    EXPECT_TRUE(entry().running.usable()) << "no pod was replaced for that";
    Workload updated = web("3");
    updated.updated = 1;
    catalogue.upsert(updated);
    EXPECT_TRUE(entry().running.known);
    EXPECT_TRUE(entry().running.stale);
}

// Pods take a while to be listed. What changed meanwhile is not in the listing.
TEST_F(CatalogueTest, AChangeDuringAListingOfPodsIsNotLost) {
    catalogue.upsert(web("1"));
    const std::uint64_t begun = catalogue.changes();
    Workload updated = web("2");
    updated.updated = 1;
    catalogue.upsert(updated);
    known(begun);
    EXPECT_TRUE(entry().running.stale);
    known(catalogue.changes());
    EXPECT_FALSE(entry().running.stale);
}

TEST_F(CatalogueTest, ANamesakeIsAnotherWorkload) {
    catalogue.upsert(web("1"));
    const std::uint64_t begun = catalogue.changes();
    known(begun);
    Workload again = web("2");
    again.uid = "uid-again";
    catalogue.upsert(again);
    EXPECT_FALSE(entry().running.known);
    known(begun);
    EXPECT_FALSE(entry().running.usable()) << "those were the pods of the earlier one";
}

}  // namespace
}  // namespace keel
