#include "core/poll_schedule.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <optional>
#include <string>
#include <vector>

namespace keel {
namespace {

using std::chrono::days;
using std::chrono::hours;
using std::chrono::local_days;
using std::chrono::local_seconds;
using std::chrono::minutes;
using std::chrono::seconds;
using std::chrono::year_month_day;

// 29 February is at most eight years away (1896 to 1904, 2096 to 2104).
constexpr days kHorizon{9 * 366};

struct FieldRange {
    const char* name;
    unsigned least;
    unsigned most;
    const char* names;  // of three letters each, the first stands for `least`; or null
};
constexpr std::array<FieldRange, 6> kFields{
    {{"second", 0, 59, nullptr},
     {"minute", 0, 59, nullptr},
     {"hour", 0, 23, nullptr},
     {"day", 1, 31, nullptr},
     {"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"},
     {"weekday", 0, 6, "sunmontuewedthufrisat"}}};

struct Descriptor {
    std::string_view name;
    std::string_view fields;
};
constexpr std::array<Descriptor, 7> kDescriptors{{{"@yearly", "0 0 0 1 1 *"},
                                                  {"@annually", "0 0 0 1 1 *"},
                                                  {"@monthly", "0 0 0 1 * *"},
                                                  {"@weekly", "0 0 0 * * 0"},
                                                  {"@daily", "0 0 0 * * *"},
                                                  {"@midnight", "0 0 0 * * *"},
                                                  {"@hourly", "0 0 * * * *"}}};

std::vector<std::string_view> words(std::string_view text, std::string_view separators) {
    std::vector<std::string_view> all;
    for (;;) {
        const std::size_t end = std::min(text.find_first_of(separators), text.size());
        all.push_back(text.substr(0, end));
        if (end == text.size()) return all;
        text.remove_prefix(end + 1);
    }
}

std::optional<unsigned> number(std::string_view text) {
    unsigned value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

std::optional<unsigned> value_of(std::string_view text, const FieldRange& range) {
    if (range.names == nullptr || text.size() != 3) return number(text);
    std::string lower{text};
    std::ranges::transform(lower, lower.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    const std::string_view names{range.names};
    for (std::size_t at = 0; at < names.size(); at += 3) {
        if (names.substr(at, 3) == lower) return range.least + static_cast<unsigned>(at / 3);
    }
    return number(text);
}

struct Bits {
    std::uint64_t set = 0;
    bool all = false;  // `*` or `?`
};

// One element of a list: `*`, `5`, `5-9`, each with or without `/2`.
Expected<Bits> element(std::string_view text, const FieldRange& range) {
    const auto wrong = [&](const std::string& why) {
        return fail("schedule-invalid",
                    std::string{range.name} + " \"" + std::string{text} + "\": " + why);
    };
    const auto stepped = words(text, "/");
    const auto bounds = words(stepped[0], "-");
    if (stepped.size() > 2 || bounds.size() > 2) return wrong("expected A, A-B or *, and /STEP");
    Bits bits;
    bits.all = stepped[0] == "*" || stepped[0] == "?";
    unsigned from = range.least;
    unsigned to = range.most;
    if (!bits.all) {
        const auto first = value_of(bounds[0], range);
        const auto last = value_of(bounds.back(), range);
        if (!first || !last) return wrong("neither a number nor a name");
        from = *first;
        // "5/15" is "from 5 on, every 15".
        const bool open = bounds.size() == 1 && stepped.size() == 2;
        if (!open) to = *last;
    }
    if (from < range.least || to > range.most || from > to) {
        return wrong("expected " + std::to_string(range.least) + " to " +
                     std::to_string(range.most) + ", the lower first");
    }
    const auto step = stepped.size() == 2 ? number(stepped[1]) : std::optional{1u};
    if (!step || *step == 0) return wrong("the step must be a number from 1");
    for (std::uint64_t at = from; at <= to; at += *step)
        bits.set |= std::uint64_t{1} << at;
    return bits;
}

Expected<Bits> field(std::string_view text, const FieldRange& range) {
    Bits all;
    for (const std::string_view part : words(text, ",")) {
        const auto bits = element(part, range);
        if (!bits) return tl::unexpected(bits.error());
        all.set |= bits->set;
        all.all = all.all || bits->all;
    }
    return all;
}

bool has(std::uint64_t set, unsigned value) {
    return (set >> value & 1) != 0;
}

// The least element that is not below `from`.
std::optional<unsigned> at_least(std::uint64_t set, unsigned from) {
    const std::uint64_t rest = from > 63 ? 0 : set >> from << from;
    if (rest == 0) return std::nullopt;
    return static_cast<unsigned>(std::countr_zero(rest));
}

}  // namespace

ZoneOffset utc(Time) {
    return {};
}

Expected<PollSchedule> PollSchedule::parse(std::string_view text) {
    constexpr std::string_view kEvery = "@every ";
    PollSchedule schedule;
    if (text.starts_with(kEvery)) {
        const auto duration = parse_duration(text.substr(kEvery.size()));
        if (!duration || *duration <= Millis{0}) {
            return fail("schedule-invalid",
                        "\"" + std::string{text} + "\": @every takes a duration such as 1h30m");
        }
        schedule.every_ = std::max<Millis>(std::chrono::floor<seconds>(*duration), seconds{1});
        return schedule;
    }
    std::string_view spelled = text;
    if (const auto* known = std::ranges::find(kDescriptors, text, &Descriptor::name);
        known != kDescriptors.end()) {
        spelled = known->fields;
    }
    std::vector<std::string_view> given = words(spelled, " \t");
    std::erase(given, std::string_view{});
    if (given.size() == 5) given.push_back("*");
    if (given.size() != kFields.size()) {
        return fail("schedule-invalid",
                    "\"" + std::string{text} +
                        "\": expected @every DURATION, @hourly, @daily, @weekly, @monthly, @yearly "
                        "or six fields: second minute hour day month weekday");
    }
    std::array<Bits, kFields.size()> bits;
    for (std::size_t i = 0; i < kFields.size(); ++i) {
        const auto parsed = field(given[i], kFields[i]);
        if (!parsed) return tl::unexpected(parsed.error());
        bits[i] = *parsed;
    }
    schedule.fields_ = {bits[0].set,
                        bits[1].set,
                        bits[2].set,
                        bits[3].set,
                        bits[4].set,
                        bits[5].set,
                        bits[3].all || bits[5].all};
    const local_seconds begin{local_days{std::chrono::year{2000} / 1 / 1}};
    if (const local_seconds end = begin + kHorizon; schedule.next_local(begin, end) >= end) {
        return fail("schedule-invalid", "\"" + std::string{text} + "\": no such day ever comes");
    }
    return schedule;
}

bool PollSchedule::has_day(local_days day) const {
    const year_month_day date{day};
    if (!has(fields_.month, static_cast<unsigned>(date.month()))) return false;
    const bool by_day = has(fields_.day, static_cast<unsigned>(date.day()));
    const bool by_weekday = has(fields_.weekday, std::chrono::weekday{day}.c_encoding());
    return fields_.any_day ? by_day && by_weekday : by_day || by_weekday;
}

// The first that is not before `from`, or `until` when there is none before it.
local_seconds PollSchedule::next_local(local_seconds from, local_seconds until) const {
    local_days day = std::chrono::floor<days>(from);
    std::chrono::hh_mm_ss<seconds> at{from - day};
    for (; day < until; ++day, at = std::chrono::hh_mm_ss<seconds>{seconds{0}}) {
        if (!has_day(day)) continue;
        auto hour = static_cast<unsigned>(at.hours().count());
        auto minute = static_cast<unsigned>(at.minutes().count());
        auto second = static_cast<unsigned>(at.seconds().count());
        // Each field that has to move on lets the finer ones begin again.
        if (const auto found = at_least(fields_.second, second)) {
            second = *found;
        } else {
            second = *at_least(fields_.second, 0);
            ++minute;
        }
        if (const auto found = at_least(fields_.minute, minute); found && *found == minute) {
            // stays
        } else {
            second = *at_least(fields_.second, 0);
            hour += found ? 0 : 1;
            minute = found ? *found : *at_least(fields_.minute, 0);
        }
        const auto found = at_least(fields_.hour, hour);
        if (!found) continue;
        if (*found != hour) {
            minute = *at_least(fields_.minute, 0);
            second = *at_least(fields_.second, 0);
        }
        return std::min(until, day + hours{*found} + minutes{minute} + seconds{second});
    }
    return until;
}

Time PollSchedule::next(Time after, const Zone& zone) const {
    if (every_ > Millis{0}) return after + every_;
    const Time horizon = after + kHorizon;
    Time from = std::chrono::floor<seconds>(after) + seconds{1};
    // Within one offset local time runs straight.
    while (from < horizon) {
        const ZoneOffset here = zone(from);
        const Time until = std::min(here.until, horizon);
        const auto local = [&](Time moment) {
            return local_seconds{std::chrono::ceil<seconds>(moment.time_since_epoch()) +
                                 here.offset};
        };
        const local_seconds end = local(until);
        const local_seconds found = next_local(local(from), end);
        if (found < end) return Time{found.time_since_epoch() - here.offset};
        from = until;
    }
    return horizon;
}

}  // namespace keel
