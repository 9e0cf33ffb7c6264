// Which phase of the plan a namespace belongs to. Pure.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "keeld/cluster/objects.h"
#include "keeld/config.h"

namespace keel {

// waiting: not begun, its namespaces are untouched. active: rolling, or soaking. paused: as active,
// and nothing new starts. completed: accepted; it goes on being followed.
enum class PhaseState : std::uint8_t { waiting, active, paused, completed };
[[nodiscard]] std::string_view to_string(PhaseState state);
[[nodiscard]] std::optional<PhaseState> parse_phase_state(std::string_view text);

// By the phases' names; one that is absent waits.
using PhaseStates = std::map<std::string, PhaseState, std::less<>>;
[[nodiscard]] PhaseState state_of(const PhaseStates& states, const PhaseConfig& phase);

// As they are once the next phase has begun, where that is due: in mode act one is always active,
// until all are completed.
[[nodiscard]] PhaseStates begun(PhaseStates states, const Config& config);

// The phases that claim the namespace, in their order: more than one is a mistake, and blocks.
// `ns`: null where it is not known; then no selector matches.
[[nodiscard]] std::vector<const PhaseConfig*> phases_of(const std::string& name,
                                                        const Namespace* ns, const Config& config);

}  // namespace keel
