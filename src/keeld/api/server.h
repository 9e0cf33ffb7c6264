// The HTTP server: Beast on keeld's loop, unix sockets and loopback addresses. Knows connections
// and requests, not keeld.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/expected.h"
#include "keeld/config.h"
#include "keeld/loop.h"

namespace keel {

struct ApiRequest {
    std::string method;  // HEAD arrives as GET; its answer goes out without the body
    std::string path;    // decoded, without query
    std::vector<std::pair<std::string, std::string>>
        query;  // percent-decoded (a plus stays one), in order
    std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
    std::string body;
    bool local_socket = false;         // arrived on a unix socket
    std::optional<unsigned> peer_uid;  // of the process at its other end, as the kernel says
    std::string serve;                 // the listener's address, as Server::addresses() has it

    [[nodiscard]] std::string_view header(std::string_view lower_case_name) const;
    [[nodiscard]] std::optional<std::string> parameter(std::string_view name) const;
};

// Date, Server, Cache-Control: no-store, Content-Length and Connection are the server's.
struct ApiResponse {
    int status = 200;
    std::string content_type = "application/json";
    std::vector<std::pair<std::string, std::string>> headers;
    std::string body;
};

// The answer to a problem: {"error": {"code", "text"}}.
[[nodiscard]] ApiResponse api_error(int status, std::string code, std::string text);

using ApiHandler = std::function<Task<ApiResponse>(ApiRequest)>;

struct ServerLimits {
    std::size_t max_body = 1024 * 1024;
    std::size_t max_connections = 256;
    std::chrono::milliseconds request_time{10'000};  // from a request's first byte to its last
    std::chrono::milliseconds idle_time{60'000};     // between two requests
};

class Server {
  public:
    // `handler` is called on the loop for every whole request; what it throws becomes a 500. Bodies
    // over the limit get 413 without reading on, heads over 16 kB 431, a client on a TCP address
    // that asks for another Host than localhost or a loopback address 421. One that takes too long
    // for a request is dropped. At the limit of connections those without a request make room.
    Server(Loop& loop, ApiHandler handler, ServerLimits limits);
    Server(Loop& loop, ApiHandler handler, std::size_t max_body);
    // Cuts everything. No handler is called any more, but one that waits is only cancelled:
    // shutdown() comes first.
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // Binds and starts. A stale socket file is replaced, a live one or a foreign file is an error.
    // Errors: "listen" naming it.
    [[nodiscard]] Expected<void> listen(const ListenConfig& where);
    // The address that was bound, with its real port: "127.0.0.1:41234", "unix:/…". In the order of
    // listen().
    [[nodiscard]] const std::vector<std::string>& addresses() const;
    // No new requests; open ones get up to `grace` to end, then they are cut and their handlers
    // cancelled. Socket files go.
    [[nodiscard]] Task<void> shutdown(std::chrono::milliseconds grace);

  private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace keel
