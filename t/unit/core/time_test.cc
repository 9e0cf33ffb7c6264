#include "core/time.h"

#include <string>

#include <gtest/gtest.h>

namespace keel {
namespace {

using namespace std::chrono_literals;

TEST(Time, is_written_in_utc_with_milliseconds) {
    const struct {
        std::int64_t millis;
        std::string text;
    } cases[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {1, "1970-01-01T00:00:00.001Z"},
        {951'782'400'000, "2000-02-29T00:00:00.000Z"},
        {1'795'348'800'123, "2026-11-22T12:00:00.123Z"},
        {253'402'300'799'999, "9999-12-31T23:59:59.999Z"},
        // outside: the nearest moment inside
        {-1, "1970-01-01T00:00:00.000Z"},
        {253'402'300'800'000, "9999-12-31T23:59:59.999Z"},
        {std::numeric_limits<std::int64_t>::max(), "9999-12-31T23:59:59.999Z"},
        {std::numeric_limits<std::int64_t>::min(), "1970-01-01T00:00:00.000Z"},
    };
    for (const auto& each : cases) {
        EXPECT_EQ(format_time(Time{Millis{each.millis}}), each.text);
    }
}

TEST(Time, is_read_from_any_rfc3339) {
    const struct {
        std::string text;
        std::int64_t millis;
    } cases[] = {
        {"2026-11-22T12:00:00.123Z", 1'795'348'800'123},
        {"2026-11-22T12:00:00.123999999Z", 1'795'348'800'123},
        {"2026-11-22T12:00:00Z", 1'795'348'800'000},
        {"2026-11-22T12:00:00.5Z", 1'795'348'800'500},
        {"2026-11-22T12:00:00.05Z", 1'795'348'800'050},
        {"2026-11-22t12:00:00z", 1'795'348'800'000},
        {"2026-11-22T14:00:00+02:00", 1'795'348'800'000},
        {"2026-11-22T06:30:00-05:30", 1'795'348'800'000},
        {"2026-11-22T12:00:00-00:00", 1'795'348'800'000},
        {"1970-01-01T00:00:00Z", 0},
        {"1969-12-31T23:59:59.999Z", -1},
        {"0001-01-01T00:00:00Z", -62'135'596'800'000},  // Go's zero time
        {"2024-02-29T00:00:00Z", 1'709'164'800'000},
    };
    for (const auto& each : cases) {
        const auto time = parse_time(each.text);
        ASSERT_TRUE(time) << each.text;
        EXPECT_EQ(time->time_since_epoch().count(), each.millis) << each.text;
    }
}

TEST(Time, refuses_everything_else) {
    const std::string cases[] = {
        "",
        "2026-11-22",
        "2026-11-22T12:00:00",
        "2026-11-22 12:00:00Z",
        "2026-11-22T12:00Z",
        "2026-11-22T12:00:00.Z",
        "2026-11-22T12:00:00,5Z",
        "2026-11-22T12:00:00Zx",
        " 2026-11-22T12:00:00Z",
        "2026-11-22T12:00:00+0200",
        "2026-11-22T12:00:00+02",
        "2026-11-22T12:00:00+24:00",
        "2026-11-22T12:00:00+02:60",
        "2026-11-22T24:00:00Z",
        "2026-11-22T12:60:00Z",
        "2026-11-22T12:00:60Z",
        "2026-13-22T12:00:00Z",
        "2026-00-22T12:00:00Z",
        "2026-11-31T12:00:00Z",
        "2026-11-00T12:00:00Z",
        "2025-02-29T12:00:00Z",
        "26-11-22T12:00:00Z",
        "-026-11-22T12:00:00Z",
        "10000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-00:01",
        "0000-01-01T00:00:00+00:01",
        std::string("2026-11-22T12:00:00Z\0", 21),
    };
    for (const std::string& text : cases) {
        EXPECT_FALSE(parse_time(text)) << text;
    }
}

TEST(Time, survives_a_round_trip) {
    for (std::int64_t millis = 0; millis < 253'402'300'800'000; millis += 86'399'917'331) {
        const Time time{Millis{millis}};
        ASSERT_EQ(parse_time(format_time(time)), time) << millis;
    }
}

TEST(Duration, is_read_as_go_spells_it_and_in_days) {
    const struct {
        std::string text;
        Millis value;
    } cases[] = {
        {"0", 0ms},
        {"0s", 0ms},
        {"300ms", 300ms},
        {"1.5h", 90min},
        {"1h30m", 90min},
        {"1h30m0s", 90min},
        {"30m1h", 90min},
        {".5s", 500ms},
        {"1.s", 1s},
        {"1.999999s", 1999ms},
        {"0.1h", 6min},
        {"2h45m30.5s", 2h + 45min + 30s + 500ms},
        {"1000us", 1ms},
        {"1000\xc2\xb5s", 1ms},
        {"1000\xce\xbcs", 1ms},
        {"999us", 0ms},
        {"500us500us", 1ms},
        {"1000000ns", 1ms},
        {"7d", 168h},
        {"400d", 9600h},
        {"36525d", 876'600h},
        {"876600h", 876'600h},
        {"0.3333333333333333333333333333h", 19min + 59s + 999ms},
    };
    for (const auto& each : cases) {
        const auto value = parse_duration(each.text);
        ASSERT_TRUE(value) << each.text;
        EXPECT_EQ(*value, each.value) << each.text;
    }
}

TEST(Duration, refuses_everything_else) {
    for (const char* text : {
             "",
             "1",
             "h",
             ".",
             ".s",
             "-1h",
             "+1h",
             "1 h",
             "1h ",
             " 1h",
             "1x",
             "1.2.3s",
             "1d12h",
             "1.5d",
             "d",
             "-1d",
             "36526d",
             "876601h",
             "1H",
             "1min",
             "5/h",
             "1h30",
             "0x1s",
             "1e3s",
             "99999999999999999999s",
             "876600h1ms",
             "9999999999999999999ns",
             "1\xc2s",
             "99999999999999999999d",
         }) {
        EXPECT_FALSE(parse_duration(text)) << text;
    }
    EXPECT_FALSE(parse_duration(std::string("1s\0", 3)));
}

TEST(Duration, is_written_as_short_as_go_reads_it) {
    const struct {
        Millis value;
        std::string text;
    } cases[] = {
        {0ms, "0s"},        {1ms, "1ms"},           {300ms, "300ms"},   {1s, "1s"},
        {1500ms, "1.5s"},   {1050ms, "1.05s"},      {1001ms, "1.001s"}, {60s, "1m"},
        {90min, "1h30m"},   {1h + 1ms, "1h0.001s"}, {1h + 1s, "1h1s"},  {168h, "168h"},
        {-90min, "-1h30m"}, {-5ms, "-5ms"},
    };
    for (const auto& each : cases) {
        EXPECT_EQ(format_duration(each.value), each.text);
        if (each.value >= 0ms) {
            EXPECT_EQ(parse_duration(each.text), each.value);
        }
    }
}

}  // namespace
}  // namespace keel
