// Standard Webhooks signatures (HMAC-SHA256), with several secrets for rotation.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "core/expected.h"
#include "core/time.h"

namespace keel {

// Decoded secrets, 24 to 64 bytes each. The first signs, all verify.
class Secrets {
  public:
    // The text of a secret file: one `whsec_<base64>` a line, trailing white space and empty lines
    // ignored. Errors: "bad-secret" with the line's number, never with the secret itself;
    // "no-secret" when there is none.
    [[nodiscard]] static Expected<Secrets> parse(std::string_view file_text);

    // "v1,<base64>": of id.timestamp.body by the first secret. `timestamp`: decimal seconds since
    // 1970.
    [[nodiscard]] std::string sign(std::string_view id, std::string_view timestamp,
                                   std::string_view body) const;

    // Whether one of the space-separated signatures in `signatures` is by one of the secrets,
    // compared in constant time, and the timestamp lies within kWindow of `now` (the window is
    // checked after the signature). Errors: "unsigned" (a header is missing), "bad-signature",
    // "clock-skew" (text says by how much).
    [[nodiscard]] Expected<void> verify(std::string_view id, std::string_view timestamp,
                                        std::string_view body, std::string_view signatures,
                                        Time now) const;

    static constexpr std::chrono::minutes kWindow{5};

  private:
    std::vector<std::string> keys_;
};

// 64 lower-case hex digits. Empty when OpenSSL has no memory.
[[nodiscard]] std::string sha256_hex(std::string_view text);

// What stands in the body's place in a signature where method and target count too, as for
// keel_api: "METHOD.request-target.<hex of the body's sha256>". `target`: as in the request line,
// path and query.
[[nodiscard]] std::string signed_request(std::string_view method, std::string_view target,
                                         std::string_view body);

// Reads a file of secrets or a token: must be a regular file that others may not read.
// Errors: "secret-file" naming the path and what to do. Used at start, so blocking.
[[nodiscard]] Expected<std::string> read_secret_file(const std::string& path);

}  // namespace keel
