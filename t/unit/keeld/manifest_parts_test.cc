// What a manifest says that it is made of.
#include "keeld/registry/manifest_parts.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::digest;

std::string part(char hex, const std::string& more = "") {
    return R"({"digest":")" + digest(hex).to_string() + '"' + more + "}";
}

TEST(ManifestParts, an_index_is_made_of_its_platforms) {
    const auto parts = parts_of_manifest(
        ManifestKind::index,
        R"({"manifests":[)" + part('1', R"(,"size":7)") + "," +
            part('2', R"(,"platform":{"os":"unknown","architecture":"unknown"})") + "," +
            part('3', R"(,"platform":{"os":"linux","architecture":"arm64"})") + "]}");
    ASSERT_TRUE(parts) << parts.error().text;
    EXPECT_TRUE(parts->blobs.empty());
    ASSERT_EQ(parts->manifests.size(), 2U) << "an attestation is not pulled";
    EXPECT_EQ(parts->manifests[0].digest, digest('1'));
    EXPECT_EQ(parts->manifests[0].size, 7);
    EXPECT_EQ(parts->manifests[1].digest, digest('3'));
    EXPECT_EQ(parts->manifests[1].size, kAnySize);
}

TEST(ManifestParts, an_image_is_made_of_its_config_and_layers) {
    const auto parts = parts_of_manifest(
        ManifestKind::image, R"({"config":)" + part('c', R"(,"size":2)") + R"(,"layers":[)" +
                                 part('1') + "," + part('2', R"(,"urls":["http://x/"])") + "," +
                                 part('3', R"(,"urls":[])") + "]}");
    ASSERT_TRUE(parts) << parts.error().text;
    ASSERT_EQ(parts->blobs.size(), 3U) << "a layer that lies elsewhere is not asked for";
    EXPECT_EQ(parts->blobs[0].digest, digest('c'));
    EXPECT_EQ(parts->blobs[1].digest, digest('1'));
    EXPECT_EQ(parts->blobs[2].digest, digest('3'));
}

TEST(ManifestParts, what_is_not_a_manifest_is_incomplete_and_says_where) {
    const struct {
        ManifestKind kind;
        std::string body;
        std::string said;
    } cases[] = {
        {ManifestKind::index, "no JSON", "manifests is not an array"},
        {ManifestKind::index, R"({"manifests":{}})", "manifests is not an array"},
        {ManifestKind::index, R"({"manifests":[)" + part('1') + ",{}]}", "manifests[1].digest"},
        {ManifestKind::image, "", "config.digest"},
        {ManifestKind::image, R"({"config":{"digest":"sha256:1"}})", "config.digest"},
        {ManifestKind::image, R"({"config":)" + part('c') + R"(,"layers":["x"]})",
         "layers[0].digest"},
    };
    for (const auto& each : cases) {
        const auto parts = parts_of_manifest(each.kind, each.body);
        ASSERT_FALSE(parts) << each.body;
        EXPECT_EQ(parts.error().code, "incomplete");
        EXPECT_NE(parts.error().text.find(each.said), std::string::npos) << parts.error().text;
    }
}

}  // namespace
}  // namespace keel
