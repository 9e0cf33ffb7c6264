// Whose a workload is and what applies to it: enrolment, vetoes, and settings with the layer they
// come from. Pure.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/pattern.h"
#include "core/policy.h"
#include "core/poll_schedule.h"
#include "core/verdict.h"
#include "keeld/cluster/objects.h"
#include "keeld/config.h"
#include "keeld/policy/phases.h"

namespace keel {

// A value, where it comes from, and what it won against. Layers, strongest first: "workload
// annotation", "workload label", "pod template annotation", "pod template label", "namespace
// annotation", "namespace label", "phase NAME", "default".
struct Setting {
    struct Loser {
        std::string value;
        std::string layer;
        std::string note{};  // why it is no setting at all, whoever is stronger; or empty
    };
    std::string value;
    std::string layer;
    std::vector<Loser> overridden;

    // Written on the workload itself, not on its pods, its namespace, or in the configuration.
    [[nodiscard]] bool is_own() const;
};

// The field manager of the keys that keeld itself shows on objects: they are no settings.
inline constexpr std::string_view kStampManager = "keeld-stamp";

// A setting and what its value means.
template <class T>
struct Parsed : Setting {
    T parsed{};
};

// The setting `key` ("keel.sh/policy"). Its alias ("keel.observer/policy" for keel.sh/policy,
// "keel.sh/match-tag" for keel.sh/matchTag) is read where the key itself is absent from the same
// place.
[[nodiscard]] Setting effective_setting(const Workload& workload, const Namespace* ns,
                                        const Config& config, const std::string& key,
                                        const std::string& fallback);

// Everything that Keel's keys and our own say about how a workload is judged.
struct WorkloadSettings {
    Parsed<Policy> policy;
    Parsed<bool> match_tag;              // known to Keel; no policy depends on it here
    Parsed<bool> match_pre_release;      // suffixes byte for byte (policy.md, "Suffixes")
    Parsed<Trigger> trigger;             // "poll" and "all" are all, any other word is push
    Parsed<PollSchedule> poll_schedule;  // the default's where the value is none
    Parsed<Pattern::Pointer> monitor_containers;  // names of containers and volumes; null: all
    Parsed<bool> init_containers;                 // whether their tag may change
    Parsed<bool> image_volumes;                   // whether they are followed
    Setting image_pull_secret;                    // the name of one; empty: none
    Parsed<Step> step;
    Parsed<Reverts> reverts;
    // What guards: the strictest of all layers holds, not the strongest.
    Parsed<Millis> min_age;            // of a digest before it is rolled: the longest
    Parsed<bool> reversible;           // what failed on its content goes back to what ran before
    Parsed<Millis> soak;               // how long new pods have to stay well: the longest
    Parsed<int> approvals;             // votes before a rollout: the most; 0: none are needed
    Parsed<Millis> approval_deadline;  // hours in the text: the fewest that anybody says, else 24

    // A value that means nothing (V4).
    struct Fault {
        std::string text;     // names key, value, layer, and what was expected
        bool blocks = false;  // safety hangs on it: nothing is decided without it
    };
    std::vector<Fault> faults;

    // The first fault that blocks; null: none.
    [[nodiscard]] const Fault* blocking() const;
    // Whether the container, or volume, of this name is followed. One of the workload's own names
    // on which the pattern takes too many steps is a fault that blocks.
    [[nodiscard]] bool monitors(std::string_view name) const;
};
[[nodiscard]] WorkloadSettings settings_of(const Workload& workload, const Namespace* ns,
                                           const Config& config);
// The same, made once for all of whom the same is said: 10,000 workloads say the same few things.
// For keeld's loop alone.
[[nodiscard]] std::shared_ptr<const WorkloadSettings> shared_settings_of(const Workload& workload,
                                                                         const Namespace* ns,
                                                                         const Config& config);

struct Standing {
    bool ours = false;                     // enrolled and not vetoed: verdicts go on from here
    Reason reason = Reason::not_enrolled;  // why not, if it is not
    std::string sentence;
    std::string enrolled_by;  // "phase media", "namespace label K=V"; empty if it is not
};
[[nodiscard]] Standing standing_of(const Workload& workload, const Namespace* ns,
                                   const Config& config, const PhaseStates& states);
// The same, where the setting keel.sh/policy is known already.
[[nodiscard]] Standing standing_of(const Workload& workload, const Namespace* ns,
                                   const Config& config, const PhaseStates& states,
                                   const Setting& policy);

// Namespaces that are never touched: configured ones, keeld's own, the caches'.
[[nodiscard]] bool is_excluded(const std::string& ns, const Config& config);

// Patterns of stateful.images, over registry/repository or the repository alone; '*' stands for any
// bytes, slashes too. `image`: registry/repository.
[[nodiscard]] bool matches_image(std::string_view pattern, std::string_view image);

}  // namespace keel
