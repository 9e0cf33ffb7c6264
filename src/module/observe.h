// Observation: what a request for a manifest asks for, taken once, and what the answer says about
// the tag.
#pragma once

#include <optional>
#include <string_view>

#include "core/digest.h"
#include "core/event.h"
#include "module/conf.h"
#include "module/ngx.h"
#include "module/table.h"

namespace keel::ngx {

// What is known of a request for a tag; lives in the request's pool and is reachable from the main
// request whatever internal redirects do to nginx's own contexts.
struct TagRequest {
    std::string_view repository;  // into r->uri as it was
    std::string_view name;
    ngx_msec_t started = 0;     // on nginx's monotonic clock
    std::string_view registry;  // once an observing location has answered
    std::string_view digest;    // the answer's header, once it has counted
    Outcome outcome;
};

// The marker of a request for a tag, or null for all other requests.
[[nodiscard]] TagRequest* tag_request(ngx_http_request_t* r) noexcept;

// PREACCESS handler: the one parse.
ngx_int_t parse_request(ngx_http_request_t* r) noexcept;

// Header filter's part: looks at the answer and never changes it.
void observe_answer(ngx_http_request_t* r) noexcept;

}  // namespace keel::ngx
