// What a cache's keel_api answers, read. Pure: bodies come in as text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "core/event.h"
#include "core/expected.h"
#include "core/reference.h"
#include "core/time.h"

namespace keel {

// One hold as a cache has it.
struct CacheHold {
    Tag tag;
    Digest digest;
    std::string author;
    std::string owner;
    std::string reason;
    Time since;
    Time until;     // epoch: until it is lifted
    Time verified;  // epoch: never
    // Answers of the cache under this hold, and those that it failed to give.
    std::uint64_t answers = 0;
    std::uint64_t unfetchable = 0;
    std::uint64_t ineffective = 0;
};

struct CacheHolds {
    std::string revision;  // decimal; for If-Match
    std::vector<CacheHold> holds;
};

// `GET holds`. Errors: "bad-answer": no list of holds, or one of them is not one.
[[nodiscard]] Expected<CacheHolds> decode_cache_holds(std::string_view body);

// An entry of a page that cannot be read: it costs nothing but itself.
struct UnreadableEntry {
    std::string tag;   // as it came, with anything but printable ASCII as "?"; may be empty
    std::string text;  // why
};

// One page of `GET tags`.
struct TagPage {
    std::string epoch;
    std::uint64_t seq = 0;
    std::vector<TagState> tags;         // with the page's epoch
    std::optional<std::uint64_t> next;  // where the next page begins; nullopt: this is the last
    std::vector<UnreadableEntry> unreadable;
};

// Errors: "bad-answer": no page of tags.
[[nodiscard]] Expected<TagPage> decode_tag_page(std::string_view body);

// One page of `GET tags?seen_since=`.
struct SeenTag {
    Tag tag;
    Time last_seen;
    Time no_kubelet_since;  // one may have asked before; epoch: the cache's module does not tell
};

struct SeenPage {
    std::string epoch;
    std::vector<SeenTag> seen;
    std::optional<std::uint64_t> next;
    std::vector<UnreadableEntry> unreadable;
};

// Errors: "bad-answer": no page of tags.
[[nodiscard]] Expected<SeenPage> decode_seen_page(std::string_view body);

}  // namespace keel
