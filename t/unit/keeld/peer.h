// HTTP peers on loopback that misbehave on purpose, on the test's own loop, and ways to run
// coroutines to their end.
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "keeld/clock.h"
#include "keeld/loop.h"

namespace keel::test {

constexpr std::chrono::seconds kDeadline{20};

// Runs the loop until `done()` or the deadline; whether it came true.
template <class Done>
bool run_until(Loop& loop, Done done, std::chrono::milliseconds deadline = kDeadline) {
    const Steady::time_point end = Steady::now() + deadline;
    while (!done() && Steady::now() < end) {
        loop.restart();
        loop.run_one_for(std::chrono::milliseconds{50});
    }
    return done();
}

// Runs a coroutine to its end and returns what it returned. Fails the test (and throws) after the
// deadline.
template <class T>
T await(Loop& loop, Task<T> task) {
    auto result = std::make_shared<std::optional<T>>();
    auto failure = std::make_shared<std::exception_ptr>();
    asio::co_spawn(loop, std::move(task), [result, failure](std::exception_ptr thrown, T value) {
        *failure = thrown;
        *result = std::move(value);
    });
    if (!run_until(loop, [&] { return result->has_value(); })) {
        throw std::runtime_error("the coroutine did not end in time");
    }
    if (*failure) std::rethrow_exception(*failure);
    return std::move(**result);
}

inline void await(Loop& loop, Task<void> task) {
    bool done = false;
    std::exception_ptr failure;
    asio::co_spawn(loop, std::move(task), [&](std::exception_ptr thrown) {
        failure = thrown;
        done = true;
    });
    if (!run_until(loop, [&] { return done; })) {
        throw std::runtime_error("the coroutine did not end in time");
    }
    if (failure) std::rethrow_exception(failure);
}

// One connection at a peer.
template <class Protocol>
class ConnectionOf {
  public:
    explicit ConnectionOf(typename Protocol::socket socket) : socket_(std::move(socket)) {}

    // The next request, head and body, as it came; empty when the client has hung up.
    Task<std::string> request() {
        for (;;) {
            const std::size_t head = buffer_.find("\r\n\r\n");
            if (head != std::string::npos) {
                const std::size_t size = head + 4 + content_length(buffer_.substr(0, head));
                if (buffer_.size() >= size) {
                    std::string whole = buffer_.substr(0, size);
                    buffer_.erase(0, size);
                    co_return whole;
                }
            }
            std::array<char, 16384> block{};
            const auto space = asio::buffer(block);
            const auto [error, count] =
                co_await socket_.async_read_some(space, asio::as_tuple(asio::use_awaitable));
            if (error) co_return std::string{};
            buffer_.append(block.data(), count);
        }
    }
    Task<void> say(std::string text) {
        const auto bytes = asio::buffer(text);
        co_await asio::async_write(socket_, bytes, asio::as_tuple(asio::use_awaitable));
    }
    // Returns when the client has hung up.
    Task<void> wait_for_end() {
        std::string rest = "more";
        while (!rest.empty())
            rest = co_await request();
    }
    void close() { socket_.close(); }

  private:
    static std::size_t content_length(const std::string& head) {
        const std::size_t at = head.find("Content-Length: ");
        return at == std::string::npos ? 0 : std::stoul(head.substr(at + 16));
    }

    typename Protocol::socket socket_;
    std::string buffer_;
};

// Accepts until it is destroyed and gives each connection to `serve`, a function (or a lambda
// without captures: it is a coroutine) that gets the connection and its number, from 0.
template <class Protocol>
class PeerOf {
  public:
    using Connection = std::shared_ptr<ConnectionOf<Protocol>>;
    using Serve = std::function<Task<void>(PeerOf*, Connection, int)>;

    PeerOf(Loop& loop, typename Protocol::endpoint at, Serve serve)
        : loop_(loop), acceptor_(loop, at), serve_(std::move(serve)) {
        asio::co_spawn(loop_, accept(this), asio::detached);
    }
    ~PeerOf() {
        stop();
        // Coroutines that still run point here: let them end.
        run_until(loop_, [&] { return !accepting_ && serving_ == 0; });
    }
    PeerOf(const PeerOf&) = delete;
    PeerOf& operator=(const PeerOf&) = delete;

    // Takes no more connections and closes those that there are.
    void stop() {
        acceptor_.close();
        for (const std::weak_ptr<ConnectionOf<Protocol>>& weak : connections_) {
            if (const Connection connection = weak.lock()) connection->close();
        }
    }
    [[nodiscard]] int accepted() const { return static_cast<int>(connections_.size()); }
    [[nodiscard]] auto endpoint() const { return acceptor_.local_endpoint(); }

    std::vector<std::string> requests;  // for `serve` to note what came
    int stage = 0;                      // for `serve` and the test to talk

  private:
    static Task<void> accept(PeerOf* self) {
        self->accepting_ = true;
        for (;;) {
            auto [error, socket] =
                co_await self->acceptor_.async_accept(asio::as_tuple(asio::use_awaitable));
            if (error) break;
            const int number = self->accepted();
            auto connection = std::make_shared<ConnectionOf<Protocol>>(std::move(socket));
            self->connections_.push_back(connection);
            ++self->serving_;
            asio::co_spawn(self->loop_, self->serve_(self, std::move(connection), number),
                           [self](const std::exception_ptr&) { --self->serving_; });
        }
        self->accepting_ = false;
    }

    Loop& loop_;
    typename Protocol::acceptor acceptor_;
    Serve serve_;
    std::vector<std::weak_ptr<ConnectionOf<Protocol>>> connections_;
    bool accepting_ = true;
    int serving_ = 0;
};

class Peer : public PeerOf<asio::ip::tcp> {
  public:
    Peer(Loop& loop, Serve serve)
        : PeerOf(loop, {asio::ip::address_v4::loopback(), 0}, std::move(serve)) {}
    [[nodiscard]] std::string url(const std::string& path = "/") const {
        return "http://127.0.0.1:" + std::to_string(endpoint().port()) + path;
    }
};

using Connection = Peer::Connection;

inline std::string answer(const std::string& status, const std::string& body,
                          const std::string& headers = {}) {
    return "HTTP/1.1 " + status + "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
           headers + "\r\n" + body;
}

}  // namespace keel::test
