// The tag table on disk, DIR/snapshot: what a restart begins with. doc/snapshot.md says how it is
// laid out, and who writes and reads it when.
#pragma once

#include "module/conf.h"
#include "module/ngx.h"

namespace keel::ngx {

// In every process of nginx, before its first request: the first one loads the snapshot, the others
// wait for it. What is wrong with the file is logged and the file set aside; nothing is fatal.
void restore_table(const MainConf& conf) noexcept;

// The helper's part: writes a snapshot some seconds after a change.
void start_saving(MainConf& conf) noexcept;

// A process that may be the last one goes: writes what has changed since, within 0.7 s after
// SIGTERM and 3 s after SIGQUIT.
void save_on_exit(const MainConf& conf) noexcept;

}  // namespace keel::ngx
