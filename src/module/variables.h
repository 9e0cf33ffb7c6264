// $keel_registry, $keel_repository, $keel_tag, $keel_digest, $keel_previous_digest, $keel_change.
#pragma once

#include "module/ngx.h"

namespace keel::ngx {

ngx_int_t add_variables(ngx_conf_t* cf) noexcept;

}  // namespace keel::ngx
