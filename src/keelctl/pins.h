// keelctl pins: every workload's running digest, ready to apply.
#pragma once

#include <jansson.h>

#include <string>

namespace keel::ctl {

// The answer of GET /v1/pins as `format`: "yaml", "patch" (kubectl lines) or "terraform" (image
// arguments). What is not known is left out, with a comment that says so.
[[nodiscard]] std::string print_pins(const json_t* list, const std::string& format);

}  // namespace keel::ctl
