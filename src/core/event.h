// The events that the module publishes and keeld receives, as CloudEvents 1.0: io.ngx-keel.tag
// tells of a tag's change, io.ngx-keel.hold of a hold.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/expected.h"
#include "core/manifest_request.h"
#include "core/reference.h"
#include "core/time.h"

struct json_t;  // jansson

namespace keel {

enum class Change : std::uint8_t { none, fresh, changed, same, revert, confirmed, cleared, held };
// "new" for fresh, else the enumerator's own name; "" for none.
[[nodiscard]] std::string_view to_string(Change change) noexcept;
// The other way; nullopt for anything else, the empty text included.
[[nodiscard]] std::optional<Change> parse_change(std::string_view text) noexcept;

// One digest of a tag's history.
struct Sighting {
    Digest digest;
    Time first_seen;
    Time last_seen;
    ManifestKind kind = ManifestKind::unknown;  // not in JSON
};

// The state of one tag in one cache: the `data` object of an event, and an element of `GET tags`.
struct TagState {
    Tag tag;
    Digest digest;  // the current one
    ManifestKind kind = ManifestKind::unknown;
    Change change = Change::none;
    std::optional<Digest> previous;
    std::optional<Digest> pending;
    std::string epoch;
    std::uint64_t seq = 0;
    Time first_seen;
    Time last_seen;
    Asker asked_by = Asker::other;
    std::string node;
    std::vector<Sighting> history;  // oldest first; only in `GET tags`
};

// A tag as the module's table had it when it was read.
struct TagRecord {
    TagState state;
    Time changed;  // when `state.change` happened
    // No kubelet has asked for the tag since; before that one may have. Epoch: not known, as in a
    // snapshot.
    Time no_kubelet_since;
};

struct TagEvent {
    std::string id;      // "<epoch>-<seq>"
    std::string source;  // "/caches/<name>"
    Time time;
    TagState data;
};

// What happened to a hold. Told at best once: the truth is `GET holds`.
enum class HoldNews : std::uint8_t { set, lifted, expiring, unfetchable, ineffective };
[[nodiscard]] std::string_view to_string(HoldNews news) noexcept;

struct HoldEvent {
    std::string id;
    std::string source;  // "/caches/<name>"
    Time time;
    Tag tag;
    Digest digest;  // the held one
    HoldNews news = HoldNews::set;
    std::uint64_t revision = 0;  // of the cache's set of holds, after it
};

inline constexpr std::size_t kMaxBatchEvents = 100;
inline constexpr std::size_t kMaxBatchBytes = 65'536;

// The JSON of one state; a new reference. With `history` only where asked for. Null when memory is
// short. What came from outside (epoch, node) is cut to 255 bytes, and bytes that are no printable
// UTF-8 become '?': decode_tag_state accepts whatever this writes for a valid tag and digest.
[[nodiscard]] json_t* encode_tag_state(const TagState& state, bool with_history);
// Unknown fields are ignored. Errors: "bad-event", naming the field.
[[nodiscard]] Expected<TagState> decode_tag_state(const json_t* object);

// One application/cloudevents-batch+json body. The caller keeps to the limits above. Empty
// when memory is short.
[[nodiscard]] std::string encode_batch(const std::vector<TagEvent>& events);
[[nodiscard]] std::string encode_hold_batch(const std::vector<HoldEvent>& events);
// Unknown fields are ignored; events of other types are skipped and counted. Errors: "bad-json"
// with line and column, "bad-event" with index and field, "too-large".
struct Batch {
    std::vector<TagEvent> events;
    std::vector<HoldEvent> holds;
    std::size_t skipped = 0;
};
[[nodiscard]] Expected<Batch> decode_batch(std::string_view body);

}  // namespace keel
