// What stamping would write onto a workload, and what Kyverno left on workloads and namespaces.
// Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "keeld/catalogue/catalogue.h"
#include "keeld/config.h"
#include "keeld/policy/phases.h"

namespace keel {

// Keys and values of metadata.annotations.
using Stamp = std::map<std::string, std::string>;

// What keeld has stamped, by metadata.managedFields; what somebody wrote over it is not keeld's.
[[nodiscard]] Stamp stamped_on(const Workload& workload);

// What is to be stamped: the effective policy, trigger and pollSchedule of a workload that is
// enrolled and not vetoed, but for the keys that it carries itself (annotation or label, under any
// name) by somebody else's hand. Empty where nothing is, and with `stamp.enabled: false`.
[[nodiscard]] Stamp stamp_for(const Workload& workload, const Namespace* ns, const Config& config,
                              const PhaseStates& states);

// One of our keys that an earlier policy wrote.
struct Leftover {
    std::string key;
    std::string value;
    std::string where;  // "workload annotation", as settings name their layers
    std::vector<std::string> managers;
    bool removable = false;  // it is an annotation of the object: taking it away restarts nothing
    std::string then;        // the effective value without it, and its layer; of a namespace: for
                             // a workload that says nothing of its own
};

// Who counts as the earlier policy: what none but field managers that match one of `managers`
// (globs) wrote, and every key with just this value, whoever wrote it. Kyverno's admission webhook
// leaves no manager of its own: the API server books its keys to whoever sent the request.
struct LeftoverRule {
    std::vector<std::string> managers;
    std::map<std::string, std::string> values;
};
[[nodiscard]] std::vector<Leftover> leftovers_of(const Workload& workload, const Namespace* ns,
                                                 const Config& config, const LeftoverRule& rule);
// What it wrote onto the namespace itself.
[[nodiscard]] std::vector<Leftover> leftovers_of(const Namespace& ns, const Config& config,
                                                 const LeftoverRule& rule);

}  // namespace keel
