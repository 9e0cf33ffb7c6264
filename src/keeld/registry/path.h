// How one registry is asked: through a cache, directly, or as a second source.
#pragma once

#include <string>
#include <string_view>

namespace keel {

struct RegistryPath {
    std::string registry;  // "docker.io"
    std::string base;      // "http://host:port", without a slash at its end
    std::string suffix;    // "?ns=docker.io" or empty
    std::string source;    // "look-up cache-a", "look-up direct", "upstream"
};

// For a query or a path segment: every byte but letters, digits and - _ . ~ as %XX.
[[nodiscard]] std::string url_encode(std::string_view text);

}  // namespace keel
