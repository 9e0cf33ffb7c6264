// What the caches tell: their signed events, and their tag tables read again whenever something may
// have been missed. Knows order and authenticity; what an observation means is not decided here.
#pragma once

#include <jansson.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/event.h"
#include "core/expected.h"
#include "keeld/cache/answers.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/http/client.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/signal.h"

namespace keel {

// One tag's state as one cache tells it.
struct CacheNews {
    std::string source;  // "event cache-a", "resync cache-a"
    TagState state;
    bool in_order = true;  // false: nothing tells whether it is newer than what was told before; a
                           // look-up settles it
};

// The three headers of a Standard Webhooks signature.
struct SignedMessage {
    std::string id;
    std::string timestamp;
    std::string signature;
    std::string body;
};

class CacheFeed {
  public:
    CacheFeed(Loop& loop, HttpClient& http, const Config& config, const Clock& clock,
              Ledger& ledger, std::function<void(const CacheNews&)> news);

    // `held` hears what a cache tells of a hold: a reason to look at its holds.
    void on_hold(std::function<void(const std::string& cache, const HoldEvent&)> held) {
        held_ = std::move(held);
    }

    // `status` hears what a cache answers to GET status, every minute.
    void on_status(std::function<void(const std::string& cache, const json_t* status)> status) {
        status_ = std::move(status);
    }

    // Takes one POST of events; returns once its effects are durable. Errors: "unsigned",
    // "bad-signature", "clock-skew", "bad-json", "bad-event", "too-large", "ledger". Repeated and
    // reordered events are harmless.
    [[nodiscard]] Task<Expected<void>> receive(SignedMessage message);

    // Asks every cache's keel_api for its status: reachable, and the name that the configuration
    // gives it. For --check.
    [[nodiscard]] Task<std::vector<Error>> check();

    // Reads the tag tables of all caches at start, when a cache's epoch changes, and every minute
    // what changed since.
    [[nodiscard]] Task<void> run(std::string cache);
    void stop();

    // Asks the caches that can be reached which tags were asked for since the last time, also those
    // of which there is nothing new to tell; `seen` hears of each, with the cache's own times.
    // Whether all of them answered.
    [[nodiscard]] Task<bool> read_traffic(std::function<void(const SeenTag&)> seen);

    struct State {
        std::string name;
        std::string epoch;
        std::uint64_t seq = 0;  // read or received up to here
        Time last_event;
        Time last_resync;
        Time seen_since;             // traffic is known up to here, by the cache's clock
        std::string problem;         // of the last resync; empty when fine
        std::string unreadable;      // what of its table is left out and why; empty when fine
        std::uint64_t left_out = 0;  // entries of its table that could not be read, so far
        std::uint64_t events = 0;    // applied
        std::uint64_t stale = 0;     // dropped: not newer
        std::uint64_t resyncs = 0;
    };
    [[nodiscard]] std::vector<State> states() const;

    struct Metrics {
        std::uint64_t accepted = 0;  // requests
        std::uint64_t refused_signature = 0;
        std::uint64_t refused_skew = 0;
        std::uint64_t refused_malformed = 0;
        std::uint64_t unknown_cache = 0;  // events
    };
    [[nodiscard]] const Metrics& metrics() const { return metrics_; }

  private:
    using Unreadable = std::map<std::string, std::string>;

    struct Cache {
        explicit Cache(Loop& loop) : wake(loop) {}
        CacheConfig config;
        State state;
        std::unordered_map<Tag, std::uint64_t> seqs;  // of this epoch, in this process
        bool resync_wanted = true;
        bool reading = false;   // pages are being read: only they move the cursor, an event may be
                                // far ahead of them
        bool settling = false;  // another epoch than before: epochs are never ordered, look-ups
                                // settle what it tells
        // Tags of its table, and of what was asked for lately, that could not be read, and why,
        // until they can be or it is another table; bounded.
        Unreadable unreadable;
        Unreadable unseen;
        Signal wake;
    };
    enum class Order : std::uint8_t { newer, stale, unknown };

    void take(Cache& cache, const TagState& state, const std::string& source);
    static void leave_out(Cache& cache, Unreadable& where,
                          const std::vector<UnreadableEntry>& entries);
    static void forgive(Cache& cache, Unreadable& where, const Tag& tag);
    static void tell_unreadable(Cache& cache);
    static void new_table(Cache& cache, const std::string& epoch);
    [[nodiscard]] Order order_of(Cache& cache, const TagState& state);
    [[nodiscard]] Task<Expected<void>> resync(Cache* cache);
    [[nodiscard]] Task<Expected<void>> read_pages(Cache* cache);
    [[nodiscard]] Task<Expected<HttpResponse>> read_page(Cache* cache, std::string epoch,
                                                         std::uint64_t since);
    [[nodiscard]] Task<void> read_status(Cache* cache);
    [[nodiscard]] Task<Expected<void>> read_seen(Cache* cache,
                                                 const std::function<void(const SeenTag&)>* seen);
    void save(const Cache& cache);

    Loop& loop_;
    HttpClient& http_;
    const Config& config_;
    const Clock& clock_;
    Ledger& ledger_;
    std::function<void(const CacheNews&)> news_;
    std::function<void(const std::string&, const HoldEvent&)> held_;
    std::function<void(const std::string&, const json_t*)> status_;
    std::map<std::string, Cache> caches_;
    Metrics metrics_;
    bool stopped_ = false;
};

}  // namespace keel
