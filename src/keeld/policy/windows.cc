#include "keeld/policy/windows.h"

#include <algorithm>

#include "core/glob.h"

namespace keel {
namespace {

using std::chrono::days;
using std::chrono::floor;
using std::chrono::minutes;

constexpr minutes kDay{24 * 60};
constexpr int kDays = 14;
// How often two sets of windows may take turns before they are taken for never open together.
constexpr int kTurns = 200;

bool begins_on(const WindowConfig& window, std::chrono::local_days day) {
    return (window.days >> std::chrono::weekday{day}.c_encoding() & 1U) != 0;
}

minutes length(const WindowConfig& window) {
    return window.to > window.from ? window.to - window.from : window.to - window.from + kDay;
}

using LocalTime = std::chrono::local_time<Millis>;

// Yesterday's window may last into today; none lasts longer than a day.
bool is_open_at(const WindowConfig& window, LocalTime local) {
    const auto today = floor<days>(local);
    for (const auto day : {today, today - days{1}}) {
        const LocalTime begin = day + window.from;
        if (begins_on(window, day) && local >= begin && local < begin + length(window)) {
            return true;
        }
    }
    return false;
}

std::optional<LocalTime> opening_from(const WindowConfig& window, LocalTime local) {
    if (is_open_at(window, local)) {
        return local;
    }
    const auto today = floor<days>(local);
    for (int i = 0; i <= kDays; ++i) {
        const LocalTime begin = today + days{i} + window.from;
        if (begins_on(window, today + days{i}) && begin >= local) {
            return begin;
        }
    }
    return std::nullopt;
}

LocalTime local_time_of(Time moment, const ZoneOffset& offset) {
    return LocalTime{moment.time_since_epoch() + offset.offset};
}

}  // namespace

bool is_open(const WindowConfig& window, const Zone& zone, Time moment) {
    return is_open_at(window, local_time_of(moment, zone(moment)));
}

// Within a stretch of one offset local time runs like any other; at its end it jumps.
std::optional<Time> next_opening(const WindowConfig& window, const Zone& zone, Time moment) {
    const Time last = moment + days{kDays};
    while (moment <= last) {
        const ZoneOffset offset = zone(moment);
        const std::optional<LocalTime> local = opening_from(window, local_time_of(moment, offset));
        const Time opening = local ? Time{local->time_since_epoch() - offset.offset} : Time::max();
        if (opening < offset.until) {
            return opening;
        }
        moment = offset.until;
    }
    return std::nullopt;
}

Windows windows_of(const std::string& ns, const Config& config) {
    Windows found;
    for (const WindowConfig& window : config.windows) {
        if (matches_any(window.namespaces, ns)) {
            found.push_back(&window);
        }
    }
    return found;
}

Windows windows_of(const PhaseConfig& phase, const Config& config) {
    Windows found;
    for (const WindowConfig& window : config.windows) {
        if (std::ranges::find(phase.windows, window.name) != phase.windows.end()) {
            found.push_back(&window);
        }
    }
    return found;
}

std::optional<Time> next_opening(const std::vector<Windows>& sets,
                                 const std::function<Zone(const WindowConfig&)>& zone,
                                 Time moment) {
    for (int turn = 0; turn < kTurns; ++turn) {
        const Time before = moment;
        for (const Windows& set : sets) {
            std::optional<Time> first;
            for (const WindowConfig* window : set) {
                const std::optional<Time> opening = next_opening(*window, zone(*window), moment);
                if (opening && (!first || *opening < *first)) {
                    first = opening;
                }
            }
            if (!set.empty() && !first) {
                return std::nullopt;
            }
            moment = first.value_or(moment);
        }
        if (moment == before) {
            return moment;
        }
    }
    return std::nullopt;
}

}  // namespace keel
