// `*` and `?`, and everything else as it is.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace keel {

// Whether all of `text` matches. Time at most the product of the two lengths.
[[nodiscard]] bool matches_glob(std::string_view pattern, std::string_view text) noexcept;
// Whether one of the patterns does.
[[nodiscard]] bool matches_any(const std::vector<std::string>& patterns,
                               std::string_view text) noexcept;

}  // namespace keel
