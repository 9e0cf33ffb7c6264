#include "core/rate_limit.h"

#include <gtest/gtest.h>

namespace keel {
namespace {

TEST(RateLimit, is_read_as_registries_write_it) {
    EXPECT_EQ(parse_rate_limit("100;w=21600"), (RateLimit{100, 21600}));
    EXPECT_EQ(parse_rate_limit("76"), (RateLimit{76, 0}));
    EXPECT_EQ(parse_rate_limit("0;w=21600"), (RateLimit{0, 21600}));
    EXPECT_EQ(parse_rate_limit(" 5 ; w=60 ; comment=\"x\""), (RateLimit{5, 60}));
    EXPECT_EQ(parse_rate_limit("10, 10;w=1, 50;w=60"), (RateLimit{10, 0}));
    EXPECT_EQ(parse_rate_limit("10;w=1, 50;w=60"), (RateLimit{10, 1}));
}

TEST(RateLimit, odd_text_is_none_or_has_no_window) {
    for (const char* text : {"", " ", ";w=1", "x", "-1", "+1", "1x", "1 2", ",5", "0x10", "1.5"}) {
        EXPECT_EQ(parse_rate_limit(text), std::nullopt) << text;
    }
    for (const char* text : {"7;w=", "7;w=x", "7;w=-1", "7;", "7;;", "7;W=5"}) {
        EXPECT_EQ(parse_rate_limit(text), (RateLimit{7, 0})) << text;
    }
}

TEST(RateLimit, large_numbers_are_bounded) {
    EXPECT_EQ(parse_rate_limit("99999999999999999999999999;w=99999999999999999999")->count,
              kMaxRateCount);
    EXPECT_EQ(parse_rate_limit("1;w=99999999999999999999")->window, 31'536'000U);
}

TEST(RetryAfter, is_read_in_seconds) {
    EXPECT_EQ(parse_retry_seconds("120"), 120U);
    EXPECT_EQ(parse_retry_seconds(" 0\t"), 0U);
    EXPECT_EQ(parse_retry_seconds("99999999999"), 31'536'000U);
    for (const char* text : {"", "-5", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT", "880us"}) {
        EXPECT_EQ(parse_retry_seconds(text), std::nullopt) << text;
    }
}

}  // namespace
}  // namespace keel
