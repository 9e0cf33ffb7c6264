// What is known of every tag: its current digest, what goes back and waits for a second source, and
// since when.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/digest.h"
#include "core/event.h"
#include "core/reference.h"
#include "core/time.h"
#include "keeld/ledger/ledger.h"

namespace keel {

struct Seen {
    Time first;
    Time last;
    std::string source;
    bool oldest = false;     // the first digest ever known of this tag: nothing tells whether it is
                             // newer than what runs
    bool confirmed = false;  // a second source named it as current
};

// A hold as the caches have it: what a pull of the tag gets instead of what the tag answers.
struct Held {
    Digest digest;
    std::string author;
    std::string reason;
    Time since;
    Time until;              // epoch: until it is lifted
    bool everywhere = true;  // every cache that serves the tag holds it at this digest
    std::string caches;      // "cache-a, cache-b"; where they disagree, a sentence about each

    friend bool operator==(const Held&, const Held&) = default;
};

struct TagInfo {
    Tag tag;
    Digest current;
    ManifestKind kind = ManifestKind::unknown;
    Time since;
    Digest pending;  // a digest going back; empty if none
    Time pending_since;
    Time confirmed_at;  // the last fresh answer about the tag, whatever it said
    std::string confirmed_by;
    Time traffic_at;  // a cache last passed an answer about it; epoch: not since keeld started
    Time no_kubelet_since;     // of all caches the latest; by their clocks; epoch: not known
    std::string failure;       // of the last look-up; empty after a success
    std::string failure_code;  // Registry::look_up's
    std::string cause;         // who brought the current digest
    std::map<Digest, Seen> seen;
    std::optional<Held> held;
    Time held_at;  // when a hold was last seen to begin or to end; epoch: never

    // The last time that anybody got an answer about it, we or a node; epoch: never.
    [[nodiscard]] Time heard_at() const { return std::max(confirmed_at, traffic_at); }
    // Who did.
    [[nodiscard]] std::string heard_by() const {
        return traffic_at > confirmed_at ? "traffic" : confirmed_by;
    }
    // What a pull through the caches gets: the held digest where the tag is held. Empty: not known.
    [[nodiscard]] const Digest& pulled() const { return held ? held->digest : current; }
    // Who or what brought pulled().
    [[nodiscard]] std::string brought_by() const {
        return held ? "hold by " + held->author : cause;
    }
    // The current digest is the only one ever known of the tag and no second source has named it.
    [[nodiscard]] bool without_history() const;
};

// What one answer did to a tag (design.md 1).
enum class Effect : std::uint8_t { fresh, changed, same, cleared, revert };
[[nodiscard]] std::string_view to_string(Effect effect);

// Loaded from the ledger at start; every effect is queued there before it is told. One per keeld,
// on its loop.
class Tags {
  public:
    explicit Tags(Ledger& ledger);

    // One fresh comparable answer. Records `observed` in the ledger unless it is `same`.
    Effect observe(const Tag& tag, const Digest& digest, ManifestKind kind, Time at,
                   const std::string& source);
    // A digest that the tag is known to have had before (a cache's history), without being its
    // current one.
    void remember(const Tag& tag, const Digest& digest, Time first, Time last,
                  const std::string& source);
    // A second source names `digest`. A pending one becomes current; returns whether anything
    // changed.
    bool confirm(const Tag& tag, const Digest& digest, Time at, const std::string& source);
    // A cache passed an answer that told nothing new (what is new comes to observe()).
    void seen(const Tag& tag, Time at, Time no_kubelet_since = {});
    // What seen() told is all that passed any cache up to `at`, by the real clock.
    void traffic_read(Time at) { traffic_read_at_ = at; }
    [[nodiscard]] Time traffic_read_at() const { return traffic_read_at_; }
    // A look-up failed: nothing changes but what is told of the tag's freshness.
    void failed(const Tag& tag, const std::string& why, const std::string& code = "");

    // The caches hold the tag so, or (nullopt) not at all; returns whether that is news. Who sees a
    // digest pulled is not told by it: answers from a hold are never observations.
    bool hold(const Tag& tag, std::optional<Held> held, Time at);

    [[nodiscard]] const TagInfo* find(const Tag& tag) const;
    [[nodiscard]] const std::unordered_map<Tag, TagInfo>& all() const { return tags_; }

  private:
    void save(const TagInfo& info);
    void save(const TagInfo& info, const Digest& digest);
    void log(const TagInfo& info, Effect effect, const Digest& from, const Digest& to, Time at,
             const std::string& source);

    Ledger& ledger_;
    std::unordered_map<Tag, TagInfo> tags_;
    Time traffic_read_at_;
};

}  // namespace keel
