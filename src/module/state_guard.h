// One nginx, one state directory: a flock on DIR/nginx.lock. The masters of a binary upgrade share
// it, since the descriptor stays open over exec; workers and the helper have it no longer than
// until they come up, so that it ends with the master, however that ends.
#pragma once

#include "module/conf.h"

namespace keel::ngx {

// In the master, while a configuration is made ready; not under -t. False when another nginx has
// the directory: then nginx does not start, or goes on with the configuration before. What keeps it
// from finding out, a file system without locks, say, is logged and no more.
[[nodiscard]] bool guard_state(MainConf& conf) noexcept;

// In a process that is no master, before it does anything else.
void leave_guard(MainConf& conf) noexcept;

}  // namespace keel::ngx
