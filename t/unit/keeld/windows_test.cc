// Windows of local time, across daylight saving.
#include "keeld/policy/windows.h"

#include <gtest/gtest.h>

#include "keeld/zone.h"

namespace keel {
namespace {

using std::chrono::hours;
using std::chrono::minutes;

constexpr unsigned kSunday = 1;

Time utc_time(const std::string& text) {
    return parse_time(text).value();
}

WindowConfig window(int from, int to, unsigned days = 0b1111111) {
    WindowConfig result;
    result.name = "w";
    result.from = hours{from};
    result.to = hours{to};
    result.days = days;
    return result;
}

std::string opens(const WindowConfig& one, const Zone& zone, const std::string& from) {
    const std::optional<Time> at = next_opening(one, zone, utc_time(from));
    return at ? format_time(*at) : "never";
}

TEST(Windows, R6_OneOverMidnightBelongsToTheDayOfItsBegin) {
    // 2026-11-22 is a Sunday.
    const WindowConfig nights = window(22, 6, kSunday);
    EXPECT_FALSE(is_open(nights, utc, utc_time("2026-11-22T05:00:00Z")));
    EXPECT_FALSE(is_open(nights, utc, utc_time("2026-11-22T21:59:59Z")));
    EXPECT_TRUE(is_open(nights, utc, utc_time("2026-11-22T22:00:00Z")));
    EXPECT_TRUE(is_open(nights, utc, utc_time("2026-11-23T05:59:59Z")));
    EXPECT_FALSE(is_open(nights, utc, utc_time("2026-11-23T06:00:00Z")));
    EXPECT_EQ(opens(nights, utc, "2026-11-23T06:00:00Z"), "2026-11-29T22:00:00.000Z");
    EXPECT_EQ(opens(nights, utc, "2026-11-23T03:00:00Z"), "2026-11-23T03:00:00.000Z");
}

TEST(Windows, TheSameTimeTwiceIsAWholeDayAndMidnightIsAnEnd) {
    EXPECT_TRUE(is_open(window(6, 6), utc, utc_time("2026-11-22T05:59:00Z")));
    const WindowConfig day = window(0, 24, kSunday);
    EXPECT_TRUE(is_open(day, utc, utc_time("2026-11-22T23:59:59Z")));
    EXPECT_FALSE(is_open(day, utc, utc_time("2026-11-23T00:00:00Z")));
}

TEST(Windows, R6_AnHourThatIsSkippedOpensWhereTimeGoesOn) {
    // In Sofia 03:00 to 04:00 of 2026-03-29 does not exist: 00:59:59Z is 02:59:59, 01:00:00Z is
    // 04:00:00.
    const Zone sofia = zone_named("Europe/Sofia");
    EXPECT_EQ(opens(window(3, 4), sofia, "2026-03-28T12:00:00Z"), "2026-03-30T00:00:00.000Z");
    EXPECT_EQ(opens(window(3, 5), sofia, "2026-03-29T00:30:00Z"), "2026-03-29T01:00:00.000Z");
    EXPECT_FALSE(is_open(window(3, 4), sofia, utc_time("2026-03-29T01:00:00Z")));
    // A night over the change is an hour shorter.
    const WindowConfig nights = window(22, 6);
    EXPECT_TRUE(is_open(nights, sofia, utc_time("2026-03-29T02:59:59Z")));
    EXPECT_FALSE(is_open(nights, sofia, utc_time("2026-03-29T03:00:00Z")));
}

TEST(Windows, R6_AnHourThatComesTwiceIsOpenBothTimes) {
    // In Sofia 03:00 to 04:00 of 2026-10-25 comes at 00:00Z and again at 01:00Z.
    const Zone sofia = zone_named("Europe/Sofia");
    const WindowConfig one = window(3, 4);
    EXPECT_EQ(opens(one, sofia, "2026-10-24T12:00:00Z"), "2026-10-25T00:00:00.000Z");
    EXPECT_TRUE(is_open(one, sofia, utc_time("2026-10-25T00:30:00Z")));
    EXPECT_TRUE(is_open(one, sofia, utc_time("2026-10-25T01:30:00Z")));
    EXPECT_FALSE(is_open(one, sofia, utc_time("2026-10-25T02:00:00Z")));
}

// Every minute of two years: the next opening is open, and nothing before it is.
TEST(Windows, R6_TheNextOpeningIsTheFirst) {
    const Zone zone = zone_named("America/New_York");
    for (const WindowConfig& one :
         {window(2, 3), window(1, 2, kSunday), window(22, 6, 0b0100010), window(0, 24, kSunday)}) {
        const Time end = utc_time("2027-12-01T00:00:00Z");
        Time promised{};  // epoch: none
        for (Time at = utc_time("2026-10-01T00:00:00Z"); at < end; at += minutes{7}) {
            const bool open = is_open(one, zone, at);
            if (at >= promised) promised = next_opening(one, zone, at).value_or(Time::max());
            ASSERT_EQ(open, promised <= at) << format_time(at) << " " << format_time(promised);
        }
    }
}

TEST(Windows, R6_ThoseOfANamespaceAndOfItsPhaseMustBothBeOpen) {
    Config config;
    config.windows = {window(20, 23), window(8, 9), window(22, 2)};
    config.windows[0].name = "evening";
    config.windows[0].namespaces = {"shop"};
    config.windows[1].name = "morning";
    config.windows[1].namespaces = {"sh*"};
    config.windows[2].name = "late";
    config.windows[2].namespaces = {};
    PhaseConfig phase;
    phase.windows = {"late"};
    const Windows own = windows_of("shop", config);
    EXPECT_EQ(own.size(), 2U);
    EXPECT_TRUE(windows_of("other", config).empty());
    const auto zone = [](const WindowConfig&) -> Zone { return utc; };
    const auto next = [&](const std::vector<Windows>& sets, const std::string& from) {
        const auto at = next_opening(sets, zone, utc_time(from));
        return at ? format_time(*at) : "never";
    };
    EXPECT_EQ(next({own}, "2026-11-22T10:00:00Z"), "2026-11-22T20:00:00.000Z");
    EXPECT_EQ(next({own}, "2026-11-22T23:00:00Z"), "2026-11-23T08:00:00.000Z");
    EXPECT_EQ(next({own, windows_of(phase, config)}, "2026-11-22T10:00:00Z"),
              "2026-11-22T22:00:00.000Z");
    EXPECT_EQ(next({{}, {}}, "2026-11-22T10:00:00Z"), "2026-11-22T10:00:00.000Z");
    EXPECT_EQ(next({{&config.windows[1]}, {&config.windows[2]}}, "2026-11-22T10:00:00Z"), "never");
}

}  // namespace
}  // namespace keel
