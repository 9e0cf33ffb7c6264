// Questions to a registry over real HTTP: what counts as an answer about a tag, and what does not.
#include "keeld/registry/registry.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"
#include "unit/keeld/scripted_peer.h"

namespace keel {
namespace {

using test::digest;
using test::Reply;
using test::ScriptedPeer;
using test::tag;

constexpr const char* kIndexType = "application/vnd.oci.image.index.v1+json";
constexpr const char* kImageType = "application/vnd.oci.image.manifest.v1+json";
constexpr const char* kTagPath = "/v2/library/nginx/manifests/1.27";

Reply manifest(const std::string& type, char hex, std::string body = "{}") {
    return {
        "200 OK",
        "Content-Type: " + type + "\r\nDocker-Content-Digest: " + digest(hex).to_string() + "\r\n",
        std::move(body)};
}

std::string header_of(const std::string& request, const std::string& name) {
    const std::size_t at = request.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const std::size_t from = at + name.size() + 4;
    return request.substr(from, request.find("\r\n", from) - from);
}

class RegistryTest : public testing::Test {
  protected:
    // All registries through the one peer, as a node's pulls go.
    void through_cache() {
        CacheConfig& cache = config.caches.emplace_back();
        cache.name = "cache-a";
        cache.lookup["*"] = peer.url();
    }
    Expected<Answer> look_up(const Tag& which = tag()) {
        return test::await(loop, registry.look_up(which));
    }
    Expected<Content> content(char hex, std::vector<std::string> platforms = {}) {
        return test::await(loop, registry.content(tag(), digest(hex), std::move(platforms)));
    }

    Loop loop;
    HttpClient http{loop, "keeld/test"};
    Config config;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Registry registry{http, config, *ledger};
    ScriptedPeer::Script script;
    std::vector<std::string> requests;
    ScriptedPeer peer{loop, [this](const std::string& line, const std::string& request) {
                          requests.push_back(request);
                          return script(line, request);
                      }};
};

TEST_F(RegistryTest, AsksAsAPullDoesAndTakesTheDigest) {
    through_cache();
    script = [](const std::string&, const std::string&) { return manifest(kIndexType, 'a'); };
    const auto answer = look_up();
    ASSERT_TRUE(answer) << answer.error().text;
    EXPECT_EQ(answer->digest, digest('a'));
    EXPECT_EQ(answer->kind, ManifestKind::index);
    EXPECT_EQ(answer->source, "look-up cache-a");
    ASSERT_EQ(peer.asked.size(), 1U);
    EXPECT_EQ(peer.asked[0], std::string("HEAD ") + kTagPath + "?ns=docker.io");
    AcceptedTypes accepted;
    accepted.add_line(header_of(requests[0], "Accept"));
    EXPECT_TRUE(accepted.complete()) << "D8: only comparable questions are asked";
    EXPECT_EQ(header_of(requests[0], "Authorization"), "");
    EXPECT_EQ(registry.metrics().lookups, 1U);
    EXPECT_EQ(registry.metrics().failures, 0U);
}

struct Refusal {
    const char* name;
    Reply reply;
    const char* code;
    const char* text;  // part of it
};

class RegistryRefusal : public RegistryTest, public testing::WithParamInterface<Refusal> {};

TEST_P(RegistryRefusal, D8_NoAnswerAboutTheTag) {
    through_cache();
    script = [](const std::string&, const std::string&) { return GetParam().reply; };
    const auto answer = look_up();
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, GetParam().code);
    EXPECT_NE(answer.error().text.find(GetParam().text), std::string::npos) << answer.error().text;
    EXPECT_NE(answer.error().text.find("docker.io/library/nginx:1.27"), std::string::npos)
        << "it names the tag: " << answer.error().text;
    EXPECT_EQ(registry.metrics().failures, 1U);
}

Reply with(const std::string& status, const std::string& headers = "") {
    Reply reply = manifest(kIndexType, 'a');
    reply.status = status;
    reply.headers += headers;
    return reply;
}

INSTANTIATE_TEST_SUITE_P(
    All, RegistryRefusal,
    testing::Values(
        Refusal{"NotFound", with("404 Not Found"), "not-found", "404"},
        Refusal{"UnauthorizedWithoutChallenge", with("401 Unauthorized"), "denied", "401"},
        Refusal{"BasicChallenge",
                with("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n"), "denied",
                "401"},
        Refusal{"Forbidden", with("403 Forbidden"), "denied", "403"},
        Refusal{"RateLimited", with("429 Too Many Requests", "Retry-After: 17\r\n"), "rate-limited",
                "Retry-After: 17"},
        Refusal{"ServerError", with("500 Internal Server Error"), "unavailable", "500"},
        Refusal{"BadGateway", with("502 Bad Gateway"), "unavailable", "502"},
        Refusal{"NotModified", with("304 Not Modified"), "unavailable", "304"},
        Refusal{"PartialContent", with("206 Partial Content"), "unavailable", "206"},
        Refusal{"Held", with("200 OK", "X-Keel-Hold: " + digest('a').to_string() + "\r\n"), "held",
                "keel_hold off"},
        Refusal{"NoDigest",
                Reply{"200 OK", std::string("Content-Type: ") + kIndexType + "\r\n", "{}"},
                "not-comparable", "without a digest"},
        Refusal{"BadDigest",
                Reply{"200 OK",
                      std::string("Content-Type: ") + kIndexType +
                          "\r\nDocker-Content-Digest: sha256:abc\r\n",
                      "{}"},
                "not-comparable", "without a digest"},
        Refusal{"Legacy",
                manifest("application/vnd.docker.distribution.manifest.v1+prettyjws", 'a'),
                "not-comparable", "v1+prettyjws"},
        Refusal{"NoManifest", manifest("text/html", 'a'), "not-comparable", "text/html"}),
    [](const auto& info) { return info.param.name; });

TEST_F(RegistryTest, D8_ARefusedConnectionIsNoAnswer) {
    CacheConfig& cache = config.caches.emplace_back();
    cache.name = "cache-a";
    cache.lookup["*"] = "http://127.0.0.1:1";
    EXPECT_EQ(look_up().error().code, "unreachable");
}

TEST_F(RegistryTest, GoesTheWayThatIsConfigured) {
    script = [](const std::string&, const std::string&) { return manifest(kImageType, 'a'); };
    const auto no_path = look_up();
    ASSERT_FALSE(no_path);
    EXPECT_EQ(no_path.error().code, "no-path");
    EXPECT_NE(no_path.error().text.find("docker.io"), std::string::npos);
    EXPECT_TRUE(peer.asked.empty());

    CacheConfig& first = config.caches.emplace_back();
    first.name = "first";
    first.lookup["ghcr.io"] = peer.url("/one/");
    CacheConfig& second = config.caches.emplace_back();
    second.name = "second";
    second.lookup["*"] = peer.url("/two");
    EXPECT_EQ(look_up()->source, "look-up second");
    EXPECT_EQ(look_up(Tag{"ghcr.io", "a/b", "1"})->source, "look-up first");
    config.registries["ghcr.io"].through = "second";
    EXPECT_EQ(look_up(Tag{"ghcr.io", "a/b", "1"})->source, "look-up second");
    config.registries["quay.io"].direct = peer.url("/three/");
    EXPECT_EQ(look_up(Tag{"quay.io", "a/b", "1"})->source, "look-up direct");
    EXPECT_EQ(peer.asked,
              (std::vector<std::string>{"HEAD /two/v2/library/nginx/manifests/1.27?ns=docker.io",
                                        "HEAD /one/v2/a/b/manifests/1?ns=ghcr.io",
                                        "HEAD /two/v2/a/b/manifests/1?ns=ghcr.io",
                                        "HEAD /three/v2/a/b/manifests/1"}));
}

// ---- The second source ----

class SecondSource : public RegistryTest {
  protected:
    SecondSource() { config.registries["docker.io"].upstream = peer.url("/"); }
    Expected<Answer> ask(const Tag& which = tag()) {
        return test::await(loop, registry.ask_upstream(which));
    }
};

TEST_F(SecondSource, D5_IsAskedDirectly) {
    script = [](const std::string&, const std::string&) { return manifest(kIndexType, 'b'); };
    ASSERT_TRUE(registry.has_second_source("docker.io"));
    const auto answer = ask();
    ASSERT_TRUE(answer) << answer.error().text;
    EXPECT_EQ(answer->source, "upstream");
    EXPECT_EQ(peer.asked, std::vector<std::string>{std::string("HEAD ") + kTagPath});
    EXPECT_EQ(registry.metrics().upstream, 1U);
}

TEST_F(SecondSource, D5_IsNeverTheCache) {
    through_cache();
    EXPECT_FALSE(registry.has_second_source("ghcr.io"));
    EXPECT_EQ(ask(Tag{"ghcr.io", "a/b", "1"}).error().code, "no-second-source");
    EXPECT_TRUE(peer.asked.empty());
}

// A registry that wants a token, as Docker Hub does for anonymous pulls.
Reply wants_token(const ScriptedPeer& peer, const std::string& line, const std::string& request,
                  const std::string& scheme, const std::string& token_answer) {
    if (line.starts_with("GET /token")) return {"200 OK", "", token_answer};
    if (header_of(request, "Authorization") == "Bearer secret-1") return manifest(kIndexType, 'b');
    return {"401 Unauthorized",
            "WWW-Authenticate: " + scheme + " realm=\"" + peer.url("/token") +
                "\",service=\"registry.example\",scope=\"repository:library/nginx:pull\"\r\n",
            "{}"};
}

TEST_F(SecondSource, AnswersATokenChallenge) {
    for (const char* scheme : {"Bearer", "bearer"}) {
        for (const char* token : {R"({"token":"secret-1"})", R"({"access_token":"secret-1"})"}) {
            peer.asked.clear();
            script = [&](const std::string& line, const std::string& request) {
                return wants_token(peer, line, request, scheme, token);
            };
            const auto answer = ask();
            ASSERT_TRUE(answer) << scheme << ": " << answer.error().text;
            EXPECT_EQ(answer->digest, digest('b'));
            const std::string head = std::string("HEAD ") + kTagPath;
            EXPECT_EQ(peer.asked,
                      (std::vector<std::string>{head,
                                                "GET /token?service=registry.example&scope="
                                                "repository%3Alibrary%2Fnginx%3Apull",
                                                head}));
        }
    }
}

TEST_F(SecondSource, ATokenThatIsNotGivenIsARefusal) {
    for (const char* token : {"{}", "no JSON", R"({"token":""})", R"({"token":7})"}) {
        script = [&](const std::string& line, const std::string& request) {
            return wants_token(peer, line, request, "Bearer", token);
        };
        EXPECT_EQ(ask().error().code, "denied") << token;
    }
    script = [&](const std::string& line, const std::string& request) {
        Reply reply = wants_token(peer, line, request, "Bearer", R"({"token":"secret-1"})");
        if (line.starts_with("GET /token")) reply.status = "503 Service Unavailable";
        return reply;
    };
    EXPECT_EQ(ask().error().code, "denied");
}

TEST_F(SecondSource, ATokenThatDoesNotHelpIsARefusalAndNoLoop) {
    script = [&](const std::string& line, const std::string& request) {
        return wants_token(peer, line, request, "Bearer", R"({"token":"secret-2"})");
    };
    EXPECT_EQ(ask().error().code, "denied");
    EXPECT_EQ(peer.asked.size(), 3U);
}

TEST_F(SecondSource, AChallengeWithoutAPlaceIsARefusal) {
    for (const char* realm : {"", "ftp://x", "x"}) {
        script = [realm](const std::string&, const std::string&) {
            return Reply{"401 Unauthorized",
                         std::string("WWW-Authenticate: Bearer realm=\"") + realm + "\"\r\n", "{}"};
        };
        peer.asked.clear();
        EXPECT_EQ(ask().error().code, "denied") << realm;
        EXPECT_EQ(peer.asked.size(), 1U);
    }
}

// ---- Contents ----

std::string image_body(char config) {
    return R"({"config":{"digest":")" + digest(config).to_string() + "\"}}";
}

std::string index_body() {
    const auto entry = [](char hex, const char* architecture) {
        return R"({"digest":")" + digest(hex).to_string() +
               R"(","platform":{"os":"linux","architecture":")" + architecture + "\"}}";
    };
    return R"({"manifests":[)" + entry('1', "amd64") + "," + entry('2', "arm64") + "]}";
}

// Index a of images 1 (config c) and 2 (config d).
Reply serve_index(const std::string& line, const std::string&) {
    const auto is = [&line](char hex) {
        return line.find("/manifests/" + digest(hex).to_string()) != std::string::npos;
    };
    if (is('a')) return manifest(kIndexType, 'a', index_body());
    if (is('1')) return manifest(kImageType, '1', image_body('c'));
    if (is('2')) return manifest(kImageType, '2', image_body('d'));
    return {"404 Not Found", "", "{}"};
}

TEST_F(RegistryTest, ContentIsReadOnceAndKept) {
    through_cache();
    script = serve_index;
    const auto read = content('a');
    ASSERT_TRUE(read) << read.error().text;
    ASSERT_EQ(read->platforms.size(), 2U);
    EXPECT_EQ(read->platforms[0].config, digest('c'));
    EXPECT_EQ(read->platforms[1].config, digest('d'));
    EXPECT_EQ(peer.asked.size(), 3U);
    EXPECT_TRUE(peer.asked[0].starts_with("GET /v2/library/nginx/manifests/sha256:"));
    EXPECT_TRUE(peer.asked[0].ends_with("?ns=docker.io"));
    ASSERT_TRUE(content('a'));
    EXPECT_EQ(peer.asked.size(), 3U) << "a digest never changes";

    ASSERT_TRUE(test::await(loop, ledger->durable()));
    Registry after_restart(http, config, *ledger);
    const Content* known = after_restart.known_content(digest('a'));
    ASSERT_NE(known, nullptr);
    EXPECT_EQ(known->platforms[1].config, digest('d'));
    EXPECT_EQ(after_restart.known_content(digest('e')), nullptr);
}

TEST_F(RegistryTest, OnlyTheWantedPlatformsAreFetched) {
    through_cache();
    script = serve_index;
    const auto read = content('a', {"linux/amd64"});
    ASSERT_TRUE(read);
    EXPECT_EQ(read->platforms[0].config, digest('c'));
    EXPECT_TRUE(read->platforms[1].config.empty());
    EXPECT_EQ(peer.asked.size(), 2U);
    // A node of the other kind appears later.
    EXPECT_EQ(content('a', {"linux/arm64"})->platforms[1].config, digest('d'));
    EXPECT_EQ(peer.asked.size(), 3U);
}

TEST_F(RegistryTest, APlatformThatIsMissingStaysUnknownAndIsAskedAgain) {
    through_cache();
    bool broken = true;
    script = [&broken](const std::string& line, const std::string& request) {
        const bool second = line.find(digest('2').to_string()) != std::string::npos;
        return broken && second ? Reply{"500 Internal Server Error", "", "{}"}
                                : serve_index(line, request);
    };
    const auto read = content('a');
    ASSERT_TRUE(read);
    EXPECT_EQ(read->platforms[0].config, digest('c'));
    EXPECT_TRUE(read->platforms[1].config.empty());
    broken = false;
    EXPECT_EQ(content('a')->platforms[1].config, digest('d'));
}

TEST_F(RegistryTest, ContentThatIsNotToBeHadIsAnErrorAndNotKept) {
    through_cache();
    script = serve_index;
    EXPECT_EQ(content('e').error().code, "not-found");
    script = [](const std::string&, const std::string&) { return manifest(kIndexType, 'e', "?"); };
    EXPECT_EQ(content('e').error().code, "bad-manifest");
    script = [](const std::string&, const std::string&) {
        return manifest(kIndexType, 'e', std::string(5U << 20U, ' '));
    };
    EXPECT_EQ(content('e').error().code, "too-large");
    EXPECT_EQ(registry.known_content(digest('e')), nullptr);
}

// What a look-up path says from a hold would be taken for what the tag answers: it is a mistake in
// the configuration, told until the same question is answered without one.
TEST_F(RegistryTest, D8_ALookUpThatIsAnsweredFromAHoldIsTold) {
    through_cache();
    bool held = true;
    script = [&](const std::string&, const std::string&) {
        Reply reply = manifest(kIndexType, 'a');
        reply.headers += held ? "X-Keel-Hold: " + digest('a').to_string() + "\r\n" : "";
        return reply;
    };
    const auto answer = look_up();
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, "held");
    EXPECT_NE(answer.error().text.find("keel_hold off"), std::string::npos);
    ASSERT_EQ(registry.holding_lookups().size(), 1U);
    EXPECT_EQ(registry.holding_lookups().begin()->first, peer.url());
    EXPECT_EQ(registry.holding_lookups().begin()->second, tag().to_string());
    EXPECT_EQ(registry.holding_lookups(Steady::now() + std::chrono::hours(24)).size(), 1U);
    EXPECT_TRUE(registry.holding_lookups(Steady::now() + std::chrono::hours(25)).empty());
    held = false;
    EXPECT_TRUE(look_up(tag("another")));  // which nobody holds
    EXPECT_TRUE(test::await(loop, registry.look_up_digest(tag(), digest('a'))));
    EXPECT_EQ(registry.holding_lookups().size(), 1U);
    EXPECT_TRUE(look_up());
    EXPECT_TRUE(registry.holding_lookups().empty());
}

TEST_F(RegistryTest, NamesTheCacheThatItAsks) {
    EXPECT_EQ(registry.cache_of("docker.io"), "");
    through_cache();
    EXPECT_EQ(registry.cache_of("docker.io"), "cache-a");
    EXPECT_TRUE(registry.path_through("cache-a", "docker.io"));
    EXPECT_FALSE(registry.path_through("cache-b", "docker.io"));
    config.registries["docker.io"].direct = "https://docker.io";
    EXPECT_EQ(registry.cache_of("docker.io"), "");
}

}  // namespace
}  // namespace keel
