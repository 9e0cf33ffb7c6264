// GET /v1/report as a table and as Markdown.
#pragma once

#include <string>

#include "keelctl/json.h"
#include "keelctl/show.h"

namespace keel::ctl {

[[nodiscard]] std::string show_report(const json_t* report, const Style& style);
// For a page or a ticket: headings, a table of the phases, lists of workloads.
[[nodiscard]] std::string markdown_report(const json_t* report, const Style& style);

}  // namespace keel::ctl
