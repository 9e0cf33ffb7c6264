// The tag table in shared memory: what every worker has seen, for every process of one nginx.
// Knows slab, tree and queue of nginx, and nothing of requests. All sections under the lock take
// constant time or that of one tree descent; readers copy a few entries per turn of the lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/event.h"
#include "core/manifest_request.h"
#include "core/rate_limit.h"
#include "core/reference.h"
#include "module/ngx.h"

namespace keel::ngx {

inline constexpr std::size_t kHistory = 4;        // digests kept for a tag
inline constexpr std::size_t kMaxNode = 63;       // bytes of a puller's name that are kept
inline constexpr std::size_t kMaxRegistry = 255;  // bytes
inline constexpr std::size_t kMaxRepository = 255;
inline constexpr std::size_t kMaxName = 128;
inline constexpr std::size_t kMaxCompanions = 8;
inline constexpr std::size_t kMaxRegistries = 16;  // that statistics are kept for
inline constexpr std::size_t kMaxSource = 63;      // bytes of a docker-ratelimit-source
inline constexpr std::size_t kEpochText = 32;      // hex digits of 128 random bits

// Every path that an answer can take has a counter. The names of the metrics stand in table.cpp, in
// this order.
enum class Counter : std::uint8_t {
    fresh,  // observations, by what they were
    changed,
    same,
    revert,
    cleared,
    not_ok,            // answers that do not count: neither 200 nor 304
    ranged,            //   the request asked for a part
    from_cache,        //   nginx answered from its own cache
    no_upstream,       //   nginx made the answer up
    narrow_accept,     //   the request did not name all four modern manifest types
    legacy,            //   schema 1
    unknown_type,      //   no manifest by its Content-Type
    no_digest,         //   no Docker-Content-Digest, and no body that could be hashed instead
    bad_digest,        //   a malformed one, or several that differ
    mismatch,          //   one that is not the body's
    cut,               //   the body to be hashed did not pass to its end
    unconfirmed,       //   a 304 or an ETag that does not name the current digest
    unnamed,           //   the registry's name is empty or not among names=
    overtaken,         //   the request began before the tag's last change
    evicted,           // entries that made room for newer ones
    evicted_unsent,    //   of these: not yet acknowledged by every companion
    dropped,           // observations that found no room
    resets,            // zone emptied after a process died in the middle of a change
    hashed,            // bodies that were hashed to their end
    batches,           // publishing: batches acknowledged
    events,            //   events acknowledged
    publish_failures,  //   batches not acknowledged
    confirmed,         // pending digests that keel_api made current
    restored,          // tags that came from a snapshot or from the zone before this one
    left_out,          //   those of them that found no room
    saves,             // snapshots written
    save_failures,     //   and not written
    set_aside          // files that were no good as a snapshot
};
inline constexpr std::size_t kCounters = static_cast<std::size_t>(Counter::set_aside) + 1;

struct CounterName {
    const char* metric;  // Prometheus name without labels
    const char* labels;  // "" or `key="value"`
    const char* help;    // of the metric; null where the metric was there before
};
extern const std::array<CounterName, kCounters> kCounterNames;

// What an answer says about how often the registry may be asked; what it does not say is empty or
// 0.
struct Rates {
    std::optional<RateLimit> limit;
    std::optional<RateLimit> remaining;
    std::string_view source;    // whom the registry counts, an address or an account
    std::int64_t retry_at = 0;  // milliseconds since 1970
};

// One fresh, comparable answer about a tag.
struct Observation {
    std::string_view registry;       // at most kMaxRegistry
    std::string_view repository;     // at most kMaxRepository
    std::string_view name;           // at most kMaxName
    const Digest* digest = nullptr;  // neither null nor empty
    ManifestKind kind = ManifestKind::unknown;
    Asker asked_by = Asker::other;
    std::string_view node;
    std::int64_t now = 0;          // milliseconds since 1970
    ngx_msec_t started = 0;        // when the request came, on nginx's monotonic clock
    ngx_msec_t monotonic = 0;      // now, on the same clock
    unsigned status = 200;         // of HTTP
    bool only_confirms = false;    // may tell that nothing changed, and nothing else
    const Rates* rates = nullptr;  // null: the answer said nothing of it
};

struct Outcome {
    Change change =
        Change::none;     // fresh, changed, same, revert; none: the observation said nothing
    Digest previous;      // the current digest before a change or revert, else empty
    bool queued = false;  // there is something to publish
    bool full = false;    // another tag had to go, or this one found no room
    bool no_tag = false;  // the names are not those of a tag: nothing was done
};

// What became of a wish to make a digest current.
struct Confirmation {
    enum class Result : std::uint8_t { done, no_tag, not_pending };
    Result result = Result::no_tag;
    std::uint64_t seq = 0;  // of the event, when done
    Digest pending;         // when not_pending; empty: nothing is pending
};

struct Kinds {
    ManifestKind current = ManifestKind::unknown;
    ManifestKind asked = ManifestKind::unknown;
};

// The zone's counters and identity at one moment.
struct Head {
    std::string epoch;
    std::uint64_t seq = 0;
    std::uint64_t tags = 0;
};

// What a companion has, and how the last attempts went. Lies in shared memory; written by the
// helper only.
struct CompanionState {
    char url[256];
    std::uint64_t acked;        // everything up to here is durable there, within the zone's epoch
    std::int64_t last_success;  // milliseconds since 1970, 0: never
    std::uint64_t failures;     // since the zone was made
    char error[160];            // of the last attempt, empty when it was fine
    bool used;
};

// How far a companion is, within one epoch.
struct Cursor {
    std::string epoch;
    std::uint64_t acked = 0;
};

// What a registry's answers looked like lately.
struct RegistryState {
    char name[kMaxRegistry + 1];
    std::uint64_t observed;      // answers that counted
    std::uint64_t unauthorized;  // 401, 403
    std::uint64_t not_found;     // 404
    std::uint64_t throttled;     // 429
    std::uint64_t failed;        // 5xx
    std::int64_t last_answer;    // milliseconds since 1970
    std::uint32_t last_status;
    std::uint32_t last_error;     // status of the last answer that was neither 200 nor 304, 0: none
    std::int64_t last_error_at;   // milliseconds since 1970
    std::int64_t rates_at;        // when the four below were last said, 0: never
    std::int64_t rate_limit;      // requests, -1: not said
    std::int64_t rate_remaining;  // the same
    std::uint32_t rate_window;    // seconds, 0: not said
    std::int64_t retry_at;        // milliseconds since 1970, by the last Retry-After; 0: none
    char rate_source[kMaxSource + 1];
};

// How it went with the snapshot. Written by who writes or loads it.
struct SnapshotState {
    std::int64_t written;    // milliseconds since 1970, 0: never
    std::uint64_t restored;  // tags that the last load brought
    char error[160];         // of the last attempt to write, empty when it was fine
};

// Where a tag stands in a snapshot: those seen last come first.
struct Sight {
    std::int64_t last_seen;
    std::uint64_t seq;
};

// What a load or a snapshot began with.
struct SnapshotMark {
    std::string epoch;
    std::uint64_t generation = 0;
    std::uint64_t seq = 0;
    std::uint64_t sightings = 0;
};

struct ZoneUse {
    std::size_t size = 0;  // bytes
    std::size_t used = 0;
};

// A handle: as cheap to copy as a pointer, valid as long as the zone is mapped.
class Table {
  public:
    explicit Table(ngx_slab_pool_t* pool) noexcept : pool_(pool) {}

    // Makes an empty table in a fresh zone. False when the zone is too small. Master only.
    [[nodiscard]] bool create() noexcept;

    // Compares the answer with what is known and remembers it. Names need not follow the grammar:
    // that is looked at when they are seen for the first time. Any worker, on the pull path.
    Outcome observe(const Observation& observation) noexcept;
    void count(Counter counter) noexcept;
    // Makes the pending digest current. Any worker, for keel_api; the caller wakes the helper.
    [[nodiscard]] Confirmation confirm(const Tag& tag, const Digest& digest, std::int64_t now,
                                       ngx_msec_t monotonic) noexcept;
    // The kinds of the tag's current digest and of `digest`; unknown for what the table does not
    // have. Any worker.
    [[nodiscard]] Kinds kinds(const Tag& tag, const Digest& digest) noexcept;
    // An answer about `registry` that was no observation. Any worker.
    void note_answer(std::string_view registry, unsigned status, std::int64_t now,
                     const Rates* rates) noexcept;

    [[nodiscard]] Head head();
    [[nodiscard]] ZoneUse use() noexcept;
    [[nodiscard]] std::array<std::uint64_t, kCounters> counters() noexcept;
    [[nodiscard]] std::vector<RegistryState> registries();

    // Up to `limit` tags with seq > since, in order of seq, with their history. `head` is the
    // zone's after the last one was read. False, and nothing in `tags`, when `epoch` is not empty
    // and no longer the zone's. Cold side: may throw std::bad_alloc.
    bool read(std::string_view epoch, std::uint64_t since, std::size_t limit, Head& head,
              std::vector<TagRecord>& tags);

    // --- snapshots; the cold side: may throw std::bad_alloc where not noexcept ---

    enum class Load { done, mine, other };
    // Whether this process is to load the snapshot now: the first one is, and the next when that
    // one died. `attempts` says how many died at it. Where the table is in use already there is
    // nothing to load.
    [[nodiscard]] Load claim_load(ngx_pid_t self, unsigned& attempts) noexcept;
    // Makes room for the numbers of tags to restore, at most `seqs`: what is observed from now on
    // comes after them.
    [[nodiscard]] SnapshotMark begin_restore(std::uint64_t seqs);
    // Puts a tag that is not there yet behind all others, as the one seen longest ago; none makes
    // room for it. Whether it did.
    bool restore(const SnapshotMark& mark, const TagRecord& tag) noexcept;
    // The end of claim_load(): the zone has a new epoch, and a generation after `generation`.
    // False when the table was reset meanwhile, and the load must begin again.
    [[nodiscard]] bool finish_load(const SnapshotMark& mark, std::uint64_t restored,
                                   std::uint64_t generation) noexcept;
    // The load of this process will not come to its end: the table goes on with what it has.
    void give_up_load() noexcept;
    // Takes over what another segment has, while that is in use; the number of tags.
    // Master only, in a zone that nobody else knows yet.
    std::uint64_t carry_over(Table from);

    // A process that writes snapshots while it lives; 0: none.
    void set_saver(ngx_pid_t helper) noexcept;
    [[nodiscard]] ngx_pid_t saver() noexcept;
    // Takes the name off; false when another process is the saver.
    bool clear_saver(ngx_pid_t helper) noexcept;

    struct Unsaved {
        bool events = false;      // a snapshot would have other digests
        bool sightings = false;   // or other times only
        bool load_first = false;  // a load is due: there is nothing to save yet
    };
    // Compared with the last snapshot in `directory`.
    [[nodiscard]] Unsaved unsaved(std::string_view directory) noexcept;
    [[nodiscard]] SnapshotMark begin_save();
    // All tags, in no order. False when the epoch is over.
    [[nodiscard]] bool index(const SnapshotMark& mark, std::vector<Sight>& tags);
    // Those of a few tags that have not moved since. False when the epoch is over.
    [[nodiscard]] bool fetch(const SnapshotMark& mark, std::span<const Sight> wanted,
                             std::vector<TagRecord>& tags);
    void finish_save(const SnapshotMark& mark, std::string_view directory,
                     std::int64_t now) noexcept;
    void report_save_failure(std::string_view error) noexcept;
    void set_generation(std::uint64_t generation) noexcept;
    [[nodiscard]] SnapshotState snapshot() noexcept;

    // --- companions ---

    // The slot of the companion with this URL, made when it has none. `configured` are the URLs of
    // this configuration: only slots of others are given away. Negative when all are taken. Helper
    // only.
    [[nodiscard]] int claim(std::string_view url,
                            const std::vector<std::string>& configured) noexcept;
    [[nodiscard]] bool has_news(int slot) noexcept;
    [[nodiscard]] Cursor cursor(int slot);
    // Everything up to `seq` is durable there. Ignored when the epoch is over, or when the slot has
    // been given to another URL: helpers of two configurations live side by side for a moment.
    void acknowledge(int slot, std::string_view url, std::string_view epoch, std::uint64_t seq,
                     std::size_t events, std::int64_t now) noexcept;
    // There is nothing up to `seq` any more that the companion lacks.
    void skip_to(int slot, std::string_view url, std::string_view epoch,
                 std::uint64_t seq) noexcept;
    void report_failure(int slot, std::string_view url, std::string_view error) noexcept;
    // By URL; nullptr-like (used is false) when the helper has not come round to it. Any process.
    [[nodiscard]] CompanionState companion(std::string_view url) noexcept;

  private:
    ngx_slab_pool_t* pool_;
};

}  // namespace keel::ngx
