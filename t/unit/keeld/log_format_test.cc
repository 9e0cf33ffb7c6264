// Each event is one line, and with JSON one object, whatever its text holds.
#include "keeld/log_format.h"

#include <gtest/gtest.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/ostream_sink.h>

#include <sstream>

namespace keel {
namespace {

std::string logged(bool json, const std::string& text) {
    std::ostringstream out;
    spdlog::logger logger("test", std::make_shared<spdlog::sinks::ostream_sink_st>(out));
    logger.set_formatter(log_format(json));
    logger.warn("{}", text);
    return out.str();
}

TEST(LogFormat, WhatATextHoldsNeverEndsItsString) {
    for (const std::string& text :
         {std::string("plain"), std::string(R"(cause="event cache-a" \ and {"a": 1})"),
          std::string("two\nlines\tand \x01"), std::string("sha → ü"), std::string()}) {
        const std::string line = logged(true, text);
        ASSERT_TRUE(line.ends_with("\n"));
        EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line";
        const Json object = parse_json(line);
        ASSERT_NE(object, nullptr) << line;
        EXPECT_EQ(text_of(object.get(), "text"), text);
        EXPECT_EQ(text_of(object.get(), "level"), "warning");
        EXPECT_TRUE(text_of(object.get(), "time").ends_with("Z"));
    }
    EXPECT_NE(parse_json(logged(true, "no UTF-8: \xff")), nullptr);
}

TEST(LogFormat, TextIsTextForPeople) {
    EXPECT_TRUE(logged(false, "a \"b\"").ends_with("Z warning a \"b\"\n"));
}

}  // namespace
}  // namespace keel
