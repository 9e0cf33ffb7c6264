// Where keeld takes its time from. Wall time decides pacing and stands in the ledger; deadlines,
// leases and network time-outs use the monotonic clock, whatever this one says.
#pragma once

#include <chrono>

#include "core/time.h"

namespace keel {

using Steady = std::chrono::steady_clock;

class Clock {
  public:
    virtual ~Clock() = default;
    [[nodiscard]] virtual Time now() const = 0;
};

class SystemClock final : public Clock {
  public:
    [[nodiscard]] Time now() const override {
        return std::chrono::time_point_cast<Millis>(std::chrono::system_clock::now());
    }
};

}  // namespace keel
