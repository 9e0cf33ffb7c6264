// Where keeld listens: a unix socket or a loopback address.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/expected.h"

namespace keel {

struct ListenAddress {
    std::string socket;      // absolute path; empty for TCP
    std::string host;        // a loopback address without brackets
    std::uint16_t port = 0;  // 0: any free one

    // "unix:/path", "127.0.0.1:8080", "[::1]:8080".
    [[nodiscard]] std::string to_string() const;
    // The text of to_string(). Errors: "listen", what is wrong with it and what was expected.
    [[nodiscard]] static Expected<ListenAddress> parse(std::string_view text);
};

}  // namespace keel
