#include "keeld/policy/stamps.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "core/glob.h"
#include "keeld/policy/settings.h"

namespace keel {
namespace {

// As Kyverno gave them.
struct Stamped {
    const char* key;
    const char* alias;
};
constexpr std::array<Stamped, 3> kStamped{{{"keel.sh/policy", "keel.observer/policy"},
                                           {"keel.sh/trigger", ""},
                                           {"keel.sh/pollSchedule", ""}}};

const KeyWriters* writers_of(const std::vector<KeyWriters>& all, KeyPlace place,
                             std::string_view key) {
    const auto found = std::ranges::find_if(
        all, [&](const KeyWriters& one) { return one.place == place && one.key == key; });
    return found != all.end() ? &*found : nullptr;
}

bool is_ours(const Workload& workload, std::string_view key) {
    const KeyWriters* writers = writers_of(workload.writers, KeyPlace::annotation, key);
    return writers != nullptr &&
           std::ranges::find(writers->managers, kStampManager) != writers->managers.end();
}

// Somebody else says it on the workload itself.
bool is_said(const Workload& workload, std::string_view key) {
    const KeyWriters* writers = writers_of(workload.writers, KeyPlace::annotation, key);
    const bool by_others = writers == nullptr || writers->managers.size() > 1 ||
                           writers->managers.front() != kStampManager;
    return workload.labels.contains(key) || (workload.annotations.contains(key) && by_others);
}

std::string default_of(const Config& config, const std::string& key) {
    if (key == "keel.sh/policy") {
        return config.defaults.policy;
    }
    if (key == "keel.sh/trigger") {
        return config.defaults.trigger == Trigger::all ? "all" : "push";
    }
    return key == "keel.sh/pollSchedule" ? config.defaults.poll_schedule : "";
}

struct Place {
    const char* name;
    KeyPlace place;
    KeelKeys Workload::*keys;
};
constexpr std::array<Place, 4> kPlaces{
    {{"workload annotation", KeyPlace::annotation, &Workload::annotations},
     {"workload label", KeyPlace::label, &Workload::labels},
     {"pod template annotation", KeyPlace::template_annotation, &Workload::template_annotations},
     {"pod template label", KeyPlace::template_label, &Workload::template_labels}}};

// Adds what the rule finds among the keys of one place of an object.
template <class Keys>
void find_leftovers(std::vector<Leftover>& all, const Keys& keys,
                    const std::vector<KeyWriters>& writers, KeyPlace place, const char* name,
                    const LeftoverRule& rule) {
    for (const auto& [key, value] : keys) {
        const KeyWriters* by = writers_of(writers, place, key);
        const bool by_it = by != nullptr && !by->managers.empty() &&
                           std::ranges::all_of(by->managers, [&rule](const std::string& manager) {
                               return matches_any(rule.managers, manager);
                           });
        const auto known = rule.values.find(key);
        if (by_it || (known != rule.values.end() && known->second == value)) {
            all.push_back({key, value, name,
                           by != nullptr ? by->managers : std::vector<std::string>{},
                           place == KeyPlace::annotation, ""});
        }
    }
}

void take_away(KeelKeys& annotations, const std::vector<Leftover>& all) {
    for (const Leftover& one : all) {
        if (one.removable) {
            annotations.erase(one.key);
        }
    }
}

// What holds once all that is removable is gone from the workload and its namespace, as given.
void tell_then(std::vector<Leftover>& all, const Workload& without, const Namespace* ns,
               const Config& config) {
    for (Leftover& one : all) {
        const Setting then =
            effective_setting(without, ns, config, one.key, default_of(config, one.key));
        one.then = then.value.empty() ? "nothing" : then.value + " (" + then.layer + ")";
    }
}

}  // namespace

Stamp stamped_on(const Workload& workload) {
    Stamp stamp;
    for (const auto& [key, value] : workload.annotations) {
        if (is_ours(workload, key)) {
            stamp.emplace(key, value);
        }
    }
    return stamp;
}

Stamp stamp_for(const Workload& workload, const Namespace* ns, const Config& config,
                const PhaseStates& states) {
    Stamp stamp;
    if (!config.stamp || !standing_of(workload, ns, config, states).ours) {
        return stamp;
    }
    for (const auto& [key, alias] : kStamped) {
        if (is_said(workload, key) || (*alias != '\0' && is_said(workload, alias))) {
            continue;
        }
        const Setting setting =
            effective_setting(workload, ns, config, key, default_of(config, key));
        // Keel knows "poll" only, and takes any other word for webhooks alone.
        const bool poll = setting.value == "all" && std::string_view(key) == "keel.sh/trigger";
        if (!setting.value.empty()) {
            stamp.emplace(key, poll ? "poll" : setting.value);
        }
    }
    return stamp;
}

std::vector<Leftover> leftovers_of(const Workload& workload, const Namespace* ns,
                                   const Config& config, const LeftoverRule& rule) {
    std::vector<Leftover> all;
    for (const auto& [name, place, keys] : kPlaces) {
        find_leftovers(all, workload.*keys, workload.writers, place, name, rule);
    }
    if (all.empty()) {
        return all;
    }
    Workload without = workload;
    take_away(without.annotations, all);
    tell_then(all, without, ns, config);
    return all;
}

std::vector<Leftover> leftovers_of(const Namespace& ns, const Config& config,
                                   const LeftoverRule& rule) {
    std::vector<Leftover> all;
    find_leftovers(all, ns.annotations, ns.writers, KeyPlace::annotation, "namespace annotation",
                   rule);
    find_leftovers(all, ns.labels, ns.writers, KeyPlace::label, "namespace label", rule);
    std::erase_if(all, [](const Leftover& one) { return !is_keel_key(one.key); });
    if (all.empty()) {
        return all;
    }
    Namespace without = ns;
    take_away(without.annotations, all);
    Workload silent;
    silent.key.ns = ns.name;
    tell_then(all, silent, &without, config);
    return all;
}

}  // namespace keel
