// What keeld keeps of Kubernetes objects: only the fields that decide something.
#pragma once

#include <boost/container/flat_map.hpp>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/expected.h"
#include "core/time.h"
#include "keeld/shared_text.h"

struct json_t;

namespace keel {

enum class WorkloadKind : std::uint8_t { deployment, stateful_set, daemon_set, cron_job };
inline constexpr WorkloadKind kWorkloadKinds[] = {WorkloadKind::deployment,
                                                  WorkloadKind::stateful_set,
                                                  WorkloadKind::daemon_set, WorkloadKind::cron_job};
[[nodiscard]] std::string_view to_string(WorkloadKind kind);  // "Deployment"
// The kind's own name or kubectl's short forms and plurals ("deploy", "statefulsets", "sts" …), any
// case.
[[nodiscard]] std::optional<WorkloadKind> parse_kind(std::string_view text);
// "/apis/apps/v1" + resource; with a namespace "/apis/apps/v1/namespaces/NS/deployments".
[[nodiscard]] std::string collection_path(WorkloadKind kind, std::string_view ns);

struct WorkloadKey {
    WorkloadKind kind = WorkloadKind::deployment;
    std::string ns;
    std::string name;

    [[nodiscard]] std::string to_string() const;  // "Deployment/ns/name"
    [[nodiscard]] std::string path() const;       // of the object at the API server
    [[nodiscard]] static Expected<WorkloadKey> parse(std::string_view text);
    friend bool operator==(const WorkloadKey&, const WorkloadKey&) = default;
    friend auto operator<=>(const WorkloadKey&, const WorkloadKey&) = default;
};

enum class PullPolicy : std::uint8_t { always, if_not_present, never };

// "volume/NAME", which no container can be called: how an image volume is named beside containers.
[[nodiscard]] bool is_volume_name(std::string_view name);

// What pulls an image in a pod: a container, or an image volume.
struct Container {
    std::string name;  // of an image volume "volume/NAME"
    SharedText image;  // the reference, byte for byte
    PullPolicy pull = PullPolicy::always;
    bool init = false;
    bool volume = false;                       // pods do not tell what content they have of it
    std::vector<SharedText> image_managers{};  // field managers of its image, by managedFields

    // As the template calls it.
    [[nodiscard]] std::string_view own_name() const;
};

struct Owner {
    std::string api_version;
    std::string kind;
    std::string name;
    std::string uid;
};

// Begins with "keel.sh/" or "keel.observer/".
[[nodiscard]] bool is_keel_key(std::string_view key);

// Annotations and labels with such keys; nothing else is kept.
using KeelKeys = boost::container::flat_map<std::string, std::string, std::less<>>;

// What the pod template says about the architecture or the operating system of its nodes.
struct NodeRule {
    bool os = false;  // false: the architecture
    bool in = true;   // one of the values; false: none of them
    std::vector<std::string> values;
};

// Where a key of ours stands.
enum class KeyPlace : std::uint8_t { annotation, label, template_annotation, template_label };

// The field managers that wrote such a key, as metadata.managedFields has them.
struct KeyWriters {
    KeyPlace place = KeyPlace::annotation;
    std::string key;
    std::vector<std::string> managers;
};

struct Workload {
    WorkloadKey key;
    std::string uid;
    std::string resource_version;
    std::int64_t generation = 0;
    std::int64_t observed_generation = 0;
    std::vector<Container> containers;  // init containers first, then containers, then image
                                        // volumes, each group in the order of the spec
    KeelKeys annotations;
    KeelKeys labels;
    KeelKeys template_annotations;
    KeelKeys template_labels;
    std::vector<KeyWriters> writers;  // of these four; none where the API server does not tell
    std::vector<std::string> pull_secrets;          // imagePullSecrets of the pod template, by name
    std::string service_account;                    // of the pod template; empty: "default"
    std::vector<std::vector<NodeRule>> node_terms;  // nodeSelector and required nodeAffinity: one
                                                    // of them holds as a whole; empty: any node
    std::string selector;                     // label selector in query form; empty for CronJobs
    std::shared_ptr<const Owner> controller;  // ownerReference with controller: true; or null
    std::string managed_by;                   // label app.kubernetes.io/managed-by
    std::string marker;  // template annotation named by the restart key, or empty
    int replicas = 1;    // wanted; for DaemonSets desiredNumberScheduled
    int updated = 0;
    int ready = 0;
    int available = 0;
    int current = 0;           // status.replicas: old and new together
    bool paused = false;       // Deployment paused, CronJob suspended
    bool on_delete = false;    // StatefulSet, DaemonSet updateStrategy OnDelete
    bool partitioned = false;  // StatefulSet rollingUpdate.partition above 0
    bool deadline_exceeded =
        false;  // Deployment condition Progressing=False, ProgressDeadlineExceeded
    bool was_complete =
        false;  // … Progressing=True, NewReplicaSetAvailable: all its pods were there, once
    int progress_deadline = 600;  // seconds; Deployments' own, otherwise the API's default
    std::string revision;  // Deployment: annotation deployment.kubernetes.io/revision; StatefulSet:
                           // status.updateRevision

    // The workload's controller has seen the newest generation and every replica is updated and
    // available.
    [[nodiscard]] bool rolled_out() const;
    // Whether its pods may be scheduled to nodes of this platform ("os/architecture[/variant]");
    // of one that is not known (empty), they may.
    [[nodiscard]] bool runs_on(std::string_view platform) const;
    // The container or image volume of that name; null: there is none.
    [[nodiscard]] const Container* find_container(std::string_view name) const;
};

struct Namespace {
    std::string name;
    std::string uid;
    bool terminating = false;
    std::map<std::string, std::string, std::less<>> labels;
    KeelKeys annotations;
    std::vector<KeyWriters> writers;  // of our keys among both
};

// One container of a pod, as its status tells.
struct ContainerStatus {
    std::string name;
    std::string image_id;  // verbatim; see digest_of_image_id
    int restarts = 0;
    bool ready = false;
    bool running = false;
    bool init = false;
    Time started{};                 // while it runs
    std::string waiting_reason;     // "CrashLoopBackOff", "ImagePullBackOff" …
    std::string terminated_reason;  // of state or lastState: "OOMKilled", "Error" …
    Time terminated_at{};           // when that was; epoch: never
};

struct Pod {
    std::string ns;
    std::string name;
    std::string uid;
    std::string node;
    std::string phase;
    std::string revision_hash;  // label pod-template-hash or controller-revision-hash
    std::optional<Owner> controller;
    bool terminating = false;
    bool ready = false;
    Time started{};              // status.startTime; epoch: no kubelet has taken it yet
    Time ready_since{};          // since when `ready` is what it is; epoch: not said
    bool unschedulable = false;  // PodScheduled=False, Unschedulable
    std::vector<ContainerStatus> containers;

    [[nodiscard]] bool finished() const { return phase == "Succeeded" || phase == "Failed"; }
};

// An object of which only identity matters: ReplicaSets, Jobs, ControllerRevisions.
struct Identity {
    std::string ns;
    std::string name;
    std::string uid;
    std::string hash;  // label pod-template-hash / controller-revision-hash (of metadata.labels)
    std::string revision;  // annotation deployment.kubernetes.io/revision, or .revision of a
                           // ControllerRevision
    std::optional<Owner> controller;
};

// From the API server's JSON. Fields that are absent keep their defaults; a wrong type is
// "bad-object" naming it.
[[nodiscard]] Expected<Workload> decode_workload(WorkloadKind kind, const json_t* object,
                                                 std::string_view marker_key);
[[nodiscard]] Expected<Namespace> decode_namespace(const json_t* object);
[[nodiscard]] Expected<Pod> decode_pod(const json_t* object);
[[nodiscard]] Expected<Identity> decode_identity(const json_t* object);

// A LabelSelector as `kubectl get -l` takes it: "app=web,tier in (a,b),!legacy"; what it has of a
// wrong type is left out.
[[nodiscard]] std::string selector_text(const json_t* selector);

// "registry/repo@sha256:…", "docker-pullable://…@sha256:…", "sha256:…" (a config digest); empty if
// there is none.
[[nodiscard]] std::string digest_of_image_id(std::string_view image_id);
// The repository part ("registry/repo") where there is one.
[[nodiscard]] std::string repository_of_image_id(std::string_view image_id);

}  // namespace keel
