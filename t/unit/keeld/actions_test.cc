// POST /v1/actions: who may, what is an action, and what is said of it.
#include "keeld/api/actions.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "unit/keeld/peer.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

class ActionsTest : public testing::Test {
  protected:
    ApiResponse act(const std::string& body, bool local = true) {
        ApiRequest request;
        request.method = "POST";
        request.path = "/v1/actions";
        request.body = body;
        request.local_socket = local;
        if (local) request.peer_uid = ::getuid();
        return test::await(loop, actions.handle(std::move(request)));
    }
    // The code of an error, or of the first result.
    std::string code_of(const ApiResponse& response) {
        const Json root = parse_json(response.body);
        if (const json_t* error = json_object_get(root.get(), "error"))
            return std::string(text_of(error, "code"));
        return std::string(
            text_of(json_array_get(json_object_get(root.get(), "results"), 0), "code"));
    }
    static std::string hold(const std::string& on, const std::string& args = "{}",
                            const std::string& reason = "why") {
        return R"({"action":"hold","on":")" + on + R"(","args":)" + args + R"(,"reason":")" +
               reason + "\"}";
    }

    Loop loop;
    HttpClient http{loop, "keeld/test"};
    test::TestClock clock;
    Config config;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Registry registry{http, config, *ledger};
    Tags tags{*ledger};
    Holds holds{Holds::Parts{loop, config, clock, http, *ledger, registry, tags,
                             [](Tag) -> Task<Expected<Answer>> { co_return fail("x", "y"); },
                             [](const Tag&) {}}};
    Actions actions{holds, clock};
};

TEST_F(ActionsTest, only_a_unix_socket_may) {
    const ApiResponse response = act(hold("redis:8"), false);
    EXPECT_EQ(response.status, 403);
    EXPECT_EQ(code_of(response), "forbidden");
    EXPECT_NE(response.body.find("unix sockets only"), std::string::npos);
}

TEST_F(ActionsTest, what_is_not_an_action_is_refused_with_what_to_write) {
    const std::string digest = test::digest('a').to_string();
    const struct {
        std::string body;
        std::string said;
    } cases[] = {
        {"", "expected hold or release"},
        {"[]", "expected hold or release"},
        {R"({"action":"pin","on":"redis:8"})", "expected hold or release"},
        {R"({"action":"hold","reason":"x"})", "on: "},
        {hold("Redis:8"), "on: "},
        {hold("redis@" + digest), "names no tag"},
        {hold("redis:8", "{}", ""), "reason: "},
        {hold("redis:8", "{}", "a\\nb"), "reason: "},
        {hold("redis:8", "{}", std::string(2000, 'x')), "reason: "},
        {hold("redis:8", R"({"digest":"latest"})"), "digest: "},
        {hold("redis:8@" + digest, R"({"digest":")" + test::digest('b').to_string() + "\"}"),
         "another digest"},
        {hold("redis:8", R"({"for":"soon"})"), "for: "},
        {hold("redis:8", R"({"for":"30ms"})"), "for: "},
        {hold("redis:8", R"({"for":72})"), "for: expected a string"},
        {hold("redis:8", R"({"digest":["x"]})"), "digest: expected a string"},
        {hold("redis:8", R"({"force":"yes"})"), "force: expected true or false"},
        {hold("redis:8", R"(["force"])"), "args: expected an object"},
        {R"({"action":"release","on":"redis:8","dryRun":"true"})", "dryRun: expected true or"},
    };
    for (const auto& each : cases) {
        const ApiResponse response = act(each.body);
        EXPECT_EQ(response.status, 400) << each.body;
        EXPECT_EQ(code_of(response), "bad-action") << each.body;
        EXPECT_NE(response.body.find(each.said), std::string::npos) << response.body;
    }
}

TEST_F(ActionsTest, every_spelling_of_a_reference_means_its_tag) {
    for (const char* on : {"redis:8", "docker.io/redis:8", "docker.io/library/redis:8",
                           "index.docker.io/library/redis:8"}) {
        const ApiResponse response = act(std::string(R"({"action":"release","on":")") + on + "\"}");
        EXPECT_EQ(response.status, 200);
        EXPECT_EQ(code_of(response), "not-held");
        EXPECT_NE(response.body.find(R"("on":"docker.io/library/redis:8","cache":null,"ok":false)"),
                  std::string::npos)
            << response.body;
    }
    EXPECT_EQ(code_of(act(hold("redis:8", R"({"for":"72h"})"))), "no-caches");
}

// The body says what, the socket who.
TEST_F(ActionsTest, an_order_comes_to_who_serves_it) {
    std::vector<std::string> seen;
    actions.serve("wave", [&seen](Order order) -> Task<std::vector<OrderResult>> {
        seen = {order.author,
                order.on,
                order.reason,
                order.id,
                dump_json(order.args.get()),
                order.dry_run ? "rehearsed" : "done"};
        std::vector<OrderResult> results;
        results.push_back(OrderResult{order.on, false, "no-hand", "it has none"});
        co_return results;
    });
    const ApiResponse response =
        act(R"({"action":"wave","on":"all","author":"eve","reason":"hello","dryRun":true,)"
            R"("args":{"how":"twice"}})");
    EXPECT_EQ(response.status, 200);
    ASSERT_EQ(seen.size(), 6U);
    EXPECT_EQ(seen[0], user_name(::getuid()));
    EXPECT_EQ(seen[1], "all");
    EXPECT_EQ(seen[2], "hello");
    EXPECT_EQ(seen[3].size(), 16U);
    EXPECT_EQ(seen[4], R"({"how":"twice"})");
    EXPECT_EQ(seen[5], "rehearsed");
    EXPECT_EQ(
        response.body,
        R"({"id":")" + seen[3] +
            R"(","results":[{"on":"all","cache":null,"ok":false,"code":"no-hand","text":"it has none"}]})");
    EXPECT_EQ(code_of(act(R"({"action":"wave","dryRun":"yes"})")), "bad-action");
    EXPECT_EQ(code_of(act(R"({"action":"wave","reason":"a\nb"})")), "bad-action");
    EXPECT_EQ(code_of(act(R"({"action":"wave"})", false)), "forbidden");
    EXPECT_NE(act(R"({"action":"bow"})").body.find("hold or release, wave"), std::string::npos);
}

// Whatever else knows names on this machine.
TEST_F(ActionsTest, a_user_is_called_as_in_the_file) {
    const test::ScratchDirectory directory;
    const std::string path = directory.file("passwd");
    std::ofstream(path) << "root:x:0:0::/root:/bin/sh\nalice:x:4242:4242::/:/bin/sh\n";
    EXPECT_EQ(user_name(4242, path), "alice");
    EXPECT_EQ(user_name(4243, path), "uid 4243");
    EXPECT_EQ(user_name(4242, directory.file("none")), "uid 4242");
    EXPECT_EQ(user_name(0), "root");
}

}  // namespace
}  // namespace keel
