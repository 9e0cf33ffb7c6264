#include "keeld/registry/authorization.h"

#include <algorithm>
#include <utility>

#include "keeld/json.h"

namespace keel {
namespace {

constexpr Millis kTimeout{15'000};

}  // namespace

Authorization::Authorization(Send send) : send_(std::move(send)) {}

// The anonymous token flow of the distribution specification's authentication scheme.
Task<Expected<std::string>> Authorization::answer(RegistryPath path, std::string repository,
                                                  std::vector<Challenge> challenges) {
    const auto bearer =
        std::ranges::find(challenges, Challenge::Scheme::bearer, &Challenge::scheme);
    if (bearer == challenges.end()) {
        co_return std::string();
    }
    const std::string where = path.base + " (" + path.registry + "/" + repository + ")";
    const std::string& realm = bearer->realm;
    if (!realm.starts_with("https://") && !realm.starts_with("http://")) {
        co_return fail("denied", where + " asks for a token and names no realm");
    }
    HttpRequest request;
    request.url = realm + (realm.find('?') == std::string::npos ? "?" : "&") +
                  "service=" + url_encode(bearer->service) + "&scope=" + url_encode(bearer->scope);
    request.timeout = kTimeout;
    const Expected<HttpResponse> answer = co_await send_(std::move(path), std::move(request));
    if (!answer) {
        co_return tl::unexpected<Error>(answer.error());
    }
    const Json root = parse_json(answer->body);
    std::string token(text_of(root.get(), "token"));
    if (token.empty()) {
        token = text_of(root.get(), "access_token");
    }
    if (answer->status != 200 || token.empty()) {
        co_return fail("denied", "no anonymous token for " + where + " from " + realm);
    }
    co_return "Bearer " + token;
}

}  // namespace keel
