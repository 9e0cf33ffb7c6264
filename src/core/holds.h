// Holds: tags that a cache answers with a chosen digest. The one file that every generation of
// nginx follows is written and read here as text; doc/holds.md describes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/expected.h"
#include "core/reference.h"
#include "core/time.h"

struct json_t;  // jansson

namespace keel {

inline constexpr std::size_t kMaxHolds = 256;
inline constexpr std::size_t kMaxHoldAuthor = 64;     // bytes of author and owner
inline constexpr std::size_t kMaxHoldReason = 1'024;  // bytes
inline constexpr std::size_t kMaxHoldsText = 1'048'576;

struct Hold {
    Tag tag;
    Digest digest;       // never empty
    std::string author;  // who wrote it, as authenticated: is_hold_author()
    std::string owner;   // who may change it: the author of the first write
    std::string reason;  // UTF-8 without control characters, may be empty
    Time since;
    std::optional<Time> until;     // does not apply from then on; none: until it is lifted
    std::optional<Time> verified;  // when the digest was last found complete through this cache

    [[nodiscard]] bool applies(Time now) const noexcept { return !until || now < *until; }
    friend bool operator==(const Hold&, const Hold&) = default;
};

// All holds of a cache, in the order of their tags, one for a tag at most.
struct HoldSet {
    std::uint64_t revision = 0;  // grows with every change
    std::vector<Hold> holds;

    // Null when the tag has none; whether it still applies is for the caller.
    [[nodiscard]] const Hold* find(std::string_view registry, std::string_view repository,
                                   std::string_view name) const noexcept;
    [[nodiscard]] const Hold* find(const Tag& tag) const noexcept {
        return find(tag.registry, tag.repository, tag.name);
    }
    // Puts the hold in place of its tag's. False when there are kMaxHolds others.
    [[nodiscard]] bool put(Hold hold);
    // Whether there was one.
    bool remove(const Tag& tag);
    friend bool operator==(const HoldSet&, const HoldSet&) = default;
};

// 1 to kMaxHoldAuthor bytes of printable ASCII without space. Never throws.
[[nodiscard]] bool is_hold_author(std::string_view text) noexcept;
// Up to kMaxHoldReason bytes of UTF-8 without control characters.
[[nodiscard]] bool is_hold_reason(std::string_view text);

// The JSON of one hold as `GET holds` shows it, without its counters; a new reference, null when
// memory is short.
[[nodiscard]] json_t* encode_hold(const Hold& hold);
// Unknown fields are ignored. Errors: "bad-holds", naming the field.
[[nodiscard]] Expected<Hold> decode_hold(const json_t* object);
// One hold as text; empty when memory is short.
[[nodiscard]] std::string encode_hold_text(const Hold& hold);
[[nodiscard]] Expected<Hold> decode_hold_text(std::string_view text);

// The whole file. Empty when memory is short.
[[nodiscard]] std::string encode_holds(const HoldSet& set);
// Errors: "bad-holds" with what is wrong: not ours, of another version, torn, or not what its
// checksum says. Nothing of such a file is to be trusted.
[[nodiscard]] Expected<HoldSet> decode_holds(std::string_view text);

}  // namespace keel
