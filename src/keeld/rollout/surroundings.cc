#include "keeld/rollout/surroundings.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace keel {
namespace {

// A number, or a share of `whole` ("25%"), as Kubernetes rounds it.
int count_of(const json_t* value, int whole, bool up) {
    if (json_is_integer(value)) {
        return static_cast<int>(json_integer_value(value));
    }
    const std::string_view text(json_is_string(value) ? json_string_value(value) : "0");
    int percent = 0;
    std::from_chars(text.data(), text.data() + text.size(), percent);
    return (percent * whole + (up ? 99 : 0)) / 100;
}

const json_t* spec_of(const json_t* object) {
    return json_object_get(object, "spec");
}

const json_t* template_of(WorkloadKind kind, const json_t* object) {
    const json_t* spec = spec_of(object);
    if (kind == WorkloadKind::cron_job) {
        spec = spec_of(json_object_get(spec, "jobTemplate"));
    }
    return json_object_get(spec, "template");
}

bool has_host_ports(const json_t* pod) {
    std::size_t at = 0;
    const json_t* container = nullptr;
    json_array_foreach(json_object_get(pod, "containers"), at, container) {
        std::size_t number = 0;
        const json_t* port = nullptr;
        json_array_foreach(json_object_get(container, "ports"), number, port) {
            if (json_integer_value(json_object_get(port, "hostPort")) > 0) {
                return true;
            }
        }
    }
    return false;
}

// Codes of what the annotation keel.sh/CODE: allow releases.
constexpr const char* kAllAtOnce = "all-at-once";
constexpr const char* kBudget = "disruption-budget";
constexpr const char* kDraining = "draining";
constexpr const char* kHostPort = "host-port-in-use";
constexpr const char* kVolume = "volume-in-use";

constexpr std::chrono::hours kDrain{1};
constexpr std::chrono::seconds kShared{5};  // so old may what is known of nodes be

// Since when the node takes no pods; now, where nobody says.
Time cordoned_since(const json_t* node) {
    Time since = Time::max();
    std::size_t at = 0;
    const json_t* taint = nullptr;
    json_array_foreach(json_object_get(spec_of(node), "taints"), at, taint) {
        const std::optional<Time> added = parse_time(text_of(taint, "timeAdded"));
        if (text_of(taint, "key") == "node.kubernetes.io/unschedulable" && added) {
            since = *added;
        }
    }
    return since;
}

Obstacle obstacle(const std::string& code, const std::string& text) {
    return {code, text + "; or the annotation keel.sh/" + code + ": allow releases it"};
}

}  // namespace

Replacement replacement_of(WorkloadKind kind, const json_t* object) {
    Replacement found;
    const json_t* spec = spec_of(object);
    const json_t* replicas = json_object_get(spec, "replicas");
    found.pods = json_is_integer(replicas) ? static_cast<int>(json_integer_value(replicas)) : 1;
    const json_t* strategy =
        json_object_get(spec, kind == WorkloadKind::deployment ? "strategy" : "updateStrategy");
    const json_t* rolling = json_object_get(strategy, "rollingUpdate");
    if (kind == WorkloadKind::daemon_set) {
        const json_t* status = json_object_get(object, "status");
        found.pods =
            static_cast<int>(json_integer_value(json_object_get(status, "desiredNumberScheduled")));
    }
    if (text_of(strategy, "type") == "Recreate") {
        found.unavailable = found.pods;
    } else if (const json_t* most = json_object_get(rolling, "maxUnavailable")) {
        const bool up = kind != WorkloadKind::deployment;
        found.surge = count_of(json_object_get(rolling, "maxSurge"), found.pods, true);
        found.unavailable = count_of(most, found.pods, up);
        if (found.surge == 0 && found.unavailable == 0) {
            found.unavailable = 1;  // as the controllers do
        }
    }
    const json_t* pod = spec_of(template_of(kind, object));
    found.host_ports = has_host_ports(pod);
    std::size_t at = 0;
    const json_t* volume = nullptr;
    json_array_foreach(json_object_get(pod, "volumes"), at, volume) {
        const std::string_view claim =
            text_of(json_object_get(volume, "persistentVolumeClaim"), "claimName");
        if (!claim.empty()) {
            found.claims.emplace_back(claim);
        }
    }
    const char* label = nullptr;
    json_t* value = nullptr;
    json_object_foreach(json_object_get(pod, "nodeSelector"), label, value) {
        found.node_selector += (found.node_selector.empty() ? "" : ",") + std::string(label) + "=" +
                               (json_is_string(value) ? json_string_value(value) : "");
    }
    return found;
}

Json trial_pod(const WorkloadKey& key, const json_t* object) {
    const json_t* pod_template = template_of(key.kind, object);
    Json pod(json_deep_copy(pod_template));
    json_object_set_new(pod.get(), "apiVersion", json_string("v1"));
    json_object_set_new(pod.get(), "kind", json_string("Pod"));
    const char* metadata_key = "metadata";
    if (json_object_get(pod.get(), metadata_key) == nullptr) {
        json_object_set_new(pod.get(), metadata_key, json_object());
    }
    json_t* metadata = json_object_get(pod.get(), metadata_key);
    json_object_del(metadata, "creationTimestamp");
    json_object_set_new(metadata, "generateName", json_text(key.name + "-"));
    // Policies tell pods that nobody owns from those of a workload.
    const json_t* own = json_object_get(object, "metadata");
    json_object_set_new(
        metadata, "ownerReferences",
        json_pack("[{s:s,s:s,s:s,s:s,s:b}]", "apiVersion",
                  key.kind == WorkloadKind::cron_job ? "batch/v1" : "apps/v1", "kind",
                  std::string(to_string(key.kind)).c_str(), "name", key.name.c_str(), "uid",
                  std::string(text_of(own, "uid")).c_str(), "controller", 1));
    json_t* spec = json_object_get(pod.get(), "spec");
    std::size_t at = 0;
    const json_t* claim = nullptr;
    json_array_foreach(json_object_get(spec_of(object), "volumeClaimTemplates"), at, claim) {
        const std::string name(text_of(json_object_get(claim, "metadata"), "name"));
        const std::string claimed = name + "-" + key.name + "-0";
        if (json_object_get(spec, "volumes") == nullptr) {
            json_object_set_new(spec, "volumes", json_array());
        }
        json_array_append_new(json_object_get(spec, "volumes"),
                              json_pack("{s:s,s:{s:s}}", "name", name.c_str(),
                                        "persistentVolumeClaim", "claimName", claimed.c_str()));
    }
    return pod;
}

std::optional<Obstacle> judge_trial(const Error& error, const Replacement& replaced) {
    if (!refuses_the_patch(error)) {
        return std::nullopt;
    }
    if (error.text.find("exceeded quota") != std::string::npos) {
        if (!replaced.waits_for_new()) {
            return std::nullopt;
        }
        return Obstacle{"quota-exceeded",
                        "no new pod fits beside the old ones: " + error.text +
                            "; raise the quota, or let an old pod go first (maxUnavailable: 1)"};
    }
    return Obstacle{"pod-refused",
                    "the API server refuses its new pods, asked by a dry run: " + error.text +
                        "; asked again later and later by itself: nothing else is "
                        "to be done once the cause is mended"};
}

std::optional<Obstacle> judge_claim(const json_t* claim, std::size_t nodes) {
    std::vector<std::string> modes;
    std::size_t at = 0;
    const json_t* mode = nullptr;
    json_array_foreach(json_object_get(spec_of(claim), "accessModes"), at, mode) {
        modes.emplace_back(json_is_string(mode) ? json_string_value(mode) : "");
    }
    const bool shared = std::ranges::any_of(modes, [](const std::string& one) {
        return one == "ReadWriteMany" || one == "ReadOnlyMany";
    });
    const bool one_node = modes == std::vector<std::string>{"ReadWriteOnce"};
    if (modes.empty() || shared || (one_node && nodes < 2)) {
        return std::nullopt;
    }
    const std::string name(text_of(json_object_get(claim, "metadata"), "name"));
    return obstacle(
        kVolume, "the new pod may not get the volume " + name + " (" + modes.front() +
                     ") while the old one has it, and the old one stays until the new one is "
                     "ready; set the strategy to Recreate, or maxSurge: 0 and maxUnavailable: 1");
}

Task<Surroundings::Found> Surroundings::look(Workload workload, Json object, bool crashing,
                                             Allowed allowed) {
    const WorkloadKey key = workload.key;
    const Replacement replaced = replacement_of(key.kind, object.get());
    Json pod = trial_pod(key, object.get());
    Found found = co_await try_pod(key, std::move(pod), replaced);
    if (!found || *found || key.kind == WorkloadKind::cron_job) {
        co_return found;
    }
    if (key.kind == WorkloadKind::daemon_set && replaced.pods > 1 &&
        replaced.unavailable >= replaced.pods && !allowed(kAllAtOnce)) {
        co_return obstacle(kAllAtOnce, "its maxUnavailable lets all " +
                                           std::to_string(replaced.pods) +
                                           " pods go at once; lower it");
    }
    if (replaced.waits_for_new()) {
        found = co_await look_at_nodes(key.ns, replaced, allowed);
    } else if (!crashing && !allowed(kBudget)) {
        found = co_await look_at_budgets(workload);
    }
    // A DaemonSet's pods stay where nodes are emptied.
    const bool done = !found || *found || key.kind == WorkloadKind::daemon_set;
    if (done || allowed(kDraining)) {
        co_return found;
    }
    co_return co_await look_at_drains(workload);
}

Task<Surroundings::Found> Surroundings::try_pod(WorkloadKey key, Json pod, Replacement replaced) {
    const std::string path = "/api/v1/namespaces/" + key.ns + "/pods?fieldManager=keeld&dryRun=All";
    const std::string body = dump_json(pod.get());
    const Expected<Json> answer = co_await cluster_.create(path, body);
    if (!answer && !refuses_the_patch(answer.error())) {
        co_return tl::unexpected<Error>(answer.error());
    }
    co_return answer ? std::nullopt : judge_trial(answer.error(), replaced);
}

// Where the new pod has to come first, a port of its node or a volume may be the old one's.
Task<Surroundings::Found> Surroundings::look_at_nodes(std::string ns, Replacement replaced,
                                                      Allowed allowed) {
    if (!replaced.host_ports && replaced.claims.empty()) {
        co_return std::nullopt;
    }
    std::size_t nodes = 0;
    ClusterClient::ListOptions options;
    options.path = "/api/v1/nodes";
    options.query = "fieldSelector=" + query_escape("spec.unschedulable=false");
    if (!replaced.node_selector.empty()) {
        options.query += "&labelSelector=" + query_escape(replaced.node_selector);
    }
    options.metadata_only = true;
    std::function<void(const json_t*)> each = [&nodes](const json_t*) { ++nodes; };
    std::function<void()> restart = [&nodes] { nodes = 0; };
    const Expected<std::string> listed = co_await cluster_.list(options, each, restart);
    if (!listed && listed.error().code != "forbidden") {
        co_return tl::unexpected<Error>(listed.error());
    }
    const auto pods = static_cast<std::size_t>(replaced.pods);
    if (replaced.host_ports && listed && nodes <= pods && !allowed(kHostPort)) {
        co_return obstacle(kHostPort,
                           "its pods use ports of their nodes, all " + std::to_string(nodes) +
                               " nodes that may take one have one, and none goes before a new one "
                               "is ready; set maxSurge: 0 and maxUnavailable: 1");
    }
    for (const std::string& name : replaced.claims) {
        const std::string path = "/api/v1/namespaces/" + ns + "/persistentvolumeclaims/" + name;
        const Expected<Json> claim = co_await cluster_.get(path);
        if (!claim && claim.error().code != "forbidden" && claim.error().code != "not-found") {
            co_return tl::unexpected<Error>(claim.error());
        }
        std::optional<Obstacle> found =
            claim ? judge_claim(claim->get(), nodes) : std::optional<Obstacle>{};
        if (found && !allowed(kVolume)) {
            co_return found;
        }
    }
    co_return std::nullopt;
}

// A budget that lets nobody go is respected, though the controllers that replace pods do not ask
// for it. Which ones hold for the workload, the API server says: it knows their selectors.
Task<Surroundings::Found> Surroundings::look_at_budgets(Workload workload) {
    std::vector<std::pair<std::string, std::string>> closed;  // name, selector
    ClusterClient::ListOptions options;
    options.path = "/apis/policy/v1/namespaces/" + workload.key.ns + "/poddisruptionbudgets";
    std::function<void(const json_t*)> each = [&closed](const json_t* budget) {
        const json_t* status = json_object_get(budget, "status");
        if (json_integer_value(json_object_get(status, "expectedPods")) > 0 &&
            json_integer_value(json_object_get(status, "disruptionsAllowed")) == 0) {
            const json_t* selector = json_object_get(spec_of(budget), "selector");
            closed.emplace_back(text_of(json_object_get(budget, "metadata"), "name"),
                                selector_text(selector));
        }
    };
    std::function<void()> restart = [&closed] { closed.clear(); };
    const Expected<std::string> listed = co_await cluster_.list(options, each, restart);
    if (!listed && listed.error().code != "forbidden") {
        co_return tl::unexpected<Error>(listed.error());
    }
    for (const auto& [name, selector] : closed) {
        const std::string query =
            "labelSelector=" +
            query_escape(workload.selector + (selector.empty() ? "" : "," + selector));
        const Expected<bool> holds = co_await has_pods(workload.key.ns, query);
        if (!holds) {
            co_return tl::unexpected<Error>(holds.error());
        }
        if (*holds) {
            co_return obstacle(kBudget, "the PodDisruptionBudget " + name +
                                            " lets none of its pods go, and a rollout would take "
                                            "one before its successor is there");
        }
    }
    co_return std::nullopt;
}

// Nodes that were cordoned within the hour: their pods are on their way to others. Rollouts that
// begin together share an answer.
Task<Expected<void>> Surroundings::read_emptied() {
    if (Steady::now() < emptied_until_) {
        co_return Expected<void>{};
    }
    std::vector<std::string> found;
    ClusterClient::ListOptions options;
    options.path = "/api/v1/nodes";
    options.query = "fieldSelector=" + query_escape("spec.unschedulable=true");
    options.page = 20;  // a node lists its images: large objects
    std::function<void(const json_t*)> each = [this, &found](const json_t* node) {
        if (cordoned_since(node) > clock_.now() - kDrain) {
            found.emplace_back(text_of(json_object_get(node, "metadata"), "name"));
        }
    };
    std::function<void()> restart = [&found] { found.clear(); };
    const Expected<std::string> listed = co_await cluster_.list(options, each, restart);
    if (!listed && listed.error().code != "forbidden") {
        co_return tl::unexpected<Error>(listed.error());
    }
    emptied_ = std::move(found);
    emptied_until_ = Steady::now() + kShared;
    co_return Expected<void>{};
}

Task<Surroundings::Found> Surroundings::look_at_drains(Workload workload) {
    const Expected<void> read = co_await read_emptied();
    if (!read) {
        co_return tl::unexpected<Error>(read.error());
    }
    const std::vector<std::string> emptied = emptied_;
    for (const std::string& node : emptied) {
        const std::string query = "labelSelector=" + query_escape(workload.selector) +
                                  "&fieldSelector=" + query_escape("spec.nodeName=" + node);
        const Expected<bool> there = co_await has_pods(workload.key.ns, query);
        if (!there) {
            co_return tl::unexpected<Error>(there.error());
        }
        if (*there) {
            co_return obstacle(kDraining, "the node " + node +
                                              " was cordoned within the hour, and has pods of it "
                                              "that are about to move");
        }
    }
    co_return std::nullopt;
}

Task<Expected<bool>> Surroundings::has_pods(std::string ns, std::string query) {
    bool any = false;
    ClusterClient::ListOptions options;
    options.path = "/api/v1/namespaces/" + ns + "/pods";
    options.query = std::move(query);
    options.metadata_only = true;
    std::function<void(const json_t*)> each = [&any](const json_t*) { any = true; };
    std::function<void()> restart = [&any] { any = false; };
    const Expected<std::string> listed = co_await cluster_.list(options, each, restart);
    if (!listed) {
        co_return tl::unexpected<Error>(listed.error());
    }
    co_return any;
}

}  // namespace keel
