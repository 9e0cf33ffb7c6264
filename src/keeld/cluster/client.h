// The Kubernetes API as far as keeld needs it: get, list, watch, patch, create, with credentials that rotate.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/expected.h"
#include "keeld/http/client.h"
#include "keeld/loop.h"

struct json_t;

namespace keel {

// A jansson value that this pointer owns.
struct JsonDelete {
    void operator()(json_t* value) const;
};
using Json = std::unique_ptr<json_t, JsonDelete>;

// Where the API server is and how to prove who we are.
struct ClusterAccess {
    std::string server;  // "https://host:port"
    TlsOptions tls;
    std::string token;             // static
    std::string token_file;        // read again when older than a minute and after a 401 (rotation)
    std::string username;          // basic, where a kubeconfig still has it
    std::string password;
    struct Exec {                  // client-go credential plugin, client.authentication.k8s.io/v1 or v1beta1
        std::string api_version;
        std::string command;       // relative with a slash: to the kubeconfig's folder
        std::vector<std::string> args;
        std::vector<std::pair<std::string, std::string>> env;
        bool provide_cluster_info = false;
    };
    std::optional<Exec> exec;
    std::string ns;                // of the context, or of the service account
    std::string proxy;             // proxy-url
};

// kubeconfig by path, context optional; relative file names are relative to it. Errors: "kubeconfig" with file and key.
[[nodiscard]] Expected<ClusterAccess> load_kubeconfig(const std::string& path, const std::string& context = {});
// The pod's service account (KUBERNETES_SERVICE_HOST/PORT, /var/run/secrets/kubernetes.io/serviceaccount).
[[nodiscard]] Expected<ClusterAccess> in_cluster_access();

class ClusterClient {
public:
    ClusterClient(Loop& loop, HttpClient& http, ClusterAccess access);
    ~ClusterClient();
    ClusterClient(const ClusterClient&) = delete;
    ClusterClient& operator=(const ClusterClient&) = delete;

    // A 2xx answer's body. Other answers are errors with the Status reason lower-cased and hyphenated as the code:
    // "not-found", "conflict" (409), "forbidden", "unauthorized", "gone" (410, also "expired"), "already-exists", "invalid",
    // "too-many-requests" …; the text holds the server's message and the path. 429 and 503 with Retry-After are waited
    // for and repeated up to 5 times within `patience`, only where nothing can have been applied (the server said so).
    // 401 refreshes the credential and repeats once. Transport errors keep HttpClient's codes.
    [[nodiscard]] Task<Expected<Json>> get(std::string path);
    // content_type: application/strategic-merge-patch+json, application/merge-patch+json, application/apply-patch+yaml
    [[nodiscard]] Task<Expected<Json>> patch(std::string path, std::string content_type, std::string body);
    [[nodiscard]] Task<Expected<Json>> create(std::string path, std::string body);
    [[nodiscard]] Task<Expected<Json>> update(std::string path, std::string body);

    // Pages of `page` objects; `each` gets every item (borrowed) as its page arrives, one item's memory at a time where
    // possible. Returns the list's resourceVersion. A 410 on the way starts over and calls `restart` first.
    // metadata_only: Accept PartialObjectMetadataList.
    struct ListOptions {
        std::string path;
        std::string query;  // "labelSelector=…", already encoded; may be empty
        int page = 100;
        bool metadata_only = false;
    };
    [[nodiscard]] Task<Expected<std::string>> list(ListOptions options,
                                                   std::function<void(const json_t*)> each,
                                                   std::function<void()> restart);

    // Streams until the server ends it, an error, or `each` returns false. `each` gets type and object of every event,
    // bookmarks too. Returns "gone" for 410 in the stream or as status.
    struct WatchOptions {
        std::string path;
        std::string query;
        std::string resource_version;
        int timeout_seconds = 300;  // what the server is asked for
    };
    [[nodiscard]] Task<Expected<void>> watch(WatchOptions options,
                                             std::function<bool(std::string_view, const json_t*)> each);

    // SelfSubjectAccessReview: may we? Errors as get.
    struct AccessQuestion {
        std::string verb;
        std::string group;
        std::string resource;
        std::string ns;
    };
    [[nodiscard]] Task<Expected<bool>> allowed(AccessQuestion question);

private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace keel
