#include "keeld/catalogue/catalogue.h"

#include <charconv>
#include <utility>

namespace keel {
namespace {

// What a new state of the object says about its pods: they may have been replaced.
bool pods_may_have_changed(const Workload& before, const Workload& after) {
    return before.uid != after.uid || before.generation != after.generation ||
           before.observed_generation != after.observed_generation ||
           before.updated != after.updated || before.ready != after.ready ||
           before.available != after.available || before.current != after.current;
}

bool same_images(const Workload& before, const Workload& after) {
    if (before.containers.size() != after.containers.size()) {
        return false;
    }
    for (std::size_t i = 0; i < before.containers.size(); ++i) {
        if (before.containers[i].image != after.containers[i].image) {
            return false;
        }
    }
    return true;
}

// Resource versions of one object rise; 0 for one that is no number.
std::uint64_t version_of(const Workload& workload) {
    const std::string& text = workload.resource_version;
    std::uint64_t version = 0;
    std::from_chars(text.data(), text.data() + text.size(), version);
    return version;
}

}  // namespace

Catalogue::Catalogue(std::function<void(const WorkloadKey&)> changed)
    : changed_(std::move(changed)) {}

void Catalogue::begin(WorkloadKind kind, const std::string& ns) {
    std::set<WorkloadKey>& unseen = unseen_[{kind, ns}];
    unseen.clear();
    for (const auto& [key, entry] : workloads_) {
        if (key.kind == kind && (ns.empty() || key.ns == ns)) {
            unseen.insert(key);
        }
    }
}

void Catalogue::upsert(Workload workload) {
    const WorkloadKey key = workload.key;
    const auto [at, added] = workloads_.try_emplace(key);
    CatalogueEntry& entry = at->second;
    for (const std::string& scope : {std::string(), key.ns}) {
        if (const auto listing = unseen_.find({key.kind, scope}); listing != unseen_.end()) {
            listing->second.erase(key);
        }
    }
    if (!added && entry.object.uid == workload.uid &&
        entry.object.resource_version == workload.resource_version) {
        return;
    }
    const bool reindex = added || !same_images(entry.object, workload);
    if (added || entry.object.uid != workload.uid) {
        entry.running = Running{};
        entry.changed = ++changes_;
    } else if (pods_may_have_changed(entry.object, workload)) {
        entry.running.stale = true;
        entry.changed = ++changes_;
    }
    if (reindex && !added) {
        unindex(key, entry);
    }
    entry.object = std::move(workload);
    if (reindex) {
        entry.references.clear();
        for (const Container& container : entry.object.containers) {
            entry.references.emplace_back(container.image.str());
        }
        index(at->first, entry);
    }
    ++revision_;
    changed_(key);
}

// Listings and watches are in order among themselves; an answer may be overtaken by them, and
// nothing would tell again.
void Catalogue::answered(Workload workload) {
    const CatalogueEntry* known = find(workload.key);
    const bool older = known != nullptr && known->object.uid == workload.uid &&
                       version_of(workload) < version_of(known->object);
    if (!older) {
        upsert(std::move(workload));
    }
}

void Catalogue::remove(const WorkloadKey& key) {
    const auto found = workloads_.find(key);
    if (found == workloads_.end()) {
        return;
    }
    unindex(key, found->second);
    workloads_.erase(found);
    ++revision_;
    changed_(key);
}

void Catalogue::end(WorkloadKind kind, const std::string& ns) {
    const auto listing = unseen_.extract({kind, ns});
    if (listing.empty()) {
        return;
    }
    for (const WorkloadKey& key : listing.mapped()) {
        remove(key);
    }
}

void Catalogue::begin_namespaces(const std::string& only) {
    std::set<std::string>& unseen = unseen_namespaces_[only];
    unseen.clear();
    for (const auto& [name, ns] : namespaces_) {
        if (only.empty() || name == only) {
            unseen.insert(name);
        }
    }
}

void Catalogue::upsert(Namespace ns) {
    for (const std::string& scope : {std::string(), ns.name}) {
        if (const auto listing = unseen_namespaces_.find(scope);
            listing != unseen_namespaces_.end()) {
            listing->second.erase(ns.name);
        }
    }
    const auto found = namespaces_.find(ns.name);
    const bool same = found != namespaces_.end() && found->second.uid == ns.uid &&
                      found->second.labels == ns.labels &&
                      found->second.annotations == ns.annotations &&
                      found->second.terminating == ns.terminating;
    if (same) {
        return;
    }
    const std::string name = ns.name;
    namespaces_.insert_or_assign(name, std::move(ns));
    namespace_changed(name);
}

void Catalogue::remove_namespace(const std::string& name) {
    namespaces_.erase(name);
    namespace_changed(name);
}

void Catalogue::end_namespaces(const std::string& only) {
    const auto listing = unseen_namespaces_.extract(only);
    if (listing.empty()) {
        return;
    }
    for (const std::string& name : listing.mapped()) {
        remove_namespace(name);
    }
}

void Catalogue::namespace_changed(const std::string& name) {
    ++revision_;
    for (const auto& [key, entry] : workloads_) {
        if (key.ns == name) {
            changed_(key);
        }
    }
}

CatalogueEntry* Catalogue::find(const WorkloadKey& key) {
    const auto found = workloads_.find(key);
    return found != workloads_.end() ? &found->second : nullptr;
}

const CatalogueEntry* Catalogue::find(const WorkloadKey& key) const {
    const auto found = workloads_.find(key);
    return found != workloads_.end() ? &found->second : nullptr;
}

const Namespace* Catalogue::find_namespace(std::string_view name) const {
    const auto found = namespaces_.find(name);
    return found != namespaces_.end() ? &found->second : nullptr;
}

const Consumers& Catalogue::consumers(const Tag& tag) const {
    static const Consumers kNone;
    const auto found = by_tag_.find(tag);
    return found != by_tag_.end() ? found->second : kNone;
}

void Catalogue::set_running(const WorkloadKey& key, Running running, std::uint64_t as_of) {
    if (CatalogueEntry* entry = find(key)) {
        entry->running = std::move(running);
        entry->running.stale = entry->changed > as_of;
        changed_(key);
    }
}

void Catalogue::index(const WorkloadKey& key, const CatalogueEntry& entry) {
    for (const Expected<Reference>& reference : entry.references) {
        if (const auto tag = reference ? reference->tag() : std::nullopt) {
            by_tag_[*tag].insert(key);
        }
    }
}

void Catalogue::unindex(const WorkloadKey& key, const CatalogueEntry& entry) {
    for (const Expected<Reference>& reference : entry.references) {
        const auto tag = reference ? reference->tag() : std::nullopt;
        if (!tag) {
            continue;
        }
        const auto found = by_tag_.find(*tag);
        if (found != by_tag_.end()) {
            found->second.erase(key);
            if (found->second.empty()) {
                by_tag_.erase(found);
            }
        }
    }
}

}  // namespace keel
