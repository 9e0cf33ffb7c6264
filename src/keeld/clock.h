// Where keeld takes its time from. Wall time decides schedules and pacing and stands in the ledger;
// deadlines, leases, signatures and network time-outs use the real clocks, whatever this one says.
#pragma once

#include <algorithm>
#include <chrono>

#include "core/time.h"

namespace keel {

using Steady = std::chrono::steady_clock;

class Clock {
  public:
    virtual ~Clock() = default;
    [[nodiscard]] virtual Time now() const = 0;
    // What this clock showed when the system's showed `real`: for times that others tell.
    [[nodiscard]] virtual Time shown_at(Time real) const { return real; }
    // When to look whether this clock has come to `moment`; an hour from now at most, because it
    // may be set.
    [[nodiscard]] virtual Steady::time_point when(Time moment) const {
        const Millis left = std::clamp<Millis>(moment - now(), Millis{0}, std::chrono::hours{1});
        return Steady::now() + left;
    }
};

class SystemClock final : public Clock {
  public:
    [[nodiscard]] Time now() const override {
        return std::chrono::time_point_cast<Millis>(std::chrono::system_clock::now());
    }
};

}  // namespace keel
