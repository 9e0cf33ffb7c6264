// Whether a digest is all there through one cache: what a hold promises to nodes that have nothing
// of it yet.
#pragma once

#include <string>

#include "core/digest.h"
#include "core/expected.h"
#include "core/manifest_request.h"
#include "core/reference.h"
#include "keeld/loop.h"
#include "keeld/registry/registry.h"

namespace keel {

struct Complete {
    ManifestKind kind = ManifestKind::unknown;
    std::size_t manifests = 0;
    std::size_t blobs = 0;
};

// Gets the manifest, those of every platform (attestations left out), and every config and layer,
// through the cache's look-up path: bodies are read to their end and thrown away, so this also
// brings them into the cache. Manifests must have their digest, blobs the size that their manifest
// says; layers that their manifest places elsewhere (`urls`) are left out. At most four requests at
// once, five minutes in all. Errors: "no-path"; "incomplete", naming the first part that is not to
// be had and why; "unavailable" and HttpClient's where nobody could be asked.
[[nodiscard]] Task<Expected<Complete>> check_complete(Loop& loop, Registry& registry,
                                                      std::string cache, Tag tag, Digest digest);

}  // namespace keel
