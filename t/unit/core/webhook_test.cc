// What registries and forges post, in the shapes that they have it, and who may.
#include "core/webhook.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace keel {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;
using enum WebhookSender;

const std::string kDigest = "sha256:" + std::string(64, 'a');

// The tags, one after the other; the error's text where it is one.
std::string read(WebhookSender sender, const std::string& body, const Headers& headers = {}) {
    const auto hints = read_webhook(sender, WebhookRequest{headers, body});
    if (!hints) {
        return hints.error().code + " " + hints.error().text;
    }
    std::string text;
    for (const WebhookHint& hint : *hints) {
        text += (text.empty() ? "" : " ") + hint.registry + "/" + hint.repository + ":" + hint.name;
    }
    return text;
}

bool may(WebhookSender sender, WebhookAuth auth, const Headers& headers,
         const std::string& body = "{}") {
    const std::vector<std::string> secrets{"another-one", "key-of-the-sender", "bob:password"};
    return authorize_webhook(sender, auth, secrets, WebhookRequest{headers, body}).has_value();
}

TEST(Webhook, SendersHaveTheirNames) {
    for (std::size_t i = 0; i < kWebhookSenders; ++i) {
        const auto sender = static_cast<WebhookSender>(i);
        EXPECT_EQ(webhook_sender(to_string(sender)), sender);
    }
    EXPECT_FALSE(webhook_sender("Github").has_value());
}

TEST(Webhook, D5_DigestsAreReadWhereSendersNameThem) {
    const std::string named = "\"digest\":\"" + kDigest + "\"";
    const std::pair<WebhookSender, std::string> pushes[] = {
        {native, R"({"name":"redis","tag":"8",)" + named + "}"},
        {azure, R"({"target":{"repository":"a","tag":"1",)" + named +
                    R"(},"request":{"host":"a.azurecr.io"}})"},
        {github, R"({"action":"published","package":{"name":"a","namespace":"b","package_version":)"
                 R"({"container_metadata":{"tag":{"name":"1",)" +
                     named + "}}}}}"},
        {harbor,
         R"({"type":"PUSH_ARTIFACT","event_data":{"resources":[{"resource_url":"h.example/a/b:1",)" +
             named + "}]}}"},
        {registry, R"({"events":[{"action":"push","target":{"repository":"a/b","tag":"1",)" +
                       named + R"(},"request":{"host":"r.example"}}]})"},
    };
    for (const auto& [sender, body] : pushes) {
        const Headers headers{{"x-github-event", "package"}};
        const auto hints = read_webhook(sender, WebhookRequest{headers, body});
        ASSERT_TRUE(hints && hints->size() == 1U) << body;
        EXPECT_EQ(hints->front().digest.to_string(), kDigest) << body;
    }
    const std::string bad = R"({"name":"redis","tag":"8","digest":"sha256:12"})";
    const auto hints = read_webhook(native, WebhookRequest{{}, bad});
    ASSERT_TRUE(hints && hints->size() == 1U);
    EXPECT_TRUE(hints->front().digest.empty()) << "what is no digest says nothing";
}

TEST(Webhook, Native) {
    EXPECT_EQ(read(native, R"({"name":"ghcr.io/acme/web","tag":"v2"})"), "ghcr.io/acme/web:v2");
    EXPECT_EQ(read(native, R"({"host":"ghcr.io","name":"acme/web","tag":"v2"})"),
              "ghcr.io/acme/web:v2");
    EXPECT_EQ(read(native, R"({"name":"redis","tag":"8"})"), "docker.io/library/redis:8");
    EXPECT_EQ(read(native, R"({"name":"redis"})"),
              "bad-webhook tag: expected a text that is not empty");
    EXPECT_EQ(read(native, R"({"name":"redis:7","tag":"8"})"),
              "bad-webhook name: expected an image's name, without a tag");
    EXPECT_EQ(read(native, R"({"name":"redis","tag":"a b"})"),
              "bad-webhook tag: expected a tag's name");
    EXPECT_EQ(read(native,
                   R"({"name":"redis","tag":")" + ("sha256-" + std::string(64, 'a')) + R"(.sig"})"),
              "");
    EXPECT_EQ(read(native, "[]"), "bad-webhook the body: expected a JSON object");
    EXPECT_TRUE(read(native, "{").starts_with("bad-webhook the body: expected JSON"));
}

TEST(Webhook, DockerHub) {
    EXPECT_EQ(read(dockerhub, R"({"push_data":{"pushed_at":1790000000,"pusher":"bob","tag":"v2"},
        "repository":{"repo_name":"acme/web","name":"web","namespace":"acme"}})"),
              "docker.io/acme/web:v2");
    EXPECT_EQ(read(dockerhub, R"({"push_data":{"tag":"v2"},"repository":{"name":"web"}})"),
              "bad-webhook repository.repo_name: expected a text that is not empty");
}

TEST(Webhook, QuayNamesSeveralTags) {
    EXPECT_EQ(
        read(quay, R"({"docker_url":"quay.io/acme/web","updated_tags":["v2","latest","v2"]})"),
        "quay.io/acme/web:v2 quay.io/acme/web:latest");
    EXPECT_EQ(read(quay, R"({"docker_url":"quay.io/acme/web","updated_tags":[1]})"),
              "bad-webhook updated_tags[0]: expected a tag's name");
}

TEST(Webhook, Azure) {
    const std::string rest = R"(,"request":{"host":"acme.azurecr.io"}})";
    EXPECT_EQ(read(azure, R"({"action":"push","target":{"repository":"web","tag":"v2"})" + rest),
              "acme.azurecr.io/web:v2");
    EXPECT_EQ(read(azure, R"({"target":{"repository":"web","tag":"","digest":"D"})" + rest), "");
    EXPECT_EQ(read(azure, R"({"action":"ping"})"), "");
    EXPECT_EQ(read(azure, R"({"target":{"repository":"web"})" + rest),
              "bad-webhook target.tag: expected a text that is not empty");
}

TEST(Webhook, GitHub) {
    const auto package = [](const std::string& key, const std::string& version) {
        return R"({"action":"published",")" + key + R"(":{"name":"Web/App","namespace":"Acme",
            "package_type":"CONTAINER","package_version":)" +
               version + "}}";
    };
    const std::string tagged =
        R"({"version":")" + kDigest + R"(","container_metadata":{"tag":{"name":"v2"}}})";
    const Headers event{{"x-github-event", "package"}};
    EXPECT_EQ(read(github, package("package", tagged), event), "ghcr.io/acme/web/app:v2");
    EXPECT_EQ(read(github, package("registry_package", R"({"version":"v2"})"),
                   {{"x-github-event", "registry_package"}}),
              "ghcr.io/acme/web/app:v2");
    EXPECT_EQ(read(github, package("package", R"({"version":")" + kDigest + R"("})"), event), "");
    EXPECT_EQ(read(github, R"({"zen":"x"})", {{"x-github-event", "ping"}}), "");
    EXPECT_EQ(read(github, R"({"package":{"package_type":"npm"}})", event), "");
    EXPECT_EQ(read(github, "{}"), "bad-webhook X-GitHub-Event: expected the header");
    EXPECT_EQ(read(github, "{}", event), "bad-webhook package: expected a JSON object");
    EXPECT_EQ(read(github, "payload=%7B%22package%22%3A%7B%22package_type%22%3A%22npm%22%7D%7D",
                   {{"x-github-event", "package"},
                    {"content-type", "application/x-www-form-urlencoded"}}),
              "");
}

TEST(Webhook, HarborInBothItsFormats) {
    const std::string data = R"({"resources":[{"resource_url":"harbor.example:8443/acme/web:v2"},
        {"resource_url":"harbor.example/acme/web@sha256:aa"}]})";
    const std::string tag = "harbor.example:8443/acme/web:v2";
    EXPECT_EQ(read(harbor, R"({"type":"PUSH_ARTIFACT","event_data":)" + data + "}"), tag);
    EXPECT_EQ(read(harbor, R"({"type":"pushImage","event_data":)" + data + "}"), tag);
    EXPECT_EQ(read(harbor, R"({"type":"harbor.artifact.pushed","data":)" + data + "}"), tag);
    EXPECT_EQ(read(harbor, R"({"type":"SCANNING_COMPLETED"})"), "");
    EXPECT_EQ(
        read(harbor, R"({"type":"PUSH_ARTIFACT","event_data":{"resources":[{}]}})"),
        "bad-webhook event_data.resources[0].resource_url: expected a text that is not empty");
}

TEST(Webhook, JFrogByPathAndByHost) {
    const auto body = [](const std::string& key) {
        return R"({"domain":"docker","event_type":"pushed","data":{"repo_key":")" + key +
               R"(","image_name":"web","tag":"v2"},"jpd_origin":"https://acme.jfrog.io"})";
    };
    EXPECT_EQ(read(jfrog, body("local")), "acme.jfrog.io/local/web:v2 local.acme.jfrog.io/web:v2");
    EXPECT_EQ(read(jfrog, body("hub-cache")), "");
    EXPECT_EQ(read(jfrog, R"({"data":{"image_name":"acme.io/web","tag":"1"}})"), "acme.io/web:1");
}

TEST(Webhook, RegistryEnvelopes) {
    const std::string body = R"({"events":[
        {"action":"push","target":{"repository":"t/ev"},"request":{"host":"r.example:5000"}},
        {"action":"pull","target":{"repository":"t/ev","tag":"v0"}},
        {"action":"push","target":{"repository":"t/ev","tag":"v1"},
         "request":{"host":"r.example:5000"}}]})";
    EXPECT_EQ(read(registry, body), "r.example:5000/t/ev:v1");
    EXPECT_EQ(read(gitlab, body), "r.example:5000/t/ev:v1");
    EXPECT_EQ(read(registry, R"({"events":[{"action":"push","target":{"tag":"1"}}]})"),
              "bad-webhook events[0].request.host: expected a text that is not empty");
    std::string many = R"({"events":[)";
    for (int i = 0; i <= static_cast<int>(kMaxWebhookHints); ++i) {
        many += (i == 0 ? "" : ",") +
                (R"({"action":"push","target":{"repository":"a","tag":")" + std::to_string(i)) +
                R"("},"request":{"host":"r.example"}})";
    }
    EXPECT_EQ(read(registry, many + "]}"), "bad-webhook the request: expected 256 tags at most");
}

TEST(Webhook, GiteaAndForgejo) {
    const auto body = [](const std::string& version) {
        return R"({"action":"created","package":{"type":"container","name":"web","version":")" +
               version + R"(","html_url":"https://git.example/acme/-/packages/container/web/v2",
               "owner":{"login":"Acme"}}})";
    };
    EXPECT_EQ(read(gitea, body("v2")), "git.example/acme/web:v2");
    EXPECT_EQ(read(gitea, body(kDigest)), "");
    EXPECT_EQ(read(gitea, R"({"action":"deleted"})"), "");
    EXPECT_EQ(read(gitea, "{}", {{"x-gitea-event", "push"}}), "");
}

TEST(Webhook, CloudEventsInAllModes) {
    const std::string data = R"({"host":"ghcr.io","name":"acme/web","tag":"v2"})";
    const std::string event = R"({"specversion":"1.0","type":"ci.pushed","data":)" + data + "}";
    EXPECT_EQ(read(cloudevents, event), "ghcr.io/acme/web:v2");
    EXPECT_EQ(read(cloudevents, "[" + event + "]"), "ghcr.io/acme/web:v2");
    EXPECT_EQ(read(cloudevents, data, {{"ce-type", "ci.pushed"}}), "ghcr.io/acme/web:v2");
    EXPECT_EQ(read(cloudevents, R"({"name":"acme/web","reference":"v2"})",
                   {{"ce-type", "zotregistry.image.updated"}}),
              "/acme/web:v2");
    EXPECT_EQ(read(cloudevents, R"([{"specversion":"1.0","type":"x"}])"),
              "bad-webhook [0].data: expected a JSON object");
}

TEST(Webhook, SignaturesAreOfTheBodyAsItCame) {
    // printf '{}' | openssl dgst -sha256 -hmac key-of-the-sender
    const std::string hex = "1e299be4d2bdb49e015d12a4774f658eb736072dbb7c5e5f106b83774c11d30f";
    const auto auth = WebhookAuth::hmac;
    EXPECT_TRUE(may(github, auth, {{"x-hub-signature-256", "sha256=" + hex}}));
    EXPECT_FALSE(may(github, auth, {{"x-hub-signature-256", "sha256=" + hex}}, "{ }"));
    EXPECT_FALSE(may(github, auth, {{"x-hub-signature-256", hex}}));
    EXPECT_FALSE(may(github, auth, {}));
    EXPECT_TRUE(may(gitea, auth, {{"x-gitea-signature", hex}}));
    EXPECT_TRUE(may(jfrog, auth, {{"x-jfrog-event-auth", hex}}));
}

TEST(Webhook, TokensAndPasswords) {
    EXPECT_TRUE(may(native, WebhookAuth::none, {}));
    EXPECT_TRUE(may(native, WebhookAuth::bearer, {{"authorization", "Bearer key-of-the-sender"}}));
    EXPECT_FALSE(may(native, WebhookAuth::bearer, {{"authorization", "key-of-the-sender"}}));
    EXPECT_TRUE(may(harbor, WebhookAuth::bearer, {{"authorization", "key-of-the-sender"}}));
    EXPECT_TRUE(may(gitlab, WebhookAuth::bearer, {{"x-gitlab-token", "key-of-the-sender"}}));
    EXPECT_FALSE(may(native, WebhookAuth::bearer, {{"authorization", "Bearer "}}));
    EXPECT_TRUE(may(quay, WebhookAuth::basic, {{"authorization", "Basic Ym9iOnBhc3N3b3Jk"}}));
    EXPECT_FALSE(may(quay, WebhookAuth::basic, {{"authorization", "Basic Ym9iOng="}}));
}

}  // namespace
}  // namespace keel
