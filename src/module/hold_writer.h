// The helper's part of holds: it alone writes DIR/holds. Wishes come from workers by the mailbox,
// expired holds are lifted, and companions are told.
#pragma once

#include "module/conf.h"

namespace keel::ngx {

// Of the helper only: see HelperPart.
void start_hold_writer(MainConf& conf) noexcept;
void look_for_wishes() noexcept;

}  // namespace keel::ngx
