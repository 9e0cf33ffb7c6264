// The writing half of keel_api: holds, and which digest is current.
#pragma once

#include "core/api_request.h"
#include "module/api_reply.h"
#include "module/ngx.h"

namespace keel::ngx {

// PUT and DELETE of `path`, which is a hold or, for PUT, a current digest. What a content handler
// returns.
ngx_int_t answer_write(ngx_http_request_t* r, ApiPath path);

// 413, in the words of keel_api.
[[nodiscard]] Reply body_too_large();

}  // namespace keel::ngx
