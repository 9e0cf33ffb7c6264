// What the Kubernetes client does with answers that a healthy API server does not give on demand:
// 429, 503, other people's error pages, streams that break off. The rest is tried against a real
// one in t/cluster.
#include "keeld/cluster/client.h"

#include <gtest/gtest.h>
#include <jansson.h>

#include "keeld/cluster/lease.h"
#include "keeld/cluster/reflector.h"
#include "keeld/json.h"
#include "unit/keeld/peer.h"

namespace keel {
namespace {

using test::answer;
using test::await;
using test::Connection;
using test::Peer;
using test::run_until;
using PeerBase = test::PeerOf<asio::ip::tcp>;

// Answers from a list, the last one for ever; what came is in peer->requests.
std::vector<std::string> script;  // of the test that runs

Task<void> scripted(PeerBase* peer, Connection connection, int) {
    for (;;) {
        std::string request = co_await connection->request();
        if (request.empty()) co_return;
        const std::size_t line = std::min(peer->requests.size(), script.size() - 1);
        peer->requests.push_back(request);
        std::string text = script[line];
        if (text.empty()) {
            connection->close();
            co_return;
        }
        co_await connection->say(std::move(text));
        if (script[line].ends_with("\n\n")) {  // half a stream
            connection->close();
            co_return;
        }
    }
}

std::string status(int code, const std::string& reason, const std::string& headers = {}) {
    return answer(
        std::to_string(code) + " X",
        R"({"kind":"Status","apiVersion":"v1","status":"Failure","message":"because","reason":")" +
            reason + R"(","code":)" + std::to_string(code) + "}",
        headers);
}

const std::string kOk = answer("200 OK", R"({"kind":"Thing","metadata":{"resourceVersion":"7"}})");

class ClusterClientTest : public testing::Test {
  protected:
    ClusterClientTest() {
        access.server = peer.url("");
        access.token = "t";
        cluster.emplace(loop, http, access);
    }
    ~ClusterClientTest() override { http.shutdown(); }

    Expected<Json> get() { return await(loop, cluster->get("/thing")); }

    Loop loop;
    Peer peer{loop, scripted};
    HttpClient http{loop, "keeld/test"};
    ClusterAccess access;
    std::optional<ClusterClient> cluster;
};

TEST_F(ClusterClientTest, AsksForJsonWithItsToken) {
    script = {kOk};
    const auto got = get();
    ASSERT_TRUE(got) << got.error().text;
    EXPECT_EQ(text_of(got->get(), "kind"), "Thing");
    EXPECT_NE(peer.requests[0].find("Accept: application/json\r\n"), std::string::npos);
    EXPECT_NE(peer.requests[0].find("Authorization: Bearer t\r\n"), std::string::npos);
}

TEST_F(ClusterClientTest, ReasonsBecomeCodes) {
    struct Case {
        std::string answer;
        std::string code;
    };
    for (const Case& c : {
             Case{status(404, "NotFound"), "not-found"},
             Case{status(409, "Conflict"), "conflict"},
             Case{status(409, "AlreadyExists"), "already-exists"},
             Case{status(403, "Forbidden"), "forbidden"},
             Case{status(401, "Unauthorized"), "unauthorized"},
             Case{status(410, "Expired"), "gone"},
             Case{status(410, "Gone"), "gone"},
             Case{status(422, "Invalid"), "invalid"},
             Case{status(500, "InternalError"), "internal-error"},
             Case{status(504, "Timeout"), "server-timeout"},
             Case{status(503, "ServiceUnavailable"), "service-unavailable"},
             Case{answer("502 Bad Gateway", "<html>"), "http-502"},
             Case{answer("403 Forbidden", ""), "forbidden"},
             Case{answer("503 Service Unavailable", "x"), "service-unavailable"},
             Case{answer("200 OK", "<html>"), "bad-answer"},
             Case{"", "unreachable"},
         }) {
        script = {c.answer};
        const auto got = get();
        ASSERT_FALSE(got);
        EXPECT_EQ(got.error().code, c.code) << got.error().text;
        EXPECT_NE(got.error().text.find("/thing"), std::string::npos) << got.error().text;
    }
    script = {status(404, "NotFound")};
    EXPECT_EQ(get().error().text, "GET /thing: 404, because");
}

TEST_F(ClusterClientTest, WaitsWhen429Or503SaysSo) {
    script = {status(429, "TooManyRequests", "Retry-After: 1\r\n"),
              status(503, "ServiceUnavailable", "Retry-After: 0\r\n"), kOk};
    const auto begun = Steady::now();
    const auto got = await(loop, cluster->patch("/thing", "application/merge-patch+json", "{}"));
    ASSERT_TRUE(got) << got.error().text;
    EXPECT_EQ(peer.requests.size(), 3U);
    EXPECT_GE(Steady::now() - begun, std::chrono::seconds{1});
    for (const std::string& request : peer.requests) {
        EXPECT_TRUE(request.starts_with("PATCH /thing ")) << request;
        EXPECT_TRUE(request.ends_with("\r\n\r\n{}")) << request;
    }
}

TEST_F(ClusterClientTest, PatienceEnds) {
    script = {status(429, "TooManyRequests", "Retry-After: 60\r\n")};
    auto got = get();
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code, "too-many-requests");
    EXPECT_EQ(peer.requests.size(), 1U) << "a minute is more than kPatience";
    script = {status(503, "ServiceUnavailable", "Retry-After: 0\r\n")};
    peer.requests.clear();
    got = get();
    EXPECT_EQ(got.error().code, "service-unavailable");
    EXPECT_EQ(peer.requests.size(), 6U) << "one attempt and five repetitions";
    peer.requests.clear();
    ClusterClient::Call hasty;
    hasty.path = "/thing";
    hasty.patience = Millis{0};
    script = {status(429, "TooManyRequests", "Retry-After: 1\r\n")};
    EXPECT_EQ(await(loop, cluster->call(hasty)).error().code, "too-many-requests");
    EXPECT_EQ(peer.requests.size(), 1U);
}

TEST_F(ClusterClientTest, EachAttemptOfAWriteIsAllowedAnew) {
    script = {status(429, "TooManyRequests", "Retry-After: 1\r\n"), kOk};
    int asked = 0;
    const auto got = await(loop, cluster->patch("/thing", "application/merge-patch+json", "{}",
                                                [&] { return ++asked == 1; }));
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code, "not-allowed");
    EXPECT_EQ(asked, 2);
    EXPECT_EQ(peer.requests.size(), 1U);
}

TEST_F(ClusterClientTest, AWriteThatMayHaveBeenAppliedIsNotRepeated) {
    script = {kOk, answer("500 X", ""), kOk};
    ASSERT_TRUE(get());
    EXPECT_EQ(await(loop, cluster->update("/thing", "{}")).error().code, "http-500");
    EXPECT_EQ(peer.requests.size(), 2U);
}

std::string page(const std::string& items, const std::string& next) {
    return answer("200 OK", R"({"kind":"L","metadata":{"resourceVersion":"9","continue":")" + next +
                                R"("},"items":[)" + items + "]}");
}

class ClusterListTest : public ClusterClientTest {
  protected:
    Expected<std::string> list(ClusterClient::ListOptions options) {
        options.path = "/things";
        return await(
            loop,
            cluster->list(
                options, [this](const json_t* item) { names.emplace_back(text_of(item, "n")); },
                [this] { names.emplace_back("restart"); }));
    }
    std::vector<std::string> names;
};

TEST_F(ClusterListTest, E1_FollowsPages) {
    script = {page(R"({"n":"a"},{"n":"b"})", "a+b/=="), page(R"({"n":"c"})", "")};
    ClusterClient::ListOptions options;
    options.query = "labelSelector=app%3Dweb";
    options.page = 2;
    const auto version = list(options);
    ASSERT_TRUE(version) << version.error().text;
    EXPECT_EQ(*version, "9");
    EXPECT_EQ(names, (std::vector<std::string>{"a", "b", "c"}));
    EXPECT_TRUE(peer.requests[0].starts_with("GET /things?labelSelector=app%3Dweb&limit=2 "));
    EXPECT_TRUE(peer.requests[1].starts_with(
        "GET /things?labelSelector=app%3Dweb&limit=2&continue=a%2Bb%2F%3D%3D "))
        << peer.requests[1];
}

TEST_F(ClusterListTest, StartsOverWhenThePagesHaveExpired) {
    script = {page(R"({"n":"a"})", "x"), status(410, "Expired"), page(R"({"n":"b"})", "")};
    ASSERT_TRUE(list({}));
    EXPECT_EQ(names, (std::vector<std::string>{"a", "restart", "b"}));
    EXPECT_EQ(peer.requests[2].find("continue"), std::string::npos);
}

TEST_F(ClusterListTest, GivesUpWhenPagesExpireAgainAndAgain) {
    script.clear();
    for (int i = 0; i < 10; ++i) {
        script.push_back(page(R"({"n":"a"})", "x"));
        script.push_back(status(410, "Expired"));
    }
    EXPECT_EQ(list({}).error().code, "gone");
    EXPECT_EQ(peer.requests.size(), 8U);
}

TEST_F(ClusterListTest, ABrokenPageIsAnError) {
    script = {answer("200 OK", R"({"metadata":{"resourceVersion":"9"},"items":[{"n":"a"})")};
    EXPECT_EQ(list({}).error().code, "bad-answer");
}

TEST_F(ClusterListTest, MayAskForMetadataOnly) {
    script = {page("", "")};
    ClusterClient::ListOptions options;
    options.metadata_only = true;
    ASSERT_TRUE(list(options));
    EXPECT_NE(peer.requests[0].find("as=PartialObjectMetadataList"), std::string::npos);
}

std::string stream(const std::string& events) {
    return "HTTP/1.1 200 OK\r\n\r\n" + events;
}
std::string event(const std::string& type, const std::string& name, const std::string& version) {
    return R"({"type":")" + type + R"(","object":{"metadata":{"name":")" + name +
           R"(","resourceVersion":")" + version + "\"}}}\n";
}

class ClusterWatchTest : public ClusterClientTest {
  protected:
    Expected<void> watch() {
        ClusterClient::WatchOptions options;
        options.path = "/things";
        options.resource_version = "5";
        options.idle = Millis{300};
        return await(
            loop, cluster->watch(options, [this](std::string_view type, const json_t* object) {
                const auto* metadata = json_object_get(object, "metadata");
                seen.push_back(std::string{type} + " " + std::string{text_of(metadata, "name")});
                return seen.back() != "ADDED last";
            }));
    }
    std::vector<std::string> seen;
};

TEST_F(ClusterWatchTest, SplitsEventsWhereverTheChunksEnd) {
    script = {stream(event("ADDED", "a", "6") + event("BOOKMARK", "", "7") +
                     event("DELETED", "a", "8") + event("ADDED", "last", "9") +
                     event("ADDED", "never", "10"))};
    ASSERT_TRUE(watch());
    EXPECT_EQ(seen, (std::vector<std::string>{"ADDED a", "BOOKMARK ", "DELETED a", "ADDED last"}));
    EXPECT_NE(peer.requests[0].find(
                  "watch=1&allowWatchBookmarks=true&resourceVersion=5&timeoutSeconds=300 "),
              std::string::npos)
        << peer.requests[0];
}

TEST_F(ClusterWatchTest, SilenceIsAPlainEnd) {
    script = {stream(event("ADDED", "a", "6"))};
    const auto ended = watch();
    EXPECT_TRUE(ended) << ended.error().text;
    EXPECT_EQ(seen.size(), 1U);
}

TEST_F(ClusterWatchTest, HalfAnEventIsNotSeen) {
    script = {stream(event("ADDED", "a", "6") + R"({"type":"ADDED","obj)" + "\n\n")};
    script[0].replace(script[0].size() - 2, 2, "");
    const auto ended = watch();
    EXPECT_EQ(seen.size(), 1U);
}

TEST_F(ClusterWatchTest, ErrorsInTheStreamAreErrors) {
    script = {stream(
        R"({"type":"ERROR","object":{"kind":"Status","reason":"Expired","message":"too old","code":410}})"
        "\n")};
    auto ended = watch();
    ASSERT_FALSE(ended);
    EXPECT_EQ(ended.error().code, "gone");
    script = {stream("no json\n")};
    ended = watch();
    ASSERT_FALSE(ended);
    EXPECT_EQ(ended.error().code, "bad-answer");
    script = {status(410, "Expired")};
    EXPECT_EQ(watch().error().code, "gone");
}

// --- the reflector
// ---------------------------------------------------------------------------------

class ReflectorTest : public ClusterClientTest {
  protected:
    ReflectorTest() {
        ReflectorHandlers handlers;
        handlers.begin = [this] { log.emplace_back("begin"); };
        handlers.end = [this] { log.emplace_back("end"); };
        handlers.upsert = [this](const json_t* object) { log.push_back("+" + name_of(object)); };
        handlers.remove = [this](const json_t* object) { log.push_back("-" + name_of(object)); };
        handlers.problem = [this](const std::string& text) { problems.push_back(text); };
        reflector.emplace(loop, *cluster, "/things", "", std::move(handlers));
    }
    static std::string name_of(const json_t* object) {
        return std::string{text_of(json_object_get(object, "metadata"), "name")};
    }
    static std::string listing(const std::string& names, const std::string& version) {
        std::string items;
        for (const char name : names) {
            items += (items.empty() ? "" : ",") +
                     (R"({"metadata":{"name":")" + std::string{name} + "\"}}");
        }
        return answer("200 OK", R"({"metadata":{"resourceVersion":")" + version +
                                    R"("},"items":[)" + items + "]}");
    }
    void start() {
        asio::co_spawn(loop, reflector->run(), [this](const std::exception_ptr& thrown) {
            EXPECT_FALSE(thrown);
            ended = true;
        });
    }
    void stop() {
        reflector->stop();
        EXPECT_TRUE(run_until(loop, [&] { return ended; }));
    }
    // Runs until the log's last line is this, then stops.
    void run_to(const std::string& line) {
        start();
        EXPECT_TRUE(run_until(loop, [&] { return !log.empty() && log.back() == line; }))
            << log.size();
        stop();
    }
    std::string version_asked(std::size_t request) {
        const std::string& text = peer.requests.at(request);
        const std::size_t at = text.find("resourceVersion=");
        return at == std::string::npos ? "" : text.substr(at + 16, text.find('&', at) - at - 16);
    }

    std::optional<Reflector> reflector;
    bool ended = false;
    std::vector<std::string> log;
    std::vector<std::string> problems;
};

TEST_F(ReflectorTest, P7_GoesOnFromTheLastVersionBookmarksIncluded) {
    script = {listing("ab", "5"),
              stream(event("MODIFIED", "a", "6") + event("BOOKMARK", "", "8") + "\n\n"),
              stream(event("DELETED", "b", "9") + "\n\n"), stream(event("ADDED", "c", "10"))};
    run_to("+c");
    EXPECT_EQ(log, (std::vector<std::string>{"begin", "+a", "+b", "end", "+a", "-b", "+c"}));
    EXPECT_EQ(version_asked(1), "5");
    EXPECT_EQ(version_asked(2), "8");
    EXPECT_EQ(version_asked(3), "9");
    EXPECT_TRUE(reflector->synced());
}

TEST_F(ReflectorTest, P7_ListsAgainWhenTheVersionIsGone) {
    script = {listing("ab", "5"),
              stream(R"({"type":"ERROR","object":{"kind":"Status","reason":"Expired","code":410}})"
                     "\n"),
              listing("a", "20"), stream(event("ADDED", "c", "21"))};
    run_to("+c");
    EXPECT_EQ(log,
              (std::vector<std::string>{"begin", "+a", "+b", "end", "begin", "+a", "end", "+c"}));
    EXPECT_TRUE(problems.empty()) << problems[0];
    EXPECT_EQ(version_asked(3), "20");
}

TEST_F(ReflectorTest, ABrokenListingBeginsAgainAndProblemsAreTold) {
    script = {page(R"({"metadata":{"name":"x"}})", "more"),
              "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\n\n", status(403, "Forbidden"),
              listing("a", "5"), stream(event("ADDED", "c", "6"))};
    run_to("+c");
    EXPECT_EQ(log, (std::vector<std::string>{"begin", "+x", "begin", "begin", "+a", "end", "+c"}));
    ASSERT_GE(problems.size(), 3U);
    EXPECT_NE(problems[1].find("403"), std::string::npos) << problems[1];
    EXPECT_EQ(problems.back(), "");
}

TEST_F(ReflectorTest, AnAnswerThatRepetitionWouldNotMendListsAgain) {
    script = {listing("a", "5"), status(504, "Timeout"), listing("ab", "3"),
              stream(event("ADDED", "c", "4"))};
    run_to("+c");
    EXPECT_EQ(log,
              (std::vector<std::string>{"begin", "+a", "end", "begin", "+a", "+b", "end", "+c"}));
}

TEST_F(ReflectorTest, MayBeStoppedAtAnyTime) {
    script = {answer("200 OK", "")};
    reflector->stop();
    await(loop, reflector->run());
    EXPECT_TRUE(peer.requests.empty());
    EXPECT_FALSE(reflector->synced());
}

TEST_F(ReflectorTest, DoesNotHammerAServerThatEndsEachWatchAtOnce) {
    script = {listing("a", "5"), stream("\n\n")};
    start();
    const auto begun = Steady::now();
    ASSERT_TRUE(run_until(loop, [&] { return peer.requests.size() >= 4; }));
    // Pauses of at least 0.1, 0.2 and 0.4 s lie between four requests after the listing.
    EXPECT_GE(Steady::now() - begun, Millis{300});
    EXPECT_EQ(log, (std::vector<std::string>{"begin", "+a", "end"}));
    stop();
}

}  // namespace
}  // namespace keel
