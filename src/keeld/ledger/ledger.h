// The durable log of observed, decided, intended, applied, verified, and the state that must
// survive a SIGKILL.
//
// Writes are queued in memory in their order and committed together: durable() is one SQLite
// transaction for everything queued so far, however many coroutines wait for it. What could not be
// committed stays queued and is tried again, so a full disk delays and never loses; nobody acts on
// what is not durable. Read functions see committed state only. One process owns a ledger (a lock
// on the file PATH.lock); others may read it, the tables are described in schema.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/digest.h"
#include "core/expected.h"
#include "core/reference.h"
#include "core/time.h"
#include "keeld/loop.h"

namespace keel {

// What an entry of the log tells.
enum class EntryKind : std::uint8_t {
    observed,
    received,
    decided,
    intended,
    applied,
    verified,
    outcome,
    refused,
    started,
    held,
    released,
    ordered,  // somebody paused, resumed, approved, rejected, moved a phase
    planned   // the plan did by itself: a phase, the breaker
};
[[nodiscard]] std::string_view to_string(EntryKind kind);
[[nodiscard]] std::optional<EntryKind> parse_entry_kind(std::string_view text);

// One line of the log. Empty fields are absent. Digests and tags in their full text.
struct Entry {
    std::uint64_t seq = 0;  // assigned at commit, rising
    Time at;
    EntryKind kind = EntryKind::observed;
    std::string workload;  // "Deployment/ns/name"
    std::string uid;
    std::string container;
    std::string tag;
    std::string from;     // digest before
    std::string to;       // digest after
    std::string rollout;  // id
    std::string code;     // verdict or reason code, outcome, or change
    std::string cause;    // who or what brought it: "event cache-a", "look-up cache-a", "resync
                          // cache-a", "upstream", …; of a hold, who set or lifted it
    std::string text;     // one sentence
};

// A digest that a tag has been seen at, by any of our sources. `first` is set on the digest that
// was the first one ever known of this tag: nothing tells whether it is newer than what runs
// (design: "first sight without history").
struct SightingRow {
    std::string tag;
    std::string digest;
    Time first_seen;
    Time last_seen;
    std::string source;  // "event cache-a", …
    bool first = false;
    bool confirmed = false;  // a second source has named it as the current one since it last became
                             // current or pending
};

// The state of one tag as all caches together tell it.
struct TagRow {
    std::string tag;
    std::string current;
    std::string kind;     // "index", "image"
    Time since;           // current since
    std::string pending;  // a digest going back, unconfirmed; empty if none
    Time pending_since;
    Time confirmed_at;  // last successful look at it
    std::string confirmed_by;
    Time held_at;  // when a hold in a cache was last seen to begin or to end; epoch: never
};

// How far one cache's tag table has been read.
struct CursorRow {
    std::string cache;
    std::string epoch;
    std::uint64_t seq = 0;
};

// What a digest holds, per platform; immutable, so kept for ever. JSON: see registry/content.h.
struct ContentRow {
    std::string digest;
    std::string json;
};

// One rollout, open or ended.
struct RolloutRow {
    std::string id;
    std::string workload;
    std::string uid;  // of the workload: a namesake is another one
    std::string ns;
    std::string state;    // design.md section 5
    std::string reason;   // code of the outcome or of what it waits for
    std::string text;     // one sentence
    std::string targets;  // JSON: [{"container", "tag", "from", "to"}], with "image" and
                          // "from_image" where the image field is changed
    std::string marker_key;
    std::string marker;  // exact value to be written; empty where image fields are changed instead
    std::string old_marker;  // before; empty: absent
    std::string cause;
    std::int64_t generation = 0;  // of the workload after the write
    int attempt = 1;
    Time created;
    Time intended;  // epoch: not yet; the pacing window counts these
    Time applied;
    Time deadline;  // of the verification, wall clock, for people
    Time ended;     // epoch: open
};

// Whose `cause` says that it brings a workload back after this rollout failed; and that rollout's
// id. Empty: it goes forward.
inline constexpr std::string_view kRestoreOf = "restore of rollout ";
[[nodiscard]] inline std::string restores(const RolloutRow& row) {
    return row.cause.starts_with(kRestoreOf) ? row.cause.substr(kRestoreOf.size()) : "";
}

// A (workload, tag, digest) that failed here and is not tried again.
struct RejectedRow {
    std::string uid;
    std::string workload;
    std::string tag;
    std::string digest;
    std::string rollout;
    Time at;
    std::string text;
};

// A hold as somebody wanted it of this keeld: of each tag the newest one, in force or lifted.
struct HoldRow {
    std::string tag;
    std::string digest;
    std::string id;  // of the action that set it
    std::string author;
    std::string reason;
    Time since;
    Time until;           // epoch: until it is lifted
    bool forced = false;  // set without a check that the digest is complete
    Time lifted;          // epoch: in force
    std::string lifted_by;
};

// What this keeld has put, or was about to put, into one cache: only that is its own to change.
// Written before the cache is asked.
struct PlacedRow {
    std::string cache;
    std::string tag;
    std::string digest;
    std::string owner;  // as the cache calls it; empty: not told yet
    Time verified;      // the digest was last found complete through this cache; epoch: never
    // Like the digest as it was last sent, whatever has been wanted since: by these it is known
    // again when the answer was lost.
    std::string reason;
    Time until;
};

// The newest list of tags of a repository.
struct ListingRow {
    std::string registry;
    std::string repository;
    std::uint64_t number = 0;  // how many lists of it there were
    Time at;
    bool complete = false;
};

// A tag that a list had.
struct ListedRow {
    std::string registry;
    std::string repository;
    std::string name;
    std::uint64_t first = 0;  // number of the list that had it first
    Time gone;                // since when lists lack it; epoch: the newest one has it
};

// Something small that the plan or a person decided: of each kind and key the newest. JSON: its
// owner's.
struct DocumentRow {
    std::string kind;
    std::string key;
    std::string json;
};

struct EntryQuery {
    std::optional<std::uint64_t> after;  // only older ones (smaller seq): the next page
    std::optional<Time> since;
    std::string workload;
    std::optional<EntryKind> kind;
    int limit = 100;  // 1 to 1000
};

class Ledger {
  public:
    // Opens or creates the database (WAL, synchronous=FULL), migrates its schema, takes the lock.
    // ":memory:" for tests. Errors: "ledger" naming path and cause ("used by another keeld", "not
    // writable", "newer than this keeld", …).
    [[nodiscard]] static Expected<std::unique_ptr<Ledger>> open(Loop& loop,
                                                                const std::string& path);
    // What open() would say of the file itself, without changing, creating or locking anything:
    // also while another keeld uses it. Errors as open().
    [[nodiscard]] static Expected<void> check(const std::string& path);
    ~Ledger();
    Ledger(const Ledger&) = delete;
    Ledger& operator=(const Ledger&) = delete;

    // A random 128-bit hex string, made when the database was.
    [[nodiscard]] const std::string& id() const;
    [[nodiscard]] bool created() const;  // by this open()

    // Queue, in order. A state row still in the queue is replaced by a later one of the same key,
    // log entries never. What nobody waits for is committed within a second. A read that fails (a
    // damaged file) makes every later durable() fail.
    void append(Entry entry);
    // `told` gets every line of the log as it is appended.
    void on_append(std::function<void(const Entry&)> told);
    void put(SightingRow row);  // the key is (tag, digest)
    void put(TagRow row);
    void put(CursorRow row);
    void put(ContentRow row);
    void put(RolloutRow row);  // the key is id
    void put(RejectedRow row);
    void erase_rejected(std::string uid, std::string tag, std::string digest);
    void put(HoldRow row);    // the key is the tag
    void put(PlacedRow row);  // the key is (cache, tag)
    void erase_placed(std::string cache, std::string tag);
    void put(ListingRow row);   // the key is (registry, repository)
    void put(ListedRow row);    // the key is (registry, repository, name)
    void put(DocumentRow row);  // the key is (kind, key)
    void erase_document(std::string kind, std::string key);

    // Waits until everything queued before the call is on disk. Error "ledger": it is not, it stays
    // queued, and it is tried again by the next durable() and once a second.
    [[nodiscard]] Task<Expected<void>> durable();
    // Empty while commits and reads succeed, else the last error.
    [[nodiscard]] const std::string& problem() const;
    [[nodiscard]] std::size_t queued() const;

    // Read, blocking and quick.
    [[nodiscard]] std::vector<SightingRow> sightings() const;
    [[nodiscard]] std::vector<TagRow> tags() const;
    [[nodiscard]] std::vector<CursorRow> cursors() const;
    [[nodiscard]] std::optional<ContentRow> content(const std::string& digest) const;
    [[nodiscard]] std::vector<RolloutRow> open_rollouts() const;
    [[nodiscard]] std::vector<RolloutRow> rollouts(const std::string& workload,
                                                   const std::string& after, int limit) const;
    // The `intended` times after `since`, with their namespaces: what pacing counts.
    [[nodiscard]] std::vector<std::pair<Time, std::string>> intended_since(Time since) const;
    [[nodiscard]] std::vector<RejectedRow> rejected() const;
    [[nodiscard]] std::vector<HoldRow> holds() const;
    [[nodiscard]] std::vector<PlacedRow> placed() const;
    [[nodiscard]] std::vector<ListingRow> listings() const;
    [[nodiscard]] std::vector<ListedRow> listed() const;  // by registry, repository, name
    [[nodiscard]] std::vector<DocumentRow> documents(const std::string& kind) const;  // by key
    [[nodiscard]] std::vector<Entry> entries(const EntryQuery& query) const;  // newest first

    // Deletes log entries, ended rollouts and lifted holds older than `before`, and what lists lack
    // since then. Queued like the rest.
    void prune(Time before);

  private:
    class Impl;
    explicit Ledger(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
    std::function<void(const Entry&)> told_;
};

}  // namespace keel
