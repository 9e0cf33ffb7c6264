#include "core/poll_schedule.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace keel {
namespace {

Time at(std::string_view text) {
    const auto time = parse_time(text);
    EXPECT_TRUE(time) << text;
    return time.value_or(Time{});
}

// Sofia in 2026: summer time from 29 March, 01:00 UTC, to 25 October, 01:00 UTC.
ZoneOffset sofia(Time moment) {
    const Time begin = at("2026-03-29T01:00:00Z");
    const Time end = at("2026-10-25T01:00:00Z");
    if (moment < begin) return {std::chrono::hours{2}, begin};
    if (moment < end) return {std::chrono::hours{3}, end};
    return {std::chrono::hours{2}, Time::max()};
}

// The first `count` moments after `after`.
std::vector<std::string> ticks(std::string_view schedule, std::string_view after, int count,
                               const Zone& zone = utc) {
    const auto parsed = PollSchedule::parse(schedule);
    if (!parsed) return {parsed.error().text};
    std::vector<std::string> all;
    Time now = at(after);
    for (int i = 0; i < count; ++i) {
        now = parsed->next(now, zone);
        all.push_back(format_time(now));
    }
    return all;
}

using Ticks = std::vector<std::string>;

TEST(PollSchedule, seconds_come_first) {
    EXPECT_EQ(ticks("*/5 * * * *", "2026-11-22T12:00:01.5Z", 2),
              (Ticks{"2026-11-22T12:00:05.000Z", "2026-11-22T12:00:10.000Z"}));
    EXPECT_EQ(ticks("0 */5 * * *", "2026-11-22T12:00:00Z", 2),
              (Ticks{"2026-11-22T12:05:00.000Z", "2026-11-22T12:10:00.000Z"}));
    EXPECT_EQ(ticks("0 */5 * * * *", "2026-11-22T12:00:00Z", 1),
              (Ticks{"2026-11-22T12:05:00.000Z"}));
    EXPECT_EQ(ticks("30 59 23 31 12 *", "2026-12-31T23:59:30Z", 1),
              (Ticks{"2027-12-31T23:59:30.000Z"}));
}

TEST(PollSchedule, every_takes_a_duration) {
    EXPECT_EQ(ticks("@every 1h30m", "2026-11-22T12:00:00.250Z", 2),
              (Ticks{"2026-11-22T13:30:00.250Z", "2026-11-22T15:00:00.250Z"}));
    EXPECT_EQ(ticks("@every 300ms", "2026-11-22T12:00:00Z", 1), (Ticks{"2026-11-22T12:00:01.000Z"}))
        << "a second is the least";
    EXPECT_EQ(ticks("@every 2500ms", "2026-11-22T12:00:00Z", 1),
              (Ticks{"2026-11-22T12:00:02.000Z"}));
}

TEST(PollSchedule, descriptors) {
    const std::vector<std::pair<std::string, std::string>> cases{
        {"@yearly", "2027-01-01T00:00:00.000Z"},  {"@annually", "2027-01-01T00:00:00.000Z"},
        {"@monthly", "2026-12-01T00:00:00.000Z"}, {"@weekly", "2026-11-29T00:00:00.000Z"},
        {"@daily", "2026-11-23T00:00:00.000Z"},   {"@midnight", "2026-11-23T00:00:00.000Z"},
        {"@hourly", "2026-11-22T13:00:00.000Z"},
    };
    for (const auto& [schedule, next] : cases) {
        EXPECT_EQ(ticks(schedule, "2026-11-22T12:00:00Z", 1), (Ticks{next})) << schedule;
    }
}

TEST(PollSchedule, lists_ranges_steps_and_names) {
    EXPECT_EQ(ticks("0 0 9-17/4,23 * * MON-Fri", "2026-11-20T17:00:00Z", 4),
              (Ticks{"2026-11-20T23:00:00.000Z", "2026-11-23T09:00:00.000Z",
                     "2026-11-23T13:00:00.000Z", "2026-11-23T17:00:00.000Z"}));
    EXPECT_EQ(ticks("5/20 0 0 1 jan ?", "2026-11-22T00:00:00Z", 4),
              (Ticks{"2027-01-01T00:00:05.000Z", "2027-01-01T00:00:25.000Z",
                     "2027-01-01T00:00:45.000Z", "2028-01-01T00:00:05.000Z"}));
    EXPECT_EQ(ticks("0 30 8 29 2 *", "2026-11-22T00:00:00Z", 2),
              (Ticks{"2028-02-29T08:30:00.000Z", "2032-02-29T08:30:00.000Z"}));
}

TEST(PollSchedule, a_day_and_a_weekday_are_alternatives) {
    EXPECT_EQ(ticks("0 0 0 13 * 5", "2026-11-01T00:00:00Z", 3),
              (Ticks{"2026-11-06T00:00:00.000Z", "2026-11-13T00:00:00.000Z",
                     "2026-11-20T00:00:00.000Z"}));
    EXPECT_EQ(ticks("0 0 0 13 * *", "2026-11-01T00:00:00Z", 1),
              (Ticks{"2026-11-13T00:00:00.000Z"}));
    EXPECT_EQ(ticks("0 0 0 * * 5", "2026-11-01T00:00:00Z", 1), (Ticks{"2026-11-06T00:00:00.000Z"}));
}

TEST(PollSchedule, r6_summer_time_skips_and_repeats) {
    EXPECT_EQ(ticks("0 30 3 * * *", "2026-03-27T12:00:00Z", 2, sofia),
              (Ticks{"2026-03-28T01:30:00.000Z", "2026-03-30T00:30:00.000Z"}))
        << "half past three does not come on the 29th";
    EXPECT_EQ(
        ticks("0 30 3 * * *", "2026-10-24T12:00:00Z", 3, sofia),
        (Ticks{"2026-10-25T00:30:00.000Z", "2026-10-25T01:30:00.000Z", "2026-10-26T01:30:00.000Z"}))
        << "and comes twice on the 25th";
    EXPECT_EQ(
        ticks("0 */30 * * * *", "2026-10-25T00:15:00Z", 3, sofia),
        (Ticks{"2026-10-25T00:30:00.000Z", "2026-10-25T01:00:00.000Z", "2026-10-25T01:30:00.000Z"}))
        << "nothing is starved by an hour that repeats";
    EXPECT_EQ(ticks("0 0 4 29 3 *", "2026-03-01T00:00:00Z", 1, sofia),
              (Ticks{"2026-03-29T01:00:00.000Z"}))
        << "the very moment of the change";
}

TEST(PollSchedule, always_moves_on) {
    for (const std::string_view text : {"* * * * * *", "59 59 23 * * *", "@every 1s", "@hourly",
                                        "0 0 0 31 * *", "1-3 7,9 */5 1 * 1"}) {
        const auto schedule = PollSchedule::parse(text);
        ASSERT_TRUE(schedule) << text;
        Time now = at("2026-03-28T23:59:58.999Z");
        for (int i = 0; i < 2'000; ++i) {
            const Time next = schedule->next(now, sofia);
            ASSERT_GT(next, now) << text;
            now = next;
        }
    }
}

TEST(PollSchedule, p6_what_is_none_is_refused_and_named) {
    const std::vector<std::pair<std::string, std::string>> cases{
        {"", "expected @every"},
        {" ", "expected @every"},
        {"5m", "expected @every"},
        {"@reboot", "expected @every"},
        {"@every", "expected @every"},
        {"@every ", "takes a duration"},
        {"@every 0s", "takes a duration"},
        {"@every -5m", "takes a duration"},
        {"* * * *", "six fields"},
        {"* * * * * * *", "six fields"},
        {"60 * * * * *", "second \"60\""},
        {"* 60 * * * *", "minute \"60\""},
        {"* * 24 * * *", "hour \"24\""},
        {"* * * 0 * *", "day \"0\""},
        {"* * * * 13 *", "month \"13\""},
        {"* * * * * 7", "weekday \"7\""},
        {"* * * * foo *", "month \"foo\""},
        {"5-1 * * * * *", "the lower first"},
        {"*/0 * * * * *", "step"},
        {"1/2/3 * * * * *", "second \"1/2/3\""},
        {"1-2-3 * * * * *", "second \"1-2-3\""},
        {", * * * * *", "second \"\""},
        {"-1 * * * * *", "second \"-1\""},
        {"99999999999999999999 * * * * *", "neither a number"},
        {"0 0 0 30 2 *", "ever comes"},
        {"0 0 0 31 4,6,9,11 *", "ever comes"},
        {"TZ=UTC * * * * * *", "six fields"},
    };
    for (const auto& [text, part] : cases) {
        const auto schedule = PollSchedule::parse(text);
        ASSERT_FALSE(schedule) << text;
        EXPECT_EQ(schedule.error().code, "schedule-invalid");
        EXPECT_NE(schedule.error().text.find(part), std::string::npos)
            << text << ": " << schedule.error().text;
    }
}

}  // namespace
}  // namespace keel
