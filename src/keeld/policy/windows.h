// When rollouts may start: windows of local time, right across daylight saving. Pure.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/poll_schedule.h"
#include "core/time.h"
#include "keeld/config.h"

namespace keel {

// Whether local time in `zone` lies in the window. An hour that comes twice is in it both times;
// one that is skipped never comes.
[[nodiscard]] bool is_open(const WindowConfig& window, const Zone& zone, Time moment);

// The first moment from `moment` on at which it is open, to the minute; nullopt: not within a
// fortnight.
[[nodiscard]] std::optional<Time> next_opening(const WindowConfig& window, const Zone& zone,
                                               Time moment);

// Several of them, any of which will do.
using Windows = std::vector<const WindowConfig*>;

// The windows of the configuration that name the namespace.
[[nodiscard]] Windows windows_of(const std::string& ns, const Config& config);
// Those that the phase names.
[[nodiscard]] Windows windows_of(const PhaseConfig& phase, const Config& config);

// The first moment from `moment` on at which one of each set is open; sets without a window are
// always open. `zone` yields the zone of a window's name for it. nullopt: not within a fortnight.
[[nodiscard]] std::optional<Time> next_opening(const std::vector<Windows>& sets,
                                               const std::function<Zone(const WindowConfig&)>& zone,
                                               Time moment);

}  // namespace keel
