// P5: what is stamped, whose it is, and what an earlier policy left.
#include "keeld/policy/stamps.h"

#include <gtest/gtest.h>

#include "keeld/policy/settings.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

constexpr const char* kPolicy = "keel.sh/policy";
constexpr const char* kTrigger = "keel.sh/trigger";
constexpr const char* kSchedule = "keel.sh/pollSchedule";

class StampsTest : public testing::Test {
  protected:
    StampsTest() { config.stamp = true; }

    void annotate(const std::string& key, const std::string& value,
                  const std::vector<std::string>& managers) {
        workload.annotations[key] = value;
        workload.writers.push_back({KeyPlace::annotation, key, managers});
    }
    void carry(const Stamp& stamp) {
        for (const auto& [key, value] : stamp) {
            annotate(key, value, {std::string(kStampManager)});
        }
    }
    [[nodiscard]] Stamp wanted() const { return stamp_for(workload, &ns, config, {}); }
    [[nodiscard]] std::vector<Leftover> left(const LeftoverRule& rule) const {
        return leftovers_of(workload, &ns, config, rule);
    }

    Workload workload = test::deployment("shop", "web", {test::container("app", "nginx")});
    Namespace ns = test::enrolled("shop");
    Config config;
};

TEST_F(StampsTest, P5_WhatHoldsIsStampedOnEnrolledWorkloads) {
    const Stamp all{{kPolicy, "force"}, {kTrigger, "poll"}, {kSchedule, "@every 1h"}};
    EXPECT_EQ(wanted(), all);
    carry(all);
    EXPECT_EQ(stamped_on(workload), all);
    EXPECT_EQ(wanted(), all) << "it is never read back";
    config.defaults.policy = "minor";
    ns.annotations[kTrigger] = "push";
    EXPECT_EQ(wanted(), (Stamp{{kPolicy, "minor"}, {kTrigger, "push"}, {kSchedule, "@every 1h"}}));
}

TEST_F(StampsTest, P5_NothingIsStampedWhereNothingHolds) {
    config.stamp = false;
    EXPECT_EQ(wanted(), Stamp{});
    config.stamp = true;
    ns.labels.clear();
    EXPECT_EQ(wanted(), Stamp{}) << "not enrolled";
    ns = test::enrolled("shop");
    workload.template_annotations[kPolicy] = "never";
    EXPECT_EQ(wanted(), Stamp{}) << "vetoed";
    workload.template_annotations.clear();
    config.enrolment.exclude.emplace_back("shop");
    EXPECT_EQ(wanted(), Stamp{});
}

TEST_F(StampsTest, P5_WhatSomebodySaysOnTheWorkloadIsNeverStampedOver) {
    const auto says = [this](const std::string& key) { return !wanted().contains(key); };
    annotate(kPolicy, "patch", {"kubectl-edit"});
    EXPECT_TRUE(says(kPolicy));
    EXPECT_TRUE(wanted().contains(kTrigger));
    workload.writers.clear();
    EXPECT_TRUE(says(kPolicy)) << "nobody knows who wrote it";
    workload.annotations.clear();
    annotate("keel.observer/policy", "patch", {"kubectl-edit"});
    EXPECT_TRUE(says(kPolicy)) << "by its other name";
    workload.annotations.clear();
    workload.labels[kTrigger] = "poll";
    EXPECT_TRUE(says(kTrigger)) << "as a label";
    workload.labels.clear();
    workload.writers.clear();
    annotate(kPolicy, "force", {std::string(kStampManager), "kubectl-edit"});
    EXPECT_TRUE(says(kPolicy)) << "it is somebody's, too: it stays when the stamp goes";
}

TEST_F(StampsTest, WhatSomebodyWroteOverAStampIsTheirs) {
    annotate(kPolicy, "patch", {"kubectl-edit"});
    annotate(kTrigger, "poll", {std::string(kStampManager)});
    EXPECT_EQ(stamped_on(workload), (Stamp{{kTrigger, "poll"}}));
}

TEST_F(StampsTest, KyvernosKeysAreFoundByTheirWriters) {
    annotate(kPolicy, "patch", {"kyverno"});
    annotate(kTrigger, "poll", {"kyverno", "kubectl-edit"});
    annotate(kSchedule, "@every 5m", {"Terraform"});
    workload.template_labels[kPolicy] = "patch";
    workload.writers.push_back({KeyPlace::template_label, kPolicy, {"kyverno-background"}});
    const LeftoverRule rule{{"kyverno", "kyverno-*"}, {}};
    const std::vector<Leftover> found = left(rule);
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].key, kPolicy);
    EXPECT_EQ(found[0].where, "workload annotation");
    EXPECT_TRUE(found[0].removable);
    EXPECT_EQ(found[0].then, "patch (pod template label)");
    EXPECT_EQ(found[1].where, "pod template label");
    EXPECT_FALSE(found[1].removable) << "taking it away would restart pods";
}

TEST_F(StampsTest, WhatKyvernoWroteOntoNamespacesIsFound) {
    ns.annotations[kPolicy] = "patch";
    ns.annotations[kSchedule] = "@every 5m";
    ns.labels[kTrigger] = "push";
    ns.labels["team"] = "media";
    ns.writers = {{KeyPlace::annotation, kPolicy, {"kyverno"}},
                  {KeyPlace::annotation, kSchedule, {"kyverno", "Terraform"}},
                  {KeyPlace::label, kTrigger, {"background-controller"}},
                  {KeyPlace::label, "keel.sh/enrolled", {"Terraform"}}};
    const LeftoverRule rule{{"kyverno", "background-controller"}, {{"team", "media"}}};
    const std::vector<Leftover> found = leftovers_of(ns, config, rule);
    ASSERT_EQ(found.size(), 2U) << "one is written by a person, too; one is none of our keys";
    EXPECT_EQ(found[0].where, "namespace annotation");
    EXPECT_TRUE(found[0].removable);
    EXPECT_EQ(found[0].then, "force (default)");
    EXPECT_EQ(found[1].where, "namespace label");
    EXPECT_FALSE(found[1].removable) << "others may select by it";
    EXPECT_EQ(found[1].then, "push (namespace label)");
}

TEST_F(StampsTest, KeysOfTheWebhookAreFoundByTheirValues) {
    annotate(kPolicy, "patch", {"Terraform"});
    annotate(kSchedule, "@every 5m", {"Terraform"});
    const LeftoverRule rule{{"kyverno"}, {{kPolicy, "patch"}, {kSchedule, "@every 1h"}}};
    const std::vector<Leftover> found = left(rule);
    ASSERT_EQ(found.size(), 1U) << "another value is somebody's own";
    EXPECT_EQ(found[0].then, "force (default)");
    EXPECT_EQ(found[0].managers, std::vector<std::string>{"Terraform"});
}

}  // namespace
}  // namespace keel
