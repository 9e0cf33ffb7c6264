// Points in time and durations as text. No clock in here: the caller says what time it is.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace keel {

using Millis = std::chrono::milliseconds;
using Time = std::chrono::sys_time<Millis>;  // the epoch itself stands for "never"

// RFC 3339 in UTC with milliseconds: "2026-11-22T12:00:00.123Z". Years 1970 to 9999; what lies
// outside is shown as the nearest moment inside.
[[nodiscard]] std::string format_time(Time time);
// RFC 3339 with any offset and any number of fraction digits (cut to milliseconds), years 0000 to
// 9999 (Go's zero time is one of them), no leap seconds; nullopt otherwise.
[[nodiscard]] std::optional<Time> parse_time(std::string_view text) noexcept;

// Go's durations ("1h30m", "300ms", "1.5h") and whole days ("7d", "400d"); no sign, cut
// to milliseconds. nullopt otherwise, or over 100 years.
[[nodiscard]] std::optional<Millis> parse_duration(std::string_view text) noexcept;
// The shortest exact Go spelling: "1h30m0s" is "1h30m", zero is "0s".
[[nodiscard]] std::string format_duration(Millis duration);

}  // namespace keel
