// How near one name is to another, for those who mistyped it.
#pragma once

#include <cstddef>
#include <string_view>

namespace keel {

// How many bytes must be added, removed or replaced to make one of the other; case does not count.
// Time: the product of the two lengths.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace keel
