// Observation: what a request for a manifest asks for, taken once, and what the answer says about
// the tag.
#pragma once

#include <string_view>

#include "core/digest.h"
#include "core/event.h"
#include "module/conf.h"
#include "module/ngx.h"
#include "module/table.h"

namespace keel::ngx {

class BodyHash;
struct HeldRequest;

// What is known of a request that has a tag's shape; whether its parts are a repository and a tag
// is looked at only where the table does not know them. Lives in the request's pool and is
// reachable from the main request whatever internal redirects do to nginx's own contexts. Kept
// small: one more block for the pool costs a request more than everything else here.
struct TagRequest {
    const char* path = nullptr;        // the repository and what follows it, in r->uri as it was
    const char* registry = nullptr;    // of the configuration, once an observing location answered
    const char* digest = nullptr;      // text of the answer's digest, once it has counted
    const Digest* previous = nullptr;  // the current digest before it; null: this very one, or none
    BodyHash* hash = nullptr;          // while the body is being hashed
    const HeldRequest* hold = nullptr;  // what it is answered from instead, or null
    ngx_msec_t started = 0;             // on nginx's monotonic clock
    std::uint8_t repository_size = 0;
    std::uint8_t name_size = 0;
    std::uint8_t registry_size = 0;
    std::uint8_t digest_size = 0;
    Change change = Change::none;
    bool no_tag = false;       // it was looked at, and is none
    bool hold_sought = false;  // it came to a location that answers holds

    [[nodiscard]] std::string_view repository() const noexcept { return {path, repository_size}; }
    [[nodiscard]] std::string_view name() const noexcept {
        constexpr std::size_t kBetween = std::string_view{"/manifests/"}.size();
        return {path + repository_size + kBetween, name_size};
    }
};

// Blobs and manifests by digest are told by one byte: a ':' before 64 or 128 characters is in no
// repository and in no tag.
[[nodiscard]] inline bool ends_in_digest(const ngx_str_t& path) noexcept {
    constexpr std::size_t kSha256 = 65;
    constexpr std::size_t kSha512 = 129;
    const u_char* end = path.data + path.len;
    return (path.len > kSha256 && *(end - kSha256) == ':') ||
           (path.len > kSha512 && *(end - kSha512) == ':');
}

// The marker of a request for a tag when nginx has zeroed its contexts, or null.
[[nodiscard]] TagRequest* find_marker(ngx_http_request_t* main) noexcept;

// The marker of a request for a tag, or null for all other requests: most of what a cache serves,
// so that this is all they cost.
[[nodiscard]] inline TagRequest* tag_request(ngx_http_request_t* r) noexcept {
    ngx_http_request_t* main = r->main;
    auto* context = static_cast<TagRequest*>(ngx_http_get_module_ctx(main, ngx_keel_module));
    if (context != nullptr || !(main->internal || main->filter_finalize)) return context;
    return find_marker(main);
}

// The same of a main request whose answer the header filter has seen.
[[nodiscard]] inline TagRequest* tag_request_here(ngx_http_request_t* r) noexcept {
    return static_cast<TagRequest*>(ngx_http_get_module_ctx(r, ngx_keel_module));
}

// The registry that the request is about by keel_registry; empty when it names none of the
// configured ones.
[[nodiscard]] std::string_view registry_name(ngx_http_request_t* r,
                                             RegistryName& registry) noexcept;
// Whether the request's Accept lines name all four modern manifest types.
[[nodiscard]] bool accepts_all_types(ngx_http_request_t* r) noexcept;

// PREACCESS handler: the one parse. Not asked about paths that end in a digest.
ngx_int_t parse_request(ngx_http_request_t* r) noexcept;

// Header filter's part: looks at the answer, and changes nothing but what a hold makes of it.
void observe_answer(ngx_http_request_t* r, TagRequest& request) noexcept;

// Body filter's part, while request.hash is there.
void observe_body(ngx_http_request_t* r, TagRequest& request, const ngx_chain_t* in) noexcept;

}  // namespace keel::ngx
