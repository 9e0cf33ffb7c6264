// How many rollouts may start: a sliding window over the times at which rollouts were intended.
// Pure.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/time.h"
#include "keeld/config.h"

namespace keel {

class Pacing {
  public:
    // `history`: the intended times of the past, with their namespaces, in any order (from the
    // ledger: R5 holds over restarts).
    Pacing(PacingConfig config, std::vector<std::pair<Time, std::string>> history);

    // Other rates from now on. `history` as above, where they look further back than the old ones
    // did; what is taken already counts once.
    void configure(PacingConfig config, std::vector<std::pair<Time, std::string>> history);
    // When a rollout in `ns` may start: nullopt is now, else the earliest time at which a place is
    // free.
    [[nodiscard]] std::optional<Time> next_free(const std::string& ns, Time now);
    // The same for several that start at once, so many in each namespace. nullopt also where they
    // are more than a limit allows (see exceeds).
    using Wanted = std::map<std::string, int>;
    [[nodiscard]] std::optional<Time> next_free(const Wanted& wanted, Time now);
    // The first moment from `from` on at which a place is free for one in `ns`.
    [[nodiscard]] Time when_free(const std::string& ns, Time from);
    // They could never start at once: more than a limit. The limit's name; empty: they could.
    [[nodiscard]] std::string exceeds(const Wanted& wanted) const;
    // Takes a place at `at`; give_back with the same arguments if nothing was intended after all.
    void take(const std::string& ns, Time at);
    void give_back(const std::string& ns, Time at);

    // Places taken in the window of the cluster's rate.
    [[nodiscard]] int used(Time now);
    [[nodiscard]] const PacingConfig& config() const { return config_; }

  private:
    [[nodiscard]] std::optional<Time> free_at(const Rate& rate, const std::string* ns, int places,
                                              Time now) const;
    void forget(Time now);

    PacingConfig config_;
    std::deque<std::pair<Time, std::string>> taken_;  // sorted by time
};

}  // namespace keel
