// How often a registry is asked, on a clock of the test's own.
#include "keeld/registry/budget.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "keeld/json.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr const char* kDate = "Sun, 22 Nov 2026 12:00:00 GMT";

class BudgetTest : public testing::Test {
  protected:
    Expected<void> admit(Cost cost = Cost::request) { return budget.admit(path, cost); }
    // One request and its answer; whether it was sent.
    bool ask(const Expected<HttpResponse>& answer, Cost cost = Cost::request,
             Scope scope = Scope::whole) {
        if (!admit(cost)) return false;
        budget.note(path, cost, scope, answer);
        return true;
    }
    static Expected<HttpResponse> status(int code, HttpHeaders headers = {}) {
        return HttpResponse{code, std::move(headers), ""};
    }
    static Expected<HttpResponse> lost(const std::string& code) {
        return fail(code, "HEAD http://registry: " + code);
    }
    static Expected<HttpResponse> left(int remaining, const std::string& source = "",
                                       int window = 21'600) {
        const std::string w = ";w=" + std::to_string(window);
        return status(200, {{"ratelimit-limit", "100" + w},
                            {"ratelimit-remaining", std::to_string(remaining) + w},
                            {"docker-ratelimit-source", source}});
    }
    Error refused(Cost cost = Cost::request) {
        const Expected<void> may = admit(cost);
        return may ? Error{"sent", "", {}} : may.error();
    }
    RegistryState state() const {
        const auto all = budget.states();
        const auto found = std::ranges::find(all, path.source, &RegistryState::source);
        return found == all.end() ? RegistryState{} : *found;
    }

    Config config;
    Steady::time_point now{hours(1'000)};
    Budget budget{config, [this] { return now; }};
    RegistryPath path{"docker.io", "http://cache", "?ns=docker.io", "look-up cache-a"};
    RegistryPath second{"docker.io", "http://hub", "", "upstream"};
};

// --- what the registry asks for ---

TEST_F(BudgetTest, D6_RetryAfterInSecondsIsObeyedToTheSecond) {
    EXPECT_TRUE(ask(status(429, {{"Retry-After", "17"}})));
    EXPECT_EQ(refused().code, "rate-limited");
    EXPECT_EQ(refused().retry_after, seconds(17));
    now += seconds(17) - Millis{1};
    EXPECT_EQ(refused().retry_after, Millis{1});
    now += Millis{1};
    EXPECT_TRUE(admit());
}

TEST_F(BudgetTest, D6_RetryAfterAsADateIsAgainstTheAnswersOwnClock) {
    EXPECT_TRUE(
        ask(status(503, {{"Date", kDate}, {"Retry-After", "Sun, 22 Nov 2026 12:01:30 GMT"}})));
    EXPECT_EQ(refused().retry_after, seconds(90));
    now += seconds(90);
    EXPECT_TRUE(admit());
}

TEST_F(BudgetTest, D6_NobodyIsAskedForLongerThanADayNotToAsk) {
    EXPECT_TRUE(ask(status(429, {{"Retry-After", "99999999999"}})));
    EXPECT_EQ(refused().retry_after, hours(24));
}

TEST_F(BudgetTest, D6_ARefusalThatDoesNotSayForHowLongIsLeftAloneLongerEachTime) {
    Millis before{0};
    for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(ask(status(429)));
        const Millis wait = refused().retry_after;
        EXPECT_GE(wait, std::min<Millis>(seconds(60) * (1 << i), hours(1)));
        EXPECT_LE(wait, minutes(72));
        EXPECT_GE(wait * 5, before * 4);
        before = wait;
        now += wait;
    }
    EXPECT_TRUE(ask(status(200)));
    EXPECT_TRUE(ask(status(429)));
    EXPECT_LE(refused().retry_after, seconds(72)) << "an answer begins it anew";
}

TEST_F(BudgetTest, D6_ARefusedPullOfDockerHubLeavesHeadsAlone) {
    EXPECT_TRUE(ask(status(429, {{"docker-ratelimit-source", "192.0.2.7"}, {"Retry-After", "9"}}),
                    Cost::pull));
    EXPECT_TRUE(admit(Cost::request));
    EXPECT_EQ(refused(Cost::pull).code, "rate-limited");
    EXPECT_TRUE(state().pulls_only);
    now += seconds(9);
    EXPECT_TRUE(admit(Cost::pull));
}

TEST_F(BudgetTest, D6_OneWayThatIsRefusedSaysNothingOfAnother) {
    EXPECT_TRUE(ask(status(429, {{"Retry-After", "17"}})));
    EXPECT_TRUE(budget.admit(second, Cost::request));
}

// --- what is kept for nodes ---

TEST_F(BudgetTest, D6_TheLastQuarterIsKeptForNodes) {
    EXPECT_TRUE(ask(left(26)));
    EXPECT_TRUE(admit());
    EXPECT_TRUE(ask(left(25)));
    EXPECT_EQ(refused().code, "rate-limited");
    // One comes back in 216 s: then the registry is asked again what is left.
    EXPECT_EQ(refused().retry_after, seconds(216));
    now += seconds(216);
    EXPECT_TRUE(ask(left(24)));
    EXPECT_EQ(refused().retry_after, seconds(432));
    now += seconds(432);
    EXPECT_TRUE(ask(left(90)));
    EXPECT_TRUE(admit());
}

TEST_F(BudgetTest, D6_TheShareThatIsKeptIsConfigured) {
    config.registries["docker.io"].reserve = 0.5;
    EXPECT_TRUE(ask(left(50)));
    EXPECT_EQ(refused().code, "rate-limited");
    config.registries["docker.io"].reserve = 0;
    EXPECT_TRUE(admit());
    budget.note(path, Cost::request, Scope::whole, left(0));
    EXPECT_EQ(refused().code, "rate-limited") << "nothing is left";
}

TEST_F(BudgetTest, D6_WhereOnlyPullsCountHeadsGoOn) {
    EXPECT_TRUE(ask(left(0, "192.0.2.7")));
    EXPECT_TRUE(admit(Cost::request));
    EXPECT_EQ(refused(Cost::pull).code, "rate-limited");
    EXPECT_EQ(state().counted, "192.0.2.7");
    EXPECT_EQ(state().remaining, 0U);
}

TEST_F(BudgetTest, D6_WhatACacheTellsCountsToo) {
    RegistryNotice notice;
    notice.registry = "docker.io";
    notice.limit = RateLimit{100, 21'600};
    notice.remaining = RateLimit{10, 21'600};
    notice.source = "192.0.2.7";
    budget.note("cache-a", notice);
    EXPECT_TRUE(admit(Cost::request));
    EXPECT_EQ(refused(Cost::pull).code, "rate-limited");
    notice.remaining = RateLimit{60, 21'600};
    budget.note("cache-a", notice);
    EXPECT_TRUE(admit(Cost::pull));
    notice.retry_after = seconds(30);
    budget.note("cache-a", notice);
    EXPECT_EQ(refused().retry_after, seconds(30));
}

TEST_F(BudgetTest, D6_WhatOneCacheToldLongAgoHidesNothingThatAnotherTellsNow) {
    RegistryNotice notice;
    notice.registry = "docker.io";
    notice.limit = notice.remaining = RateLimit{100, 21'600};
    notice.remaining->count = 25;
    budget.note("cache-a", notice);
    now += seconds(216);
    EXPECT_TRUE(admit()) << "one is back";
    notice.remaining->count = 24;
    budget.note("cache-b", notice);
    EXPECT_EQ(refused().retry_after, seconds(432));
}

// --- what keeld.yaml allows ---

TEST_F(BudgetTest, D6_NeverMoreThanConfiguredInAnyStretch) {
    for (const int count : {1, 2, 4, 7, 100}) {
        config.registries["docker.io"].requests = Rate{count, hours(1)};
        std::vector<Steady::time_point> sent;
        now += hours(24);
        const Steady::time_point end = now + hours(5);
        while (now < end) {
            const Expected<void> may = admit();
            if (may) {
                sent.push_back(now);
            } else {
                ASSERT_EQ(may.error().code, "budget");
                ASSERT_GT(may.error().retry_after, Millis{0}) << "or it would be asked for ever";
                now += may.error().retry_after;
            }
        }
        for (std::size_t i = 0; i < sent.size(); ++i) {
            const auto over = std::ranges::count_if(sent, [&](Steady::time_point one) {
                return one >= sent[i] && one < sent[i] + hours(1);
            });
            ASSERT_LE(over, count) << "from the " << i << "th of " << count << " an hour";
        }
        EXPECT_GE(sent.size(), 4U * static_cast<unsigned>(count) * 4 / 5) << "nor far fewer";
    }
}

TEST_F(BudgetTest, D6_PullsHaveABudgetOfTheirOwn) {
    config.registries["docker.io"].pulls = Rate{2, hours(1)};
    EXPECT_TRUE(admit(Cost::pull));
    EXPECT_EQ(refused(Cost::pull).code, "budget");
    EXPECT_NE(refused(Cost::pull).text.find("registries.docker.io.pulls (2 per 1h)"),
              std::string::npos);
    EXPECT_TRUE(admit(Cost::request));
}

TEST_F(BudgetTest, D6_EveryWayToARegistryDrawsOnItsOneBudget) {
    config.registries["docker.io"].requests = Rate{1, hours(1)};
    EXPECT_TRUE(admit());
    EXPECT_FALSE(budget.admit(second, Cost::request));
    EXPECT_TRUE(budget.admit(RegistryPath{"ghcr.io", "", "", "upstream"}, Cost::request));
}

TEST_F(BudgetTest, AChangedRateHoldsAtOnce) {
    EXPECT_TRUE(admit());
    config.registries["docker.io"].requests = Rate{5, hours(1)};
    EXPECT_TRUE(admit());
    EXPECT_EQ(refused().code, "budget");
    config.registries["docker.io"].requests = Rate{0, hours(1)};
    EXPECT_TRUE(admit());
}

// --- whether it is there at all ---

class Failing : public BudgetTest, public testing::WithParamInterface<const char*> {};

TEST_P(Failing, OpensTheCircuitAndOneAnswerClosesIt) {
    const Expected<HttpResponse> failure =
        std::string(GetParam()) == "502" ? status(502) : lost(GetParam());
    for (int i = 0; i < Budget::kFailures; ++i) {
        EXPECT_EQ(state().circuit == "open", false);
        ASSERT_TRUE(ask(failure));
    }
    EXPECT_EQ(state().circuit, "open");
    EXPECT_EQ(refused().code, "circuit-open");
    EXPECT_TRUE(budget.admit(second, Cost::request)) << "another way is another circuit";
    now += refused().retry_after;
    EXPECT_EQ(state().circuit, "half-open");
    EXPECT_TRUE(admit()) << "one may try";
    EXPECT_EQ(refused().code, "circuit-open") << "and nobody else meanwhile";
    budget.note(path, Cost::request, Scope::whole, status(404));
    EXPECT_EQ(state().circuit, "closed");
    EXPECT_TRUE(admit());
}

INSTANTIATE_TEST_SUITE_P(All, Failing,
                         testing::Values("unreachable", "timeout", "tls", "no-such-host",
                                         "truncated", "502"));

TEST_F(BudgetTest, AnOutageOfAnHourCostsFewRequests) {
    const Steady::time_point end = now + hours(1);
    int sent = 0;
    Millis longest{0};
    while (now < end) {
        sent += ask(lost("unreachable")) ? 1 : 0;
        const Error why = refused();
        longest = std::max(longest, why.retry_after);
        now += std::max(why.retry_after, Millis{10});
    }
    EXPECT_LE(sent, Budget::kFailures + 17);
    EXPECT_LE(longest, minutes(12));
}

TEST_F(BudgetTest, AProbeThatNeverCameBackGivesItsPlaceUp) {
    for (int i = 0; i < Budget::kFailures; ++i) {
        ASSERT_TRUE(ask(lost("timeout")));
    }
    now += refused().retry_after;
    EXPECT_TRUE(admit());
    EXPECT_GT(refused().retry_after, seconds(15)) << "longer than a request may take";
    now += refused().retry_after;
    EXPECT_TRUE(admit());
}

TEST_F(BudgetTest, WhatIsMissingIsNoFailureOfTheRegistry) {
    for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(ask(status(500), Cost::pull, Scope::part)) << "a proxy whose upstream lacks it";
        ASSERT_TRUE(ask(lost("timeout"), Cost::request, Scope::part)) << "a large blob";
        ASSERT_TRUE(ask(status(404)));
        ASSERT_TRUE(ask(status(401)));
        ASSERT_TRUE(ask(lost("too-large")));
        ASSERT_TRUE(ask(lost("cancelled")));
    }
    EXPECT_EQ(state().failures, 0U);
}

TEST_F(BudgetTest, LateFailuresOfOneOutageCountOnce) {
    for (int i = 0; i < 40; ++i) {
        ASSERT_TRUE(admit());
    }
    for (int i = 0; i < 40; ++i) {
        budget.note(path, Cost::request, Scope::whole, lost("unreachable"));
    }
    EXPECT_LE(refused().retry_after, Millis{1'200});
}

TEST_F(BudgetTest, TellsWhatItDoes) {
    EXPECT_TRUE(ask(left(40, "192.0.2.7"), Cost::pull));
    EXPECT_TRUE(ask(status(429, {{"Retry-After", "17"}})));
    EXPECT_FALSE(admit());
    const RegistryState told = state();
    EXPECT_EQ(told.registry, "docker.io");
    EXPECT_EQ(told.requests, 2U);
    EXPECT_EQ(told.pulls, 1U);
    EXPECT_EQ(told.postponed, 1U);
    EXPECT_EQ(told.limit, 100U);
    EXPECT_EQ(told.remaining, 40U);
    EXPECT_EQ(told.window, hours(6));
    EXPECT_EQ(told.waits, "rate-limited");
    EXPECT_EQ(told.wait, seconds(17));
    EXPECT_NE(told.waits_text.find("answered 429; Retry-After: 17"), std::string::npos);
}

// --- what a cache's status tells ---

std::vector<RegistryNotice> notices(const std::string& registries) {
    const Json status = parse_json("{\"registries\":" + registries + "}");
    return notices_of(status.get(), test::at(0));
}

TEST(Notices, D6_LimitsAndRetryAfterAreRead) {
    const auto all = notices(R"({"docker.io": {
        "rate_limit": {"limit": 100, "remaining": 76, "window": 21600, "source": "192.0.2.7",
                       "at": ")" +
                             format_time(test::at(-30)) + R"("},
        "retry_at": ")" + format_time(test::at(17)) +
                             R"("}})");
    ASSERT_EQ(all.size(), 1U);
    EXPECT_EQ(all[0].registry, "docker.io");
    EXPECT_EQ(all[0].limit, (RateLimit{100, 21'600}));
    EXPECT_EQ(all[0].remaining, (RateLimit{76, 21'600}));
    EXPECT_EQ(all[0].source, "192.0.2.7");
    EXPECT_EQ(all[0].age, seconds(30));
    EXPECT_EQ(all[0].retry_after, seconds(17));
}

TEST(Notices, WhatIsNotSaidOrPastIsNothing) {
    const auto all = notices(R"({"ghcr.io": {"rate_limit": null, "retry_at": null},
        "quay.io": {"rate_limit": {"limit": null, "remaining": 0, "window": null,
                                   "at": ")" +
                             format_time(test::at(30)) + R"("},
                    "retry_at": ")" +
                             format_time(test::at(-1)) + R"("}})");
    ASSERT_EQ(all.size(), 2U);
    EXPECT_EQ(all[0].registry, "ghcr.io");
    EXPECT_EQ(all[0].limit, std::nullopt);
    EXPECT_EQ(all[0].remaining, std::nullopt);
    EXPECT_EQ(all[0].source, "");
    EXPECT_EQ(all[0].retry_after, seconds(0));
    EXPECT_EQ(all[1].limit, std::nullopt);
    EXPECT_EQ(all[1].remaining, (RateLimit{0, 0})) << "none left is not the same as not said";
    EXPECT_EQ(all[1].age, seconds(0)) << "a cache's clock may be ahead";
    EXPECT_EQ(all[1].retry_after, seconds(0));
}

TEST(Notices, WhatIsMalformedIsNothing) {
    const auto all = notices(R"({"a": {"rate_limit": {"limit": -1, "remaining": "76",
                                                      "window": -5, "at": "soon"},
                                      "retry_at": 17},
                                "b": 5,
                                "c": {"rate_limit": {"limit": 1, "window": 9999999999999}}})");
    ASSERT_EQ(all.size(), 3U);
    EXPECT_EQ(all[0].limit, std::nullopt);
    EXPECT_EQ(all[0].remaining, std::nullopt);
    EXPECT_EQ(all[0].age, seconds(0));
    EXPECT_EQ(all[0].retry_after, seconds(0));
    EXPECT_EQ(all[1].limit, std::nullopt);
    ASSERT_TRUE(all[2].limit);
    EXPECT_EQ(std::chrono::seconds(all[2].limit->window), hours(365 * 24)) << "a year at most";
    for (const char* const none : {"null", "[]", "5", "{}"}) {
        EXPECT_TRUE(notices(none).empty()) << none;
    }
    EXPECT_TRUE(notices_of(nullptr, test::at(0)).empty());
}

TEST(RetryAfter, AllFormsOfHttp) {
    const auto wait = [](const std::string& text) {
        return retry_after_of(HttpResponse{429, {{"Date", kDate}, {"Retry-After", text}}, ""});
    };
    EXPECT_EQ(wait("120"), seconds(120));
    EXPECT_EQ(wait("0"), seconds(0));
    EXPECT_EQ(wait("Sun, 22 Nov 2026 12:00:05 GMT"), seconds(5));
    EXPECT_EQ(wait("Sunday, 22-Nov-26 12:00:05 GMT"), seconds(5));
    EXPECT_EQ(wait("Sun Nov 22 12:00:05 2026"), seconds(5));
    EXPECT_EQ(wait("Sun, 22 Nov 2026 11:00:00 GMT"), seconds(0)) << "already past";
    EXPECT_EQ(wait("soon"), std::nullopt);
    EXPECT_EQ(wait("-5"), std::nullopt);
    EXPECT_EQ(wait(""), std::nullopt);
}

}  // namespace
}  // namespace keel
