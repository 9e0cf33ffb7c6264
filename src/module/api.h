// keel_api: status, the tag table and metrics, for reading. Who may read is up to nginx's access
// directives.
#pragma once

#include "module/ngx.h"

namespace keel::ngx {

// Content handler of a `keel_api` location.
ngx_int_t answer_api(ngx_http_request_t* r) noexcept;

}  // namespace keel::ngx
