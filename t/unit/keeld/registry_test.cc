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
    Expected<Content> content(const Digest& which, std::vector<std::string> platforms = {}) {
        return test::await(loop, registry.content(tag(), which, std::move(platforms)));
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
        Refusal{"Forbidden", with("403 Forbidden"), "denied", "403"},
        Refusal{"RateLimited", with("429 Too Many Requests", "Retry-After: 17\r\n"), "rate-limited",
                "Retry-After: 17"},
        Refusal{"ServerError", with("500 Internal Server Error"), "unavailable", "500"},
        Refusal{"BadGateway", with("502 Bad Gateway"), "unavailable", "502"},
        Refusal{"NotModified", with("304 Not Modified"), "unavailable", "304"},
        Refusal{"PartialContent", with("206 Partial Content"), "unavailable", "206"},
        Refusal{"Held", with("200 OK", "X-Keel-Hold: " + digest('a').to_string() + "\r\n"), "held",
                "keel_hold off"},
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

// ---- Where HEAD does not tell ----

const std::string kBody = R"({"manifests":[]})";

// Answers GET of the tag, and HEAD with this.
ScriptedPeer::Script head_is(Reply head, Reply get) {
    return [head = std::move(head), get = std::move(get)](const std::string& line,
                                                          const std::string& request) {
        if (line.starts_with("HEAD")) return head;
        const bool known = header_of(request, "If-None-Match") == "\"as-it-was\"";
        return known ? Reply{"304 Not Modified", "", ""} : get;
    };
}

Reply plain(const std::string& headers = "") {
    return {"200 OK", std::string("Content-Type: ") + kIndexType + "\r\n" + headers, kBody};
}

Digest body_digest() {
    return digest_of(Digest::Algorithm::sha256, kBody);
}

struct Useless {
    const char* name;
    Reply head;
};

class UselessHead : public RegistryTest, public testing::WithParamInterface<Useless> {};

TEST_P(UselessHead, D6_TheBodyIsHashedAndHeadLeftAloneForADay) {
    through_cache();
    script = head_is(GetParam().head, plain());
    const auto answer = look_up();
    ASSERT_TRUE(answer) << answer.error().text;
    EXPECT_EQ(answer->digest, body_digest());
    EXPECT_EQ(peer.asked.size(), 2U);
    EXPECT_EQ(look_up()->digest, body_digest());
    ASSERT_EQ(peer.asked.size(), 3U) << "one request from then on";
    EXPECT_TRUE(peer.asked[2].starts_with("GET ")) << peer.asked[2];
    EXPECT_EQ(registry.budget().states().front().pulls, 2U);
}

INSTANTIATE_TEST_SUITE_P(
    All, UselessHead,
    testing::Values(Useless{"NotAllowed", {"405 Method Not Allowed", "", ""}},
                    Useless{"NotImplemented", {"501 Not Implemented", "", ""}},
                    Useless{"NotFound", {"404 Not Found", "", ""}}, Useless{"NoDigest", plain()},
                    Useless{"BadDigest", plain("Docker-Content-Digest: sha256:abc\r\n")},
                    Useless{"NoType",
                            {"200 OK", "Docker-Content-Digest: " + digest('a').to_string() + "\r\n",
                             ""}}),
    [](const auto& info) { return info.param.name; });

TEST_F(RegistryTest, D6_WhereHeadHasToldA404IsNotCheckedByGet) {
    through_cache();
    script = [](const std::string& line, const std::string&) {
        return line.find("1.27") != std::string::npos ? manifest(kIndexType, 'a')
                                                      : Reply{"404 Not Found", "", ""};
    };
    ASSERT_TRUE(look_up());
    EXPECT_EQ(look_up(tag("gone")).error().code, "not-found");
    EXPECT_EQ(peer.asked.size(), 2U) << "a pull less";
}

TEST_F(RegistryTest, D6_A404IsCheckedByGetOnceAnHourAtMost) {
    through_cache();
    script = [](const std::string&, const std::string&) { return Reply{"404 Not Found", "", ""}; };
    for (int i = 0; i < 5; ++i) {
        EXPECT_EQ(look_up().error().code, "not-found");
    }
    EXPECT_EQ(peer.asked.size(), 6U);
}

TEST_F(RegistryTest, D8_AGetIsOnlyRepeatedWithTheEtagThatCameWithIt) {
    through_cache();
    script = head_is({"405 Method Not Allowed", "", ""}, plain("ETag: \"as-it-was\"\r\n"));
    EXPECT_EQ(look_up()->digest, body_digest());
    EXPECT_EQ(header_of(requests.back(), "If-None-Match"), "");
    EXPECT_EQ(look_up()->digest, body_digest()) << "a 304 says that it is the same";
    EXPECT_EQ(header_of(requests.back(), "If-None-Match"), "\"as-it-was\"");
    EXPECT_EQ(look_up(tag("other"))->digest, body_digest());
    EXPECT_EQ(header_of(requests.back(), "If-None-Match"), "") << "not of another tag";
}

TEST_F(RegistryTest, D8_ABodyThatIsNotWhatItsHeaderSaysIsNoAnswer) {
    through_cache();
    script = head_is({"405 Method Not Allowed", "", ""}, manifest(kIndexType, 'a', kBody));
    const auto answer = look_up();
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, "digest-mismatch");
    EXPECT_NE(answer.error().text.find(body_digest().to_string()), std::string::npos);
}

TEST_F(RegistryTest, D8_TheBodyAlsoHasToBeAManifest) {
    through_cache();
    script = head_is({"405 Method Not Allowed", "", ""},
                     {"200 OK", "Content-Type: text/html\r\n", "<p>log in"});
    EXPECT_EQ(look_up().error().code, "not-comparable");
}

TEST_F(RegistryTest, D6_WhatARegistryAsksForIsObeyedByEveryKindOfQuestion) {
    through_cache();
    script = [](const std::string&, const std::string&) {
        return Reply{"429 Too Many Requests", "Retry-After: 600\r\n", ""};
    };
    const auto first = look_up();
    ASSERT_FALSE(first);
    EXPECT_EQ(first.error().code, "rate-limited");
    EXPECT_EQ(first.error().retry_after, std::chrono::seconds(600));
    const auto again = look_up(tag("other"));
    EXPECT_EQ(again.error().code, "rate-limited");
    EXPECT_GT(again.error().retry_after, std::chrono::seconds(590));
    EXPECT_EQ(content(digest('a')).error().code, "rate-limited");
    EXPECT_EQ(test::await(loop, registry.list_tags(tag())).error().code, "rate-limited");
    EXPECT_EQ(peer.asked.size(), 1U);
}

// ---- Lists of tags ----

TEST_F(RegistryTest, ListsTheTagsPageByPage) {
    through_cache();
    script = [](const std::string& line, const std::string&) {
        if (line.find("last=") != std::string::npos) {
            return Reply{"200 OK", "", R"({"tags":["1.28","bad name"]})"};
        }
        return Reply{"200 OK",
                     "Link: </v2/library/nginx/tags/list?n=2&last=1.27>; rel=\"next\"\r\n",
                     R"({"tags":["1.26","1.27"]})"};
    };
    const auto list = test::await(loop, registry.list_tags(tag()));
    ASSERT_TRUE(list) << list.error().text;
    EXPECT_EQ(list->names, (std::vector<std::string>{"1.26", "1.27", "1.28"}));
    EXPECT_TRUE(list->complete);
    EXPECT_EQ(list->dropped, 1U);
    EXPECT_EQ(peer.asked, (std::vector<std::string>{
                              "GET /v2/library/nginx/tags/list?n=1000&ns=docker.io",
                              "GET /v2/library/nginx/tags/list?n=2&last=1.27&ns=docker.io"}));
    EXPECT_EQ(registry.metrics().lists, 1U);
    EXPECT_EQ(registry.metrics().pages, 2U);
    EXPECT_EQ(registry.budget().states().front().pulls, 0U);
}

TEST_F(RegistryTest, D8_AListThatIsNotToBeHadIsNoEmptyList) {
    through_cache();
    const std::vector<std::pair<std::string, std::string>> cases{
        {"404 Not Found", "not-found"},
        {"401 Unauthorized", "denied"},
        {"405 Method Not Allowed", "list-unsupported"},
        {"501 Not Implemented", "list-unsupported"},
        {"500 Internal Server Error", "unavailable"},
        {"200 OK", "bad-list"}};
    for (const auto& [status, code] : cases) {
        script = [&](const std::string&, const std::string&) { return Reply{status, "", "oh"}; };
        const auto list = test::await(loop, registry.list_tags(tag()));
        ASSERT_FALSE(list) << status;
        EXPECT_EQ(list.error().code, code);
    }
}

TEST_F(RegistryTest, D8_HalfAListIsNone) {
    through_cache();
    script = [](const std::string& line, const std::string&) {
        return line.find("last=") != std::string::npos
                   ? Reply{"500 Internal Server Error", "", ""}
                   : Reply{"200 OK", "Link: </v2/library/nginx/tags/list?last=1>; rel=\"next\"\r\n",
                           R"({"tags":["1"]})"};
    };
    EXPECT_EQ(test::await(loop, registry.list_tags(tag())).error().code, "unavailable");
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
            registry.authorization().forget();
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

// ---- Contents ----

std::string image_body(char config) {
    return R"({"config":{"digest":")" + digest(config).to_string() + "\"}}";
}

Digest of(const std::string& body) {
    return digest_of(Digest::Algorithm::sha256, body);
}

// Of images for amd64 (config c) and arm64 (config d).
std::string index_body() {
    const auto entry = [](char config, const char* architecture) {
        return R"({"digest":")" + of(image_body(config)).to_string() +
               R"(","platform":{"os":"linux","architecture":")" + architecture + "\"}}";
    };
    return R"({"manifests":[)" + entry('c', "amd64") + "," + entry('d', "arm64") + "]}";
}

Reply serve_index(const std::string& line, const std::string&) {
    for (const std::string& body : {index_body(), image_body('c'), image_body('d')}) {
        if (line.find("/manifests/" + of(body).to_string()) != std::string::npos) {
            return manifest(body == index_body() ? kIndexType : kImageType, 'a', body);
        }
    }
    return {"404 Not Found", "", "{}"};
}

TEST_F(RegistryTest, ContentIsReadOnceAndKept) {
    through_cache();
    script = serve_index;
    const auto read = content(of(index_body()));
    ASSERT_TRUE(read) << read.error().text;
    ASSERT_EQ(read->platforms.size(), 2U);
    EXPECT_EQ(read->platforms[0].config, digest('c'));
    EXPECT_EQ(read->platforms[1].config, digest('d'));
    EXPECT_EQ(peer.asked.size(), 3U);
    EXPECT_TRUE(peer.asked[0].starts_with("GET /v2/library/nginx/manifests/sha256:"));
    EXPECT_TRUE(peer.asked[0].ends_with("?ns=docker.io"));
    ASSERT_TRUE(content(of(index_body())));
    EXPECT_EQ(peer.asked.size(), 3U) << "a digest never changes";

    ASSERT_TRUE(test::await(loop, ledger->durable()));
    Registry after_restart(http, config, *ledger);
    const Content* known = after_restart.known_content(of(index_body()));
    ASSERT_NE(known, nullptr);
    EXPECT_EQ(known->platforms[1].config, digest('d'));
    EXPECT_EQ(after_restart.known_content(digest('e')), nullptr);
}

TEST_F(RegistryTest, OnlyTheWantedPlatformsAreFetched) {
    through_cache();
    script = serve_index;
    const auto read = content(of(index_body()), {"linux/amd64"});
    ASSERT_TRUE(read);
    EXPECT_EQ(read->platforms[0].config, digest('c'));
    EXPECT_TRUE(read->platforms[1].config.empty());
    EXPECT_EQ(peer.asked.size(), 2U);
    // A node of the other kind appears later.
    EXPECT_EQ(content(of(index_body()), {"linux/arm64"})->platforms[1].config, digest('d'));
    EXPECT_EQ(peer.asked.size(), 3U);
}

// An index names its platforms; an image without one does in its config, which is read for that.
TEST_F(RegistryTest, TellsWhenAnImageWasMadeAndForWhat) {
    through_cache();
    const std::string config =
        R"({"created":"2026-11-20T10:00:00.5Z","os":"linux","architecture":"arm64"})";
    const Digest config_digest = digest_of(Digest::Algorithm::sha256, config);
    const std::string image = R"({"config":{"digest":")" + config_digest.to_string() + "\"}}";
    std::string served = R"({"created":"1999-01-01T00:00:00Z"})";
    script = [&](const std::string& line, const std::string&) {
        if (line.find("/blobs/" + config_digest.to_string()) != std::string::npos) {
            return Reply{"200 OK", "", served};
        }
        return manifest(kImageType, 'a', image);
    };
    EXPECT_EQ(content(of(image)).error().code, "digest-mismatch") << "what nobody vouches for";
    EXPECT_EQ(peer.asked.size(), 2U);
    EXPECT_FALSE(registry.known_content(of(image))->tells_platform());
    served = config;
    const auto read = content(of(image), {"linux/amd64"});
    ASSERT_TRUE(read) << read.error().text;
    EXPECT_EQ(read->platforms.front().created, parse_time("2026-11-20T10:00:00.5Z"));
    EXPECT_EQ(read->platforms.front().platform, "linux/arm64");
    EXPECT_EQ(peer.asked.size(), 3U);
    ASSERT_TRUE(content(of(image)));
    EXPECT_EQ(peer.asked.size(), 3U) << "asked once";

    ASSERT_TRUE(test::await(loop, ledger->durable()));
    Registry after_restart(http, this->config, *ledger);
    const Content* known = after_restart.known_content(of(image));
    ASSERT_NE(known, nullptr);
    EXPECT_EQ(known->platforms.front().created, read->platforms.front().created);
    EXPECT_EQ(known->platforms.front().platform, "linux/arm64");
}

TEST_F(RegistryTest, TheAgeOfAnIndexIsReadOnlyWhereItIsAskedFor) {
    through_cache();
    const std::string made = R"({"created":"2026-11-20T10:00:00Z"})";
    const Digest made_digest = digest_of(Digest::Algorithm::sha256, made);
    const std::string child = R"({"config":{"digest":")" + made_digest.to_string() + "\"}}";
    const std::string index = R"({"manifests":[{"digest":")" + of(child).to_string() +
                              R"(","platform":{"os":"linux","architecture":"amd64"}}]})";
    script = [&](const std::string& line, const std::string&) {
        if (line.find("/blobs/") != std::string::npos) return Reply{"200 OK", "", made};
        if (line.find(of(child).to_string()) != std::string::npos) {
            return manifest(kImageType, 'a', child);
        }
        return manifest(kIndexType, 'a', index);
    };
    EXPECT_FALSE(content(of(index))->platforms.front().created);
    EXPECT_EQ(peer.asked.size(), 2U);
    const auto read = test::await(loop, registry.content(tag(), of(index), {"linux/amd64"}, true));
    EXPECT_EQ(read->platforms.front().created, parse_time("2026-11-20T10:00:00Z"));
    EXPECT_EQ(peer.asked.size(), 3U);
}

TEST(CreatedOf, SaysWhatTheConfigSays) {
    EXPECT_EQ(*created_of(R"({"created":"2026-11-20T10:00:00Z"})"),
              parse_time("2026-11-20T10:00:00Z"));
    EXPECT_EQ(*created_of(R"({"created":"0001-01-01T00:00:00Z"})"), Time{}) << "Go's zero";
    EXPECT_EQ(*created_of("{}"), Time{});
    EXPECT_EQ(*created_of(R"({"created":"yesterday"})"), Time{});
    EXPECT_EQ(*created_of(R"({"created":7})"), Time{});
    EXPECT_EQ(created_of("[]").error().code, "bad-config");
    EXPECT_EQ(platform_of(R"({"os":"linux","architecture":"s390x"})"), "linux/s390x");
    EXPECT_EQ(platform_of(R"({"os":"linux","architecture":"arm64","variant":"v8"})"),
              "linux/arm64");
    for (const char* none : {"", "[]", "{}", R"({"os":"linux"})", R"({"os":7,"architecture":"x"})"})
        EXPECT_EQ(platform_of(none), "") << none;
    EXPECT_EQ(created_of("").error().code, "bad-config");
}

TEST_F(RegistryTest, APlatformThatIsMissingStaysUnknownAndIsAskedAgain) {
    through_cache();
    bool broken = true;
    script = [&broken](const std::string& line, const std::string& request) {
        const bool second = line.find(of(image_body('d')).to_string()) != std::string::npos;
        return broken && second ? Reply{"500 Internal Server Error", "", "{}"}
                                : serve_index(line, request);
    };
    const auto read = content(of(index_body()));
    ASSERT_TRUE(read);
    EXPECT_EQ(read->platforms[0].config, digest('c'));
    EXPECT_TRUE(read->platforms[1].config.empty());
    broken = false;
    EXPECT_EQ(content(of(index_body()))->platforms[1].config, digest('d'));
}

TEST_F(RegistryTest, ContentThatIsNotToBeHadIsAnErrorAndNotKept) {
    through_cache();
    script = serve_index;
    EXPECT_EQ(content(digest('e')).error().code, "not-found");
    script = [](const std::string&, const std::string&) { return manifest(kIndexType, 'e', "?"); };
    EXPECT_EQ(content(of("?")).error().code, "bad-manifest");
    EXPECT_EQ(content(digest('e')).error().code, "digest-mismatch");
    script = [](const std::string&, const std::string&) {
        return manifest(kIndexType, 'e', std::string(5U << 20U, ' '));
    };
    EXPECT_EQ(content(digest('e')).error().code, "too-large");
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
