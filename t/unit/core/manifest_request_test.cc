#include "core/manifest_request.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/digest.h"
#include "unit/allocations.h"

namespace keel {
namespace {

const std::string kHex64 = "b4fd6ac54d0f1f5b4a1fd3c1d1ca2b0d8e5f7a9c3b2e1d0f4c6b8a7d9e0f1a2b";
const std::string kDockerImage = "application/vnd.docker.distribution.manifest.v2+json";
const std::string kDockerList = "application/vnd.docker.distribution.manifest.list.v2+json";
const std::string kOciImage = "application/vnd.oci.image.manifest.v1+json";
const std::string kOciIndex = "application/vnd.oci.image.index.v1+json";
const std::string kSchema1 = "application/vnd.docker.distribution.manifest.v1+json";
const std::string kSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";

bool complete(const std::vector<std::string>& lines) {
    AcceptedTypes types;
    for (const std::string& line : lines) {
        types.add_line(line);
    }
    return types.complete();
}

TEST(ManifestPath, splits_from_the_right) {
    const struct {
        std::string path;
        std::string repository;
        std::string reference;
        bool by_digest;
    } cases[] = {
        {"/v2/nginx/manifests/1.27", "nginx", "1.27", false},
        {"/v2/library/nginx/manifests/latest", "library/nginx", "latest", false},
        {"/v2/manifests/manifests/manifests", "manifests", "manifests", false},
        {"/v2/a/manifests/b/manifests/c", "a/manifests/b", "c", false},
        {"/v2/v2/blobs/tags/manifests/v2", "v2/blobs/tags", "v2", false},
        {"/v2/a/manifests/sha256:" + kHex64, "a", "sha256:" + kHex64, true},
        {"/v2/a/manifests/sha512:" + kHex64 + kHex64, "a", "sha512:" + kHex64 + kHex64, true},
        {"/v2/a/manifests/blake3:" + kHex64, "a", "blake3:" + kHex64, true},
        {"/v2/a/manifests/sha256-" + kHex64 + ".sig", "a", "sha256-" + kHex64 + ".sig", false},
        {"/v2/a/manifests/_X.y-Z", "a", "_X.y-Z", false},
    };
    for (const auto& each : cases) {
        const auto path = parse_manifest_path(each.path);
        ASSERT_TRUE(path) << each.path;
        EXPECT_EQ(path->repository, each.repository);
        EXPECT_EQ(path->reference, each.reference);
        EXPECT_EQ(path->by_digest, each.by_digest);
    }
}

TEST(ManifestPath, refuses_everything_else) {
    const std::string cases[] = {
        "",
        "/",
        "/v2/",
        "/v2",
        "/v2/manifests/x",
        "/v2//manifests/x",
        "/v2/a/manifests/",
        "/v2/a/manifests",
        "/v2/a/blobs/sha256:" + kHex64,
        "/v2/a/tags/list",
        "/v2/a/xmanifests/b",
        "/v2/a/manifests/b/",
        "/v2/a/manifests/b/c",
        "/v1/a/manifests/b",
        "v2/a/manifests/b",
        "/v2/A/manifests/b",
        "/v2/a//b/manifests/c",
        "/v2/a/../manifests/c",
        "/v2/a/manifests/-b",
        "/v2/a/manifests/.b",
        "/v2/a/manifests/b?ns=docker.io",
        "/v2/a/manifests/b%31",
        "/v2/a/manifests/" + std::string(129, 'x'),
        "/v2/" + std::string(256, 'a') + "/manifests/x",
        "/v2/a/manifests/sha256:",
        "/v2/a/manifests/:" + kHex64,
        "/v2/a/manifests/sha256:a:b",
        "/v2/a/manifests/SHA256:" + kHex64,
        "/v2/a/manifests/" + std::string("b\0c", 3),
        std::string("/v2/a\0/manifests/b", 18),
    };
    for (const std::string& path : cases) {
        EXPECT_FALSE(parse_manifest_path(path)) << path;
    }
}

// What the pullers send that were recorded on a real rig: each names all four.
TEST(AcceptedTypes, D8_every_real_puller_is_comparable) {
    // containerd: one line, comma and space
    EXPECT_TRUE(complete(
        {kDockerImage + ", " + kDockerList + ", " + kOciImage + ", " + kOciIndex + ", */*"}));
    // crane, Keel: one line, comma alone
    EXPECT_TRUE(complete({kDockerList + "," + kDockerImage + "," + kOciImage + "," + kOciIndex}));
    // dockerd: six lines in random order
    EXPECT_TRUE(complete(
        {kSchema1Signed, "application/json", kOciIndex, kDockerList, kDockerImage, kOciImage}));
    // skopeo, podman, CRI-O
    EXPECT_TRUE(
        complete({kOciImage, kDockerImage, kSchema1Signed, kSchema1, kDockerList, kOciIndex}));
}

TEST(AcceptedTypes, D8_a_narrow_accept_is_not_comparable) {
    const std::vector<std::string> all{kDockerImage, kDockerList, kOciImage, kOciIndex};
    for (unsigned named = 0; named < 16; ++named) {
        std::string line = "*/*, " + kSchema1;
        for (unsigned i = 0; i < all.size(); ++i) {
            if ((named & 1U << i) != 0) {
                line += ", " + all[i];
            }
        }
        EXPECT_EQ(complete({line}), named == 15) << line;
    }
    EXPECT_FALSE(complete({}));
    EXPECT_FALSE(complete({"*/*"}));
    EXPECT_FALSE(complete({kOciIndex + ", " + kOciIndex + ", " + kOciIndex + ", " + kOciIndex}));
}

TEST(AcceptedTypes, one_element_at_a_time) {
    const std::string rest = kDockerImage + "," + kOciImage + "," + kOciIndex;
    const struct {
        std::string element;
        bool counts;
    } cases[] = {
        {kDockerList, true},
        {"  " + kDockerList + "\t", true},
        {kDockerList + ";q=0.5", true},
        {kDockerList + " ; q=0.5 ", true},
        {kDockerList + ";", true},
        {"Application/VND.Docker.distribution.manifest.LIST.v2+JSON", true},
        {"application/vnd.docker.distribution.manifest.list.v2+jsom", false},
        {kDockerList + "x", false},
        {kDockerList + " x", false},
        {kDockerList.substr(1), false},
        {"x" + kDockerList, false},
        // Registries drop an element that they cannot parse and answer as if it was not there.
        {kDockerList + ";q", false},
        {kDockerList + ";=1", false},
        {kDockerList + ";q=", false},
        {kDockerList + ";q=1;q=1", false},
        {kDockerList + ";q=1 1", false},
        {kDockerList + ";q=\"1", false},
        {kDockerList + ";q*=x", false},
        // A letter differs from this by one bit only.
        {"application/vnd\x0e" + kDockerList.substr(15), false},
        {std::string("\0", 1) + kDockerList, false},
    };
    for (const auto& each : cases) {
        EXPECT_EQ(complete({each.element + "," + rest}), each.counts) << each.element;
        EXPECT_EQ(complete({rest + "," + each.element}), each.counts) << each.element;
        EXPECT_EQ(complete({rest, each.element}), each.counts) << each.element;
        EXPECT_EQ(complete({rest + ",,  ," + each.element + ","}), each.counts) << each.element;
    }
}

TEST(ManifestKind, D8_families_of_content_types) {
    const struct {
        std::string type;
        ManifestKind kind;
        std::string text;
    } cases[] = {
        {kOciIndex, ManifestKind::index, "index"},
        {kDockerList, ManifestKind::index, "index"},
        {kOciImage, ManifestKind::image, "image"},
        {kDockerImage, ManifestKind::image, "image"},
        {kSchema1, ManifestKind::legacy, "legacy"},
        {kSchema1Signed, ManifestKind::legacy, "legacy"},
        {kOciIndex + "; charset=utf-8", ManifestKind::index, "index"},
        {" " + kOciImage + " ;x", ManifestKind::image, "image"},
        {"APPLICATION/VND.OCI.IMAGE.INDEX.V1+JSON", ManifestKind::index, "index"},
        {"", ManifestKind::unknown, "unknown"},
        {"application/json", ManifestKind::unknown, "unknown"},
        {"text/html", ManifestKind::unknown, "unknown"},
        {kOciIndex + "," + kOciImage, ManifestKind::unknown, "unknown"},
    };
    for (const auto& each : cases) {
        EXPECT_EQ(manifest_kind(each.type), each.kind) << each.type;
        EXPECT_EQ(to_string(manifest_kind(each.type)), each.text);
    }
}

TEST(Asker, is_told_by_the_user_agent) {
    const struct {
        std::string user_agent;
        std::string asker;
    } cases[] = {
        {"containerd/1.6.20~ds1", "kubelet"},
        {"containerd/v2.2.0", "kubelet"},
        {"cri-o/1.33.0 go/go1.24.4 os/linux arch/amd64", "kubelet"},
        {"keeld/0.1.0", "keeld"},
        {"docker/26.1.5+dfsg1 go/go1.24.4", "other"},
        {"Go-http-client/1.1", "other"},
        {"xcontainerd/1", "other"},
        {"containerd", "other"},
        {"", "other"},
    };
    for (const auto& each : cases) {
        EXPECT_EQ(to_string(asker(each.user_agent)), each.asker) << each.user_agent;
    }
}

TEST(ManifestRequest, E3_nothing_on_the_pull_path_throws_or_allocates) {
    static_assert(noexcept(parse_manifest_path({})));
    static_assert(noexcept(AcceptedTypes().add_line({})));
    static_assert(noexcept(AcceptedTypes().complete()));
    static_assert(noexcept(manifest_kind({})));
    static_assert(noexcept(asker({})));
    static_assert(noexcept(Digest::parse({})));

    const std::string path = "/v2/library/nginx/manifests/1.27";
    const std::string line = kDockerList + ";q=1, " + kOciImage + ", APPLICATION/x, */*;;;;q";
    const std::string digest = "sha256:" + kHex64;
    char text[Digest::kMaxText];
    const std::size_t before = test::allocations();
    AcceptedTypes types;
    types.add_line(line);
    const bool seen = parse_manifest_path(path).has_value() && !types.complete() &&
                      manifest_kind(kOciIndex) == ManifestKind::index &&
                      asker("containerd/2") == Asker::kubelet &&
                      Digest::parse(digest)->write(text) == digest.size();
    const std::size_t after = test::allocations();
    EXPECT_TRUE(seen);
    EXPECT_EQ(after, before);
    // The counter counts.
    EXPECT_GT((static_cast<void>(std::vector<int>(1000)), test::allocations()), after);
}

}  // namespace
}  // namespace keel
