// What a manifest says that it is made of: what has to be had for a pull of it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/expected.h"
#include "core/manifest_request.h"

namespace keel {

inline constexpr std::int64_t kAnySize = -1;

struct ManifestPart {
    Digest digest;
    std::int64_t size = kAnySize;  // in bytes, as the manifest says; kAnySize: it does not
};

struct ManifestParts {
    std::vector<ManifestPart> manifests;  // of an index: one of each platform
    std::vector<ManifestPart> blobs;      // of an image: config and layers
};

// Attestations (platform unknown) and layers that the manifest places elsewhere (`urls`) are left
// out. Any `kind` but index is read as an image. Errors: "incomplete", saying which part is none.
[[nodiscard]] Expected<ManifestParts> parts_of_manifest(ManifestKind kind, std::string_view body);

}  // namespace keel
