// Base64 as RFC 4648 has it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace keel {

// The standard alphabet with padding, nothing else; each text has one spelling. nullopt otherwise,
// and for empty text.
[[nodiscard]] std::optional<std::string> decode_base64(std::string_view text);
// The standard alphabet with padding, one line.
[[nodiscard]] std::string encode_base64(std::string_view bytes);

}  // namespace keel
