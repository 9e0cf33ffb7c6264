// The digest of a manifest's body, taken while it streams to the client: for registries that do not
// name it, and to catch those that name a wrong one.
#pragma once

#include <openssl/types.h>

#include <string_view>

#include "core/digest.h"
#include "core/manifest_request.h"
#include "module/ngx.h"
#include "module/table.h"

namespace keel::ngx {

// Lives in the request's pool; one that ends with it, because the client or the registry went away,
// is counted as cut off.
class BodyHash {
  public:
    // What the header filter found, for the answer's end.
    struct Answer {
        std::string_view digest_text;  // of the header; empty where there is none
        Digest digest;
        ManifestKind kind = ManifestKind::unknown;
        off_t length = -1;  // bytes, where the answer says how many
    };

    // Sees to it that nginx reads the whole body into memory. Null when there is no memory: the
    // pull goes on.
    static BodyHash* start(ngx_http_request_t* r, Table table, const Answer& answer) noexcept;

    // Takes what passes the body filter; true when that was the end.
    [[nodiscard]] bool add(const ngx_chain_t* in) noexcept;
    // After the end, once: the digest, or empty when not all of the body was seen.
    [[nodiscard]] Digest finish() noexcept;
    [[nodiscard]] const Answer& answer() const noexcept { return answer_; }

  private:
    static void on_request_end(void* data) noexcept;
    void release() noexcept;

    Answer answer_;
    Table table_{nullptr};
    EVP_MD_CTX* context_ = nullptr;  // null once the hash is done
    Digest::Algorithm algorithm_ = Digest::Algorithm::sha256;
    off_t seen_ = 0;
    bool whole_ = true;  // nothing has passed that was not in memory
};

// Gives back what is kept between requests. At a worker's end.
void end_hashing() noexcept;

}  // namespace keel::ngx
