// The words for verdicts and reasons, read back from what people write.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/verdict.h"

namespace keel {

// nullopt: there is no such word.
[[nodiscard]] std::optional<Verdict> parse_verdict(std::string_view text) noexcept;
[[nodiscard]] std::optional<Reason> parse_reason(std::string_view text) noexcept;

// All of them, for those who mistyped one: "roll current blocked ignore".
[[nodiscard]] std::string known_verdicts();
[[nodiscard]] std::string known_reasons();

}  // namespace keel
