// What a registry's answer says about how often it may be asked. Pure; nothing here allocates or
// throws.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace keel {

// The value of `RateLimit-Limit` or `RateLimit-Remaining`.
struct RateLimit {
    std::uint64_t count = 0;   // requests, at most kMaxRateCount
    std::uint32_t window = 0;  // seconds that they are for; 0 where it is not said

    friend bool operator==(const RateLimit&, const RateLimit&) noexcept = default;
};
inline constexpr std::uint64_t kMaxRateCount = 1'000'000'000'000;

// "100;w=21600" as Docker Hub writes it, "100", or a list of policies, of which the first is the
// one in force. Other parameters are ignored; nullopt when it does not begin with a number.
[[nodiscard]] std::optional<RateLimit> parse_rate_limit(std::string_view text) noexcept;

// The seconds of `Retry-After: 120`, at most a year of them; nullopt for the form with a date.
[[nodiscard]] std::optional<std::uint32_t> parse_retry_seconds(std::string_view text) noexcept;

}  // namespace keel
