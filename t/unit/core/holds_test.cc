#include "core/holds.h"

#include <initializer_list>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "core/signature.h"

namespace keel {
namespace {

Digest digest(char digit) {
    return *Digest::parse("sha256:" + std::string(64, digit));
}

Time time_of(const char* text) {
    return *parse_time(text);
}

Hold sample(const std::string& name = "8-alpine") {
    Hold hold;
    hold.tag = {"docker.io", "library/redis", name};
    hold.digest = digest('a');
    hold.author = "keeld";
    hold.owner = "keeld";
    hold.reason = "8.2 loses data: \"see\" issue 12, naïve";
    hold.since = time_of("2026-11-22T12:00:00.123Z");
    hold.until = time_of("2026-11-25T12:00:00.000Z");
    return hold;
}

HoldSet sample_set() {
    HoldSet set;
    set.revision = 7;
    EXPECT_TRUE(set.put(sample("b")));
    Hold other = sample("a");
    other.until.reset();
    other.verified = time_of("2026-11-22T13:00:00.000Z");
    other.reason.clear();
    EXPECT_TRUE(set.put(other));
    return set;
}

// The file with another body and the checksum that belongs to it.
std::string with_body(const std::string& file, const std::string& from, const std::string& to) {
    std::string body = file.substr(file.find('\n') + 1);
    const std::size_t at = body.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    body.replace(at, from.size(), to);
    const std::string line = file.substr(0, file.find('\n') - 64);
    return line + sha256_hex(body) + "\n" + body;
}

TEST(Holds, what_is_written_is_read) {
    for (const HoldSet& set : {HoldSet{}, HoldSet{3, {}}, sample_set()}) {
        const auto read = decode_holds(encode_holds(set));
        ASSERT_TRUE(read) << read.error().text;
        EXPECT_EQ(*read, set);
    }
}

TEST(Holds, the_file_looks_as_documented) {
    const std::string file = encode_holds(HoldSet{7, {sample()}});
    EXPECT_EQ(file.substr(0, 19), "ngx-keel-holds 1 7 ");
    EXPECT_EQ(file.find('\n'), 19U + 64U);
    EXPECT_EQ(
        file.substr(84),
        R"({"revision":"7","holds":[{"tag":"docker.io/library/redis:8-alpine","digest":"sha256:)" +
            std::string(64, 'a') +
            R"(","author":"keeld","owner":"keeld","reason":"8.2 loses data: \"see\" issue 12, naïve",)"
            R"("since":"2026-11-22T12:00:00.123Z","until":"2026-11-25T12:00:00.000Z","verified":null}]})");
}

TEST(Holds, no_part_of_a_torn_file_is_believed) {
    const std::string file = encode_holds(sample_set());
    for (std::size_t size = 0; size < file.size(); ++size) {
        EXPECT_FALSE(decode_holds(file.substr(0, size))) << size;
    }
    EXPECT_FALSE(decode_holds(file + "\n"));
    EXPECT_FALSE(decode_holds(file + file));
}

TEST(Holds, no_byte_of_the_file_can_be_altered) {
    const std::string file = encode_holds(sample_set());
    for (std::size_t i = 0; i < file.size(); ++i) {
        std::string altered = file;
        altered[i] = static_cast<char>(altered[i] ^ 1);
        EXPECT_FALSE(decode_holds(altered)) << i;
    }
}

TEST(Holds, another_version_is_refused) {
    std::string file = encode_holds(sample_set());
    file.replace(file.find(" 1 "), 3, " 2 ");
    const auto read = decode_holds(file);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, "bad-holds");
}

TEST(Holds, a_good_checksum_over_bad_content_is_refused) {
    const std::string file = encode_holds(sample_set());
    for (const auto& [from, to] : std::initializer_list<std::pair<const char*, const char*>>{
             {"\"7\"", "\"8\""},
             {"redis:a", "redis:c"},
             {"redis:a", "redis:b"},
             {"sha256:aa", "sha256:AA"},
             {"\"author\":\"keeld\"", "\"author\":\"two words\""},
             {"\"owner\":\"keeld\"", "\"owner\":\"\""},
             {"\"reason\":\"\"", "\"reason\":\"\\n\""},
             {"\"since\":\"2026", "\"since\":\"x026"},
             {"\"holds\":[", "\"holds\":7,\"x\":["},
             {"\"until\":null", "\"until\":7"},
             {"\"until\":null", "\"tag\":\"docker.io/library/redis:a\""}}) {
        const auto read = decode_holds(with_body(file, from, to));
        ASSERT_FALSE(read) << from << " -> " << to;
        EXPECT_EQ(read.error().code, "bad-holds");
    }
    EXPECT_TRUE(decode_holds(with_body(file, "\"reason\":\"\"", "\"reason\":\"\",\"new\":1")));
}

TEST(Holds, apply_until_their_end_and_not_then) {
    Hold hold = sample();
    EXPECT_TRUE(hold.applies(*hold.until - Millis{1}));
    EXPECT_FALSE(hold.applies(*hold.until));
    EXPECT_FALSE(hold.applies(*hold.until + Millis{1}));
    hold.until.reset();
    EXPECT_TRUE(hold.applies(time_of("9999-12-31T23:59:59Z")));
}

TEST(Holds, are_found_by_all_three_parts_of_the_tag) {
    HoldSet set = sample_set();
    EXPECT_EQ(set.find({"docker.io", "library/redis", "b"}), &set.holds[1]);
    EXPECT_EQ(set.find({"docker.io", "library/redis", "c"}), nullptr);
    EXPECT_EQ(set.find({"docker.io", "redis", "b"}), nullptr);
    EXPECT_EQ(set.find({"ghcr.io", "library/redis", "b"}), nullptr);
    EXPECT_EQ(set.find({"docker.io", "library/redis", "B"}), nullptr);
}

TEST(Holds, are_bounded_and_replaced_in_place) {
    HoldSet set;
    for (std::size_t i = 0; i < kMaxHolds; ++i) {
        ASSERT_TRUE(set.put(sample("t" + std::to_string(i))));
    }
    EXPECT_FALSE(set.put(sample("one-more")));
    Hold again = sample("t17");
    again.digest = digest('b');
    EXPECT_TRUE(set.put(again));
    EXPECT_EQ(set.find(again.tag)->digest, digest('b'));
    EXPECT_EQ(set.holds.size(), kMaxHolds);
    const std::string file = encode_holds(set);
    EXPECT_LT(file.size(), kMaxHoldsText);
    EXPECT_EQ(*decode_holds(file), set);
    EXPECT_TRUE(set.remove(again.tag));
    EXPECT_FALSE(set.remove(again.tag));
    EXPECT_TRUE(set.put(sample("one-more")));
}

TEST(Holds, the_largest_set_fits_its_file) {
    HoldSet set;
    for (std::size_t i = 0; i < kMaxHolds; ++i) {
        Hold hold = sample(std::string(120, 't') + std::to_string(i));
        hold.tag.registry = std::string(60, 'r') + ".example:5000";
        hold.tag.repository = std::string(255, 'p');
        hold.digest = *Digest::parse("sha512:" + std::string(128, 'c'));
        hold.author = hold.owner = std::string(kMaxHoldAuthor, '"');
        hold.reason = std::string(kMaxHoldReason, '\\');
        ASSERT_TRUE(set.put(hold));
    }
    const auto read = decode_holds(encode_holds(set));
    ASSERT_TRUE(read) << read.error().text;
    EXPECT_EQ(*read, set);
}

TEST(Holds, authors_and_reasons) {
    EXPECT_TRUE(is_hold_author("keeld"));
    EXPECT_TRUE(is_hold_author(std::string(64, 'a')));
    for (const std::string& bad : {std::string(), std::string(65, 'a'), std::string("a b"),
                                   std::string("a\n"), std::string("\xc3\xa4")}) {
        EXPECT_FALSE(is_hold_author(bad)) << bad;
    }
    EXPECT_TRUE(is_hold_reason(""));
    EXPECT_TRUE(is_hold_reason("naïve"));
    EXPECT_FALSE(is_hold_reason(std::string(1025, 'a')));
    EXPECT_FALSE(is_hold_reason("a\tb"));
    EXPECT_FALSE(is_hold_reason("\xff"));
}

TEST(Holds, one_alone_as_text) {
    const auto read = decode_hold_text(encode_hold_text(sample()));
    ASSERT_TRUE(read) << read.error().text;
    EXPECT_EQ(*read, sample());
    EXPECT_EQ(decode_hold_text("{").error().code, "bad-holds");
    EXPECT_EQ(decode_hold_text("[]").error().code, "bad-holds");
}

}  // namespace
}  // namespace keel
