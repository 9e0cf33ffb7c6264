// What registries, forges and CI systems post when something was pushed. A webhook is a hint: what
// is read of it is which tags to look at, and which digest somebody says was pushed there, which
// may confirm what was seen and is never rolled by itself. Pure; hostile input is an error, never
// more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "core/expected.h"

namespace keel {

// The last part of the path that it posts to, /v1/webhooks/NAME.
enum class WebhookSender : std::uint8_t {
    native,
    dockerhub,
    quay,
    azure,
    github,
    harbor,
    jfrog,
    registry,
    gitea,
    gitlab,
    cloudevents,
};
inline constexpr std::size_t kWebhookSenders = 11;

[[nodiscard]] std::string_view to_string(WebhookSender sender) noexcept;
[[nodiscard]] std::optional<WebhookSender> webhook_sender(std::string_view name) noexcept;

// How a sender shows who it is.
enum class WebhookAuth : std::uint8_t { none, basic, bearer, hmac };

// Whether the sender signs what it posts, so that `hmac` can be asked of it.
[[nodiscard]] bool signs(WebhookSender sender) noexcept;

// One request. Both outlive the calls that they are given to.
struct WebhookRequest {
    const std::vector<std::pair<std::string, std::string>>& headers;  // names in lower case
    std::string_view body;

    [[nodiscard]] std::string_view header(std::string_view lower_case_name) const noexcept;
};

// Checks a request against the secrets of its sender, each in constant time: the password with its
// user ("USER:PASSWORD") for basic, the token for bearer (X-Gitlab-Token and Harbor's bare
// Authorization count), the key for hmac: hex HMAC-SHA256 of the body as it came, in
// X-Hub-Signature-256, X-Gitea-Signature or X-JFrog-Event-Auth. Errors: "unauthorized", which does
// not say what is wrong with which secret.
[[nodiscard]] Expected<void> authorize_webhook(WebhookSender sender, WebhookAuth auth,
                                               const std::vector<std::string>& secrets,
                                               const WebhookRequest& request);

// A tag that somebody says was pushed.
struct WebhookHint {
    std::string registry;  // normalised; empty: the sender does not say which
    std::string repository;
    std::string name;
    Digest digest{};        // that it was pushed at; empty: it does not say
    bool any_case = false;  // the sender writes names in lower case, whatever they are

    friend bool operator==(const WebhookHint&, const WebhookHint&) = default;
};

inline constexpr std::size_t kMaxWebhookHints = 256;  // of one request

// The tags that a request speaks of, each once, in its order. Empty: it is well, and speaks of
// none (a ping, a deletion, a push without a tag, another package than a container's). Errors:
// "bad-webhook", naming the field.
[[nodiscard]] Expected<std::vector<WebhookHint>> read_webhook(WebhookSender sender,
                                                              const WebhookRequest& request);

}  // namespace keel
