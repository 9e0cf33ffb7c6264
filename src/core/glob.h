// `*` and `?`, and everything else as it is.
#pragma once

#include <string_view>

namespace keel {

// Whether all of `text` matches. Time at most the product of the two lengths.
[[nodiscard]] bool matches_glob(std::string_view pattern, std::string_view text) noexcept;

}  // namespace keel
