// The HTTP server over real sockets: what a client sees when it behaves, and when it does not.
#include "keeld/api/server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "keeld/address.h"

namespace keel {
namespace {

constexpr std::chrono::seconds kDeadline{20};

// A client that does not block: what it gets is read while the loop runs.
class Client {
  public:
    explicit Client(const std::string& address) {
        const auto where = ListenAddress::parse(address);
        if (!where) throw std::runtime_error(where.error().text);
        if (!where->socket.empty()) {
            sockaddr_un name{};
            name.sun_family = AF_UNIX;
            where->socket.copy(name.sun_path, sizeof(name.sun_path) - 1);
            connect(AF_UNIX, reinterpret_cast<sockaddr*>(&name), sizeof(name));
        } else {
            sockaddr_in name{};
            name.sin_family = AF_INET;
            name.sin_port = htons(where->port);
            ::inet_pton(AF_INET, where->host.c_str(), &name.sin_addr);
            connect(AF_INET, reinterpret_cast<sockaddr*>(&name), sizeof(name));
        }
    }
    ~Client() { ::close(fd_); }
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    Client& send(const std::string& text) {
        EXPECT_EQ(::send(fd_, text.data(), text.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(text.size()));
        return *this;
    }

    // Takes what is there. Returns what was read so far.
    const std::string& read() {
        char buffer[65536];
        for (;;) {
            const ssize_t size = ::recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT);
            if (size > 0) {
                text_.append(buffer, static_cast<std::size_t>(size));
                continue;
            }
            closed_ = closed_ || size == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
            return text_;
        }
    }
    [[nodiscard]] bool closed() {
        read();
        return closed_;
    }
    // So many whole answers are there (by their heads; bodies are small and come with them).
    [[nodiscard]] bool answers(int count) {
        read();
        int found = 0;
        for (auto at = text_.find("HTTP/1.1 "); at != std::string::npos;
             at = text_.find("HTTP/1.1 ", at + 1)) {
            if (text_.find("\r\n\r\n", at) != std::string::npos) ++found;
        }
        return found >= count;
    }
    [[nodiscard]] std::string body() const {
        const auto head = text_.find("\r\n\r\n");
        return head == std::string::npos ? "" : text_.substr(head + 4);
    }
    [[nodiscard]] bool has(const std::string& part) const {
        return text_.find(part) != std::string::npos;
    }

  private:
    void connect(int family, const sockaddr* address, socklen_t size) {
        fd_ = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (::connect(fd_, address, size) != 0) throw std::runtime_error("not connected");
    }

    int fd_ = -1;
    bool closed_ = false;
    std::string text_;
};

class ServerTest : public testing::Test {
  protected:
    ServerTest() {
        std::string pattern = (std::filesystem::temp_directory_path() / "server-XXXXXX").string();
        directory_ = ::mkdtemp(pattern.data());
        socket_ = "unix:" + (directory_ / "keeld.sock").string();
        limits_.max_body = 1000;
    }
    ~ServerTest() override {
        server_.reset();
        loop_.restart();
        loop_.run_for(std::chrono::milliseconds(50));
        std::error_code ignored;
        std::filesystem::remove_all(directory_, ignored);
    }

    static ListenConfig at(const std::string& where) {
        ListenConfig config;
        config.at = where;
        return config;
    }

    // Answers with what arrived, one thing a line.
    Task<ApiResponse> echo(ApiRequest request) {
        ++calls_;
        if (request.path == "/throw") throw std::runtime_error("a library's exception");
        if (request.path == "/wait") {
            asio::steady_timer forever(loop_, asio::steady_timer::time_point::max());
            waiting_ = &forever;
            const Guard guard(&waiting_);
            try {
                co_await forever.async_wait(asio::use_awaitable);
            } catch (const boost::system::system_error&) {
                if (!released_) {
                    cancelled_ = true;
                    throw;
                }
            }
        }
        ApiResponse response;
        response.content_type = "text/plain";
        response.body = request.method + " " + request.path + "\n";
        for (const auto& [name, value] : request.query)
            response.body += name + "=" + value + "\n";
        response.body += "x-a: " + std::string(request.header("x-a")) + "\n";
        response.body +=
            std::string(request.local_socket ? "local" : "tcp") + " " + request.serve + "\n";
        response.body += request.body;
        response.headers.emplace_back("X-Extra", "1");
        co_return response;
    }

    Server& server() {
        if (!server_) {
            ApiHandler handler = [this](ApiRequest request) { return echo(std::move(request)); };
            server_ = std::make_unique<Server>(loop_, handler, limits_);
        }
        return *server_;
    }

    // Listens there and returns the address that was bound.
    std::string listen(const std::string& where) {
        const auto bound = server().listen(at(where));
        EXPECT_TRUE(bound.has_value()) << bound.error().text;
        return server().addresses().empty() ? "" : server().addresses().back();
    }
    std::string refusal(const std::string& where) {
        const auto bound = server().listen(at(where));
        EXPECT_FALSE(bound.has_value());
        if (bound) return "";
        EXPECT_EQ(bound.error().code, "listen");
        return bound.error().text;
    }

    template <class Condition>
    void run_until(Condition done) {
        const auto end = std::chrono::steady_clock::now() + kDeadline;
        while (!done() && std::chrono::steady_clock::now() < end) {
            loop_.restart();
            loop_.run_one_for(std::chrono::milliseconds(5));
        }
        ASSERT_TRUE(done()) << "not within the deadline";
    }

    // One request, one answer.
    std::string ask(const std::string& address, const std::string& request) {
        Client client(address);
        client.send(request);
        run_until([&] { return client.answers(1); });
        return client.read();
    }

    static Task<void> shut(Server& server, std::chrono::milliseconds grace, bool& done) {
        co_await server.shutdown(grace);
        done = true;
    }

    struct Guard {
        explicit Guard(asio::steady_timer** place) : place_(place) {}
        ~Guard() { *place_ = nullptr; }
        asio::steady_timer** place_;
    };

    Loop loop_;
    ServerLimits limits_;
    std::filesystem::path directory_;
    std::string socket_;
    std::unique_ptr<Server> server_;
    int calls_ = 0;
    asio::steady_timer* waiting_ = nullptr;
    bool released_ = false;
    bool cancelled_ = false;
};

TEST_F(ServerTest, AnswersOnAUnixSocket) {
    listen(socket_);
    const std::string answer =
        ask(socket_,
            "GET /v1/work%20loads?a=1&b=%2Fx&c&d=1+2 HTTP/1.1\r\nHost: keeld\r\nX-A: 7\r\n\r\n");
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
    EXPECT_NE(answer.find("Content-Type: text/plain\r\n"), std::string::npos) << answer;
    EXPECT_NE(answer.find("X-Extra: 1\r\n"), std::string::npos);
    EXPECT_NE(answer.find("\r\nDate: "), std::string::npos);
    EXPECT_NE(
        answer.find("GET /v1/work loads\na=1\nb=/x\nc=\nd=1+2\nx-a: 7\nlocal " + socket_ + "\n"),
        std::string::npos)
        << answer;
}

TEST_F(ServerTest, AnswersOnLoopbackWithItsRealPort) {
    const std::string address = listen("127.0.0.1:0");
    EXPECT_TRUE(address.starts_with("127.0.0.1:")) << address;
    EXPECT_FALSE(address.ends_with(":0"));
    const std::string answer = ask(
        address, "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
    EXPECT_NE(answer.find("POST /v1/events\n"), std::string::npos) << answer;
    EXPECT_NE(answer.find("tcp " + address + "\nhello"), std::string::npos) << answer;
    listen(socket_);
    EXPECT_EQ(server().addresses(), (std::vector<std::string>{address, socket_}));
}

TEST_F(ServerTest, ReadsChunkedBodies) {
    listen(socket_);
    const std::string answer =
        ask(socket_,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    EXPECT_TRUE(answer.ends_with("\nabcde")) << answer;
}

TEST_F(ServerTest, OneConnectionCarriesManyRequests) {
    listen(socket_);
    Client client(socket_);
    client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n");
    run_until([&] { return client.answers(2); });
    client.send("GET /three HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    run_until([&] { return client.closed(); });
    EXPECT_TRUE(client.has("GET /one\n"));
    EXPECT_TRUE(client.has("GET /two\n"));
    EXPECT_TRUE(client.has("GET /three\n"));
}

TEST_F(ServerTest, HeadHasTheLengthAndNoBody) {
    listen(socket_);
    Client client(socket_);
    client.send("HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    run_until([&] { return client.closed(); });
    EXPECT_TRUE(client.has("\r\nContent-Length: "));
    EXPECT_FALSE(client.has("Content-Length: 0"));
    EXPECT_EQ(client.body(), "");
}

TEST_F(ServerTest, ExpectContinueIsAnswered) {
    listen(socket_);
    Client client(socket_);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    run_until([&] { return client.answers(1); });
    EXPECT_TRUE(client.read().starts_with("HTTP/1.1 100"));
    client.send("abc");
    run_until([&] { return client.answers(2); });
    EXPECT_TRUE(client.read().ends_with("\nabc"));
}

TEST_F(ServerTest, E2_OversizedBodiesAreRefusedUnread) {
    listen(socket_);
    Client announced(socket_);
    announced.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n");
    run_until([&] { return announced.closed(); });
    EXPECT_TRUE(announced.has("HTTP/1.1 413 ")) << announced.read();
    EXPECT_EQ(
        announced.body(),
        "{\"error\":{\"code\":\"too-large\",\"text\":\"the body is larger than 1000 bytes\"}}\n");
    Client chunked(socket_);
    chunked.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" +
                 std::string(1001, 'x'));
    run_until([&] { return chunked.closed(); });
    EXPECT_TRUE(chunked.has("HTTP/1.1 413 ")) << chunked.read();
    EXPECT_EQ(calls_, 0);
    EXPECT_NE(ask(socket_, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" +
                               std::string(1000, 'x'))
                  .find("200 OK"),
              std::string::npos);
}

TEST_F(ServerTest, E2_OversizedHeadsAreRefused) {
    listen(socket_);
    Client client(socket_);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-A: " + std::string(20'000, 'x') + "\r\n\r\n");
    run_until([&] { return client.closed(); });
    EXPECT_TRUE(client.has("HTTP/1.1 431 ")) << client.read();
    EXPECT_EQ(calls_, 0);
}

TEST_F(ServerTest, E2_WhatIsNotARequestIsRefused) {
    listen(socket_);
    for (const std::string request :
         {"nonsense\r\n\r\n", "GET / HTTP/1.1\r\nbad header\r\n\r\n",
          "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
          "GET /?a=%2 HTTP/1.1\r\nHost: a\r\n\r\n",
          "GET http://elsewhere/ HTTP/1.1\r\nHost: a\r\n\r\n"}) {
        const std::string answer = ask(socket_, request);
        EXPECT_TRUE(answer.starts_with("HTTP/1.1 400 ")) << request << answer;
        EXPECT_NE(answer.find("\"code\":\"bad-request\""), std::string::npos) << answer;
    }
    EXPECT_EQ(calls_, 0);
}

TEST_F(ServerTest, ASlowClientIsDropped) {
    limits_.request_time = std::chrono::milliseconds(100);
    listen(socket_);
    Client client(socket_);
    client.send("GET / HTT");
    run_until([&] { return client.closed(); });
    EXPECT_EQ(client.read(), "");
    EXPECT_EQ(calls_, 0);
}

TEST_F(ServerTest, AnIdleClientIsDroppedWithoutAWord) {
    limits_.idle_time = std::chrono::milliseconds(100);
    listen(socket_);
    Client client(socket_);
    run_until([&] { return client.closed(); });
    EXPECT_EQ(client.read(), "");
}

TEST_F(ServerTest, AtTheLimitIdleConnectionsMakeRoom) {
    limits_.max_connections = 2;
    listen(socket_);
    Client first(socket_);
    Client second(socket_);
    first.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    second.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    run_until([&] { return first.answers(1) && second.answers(1); });
    Client third(socket_);
    third.send("GET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    run_until([&] { return third.answers(1); });
    EXPECT_TRUE(first.closed());
}

TEST_F(ServerTest, AtTheLimitBusyConnectionsAreWaitedFor) {
    limits_.max_connections = 1;
    listen(socket_);
    Client busy(socket_);
    busy.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    run_until([&] { return waiting_ != nullptr; });
    Client next(socket_);
    next.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    loop_.restart();
    loop_.poll();
    EXPECT_FALSE(next.answers(1));
    released_ = true;
    waiting_->cancel();
    run_until([&] { return busy.answers(1) && next.answers(1); });
    EXPECT_TRUE(busy.has("GET /wait"));
    EXPECT_TRUE(next.has("GET /next"));
}

TEST_F(ServerTest, OtherHostNamesAreRefusedOnLoopback) {
    const std::string address = listen("127.0.0.1:0");
    for (const std::string host :
         {"evil.example", "evil.example:80", "192.0.2.1", "", "127.0.0.1.evil.example"}) {
        const std::string answer = ask(address, "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
        EXPECT_TRUE(answer.starts_with("HTTP/1.1 421 ")) << host << answer;
    }
    EXPECT_EQ(calls_, 0);
    for (const std::string host :
         {"localhost", "LOCALHOST:80", "127.0.0.1:80", "127.0.0.1", "[::1]:80", "[::1]"}) {
        const std::string answer = ask(address, "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
        EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 ")) << host << answer;
    }
}

TEST_F(ServerTest, AThrowingHandlerCostsOneRequest) {
    listen(socket_);
    const std::string answer = ask(socket_, "GET /throw HTTP/1.1\r\nHost: a\r\n\r\n");
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 500 ")) << answer;
    EXPECT_NE(answer.find("an error inside keeld: a library's exception"), std::string::npos)
        << answer;
    EXPECT_TRUE(ask(socket_, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

// --- socket files ---

TEST_F(ServerTest, SocketsHaveTheirModeAndGoWithTheServer) {
    ListenConfig config = at(socket_);
    config.mode = "0640";
    ASSERT_TRUE(server().listen(config));
    struct stat status {};
    const std::string path = socket_.substr(5);
    ASSERT_EQ(::stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0640U);
    server_.reset();
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(ServerTest, AStaleSocketIsReplaced) {
    const std::string path = socket_.substr(5);
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    path.copy(name.sun_path, sizeof(name.sun_path) - 1);
    const int stale = ::socket(AF_UNIX, SOCK_STREAM, 0);
    ASSERT_EQ(::bind(stale, reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
    ::close(stale);
    ASSERT_TRUE(std::filesystem::exists(path));
    listen(socket_);
    EXPECT_TRUE(ask(socket_, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

TEST_F(ServerTest, E2_ALiveSocketAndAForeignFileAreLeftAlone) {
    listen(socket_);
    EXPECT_EQ(refusal(socket_),
              socket_ + ": another process answers there; stop it, or use another path");
    EXPECT_TRUE(ask(socket_, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200 "));
    std::ofstream(directory_ / "file") << "data";
    const std::string file = (directory_ / "file").string();
    EXPECT_EQ(refusal("unix:" + file),
              "unix:" + file + ": there is a file that is not a socket; move it away");
    EXPECT_EQ(std::filesystem::file_size(file), 4U);
}

TEST_F(ServerTest, E2_AddressesThatCannotBeBoundAreNamed) {
    const std::string address = listen("127.0.0.1:0");
    EXPECT_EQ(refusal(address), address + ": Address already in use");
    const std::string missing = "unix:" + (directory_ / "no/keeld.sock").string();
    EXPECT_EQ(refusal(missing), missing + ": No such file or directory; " +
                                    (directory_ / "no").string() +
                                    " must exist and be writable for keeld");
    EXPECT_NE(refusal("0.0.0.0:80").find("is not a loopback address"), std::string::npos);
}

// --- ending ---

TEST_F(ServerTest, ShutdownLetsOpenRequestsEnd) {
    listen(socket_);
    Client busy(socket_);
    Client idle(socket_);
    idle.send("GET /idle HTTP/1.1\r\nHost: a\r\n\r\n");
    busy.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    run_until([&] { return waiting_ != nullptr && idle.answers(1); });
    bool done = false;
    asio::co_spawn(loop_, shut(server(), std::chrono::seconds(30), done), asio::detached);
    run_until([&] { return idle.closed(); });
    EXPECT_FALSE(done);
    EXPECT_FALSE(std::filesystem::exists(socket_.substr(5)));
    released_ = true;
    waiting_->cancel();
    run_until([&] { return done && busy.closed(); });
    EXPECT_TRUE(busy.has("HTTP/1.1 200 ")) << busy.read();
    EXPECT_TRUE(busy.has("Connection: close")) << busy.read();
    EXPECT_FALSE(cancelled_);
}

TEST_F(ServerTest, ShutdownCancelsWhatDoesNotEnd) {
    listen(socket_);
    Client busy(socket_);
    busy.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    run_until([&] { return waiting_ != nullptr; });
    bool done = false;
    asio::co_spawn(loop_, shut(server(), std::chrono::milliseconds(50), done), asio::detached);
    run_until([&] { return done && busy.closed(); });
    EXPECT_TRUE(cancelled_);
    EXPECT_EQ(busy.read(), "");
}

TEST_F(ServerTest, TheDestructorEndsEveryCoroutine) {
    listen(socket_);
    Client busy(socket_);
    busy.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    Client idle(socket_);
    run_until([&] { return waiting_ != nullptr; });
    server_.reset();
    loop_.restart();
    loop_.run_for(kDeadline);  // returns at once when nothing is left to wait for
    EXPECT_TRUE(loop_.stopped());
    EXPECT_TRUE(cancelled_);
    EXPECT_TRUE(busy.closed());
    EXPECT_TRUE(idle.closed());
}

}  // namespace
}  // namespace keel
