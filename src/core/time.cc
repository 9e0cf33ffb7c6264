#include "core/time.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>

namespace keel {
namespace {

using std::chrono::days;
using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;
using std::chrono::sys_days;

constexpr Time kLatest = sys_days{std::chrono::year{9999} / 12 / 31} + days{1} - Millis{1};
constexpr Time kEarliest = sys_days{std::chrono::year{0} / 1 / 1};

constexpr std::uint64_t kNanosPerMilli = 1'000'000;
constexpr std::uint64_t kNanosPerSecond = 1'000 * kNanosPerMilli;
constexpr std::uint64_t kMaxDays = 36'525;  // 100 years
constexpr std::uint64_t kMaxNanos = kMaxDays * 24 * 3600 * kNanosPerSecond;

constexpr bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

// Reads a text from the left; every reader says whether it found what it wanted.
class Cursor {
  public:
    explicit Cursor(std::string_view rest) noexcept : rest_(rest) {}

    [[nodiscard]] bool done() const noexcept { return rest_.empty(); }
    [[nodiscard]] char peek() const noexcept { return rest_.empty() ? '\0' : rest_.front(); }

    bool skip(char c) noexcept {
        if (done() || rest_.front() != c) {
            return false;
        }
        rest_.remove_prefix(1);
        return true;
    }

    // Exactly `digits` digits, as a number from `low` to `high`.
    bool number(std::size_t digits, int low, int high, int& out) noexcept {
        if (rest_.size() < digits) {
            return false;
        }
        int value = 0;
        for (std::size_t i = 0; i < digits; ++i) {
            if (!is_digit(rest_[i])) {
                return false;
            }
            value = value * 10 + (rest_[i] - '0');
        }
        rest_.remove_prefix(digits);
        out = value;
        return value >= low && value <= high;
    }

    // As many digits as there are, maybe none.
    std::string_view digits() noexcept {
        std::size_t count = 0;
        while (count < rest_.size() && is_digit(rest_[count])) {
            ++count;
        }
        const std::string_view found = rest_.substr(0, count);
        rest_.remove_prefix(count);
        return found;
    }

    // Up to the next digit or point.
    std::string_view word() noexcept {
        std::size_t count = 0;
        while (count < rest_.size() && !is_digit(rest_[count]) && rest_[count] != '.') {
            ++count;
        }
        const std::string_view found = rest_.substr(0, count);
        rest_.remove_prefix(count);
        return found;
    }

  private:
    std::string_view rest_;
};

// "Z", or "+hh:mm" as what to subtract to come to UTC.
bool parse_offset(Cursor& cursor, minutes& offset) noexcept {
    if (cursor.skip('Z') || cursor.skip('z')) {
        offset = minutes{0};
        return true;
    }
    const bool behind = cursor.peek() == '-';
    int hour = 0;
    int minute = 0;
    if (!(cursor.skip('+') || cursor.skip('-')) || !cursor.number(2, 0, 23, hour) ||
        !cursor.skip(':') || !cursor.number(2, 0, 59, minute)) {
        return false;
    }
    offset = hours{hour} + minutes{minute};
    if (behind) {
        offset = -offset;
    }
    return true;
}

// The first three digits count; the rest is cut.
Millis fraction_millis(std::string_view digits) noexcept {
    int value = 0;
    for (std::size_t i = 0; i < 3; ++i) {
        value = value * 10 + (i < digits.size() ? digits[i] - '0' : 0);
    }
    return Millis{value};
}

struct Unit {
    std::string_view name;
    std::uint64_t nanos;
};

constexpr std::array<Unit, 8> kUnits{{
    {"ns", 1},
    {"us", 1'000},
    {"\xc2\xb5s", 1'000},  // U+00B5, the micro sign
    {"\xce\xbcs", 1'000},  // U+03BC, the Greek letter
    {"ms", kNanosPerMilli},
    {"s", kNanosPerSecond},
    {"m", 60 * kNanosPerSecond},
    {"h", 3600 * kNanosPerSecond},
}};

bool to_number(std::string_view digits, std::uint64_t& out) noexcept {
    const char* end = digits.data() + digits.size();
    const auto [stopped, error] = std::from_chars(digits.data(), end, out);
    return error == std::errc{} && stopped == end;
}

// The part of a unit that ".<digits>" means, cut to nanoseconds.
std::uint64_t fraction_of(std::string_view digits, std::uint64_t unit) noexcept {
    std::uint64_t sum = 0;
    for (const char c : digits) {
        // unit is at most 3.6e12, so unit * 9 stays far below 2^64. Dividing first would lose what
        // the hour's nanoseconds do not divide evenly by; below one nanosecond nothing is left to
        // add.
        sum += unit * static_cast<std::uint64_t>(c - '0') / 10;
        unit /= 10;
        if (unit == 0) {
            break;
        }
    }
    return sum;
}

// One "<number><unit>" added to `total`.
bool parse_term(Cursor& cursor, std::uint64_t& total) noexcept {
    const std::string_view whole = cursor.digits();
    std::string_view fraction;
    if (cursor.skip('.')) {
        fraction = cursor.digits();
    }
    if (whole.empty() && fraction.empty()) {
        return false;
    }
    const std::string_view name = cursor.word();
    const auto unit = std::find_if(kUnits.begin(), kUnits.end(),
                                   [name](const Unit& each) { return each.name == name; });
    std::uint64_t count = 0;
    if (unit == kUnits.end() || (!whole.empty() && !to_number(whole, count)) ||
        count > kMaxNanos / unit->nanos) {
        return false;
    }
    total += count * unit->nanos + fraction_of(fraction, unit->nanos);
    return total <= kMaxNanos;
}

}  // namespace

std::string format_time(Time time) {
    const Time shown = std::clamp(time, Time{}, kLatest);
    const auto day = std::chrono::floor<days>(shown);
    const std::chrono::year_month_day date{day};
    const std::chrono::hh_mm_ss clock{shown - day};
    std::array<char, 32> text;
    const int length = std::snprintf(
        text.data(), text.size(), "%04d-%02u-%02uT%02d:%02d:%02d.%03dZ",
        static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
        static_cast<unsigned>(date.day()), static_cast<int>(clock.hours().count()),
        static_cast<int>(clock.minutes().count()), static_cast<int>(clock.seconds().count()),
        static_cast<int>(clock.subseconds().count()));
    return {text.data(), static_cast<std::size_t>(length)};
}

std::optional<Time> parse_time(std::string_view text) noexcept {
    Cursor cursor(text);
    int year = 0;
    int month = 0;
    int day = 0;
    int hour = 0;
    int minute = 0;
    int second = 0;
    if (!cursor.number(4, 0, 9999, year) || !cursor.skip('-') || !cursor.number(2, 1, 12, month) ||
        !cursor.skip('-') || !cursor.number(2, 1, 31, day) ||
        !(cursor.skip('T') || cursor.skip('t')) || !cursor.number(2, 0, 23, hour) ||
        !cursor.skip(':') || !cursor.number(2, 0, 59, minute) || !cursor.skip(':') ||
        !cursor.number(2, 0, 59, second)) {
        return std::nullopt;
    }
    std::string_view fraction;
    if (cursor.skip('.')) {
        fraction = cursor.digits();
        if (fraction.empty()) {
            return std::nullopt;
        }
    }
    minutes offset{0};
    if (!parse_offset(cursor, offset) || !cursor.done()) {
        return std::nullopt;
    }
    const std::chrono::year_month_day date{std::chrono::year{year},
                                           std::chrono::month{static_cast<unsigned>(month)},
                                           std::chrono::day{static_cast<unsigned>(day)}};
    if (!date.ok()) {
        return std::nullopt;
    }
    const Time time = sys_days{date} + hours{hour} + minutes{minute} + seconds{second} +
                      fraction_millis(fraction) - offset;
    if (time < kEarliest || time > kLatest) {
        return std::nullopt;
    }
    return time;
}

std::optional<Millis> parse_duration(std::string_view text) noexcept {
    if (text == "0") {
        return Millis{0};
    }
    if (text.ends_with('d')) {
        text.remove_suffix(1);
        std::uint64_t count = 0;
        if (!to_number(text, count) || count > kMaxDays) {
            return std::nullopt;
        }
        return days{count};
    }
    Cursor cursor(text);
    std::uint64_t total = 0;
    do {
        if (!parse_term(cursor, total)) {
            return std::nullopt;
        }
    } while (!cursor.done());
    return Millis{static_cast<Millis::rep>(total / kNanosPerMilli)};
}

std::string format_duration(Millis duration) {
    if (duration == Millis{0}) {
        return "0s";
    }
    std::string text;
    if (duration < Millis{0}) {
        text = "-";
        duration = -duration;
    }
    if (duration < seconds{1}) {
        return text + std::to_string(duration.count()) + "ms";
    }
    const auto whole_hours = std::chrono::floor<hours>(duration);
    const auto whole_minutes = std::chrono::floor<minutes>(duration - whole_hours);
    const auto whole_seconds = std::chrono::floor<seconds>(duration - whole_hours - whole_minutes);
    const Millis rest = duration - whole_hours - whole_minutes - whole_seconds;
    if (whole_hours.count() != 0) {
        text += std::to_string(whole_hours.count()) + "h";
    }
    if (whole_minutes.count() != 0) {
        text += std::to_string(whole_minutes.count()) + "m";
    }
    if (whole_seconds.count() == 0 && rest.count() == 0) {
        return text;
    }
    text += std::to_string(whole_seconds.count());
    if (rest.count() != 0) {
        const std::string digits = std::to_string(1000 + rest.count()).substr(1);
        text += "." + digits.substr(0, digits.find_last_not_of('0') + 1);
    }
    return text + "s";
}

}  // namespace keel
