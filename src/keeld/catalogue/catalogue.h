// The workloads of the cluster, what tags their containers refer to, and what content their pods
// run.
#pragma once

#include <boost/container/flat_set.hpp>
#include <boost/flyweight.hpp>
#include <boost/flyweight/key_value.hpp>
#include <boost/flyweight/no_locking.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/reference.h"
#include "core/time.h"
#include "core/verdict.h"
#include "keeld/cluster/objects.h"
#include "keeld/shared_text.h"

namespace keel {

// A digest that pods of a workload run in one container, as imageID reports it.
struct RunningImage {
    SharedText container;
    bool init = false;
    SharedText digest;    // digest part of imageID; empty: the container has not started yet
    SharedText platform;  // of the pod's node, "linux/amd64"; empty: not known
    int pods = 0;
    Time started{};  // the latest of those that run
};

struct Running {
    bool known = false;  // pods have been listed
    bool stale = false;  // something changed since; listed again before anything is decided on it
    int pods = 0;        // alive ones
    int crashing = 0;    // those of them with a container in CrashLoopBackOff
    int restarts = 0;    // of all their containers
    Millis lived{0};     // all of them together, since they started
    Time as_of;
    std::vector<RunningImage> images;

    [[nodiscard]] bool usable() const { return known && !stale; }
};

// What an image's spelling means, read and kept once for all who write it so. Reads like an
// Expected<Reference>.
class SharedReference {
  public:
    explicit SharedReference(const std::string& spelling) : parsed_(spelling) {}

    operator const Expected<Reference>&() const { return parsed_.get(); }
    explicit operator bool() const { return parsed_.get().has_value(); }
    const Reference* operator->() const { return &*parsed_.get(); }

  private:
    struct Parsed : Expected<Reference> {
        explicit Parsed(const std::string& spelling)
            : Expected<Reference>(Reference::parse(spelling)) {}
    };
    boost::flyweight<boost::flyweights::key_value<std::string, Parsed>,
                     boost::flyweights::no_locking>
        parsed_;
};

// Workloads by their keys in the catalogue, in order.
struct KeyOrder {
    using is_transparent = void;
    bool operator()(const WorkloadKey& a, const WorkloadKey& b) const { return a < b; }
};
using Consumers = boost::container::flat_set<std::reference_wrapper<const WorkloadKey>, KeyOrder>;

// One workload with what was derived from it.
struct CatalogueEntry {
    Workload object;
    std::vector<SharedReference> references;  // beside object.containers
    Running running;
    std::uint64_t changed = 0;  // number of the newest change that may have replaced its pods
    // The planner's newest verdict and its reason, to be counted; absent: not judged yet.
    std::optional<std::pair<Verdict, Reason>> judged{};
    // What tells its newest decision in the ledger from another one; absent: not looked up yet.
    std::optional<std::size_t> decided{};
};

// Kept right by reflectors (begin/upsert/remove/end per collection). Tells who is concerned by a
// change.
class Catalogue {
  public:
    // `changed` gets the key of every workload that appeared, changed, or vanished, or whose
    // namespace did.
    explicit Catalogue(std::function<void(const WorkloadKey&)> changed);

    // A listing of one kind in one namespace; an empty namespace stands for all of them.
    void begin(WorkloadKind kind, const std::string& ns);
    void upsert(Workload workload);
    // The object as an answer to a request of our own had it: dropped where something newer was
    // told meanwhile.
    void answered(Workload workload);
    void remove(const WorkloadKey& key);
    void end(WorkloadKind kind, const std::string& ns);

    // A listing of namespaces; of a single one where only that is followed.
    void begin_namespaces(const std::string& only);
    void upsert(Namespace ns);
    void remove_namespace(const std::string& name);
    void end_namespaces(const std::string& only);

    [[nodiscard]] CatalogueEntry* find(const WorkloadKey& key);
    [[nodiscard]] const CatalogueEntry* find(const WorkloadKey& key) const;
    [[nodiscard]] const Namespace* find_namespace(std::string_view name) const;
    [[nodiscard]] const std::map<WorkloadKey, CatalogueEntry>& workloads() const {
        return workloads_;
    }
    [[nodiscard]] const std::map<std::string, Namespace, std::less<>>& namespaces() const {
        return namespaces_;
    }

    // The workloads with a container that refers to this tag.
    [[nodiscard]] const Consumers& consumers(const Tag& tag) const;
    // Every tag that some workload refers to.
    [[nodiscard]] const std::unordered_map<Tag, Consumers>& by_tag() const { return by_tag_; }

    // What a listing of pods found. `as_of`: changes() before it began; the result is stale where
    // the workload changed since.
    void set_running(const WorkloadKey& key, Running running, std::uint64_t as_of);
    // How many changes there were that may have replaced pods.
    [[nodiscard]] std::uint64_t changes() const { return changes_; }
    // Another one after every change of a workload or a namespace.
    [[nodiscard]] std::uint64_t revision() const { return revision_; }

  private:
    // `key` as it stands in workloads_.
    void index(const WorkloadKey& key, const CatalogueEntry& entry);
    void unindex(const WorkloadKey& key, const CatalogueEntry& entry);
    void namespace_changed(const std::string& name);

    std::function<void(const WorkloadKey&)> changed_;
    std::map<WorkloadKey, CatalogueEntry> workloads_;
    std::map<std::string, Namespace, std::less<>> namespaces_;
    std::unordered_map<Tag, Consumers> by_tag_;
    std::uint64_t changes_ = 0;
    std::uint64_t revision_ = 0;
    // What was known when a listing began and has not been seen by it yet.
    std::map<std::pair<WorkloadKind, std::string>, std::set<WorkloadKey>> unseen_;
    std::map<std::string, std::set<std::string>> unseen_namespaces_;
};

}  // namespace keel
