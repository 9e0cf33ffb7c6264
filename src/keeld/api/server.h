// The HTTP server: Beast on keeld's loop, unix sockets and loopback addresses. Knows connections and requests, not keeld.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/expected.h"
#include "keeld/config.h"
#include "keeld/loop.h"

namespace keel {

struct ApiRequest {
    std::string method;
    std::string path;   // decoded, without query
    std::vector<std::pair<std::string, std::string>> query;  // decoded, in order
    std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
    std::string body;
    bool local_socket = false;  // arrived on a unix socket
    std::string serve;          // listener's name, for messages

    [[nodiscard]] std::string_view header(std::string_view lower_case_name) const;
    [[nodiscard]] std::optional<std::string> parameter(std::string_view name) const;
};

struct ApiResponse {
    int status = 200;
    std::string content_type = "application/json";
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body;
};

// The answer to a problem: {"error": {"code", "text"}}.
[[nodiscard]] ApiResponse api_error(int status, std::string code, std::string text);

using ApiHandler = std::function<Task<ApiResponse>(ApiRequest)>;

class Server {
public:
    // `handler` is called on the loop for every whole request. Bodies over `max_body` get 413 without reading on, heads over
    // 16 kB 431, a client that is slower than 10 s for a request is dropped, at most 256 connections at a time.
    Server(Loop& loop, ApiHandler handler, std::size_t max_body);
    ~Server();

    // Binds and starts. A stale socket file is replaced, a live one or a foreign file is an error. Errors: "listen" naming it.
    [[nodiscard]] Expected<void> listen(const ListenConfig& where);
    // The address that was bound, with its real port: "127.0.0.1:41234", "unix:/…". In the order of listen().
    [[nodiscard]] const std::vector<std::string>& addresses() const;
    // No new requests; open ones get up to `grace` to end, then are cut.
    [[nodiscard]] Task<void> shutdown(std::chrono::milliseconds grace);

private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace keel
