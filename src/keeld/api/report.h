// GET /v1/report: what the phases of the plan have come to, each and all together.
#pragma once

#include <string>

#include "keeld/catalogue/catalogue.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/json.h"
#include "keeld/ledger/ledger.h"
#include "keeld/rollout/phases.h"
#include "keeld/rollout/planner.h"

namespace keel {

struct ReportParts {
    const Config& config;
    const Clock& clock;
    const Catalogue& catalogue;
    const Tags& tags;
    const Ledger& ledger;
    const Planner& planner;
    const Phases& plan;
};

// {"at", "phases": [section], "plan": section}, all phases that have begun, or that one alone: a
// list without sections where no phase of the name has. Judges every workload of the phases once.
[[nodiscard]] Json report(const ReportParts& parts, const std::string& phase);

}  // namespace keel
