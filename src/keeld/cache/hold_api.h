// Holds in one cache, read and written through its keel_api. Says what the cache says; what should
// be held is not decided here.
#pragma once

#include <string>

#include "core/digest.h"
#include "core/expected.h"
#include "core/manifest_request.h"
#include "core/reference.h"
#include "core/time.h"
#include "keeld/cache/answers.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/http/client.h"
#include "keeld/loop.h"

namespace keel {

// What PUT asks for. The author is who signs, and so is the owner.
struct HoldRequest {
    Tag tag;
    Digest digest;
    std::string reason;
    Time until;
    Time verified;
    ManifestKind kind = ManifestKind::unknown;  // as a check found it
    bool force = false;
};

class HoldApi {
  public:
    // Requests are signed with the first of the cache's secrets, except on unix sockets, where the
    // kernel says who asks.
    HoldApi(HttpClient& http, const Clock& clock, CacheConfig cache);

    // Errors: HttpClient's; "bad-answer", also where nothing is found: the module always has a
    // list.
    [[nodiscard]] Task<Expected<CacheHolds>> list();
    // Both return once the cache has it on disk; put() with the owner as the cache calls it, empty
    // when it does not say. Errors: HttpClient's; "stale": the set of holds is
    // no longer at that revision; "no-secret": keel_api cannot be written to with this
    // configuration; "refused", with what the cache says.
    [[nodiscard]] Task<Expected<std::string>> put(HoldRequest hold, std::string revision);
    [[nodiscard]] Task<Expected<void>> remove(Tag tag, std::string revision);

  private:
    [[nodiscard]] Task<Expected<HttpResponse>> write(std::string method, Tag tag,
                                                     std::string revision, std::string body);

    HttpClient& http_;
    const Clock& clock_;
    CacheConfig cache_;
};

// The request for `rest` below a cache's keel_api: "unix:/path:/prefix" or a URL.
[[nodiscard]] HttpRequest cache_request(const std::string& api, const std::string& rest);

}  // namespace keel
