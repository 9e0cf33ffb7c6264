#include "keeld/rollout/pacing.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace keel {

Pacing::Pacing(PacingConfig config, std::vector<std::pair<Time, std::string>> history)
    : config_(config), taken_(history.begin(), history.end()) {
    std::ranges::sort(taken_);
}

void Pacing::configure(PacingConfig config, std::vector<std::pair<Time, std::string>> history) {
    config_ = config;
    std::ranges::sort(history);
    std::deque<std::pair<Time, std::string>> all;
    std::ranges::set_union(taken_, history, std::back_inserter(all));
    taken_ = std::move(all);
}

// With N allowed in a window, K places are free once the (N - K + 1)-th newest one has left it.
std::optional<Time> Pacing::free_at(const Rate& rate, const std::string* ns, int places,
                                    Time now) const {
    if (rate.count == 0 || places == 0) {
        return std::nullopt;
    }
    const int last = std::max(rate.count - places + 1, 1);
    int newer = 0;
    for (auto at = taken_.rbegin(); at != taken_.rend(); ++at) {
        if (ns != nullptr && at->second != *ns) {
            continue;
        }
        if (++newer == last) {
            const Time free = at->first + rate.per;
            return free > now ? std::optional(free) : std::nullopt;
        }
    }
    return std::nullopt;
}

std::optional<Time> Pacing::next_free(const std::string& ns, Time now) {
    return next_free(Wanted{{ns, 1}}, now);
}

std::optional<Time> Pacing::next_free(const Wanted& wanted, Time now) {
    forget(now);
    int all = 0;
    std::optional<Time> latest;  // nothing is earlier than nullopt
    for (const auto& [ns, places] : wanted) {
        all += places;
        latest = std::max(latest, free_at(config_.ns, &ns, places, now));
    }
    return std::max(latest, free_at(config_.cluster, nullptr, all, now));
}

Time Pacing::when_free(const std::string& ns, Time from) {
    Time at = from;
    while (const std::optional<Time> later = next_free(ns, at)) {
        at = *later;
    }
    return at;
}

std::string Pacing::exceeds(const Wanted& wanted) const {
    int all = 0;
    for (const auto& [ns, places] : wanted) {
        all += places;
        if (config_.ns.count > 0 && places > config_.ns.count) {
            return "pacing.namespace";
        }
    }
    return config_.cluster.count > 0 && all > config_.cluster.count ? "pacing.cluster" : "";
}

void Pacing::take(const std::string& ns, Time at) {
    const std::pair place(at, ns);
    taken_.insert(std::ranges::upper_bound(taken_, place), place);
}

void Pacing::give_back(const std::string& ns, Time at) {
    const auto found = std::ranges::find(taken_, std::pair(at, ns));
    if (found != taken_.end()) {
        taken_.erase(found);
    }
}

int Pacing::used(Time now) {
    forget(now);
    const Time start = now - config_.cluster.per;
    return static_cast<int>(
        std::ranges::count_if(taken_, [start](const auto& one) { return one.first > start; }));
}

void Pacing::forget(Time now) {
    const Time start = now - std::max(config_.cluster.per, config_.ns.per);
    while (!taken_.empty() && taken_.front().first <= start) {
        taken_.pop_front();
    }
}

}  // namespace keel
