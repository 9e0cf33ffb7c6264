// Outgoing HTTP: libcurl's multi interface on keeld's loop. One client serves registries, caches
// and the API server.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/expected.h"
#include "core/time.h"
#include "keeld/loop.h"

namespace keel {

struct HttpHeader {
    std::string name;
    std::string value;
};
using HttpHeaders = std::vector<HttpHeader>;

// How the peer is known and how we are. Files are read by libcurl; *_pem are PEM texts
// (kubeconfig's *-data fields).
struct TlsOptions {
    std::string ca_file;
    std::string ca_pem;
    std::string cert_file;
    std::string cert_pem;
    std::string key_file;
    std::string key_pem;
    std::string server_name;  // "tls-server-name"; empty: the URL's host
    bool insecure = false;    // only where a configuration says so

    friend bool operator==(const TlsOptions&, const TlsOptions&) = default;
};

struct HttpRequest {
    std::string method = "GET";
    std::string url;
    HttpHeaders headers;
    std::string body;
    std::shared_ptr<const TlsOptions> tls;  // null: the system's trust store
    std::string unix_socket;                // connect to this path instead of the URL's host
    std::string proxy;                      // empty: the environment decides
    bool follow_redirects = false;  // at most 5; Authorization is not sent on to another host
    Millis timeout{10'000};         // of the whole transfer; zero: none (a watch)
    Millis connect_timeout{5'000};
    Millis idle_timeout{0};             // no byte for so long ends a stream; zero: none
    std::size_t max_body = 64U << 20U;  // of a collected body; more is the error "too-large"
    // Both are called on the loop, never inside libcurl, so they may start and end transfers.
    // The status of the final answer, as soon as its headers are complete.
    std::function<void(int)> on_status;
    // Each piece of a 2xx body instead of collecting it, however long it gets; false ends the
    // transfer ("stopped").
    std::function<bool(std::string_view)> on_data;
};

struct HttpResponse {
    int status = 0;
    HttpHeaders headers;  // of the final answer, in order
    std::string body;

    // The first header of this name, compared without regard to case; empty if absent.
    [[nodiscard]] std::string_view header(std::string_view name) const;
};

// Whether it is one of send()'s errors that say nothing of what was asked for: the server is away
// or was lost, and the same request may succeed later.
[[nodiscard]] bool is_away(const Error& error) noexcept;

// The moment that `Date` or `Retry-After` name, in any of HTTP's three forms; nullopt if it is
// none.
[[nodiscard]] std::optional<Time> parse_http_date(std::string_view text);

class HttpClient {
  public:
    // `user_agent` is sent with every request ("keeld/<version>").
    HttpClient(Loop& loop, std::string user_agent);
    ~HttpClient();
    HttpClient(const HttpClient&) = delete;
    HttpClient& operator=(const HttpClient&) = delete;

    // Any status is a response; the body of a refusal (400 and above) may be cut short. Errors:
    // "bad-url", "timeout", "unreachable" (refused, reset, no route), "no-such-host", "tls",
    // "truncated" (it broke off within the answer), "redirects" (too many, or to a scheme that is
    // not gone to), "too-large", "stopped", "cancelled" (also after shutdown), each text naming the
    // URL without its credentials. Honours asio cancellation of the awaiting coroutine. A kept
    // connection on which the server hung up before the first byte of an answer is replaced and the
    // request sent again by libcurl, whatever its method: what must not happen twice carries its
    // own check (a resourceVersion).
    [[nodiscard]] Task<Expected<HttpResponse>> send(HttpRequest request);

    // Ends every transfer with "cancelled"; later sends fail at once.
    void shutdown();

  private:
    class Impl;
    std::shared_ptr<Impl> impl_;  // also held by the transfers under way
};

}  // namespace keel
