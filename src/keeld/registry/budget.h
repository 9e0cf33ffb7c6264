// How often each registry is asked: what keeld.yaml allows, what the registry says of itself, and
// whether it is there at all. Every request of Registry goes through here, those for tokens too.
#pragma once

#include <jansson.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/expected.h"
#include "core/rate_limit.h"
#include "core/time.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/http/client.h"
#include "keeld/registry/path.h"

namespace keel {

// What a request costs at the registry. A pull is a GET of a manifest, which Docker Hub counts and
// limits apart from everything else; it is a request as well.
enum class Cost : std::uint8_t { request, pull };

// What a failure of it would say: `whole` of the registry, `part` of the content that was asked for
// (a proxy answers 500 for a digest that its upstream lacks, and a blob may take longer than it is
// given).
enum class Scope : std::uint8_t { whole, part };

// Refused by Budget, or by a 429: nothing was learned, and Error::retry_after says when to ask
// again. The codes "rate-limited", "budget" and "circuit-open".
[[nodiscard]] bool is_postponed(const Error& error) noexcept;

// `Retry-After` of an answer, in seconds or as a date (then against the answer's own `Date`, so
// that its clock need not be ours); at most a day. nullopt: there is none that can be read.
[[nodiscard]] std::optional<Millis> retry_after_of(const HttpResponse& response);

// What an answer that is not the wanted one means: "not-found", "denied", "rate-limited",
// "unavailable". `where` names what was asked.
[[nodiscard]] Error registry_refusal(const HttpResponse& response, const std::string& where);

// What is known of one way to one registry, for people.
struct RegistryState {
    std::string registry;  // "docker.io"
    std::string source;    // "look-up cache-a", "look-up direct", "upstream"
    std::uint64_t requests = 0;
    std::uint64_t pulls = 0;                 // of them
    std::uint64_t postponed = 0;             // not sent: the budget, a Retry-After, the circuit
    std::uint64_t failures = 0;              // of the registry as a whole
    int in_a_row = 0;                        // of them, up to now
    std::string circuit;                     // "closed", "open", "half-open"
    std::string failure;                     // the last one; empty after an answer
    std::string waits;                       // why nothing (or no pull) is sent now; empty: it is
    std::string waits_text;                  // a sentence of it
    bool pulls_only = false;                 // it is for pulls alone
    Millis wait{0};                          // and for how long
    std::optional<std::uint64_t> limit;      // RateLimit-Limit
    std::optional<std::uint64_t> remaining;  // RateLimit-Remaining
    Millis window{0};                        // that they are for; zero: not said
    std::string counted;                     // docker-ratelimit-source: the address or account
    std::string told_by;                     // "look-up direct", "cache-a"
};

// What a cache's status tells of a registry: the limits that nodes and keeld share.
struct RegistryNotice {
    std::string registry;
    std::optional<RateLimit> limit;
    std::optional<RateLimit> remaining;
    std::string source;  // docker-ratelimit-source
    Millis age{0};       // of the limits
    Millis retry_after{0};
};
// Those in the answer of `GET status` of a cache's keel_api, at this time of ours.
[[nodiscard]] std::vector<RegistryNotice> notices_of(const json_t* status, Time now);

// One per keeld, on its loop.
class Budget {
  public:
    using Now = std::function<Steady::time_point()>;
    explicit Budget(const Config& config, Now now = Steady::now);

    // Whether a request may be sent now; one that may is counted. Errors, each with retry_after:
    // "rate-limited" (the registry asked to be left alone, or what it still allows is kept for
    // nodes), "budget" (registries.*.requests or pulls is used up), "circuit-open" (it failed
    // kFailures times in a row).
    [[nodiscard]] Expected<void> admit(const RegistryPath& path, Cost cost);
    // What came of it.
    void note(const RegistryPath& path, Cost cost, Scope scope,
              const Expected<HttpResponse>& response);
    // What a cache tells, of all that it serves.
    void note(const std::string& cache, const RegistryNotice& notice);

    [[nodiscard]] std::vector<RegistryState> states() const;

    static constexpr int kFailures = 5;  // in a row open the circuit

  private:
    // At most `count` in any stretch of `per`: a fifth of them at once, the rest spread.
    struct Bucket {
        Rate rate;
        double tokens = 0;
        Steady::time_point at;
        void refill(const Rate& now, Steady::time_point when);
        // How long until there is one; zero: there is.
        [[nodiscard]] Steady::duration wait() const;
        [[nodiscard]] double per_second() const;
    };
    struct Limits {
        std::optional<RateLimit> limit;
        std::optional<RateLimit> remaining;
        std::string source;
        std::string told_by;
        Steady::time_point at;
    };
    // A time before which nothing of a kind is asked, and why.
    struct Stop {
        Steady::time_point until;
        std::string why;
    };
    struct Way {
        Stop all;
        Stop pulls;
        int unsaid = 0;  // refusals with 429 in a row that did not say for how long
        int in_a_row = 0;
        int opened = 0;                   // times in a row
        Steady::time_point closed_until;  // the circuit's; a probe moves it
        bool open = false;
        bool probing = false;
        RegistryState told;
    };
    struct Shared {  // by all ways to a registry
        Bucket requests;
        Bucket pulls;
        std::map<std::string, Limits> limits;  // by who told
    };

    [[nodiscard]] const RegistryConfig& settings(const std::string& registry) const;
    [[nodiscard]] Steady::time_point back_at(const Limits& limits,
                                             const std::string& registry) const;
    [[nodiscard]] const Limits* scarce(const Shared& shared, const std::string& registry,
                                       Cost cost) const;
    [[nodiscard]] Expected<void> check(const Way& way, const Shared& shared, Cost cost) const;
    void failed(Way& way, const std::string& why);
    void answered(Way& way);
    void stop(Way& way, Cost cost, const HttpResponse& response);
    [[nodiscard]] Millis jittered(Millis duration);
    [[nodiscard]] Way& way_of(const RegistryPath& path);
    void read_limits(Shared& shared, const std::string& source, const HttpResponse& response);

    const Config& config_;
    Now now_;
    std::map<std::pair<std::string, std::string>, Way> ways_;  // by registry and source
    std::map<std::string, Shared> shared_;                     // by registry
    std::minstd_rand random_{std::random_device{}()};
};

}  // namespace keel
