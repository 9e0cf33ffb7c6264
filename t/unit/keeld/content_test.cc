// What a digest holds on each platform, and when two digests are the same content.
#include "keeld/registry/content.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::digest;

constexpr const char* kOciIndex = "application/vnd.oci.image.index.v1+json";
constexpr const char* kOciImage = "application/vnd.oci.image.manifest.v1+json";

std::string entry(char hex, const std::string& os, const std::string& architecture,
                  const std::string& variant = {}) {
    return R"({"digest":")" + digest(hex).to_string() + R"(","platform":{"os":")" + os +
           R"(","architecture":")" + architecture + '"' +
           (variant.empty() ? "" : R"(,"variant":")" + variant + '"') + "}}";
}

std::string index_of(const std::string& entries) {
    return R"({"schemaVersion":2,"manifests":[)" + entries + "]}";
}

Content index(char hex, std::vector<PlatformContent> platforms) {
    return Content{digest(hex), ManifestKind::index, std::move(platforms)};
}

Content image(char hex, char config) {
    return Content{digest(hex), ManifestKind::image, {{"", digest(hex), digest(config)}}};
}

TEST(ContentManifest, AnIndexIsReadByPlatform) {
    const std::string body =
        index_of(entry('1', "linux", "amd64") + "," + entry('2', "linux", "arm", "v7") + "," +
                 entry('3', "linux", "arm64", "v8") + "," + entry('4', "unknown", "unknown"));
    const auto content = Content::from_manifest(digest('a'), kOciIndex, body);
    ASSERT_TRUE(content) << content.error().text;
    EXPECT_EQ(content->kind, ManifestKind::index);
    ASSERT_EQ(content->platforms.size(), 3U) << "an attestation is no platform";
    EXPECT_EQ(content->platforms[0].platform, "linux/amd64");
    EXPECT_EQ(content->platforms[0].manifest, digest('1'));
    EXPECT_TRUE(content->platforms[0].config.empty());
    EXPECT_EQ(content->platforms[1].platform, "linux/arm/v7");
    EXPECT_EQ(content->platforms[2].platform, "linux/arm64") << "v8 is what plain arm64 means";
}

TEST(ContentManifest, AnImageIsItsConfig) {
    const auto content = Content::from_manifest(
        digest('a'), kOciImage, R"({"config":{"digest":")" + digest('c').to_string() + "\"}}");
    ASSERT_TRUE(content) << content.error().text;
    ASSERT_EQ(content->platforms.size(), 1U);
    EXPECT_EQ(content->platforms[0].manifest, digest('a'));
    EXPECT_EQ(content->platforms[0].config, digest('c'));
}

TEST(ContentManifest, WhatIsNoManifestIsAnError) {
    const struct {
        const char* type;
        std::string body;
    } cases[] = {
        {kOciIndex, "no JSON"},
        {kOciIndex, "[]"},
        {kOciIndex, R"({"manifests":{}})"},
        {kOciIndex, R"({"manifests":[{"digest":"sha256:1","platform":{}}]})"},
        {kOciImage, "{}"},
        {kOciImage, R"({"config":{"digest":7}})"},
        {"application/vnd.docker.distribution.manifest.v1+json", "{}"},
        {"text/html", "{}"},
    };
    for (const auto& one : cases) {
        const auto content = Content::from_manifest(digest('a'), one.type, one.body);
        ASSERT_FALSE(content) << one.type << ' ' << one.body;
        EXPECT_EQ(content.error().code, "bad-manifest");
    }
}

TEST(ContentManifest, ARecordReadsBackAsItWas) {
    const Content content = index(
        'a', {{"linux/amd64", digest('1'), digest('c')}, {"linux/arm/v7", digest('2'), Digest{}}});
    const auto back = Content::from_json(content.to_json());
    ASSERT_TRUE(back) << back.error().text;
    EXPECT_EQ(back->digest, content.digest);
    EXPECT_EQ(back->kind, content.kind);
    ASSERT_EQ(back->platforms.size(), 2U);
    EXPECT_EQ(back->platforms[0].config, digest('c'));
    EXPECT_TRUE(back->platforms[1].config.empty());
    EXPECT_EQ(back->platforms[1].platform, "linux/arm/v7");
    EXPECT_FALSE(Content::from_json("{}"));
    EXPECT_FALSE(Content::from_json("?"));
}

// One that was stored before the platform was read of its config is not for any platform.
TEST(ContentManifest, V4_ARecordWithoutAPlatformIsReadAgain) {
    const std::string manifest = R"({"config":{"digest":")" + digest('c').to_string() + "\"}}";
    Content content = *Content::from_manifest(digest('a'), kOciImage, manifest);
    EXPECT_FALSE(content.tells_platform());
    EXPECT_FALSE(Content::from_json(content.to_json())->tells_platform());
    content.platforms[0].created = Time{};
    EXPECT_TRUE(content.tells_platform()) << "it was read, and does not say";
    const std::string now = content.to_json();
    EXPECT_EQ(Content::from_json(now)->platforms[0].created, Time{});
    EXPECT_TRUE(Content::from_json(now)->tells_platform());
    std::string before = now;
    before.replace(before.find("null"), 4, R"("")");
    EXPECT_FALSE(Content::from_json(before)->platforms[0].created);
    EXPECT_FALSE(Content::from_json(before)->tells_platform());
}

TEST(ContentManifest, APullChoosesItsOwnPlatform) {
    const Content content = index('a', {{"linux/amd64", digest('1'), {}},
                                        {"linux/arm/v6", digest('2'), {}},
                                        {"linux/arm/v7", digest('3'), {}},
                                        {"linux/arm64", digest('4'), {}}});
    EXPECT_EQ(content.entries_for("linux/amd64").size(), 1U);
    EXPECT_EQ(content.entries_for("linux/arm").size(), 2U) << "nodes do not tell their variant";
    EXPECT_EQ(content.entries_for("linux/arm64").front()->manifest, digest('4'));
    EXPECT_TRUE(content.entries_for("linux/s390x").empty());
    EXPECT_EQ(content.entries_for("").size(), 4U);
    EXPECT_EQ(image('b', 'c').entries_for("linux/s390x").size(), 1U)
        << "a single image does not say for what it is made";
}

struct Case {
    const char* name;
    char reported;
    std::optional<Content> known;
    Content target;
    const char* platform;
    SameContent same;
};

class CompareContent : public testing::TestWithParam<Case> {};

TEST_P(CompareContent, D8_ByIdentityNotByText) {
    const Case& one = GetParam();
    const Content* known = one.known ? &*one.known : nullptr;
    EXPECT_EQ(
        static_cast<int>(compare_content(digest(one.reported), known, one.target, one.platform)),
        static_cast<int>(one.same));
}

// Index a was rebuilt as b: amd64 is the same image, arm64 is another one.
const Content kA = index(
    'a', {{"linux/amd64", digest('1'), digest('c')}, {"linux/arm64", digest('2'), digest('d')}});
const Content kB = index(
    'b', {{"linux/amd64", digest('3'), digest('c')}, {"linux/arm64", digest('4'), digest('e')}});
// The same with nothing fetched of its platforms.
const Content kBare =
    index('b', {{"linux/amd64", digest('3'), {}}, {"linux/arm64", digest('4'), {}}});
const Content kAllNew = index(
    'f', {{"linux/amd64", digest('5'), digest('5')}, {"linux/arm64", digest('6'), digest('6')}});
const Content kArm = index(
    'a', {{"linux/arm/v6", digest('1'), digest('1')}, {"linux/arm/v7", digest('2'), digest('2')}});
const Content kArmSame = index(
    'b', {{"linux/arm/v6", digest('3'), digest('1')}, {"linux/arm/v7", digest('4'), digest('2')}});
const Content kArmHalf = index(
    'b', {{"linux/arm/v6", digest('3'), digest('1')}, {"linux/arm/v7", digest('4'), digest('9')}});

constexpr auto kSame = SameContent::same;
constexpr auto kDifferent = SameContent::different;
constexpr auto kUnknown = SameContent::unknown;

INSTANTIATE_TEST_SUITE_P(
    All, CompareContent,
    testing::Values(
        Case{"TheDigestItself", 'b', {}, kB, "linux/amd64", kSame},
        Case{"TheDigestItselfOnNoPlatform", 'b', {}, kB, "", kSame},
        Case{"ThePlatformManifest", '3', {}, kB, "linux/amd64", kSame},
        Case{"TheConfig", 'c', {}, kB, "linux/amd64", kSame},
        Case{"TheConfigOfAnotherPlatform", 'e', {}, kB, "linux/amd64", kUnknown},
        Case{"RebuiltWithTheSameImage", 'a', kA, kB, "linux/amd64", kSame},
        Case{"RebuiltWithAnotherImage", 'a', kA, kB, "linux/arm64", kDifferent},
        Case{"NothingKnownOfWhatRuns", 'a', {}, kB, "linux/amd64", kUnknown},
        Case{"ConfigsNotFetched", 'a', kA, kBare, "linux/amd64", kUnknown},
        Case{"NotMadeForThePlatform", 'a', kA, kB, "linux/s390x", kUnknown},
        Case{"SingleToIndexSameImage", '9', image('9', 'c'), kB, "linux/amd64", kSame},
        Case{"SingleToIndexAnotherImage", '9', image('9', 'd'), kB, "linux/amd64", kDifferent},
        Case{"IndexToSingleSameImage", 'a', kA, image('9', 'c'), "linux/amd64", kSame},
        Case{"IndexToSingleAnotherImage", 'a', kA, image('9', 'c'), "linux/arm64", kDifferent},
        Case{"SingleToSingleSameImage", '8', image('8', 'c'), image('9', 'c'), "", kSame},
        Case{"SingleToSingleAnotherImage", '8', image('8', 'd'), image('9', 'c'), "", kDifferent},
        Case{"NoPlatformAndOneDiffers", 'a', kA, kB, "", kUnknown},
        Case{"NoPlatformAndAllDiffer", 'a', kA, kAllNew, "", kDifferent},
        Case{"NoPlatformButTheManifestTellsIt", '3', {}, kB, "", kSame},
        Case{"NoPlatformButTheImageTellsIt", '9', image('9', 'c'), kB, "", kSame},
        Case{"VariantsAllTheSame", 'a', kArm, kArmSame, "linux/arm", kSame},
        Case{"VariantsHalfTheSame", 'a', kArm, kArmHalf, "linux/arm", kUnknown},
        Case{"AnIndexWithoutEntries", 'a', kA, index('b', {}), "linux/amd64", kUnknown},
        Case{"AnIndexWithoutEntriesOnNoPlatform", 'a', kA, index('b', {}), "", kUnknown}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace keel
