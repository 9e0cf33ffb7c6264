// What a manifest digest holds on each platform: the identity by which content is compared (never
// by digest text alone, because a node may report an index, a platform manifest or a config digest
// for the same content).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/expected.h"
#include "core/manifest_request.h"
#include "core/time.h"

namespace keel {

// "linux/amd64", "linux/arm/v7"; empty: a single image whose config was not read (then `created` is
// absent), or does not say.
struct PlatformContent {
    std::string platform;
    Digest manifest;
    Digest config;  // empty: not fetched
    // When the image says that it was made; the epoch: it does not say. Absent: not fetched.
    std::optional<Time> created = std::nullopt;
};

// Of raw bytes; `algorithm` none: empty.
[[nodiscard]] Digest digest_of(Digest::Algorithm algorithm, std::string_view bytes);

// What an image's config says of when it was made; the epoch where it does not, or not in a way
// that can be read. Errors: "bad-config", when it is none.
[[nodiscard]] Expected<Time> created_of(std::string_view config);

// What an image's config says of what it is made for; empty where it does not.
[[nodiscard]] std::string platform_of(std::string_view config);

struct Content {
    Digest digest;
    ManifestKind kind = ManifestKind::unknown;
    std::vector<PlatformContent> platforms;  // attestations (platform unknown/unknown) left out

    // Parts of an image manifest or index body. Errors: "bad-manifest" naming the field.
    [[nodiscard]] static Expected<Content> from_manifest(const Digest& digest,
                                                         std::string_view content_type,
                                                         std::string_view body);
    [[nodiscard]] std::string to_json() const;
    [[nodiscard]] static Expected<Content> from_json(std::string_view json);

    // Whether it is known for which platforms it is made: an image without an index says so in its
    // config alone.
    [[nodiscard]] bool tells_platform() const;

    // The entries that a pull on `platform` may choose: its own, or those that do not say for what
    // they are made, or its variants (nodes do not report theirs: linux/arm takes linux/arm/v7).
    // Empty platform: not known, so all of them.
    [[nodiscard]] std::vector<const PlatformContent*> entries_for(std::string_view platform) const;
};

enum class SameContent : std::uint8_t { same, different, unknown };

// Whether `reported` (the digest part of a pod's imageID) is the content that `target` has on
// `platform` (empty: not known, then it must hold on every platform). `known` is the content of
// `reported` where that is known.
[[nodiscard]] SameContent compare_content(const Digest& reported, const Content* known,
                                          const Content& target, std::string_view platform);

}  // namespace keel
