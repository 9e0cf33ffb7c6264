#include "core/signature.h"

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <sys/stat.h>

namespace keel {
namespace {

using namespace std::chrono_literals;

// The example of the Standard Webhooks documentation.
const std::string kSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const std::string kId = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const std::string kTimestamp = "1614265330";
const std::string kBody = R"({"test": 2432232314})";
const std::string kSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const Time kSignedAt{1614265330s};

const std::string kOtherSecret = "whsec_" + std::string(32, 'B');  // 24 bytes

Secrets secrets(const std::string& text) {
    auto parsed = Secrets::parse(text);
    if (!parsed) {
        throw std::runtime_error(parsed.error().text);
    }
    return *std::move(parsed);
}

std::string base64(const std::string& bytes) {
    std::string text(bytes.size() * 2 + 8, '\0');
    text.resize(static_cast<std::size_t>(EVP_EncodeBlock(
        reinterpret_cast<unsigned char*>(text.data()),
        reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()))));
    return text;
}

std::string sha256(const std::string& text) {
    std::string digest(32, '\0');
    unsigned int size = 0;
    EVP_Digest(text.data(), text.size(), reinterpret_cast<unsigned char*>(digest.data()), &size,
               EVP_sha256(), nullptr);
    return digest;
}

// RFC 2104 in four lines, so that a misuse of OpenSSL's HMAC would show.
std::string hmac_by_definition(std::string key, const std::string& text) {
    key.resize(64, '\0');
    std::string inner = key;
    std::string outer = key;
    for (std::size_t i = 0; i < key.size(); ++i) {
        inner[i] = static_cast<char>(inner[i] ^ 0x36);
        outer[i] = static_cast<char>(outer[i] ^ 0x5c);
    }
    return sha256(outer + sha256(inner + text));
}

std::string code_of(const Expected<void>& result) {
    return result ? "fine" : result.error().code;
}

TEST(Signature, equals_the_published_example) {
    const Secrets known = secrets(kSecret + "\n");
    EXPECT_EQ(known.sign(kId, kTimestamp, kBody), kSignature);
    EXPECT_EQ(code_of(known.verify(kId, kTimestamp, kBody, kSignature, kSignedAt)), "fine");
}

TEST(Signature, is_the_hmac_of_id_timestamp_and_body) {
    for (const std::size_t size : {24U, 32U, 63U, 64U}) {
        std::string key;
        for (std::size_t i = 0; i < size; ++i) {
            key += static_cast<char>(251 * i + size);
        }
        for (const std::string& body :
             {std::string(), kBody, std::string("\0\xff\n", 3), std::string(65536, 'x')}) {
            EXPECT_EQ(secrets("whsec_" + base64(key)).sign("id", "17", body),
                      "v1," + base64(hmac_by_definition(key, "id.17." + body)));
        }
    }
}

TEST(Signature, first_secret_signs_and_all_verify) {
    const Secrets both = secrets(kOtherSecret + "\n\n" + kSecret + " \t\r\n");
    const Secrets old = secrets(kSecret);
    const Secrets fresh = secrets(kOtherSecret);
    EXPECT_EQ(both.sign("a", "1", "b"), fresh.sign("a", "1", "b"));
    EXPECT_NE(both.sign("a", "1", "b"), old.sign("a", "1", "b"));
    for (const Secrets& sender : {both, old, fresh}) {
        EXPECT_EQ(code_of(both.verify("a", "1", "b", sender.sign("a", "1", "b"), Time{1s})),
                  "fine");
    }
    EXPECT_EQ(code_of(old.verify("a", "1", "b", fresh.sign("a", "1", "b"), Time{1s})),
              "bad-signature");
    // While the sender rotates it sends both.
    EXPECT_EQ(
        code_of(old.verify("a", "1", "b", fresh.sign("a", "1", "b") + " " + old.sign("a", "1", "b"),
                           Time{1s})),
        "fine");
}

TEST(Signature, every_changed_part_is_refused) {
    const Secrets known = secrets(kSecret);
    const struct {
        std::string id, timestamp, body, signatures, code;
    } cases[] = {
        {kId, kTimestamp, kBody, kSignature, "fine"},
        {kId, kTimestamp, kBody, "v1a,x " + kSignature, "fine"},
        {kId, kTimestamp, kBody, "  " + kSignature + "  v2,y", "fine"},
        {kId + "x", kTimestamp, kBody, kSignature, "bad-signature"},
        {kId, "1614265331", kBody, kSignature, "bad-signature"},
        {kId, "01614265330", kBody, kSignature, "bad-signature"},
        {kId, kTimestamp, kBody + " ", kSignature, "bad-signature"},
        {kId, kTimestamp, "", kSignature, "bad-signature"},
        {kId, kTimestamp, kBody, kSignature.substr(3), "bad-signature"},
        {kId, kTimestamp, kBody, "v2," + kSignature.substr(3), "bad-signature"},
        {kId, kTimestamp, kBody, kSignature.substr(0, kSignature.size() - 1), "bad-signature"},
        {kId, kTimestamp, kBody, kSignature + "=", "bad-signature"},
        {kId, kTimestamp, kBody, "v1,", "bad-signature"},
        {kId, kTimestamp, kBody, " ", "bad-signature"},
        {kId, kTimestamp, kBody, "\xff" + std::string(46, '\0'), "bad-signature"},
        {kId, kTimestamp + " ", kBody, kSignature, "bad-signature"},
        {kId, "-1614265330", kBody, kSignature, "bad-signature"},
        {kId, "+1614265330", kBody, kSignature, "bad-signature"},
        {kId, "1.6e9", kBody, kSignature, "bad-signature"},
        {kId, "99999999999999999999", kBody, kSignature, "bad-signature"},
        {"", kTimestamp, kBody, kSignature, "unsigned"},
        {kId, "", kBody, kSignature, "unsigned"},
        {kId, kTimestamp, kBody, "", "unsigned"},
    };
    for (const auto& each : cases) {
        EXPECT_EQ(
            code_of(known.verify(each.id, each.timestamp, each.body, each.signatures, kSignedAt)),
            each.code)
            << each.id << ' ' << each.timestamp << ' ' << each.body << ' ' << each.signatures;
    }
}

// Each single bit of the signature counts.
TEST(Signature, no_character_of_it_is_ignored) {
    const Secrets known = secrets(kSecret);
    for (std::size_t i = 0; i < kSignature.size(); ++i) {
        std::string other = kSignature;
        other[i] = other[i] == 'A' ? 'B' : 'A';
        EXPECT_EQ(code_of(known.verify(kId, kTimestamp, kBody, other, kSignedAt)), "bad-signature")
            << i;
    }
}

TEST(Signature, window_is_five_minutes_each_way) {
    const Secrets known = secrets(kSecret);
    const auto at = [&](Millis distance) {
        return known.verify(kId, kTimestamp, kBody, kSignature, kSignedAt + distance);
    };
    EXPECT_EQ(code_of(at(5min)), "fine");
    EXPECT_EQ(code_of(at(-5min)), "fine");
    EXPECT_EQ(code_of(at(5min + 1ms)), "clock-skew");
    EXPECT_EQ(code_of(at(-5min - 1ms)), "clock-skew");
    EXPECT_NE(at(400s).error().text.find("400 s before"), std::string::npos);
    EXPECT_NE(at(-400s).error().text.find("400 s after"), std::string::npos);
}

// A stranger must not learn the clock: the signature is judged first.
TEST(Signature, clock_skew_is_told_to_nobody_without_a_secret) {
    EXPECT_EQ(
        code_of(secrets(kOtherSecret).verify(kId, kTimestamp, kBody, kSignature, kSignedAt + 1h)),
        "bad-signature");
}

TEST(Secrets, refuses_a_bad_line_and_names_it) {
    const std::string hidden = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const struct {
        std::string text, code, says;
    } cases[] = {
        {"", "no-secret", ""},
        {" \n\t\r\n", "no-secret", ""},
        {hidden, "bad-secret", "line 1 "},
        {kSecret + "\n\n" + hidden, "bad-secret", "line 3 "},
        {" " + kSecret, "bad-secret", "line 1 "},
        {"whsec_", "bad-secret", "base64"},
        {"whsec_" + hidden + "=", "bad-secret", "base64"},
        {"whsec_" + hidden.substr(1), "bad-secret", "base64"},
        {"whsec_ " + hidden.substr(1), "bad-secret", "base64"},
        {"whsec_====", "bad-secret", "base64"},
        {"whsec_-" + hidden.substr(1), "bad-secret", "base64"},
        {"whsec_" + hidden.substr(0, 30) + "=A", "bad-secret", "base64"},
        {"whsec_" + hidden.substr(0, 30) + "x=", "bad-secret", "base64"},  // stray bits
        {"whsec_" + hidden + " " + kSecret, "bad-secret", "base64"},
        {"whsec_" + base64(std::string(23, 'x')), "bad-secret", "23 bytes"},
        {"whsec_" + base64(std::string(65, 'x')), "bad-secret", "65 bytes"},
        {std::string("whsec_\0", 7) + hidden, "bad-secret", "base64"},
    };
    for (const auto& each : cases) {
        const auto parsed = Secrets::parse(each.text);
        ASSERT_FALSE(parsed) << each.text;
        EXPECT_EQ(parsed.error().code, each.code) << each.text;
        EXPECT_NE(parsed.error().text.find(each.says), std::string::npos) << parsed.error().text;
        EXPECT_EQ(parsed.error().text.find(hidden.substr(4, 8)), std::string::npos);
    }
    for (const std::size_t size : {24U, 25U, 26U, 64U}) {
        EXPECT_TRUE(Secrets::parse("whsec_" + base64(std::string(size, 'x')))) << size;
    }
}

class SecretFile : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = (std::filesystem::temp_directory_path() / "keel.XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
    }
    void TearDown() override { std::filesystem::remove_all(directory_); }

    std::string write(const std::string& text, mode_t mode) {
        const std::string path = directory_ / "secret";
        std::ofstream(path, std::ios::binary) << text;
        EXPECT_EQ(::chmod(path.c_str(), mode), 0);
        return path;
    }

    // The complaint, which must name the path.
    static std::string complaint(const std::string& path) {
        const auto text = read_secret_file(path);
        if (text) {
            return "";
        }
        EXPECT_EQ(text.error().code, "secret-file");
        EXPECT_NE(text.error().text.find(path), std::string::npos);
        return text.error().text;
    }

    std::filesystem::path directory_;
};

TEST_F(SecretFile, is_read_whole) {
    for (const std::string& text :
         {std::string(), std::string("a\0b\n", 4), std::string(64 * 1024, 'x')}) {
        for (const mode_t mode : {0600, 0640, 0400}) {
            const auto read = read_secret_file(write(text, mode));
            ASSERT_TRUE(read) << read.error().text;
            EXPECT_EQ(*read, text);
            std::filesystem::remove(directory_ / "secret");
        }
    }
}

TEST_F(SecretFile, E2_refused_where_others_may_read_it) {
    for (const mode_t mode : {0644, 0604, 0602, 0666}) {
        EXPECT_NE(complaint(write("x", mode)).find("chmod o-rw"), std::string::npos) << mode;
    }
}

TEST_F(SecretFile, E2_refused_where_it_is_no_regular_file) {
    EXPECT_NE(complaint((directory_ / "none").string()).find("No such file"), std::string::npos);
    EXPECT_NE(complaint(directory_.string()).find("regular"), std::string::npos);
    // Nobody will ever write into this one: opening it must not wait.
    const std::string fifo = directory_ / "fifo";
    ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
    EXPECT_NE(complaint(fifo).find("regular"), std::string::npos);
    EXPECT_NE(complaint(write(std::string(64 * 1024 + 1, 'x'), 0600)).find("64 kB"),
              std::string::npos);
}

// Kubernetes mounts a Secret as links to links.
TEST_F(SecretFile, is_followed_through_links) {
    write("x", 0640);
    std::filesystem::create_symlink("secret", directory_ / "link");
    const auto text = read_secret_file(directory_ / "link");
    ASSERT_TRUE(text) << text.error().text;
    EXPECT_EQ(*text, "x");
}

}  // namespace
}  // namespace keel
