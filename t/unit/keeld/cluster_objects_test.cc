// What keeld reads of Kubernetes objects, from JSON of the shape that an API server of 1.34 gives.
#include "keeld/cluster/objects.h"

#include <gtest/gtest.h>
#include <jansson.h>

#include <algorithm>

#include "keeld/cluster/page.h"
#include "keeld/json.h"

namespace keel {
namespace {

constexpr char kDeployment[] = R"({
  "apiVersion": "apps/v1", "kind": "Deployment",
  "metadata": {
    "name": "web", "namespace": "shop", "uid": "6f1f0f7c-5a57-4a4e-9d0b-0c5b6a3f6a11",
    "resourceVersion": "4711", "generation": 3, "creationTimestamp": "2026-11-01T10:00:00Z",
    "labels": {"app": "web", "keel.sh/policy": "never"},
    "annotations": {"deployment.kubernetes.io/revision": "7", "keel.sh/minAge": "1h",
      "keel.observer/policy": "force", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
    "managedFields": [{"manager": "kubectl", "operation": "Update"}]
  },
  "spec": {
    "replicas": 3, "progressDeadlineSeconds": 120, "revisionHistoryLimit": 10, "paused": true,
    "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
      {"key": "tier", "operator": "In", "values": ["a", "b"]},
      {"key": "zone", "operator": "NotIn", "values": ["c"]},
      {"key": "live", "operator": "Exists"}, {"key": "old", "operator": "DoesNotExist"}]},
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
    "template": {
      "metadata": {"creationTimestamp": null, "labels": {"app": "web", "keel.sh/x": "l"},
        "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-20T00:00:00Z", "keel.sh/x": "a"}},
      "spec": {
        "initContainers": [{"name": "migrate", "image": "registry.lan:5000/shop/migrate:1.2",
          "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always"}],
        "containers": [
          {"name": "web", "image": "docker.io/library/nginx:latest", "imagePullPolicy": "Always"},
          {"name": "side", "image": "side@sha256:00", "imagePullPolicy": "Never"}]}}},
  "status": {
    "observedGeneration": 3, "replicas": 4, "updatedReplicas": 2, "readyReplicas": 3,
    "availableReplicas": 3, "unavailableReplicas": 1,
    "conditions": [{"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
      {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]}
})";

Workload decode(WorkloadKind kind, const char* text) {
    const Json json = parse_json(text);
    EXPECT_NE(json, nullptr);
    const Expected<Workload> workload =
        decode_workload(kind, json.get(), "kubectl.kubernetes.io/restartedAt");
    EXPECT_TRUE(workload) << workload.error().text;
    return workload.value_or(Workload{});
}

TEST(ClusterObjectsTest, Deployment) {
    const Workload web = decode(WorkloadKind::deployment, kDeployment);
    EXPECT_EQ(web.key.to_string(), "Deployment/shop/web");
    EXPECT_EQ(web.key.path(), "/apis/apps/v1/namespaces/shop/deployments/web");
    EXPECT_EQ(web.uid, "6f1f0f7c-5a57-4a4e-9d0b-0c5b6a3f6a11");
    EXPECT_EQ(web.resource_version, "4711");
    EXPECT_EQ(web.generation, 3);
    EXPECT_EQ(web.observed_generation, 3);
    EXPECT_EQ(web.annotations,
              (KeelKeys{{"keel.sh/minAge", "1h"}, {"keel.observer/policy", "force"}}));
    EXPECT_EQ(web.labels, (KeelKeys{{"keel.sh/policy", "never"}}));
    EXPECT_EQ(web.template_annotations, (KeelKeys{{"keel.sh/x", "a"}}));
    EXPECT_EQ(web.template_labels, (KeelKeys{{"keel.sh/x", "l"}}));
    EXPECT_EQ(web.selector, "app=web,tier in (a,b),zone notin (c),live,!old");
    EXPECT_EQ(web.marker, "2026-11-20T00:00:00Z");
    EXPECT_FALSE(web.controller);
    EXPECT_EQ(web.replicas, 3);
    EXPECT_EQ(web.updated, 2);
    EXPECT_EQ(web.ready, 3);
    EXPECT_EQ(web.available, 3);
    EXPECT_EQ(web.current, 4);
    EXPECT_TRUE(web.paused);
    EXPECT_TRUE(web.deadline_exceeded);
    EXPECT_FALSE(web.was_complete);
    EXPECT_EQ(web.progress_deadline, 120);
    EXPECT_EQ(web.revision, "7");
    EXPECT_FALSE(web.rolled_out());
}

TEST(ClusterObjectsTest, O6_ContainersByNameInitContainersFirst) {
    const Workload web = decode(WorkloadKind::deployment, kDeployment);
    ASSERT_EQ(web.containers.size(), 3U);
    EXPECT_EQ(web.containers[0].name, "migrate");
    EXPECT_TRUE(web.containers[0].init);
    EXPECT_EQ(web.containers[0].pull, PullPolicy::if_not_present);
    EXPECT_EQ(web.containers[0].image, "registry.lan:5000/shop/migrate:1.2");
    EXPECT_EQ(web.containers[1].name, "web");
    EXPECT_EQ(web.containers[1].image, "docker.io/library/nginx:latest");
    EXPECT_EQ(web.containers[1].pull, PullPolicy::always);
    EXPECT_FALSE(web.containers[1].init);
    EXPECT_EQ(web.containers[2].pull, PullPolicy::never);
}

TEST(ClusterObjectsTest, ImageVolumesStandBesideContainers) {
    const Workload web = decode(WorkloadKind::deployment, R"({
      "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
      "spec": {"template": {"spec": {
        "containers": [{"name": "data", "image": "nginx:1"}],
        "volumes": [{"name": "tmp", "emptyDir": {}},
          {"name": "data", "image": {"reference": "ghcr.io/shop/data:7", "pullPolicy": "IfNotPresent"}},
          {"name": "later", "image": {"pullPolicy": "Always"}}]}}}})");
    ASSERT_EQ(web.containers.size(), 2U);
    EXPECT_FALSE(web.containers[0].volume);
    EXPECT_EQ(web.containers[0].own_name(), "data");
    const Container& volume = web.containers[1];
    EXPECT_TRUE(volume.volume);
    EXPECT_FALSE(volume.init);
    EXPECT_EQ(volume.name, "volume/data");
    EXPECT_EQ(volume.own_name(), "data");
    EXPECT_EQ(volume.image, "ghcr.io/shop/data:7");
    EXPECT_EQ(volume.pull, PullPolicy::if_not_present);
    EXPECT_EQ(web.find_container("data"), &web.containers[0]);
    EXPECT_EQ(web.find_container("volume/data"), &volume);
    EXPECT_EQ(web.find_container("later"), nullptr);
    EXPECT_TRUE(is_volume_name(volume.name));
    EXPECT_FALSE(is_volume_name("data"));
}

// Where pods with this in their template may run: "linux/amd64", "linux/arm64/v8", "windows/amd64".
std::string allowed(const std::string& spec) {
    const std::string text = R"({"metadata": {"name": "web", "namespace": "shop", "uid": "u"},
      "spec": {"template": {"spec": {)" +
                             spec + "}}}}";
    const Workload web = decode(WorkloadKind::deployment, text.c_str());
    EXPECT_TRUE(web.runs_on("")) << "nobody knows";
    std::string all;
    for (const char* one : {"linux/amd64", "linux/arm64/v8", "windows/amd64"})
        all += web.runs_on(one) ? "y" : "n";
    return all;
}

std::string affinity(const std::string& terms) {
    return R"("affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
      {"nodeSelectorTerms": [)" +
           terms + "]}}}";
}

TEST(ClusterObjectsTest, ThePodTemplateNarrowsThePlatforms) {
    const std::string arm =
        R"({"key": "kubernetes.io/arch", "operator": "In", "values": ["arm64"]})";
    const std::string not_linux =
        R"({"key": "beta.kubernetes.io/os", "operator": "NotIn", "values": ["linux"]})";
    const std::string disk = R"({"key": "disk", "operator": "In", "values": ["ssd"]})";
    const auto term = [](const std::string& expressions) {
        return R"({"matchExpressions": [)" + expressions + "]}";
    };
    EXPECT_EQ(allowed(""), "yyy");
    EXPECT_EQ(allowed(R"("nodeSelector": {"disk": "ssd"})"), "yyy");
    EXPECT_EQ(allowed(R"("nodeSelector": {"kubernetes.io/arch": "arm64"})"), "nyn");
    EXPECT_EQ(allowed(R"("nodeSelector": {"beta.kubernetes.io/arch": "amd64"})"), "yny");
    EXPECT_EQ(allowed(R"("nodeSelector": {"kubernetes.io/os": "linux"})"), "yyn");
    EXPECT_EQ(allowed(affinity(term(arm))), "nyn");
    EXPECT_EQ(allowed(affinity(term(not_linux))), "nny");
    EXPECT_EQ(allowed(affinity(term(arm) + "," + term(not_linux))), "nyy") << "alternatives";
    EXPECT_EQ(allowed(affinity(term(arm + "," + not_linux))), "nnn") << "all of one term";
    EXPECT_EQ(allowed(affinity(term(arm) + "," + term(disk))), "yyy") << "by its disk";
    EXPECT_EQ(allowed(affinity(term(arm) + ",{}")), "nyn") << "an empty term matches no node";
    EXPECT_EQ(allowed(affinity(term(R"({"key": "kubernetes.io/os", "operator": "Exists"})"))),
              "yyy");
    EXPECT_EQ(allowed(R"("nodeSelector": {"kubernetes.io/os": "linux"}, )" +
                      affinity(term(arm) + "," + term(not_linux))),
              "nyn")
        << "the selector holds beside each term";
}

TEST(ClusterObjectsTest, StatefulSet) {
    const Workload db = decode(WorkloadKind::stateful_set, R"({
      "metadata": {"name": "db", "namespace": "shop", "uid": "u", "generation": 2,
        "ownerReferences": [
          {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "cu"},
          {"apiVersion": "postgresql.cnpg.io/v1", "kind": "Cluster", "name": "pg", "uid": "pu",
           "controller": true, "blockOwnerDeletion": true}]},
      "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "db"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}},
        "template": {"metadata": {}, "spec": {"containers": [{"name": "db", "image": "postgres:17"}]}}},
      "status": {"observedGeneration": 2, "replicas": 2, "readyReplicas": 2, "availableReplicas": 2,
        "updatedReplicas": 2, "currentRevision": "db-1", "updateRevision": "db-2"}})");
    ASSERT_TRUE(db.controller);
    EXPECT_EQ(db.controller->kind, "Cluster");
    EXPECT_EQ(db.controller->api_version, "postgresql.cnpg.io/v1");
    EXPECT_EQ(db.controller->uid, "pu");
    EXPECT_TRUE(db.partitioned);
    EXPECT_FALSE(db.on_delete);
    EXPECT_EQ(db.revision, "db-2");
    EXPECT_EQ(db.progress_deadline, 600);
    EXPECT_TRUE(db.rolled_out());
}

TEST(ClusterObjectsTest, DaemonSet) {
    const Workload agent = decode(WorkloadKind::daemon_set, R"({
      "metadata": {"name": "agent", "namespace": "ops", "generation": 5},
      "spec": {"selector": {"matchLabels": {"app": "agent"}}, "updateStrategy": {"type": "OnDelete"},
        "template": {"spec": {"containers": []}}},
      "status": {"observedGeneration": 4, "currentNumberScheduled": 3, "desiredNumberScheduled": 3,
        "numberAvailable": 3, "numberReady": 3, "updatedNumberScheduled": 3, "numberMisscheduled": 0}})");
    EXPECT_TRUE(agent.on_delete);
    EXPECT_EQ(agent.replicas, 3);
    EXPECT_EQ(agent.ready, 3);
    EXPECT_FALSE(agent.rolled_out()) << "the newest generation has not been seen";
}

TEST(ClusterObjectsTest, CronJob) {
    const Workload nightly = decode(WorkloadKind::cron_job, R"({
      "metadata": {"name": "nightly", "namespace": "shop"},
      "spec": {"schedule": "0 3 * * *", "suspend": true, "jobTemplate": {"metadata": {},
        "spec": {"template": {"metadata": {"annotations":
          {"kubectl.kubernetes.io/restartedAt": "x", "keel.sh/policy": "never"}},
          "spec": {"containers": [{"name": "job", "image": "shop/job", "imagePullPolicy": "Always"}],
                   "restartPolicy": "OnFailure"}}}}},
      "status": {}})");
    EXPECT_EQ(nightly.key.path(), "/apis/batch/v1/namespaces/shop/cronjobs/nightly");
    EXPECT_TRUE(nightly.paused);
    EXPECT_EQ(nightly.selector, "");
    EXPECT_EQ(nightly.marker, "x");
    EXPECT_EQ(nightly.template_annotations, (KeelKeys{{"keel.sh/policy", "never"}}));
    ASSERT_EQ(nightly.containers.size(), 1U);
    EXPECT_TRUE(nightly.rolled_out());
}

TEST(ClusterObjectsTest, RolledOutMeansNothingOldIsLeft) {
    Workload web;
    web.generation = web.observed_generation = 2;
    web.replicas = web.updated = web.available = web.current = 3;
    EXPECT_TRUE(web.rolled_out());
    web.current = 4;
    EXPECT_FALSE(web.rolled_out()) << "an old pod is still there";
    web.current = 3;
    web.available = 2;
    EXPECT_FALSE(web.rolled_out());
    web.available = 3;
    web.updated = 2;
    EXPECT_FALSE(web.rolled_out());
    web.updated = 3;
    web.generation = 3;
    EXPECT_FALSE(web.rolled_out());
}

TEST(ClusterObjectsTest, Namespace) {
    const Json json = parse_json(R"({"metadata": {"name": "shop", "uid": "n",
      "labels": {"kubernetes.io/metadata.name": "shop", "keel.sh/enrolled": "true"},
      "annotations": {"keel.sh/policy": "never", "other": "x"}},
      "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}})");
    const auto ns = decode_namespace(json.get());
    ASSERT_TRUE(ns) << ns.error().text;
    EXPECT_EQ(ns->name, "shop");
    EXPECT_TRUE(ns->terminating);
    EXPECT_EQ(ns->labels.size(), 2U);
    EXPECT_EQ(ns->annotations, (KeelKeys{{"keel.sh/policy", "never"}}));
}

TEST(ClusterObjectsTest, Pod) {
    const Json json = parse_json(R"({
      "metadata": {"name": "web-7d9c-x2x", "namespace": "shop", "uid": "p",
        "deletionTimestamp": "2026-11-22T12:00:00Z",
        "labels": {"app": "web", "pod-template-hash": "7d9c"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d9c",
          "uid": "r", "controller": true}]},
      "spec": {"nodeName": "node-1"},
      "status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"},
          {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}],
        "initContainerStatuses": [{"name": "migrate", "restartCount": 0, "ready": true,
          "imageID": "registry.lan/shop/migrate@sha256:aa",
          "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}],
        "containerStatuses": [
          {"name": "web", "restartCount": 4, "ready": false, "started": true, "imageID": "",
           "state": {"waiting": {"reason": "CrashLoopBackOff"}},
           "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}},
          {"name": "side", "restartCount": 0, "ready": true,
           "imageID": "docker.io/library/nginx@sha256:bb",
           "state": {"running": {"startedAt": "2026-11-22T11:00:00Z"}}, "lastState": {}}]}})");
    const auto pod = decode_pod(json.get());
    ASSERT_TRUE(pod) << pod.error().text;
    EXPECT_EQ(pod->node, "node-1");
    EXPECT_EQ(pod->revision_hash, "7d9c");
    ASSERT_TRUE(pod->controller);
    EXPECT_EQ(pod->controller->uid, "r");
    EXPECT_TRUE(pod->terminating);
    EXPECT_TRUE(pod->ready);
    EXPECT_TRUE(pod->unschedulable);
    EXPECT_FALSE(pod->finished());
    ASSERT_EQ(pod->containers.size(), 3U);
    EXPECT_TRUE(pod->containers[0].init);
    EXPECT_EQ(pod->containers[0].terminated_reason, "Completed");
    EXPECT_EQ(pod->containers[1].waiting_reason, "CrashLoopBackOff");
    EXPECT_EQ(pod->containers[1].terminated_reason, "OOMKilled");
    EXPECT_EQ(pod->containers[1].restarts, 4);
    EXPECT_FALSE(pod->containers[1].running);
    EXPECT_TRUE(pod->containers[2].running);
    EXPECT_TRUE(pod->containers[2].ready);
    EXPECT_EQ(pod->containers[2].terminated_reason, "");
}

TEST(ClusterObjectsTest, Identity) {
    const Json set = parse_json(R"({"kind": "ReplicaSet", "metadata": {"name": "web-7d9c",
      "namespace": "shop", "uid": "r", "labels": {"pod-template-hash": "7d9c"},
      "annotations": {"deployment.kubernetes.io/revision": "7"},
      "ownerReferences": [{"kind": "Deployment", "name": "web", "uid": "d", "controller": true}]}})");
    const auto replica_set = decode_identity(set.get());
    ASSERT_TRUE(replica_set);
    EXPECT_EQ(replica_set->hash, "7d9c");
    EXPECT_EQ(replica_set->revision, "7");
    EXPECT_EQ(replica_set->controller->uid, "d");
    const Json revision = parse_json(R"({"metadata": {"name": "db-2", "namespace": "shop",
      "uid": "c", "labels": {"controller.kubernetes.io/hash": "5b8"}}, "revision": 12})");
    const auto controller_revision = decode_identity(revision.get());
    ASSERT_TRUE(controller_revision);
    EXPECT_EQ(controller_revision->hash, "5b8");
    EXPECT_EQ(controller_revision->revision, "12");
}

TEST(ClusterObjectsTest, WrongTypesAreNamedAbsentFieldsAreDefaults) {
    struct Case {
        const char* json;
        const char* expected;
    };
    for (
        const Case& c : {
            Case{R"([])", "no object"},
            Case{R"({"metadata": {}})", "no name"},
            Case{R"({"metadata": {"name": 5}})", "name is not a string"},
            Case{R"({"metadata": {"name": "w", "labels": {"keel.sh/a": true}}})", "labels"},
            Case{R"({"metadata": {"name": "w", "labels": []}})", "labels is not an object"},
            Case{R"({"metadata": {"name": "w"}, "spec": {"replicas": "3"}})", "replicas"},
            Case{R"({"metadata": {"name": "w"}, "spec": {"replicas": -1}})", "replicas"},
            Case{R"({"metadata": {"name": "w"}, "spec": {"replicas": 99999999999}})", "replicas"},
            Case{R"({"metadata": {"name": "w"}, "spec": {"paused": "yes"}})", "paused"},
            Case{
                R"({"metadata": {"name": "w"}, "spec": {"template": {"spec": {"containers": {}}}}})",
                "containers is not a list"},
            Case{
                R"({"metadata": {"name": "w"}, "spec": {"template": {"spec": {"containers": [1]}}}})",
                "containers is not a list of objects"},
            Case{R"({"metadata": {"name": "w"}, "spec": {"selector": {"matchExpressions":
                      [{"key": "k", "operator": "Gt", "values": ["1"]}]}}})",
                 "operator"},
        }) {
        const Json json = parse_json(c.json);
        ASSERT_NE(json, nullptr) << c.json;
        const auto workload = decode_workload(WorkloadKind::deployment, json.get(), "m");
        ASSERT_FALSE(workload) << c.json;
        EXPECT_EQ(workload.error().code, "bad-object");
        EXPECT_NE(workload.error().text.find(c.expected), std::string::npos)
            << workload.error().text;
    }
    const Json bare = parse_json(R"({"metadata": {"name": "w"}, "spec": null})");
    const auto workload = decode_workload(WorkloadKind::deployment, bare.get(), "");
    ASSERT_TRUE(workload) << workload.error().text;
    EXPECT_EQ(workload->replicas, 1);
    EXPECT_EQ(workload->progress_deadline, 600);
    EXPECT_FALSE(decode_workload(WorkloadKind::deployment, nullptr, ""));
}

TEST(ClusterObjectsTest, ImageIds) {
    const std::string digest = "sha256:" + std::string(64, 'a');
    EXPECT_EQ(digest_of_image_id("docker.io/library/nginx@" + digest), digest);
    EXPECT_EQ(digest_of_image_id("docker-pullable://registry:5000/a/b@" + digest), digest);
    EXPECT_EQ(digest_of_image_id("docker://" + digest), digest);
    EXPECT_EQ(digest_of_image_id(digest), digest);
    EXPECT_EQ(digest_of_image_id(""), "");
    EXPECT_EQ(digest_of_image_id("docker.io/library/nginx:latest"), "");
    EXPECT_EQ(digest_of_image_id("x@sha256:short"), "");
    EXPECT_EQ(repository_of_image_id("registry:5000/a/b@" + digest), "registry:5000/a/b");
    EXPECT_EQ(repository_of_image_id("docker-pullable://a/b@" + digest), "a/b");
    EXPECT_EQ(repository_of_image_id(digest), "");
}

TEST(ClusterObjectsTest, KindsAndKeys) {
    EXPECT_EQ(parse_kind("deploy"), WorkloadKind::deployment);
    EXPECT_EQ(parse_kind("Deployments"), WorkloadKind::deployment);
    EXPECT_EQ(parse_kind("STS"), WorkloadKind::stateful_set);
    EXPECT_EQ(parse_kind("daemonset"), WorkloadKind::daemon_set);
    EXPECT_EQ(parse_kind("cj"), WorkloadKind::cron_job);
    EXPECT_EQ(parse_kind("pod"), std::nullopt);
    EXPECT_EQ(parse_kind(""), std::nullopt);
    for (const WorkloadKind kind : kWorkloadKinds)
        EXPECT_EQ(parse_kind(to_string(kind)), kind);
    EXPECT_EQ(collection_path(WorkloadKind::cron_job, ""), "/apis/batch/v1/cronjobs");

    const auto key = WorkloadKey::parse("ds/kube-system/a.b-c");
    ASSERT_TRUE(key);
    EXPECT_EQ(key->to_string(), "DaemonSet/kube-system/a.b-c");
    for (const char* bad : {"", "web", "shop/web", "pod/a/b", "deploy//web", "deploy/shop/",
                            "ds/a/b/c", "ds/../x", "ds/a/B", "ds/a/b?x", "ds/a/-b", "ds/a/b%2f"}) {
        const auto wrong = WorkloadKey::parse(bad);
        ASSERT_FALSE(wrong) << bad;
        EXPECT_EQ(wrong.error().code, "bad-workload");
    }
}

TEST(ClusterPageTest, E1_ItemsComeOneByOneInAnyOrderOfMembers) {
    std::vector<std::string> names;
    const auto each = [&](const json_t* item) { names.emplace_back(text_of(item, "n")); };
    auto page = read_list_page(
        R"({"kind":"L","metadata":{"resourceVersion":"9","continue":"next"},"items":[{"n":"a"},{"n":"b"}]})",
        each);
    ASSERT_TRUE(page) << page.error().text;
    EXPECT_EQ(page->resource_version, "9");
    EXPECT_EQ(page->next, "next");
    EXPECT_EQ(names, (std::vector<std::string>{"a", "b"}));
    names.clear();
    page = read_list_page(
        " { \"items\" : [ { \"n\" : \"]},{\\\"\" } ] ,\n \"x\":1,\"y\":[1.5,true,null,\"s\"], "
        "\"metadata\" : { \"resourceVersion\" : \"10\" } } \n",
        each);
    ASSERT_TRUE(page) << page.error().text;
    EXPECT_EQ(page->resource_version, "10");
    EXPECT_EQ(page->next, "");
    EXPECT_EQ(names, (std::vector<std::string>{"]},{\""}));
    names.clear();
    EXPECT_TRUE(read_list_page(R"({"items":null,"metadata":{"resourceVersion":"1"}})", each));
    EXPECT_TRUE(read_list_page(R"({"items":[],"metadata":{"resourceVersion":"1"}})", each));
    EXPECT_TRUE(names.empty());
}

TEST(ClusterPageTest, ABrokenPageIsAnError) {
    const std::string whole =
        R"({"metadata":{"resourceVersion":"9"},"items":[{"n":"a"},{"n":"b"}]})";
    for (std::size_t size = 0; size < whole.size(); ++size) {
        EXPECT_FALSE(read_list_page(whole.substr(0, size), [](const json_t*) {})) << size;
    }
    EXPECT_TRUE(read_list_page(whole, [](const json_t*) {}));
    for (const char* bad : {"[]", "null", "{}", R"({"items":[]})", R"({"items":[1,]})",
                            R"({"metadata":{"resourceVersion":"9"}} x)"}) {
        EXPECT_FALSE(read_list_page(bad, [](const json_t*) {})) << bad;
    }
}

// Which field managers wrote our keys, on the object and on its pod template; others are not kept.
TEST(Objects, WhoWroteOurKeysIsKept) {
    const Json object = parse_json(R"({"metadata": {"name": "web", "namespace": "shop",
      "managedFields": [
        {"manager": "kyverno", "operation": "Update", "fieldsV1": {"f:metadata": {
          "f:annotations": {".": {}, "f:keel.sh/policy": {}, "f:other": {}},
          "f:labels": {"f:keel.sh/trigger": {}}}}},
        {"manager": "kubectl", "operation": "Apply", "fieldsV1": {
          "f:metadata": {"f:annotations": {"f:keel.sh/policy": {}}},
          "f:spec": {"f:template": {"f:metadata": {"f:annotations": {"f:keel.sh/step": {}}}}}}},
        {"manager": "kubectl", "operation": "Update", "subresource": "status"}]}})");
    const Expected<Workload> workload = decode_workload(WorkloadKind::deployment, object.get(), "");
    ASSERT_TRUE(workload) << workload.error().text;
    const auto writers = [&workload](KeyPlace place, const std::string& key) {
        const auto found = std::ranges::find_if(workload->writers, [&](const KeyWriters& one) {
            return one.place == place && one.key == key;
        });
        return found != workload->writers.end() ? found->managers : std::vector<std::string>{};
    };
    using Names = std::vector<std::string>;
    EXPECT_EQ(writers(KeyPlace::annotation, "keel.sh/policy"), (Names{"kyverno", "kubectl"}));
    EXPECT_EQ(writers(KeyPlace::label, "keel.sh/trigger"), Names{"kyverno"});
    EXPECT_EQ(writers(KeyPlace::template_annotation, "keel.sh/step"), Names{"kubectl"});
    EXPECT_EQ(workload->writers.size(), 3U);
    const Json job = parse_json(R"({"metadata": {"name": "web", "managedFields": [{"manager": "m",
      "fieldsV1": {"f:spec": {"f:jobTemplate": {"f:spec": {"f:template": {"f:metadata": {"f:labels":
      {"f:keel.sh/policy": {}}}}}}}}}]}})");
    const Expected<Workload> cron = decode_workload(WorkloadKind::cron_job, job.get(), "");
    ASSERT_TRUE(cron && cron->writers.size() == 1U);
    EXPECT_EQ(cron->writers[0].place, KeyPlace::template_label);
}

// O1, O6: by the names of containers, of every list that has images.
TEST(Objects, O1_WhoWroteAnImageIsKept) {
    const Json object = parse_json(R"({"metadata": {"name": "web", "namespace": "shop",
      "labels": {"app.kubernetes.io/managed-by": "Helm"}, "managedFields": [
        {"manager": "helm", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {"f:spec": {
          "f:containers": {"k:{\"name\":\"app\"}": {".": {}, "f:image": {}, "f:name": {}},
                           "k:{\"name\":\"side\"}": {"f:env": {}}},
          "f:initContainers": {"k:{\"name\":\"app\"}": {"f:image": {}}},
          "f:volumes": {"k:{\"name\":\"models\"}": {"f:image": {"f:reference": {}}}}}}}}},
        {"manager": "HashiCorp", "operation": "Update", "fieldsV1": {"f:spec": {"f:template": {
          "f:spec": {"f:containers": {"k:{\"name\":\"app\"}": {"f:image": {}}}}}}}},
        {"manager": "kubelet", "operation": "Update", "subresource": "status"}]},
      "spec": {"template": {"spec": {
        "initContainers": [{"name": "migrate", "image": "m"}],
        "containers": [{"name": "app", "image": "a"}, {"name": "side", "image": "s"}],
        "volumes": [{"name": "models", "image": {"reference": "v"}}]}}}})");
    const Expected<Workload> workload = decode_workload(WorkloadKind::deployment, object.get(), "");
    ASSERT_TRUE(workload) << workload.error().text;
    using Names = std::vector<SharedText>;
    EXPECT_EQ(workload->managed_by, "Helm");
    EXPECT_EQ(workload->find_container("app")->image_managers, (Names{"helm", "HashiCorp"}));
    EXPECT_EQ(workload->find_container("side")->image_managers, Names{});
    EXPECT_EQ(workload->find_container("migrate")->image_managers, Names{});
    EXPECT_EQ(workload->find_container("volume/models")->image_managers, Names{"helm"});
    const Json job = parse_json(R"({"metadata": {"name": "web", "managedFields": [{"manager": "m",
      "fieldsV1": {"f:spec": {"f:jobTemplate": {"f:spec": {"f:template": {"f:spec": {"f:containers":
      {"k:{\"name\":\"app\"}": {"f:image": {}}}}}}}}}}]}, "spec": {"jobTemplate": {"spec": {
      "template": {"spec": {"containers": [{"name": "app", "image": "a"}]}}}}}})");
    const Expected<Workload> cron = decode_workload(WorkloadKind::cron_job, job.get(), "");
    ASSERT_TRUE(cron && cron->containers.size() == 1U);
    EXPECT_EQ(cron->containers[0].image_managers, Names{"m"});
}

}  // namespace
}  // namespace keel
