// Publishing to companions, nginx's side: a part of the helper.
#pragma once

#include "core/event.h"
#include "module/conf.h"

namespace keel::ngx {

// Nothing without companions. What keeps it from publishing is logged and told by keel_api.
void start_publishing(MainConf& conf) noexcept;

// There may be something to publish. A hint: it looks every second anyway.
void publish_news() noexcept;

// Tells every companion of it, if it can: a few are kept while a companion does not answer, none
// over a reload. Id and source are filled in. Helper only.
void publish_hold(HoldEvent event) noexcept;

}  // namespace keel::ngx
