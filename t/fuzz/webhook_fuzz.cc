// The bodies of POST /v1/webhooks/NAME, from others.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/reference.h"
#include "core/webhook.h"
#include "fuzz/require.h"

namespace keel {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

void check(WebhookSender sender, const Headers& headers, std::string_view body) {
    const WebhookRequest request{headers, body};
    const auto hints = read_webhook(sender, request);
    if (!hints) {
        for (const char c : hints.error().text) {
            REQUIRE(c >= ' ' && c <= '~');
        }
        return;
    }
    REQUIRE(hints->size() <= kMaxWebhookHints);
    for (const WebhookHint& hint : *hints) {
        REQUIRE(hint.registry.empty() || is_registry(hint.registry));
        REQUIRE(is_repository(hint.repository));
        REQUIRE(is_tag_name(hint.name) && !is_signature_tag(hint.name));
    }
    const std::vector<std::string> secrets{"0123456789abcdef"};
    for (const auto auth : {WebhookAuth::basic, WebhookAuth::bearer, WebhookAuth::hmac}) {
        REQUIRE(!authorize_webhook(sender, auth, secrets, request));
    }
}

}  // namespace
}  // namespace keel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view body(reinterpret_cast<const char*>(data), size);
    const std::vector<keel::Headers> all{
        {{"x-github-event", "package"}, {"x-gitea-event", "package"}},
        {{"x-github-event", "registry_package"}, {"ce-type", "zotregistry.image.updated"}},
        {{"x-github-event", "package"}, {"content-type", "application/x-www-form-urlencoded"}}};
    for (std::size_t i = 0; i < keel::kWebhookSenders; ++i) {
        for (const keel::Headers& headers : all) {
            keel::check(static_cast<keel::WebhookSender>(i), headers, body);
        }
    }
    return 0;
}
