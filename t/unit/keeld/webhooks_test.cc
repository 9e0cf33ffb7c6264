// Who may post a webhook, how much of it, and what comes of it.
#include "keeld/api/webhooks.h"

#include <gtest/gtest.h>

#include "unit/keeld/peer.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::container;
using test::deployment;
using test::enrolled;
using test::tag;

const std::string kPush = R"({"name":"nginx","tag":"1.27"})";

// One workload follows docker.io/library/nginx:1.27. Nothing is ever sent: Schedule does not run.
class WebhooksTest : public testing::Test {
  protected:
    WebhooksTest() {
        config.webhooks["native"] = {};
        catalogue.upsert(enrolled("shop"));
        catalogue.upsert(
            deployment("shop", "web", {container("app", "docker.io/library/nginx:1.27")}));
        schedule.follow(tag(), wish);
    }
    int post(const std::string& body = kPush, const std::string& sender = "native",
             const std::vector<std::pair<std::string, std::string>>& headers = {}) {
        ApiRequest request;
        request.method = method;
        request.path = "/v1/webhooks/" + sender;
        request.headers = headers;
        request.body = body;
        answer = webhooks.handle(request);
        return answer.status;
    }
    [[nodiscard]] std::uint64_t count(const std::string& result,
                                      const std::string& sender = "native") const {
        const auto found = webhooks.counts().find({sender, result});
        return found != webhooks.counts().end() ? found->second : 0;
    }

    std::string method = "POST";
    ApiResponse answer;
    bool ready = true;
    Wish wish{*PollSchedule::parse("@every 1h"), Wish::List::never};
    Loop loop;
    HttpClient http{loop, "keeld/test"};
    test::TestClock clock;
    Config config;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Tags tags{*ledger};
    Registry registry{http, config, *ledger};
    Listings listings{*ledger};
    Observations observations{
        loop, clock, *ledger, tags, registry, [](const Tag&) {}, [](const Tag&) {}};
    Schedule schedule{Schedule::Parts{
        loop, config, clock, tags, observations, listings,
        [this](const Tag&) { return std::vector<Wish>{wish}; },
        [](const Tag&) -> Task<Expected<Schedule::Names>> { co_return Schedule::Names{}; },
        [](const Tag&) {}, nullptr}};
    Catalogue catalogue{[](const WorkloadKey&) {}};
    Pushes pushes{*ledger};
    Webhooks webhooks{
        Webhooks::Parts{loop, config, clock, catalogue, pushes, &schedule, [this] { return ready; },
                        [this](const Tag& one, const Digest& at, const std::string& source) {
                            said += source + " " + one.to_string() + " " + at.to_string() + "\n";
                        },
                        Millis{50}}};
    std::string said;  // what counts as the second source
};

TEST_F(WebhooksTest, WhatSomebodyRunsIsAskedFor) {
    EXPECT_EQ(post(), 200);
    EXPECT_EQ(answer.body, "");
    EXPECT_EQ(count("asked"), 1U);
    EXPECT_TRUE(pushes.is_awaited(tag()));
    EXPECT_EQ(post(R"({"name":"ghcr.io/acme/web","tag":"1.27"})"), 200);
    EXPECT_EQ(count("unknown"), 1U) << "nobody runs that repository";
    EXPECT_EQ(post(R"({"name":"nginx","tag":"9"})"), 200);
    EXPECT_EQ(count("nothing"), 1U) << "nobody follows that tag, nor the list";
    EXPECT_FALSE(pushes.is_awaited(tag("9")));
    config.webhooks["github"] = {};
    EXPECT_EQ(post("{}", "github", {{"x-github-event", "ping"}}), 200);
    EXPECT_EQ(count("nothing", "github"), 1U);
}

// D5: the digest of a push, of a sender that shows who it is and says of which registry.
TEST_F(WebhooksTest, D5_WhoShowsWhoHeIsConfirmsADigest) {
    const std::string push = R"({"host":"docker.io","name":"nginx","tag":"1.27","digest":")" +
                             test::digest('a').to_string() + "\"}";
    EXPECT_EQ(post(push), 200);
    EXPECT_EQ(said, "") << "anybody could have posted it";
    EXPECT_EQ(pushes.confirmed_by(tag(), test::digest('a'), clock.now()), nullptr);
    config.webhooks["native"].auth = WebhookAuth::bearer;
    config.webhooks["native"].secrets = {"key"};
    const std::vector<std::pair<std::string, std::string>> headers{{"authorization", "Bearer key"}};
    EXPECT_EQ(post(kPush, "native", headers), 200);
    EXPECT_EQ(said, "") << "it names no digest";
    EXPECT_EQ(post(push, "native", headers), 200);
    EXPECT_EQ(said,
              "webhook native " + tag().to_string() + " " + test::digest('a').to_string() + "\n");
    ASSERT_NE(pushes.confirmed_by(tag(), test::digest('a'), clock.now()), nullptr);
    EXPECT_EQ(*pushes.confirmed_by(tag(), test::digest('a'), clock.now()), "webhook native");
}

TEST_F(WebhooksTest, WhatRunsAndIsNotFollowedYetIsKeptInMind) {
    catalogue.upsert(deployment("shop", "new", {container("app", "docker.io/library/nginx:new")}));
    EXPECT_EQ(post(R"({"name":"nginx","tag":"new"})"), 200);
    EXPECT_EQ(count("nothing"), 1U) << "nobody is asked for it";
    EXPECT_TRUE(pushes.is_awaited(tag("new")));
}

TEST_F(WebhooksTest, AVersionThatAPolicyMayTakeAsksForTheList) {
    wish.list = Wish::List::scheduled;
    schedule.follow(tag(), wish);
    EXPECT_EQ(post(R"({"name":"nginx","tag":"1.28"})"), 200);
    EXPECT_EQ(count("asked"), 1U);
    EXPECT_TRUE(pushes.is_awaited(tag("1.28")));
}

TEST_F(WebhooksTest, D6_AStormIsOneLookUpNowAndOneAfterwards) {
    for (int i = 0; i < 20; ++i)
        EXPECT_EQ(post(), 200);
    EXPECT_EQ(count("asked"), 1U);
    EXPECT_EQ(count("coalesced"), 19U);
    const Steady::time_point end = Steady::now() + Millis{300};
    ASSERT_TRUE(test::run_until(loop, [&] { return Steady::now() >= end; }));
    EXPECT_EQ(post(), 200);
    EXPECT_EQ(count("asked"), 2U) << "the last one was asked for long ago";
}

TEST_F(WebhooksTest, OneSenderHasSoMuchRoom) {
    config.webhooks["quay"] = {};
    int taken = 0;
    while (taken < 1000 && post() == 200)
        ++taken;
    EXPECT_GE(taken, static_cast<int>(Webhooks::kBurst));
    EXPECT_LT(taken, 1000);
    EXPECT_EQ(answer.status, 429);
    EXPECT_EQ(answer.headers, (decltype(answer.headers){{"Retry-After", "1"}}));
    EXPECT_GE(count("too-many"), 1U);
    EXPECT_EQ(post(R"({"docker_url":"quay.io/a/b","updated_tags":["1"]})", "quay"), 200)
        << "another sender has its own";
}

TEST_F(WebhooksTest, WhatIsRefusedIsCountedAndAsksForNothing) {
    EXPECT_EQ(post("{"), 400);
    EXPECT_EQ(count("malformed"), 1U);
    EXPECT_EQ(post(std::string(Webhooks::kMaxBody + 1, ' ')), 413);
    EXPECT_EQ(count("too-large"), 1U);
    EXPECT_EQ(post(kPush, "quay"), 404) << "not configured";
    EXPECT_EQ(post(kPush, "nobody"), 404);
    EXPECT_EQ(post(kPush, ""), 404);
    method = "GET";
    EXPECT_EQ(post(), 405);
    method = "POST";
    ready = false;
    EXPECT_EQ(post(), 503);
    EXPECT_EQ(count("not-ready"), 1U);
    EXPECT_EQ(count("asked"), 0U);
}

TEST_F(WebhooksTest, OnlyWhoHasTheSecretMay) {
    config.webhooks["native"] = {WebhookAuth::bearer, {"the-secret"}};
    EXPECT_EQ(post(), 401);
    EXPECT_EQ(post(kPush, "native", {{"authorization", "Bearer another"}}), 401);
    EXPECT_EQ(count("unauthorized"), 2U);
    EXPECT_EQ(count("asked"), 0U);
    EXPECT_EQ(post(kPush, "native", {{"authorization", "Bearer the-secret"}}), 200);
    EXPECT_EQ(count("asked"), 1U);
    // Who may not post takes nobody's room.
    for (int i = 0; i < 200; ++i)
        EXPECT_EQ(post(), 401);
    EXPECT_EQ(post(kPush, "native", {{"authorization", "Bearer the-secret"}}), 200);
}

}  // namespace
}  // namespace keel
