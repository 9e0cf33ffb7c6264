// keeld's objects (those below /v1/) as text for people. Fields that are unknown or absent never
// hurt.
#pragma once

#include <string>

#include "core/time.h"
#include "keelctl/json.h"
#include "keelctl/text.h"

namespace keel::ctl {

struct Style {
    Painter paint{false};
    bool wide = false;  // digests in full
    Time now;
};

[[nodiscard]] std::string show_status(const json_t* status, const Style& style);
[[nodiscard]] std::string show_workload(const json_t* workload, const Style& style);
// Lists: the object with "items".
[[nodiscard]] std::string show_workloads(const json_t* list, const Style& style);
[[nodiscard]] std::string show_tags(const json_t* list, const Style& style);
[[nodiscard]] std::string show_watches(const json_t* list, const Style& style);
[[nodiscard]] std::string show_holds(const json_t* list, const Style& style);
[[nodiscard]] std::string show_rollouts(const json_t* list, const Style& style);
[[nodiscard]] std::string show_phases(const json_t* list, const Style& style);
[[nodiscard]] std::string show_pins(const json_t* list, const Style& style);
[[nodiscard]] std::string show_leftovers(const json_t* list, const Style& style);
[[nodiscard]] std::string show_approvals(const json_t* list, const Style& style);
[[nodiscard]] std::string show_pending(const json_t* list, const Style& style);
// What another configuration would change.
[[nodiscard]] std::string show_change(const json_t* change, const Style& style);
// What an action did, cache by cache where it went to those.
[[nodiscard]] std::string show_results(const json_t* answer, const Style& style);
// Oldest first, as a log is read; `with_header` as Table has it.
[[nodiscard]] std::string show_history(const json_t* list, const Style& style,
                                       bool with_header = true);

}  // namespace keel::ctl
