// Answers of keel_api, as objects and as bytes.
#pragma once

#include <jansson.h>

#include <cstdint>
#include <memory>
#include <string>

#include "core/expected.h"
#include "module/control.h"
#include "module/ngx.h"

namespace keel::ngx {

struct FreeJson {
    void operator()(json_t* value) const noexcept { json_decref(value); }
};
using Json = std::unique_ptr<json_t, FreeJson>;

struct Reply {
    ngx_uint_t status = NGX_HTTP_OK;
    std::string body;
    const char* type = "application/json";
};

// Throws std::bad_alloc for null, which is jansson's answer when memory is short.
[[nodiscard]] Json checked(json_t* value);
[[nodiscard]] std::string text_of(Json value);

// A 64-bit counter, which is a string in JSON.
[[nodiscard]] json_t* counter(std::uint64_t value);
// Adds the three counters to the JSON of a hold.
void add_tally(json_t* hold, const Tally& tally);

// {"error": {"code", "text"}}
[[nodiscard]] Reply fault(ngx_uint_t status, const Error& error);

// Sends it; what a content handler returns, or what finalizes the request.
[[nodiscard]] ngx_int_t send(ngx_http_request_t* r, const Reply& reply) noexcept;

}  // namespace keel::ngx
