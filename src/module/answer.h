// What the header lines of an answer say that a cache keeps: the digest, and how often the registry
// may be asked. Read in one pass, on the pull path.
#pragma once

#include <cstring>
#include <string_view>

#include "core/digest.h"
#include "module/ngx.h"
#include "module/table.h"

namespace keel::ngx {

// Almost everybody spells a header as its specification does: one memcmp decides.
inline bool is_header(const ngx_table_elt_t& header, std::string_view name) noexcept {
    if (header.key.len != name.size() || header.hash == 0) return false;
    return std::memcmp(header.key.data, name.data(), name.size()) == 0 ||
           ngx_strncasecmp(header.key.data,
                           reinterpret_cast<u_char*>(const_cast<char*>(name.data())),
                           name.size()) == 0;
}

// Calls visit(header) for every header line; both before and after nginx 1.23 the list holds them
// all.
template <class Visit>
void for_each_header(ngx_list_t& headers, Visit visit) noexcept {
    for (ngx_list_part_t* part = &headers.part; part != nullptr; part = part->next) {
        auto* lines = static_cast<ngx_table_elt_t*>(part->elts);
        for (ngx_uint_t i = 0; i < part->nelts; ++i)
            visit(lines[i]);
    }
}

inline constexpr std::string_view kHoldHeader = "X-Keel-Hold";

// Lines that are views live as long as the request.
struct AnswerHeaders {
    Digest digest;  // Docker-Content-Digest
    std::string_view digest_text;
    bool has_digest = false;
    bool bad_digest = false;  // malformed, or two that differ
    bool has_rates = false;   // one of the lines that read_rates() reads
    bool has_hold = false;    // kHoldHeader, of another cache before this one
};

[[nodiscard]] AnswerHeaders read_headers(ngx_http_request_t* r) noexcept;

// RateLimit-Limit, RateLimit-Remaining, docker-ratelimit-source and Retry-After. `now` in
// milliseconds since 1970. Not for the usual answer, which has none of them.
[[nodiscard]] Rates read_rates(ngx_http_request_t* r, std::int64_t now) noexcept;

}  // namespace keel::ngx
