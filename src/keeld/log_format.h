// How keeld's own log reads: one line an event, as text or as JSON.
#pragma once

#include <spdlog/pattern_formatter.h>

#include <memory>
#include <string>
#include <string_view>

#include "keeld/json.h"

namespace keel {

// The message as a JSON string; %v alone would let a quote or a line break in it end the string.
class JsonText final : public spdlog::custom_flag_formatter {
  public:
    void format(const spdlog::details::log_msg& message, const std::tm&,
                spdlog::memory_buf_t& out) override {
        const Json text(
            json_text(std::string_view(message.payload.data(), message.payload.size())));
        const std::string quoted = dump_json(text.get());
        out.append(quoted.data(), quoted.data() + quoted.size());
    }
    [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override {
        return std::make_unique<JsonText>();
    }
};

// {"time", "level", "text"} in UTC, or the same three with spaces between them.
[[nodiscard]] inline std::unique_ptr<spdlog::formatter> log_format(bool json) {
    auto formatter = std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::utc);
    formatter->add_flag<JsonText>('*').set_pattern(
        json ? R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","text":%*})"
             : "%Y-%m-%dT%H:%M:%S.%eZ %l %v");
    return formatter;
}

}  // namespace keel
