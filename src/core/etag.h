// Entity tags of answers about manifests. Pure; nothing here allocates or throws.
#pragma once

#include <string_view>

namespace keel {

// What stands in an ETag that is alone in its line: without quotes and mark of weakness.
[[nodiscard]] std::string_view bare_etag(std::string_view etag) noexcept;

}  // namespace keel
