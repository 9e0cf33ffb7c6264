#include "keeld/catalogue/pods.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "keeld/json.h"

namespace keel {
namespace {

bool alive(const Pod& pod) {
    return !pod.finished() && !pod.terminating;
}

std::string node_platform(const json_t* node) {
    const json_t* info = json_object_get(json_object_get(node, "status"), "nodeInfo");
    const std::string_view os = text_of(info, "operatingSystem");
    const std::string_view architecture = text_of(info, "architecture");
    return os.empty() || architecture.empty() ? std::string()
                                              : std::string(os) + "/" + std::string(architecture);
}

// Collections are listed one page at a time; these bind one page's items to a container.
template <class T>
std::function<void(const json_t*)> into(std::vector<T>& items,
                                        Expected<T> (*decode)(const json_t*)) {
    return [&items, decode](const json_t* object) {
        if (Expected<T> item = decode(object)) {
            items.push_back(std::move(*item));
        }
    };
}

}  // namespace

PodReader::PodReader(ClusterClient& client, Catalogue& catalogue, const Clock& clock)
    : client_(client), catalogue_(catalogue), clock_(clock) {}

Task<Expected<void>> PodReader::read_nodes() {
    ClusterClient::ListOptions options;
    options.path = "/api/v1/nodes";
    options.page = 20;  // a node lists its images: large objects
    std::function<void(const json_t*)> each = [this](const json_t* node) {
        const std::string name(text_of(json_object_get(node, "metadata"), "name"));
        node_platforms_[name] = node_platform(node);
    };
    std::function<void()> restart = [] {};
    const Expected<std::string> done = co_await client_.list(options, each, restart);
    if (!done && done.error().code == "forbidden") {
        nodes_forbidden_ =
            true;  // namespaced permissions: platforms stay unknown, identity is the stricter one
        co_return Expected<void>{};
    }
    if (!done) {
        co_return tl::unexpected<Error>(done.error());
    }
    nodes_read_ = true;
    co_return Expected<void>{};
}

Task<std::string> PodReader::platform_of(std::string node) {
    if (const auto found = node_platforms_.find(node); found != node_platforms_.end()) {
        co_return found->second;
    }
    if (node.empty() || nodes_forbidden_) {
        co_return std::string();
    }
    const std::string path = "/api/v1/nodes/" + node;
    const Expected<Json> object = co_await client_.get(path);
    if (object) {
        co_return node_platforms_[node] = node_platform(object->get());
    }
    nodes_forbidden_ = object.error().code == "forbidden";
    co_return std::string();
}

std::vector<std::string> PodReader::platforms() const {
    std::set<std::string> names;
    for (const auto& [node, platform] : node_platforms_) {
        if (!platform.empty()) {
            names.insert(platform);
        }
    }
    return {names.begin(), names.end()};
}

void PodReader::count(Running& running, const Pod& pod) {
    ++running.pods;
    if (pod.started != Time{}) {
        running.lived += std::max(clock_.now() - pod.started, Millis{0});
    }
    running.crashing += std::ranges::any_of(pod.containers, [](const ContainerStatus& status) {
        return status.waiting_reason == "CrashLoopBackOff";
    });
    const auto node = node_platforms_.find(pod.node);
    const std::string platform = node != node_platforms_.end() ? node->second : std::string();
    for (const ContainerStatus& status : pod.containers) {
        running.restarts += status.restarts;
        const std::string digest = digest_of_image_id(status.image_id);
        const auto same = std::ranges::find_if(running.images, [&](const RunningImage& image) {
            return image.container == status.name && image.digest == digest &&
                   image.platform == platform;
        });
        if (same != running.images.end()) {
            ++same->pods;
            same->started = std::max(same->started, status.started);
        } else {
            running.images.push_back(
                RunningImage{status.name, status.init, digest, platform, 1, status.started});
        }
    }
}

Task<Expected<void>> PodReader::read_namespace(std::string ns) {
    if (!nodes_read_ && !nodes_forbidden_) {
        const Expected<void> nodes = co_await read_nodes();
        if (!nodes) {
            co_return nodes;
        }
    }
    const std::uint64_t as_of = catalogue_.changes();
    // ReplicaSets and Jobs stand between pods and what keeld restarts.
    std::map<std::string, std::string> owner_of;
    std::function<void()> restart = [] {};
    const std::string between[] = {"/apis/apps/v1/namespaces/" + ns + "/replicasets",
                                   "/apis/batch/v1/namespaces/" + ns + "/jobs"};
    for (const std::string& path : between) {
        ClusterClient::ListOptions options;
        options.path = path;
        options.metadata_only = true;
        std::function<void(const json_t*)> each = [&owner_of](const json_t* object) {
            const Expected<Identity> identity = decode_identity(object);
            if (identity && identity->controller) {
                owner_of[identity->uid] = identity->controller->uid;
            }
        };
        const Expected<std::string> done = co_await client_.list(options, each, restart);
        if (!done) {
            co_return tl::unexpected<Error>(done.error());
        }
    }
    std::map<std::string, Running> by_uid;
    ClusterClient::ListOptions options;
    options.path = "/api/v1/namespaces/" + ns + "/pods";
    std::function<void(const json_t*)> each = [this, &owner_of, &by_uid](const json_t* object) {
        const Expected<Pod> pod = decode_pod(object);
        if (!pod || !pod->controller || !alive(*pod)) {
            return;
        }
        const auto owner = owner_of.find(pod->controller->uid);
        count(by_uid[owner != owner_of.end() ? owner->second : pod->controller->uid], *pod);
    };
    std::function<void()> start_over = [&by_uid] { by_uid.clear(); };
    const Expected<std::string> done = co_await client_.list(options, each, start_over);
    if (!done) {
        co_return tl::unexpected<Error>(done.error());
    }
    std::vector<std::pair<WorkloadKey, Running>> results;
    for (const auto& [key, entry] : catalogue_.workloads()) {
        if (key.ns == ns) {
            Running running = std::move(by_uid[entry.object.uid]);
            running.known = true;
            running.as_of = clock_.now();
            results.emplace_back(key, std::move(running));
        }
    }
    for (auto& [key, running] : results) {
        catalogue_.set_running(key, std::move(running), as_of);
    }
    co_return Expected<void>{};
}

Task<Expected<PodReader::Revisions>> PodReader::revisions_of(Workload workload) {
    Revisions result;
    if (workload.key.kind == WorkloadKind::stateful_set) {
        result.newest = workload.revision;
        co_return result;
    }
    const bool deployment = workload.key.kind == WorkloadKind::deployment;
    std::vector<Identity> revisions;
    ClusterClient::ListOptions options;
    options.path = "/apis/apps/v1/namespaces/" + workload.key.ns +
                   (deployment ? "/replicasets" : "/controllerrevisions");
    options.query = "labelSelector=" + query_escape(workload.selector);
    options.metadata_only = deployment;
    std::function<void(const json_t*)> each = into<Identity>(revisions, decode_identity);
    std::function<void()> restart = [&revisions] { revisions.clear(); };
    const Expected<std::string> done = co_await client_.list(options, each, restart);
    if (!done) {
        co_return tl::unexpected<Error>(done.error());
    }
    std::erase_if(revisions, [&workload](const Identity& item) {
        return !item.controller || item.controller->uid != workload.uid;
    });
    const auto newest = std::ranges::max_element(revisions, {}, [](const Identity& item) {
        std::int64_t number = 0;
        std::from_chars(item.revision.data(), item.revision.data() + item.revision.size(), number);
        return number;
    });
    if (newest != revisions.end()) {
        result.newest = deployment ? newest->uid : newest->hash;
    }
    for (const Identity& item : revisions) {
        result.own.insert(item.uid);
    }
    co_return result;
}

Task<Expected<WorkloadPods>> PodReader::read_workload(WorkloadKey key) {
    const CatalogueEntry* entry = catalogue_.find(key);
    if (entry == nullptr) {
        co_return fail("not-found", key.to_string() + " is not in the cluster");
    }
    const Workload workload = entry->object;
    const std::uint64_t as_of = catalogue_.changes();
    const Expected<Revisions> revisions = co_await revisions_of(workload);
    if (!revisions) {
        co_return tl::unexpected<Error>(revisions.error());
    }
    std::vector<Pod> pods;
    ClusterClient::ListOptions options;
    options.path = "/api/v1/namespaces/" + key.ns + "/pods";
    options.query = "labelSelector=" + query_escape(workload.selector);
    std::function<void(const json_t*)> each = into<Pod>(pods, decode_pod);
    std::function<void()> restart = [&pods] { pods.clear(); };
    const Expected<std::string> done = co_await client_.list(options, each, restart);
    if (!done) {
        co_return tl::unexpected<Error>(done.error());
    }
    WorkloadPods result;
    Running running;
    running.known = true;
    running.as_of = clock_.now();
    const bool deployment = key.kind == WorkloadKind::deployment;
    for (Pod& pod : pods) {
        if (!pod.controller || !alive(pod)) {
            continue;
        }
        // A selector may match the pods of others too.
        const std::string& owner = pod.controller->uid;
        const bool own = deployment ? revisions->own.contains(owner) : owner == workload.uid;
        if (!own) {
            continue;
        }
        const std::string platform = co_await platform_of(pod.node);
        count(running, pod);
        const bool updated = (deployment ? owner : pod.revision_hash) == revisions->newest;
        (updated ? result.updated : result.older).push_back(std::move(pod));
    }
    catalogue_.set_running(key, std::move(running), as_of);
    co_return result;
}

}  // namespace keel
