// Publishing, nginx's side: runs in the helper process that nginx forks for paths with a manager.
// Workers only wake it.
#pragma once

#include "module/conf.h"
#include "module/ngx.h"

namespace keel::ngx {

// Gives a path of the configuration a manager, which makes nginx run the helper. Called once, with
// companions.
ngx_int_t add_helper(ngx_conf_t* cf, MainConf& conf) noexcept;

// In the master, once per configuration: makes the descriptor that wakes the helper, or says why
// nothing is published.
ngx_int_t prepare_publishing(ngx_cycle_t* cycle, const MainConf& conf) noexcept;

// There is something to publish. A hint: the helper looks every second anyway. Any worker, never
// blocks.
void wake_helper() noexcept;

}  // namespace keel::ngx
