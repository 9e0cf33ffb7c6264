// What a rollout watches for after its proof: whether the new pods stay well (R3). Readiness is not
// health. Pure.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/expected.h"
#include "core/time.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/cluster/objects.h"
#include "keeld/policy/judge.h"

namespace keel {

// One rollout's soak. The ledger keeps it, so that a restart of keeld goes on with it.
struct Soak {
    double usual = 0;  // restarts an hour of all its pods together, before the rollout
    Time begun;        // epoch: not yet
    // Of every new pod, by its UID: restarts of the containers that were rolled when it was first
    // seen, and how often it became unready since.
    struct Seen {
        int restarts = 0;
        int flaps = 0;
        bool ready = true;
    };
    std::map<std::string, Seen> pods{};

    [[nodiscard]] std::string to_json() const;
    // What is not there keeps its default.
    [[nodiscard]] static Soak from_json(const std::string& json);
};

// How often the pods of a workload restart by themselves, an hour; 0 where nothing is known.
[[nodiscard]] double restarts_an_hour(const Running& running);

// Something of the new pods that is the content's fault.
struct Unwell {
    std::string container;
    std::string text;  // one sentence naming the pod
};

// Looks at the pods of the newest revision and notes them in `soak`. Unwell is a container that was
// rolled and
// - was killed for its memory, or is in a crash loop, since the soak began;
// - restarted more than once, and than twice as often as was usual before;
// - is in a pod that became unready more than three times, or is so for a minute.
[[nodiscard]] std::optional<Unwell> look(Soak& soak, const std::vector<Pod>& updated,
                                         const std::vector<Target>& targets, Time now);

}  // namespace keel
