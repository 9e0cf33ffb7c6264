// What a registry asks for when it says 401: the WWW-Authenticate header of RFC 7235, and the
// token that answers a Bearer challenge (distribution specification, token authentication).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace keel {

struct Challenge {
    enum class Scheme { other, basic, bearer };
    Scheme scheme = Scheme::other;
    std::string realm;
    std::string service;
    std::string scope;
    std::string error;  // RFC 6750, of a token that was refused: "insufficient_scope"

    friend bool operator==(const Challenge&, const Challenge&) = default;
};

// All challenges of one header line, in order; what cannot be read ends the list. Never throws but
// for want of memory.
[[nodiscard]] std::vector<Challenge> parse_challenges(std::string_view header);

}  // namespace keel
