#include "core/digest.h"

#include <string>
#include <type_traits>
#include <unordered_set>

#include <gtest/gtest.h>

namespace keel {
namespace {

const std::string kHex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

TEST(Digest, reads_and_writes_both_algorithms) {
    for (const std::string& text : {"sha256:" + kHex64, "sha512:" + kHex64 + kHex64}) {
        const auto digest = Digest::parse(text);
        ASSERT_TRUE(digest) << text;
        EXPECT_FALSE(digest->empty());
        EXPECT_EQ(digest->to_string(), text);
        EXPECT_EQ(digest->bytes().size(), (text.size() - 7) / 2);
        EXPECT_EQ(digest->bytes()[0], 0x01);
        EXPECT_EQ(digest->bytes()[7], 0xef);
        EXPECT_EQ(digest->bytes().back(), 0xef);

        char buffer[Digest::kMaxText];
        EXPECT_EQ(std::string(buffer, digest->write(buffer)), text);
    }
}

TEST(Digest, every_byte_survives) {
    for (unsigned value = 0; value < 256; ++value) {
        char pair[3];
        std::snprintf(pair, sizeof(pair), "%02x", value);
        const std::string text = "sha256:" + kHex64.substr(0, 62) + pair;
        const auto digest = Digest::parse(text);
        ASSERT_TRUE(digest) << text;
        EXPECT_EQ(digest->bytes().back(), value);
        EXPECT_EQ(digest->to_string(), text);
    }
}

TEST(Digest, refuses_what_is_not_exactly_a_digest) {
    const std::string bad[] = {
        "",
        "sha256:",
        kHex64,
        "sha256:" + kHex64.substr(1),
        "sha256:" + kHex64 + "0",
        "sha256:" + kHex64 + kHex64,
        "sha512:" + kHex64,
        "sha384:" + kHex64,
        "SHA256:" + kHex64,
        "sha256-" + kHex64,
        " sha256:" + kHex64,
        "sha256:" + kHex64.substr(0, 63) + "A",
        "sha256:" + kHex64.substr(0, 63) + "g",
        "sha256:" + kHex64.substr(0, 63) + " ",
        "sha256:" + kHex64.substr(0, 63) + std::string(1, '\0'),
        "sha256:" + kHex64.substr(0, 63) + "\xff",
    };
    for (const std::string& text : bad) {
        EXPECT_FALSE(Digest::parse(text)) << text;
    }
}

// Every byte at every place: only the sixteen lower-case digits pass.
TEST(Digest, refuses_every_other_byte_anywhere) {
    for (std::size_t place = 7; place < 7 + 64; ++place) {
        for (int byte = 0; byte < 256; ++byte) {
            std::string text = "sha256:" + kHex64;
            text[place] = static_cast<char>(byte);
            const bool hex = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f');
            ASSERT_EQ(Digest::parse(text).has_value(), hex) << place << ' ' << byte;
        }
    }
}

TEST(Digest, empty_equals_only_empty) {
    const Digest empty;
    const Digest zero = *Digest::parse("sha256:" + std::string(64, '0'));
    EXPECT_TRUE(empty.empty());
    EXPECT_EQ(empty.to_string(), "");
    EXPECT_EQ(empty.bytes().size(), 0U);
    EXPECT_EQ(empty, Digest());
    EXPECT_NE(empty, zero);
}

TEST(Digest, algorithms_differ_even_with_equal_bytes) {
    const Digest one = *Digest::parse("sha256:" + std::string(64, '0'));
    const Digest other = *Digest::parse("sha512:" + std::string(128, '0'));
    EXPECT_NE(one, other);
    EXPECT_LT(one, other);
}

TEST(Digest, is_a_key) {
    std::unordered_set<Digest> set;
    set.insert(*Digest::parse("sha256:" + kHex64));
    set.insert(*Digest::parse("sha256:" + kHex64));
    set.insert(*Digest::parse("sha256:" + std::string(64, '0')));
    set.insert(Digest());
    EXPECT_EQ(set.size(), 3U);
}

TEST(Digest, comes_back_from_its_bytes) {
    for (const std::string& text : {"sha256:" + kHex64, "sha512:" + kHex64 + kHex64}) {
        const Digest digest = *Digest::parse(text);
        const auto bytes = digest.bytes();
        EXPECT_EQ(Digest::from_bytes(digest.algorithm(), bytes), digest);
        EXPECT_TRUE(Digest::from_bytes(digest.algorithm(), bytes.subspan(1)).empty());
        EXPECT_TRUE(Digest::from_bytes(Digest::Algorithm::none, bytes).empty());
    }
    const Digest one = *Digest::parse("sha256:" + kHex64);
    EXPECT_TRUE(Digest::from_bytes(Digest::Algorithm::sha512, one.bytes()).empty());
    EXPECT_EQ(Digest::from_bytes(Digest::Algorithm::none, {}), Digest());
}

TEST(Digest, may_lie_in_shared_memory) {
    EXPECT_TRUE(std::is_trivially_copyable_v<Digest>);
    EXPECT_TRUE(std::is_standard_layout_v<Digest>);
}

}  // namespace
}  // namespace keel
