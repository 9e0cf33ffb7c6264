// The answer to POST /v1/plan: what another configuration would change.
#pragma once

#include "keeld/api/server.h"
#include "keeld/config.h"
#include "keeld/policy/config_change.h"

namespace keel {

[[nodiscard]] ApiResponse plan_answer(const ConfigChange& change, const Config& next);

}  // namespace keel
