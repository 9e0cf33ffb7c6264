// The shared memory zone and the state directory: made while the configuration is read.
#pragma once

#include <string_view>

#include "module/conf.h"
#include "module/ngx.h"

namespace keel::ngx {

// Registers the zone with nginx. `size` as nginx writes sizes ("10m"). Logs what is wrong.
char* add_zone(ngx_conf_t* cf, MainConf& conf, std::string_view name,
               std::string_view size) noexcept;

// `state=DIR`, relative to the prefix. nginx makes the directory and gives it to the workers' user.
char* set_state_directory(ngx_conf_t* cf, MainConf& conf, std::string_view directory) noexcept;

}  // namespace keel::ngx
