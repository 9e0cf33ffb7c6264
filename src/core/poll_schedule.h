// When to look: `@every 1h30m`, `@daily`, or cron with seconds first. Keel's syntax
// (`keel.sh/pollSchedule`).
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "core/expected.h"
#include "core/time.h"

namespace keel {

// How a time zone stands at a moment: local time is UTC + offset from there until `until`, which
// is later than the moment.
struct ZoneOffset {
    std::chrono::seconds offset{0};
    Time until = Time::max();
};
using Zone = std::function<ZoneOffset(Time)>;
[[nodiscard]] ZoneOffset utc(Time moment);

class PollSchedule {
  public:
    // `@every DURATION` (whole seconds, at least one), `@yearly` `@annually` `@monthly` `@weekly`
    // `@daily` `@midnight` `@hourly`, or six fields: second minute hour day month weekday (0 is
    // Sunday), the last of which may be missing. `*` `?` lists, ranges, steps, names of months and
    // days in any case. Where day and weekday are both given, either will do. Errors:
    // "schedule-invalid" naming the field, also for what never comes (30 February).
    [[nodiscard]] static Expected<PollSchedule> parse(std::string_view text);

    // The first moment after `after`, in whole seconds for cron. Local times that a zone skips do
    // not come, those that it repeats come twice.
    [[nodiscard]] Time next(Time after, const Zone& zone) const;

    // Whether they come at the same moments, as far as their spelling tells.
    friend bool operator==(const PollSchedule&, const PollSchedule&) = default;

  private:
    struct Fields {
        std::uint64_t second = 0;
        std::uint64_t minute = 0;
        std::uint64_t hour = 0;
        std::uint64_t day = 0;
        std::uint64_t month = 0;
        std::uint64_t weekday = 0;
        bool any_day = false;  // either of the two stands for all

        friend bool operator==(const Fields&, const Fields&) = default;
    };
    [[nodiscard]] bool has_day(std::chrono::local_days day) const;
    [[nodiscard]] std::chrono::local_seconds next_local(std::chrono::local_seconds from,
                                                        std::chrono::local_seconds until) const;

    Millis every_{0};  // 0: the fields hold
    Fields fields_;
};

}  // namespace keel
