// What a request to keel_api asks for: path, query and bodies, all of them from the network.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/digest.h"
#include "core/expected.h"
#include "core/manifest_request.h"
#include "core/reference.h"
#include "core/time.h"

namespace keel {

inline constexpr std::size_t kMaxApiBody = 16'384;  // bytes

enum class ApiResource : std::uint8_t { status, tags, metrics, holds, hold, current };

struct ApiPath {
    ApiResource resource = ApiResource::status;
    Tag tag;  // of hold and current
};

// What follows the location's prefix, decoded: "status", "holds/docker.io/library/redis:8".
// Errors: "not-found"; "bad-tag" where a tag should follow.
[[nodiscard]] Expected<ApiPath> parse_api_path(std::string_view path);

inline constexpr std::size_t kDefaultPage = 100;
inline constexpr std::size_t kLargestPage = 500;  // made in one go: about 3 ms of a worker

struct TagsQuery {
    std::uint64_t since = 0;
    std::string epoch;  // empty: any
    std::size_t limit = kDefaultPage;
    std::optional<Time> seen_since;
};

// Of `GET tags`, undecoded, without '?'. Unknown arguments are ignored, of repeated ones the first
// counts. Errors: "bad-query".
[[nodiscard]] Expected<TagsQuery> parse_tags_query(std::string_view arguments);

// The value of an If-Match header: a revision, with or without an entity tag's quotes.
[[nodiscard]] std::optional<std::uint64_t> parse_revision(std::string_view text) noexcept;

// The body of `PUT holds/…`. Unknown fields are ignored.
struct HoldWrite {
    Digest digest;
    std::string reason;
    std::string owner;                          // empty: not given
    std::optional<Time> until;                  // none: until it is lifted
    std::optional<Time> verified;               // none: nobody has looked
    ManifestKind kind = ManifestKind::unknown;  // as the writer found it
    bool force = false;
};
// Errors: "bad-body" with line or field; "too-large".
[[nodiscard]] Expected<HoldWrite> parse_hold_write(std::string_view body);

// The body of `PUT current/…`.
struct CurrentWrite {
    Digest digest;
    std::string source;  // what confirmed it, for the log
};
[[nodiscard]] Expected<CurrentWrite> parse_current_write(std::string_view body);

}  // namespace keel
