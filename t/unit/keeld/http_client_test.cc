// The HTTP client against peers that are slow, hang up, never answer or lie.
#include "keeld/http/client.h"

#include <dirent.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <filesystem>

#include "unit/keeld/peer.h"

namespace keel {
namespace {

using test::answer;
using test::await;
using test::Connection;
using test::Peer;
using test::run_until;
using PeerBase = test::PeerOf<asio::ip::tcp>;

class HttpClientTest : public testing::Test {
  protected:
    HttpRequest get(const std::string& url) {
        HttpRequest request;
        request.url = url;
        return request;
    }
    Expected<HttpResponse> send(HttpRequest request) {
        return await(loop, client.send(std::move(request)));
    }

    Loop loop;
    HttpClient client{loop, "keeld/test"};
};

// Answers every request of a connection and notes it.
Task<void> polite(PeerBase* peer, Connection connection, int) {
    for (;;) {
        std::string request = co_await connection->request();
        if (request.empty()) co_return;
        peer->requests.push_back(request);
        const bool head = request.starts_with("HEAD");
        std::string text = answer("200 OK", "hello", "X-One: 1\r\nx-two:  2 \r\n");
        if (head) text.resize(text.size() - 5);
        co_await connection->say(std::move(text));
    }
}

TEST_F(HttpClientTest, GivesStatusHeadersAndBody) {
    Peer peer{loop, polite};
    HttpRequest request = get(peer.url("/v2/?n=1"));
    request.headers = {{"Accept", "a/b"}, {"Accept", "c/d"}, {"X-Empty", ""}};
    const auto response = send(request);
    ASSERT_TRUE(response) << response.error().text;
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->body, "hello");
    EXPECT_EQ(response->header("X-ONE"), "1");
    EXPECT_EQ(response->header("X-Two"), "2");
    EXPECT_EQ(response->header("none"), "");
    ASSERT_EQ(peer.requests.size(), 1U);
    const std::string& sent = peer.requests[0];
    EXPECT_TRUE(sent.starts_with("GET /v2/?n=1 HTTP/1.1\r\n")) << sent;
    EXPECT_NE(sent.find("Accept: a/b\r\nAccept: c/d\r\nX-Empty:"), std::string::npos) << sent;
    EXPECT_NE(sent.find("User-Agent: keeld/test\r\n"), std::string::npos) << sent;
}

TEST_F(HttpClientTest, SendsBodiesWithoutAskingFirst) {
    Peer peer{loop, polite};
    HttpRequest request = get(peer.url());
    request.method = "PATCH";
    request.headers = {{"Content-Type", "application/merge-patch+json"}};
    request.body = std::string(2U << 20U, 'x');  // libcurl would ask with Expect above 1 MiB
    ASSERT_TRUE(send(request));
    const std::string& sent = peer.requests.at(0);
    EXPECT_TRUE(sent.starts_with("PATCH / "));
    EXPECT_EQ(sent.find("Expect"), std::string::npos);
    EXPECT_NE(sent.find("Content-Type: application/merge-patch+json\r\n"), std::string::npos);
    EXPECT_TRUE(sent.ends_with("\r\n\r\n" + request.body));

    HttpRequest empty = get(peer.url());
    empty.method = "POST";
    ASSERT_TRUE(send(empty));
    EXPECT_NE(peer.requests.at(1).find("Content-Length: 0\r\n"), std::string::npos);
    EXPECT_EQ(peer.requests.at(1).find("Content-Type"), std::string::npos);
}

TEST_F(HttpClientTest, HeadHasNoBody) {
    Peer peer{loop, polite};
    HttpRequest request = get(peer.url());
    request.method = "HEAD";
    const auto response = send(request);
    ASSERT_TRUE(response) << response.error().text;
    EXPECT_EQ(response->body, "");
    EXPECT_EQ(response->header("content-length"), "5");
}

TEST_F(HttpClientTest, KeepsConnections) {
    Peer peer{loop, polite};
    for (int i = 0; i < 5; ++i)
        ASSERT_TRUE(send(get(peer.url())));
    EXPECT_EQ(peer.accepted(), 1);
}

// The server closes a kept connection while the next request is on its way.
Task<void> hangs_up_on_second(PeerBase* peer, Connection connection, int number) {
    peer->requests.push_back(co_await connection->request());
    co_await connection->say(answer("200 OK", std::to_string(number)));
    if (number == 0) {
        peer->requests.push_back(co_await connection->request());
        connection->close();
    }
    co_await connection->wait_for_end();
}

TEST_F(HttpClientTest, ReplacesAKeptConnectionThatWasClosed) {
    Peer peer{loop, hangs_up_on_second};
    ASSERT_EQ(send(get(peer.url()))->body, "0");
    const auto second = send(get(peer.url()));
    ASSERT_TRUE(second) << second.error().text;
    EXPECT_EQ(second->body, "1");
    EXPECT_EQ(peer.accepted(), 2);
    EXPECT_EQ(peer.requests.size(), 3U);
}

Task<void> silent(PeerBase*, Connection connection, int) {
    co_await connection->wait_for_end();
}

TEST_F(HttpClientTest, NoAnswerIsATimeout) {
    Peer peer{loop, silent};
    HttpRequest request = get(peer.url("/path?token=secret"));
    request.url.insert(7, "user:secret@");
    request.timeout = Millis{100};
    const auto response = send(request);
    ASSERT_FALSE(response);
    EXPECT_EQ(response.error().code, "timeout");
    EXPECT_NE(response.error().text.find(peer.url("/path")), std::string::npos);
    EXPECT_EQ(response.error().text.find("secret"), std::string::npos) << response.error().text;
}

Task<void> starts_a_stream(PeerBase*, Connection connection, int) {
    co_await connection->request();
    co_await connection->say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (const char* piece : {"3\r\none\r\n", "3\r\ntwo\r\n"}) {
        std::string text = piece;
        co_await connection->say(std::move(text));
    }
    co_await connection->wait_for_end();
}

TEST_F(HttpClientTest, AStreamThatFallsSilentIsATimeout) {
    Peer peer{loop, starts_a_stream};
    HttpRequest request = get(peer.url());
    request.timeout = Millis{0};
    request.idle_timeout = Millis{150};
    std::string seen;
    int status = 0;
    request.on_status = [&](int value) {
        EXPECT_EQ(seen, "");
        status = value;
    };
    request.on_data = [&](std::string_view data) {
        EXPECT_EQ(status, 200);
        seen += data;
        return true;
    };
    const auto begun = Steady::now();
    const auto response = send(request);
    ASSERT_FALSE(response);
    EXPECT_EQ(response.error().code, "timeout");
    EXPECT_EQ(seen, "onetwo");
    EXPECT_GE(Steady::now() - begun, Millis{150});
}

TEST_F(HttpClientTest, TheReceiverMayStopAStream) {
    Peer peer{loop, starts_a_stream};
    HttpRequest request = get(peer.url());
    request.timeout = Millis{0};
    std::string seen;
    request.on_data = [&](std::string_view data) {
        seen += data;
        return seen.find("two") == std::string::npos;
    };
    const auto response = send(request);
    ASSERT_FALSE(response);
    EXPECT_EQ(response.error().code, "stopped");
    EXPECT_EQ(seen, "onetwo");
}

Task<void> refuses_a_stream(PeerBase*, Connection connection, int) {
    co_await connection->request();
    co_await connection->say(answer("403 Forbidden", "no"));
    co_await connection->wait_for_end();
}

TEST_F(HttpClientTest, OnlySuccessIsStreamed) {
    Peer peer{loop, refuses_a_stream};
    HttpRequest request = get(peer.url());
    request.on_data = [](std::string_view) {
        ADD_FAILURE() << "a refusal is no stream";
        return true;
    };
    const auto response = send(request);
    ASSERT_TRUE(response);
    EXPECT_EQ(response->status, 403);
    EXPECT_EQ(response->body, "no");
}

TEST_F(HttpClientTest, RequestsMayBeStartedFromInsideAStream) {
    Peer peer{loop, starts_a_stream};
    Peer other{loop, polite};
    HttpRequest request = get(peer.url());
    request.timeout = Millis{0};
    int answered = 0;
    request.on_data = [&](std::string_view) {
        asio::co_spawn(loop, client.send(get(other.url())),
                       [&](const std::exception_ptr&, const Expected<HttpResponse>& response) {
                           EXPECT_TRUE(response);
                           ++answered;
                       });
        return false;
    };
    EXPECT_EQ(send(request).error().code, "stopped");
    EXPECT_TRUE(run_until(loop, [&] { return answered > 0; }));
}

Task<void> hangs_up_in_the_body(PeerBase*, Connection connection, int) {
    co_await connection->request();
    co_await connection->say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    connection->close();
}

TEST_F(HttpClientTest, HalfABodyIsNoAnswer) {
    Peer peer{loop, hangs_up_in_the_body};
    const auto response = send(get(peer.url()));
    ASSERT_FALSE(response);
    EXPECT_EQ(response.error().code, "truncated");
    EXPECT_TRUE(is_away(response.error()));
}

Task<void> refuses_and_hangs_up(PeerBase*, Connection connection, int) {
    co_await connection->request();
    co_await connection->say("HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\nhalf");
    connection->close();
}

TEST_F(HttpClientTest, HalfARefusalIsARefusal) {
    Peer peer{loop, refuses_and_hangs_up};
    const auto response = send(get(peer.url()));
    ASSERT_TRUE(response) << response.error().text;
    EXPECT_EQ(response->status, 401);
    EXPECT_EQ(response->body, "half");
}

Task<void> hangs_up_at_once(PeerBase*, Connection connection, int) {
    co_await connection->request();
    connection->close();
}

TEST_F(HttpClientTest, NoAnswerAndRefusalAreUnreachable) {
    std::string url;
    {
        Peer peer{loop, hangs_up_at_once};
        url = peer.url();
        EXPECT_EQ(send(get(url)).error().code, "unreachable");
    }
    EXPECT_EQ(send(get(url)).error().code, "unreachable");
    EXPECT_EQ(send(get("http://name.invalid/")).error().code, "no-such-host");
}

TEST_F(HttpClientTest, ABodyHasALimit) {
    Peer peer{loop, polite};
    HttpRequest request = get(peer.url());
    request.max_body = 4;
    EXPECT_EQ(send(request).error().code, "too-large");
    request.max_body = 5;
    EXPECT_TRUE(send(request));
}

TEST_F(HttpClientTest, BadUrlsAndHeadersAreRefused) {
    EXPECT_EQ(send(get("no url")).error().code, "bad-url");
    EXPECT_EQ(send(get("file:///etc/passwd")).error().code, "bad-url");
    HttpRequest request = get("http://127.0.0.1:1/");
    request.headers = {{"X-A", "b\r\nX-Injected: 1"}};
    EXPECT_EQ(send(request).error().code, "bad-url");
}

Task<void> redirects(PeerBase* peer, Connection connection, int) {
    for (;;) {
        std::string request = co_await connection->request();
        if (request.empty()) co_return;
        peer->requests.push_back(request);
        std::string text = answer("200 OK", "there");
        if (request.starts_with("GET /away")) {
            // The same machine under another name is another host.
            text = answer("302 Found", "moved",
                          "Location: http://localhost:" + std::to_string(peer->endpoint().port()) +
                              "/there\r\n");
        }
        co_await connection->say(std::move(text));
    }
}

TEST_F(HttpClientTest, RedirectsAreFollowedOnRequestAndWithoutTheToken) {
    Peer peer{loop, redirects};
    HttpRequest request = get(peer.url("/away"));
    request.headers = {{"Authorization", "Bearer secret"}};
    EXPECT_EQ(send(request)->status, 302);
    request.follow_redirects = true;
    int status = 0;
    request.on_status = [&](int value) { status = value; };
    const auto response = send(request);
    ASSERT_TRUE(response) << response.error().text;
    EXPECT_EQ(response->body, "there");
    EXPECT_EQ(response->header("location"), "");
    EXPECT_EQ(status, 200);
    ASSERT_EQ(peer.requests.size(), 3U);
    EXPECT_NE(peer.requests[1].find("Bearer secret"), std::string::npos);
    EXPECT_EQ(peer.requests[2].find("Bearer secret"), std::string::npos);
}

TEST_F(HttpClientTest, TalksToUnixSockets) {
    const std::string path =
        std::filesystem::temp_directory_path() / ("keel-http-" + std::to_string(getpid()));
    using Local = asio::local::stream_protocol;
    {
        test::PeerOf<Local> peer{loop, Local::endpoint{path},
                                 [](test::PeerOf<Local>*,
                                    test::PeerOf<Local>::Connection connection, int) -> Task<void> {
                                     co_await connection->request();
                                     co_await connection->say(answer("200 OK", "local"));
                                     co_await connection->wait_for_end();
                                 }};
        HttpRequest request = get("http://keel/status");
        request.unix_socket = path;
        const auto response = send(request);
        ASSERT_TRUE(response) << response.error().text;
        EXPECT_EQ(response->body, "local");
        client.shutdown();
    }
    std::filesystem::remove(path);
}

TEST_F(HttpClientTest, CancellationOfTheCoroutineEndsTheTransfer) {
    Peer peer{loop, silent};
    asio::cancellation_signal cancel;
    std::optional<std::string> code;
    asio::co_spawn(
        loop, client.send(get(peer.url())),
        asio::bind_cancellation_slot(cancel.slot(), [&](const std::exception_ptr& thrown,
                                                        const Expected<HttpResponse>& response) {
            code = thrown ? "thrown" : response ? "ok" : response.error().code;
        }));
    ASSERT_TRUE(run_until(loop, [&] { return peer.accepted() == 1; }));
    cancel.emit(asio::cancellation_type::terminal);
    ASSERT_TRUE(run_until(loop, [&] { return code.has_value(); }));
    EXPECT_EQ(*code, "cancelled");
}

TEST_F(HttpClientTest, ShutdownEndsEverything) {
    Peer peer{loop, silent};
    std::vector<std::string> codes;
    for (int i = 0; i < 3; ++i) {
        asio::co_spawn(loop, client.send(get(peer.url())),
                       [&](const std::exception_ptr&, const Expected<HttpResponse>& response) {
                           codes.push_back(response ? "ok" : response.error().code);
                       });
    }
    ASSERT_TRUE(run_until(loop, [&] { return peer.accepted() == 3; }));
    client.shutdown();
    ASSERT_TRUE(run_until(loop, [&] { return codes.size() == 3; }));
    EXPECT_EQ(codes, (std::vector<std::string>(3, "cancelled")));
    EXPECT_EQ(send(get(peer.url())).error().code, "cancelled");
}

TEST(HttpClientLifeTest, MayDieBeforeItsTransfersAndTheLoopBeforeBoth) {
    Loop loop;
    Peer peer{loop, silent};
    std::optional<std::string> code;
    {
        HttpClient client{loop, "keeld/test"};
        HttpRequest request;
        request.url = peer.url();
        asio::co_spawn(loop, client.send(std::move(request)),
                       [&](const std::exception_ptr&, const Expected<HttpResponse>& response) {
                           code = response ? "ok" : response.error().code;
                       });
        ASSERT_TRUE(run_until(loop, [&] { return peer.accepted() == 1; }));
    }
    EXPECT_TRUE(run_until(loop, [&] { return code.has_value(); }));
    EXPECT_EQ(code, "cancelled");

    // A frame that is destroyed with its loop, never having been resumed.
    auto other = std::make_unique<Loop>();
    auto client = std::make_unique<HttpClient>(*other, "keeld/test");
    HttpRequest request;
    request.url = peer.url();
    asio::co_spawn(*other, client->send(std::move(request)), asio::detached);
    other->poll();
    client.reset();
    other.reset();
}

int open_descriptors() {
    int count = 0;
    DIR* folder = opendir("/proc/self/fd");
    while (readdir(folder) != nullptr)
        ++count;
    closedir(folder);
    return count;
}

// Closes after each answer, so that descriptor numbers come again and again, some of them in the
// middle of an answer.
Task<void> closes_often(PeerBase* peer, Connection connection, int number) {
    co_await connection->request();
    if (number % 3 == 0) {
        co_await connection->say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n01234");
    } else {
        co_await connection->say(answer("200 OK", "hello", "Connection: close\r\n"));
    }
    connection->close();
    ++peer->stage;
}

Task<void> one_after_the_other(HttpClient* client, std::string url, int count, int* good,
                               int* bad) {
    for (int i = 0; i < count; ++i) {
        HttpRequest request;
        request.url = url;
        const Expected<HttpResponse> response = co_await client->send(std::move(request));
        if (response && response->body == "hello") {
            ++*good;
        } else if (!response && is_away(response.error())) {
            ++*bad;
        } else {
            ADD_FAILURE() << (response ? response->body : response.error().text);
        }
    }
}

TEST_F(HttpClientTest, DescriptorNumbersComeAgainWithoutConfusion) {
    Peer peer{loop, closes_often};
    ASSERT_TRUE(send(get("http://127.0.0.1:1/")).error().code == "unreachable");
    const int before = open_descriptors();
    int good = 0;
    int bad = 0;
    for (int i = 0; i < 16; ++i) {
        asio::co_spawn(loop, one_after_the_other(&client, peer.url(), 30, &good, &bad),
                       asio::detached);
    }
    ASSERT_TRUE(run_until(loop, [&] { return good + bad == 16 * 30; })) << good << " + " << bad;
    EXPECT_EQ(bad, 160);
    EXPECT_EQ(good, 320);
    EXPECT_LE(open_descriptors(), before);
}

TEST_F(HttpClientTest, ManyAtOnce) {
    Peer peer{loop, polite};
    int good = 0;
    int bad = 0;
    for (int i = 0; i < 100; ++i) {
        asio::co_spawn(loop, one_after_the_other(&client, peer.url(), 5, &good, &bad),
                       asio::detached);
    }
    ASSERT_TRUE(run_until(loop, [&] { return good + bad == 500; }));
    EXPECT_EQ(good, 500);
    EXPECT_LE(peer.accepted(), 101);
}

}  // namespace
}  // namespace keel
