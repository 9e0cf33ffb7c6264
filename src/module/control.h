// What keel_api, workers and the helper share about holds: a small shared memory zone of its own
// beside the tag table, so that the one never takes room from the other.
//
//   tallies   for every hold: how often it was answered, and not
//   mailbox   writes on their way from a worker to the helper, which alone touches the disk
//   replays   the signed requests of the last minutes, so that none is taken twice
//
// It lives as long as nginx does, over reloads; the holds themselves lie in DIR/holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/holds.h"
#include "module/ngx.h"

namespace keel::ngx {

// How a hold does. Counters grow until the hold is another.
struct Tally {
    std::uint64_t answers = 0;      // its digest, or 304
    std::uint64_t unfetchable = 0;  // neither
    std::uint64_t ineffective = 0;  // a manifest with another digest
};

// What the helper has told companions about a hold.
struct Told {
    std::uint64_t unfetchable = 0;  // the counter when it was told
    std::uint64_t ineffective = 0;
    bool expiring = false;

    friend bool operator==(const Told&, const Told&) = default;
};

// One write on its way.
struct HoldWish {
    bool remove = false;
    std::uint64_t if_match = 0;
    std::string author;
    Hold hold;  // of a removal only its tag
};

struct HoldVerdict {
    ngx_uint_t status = 0;  // of HTTP
    std::uint64_t revision = 0;
    std::string code;  // of the error, empty when done
    std::string text;  // of the error, else the hold as it was written
};

struct Ticket {
    int slot = -1;
    std::uint64_t number = 0;
    bool again = false;  // a helper that died had taken it before
};

enum class Replay : std::uint8_t { fresh, seen, full };

struct MainConf;

// A handle: as cheap to copy as a pointer. The lock is held for constant time only.
class Control {
  public:
    explicit Control(ngx_slab_pool_t* pool) noexcept : pool_(pool) {}

    // Makes it in a fresh zone. Master only.
    [[nodiscard]] bool create() noexcept;
    // Takes the page faults of this process's first looks before it holds the lock for the first
    // time: in one of them it may be stopped, or lose the processor. Helper only.
    void touch() noexcept;

    // --- tallies ---

    // The slot for the hold with this key; `in_use` are the keys of the whole set, sorted. Any
    // process, when it has read the file.
    [[nodiscard]] int claim(std::uint64_t key, const std::vector<std::uint64_t>& in_use) noexcept;
    enum class Count : std::uint8_t { answer, unfetchable, ineffective };
    // Nothing when the slot has another hold by now. Any worker, on the pull path.
    void count(int slot, std::uint64_t key, Count what) noexcept;
    [[nodiscard]] Tally tally(int slot, std::uint64_t key) noexcept;
    [[nodiscard]] Told told(int slot, std::uint64_t key) noexcept;
    void tell(int slot, std::uint64_t key, const Told& told) noexcept;

    // --- mailbox ---

    // A slot of -1: all are taken, or the wish is too large. Any worker.
    [[nodiscard]] Ticket post(const HoldWish& wish, ngx_msec_t deadline);
    // The helper's verdict, once it is there; the slot is free then. May throw std::bad_alloc.
    [[nodiscard]] std::optional<HoldVerdict> collect(Ticket ticket);
    // Gives up. True: the helper has not begun, and will not.
    bool withdraw(Ticket ticket) noexcept;
    // A wish that nobody works on; those whose worker has given up are passed over. Helper only.
    [[nodiscard]] std::optional<std::pair<Ticket, HoldWish>> take();
    [[nodiscard]] bool has_mail() noexcept;
    void finish(Ticket ticket, const HoldVerdict& verdict) noexcept;

    // --- replays ---

    // Remembers the request until `until`, milliseconds since 1970. `id`: what must not come twice.
    [[nodiscard]] Replay remember(std::string_view id, std::int64_t now,
                                  std::int64_t until) noexcept;

    // --- what is wrong with the file, for status; empty when nothing is ---

    void set_problem(std::string_view text) noexcept;
    [[nodiscard]] std::string problem();

  private:
    ngx_slab_pool_t* pool_;
};

// Identifies one hold: of this tag, at this digest, since then.
[[nodiscard]] std::uint64_t hold_key(const Hold& hold) noexcept;

// Registers the zone with nginx, once. `conf`: its state directory is guarded when nginx makes the
// zone ready, the one moment of the master's that may refuse a configuration.
[[nodiscard]] ngx_shm_zone_t* add_control(ngx_conf_t* cf, MainConf& conf) noexcept;

}  // namespace keel::ngx
