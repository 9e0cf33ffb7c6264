#include "keeld/outside_clock.h"

#include <spdlog/spdlog.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include "keeld/signal.h"

namespace keel {
namespace {

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr auto kFirst = std::chrono::seconds(5);
constexpr auto kSettling = std::chrono::milliseconds(1);
constexpr std::size_t kLongest = 64;
constexpr std::size_t kRemembered = 4096;

}  // namespace

class OutsideClock::Connection {
  public:
    explicit Connection(Loop& loop) : socket(loop), patience(loop) {}

    // Empty: the peer has gone, or what it wrote is no line.
    [[nodiscard]] Task<std::string> line() {
        const auto [error, size] = co_await asio::async_read_until(
            socket, asio::dynamic_buffer(buffer, kLongest), '\n', kToken);
        if (error) {
            co_return std::string();
        }
        std::string text = buffer.substr(0, size - 1);
        buffer.erase(0, size);
        co_return text;
    }

    asio::local::stream_protocol::socket socket;
    asio::steady_timer patience;
    std::string buffer;
};

bool OutsideClock::take(const std::string& line) {
    const std::optional<Time> time = parse_time(line);
    if (!time) {
        return false;
    }
    told_.push_back({SystemClock().now(), *time});
    if (told_.size() > kRemembered) {
        told_.pop_front();
    }
    if (moved_) {
        moved_();
    }
    return true;
}

Task<Expected<void>> OutsideClock::start() {
    connection_ = std::make_shared<Connection>(loop_);
    const std::shared_ptr<Connection> connection = connection_;
    const asio::local::stream_protocol::endpoint where(path_);
    const auto [error] = co_await connection->socket.async_connect(where, kToken);
    if (error) {
        co_return fail("clock", "--clock unix:" + path_ + ": " + error.message() +
                                    "; somebody has to listen there and to write times");
    }
    connection->patience.expires_after(kFirst);
    connection->patience.async_wait([connection](boost::system::error_code cancelled) {
        if (!cancelled) {
            connection->socket.close();
        }
    });
    const std::string first = co_await connection->line();
    connection->patience.cancel();
    if (!take(first)) {
        co_return fail("clock", "--clock unix:" + path_ +
                                    ": no time came within 5 s; expected lines such as "
                                    "2026-11-22T12:00:00Z");
    }
    co_return Expected<void>{};
}

Task<void> OutsideClock::run() {
    const std::shared_ptr<Connection> connection = connection_;
    std::string answer = format_time(now()) + "\n";
    for (;;) {
        while (settled_ && !settled_()) {
            co_await pause_for(loop_, kSettling);
        }
        const auto buffer = asio::buffer(answer);
        const auto [error, size] = co_await asio::async_write(connection->socket, buffer, kToken);
        if (error) {
            break;
        }
        const std::string line = co_await connection->line();
        if (!take(line)) {
            break;
        }
        answer = line + "\n";
    }
    spdlog::warn("--clock unix:{}: nothing more comes; it stands at {}", path_, format_time(now()));
}

void OutsideClock::stop() {
    if (connection_) {
        connection_->socket.close();
    }
}

Time OutsideClock::now() const {
    return told_.empty() ? Time{} : told_.back().shown;
}

Time OutsideClock::shown_at(Time real) const {
    for (auto at = told_.rbegin(); at != told_.rend(); ++at) {
        if (at->real <= real) {
            return at->shown;
        }
    }
    // Before anything was told it ran like the system's.
    return told_.empty() ? real : told_.front().shown - (told_.front().real - real);
}

Steady::time_point OutsideClock::when(Time moment) const {
    return moment <= now() ? Steady::now() : Steady::time_point::max();
}

}  // namespace keel
