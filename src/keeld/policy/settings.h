// Whose a workload is and what applies to it: enrolment, vetoes, and settings with the layer they
// come from. Pure.
#pragma once

#include <string>
#include <vector>

#include "core/verdict.h"
#include "keeld/cluster/objects.h"
#include "keeld/config.h"

namespace keel {

// A value, where it comes from, and what it won against. Layers, strongest first: "workload
// annotation", "workload label", "pod template annotation", "pod template label", "namespace
// annotation", "namespace label", "default".
struct Setting {
    struct Loser {
        std::string value;
        std::string layer;
    };
    std::string value;
    std::string layer;
    std::vector<Loser> overridden;
};

// The setting `key` ("keel.sh/policy"; its alias "keel.observer/policy" is read where the key
// itself is absent).
[[nodiscard]] Setting effective_setting(const Workload& workload, const Namespace* ns,
                                        const std::string& key, const std::string& fallback);

enum class PolicyKind : std::uint8_t { digest, tag, never, invalid };
// "force" is digest; patch minor major all glob: regexp: are tag; "never"; anything else is
// invalid.
[[nodiscard]] PolicyKind policy_kind(const std::string& value);

struct Standing {
    bool ours = false;                     // enrolled and not vetoed: verdicts go on from here
    Reason reason = Reason::not_enrolled;  // why not, if it is not
    std::string sentence;
    std::string enrolled_by;  // "namespace label keel.sh/enrolled=true"; empty if it is not
    Setting policy;
};
[[nodiscard]] Standing standing_of(const Workload& workload, const Namespace* ns,
                                   const Config& config);

// Namespaces that are never touched: configured ones, keeld's own, the caches'.
[[nodiscard]] bool is_excluded(const std::string& ns, const Config& config);

// Patterns of stateful.images, over registry/repository or the repository alone; '*' stands for any
// bytes, slashes too.
[[nodiscard]] bool matches_image(const std::string& pattern, const std::string& registry,
                                 const std::string& repository);

}  // namespace keel
