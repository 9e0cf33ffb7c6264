#include "core/rate_limit.h"

#include <algorithm>
#include <charconv>

namespace keel {
namespace {

constexpr std::uint32_t kYear = 365 * 24 * 60 * 60;  // seconds
constexpr std::string_view kSpace = " \t";

std::string_view trimmed(std::string_view text) noexcept {
    const std::size_t begin = text.find_first_not_of(kSpace);
    if (begin == std::string_view::npos) {
        return {};
    }
    return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// All of the text is a decimal number; one that is larger than `most` is `most`.
std::optional<std::uint64_t> number(std::string_view text, std::uint64_t most) noexcept {
    std::uint64_t value = 0;
    const char* last = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), last, value);
    if (text.empty() || end != last || error == std::errc::invalid_argument) {
        return std::nullopt;
    }
    return error == std::errc{} ? std::min(value, most) : most;
}

// Takes what stands before the first `separator` off the text.
std::string_view take(std::string_view& text, char separator) noexcept {
    const std::string_view part = text.substr(0, text.find(separator));
    text.remove_prefix(std::min(part.size() + 1, text.size()));
    return trimmed(part);
}

}  // namespace

std::optional<RateLimit> parse_rate_limit(std::string_view text) noexcept {
    std::string_view policy = take(text, ',');
    const std::optional<std::uint64_t> count = number(take(policy, ';'), kMaxRateCount);
    if (!count) {
        return std::nullopt;
    }
    RateLimit limit{*count, 0};
    while (!policy.empty()) {
        const std::string_view parameter = take(policy, ';');
        if (parameter.starts_with("w=")) {
            limit.window =
                static_cast<std::uint32_t>(number(parameter.substr(2), kYear).value_or(0));
        }
    }
    return limit;
}

std::optional<std::uint32_t> parse_retry_seconds(std::string_view text) noexcept {
    const std::optional<std::uint64_t> seconds = number(trimmed(text), kYear);
    if (!seconds) {
        return std::nullopt;
    }
    return static_cast<std::uint32_t>(*seconds);
}

}  // namespace keel
