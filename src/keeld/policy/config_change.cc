#include "keeld/policy/config_change.h"

#include <algorithm>

namespace keel {
namespace {

bool is_ours(const CatalogueEntry& entry, const Knowledge& knowledge) {
    const Namespace* ns = knowledge.catalogue.find_namespace(entry.object.key.ns);
    return standing_of(entry.object, ns, knowledge.config, knowledge.phases).ours;
}

// What would be written, with the mode that was.
std::vector<Target> targets_before(const CatalogueEntry& entry, const Knowledge* before,
                                   const Knowledge& after) {
    const bool only_observed =
        before != nullptr && before->config.mode == Mode::observe && after.config.mode == Mode::act;
    return before == nullptr || only_observed ? std::vector<Target>{}
                                              : judge(entry, *before).targets;
}

bool is_known(const WorkloadVerdict& verdict) {
    return verdict.reason != Reason::no_baseline && verdict.reason != Reason::no_answer;
}

}  // namespace

ConfigChange change_between(const Knowledge* before, const Knowledge& after) {
    ConfigChange change;
    for (const auto& [key, entry] : after.catalogue.workloads()) {
        const bool was = before != nullptr && is_ours(entry, *before);
        const bool is = is_ours(entry, after);
        bool rolled = false;
        if (was && !is) {
            change.released.push_back(key);
        }
        if (is) {
            const WorkloadVerdict verdict = judge(entry, after);
            rolled = !verdict.targets.empty() &&
                     verdict.targets != targets_before(entry, was ? before : nullptr, after);
            if (!was) {
                change.enrolled.push_back(key);
                if (!is_known(verdict)) {
                    change.unknown.push_back(key);
                }
            }
        }
        if (rolled) {
            change.rolled.push_back(key);
        }
        change.changed += was != is || rolled ? 1 : 0;
    }
    return change;
}

std::string refusal_of(const ConfigChange& change, const Config& after) {
    if (after.cap == 0 || change.changed <= static_cast<std::size_t>(after.cap)) {
        return "";
    }
    const auto part = [](const char* what, const std::vector<WorkloadKey>& which) {
        return std::string(what) + " " + std::to_string(which.size());
    };
    return "would change " + std::to_string(change.changed) + ", limit " +
           std::to_string(after.cap) + ": refused (" + part("enrolled", change.enrolled) + ", " +
           part("rolled", change.rolled) + ", " + part("released", change.released) +
           "); try it with keelctl plan --config FILE, then raise cap.workloads or start once with "
           "keeld --yes";
}

}  // namespace keel
