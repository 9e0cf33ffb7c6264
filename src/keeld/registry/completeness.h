// Whether a digest is all there through one cache: what a hold promises to nodes that have nothing
// of it yet.
#pragma once

#include <chrono>
#include <memory>
#include <set>
#include <string>

#include "core/digest.h"
#include "core/expected.h"
#include "core/manifest_request.h"
#include "core/reference.h"
#include "core/time.h"
#include "keeld/loop.h"
#include "keeld/registry/registry.h"

namespace keel {

struct Complete {
    ManifestKind kind = ManifestKind::unknown;
    std::size_t manifests = 0;
    std::size_t blobs = 0;
};

// What is kept from one try to the next, of one digest through one cache.
struct Fetched {
    Time since;              // of the first try; the caller's
    std::set<Digest> blobs;  // need not be fetched again
};

// In all: while somebody waits for the answer, and where nobody does.
inline constexpr Millis kCompletenessTime = std::chrono::minutes(5);
inline constexpr Millis kPatientCompletenessTime = std::chrono::hours(1);
// No byte of an answer for so long is a failure: more than a cache's proxy_cache_lock_timeout, for
// which a request may wait for another one's answer.
inline constexpr Millis kCompletenessSilence = std::chrono::minutes(2);

// Gets the manifest, those of every platform (attestations left out), and every config and layer,
// through the cache's look-up path: bodies are read to their end and thrown away, so this also
// brings them into the cache. Manifests must have their digest, blobs the size that their manifest
// says; layers that their manifest places elsewhere (`urls`) are left out. At most four requests at
// once, `time` in all; one of which nothing comes for `silence` is given up ("timeout"), so that a
// large blob may take as long as it moves. Blobs in `fetched` are taken as there, and those that
// come are noted in it. Errors: "no-path"; "incomplete", naming the first part that is not to be
// had and why; "too-long", when the time is over; Budget's, "unavailable" and HttpClient's where
// nobody could be asked.
[[nodiscard]] Task<Expected<Complete>> check_complete(Loop& loop, Registry& registry,
                                                      std::string cache, Tag tag, Digest digest,
                                                      std::shared_ptr<Fetched> fetched,
                                                      Millis time = kCompletenessTime,
                                                      Millis silence = kCompletenessSilence);

}  // namespace keel
