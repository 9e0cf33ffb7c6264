// The Kubernetes API as far as keeld needs it: get, list, watch, patch, create, with credentials
// that rotate.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/expected.h"
#include "core/time.h"
#include "keeld/cluster/access.h"
#include "keeld/http/client.h"
#include "keeld/json.h"
#include "keeld/loop.h"

namespace keel {

// Text for a URL's query: everything but letters, digits and -._~ as %XX.
[[nodiscard]] std::string query_escape(std::string_view text);

class ClusterClient {
  public:
    // `http` is borrowed. Any number of calls may be under way at once.
    ClusterClient(Loop& loop, HttpClient& http, ClusterAccess access);
    ~ClusterClient();
    ClusterClient(const ClusterClient&) = delete;
    ClusterClient& operator=(const ClusterClient&) = delete;

    // Each call below returns a 2xx answer, or an error. An answer's error has the reason of the
    // server's Status as its code, lower-cased and hyphenated: "not-found", "conflict" (409),
    // "forbidden", "unauthorized", "gone" (410, also reason Expired), "already-exists", "invalid",
    // "too-many-requests" ...; the text holds method, path and the server's message. Where a proxy
    // answered instead, the code comes from the status number. Transport errors keep HttpClient's
    // codes, credentials that cannot be had are "credentials".
    // Repeated here: once after a 401 when there is another credential to try; up to 5 times within
    // kPatience on 429, and on 503 with Retry-After (these two were refused before anything was
    // applied), waiting as long as the server asks.
    static constexpr std::chrono::seconds kPatience{30};

    [[nodiscard]] Task<Expected<Json>> get(std::string path);
    // content_type: application/strategic-merge-patch+json, application/merge-patch+json,
    // application/apply-patch+yaml. `may_write` is asked before each attempt; false is the error
    // "not-allowed" and nothing is sent. An "unreachable" or "timeout" does not say whether it was
    // applied; a "conflict" neither, where the connection broke and libcurl sent it again
    // (HttpClient::send): read the object.
    [[nodiscard]] Task<Expected<Json>> patch(std::string path, std::string content_type,
                                             std::string body,
                                             std::function<bool()> may_write = {});
    [[nodiscard]] Task<Expected<Json>> create(std::string path, std::string body);
    [[nodiscard]] Task<Expected<Json>> update(std::string path, std::string body);

    // Any of the above with limits of its own, for callers whose time is short.
    struct Call {
        std::string method = "GET";
        std::string path;
        std::string content_type;
        std::string body;
        Millis timeout{30'000};      // of one attempt
        Millis patience{kPatience};  // zero: 429 and 503 are errors at once
        std::function<bool()> may_write;
    };
    [[nodiscard]] Task<Expected<Json>> call(Call call);

    // Pages of `page` objects; `each` gets every item (borrowed) as its page arrives, one item in
    // memory at a time. Returns the list's resourceVersion. A 410 on the way calls `restart` and
    // starts over, up to 3 times. A page that is too large is asked for again with half as many
    // objects. Items are not of one moment with those of other lists. metadata_only:
    // PartialObjectMetadata instead of whole objects.
    struct ListOptions {
        std::string path;
        std::string query;  // "labelSelector=...", already encoded (query_escape); may be empty
        int page = 500;
        bool metadata_only = false;
    };
    [[nodiscard]] Task<Expected<std::string>> list(ListOptions options,
                                                   std::function<void(const json_t*)> each,
                                                   std::function<void()> restart);

    // Streams until the server ends it, `each` returns false, or nothing has come for `idle` (all
    // three are plain ends: go on from the last resourceVersion), or an error. `each` gets type and
    // object of every event, bookmarks too. `opened` is called when the server has accepted the
    // watch. "gone" for 410 in the stream or as status.
    struct WatchOptions {
        std::string path;
        std::string query;
        std::string resource_version;
        int timeout_seconds = 300;  // what the server is asked for
        Millis idle{
            120'000};  // bookmarks come about once a minute, but only where something changes
    };
    [[nodiscard]] Task<Expected<void>> watch(
        WatchOptions options, std::function<bool(std::string_view, const json_t*)> each,
        std::function<void()> opened = {});

    // SelfSubjectAccessReview: may we? Errors as get.
    struct AccessQuestion {
        std::string verb;
        std::string group;
        std::string resource;
        std::string ns;
        std::string name{};  // of one object; empty: all of them
    };
    [[nodiscard]] Task<Expected<bool>> allowed(AccessQuestion question);

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;  // also held by the calls under way
};

}  // namespace keel
