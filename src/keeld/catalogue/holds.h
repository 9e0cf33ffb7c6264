// Holds: what somebody wanted of this keeld is in the ledger, what is in force is in the caches,
// and this brings the second to the first, for as long as it runs. Holds of others are listed, and
// never changed.
#pragma once

#include <boost/asio/steady_timer.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "keeld/cache/hold_api.h"
#include "keeld/catalogue/hold_wish.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/http/client.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/registry/completeness.h"
#include "keeld/registry/registry.h"
#include "keeld/signal.h"

namespace keel {

// "sha256:" and twelve digits, for people.
[[nodiscard]] std::string brief_digest(const std::string& digest);
// A cache's hold in the ledger's terms.
[[nodiscard]] HoldRow row_of(const CacheHold& hold);

class Holds {
  public:
    // `look_up`: a fresh answer about a tag. `changed`: a pull of the tag gets something else than
    // before.
    struct Parts {
        Loop& loop;
        const Config& config;
        const Clock& clock;
        HttpClient& http;
        Ledger& ledger;
        Registry& registry;
        Tags& tags;
        std::function<Task<Expected<Answer>>(Tag)> look_up;
        std::function<void(const Tag&)> changed;
    };
    explicit Holds(Parts parts);

    // Reads one cache's holds and mends them, every 30 s, at once when told to look, and with
    // back-off while the cache is away.
    [[nodiscard]] Task<void> run(std::string cache);
    void stop();
    // The cache told of a hold.
    void look(const std::string& cache);

    // Reads the holds of every cache that serves the tag, so that Tags says what a pull gets now.
    // Errors: HttpClient's and "bad-answer", of the cache that look-ups of this tag go through.
    [[nodiscard]] Task<Expected<void>> read_now(Tag tag);

    // The holds of every cache that serves the tag have been read since start, so that Tags says
    // what a pull gets.
    [[nodiscard]] bool known(const Tag& tag) const;

    using Wish = HoldWish;
    struct Result {
        std::string cache;  // empty: of the action as a whole
        bool ok = false;
        std::string code;  // a state of AtCache; "would-hold", "would-release", "released"; or why
                           // it was refused: "single-platform", "no-answer", "not-held", "ledger"
        std::string text;
    };
    // Checks that the digest is complete through every cache (minutes, for large images), notes it
    // in the ledger, and puts it into every cache that can be reached. Where no cache passes the
    // check nothing is noted.
    [[nodiscard]] Task<std::vector<Result>> set(Wish wish);
    // Lifts this keeld's own hold of the tag wherever it is.
    [[nodiscard]] Task<std::vector<Result>> release(Wish wish);

    // One hold in one cache, or what keeps it from being there.
    struct AtCache {
        std::string cache;
        std::string state;  // held, pending, checking, incomplete, refused, away, lifting, foreign
        std::string text;
        std::optional<CacheHold> listed;
        Time verified;
        Time again;  // the check that failed is made again then, or soon after; epoch: none failed
    };
    struct View {
        HoldRow hold;  // of a foreign one: as its cache has it
        std::string owner;
        bool own = false;
        std::vector<AtCache> caches;
    };
    // In the order of their tags, own ones first.
    [[nodiscard]] std::vector<View> all() const;

    struct Trouble {
        std::string code;
        std::string text;
        std::string next;
    };
    [[nodiscard]] std::vector<Trouble> problems() const;

  private:
    // Whether a digest is complete through one cache.
    struct Check {
        Digest digest;
        ManifestKind kind = ManifestKind::unknown;
        Time verified;        // last found complete; epoch: never
        std::string failure;  // of the last check; empty: none, or it passed
        Time not_before;      // after a failure
        bool under_way = false;
        bool again = false;  // something was not to be had: not in six hours, now
    };
    struct Counted {
        std::uint64_t answers = 0;
        std::uint64_t unfetchable = 0;
        std::uint64_t ineffective = 0;
        std::string trouble;  // "unfetchable", "ineffective", until an answer goes well
    };
    struct Cache {
        Cache(Loop& loop, HttpClient& http, const Clock& clock, const CacheConfig& config)
            : name(config.name),
              looks_up(!config.lookup.empty()),
              api(http, clock, config),
              wake(loop),
              step(loop) {
            step.expires_at(Steady::time_point::max());
        }
        std::string name;
        bool looks_up;  // the configuration says for which registries
        HoldApi api;
        Signal wake;
        asio::steady_timer step;  // never expires: cancelled when something below moves on
        // Rounds of run(): begun, read so far, ended.
        std::uint64_t begun = 0;
        std::uint64_t read = 0;
        std::uint64_t ended = 0;
        bool known = false;   // its holds have been read once
        std::string problem;  // of the last reading; empty: fine
        std::string revision;
        std::map<Tag, CacheHold> holds;
        std::map<Tag, Counted> counted;
        std::map<Tag, PlacedRow> placed;
        std::map<Tag, Check> checks;
        std::map<Digest, std::shared_ptr<Fetched>>
            fetched;                         // by checks that did not come to an end
        std::map<Tag, std::string> refused;  // the last write of it failed, and why
        std::set<Tag> tried;                 // in this round
    };
    struct Write {
        Tag tag;
        bool put = false;  // else DELETE
    };

    [[nodiscard]] const HoldRow* wanted(const Tag& tag) const;  // in force
    // A cache whose look-ups name other registries only has nothing to do with the tag.
    [[nodiscard]] bool serves(const Cache& cache, const Tag& tag) const;
    [[nodiscard]] std::vector<Cache*> serving(const Tag& tag);
    [[nodiscard]] bool ours(const Cache& cache, const CacheHold& listed) const;
    [[nodiscard]] Time verified(const Cache& cache, const Tag& tag, const Digest& digest) const;
    [[nodiscard]] bool needs_put(const Cache& cache, const HoldRow& row, const Tag& tag) const;
    [[nodiscard]] std::optional<Write> next_write(const Cache& cache) const;
    void lift_expired();
    [[nodiscard]] Steady::duration next_round(const Cache& cache, bool read) const;

    [[nodiscard]] Task<bool> read(Cache* cache);
    Task<void> mend(Cache* cache);
    [[nodiscard]] Task<Expected<void>> write(Cache* cache, Write what);
    void take(Cache& cache, const CacheHolds& told);
    void count(Cache& cache, const CacheHold& hold);
    void forget_lost(Cache& cache);
    void start_check(Cache& cache);
    Task<void> check(Cache* cache, Tag tag, Digest digest);
    [[nodiscard]] Task<Expected<Complete>> ask_complete(Cache* cache, Tag tag, Digest digest,
                                                        Millis time);
    void note_check(Cache& cache, const Tag& tag, const Digest& digest,
                    const Expected<Complete>& outcome);

    void tell(const Tag& tag);
    void tell_all();
    [[nodiscard]] AtCache at_cache(const Cache& cache, const Tag& tag) const;
    [[nodiscard]] Task<void> wait_for_round(Cache* cache, bool only_read);
    [[nodiscard]] Task<void> begin_change();
    void end_change();
    [[nodiscard]] Task<Expected<void>> note(Tag tag, HoldRow row);
    [[nodiscard]] Task<std::vector<Result>> carry_out(Wish wish);
    struct Verdict {
        std::vector<Result> results;
        std::map<std::string, Expected<Complete>> outcomes;  // of each cache
    };
    [[nodiscard]] Task<Verdict> verify_everywhere(Wish wish);
    [[nodiscard]] Task<std::optional<Result>> choose_digest(Wish* wish);
    [[nodiscard]] std::optional<Result> single_platform(const Wish& wish, ManifestKind kind) const;
    void log(EntryKind kind, const HoldRow& row, const std::string& code, const std::string& cause,
             const std::string& text);

    Parts parts_;
    std::map<Tag, HoldRow> rows_;  // the newest of each tag, lifted ones too; as on disk
    bool changing_ = false;        // rows_, by set() or release(): one at a time
    asio::steady_timer changed_;   // never expires: cancelled when another may
    std::map<std::string, Cache> caches_;
    bool stopped_ = false;
};

}  // namespace keel
