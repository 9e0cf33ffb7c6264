// Text for people: nothing that comes from outside may steer a terminal, and columns line up.
#include "keelctl/text.h"

#include <gtest/gtest.h>

namespace keel::ctl {
namespace {

Time at(const char* text) {
    return *parse_time(text);
}

TEST(Printable, ControlCharactersAreTaken) {
    EXPECT_EQ(printable("plain text, ünïcödé → ok"), "plain text, ünïcödé → ok");
    EXPECT_EQ(printable("a\x1b[31mred\x1b[0m"), "a?[31mred?[0m");
    EXPECT_EQ(printable("two\nlines\tand\rmore"), "two lines and more");
    EXPECT_EQ(printable("bell\a\x7f"), "bell??");
    EXPECT_EQ(printable("c1: \xc2\x9b\x31m"), "c1: ?1m");
    EXPECT_EQ(printable("kept: \xc2\xa0"), "kept: \xc2\xa0");
}

TEST(Age, IsInTheLargestUnitThatFits) {
    const Time now = at("2026-11-22T12:00:00Z");
    EXPECT_EQ(age(now, now), "0s");
    EXPECT_EQ(age(at("2026-11-22T11:59:01Z"), now), "59s");
    EXPECT_EQ(age(at("2026-11-22T11:57:00Z"), now), "3m");
    EXPECT_EQ(age(at("2026-11-22T07:00:00Z"), now), "5h");
    EXPECT_EQ(age(at("2026-11-20T13:00:00Z"), now), "47h");
    EXPECT_EQ(age(at("2026-11-10T12:00:00Z"), now), "12d");
    EXPECT_EQ(age(at("2026-11-22T12:03:00Z"), now), "in 3m");
}

TEST(When, IsUtcWithItsAge) {
    const Time now = at("2026-11-22T12:00:00Z");
    EXPECT_EQ(when(at("2026-11-22T11:56:59.877Z"), now), "2026-11-22 11:56:59Z (3m ago)");
    EXPECT_EQ(when(at("2026-11-22T12:10:00Z"), now), "2026-11-22 12:10:00Z (in 10m)");
    EXPECT_EQ(when(Time{}, now), "never");
}

TEST(ShortDigest, KeepsTwelveDigits) {
    EXPECT_EQ(short_digest("sha256:" + std::string(64, 'a')), "sha256:aaaaaaaaaaaa");
    EXPECT_EQ(short_digest("sha256:abc"), "sha256:abc");
    EXPECT_EQ(short_digest("docker.io/library/redis:8"), "docker.io/library/redis:8");
    EXPECT_EQ(short_digest(""), "");
}

TEST(TableTest, ColumnsLineUp) {
    Table table({"NAME", "N", "TEXT"});
    EXPECT_TRUE(table.empty());
    table.add({"a", "100", "x"});
    table.add({"ünïcödé", "", "evil\x1b[2J"});
    EXPECT_EQ(table.print(Painter(false)),
              "NAME     N    TEXT\n"
              "a        100  x\n"
              "ünïcödé  -    evil?[2J\n");
    EXPECT_EQ(table.print(Painter(false), "  ", false),
              "  a        100  x\n"
              "  ünïcödé  -    evil?[2J\n");
}

TEST(TableTest, ColourDoesNotMoveColumns) {
    Table table({"A", "B"});
    table.add({Cell("blocked", Colour::red), "x"});
    EXPECT_EQ(table.print(Painter(true), "", false), "\x1b[31mblocked\x1b[0m  x\n");
    EXPECT_EQ(table.print(Painter(false), "", false), "blocked  x\n");
}

TEST(ColourOf, WordsHaveOne) {
    EXPECT_EQ(colour_of("current"), Colour::green);
    EXPECT_EQ(colour_of("blocked"), Colour::red);
    EXPECT_EQ(colour_of("waiting"), Colour::yellow);
    EXPECT_EQ(colour_of("something"), Colour::none);
}

}  // namespace
}  // namespace keel::ctl
