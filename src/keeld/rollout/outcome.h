// What the pods of a workload say about a rollout: the table "seen while verifying" of the design,
// as a function. Pure.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "keeld/catalogue/pods.h"
#include "keeld/policy/judge.h"
#include "keeld/registry/content.h"

namespace keel {

enum class Arrival : std::uint8_t {
    proven,         // every updated pod runs the target
    on_the_way,     // some pod has not started its container yet
    later,          // some run another digest of the tag: it moved again
    previous,       // some still run what ran before: a stale pull
    cannot_tell,    // what runs could not be resolved: never a failure
    crashing,       // on the target, and not ready: only this is the content's fault
    unschedulable,  // pods that no node takes: not the content's fault
    not_pulled,     // the image could not be pulled: not the content's fault
};

struct Finding {
    Arrival arrival = Arrival::on_the_way;
    int pods = 0;
    int proven = 0;
    int restarts = 0;       // of all their containers
    std::string container;  // whose look decided; empty where no single one did
    std::string text;       // one sentence naming a pod
};

// `at_deadline`: what has not arrived by now is told by its cause instead of being waited for.
[[nodiscard]] Finding inspect(const std::vector<Pod>& updated, const std::vector<Target>& targets,
                              const std::map<std::string, std::string>& platform_of_node,
                              const std::function<const Content*(const Digest&)>& content,
                              bool at_deadline);

}  // namespace keel
