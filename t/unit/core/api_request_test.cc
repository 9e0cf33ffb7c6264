#include "core/api_request.h"

#include <initializer_list>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "core/signature.h"

namespace keel {
namespace {

const std::string kDigest = "sha256:" + std::string(64, 'a');

TEST(ApiRequest, paths) {
    EXPECT_EQ(parse_api_path("status")->resource, ApiResource::status);
    EXPECT_EQ(parse_api_path("tags")->resource, ApiResource::tags);
    EXPECT_EQ(parse_api_path("metrics")->resource, ApiResource::metrics);
    EXPECT_EQ(parse_api_path("holds")->resource, ApiResource::holds);
    const auto hold = parse_api_path("holds/registry.example:5000/a/b:1.0");
    ASSERT_TRUE(hold);
    EXPECT_EQ(hold->resource, ApiResource::hold);
    EXPECT_EQ(hold->tag, (Tag{"registry.example:5000", "a/b", "1.0"}));
    EXPECT_EQ(parse_api_path("current/docker.io/library/redis:8")->resource, ApiResource::current);
    for (const char* none : {"", "/", "holds2", "Status", "status/", "hold/docker.io/a:b"}) {
        EXPECT_EQ(parse_api_path(none).error().code, "not-found") << none;
    }
    for (const char* bad :
         {"holds/", "holds/redis:8", "holds/docker.io/redis", "holds/docker.io/a:b:c",
          "current/docker.io/A:b", "holds/docker.io/a@sha256:0"}) {
        EXPECT_EQ(parse_api_path(bad).error().code, "bad-tag") << bad;
    }
}

TEST(ApiRequest, queries) {
    const auto query = parse_tags_query("x=1&since=17&epoch=e&limit=9000&since=18");
    ASSERT_TRUE(query);
    EXPECT_EQ(query->since, 17U);
    EXPECT_EQ(query->epoch, "e");
    EXPECT_EQ(query->limit, kLargestPage);
    EXPECT_FALSE(query->seen_since);
    EXPECT_EQ(parse_tags_query("")->limit, kDefaultPage);
    const auto seen = parse_tags_query("seen_since=2026-11-22T12%3A00%3a00%2B01:00");
    ASSERT_TRUE(seen);
    EXPECT_EQ(seen->seen_since, parse_time("2026-11-22T11:00:00Z"));
    for (const char* bad : {"since=", "since=-1", "since=x", "since=5", "limit=0", "limit=ten",
                            "since=18446744073709551616&epoch=e", "seen_since=%", "seen_since="}) {
        EXPECT_EQ(parse_tags_query(bad).error().code, "bad-query") << bad;
    }
}

TEST(ApiRequest, revisions) {
    EXPECT_EQ(parse_revision("7"), 7U);
    EXPECT_EQ(parse_revision("\"7\""), 7U);
    EXPECT_EQ(parse_revision("0"), 0U);
    for (const char* bad : {"", "*", "\"\"", "W/\"7\"", "07", "-1", "7,8", "\"7", "7\"", " 7"}) {
        EXPECT_FALSE(parse_revision(bad)) << bad;
    }
}

TEST(ApiRequest, writes_of_holds) {
    const auto least = parse_hold_write(R"({"digest":")" + kDigest + R"("})");
    ASSERT_TRUE(least) << least.error().text;
    EXPECT_EQ(least->digest.to_string(), kDigest);
    EXPECT_TRUE(least->owner.empty() && least->reason.empty() && !least->until && !least->verified);
    EXPECT_FALSE(least->force);
    EXPECT_EQ(least->kind, ManifestKind::unknown);
    const auto all = parse_hold_write(R"({"digest":")" + kDigest +
                                      R"(","reason":"it broke","until":"2026-11-25T12:00:00Z",
        "owner":"keeld","verified":"2026-11-22T12:00:00Z","force":true,"kind":"image","new":[]})");
    ASSERT_TRUE(all) << all.error().text;
    EXPECT_EQ(all->reason, "it broke");
    EXPECT_EQ(all->until, parse_time("2026-11-25T12:00:00Z"));
    EXPECT_EQ(all->owner, "keeld");
    EXPECT_EQ(all->verified, parse_time("2026-11-22T12:00:00Z"));
    EXPECT_TRUE(all->force);
    EXPECT_EQ(all->kind, ManifestKind::image);
    for (const char* more :
         {R"("digest":"x")", R"("reason":7)", R"("reason":"\u0007")", R"("owner":"a b")",
          R"("until":"soon")", R"("verified":true)", R"("force":"yes")", R"("kind":"legacy")",
          R"("digest":"sha256:0","digest":"x")"}) {
        const std::string body = std::string(more).find("digest") != std::string::npos
                                     ? "{" + std::string(more) + "}"
                                     : R"({"digest":")" + kDigest + "\"," + more + "}";
        EXPECT_EQ(parse_hold_write(body).error().code, "bad-body") << body;
    }
    EXPECT_EQ(parse_hold_write("").error().code, "bad-body");
    EXPECT_EQ(parse_hold_write("[]").error().code, "bad-body");
    EXPECT_EQ(parse_hold_write(std::string(kMaxApiBody + 1, ' ')).error().code, "too-large");
}

TEST(ApiRequest, writes_of_the_current_digest) {
    const auto write = parse_current_write(R"({"digest":")" + kDigest + R"(","source":"direct"})");
    ASSERT_TRUE(write);
    EXPECT_EQ(write->digest.to_string(), kDigest);
    EXPECT_EQ(write->source, "direct");
    EXPECT_EQ(parse_current_write(R"({"source":"x"})").error().code, "bad-body");
    EXPECT_EQ(
        parse_current_write(R"({"digest":")" + kDigest + R"(","source":"a\nb"})").error().code,
        "bad-body");
}

// Method and target of the request count in the signature, and so does every byte of the body.
TEST(ApiRequest, signed_text) {
    EXPECT_EQ(signed_request("DELETE", "/keel/holds/a/b:c?x=1", ""),
              "DELETE./keel/holds/a/b:c?x=1."
              "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(sha256_hex("abc"),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace keel
