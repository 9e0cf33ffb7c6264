// Publishing to companions, nginx's side: a part of the helper.
#pragma once

#include "module/conf.h"

namespace keel::ngx {

// Nothing without companions. What keeps it from publishing is logged and told by keel_api.
void start_publishing(MainConf& conf) noexcept;

// There may be something to publish. A hint: it looks every second anyway.
void publish_news() noexcept;

}  // namespace keel::ngx
