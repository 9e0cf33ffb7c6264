// What another configuration changes for the workloads of the cluster (P8). Pure: nothing is
// applied.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "keeld/catalogue/catalogue.h"
#include "keeld/policy/judge.h"

namespace keel {

// By the workloads' names. A newly enrolled one is not known to be due before its pods and tags
// have been looked at: it is in `unknown` then.
struct ConfigChange {
    std::vector<WorkloadKey> enrolled;  // followed, and not before
    std::vector<WorkloadKey> rolled;    // due for a target that they were not due for before
    std::vector<WorkloadKey> released;  // not followed any more
    std::vector<WorkloadKey> unknown;   // of `enrolled`
    std::size_t changed = 0;            // each workload counted once
};

// `before`: null where there was no configuration. From observe to act everything that is due is
// rolled.
[[nodiscard]] ConfigChange change_between(const Knowledge* before, const Knowledge& after);

// Why cap.workloads of the new configuration refuses the change; empty: it does not. A change that
// happens at all is as many workloads as it enrols, rolls and releases.
[[nodiscard]] std::string refusal_of(const ConfigChange& change, const Config& after);

}  // namespace keel
