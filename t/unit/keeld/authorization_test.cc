// Tokens and credentials over real HTTP: who is asked for a token, how often, and what is said when
// nothing helps.
#include "keeld/registry/authorization.h"

#include <gtest/gtest.h>

#include "core/base64.h"
#include "keeld/json.h"
#include "unit/keeld/samples.h"
#include "unit/keeld/scripted_peer.h"

namespace keel {
namespace {

using test::Reply;
using test::ScriptedPeer;

constexpr const char* kAsked = "HEAD /v2/team/app/manifests/1";

std::string basic_of(const std::string& user, const std::string& password) {
    return "Basic " + encode_base64(user + ":" + password);
}

std::string header_of(const std::string& request, const std::string& name) {
    const std::size_t at = request.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const std::size_t from = at + name.size() + 4;
    return request.substr(from, request.find("\r\n", from) - from);
}

Reply status(const char* line, const std::string& headers = "") {
    return Reply{line, headers, "{}"};
}

Key user(const std::string& name, const std::string& password = "secret") {
    return Key{"Secret shop/" + name, Credential{name, password, "", ""}, ""};
}

class AuthorizationTest : public testing::Test {
  protected:
    AuthorizationTest() {
        authorization.use([this](std::string, std::string) -> Task<std::vector<Key>> {
            ++key_readings;
            co_return keys;
        });
        script = [this](const std::string& line, const std::string& request) {
            if (line.find("/token") == std::string::npos) return registry(request);
            ++token_requests;
            return realm(line, request);
        };
    }

    // A registry that takes the tokens in `good`.
    Reply registry(const std::string& request) {
        const std::string given = header_of(request, "Authorization");
        if (good.contains(given)) return {"200 OK", "", ""};
        return {"401 Unauthorized", "WWW-Authenticate: " + challenge + "\r\n", "{}"};
    }

    Expected<HttpResponse> ask() {
        HttpRequest request;
        request.method = "HEAD";
        request.url = peer.url("/v2/team/app/manifests/1");
        RegistryPath path{"registry.example", peer.url(), "", "look-up direct"};
        return test::await(loop, authorization.ask(path, "team/app", std::move(request)));
    }
    Error refusal() {
        const Expected<HttpResponse> response = ask();
        return response ? Error{"answered", std::to_string(response->status)} : response.error();
    }

    Loop loop;
    HttpClient http{loop, "keeld/test"};
    Authorization authorization{
        [this](RegistryPath, HttpRequest request) { return http.send(std::move(request)); }};
    std::vector<Key> keys;
    int key_readings = 0;
    int token_requests = 0;
    std::set<std::string> good{"Bearer one"};
    std::function<Reply(const std::string&, const std::string&)> realm = [](const std::string&,
                                                                            const std::string&) {
        return Reply{"200 OK", "", R"({"token":"one","expires_in":300})"};
    };
    ScriptedPeer::Script script;
    std::vector<std::string> requests;
    ScriptedPeer peer{loop, [this](const std::string& line, const std::string& request) {
                          requests.push_back(request);
                          return script(line, request);
                      }};
    std::string challenge = "Bearer realm=\"" + peer.url("/token") +
                            "\",service=\"registry.example\",scope=\"repository:team/app:pull\"";
};

TEST_F(AuthorizationTest, OneTokenServesUntilItsEnd) {
    for (int i = 0; i < 5; ++i) {
        ASSERT_TRUE(ask());
    }
    EXPECT_EQ(token_requests, 1);
    EXPECT_EQ(key_readings, 1) << "a token that is good needs nobody's secrets";
    EXPECT_EQ(peer.asked.size(), 2U + 5U) << "the challenge is met once";
    EXPECT_NE(peer.asked[1].find("service=registry.example&scope=repository%3Ateam%2Fapp%3Apull"),
              std::string::npos)
        << peer.asked[1];
    // 300 s less the margin.
    authorization.expire(Steady::now() + std::chrono::seconds(289));
    ASSERT_TRUE(ask());
    EXPECT_EQ(token_requests, 1);
    authorization.expire(Steady::now() + std::chrono::seconds(291));
    ASSERT_TRUE(ask());
    EXPECT_EQ(token_requests, 2);
}

TEST_F(AuthorizationTest, ATokenThatDoesNotSayLivesAMinuteLessTheMargin) {
    for (const char* token : {R"({"token":"one"})", R"({"token":"one","expires_in":0})",
                              R"({"token":"one","expires_in":"long"})"}) {
        authorization.forget();
        token_requests = 0;
        realm = [token](const std::string&, const std::string&) {
            return Reply{"200 OK", "", token};
        };
        ASSERT_TRUE(ask());
        authorization.expire(Steady::now() + std::chrono::seconds(48));
        ASSERT_TRUE(ask());
        EXPECT_EQ(token_requests, 1) << token;
        authorization.expire(Steady::now() + std::chrono::seconds(51));
        ASSERT_TRUE(ask());
        EXPECT_EQ(token_requests, 2) << token;
    }
}

TEST_F(AuthorizationTest, AnOldTokenIsNotTakenForAFreshOne) {
    const auto issued = std::chrono::time_point_cast<Millis>(std::chrono::system_clock::now() -
                                                             std::chrono::seconds(200));
    realm = [&](const std::string&, const std::string&) {
        return Reply{"200 OK", "",
                     R"({"access_token":"one","expires_in":300,"issued_at":")" +
                         format_time(issued) + "\"}"};
    };
    ASSERT_TRUE(ask());
    authorization.expire(Steady::now() + std::chrono::seconds(92));
    ASSERT_TRUE(ask());
    EXPECT_EQ(token_requests, 2) << "100 s were left, less the margin";
}

TEST_F(AuthorizationTest, ATokenOfTheFutureLivesNoLongerThanItSays) {
    const auto issued = std::chrono::time_point_cast<Millis>(std::chrono::system_clock::now() +
                                                             std::chrono::hours(1));
    realm = [&](const std::string&, const std::string&) {
        return Reply{
            "200 OK", "",
            R"({"token":"one","expires_in":300,"issued_at":")" + format_time(issued) + "\"}"};
    };
    ASSERT_TRUE(ask());
    authorization.expire(Steady::now() + std::chrono::seconds(291));
    ASSERT_TRUE(ask());
    EXPECT_EQ(token_requests, 2);
}

TEST_F(AuthorizationTest, AShortTokenIsUsedForFourFifthsOfItsLife) {
    realm = [](const std::string&, const std::string&) {
        return Reply{"200 OK", "", R"({"token":"one","expires_in":20})"};
    };
    ASSERT_TRUE(ask());
    authorization.expire(Steady::now() + std::chrono::seconds(14));
    ASSERT_TRUE(ask());
    EXPECT_EQ(token_requests, 1);
    authorization.expire(Steady::now() + std::chrono::seconds(17));
    ASSERT_TRUE(ask());
    EXPECT_EQ(token_requests, 2);
}

TEST_F(AuthorizationTest, ARealmMayHaveAQueryOfItsOwn) {
    const std::size_t end = challenge.find("/token") + 6;
    challenge.insert(end, "?tenant=7");
    ASSERT_TRUE(ask());
    ASSERT_EQ(peer.asked.size(), 3U);
    EXPECT_NE(peer.asked[1].find("/token?tenant=7&service="), std::string::npos) << peer.asked[1];
}

TEST_F(AuthorizationTest, ManyAtOnceJoinOneTokenRequest) {
    Signal gate(loop);
    realm = [&gate](const std::string&, const std::string&) {
        return Reply{"200 OK", "", R"({"token":"one"})", &gate};
    };
    int answered = 0;
    for (int i = 0; i < 20; ++i) {
        HttpRequest request;
        request.method = "HEAD";
        request.url = peer.url("/v2/team/app/manifests/1");
        RegistryPath path{"registry.example", peer.url(), "", ""};
        asio::co_spawn(loop, authorization.ask(path, "team/app", std::move(request)),
                       [&](std::exception_ptr, Expected<HttpResponse> response) {
                           answered += response && response->status == 200 ? 1 : 0;
                       });
    }
    ASSERT_TRUE(test::run_until(loop, [&] { return token_requests == 1 && key_readings == 20; }));
    gate.notify();
    ASSERT_TRUE(test::run_until(loop, [&] { return answered == 20; }));
    EXPECT_EQ(token_requests, 1);
}

TEST_F(AuthorizationTest, UserAndPasswordGoToTheRealmAndNeverToTheRegistry) {
    keys = {user("alice")};
    realm = [](const std::string& line, const std::string& request) {
        EXPECT_NE(line.find("account=alice"), std::string::npos) << line;
        EXPECT_EQ(header_of(request, "Authorization"), basic_of("alice", "secret"));
        return Reply{"200 OK", "", R"({"token":"one"})"};
    };
    ASSERT_TRUE(ask());
    EXPECT_EQ(header_of(requests.back(), "Authorization"), "Bearer one");
}

TEST_F(AuthorizationTest, AnIdentityTokenIsExchangedByPost) {
    keys = {Key{"helper acr-env", Credential{"", "", "refresh/1", ""}, ""}};
    realm = [](const std::string& line, const std::string& request) {
        EXPECT_EQ(line, "POST /token");
        EXPECT_NE(request.find("grant_type=refresh_token&client_id=keeld&service=registry.example&"
                               "scope=repository%3Ateam%2Fapp%3Apull&refresh_token=refresh%2F1"),
                  std::string::npos)
            << request;
        return Reply{"200 OK", "", R"({"access_token":"one"})"};
    };
    ASSERT_TRUE(ask());
}

TEST_F(AuthorizationTest, ARegistryTokenIsSentAsItIs) {
    keys = {Key{"config.json", Credential{"", "", "", "one"}, ""}};
    ASSERT_TRUE(ask());
    EXPECT_EQ(token_requests, 0);
}

TEST_F(AuthorizationTest, BasicIsAnsweredAndRemembered) {
    challenge = "Basic realm=\"registry\"";
    good = {basic_of("alice", "secret")};
    keys = {user("alice")};
    ASSERT_TRUE(ask());
    ASSERT_TRUE(ask());
    EXPECT_EQ(peer.asked.size(), 3U);
    EXPECT_EQ(key_readings, 1);
    authorization.expire(Steady::now() + std::chrono::seconds(301));
    ASSERT_TRUE(ask());
    EXPECT_EQ(key_readings, 2) << "nothing of a credential is kept longer than five minutes";
}

TEST_F(AuthorizationTest, BearerIsAnsweredBeforeBasicAndWhatIsNeitherNotAtAll) {
    const std::string bearer = challenge;
    const std::string other = "Basic realm=\"r\"";
    for (const std::string& offered :
         {"Negotiate, " + bearer, other + ", " + bearer, bearer + ", " + other,
          other + "\r\nWWW-Authenticate: " + bearer}) {
        SCOPED_TRACE(offered);
        authorization.forget();
        token_requests = 0;
        challenge = offered;
        const Expected<HttpResponse> response = ask();
        ASSERT_TRUE(response) << response.error().text;
        EXPECT_EQ(response->status, 200U);
        EXPECT_EQ(token_requests, 1);
    }
}

TEST_F(AuthorizationTest, EveryKeyIsTriedInTurnAndTheOneThatWorkedFirst) {
    keys = {user("old"), Key{"Secret shop/gone", {}, "it does not exist"}, user("good")};
    realm = [](const std::string& line, const std::string&) {
        if (line.find("account=good") == std::string::npos) return status("401 Unauthorized");
        return Reply{"200 OK", "", R"({"token":"one","expires_in":100})"};
    };
    ASSERT_TRUE(ask());
    EXPECT_EQ(token_requests, 2);
    authorization.expire(Steady::now() + std::chrono::seconds(95));
    ASSERT_TRUE(ask());
    EXPECT_EQ(token_requests, 3) << "straight with the one that worked";
}

TEST_F(AuthorizationTest, D1_NoUsableCredentialNamesEverythingThatWasTried) {
    keys = {user("old"), Key{"Secret shop/gone", {}, "it does not exist"}, user("same"),
            user("same")};
    realm = [](const std::string&, const std::string&) { return status("401 Unauthorized"); };
    const Error error = refusal();
    EXPECT_EQ(error.code, "denied");
    for (const char* part : {"registry.example/team/app", "Secret shop/old: refused by",
                             "Secret shop/gone: it does not exist", "Secret shop/same: refused by",
                             "anonymous: refused by", "(401)"}) {
        EXPECT_NE(error.text.find(part), std::string::npos) << part << " in " << error.text;
    }
    EXPECT_EQ(error.text.find("secret"), std::string::npos) << error.text;
    EXPECT_EQ(token_requests, 3) << "the same credential once";
    keys.clear();
    authorization.forget();
    EXPECT_EQ(refusal().code, "no-credential");
}

TEST_F(AuthorizationTest, WhatWasRefusedIsNotAskedAgainForAMinute) {
    keys = {user("old")};
    realm = [](const std::string&, const std::string&) { return status("403 Forbidden"); };
    const std::string first = refusal().text;
    EXPECT_EQ(refusal().text, first);
    EXPECT_EQ(token_requests, 2) << "old and nobody, once each";
    keys = {user("old", "renewed")};
    (void)refusal();
    EXPECT_EQ(token_requests, 3) << "another password is another key";
    authorization.expire(Steady::now() + std::chrono::seconds(61));
    (void)refusal();
    EXPECT_EQ(token_requests, 5);
}

TEST_F(AuthorizationTest, A401WithAFreshTokenEndsAfterOneRetry) {
    keys = {user("alice")};
    good.clear();
    const Error error = refusal();
    EXPECT_EQ(error.code, "token-refused");
    EXPECT_NE(error.text.find("Secret shop/alice: the token that " + peer.url("/token")),
              std::string::npos)
        << error.text;
    EXPECT_EQ(peer.asked.size(), 5U) << "plain, token and question with alice's, and with nobody's";
    EXPECT_EQ(refusal().text, error.text);
    EXPECT_EQ(peer.asked.size(), 6U) << "within a minute it is known what became of them";
}

TEST_F(AuthorizationTest, WhatEverybodyWasRefusedIsAskedAsNobodyNextTime) {
    ASSERT_TRUE(ask());
    good.clear();
    EXPECT_EQ(refusal().code, "no-credential");
    good = {""};  // it is public from now on
    ASSERT_TRUE(ask());
    EXPECT_EQ(header_of(requests.back(), "Authorization"), "");
}

TEST_F(AuthorizationTest, ATokenForTooLittleIsToldByName) {
    keys = {user("alice")};
    good.clear();
    script = [this](const std::string& line, const std::string& request) {
        if (line.find("/token") != std::string::npos) return realm(line, request);
        const bool with = !header_of(request, "Authorization").empty();
        const char* error = with ? ",error=\"insufficient_scope\"" : "";
        return status("401 Unauthorized", "WWW-Authenticate: " + challenge + error + "\r\n");
    };
    const Error error = refusal();
    EXPECT_EQ(error.code, "token-scope");
    EXPECT_NE(error.text.find("repository:team/app:pull does not reach"), std::string::npos);
}

TEST_F(AuthorizationTest, ARevokedTokenIsReplacedOnce) {
    ASSERT_TRUE(ask());
    good = {"Bearer two"};
    realm = [](const std::string&, const std::string&) {
        return Reply{"200 OK", "", R"({"token":"two"})"};
    };
    const Expected<HttpResponse> response = ask();
    ASSERT_TRUE(response) << response.error().text;
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(token_requests, 2);
}

TEST_F(AuthorizationTest, AnEmptyTokenIsAnErrorByName) {
    for (const char* token :
         {"{}", "no JSON", R"({"token":""})", R"({"token":7})", "{\"token\":\"a\\r\\nX: y\"}"}) {
        authorization.forget();
        realm = [token](const std::string&, const std::string&) {
            return Reply{"200 OK", "", token};
        };
        EXPECT_EQ(refusal().code, "token-empty") << token;
    }
}

TEST_F(AuthorizationTest, D8_ATokenServerThatIsBusyOrAwayDeniesNothing) {
    keys = {user("alice"), user("bob")};
    realm = [](const std::string&, const std::string&) {
        return status("429 Too Many Requests", "Retry-After: 17\r\n");
    };
    Error error = refusal();
    EXPECT_EQ(error.code, "rate-limited");
    EXPECT_NE(error.text.find("17"), std::string::npos) << error.text;
    EXPECT_EQ(token_requests, 1) << "the others would meet the same";
    realm = [](const std::string&, const std::string&) {
        return status("503 Service Unavailable");
    };
    EXPECT_EQ(refusal().code, "unavailable");
    challenge = "Bearer realm=\"http://127.0.0.1:1/token\",scope=\"repository:team/app:pull\"";
    authorization.forget();
    EXPECT_EQ(refusal().code, "unreachable");
}

TEST_F(AuthorizationTest, ARealmWithoutAPlaceIsNotAsked) {
    for (const char* realm : {"", "ftp://x", "x"}) {
        authorization.forget();
        challenge = std::string("Bearer realm=\"") + realm + "\"";
        EXPECT_EQ(refusal().code, "realm-invalid") << realm;
    }
    EXPECT_EQ(token_requests, 0);
}

// A registry that is asked over TLS does not get anybody's password sent in the clear.
TEST_F(AuthorizationTest, CredentialsDoNotLeaveTls) {
    keys = {user("alice")};
    Authorization behind_tls{
        [this](RegistryPath, HttpRequest request) { return http.send(std::move(request)); }};
    behind_tls.use([this](std::string, std::string) -> Task<std::vector<Key>> { co_return keys; });
    HttpRequest request;
    request.url = peer.url("/v2/team/app/manifests/1");
    RegistryPath path{"registry.example", "https://registry.example", "", "look-up direct"};
    const Expected<HttpResponse> response =
        test::await(loop, behind_tls.ask(path, "team/app", std::move(request)));
    ASSERT_FALSE(response);
    EXPECT_EQ(response.error().code, "realm-invalid");
    EXPECT_EQ(token_requests, 0);
}

TEST_F(AuthorizationTest, WhatNeedsNobodyIsAskedAsNobody) {
    script = [](const std::string&, const std::string&) { return status("404 Not Found"); };
    keys = {user("alice")};
    const Expected<HttpResponse> response = ask();
    ASSERT_TRUE(response);
    EXPECT_EQ(response->status, 404);
    EXPECT_EQ(key_readings, 0);
    EXPECT_EQ(peer.asked, std::vector<std::string>{kAsked});
}

}  // namespace
}  // namespace keel
