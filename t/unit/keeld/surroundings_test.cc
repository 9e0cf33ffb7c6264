// What stands around a rollout: how pods are replaced, and what the API server's answers mean.
#include "keeld/rollout/surroundings.h"

#include <gtest/gtest.h>

namespace keel {
namespace {

Json object(const std::string& spec, const std::string& status = "{}") {
    Json whole =
        parse_json(R"({"metadata":{"uid":"u"},"spec":)" + spec + R"(,"status":)" + status + "}");
    EXPECT_NE(whole, nullptr) << spec;
    return whole;
}

Replacement deployment(int replicas, const std::string& strategy, const std::string& pod = "{}") {
    const Json whole = object(R"({"replicas":)" + std::to_string(replicas) + R"(,"strategy":)" +
                              strategy + R"(,"template":{"spec":)" + pod + "}}");
    return replacement_of(WorkloadKind::deployment, whole.get());
}

std::string rolling(const std::string& surge, const std::string& unavailable) {
    return R"({"type":"RollingUpdate","rollingUpdate":{"maxSurge":)" + surge +
           R"(,"maxUnavailable":)" + unavailable + "}}";
}

TEST(Surroundings, R2_SharesAreRoundedAsKubernetesDoes) {
    const std::string usual = rolling("\"25%\"", "\"25%\"");
    EXPECT_EQ(deployment(1, usual).surge, 1);
    EXPECT_EQ(deployment(1, usual).unavailable, 0);
    EXPECT_TRUE(deployment(3, usual).waits_for_new());
    EXPECT_EQ(deployment(4, usual).unavailable, 1);
    EXPECT_EQ(deployment(5, usual).surge, 2);
    EXPECT_FALSE(deployment(4, usual).waits_for_new());
    EXPECT_EQ(deployment(2, rolling("0", "0")).unavailable, 1) << "one has to give";
    EXPECT_FALSE(deployment(2, rolling("0", "\"10%\"")).waits_for_new());
    const Replacement recreated = deployment(3, R"({"type":"Recreate"})");
    EXPECT_EQ(recreated.unavailable, 3);
    EXPECT_FALSE(recreated.waits_for_new());
}

TEST(Surroundings, R2_ADaemonSetHasAsManyPodsAsNodes) {
    const Json whole = object(R"({"updateStrategy":)" + rolling("0", "\"60%\"") + "}",
                              R"({"desiredNumberScheduled":3})");
    const Replacement found = replacement_of(WorkloadKind::daemon_set, whole.get());
    EXPECT_EQ(found.pods, 3);
    EXPECT_EQ(found.unavailable, 2) << "rounded up";
    EXPECT_FALSE(found.waits_for_new());
}

TEST(Surroundings, R2_WhatAPodTakesOfItsNodeIsSeen) {
    const Replacement found = deployment(1, rolling("1", "0"), R"({
        "containers":[{"ports":[{"containerPort":80}]},{"ports":[{"hostPort":53}]}],
        "volumes":[{"emptyDir":{}},{"persistentVolumeClaim":{"claimName":"data"}}],
        "nodeSelector":{"disk":"ssd","zone":"b"}})");
    EXPECT_TRUE(found.host_ports);
    EXPECT_EQ(found.claims, std::vector<std::string>{"data"});
    EXPECT_EQ(found.node_selector, "disk=ssd,zone=b");
    const Replacement plain =
        deployment(1, rolling("1", "0"), R"({"containers":[{"ports":[{"containerPort":80}]}]})");
    EXPECT_FALSE(plain.host_ports);
    EXPECT_TRUE(plain.claims.empty());
}

TEST(Surroundings, R2_ATrialPodIsWhatTheControllerWouldMake) {
    const Json set = object(R"({"template":{"metadata":{"labels":{"app":"db"},
        "creationTimestamp":null},"spec":{"containers":[{"name":"c"}]}},
        "volumeClaimTemplates":[{"metadata":{"name":"data"}}]})");
    const Json pod = trial_pod({WorkloadKind::stateful_set, "ns", "db"}, set.get());
    EXPECT_EQ(dump_json(json_object_get(pod.get(), "metadata")),
              R"({"labels":{"app":"db"},"generateName":"db-","ownerReferences":[{"apiVersion":)"
              R"("apps/v1","kind":"StatefulSet","name":"db","uid":"u","controller":true}]})");
    EXPECT_EQ(dump_json(json_object_get(pod.get(), "spec")),
              R"({"containers":[{"name":"c"}],"volumes":[{"name":"data","persistentVolumeClaim":)"
              R"({"claimName":"data-db-0"}}]})");
    const Json cron = object(R"({"jobTemplate":{"spec":{"template":{"spec":{"x":1}}}}})");
    const Json job = trial_pod({WorkloadKind::cron_job, "ns", "n"}, cron.get());
    EXPECT_EQ(dump_json(json_object_get(job.get(), "spec")), R"({"x":1})");
}

TEST(Surroundings, R2_AFullQuotaStopsOnlyWhoNeedsRoomBesideTheOldPods) {
    const Error full{"forbidden", "pods is forbidden: exceeded quota: small, requested: pods=1"};
    const Replacement beside = deployment(1, rolling("1", "0"));
    const Replacement after = deployment(1, R"({"type":"Recreate"})");
    ASSERT_TRUE(judge_trial(full, beside));
    EXPECT_EQ(judge_trial(full, beside)->code, "quota-exceeded");
    EXPECT_NE(judge_trial(full, beside)->text.find("exceeded quota: small"), std::string::npos);
    EXPECT_FALSE(judge_trial(full, after));
    const Error denied{"invalid", "denied request: not from our registry"};
    ASSERT_TRUE(judge_trial(denied, after));
    EXPECT_EQ(judge_trial(denied, after)->code, "pod-refused");
    EXPECT_FALSE(judge_trial({"unreachable", "gone"}, beside)) << "nobody refused it";
}

TEST(Surroundings, R2_AVolumeForOneNodeOrOnePodIsInTheWay) {
    const auto code = [](const std::string& modes, std::size_t nodes) {
        const Json claim =
            parse_json(R"({"metadata":{"name":"data"},"spec":{"accessModes":)" + modes + "}}");
        const std::optional<Obstacle> found = judge_claim(claim.get(), nodes);
        return found ? found->code : "";
    };
    EXPECT_EQ(code(R"(["ReadWriteOnce"])", 2), "volume-in-use");
    EXPECT_EQ(code(R"(["ReadWriteOnce"])", 1), "") << "the same node has it";
    EXPECT_EQ(code(R"(["ReadWriteOnce"])", 0), "") << "nobody knows how many nodes there are";
    EXPECT_EQ(code(R"(["ReadWriteOncePod"])", 1), "volume-in-use");
    EXPECT_EQ(code(R"(["ReadWriteOnce","ReadWriteMany"])", 3), "");
    EXPECT_EQ(code("[]", 3), "");
}

}  // namespace
}  // namespace keel
