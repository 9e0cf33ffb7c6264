// An HTTP server on loopback whose answers the test decides, request by request.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "keeld/signal.h"
#include "unit/keeld/peer.h"

namespace keel::test {

struct Reply {
    std::string status = "200 OK";
    std::string headers;      // each with its line end
    std::string body;         // not sent to HEAD
    Signal* until = nullptr;  // answered when this is raised
    // Not zero: its last twelve bytes go out one by one, so long between two.
    std::chrono::milliseconds trickle{0};
};

class ScriptedPeer {
  public:
    // Gets "GET /path?query" and the whole request.
    using Script = std::function<Reply(const std::string&, const std::string&)>;

    ScriptedPeer(Loop& loop, Script script)
        : loop_(loop),
          script_(std::move(script)),
          peer_(loop, [this](auto*, Connection connection, int) { return serve(connection); }) {}

    [[nodiscard]] std::string url(const std::string& path = "") const { return peer_.url(path); }
    // What was asked, in order.
    std::vector<std::string> asked;

  private:
    Task<void> serve(Connection connection) {
        for (;;) {
            const std::string request = co_await connection->request();
            if (request.empty()) co_return;
            const std::string line = request.substr(0, request.find(" HTTP/1.1\r\n"));
            asked.push_back(line);
            const Reply reply = script_(line, request);
            if (reply.until != nullptr) {
                const Steady::time_point never = Steady::time_point::max();
                co_await reply.until->wait_until(never);
            }
            std::string text = answer(reply.status, reply.body, reply.headers);
            if (line.starts_with("HEAD")) text.resize(text.size() - reply.body.size());
            if (reply.trickle.count() > 0) {
                co_await trickle(connection, std::move(text), reply.trickle);
                continue;
            }
            co_await connection->say(text);
        }
    }

    // The last twelve bytes one by one.
    Task<void> trickle(Connection connection, std::string text, std::chrono::milliseconds every) {
        std::string head = text.substr(0, text.size() - 12);
        co_await connection->say(std::move(head));
        asio::steady_timer timer(loop_);
        for (std::size_t at = text.size() - 12; at < text.size(); ++at) {
            timer.expires_after(every);
            co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
            std::string piece = text.substr(at, 1);
            co_await connection->say(std::move(piece));
        }
    }

    Loop& loop_;
    Script script_;
    Peer peer_;  // last: it ends before what its connections use
};

}  // namespace keel::test
