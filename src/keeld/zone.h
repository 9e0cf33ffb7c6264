// Time zones by their names.
#pragma once

#include <string>

#include "core/poll_schedule.h"

namespace keel {

// The zone of this name in the system's tz database ("Europe/Sofia"), daylight saving included;
// UTC where there is none (the configuration names existing ones only).
[[nodiscard]] Zone zone_named(const std::string& name);

}  // namespace keel
