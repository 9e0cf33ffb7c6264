#include "keeld/api/router.h"

#include <algorithm>
#include <utility>

#include "keeld/api/webhooks.h"

namespace keel {
namespace {

constexpr std::string_view kWorkloads = "/v1/workloads/";

int status_of(const std::string& code) {
    if (code == "unsigned" || code == "bad-signature" || code == "clock-skew") {
        return 401;
    }
    if (code == "too-large") {
        return 413;
    }
    return code == "ledger" ? 503 : 400;
}

}  // namespace

Router::Router(const Config& config, Views& views, Actions& actions, CacheFeed& feed,
               std::function<bool()> ready)
    : config_(config), views_(views), actions_(actions), feed_(feed), ready_(std::move(ready)) {}

bool Router::serves(const ApiRequest& request, const std::string& what) const {
    const auto address = std::ranges::find(addresses_, request.serve);
    const auto at = static_cast<std::size_t>(address - addresses_.begin());
    if (at >= config_.listen.size()) {
        return false;
    }
    const std::vector<std::string>& served = config_.listen[at].serve;
    return served.empty() || std::ranges::find(served, what) != served.end();
}

Task<ApiResponse> Router::handle(ApiRequest request) {
    if (request.path == "/healthz") {
        ApiResponse response;
        response.content_type = "text/plain";
        response.body = "ok\n";
        co_return response;
    }
    if (request.path == "/readyz") {
        ApiResponse response;
        response.content_type = "text/plain";
        response.status = ready_() ? 200 : 503;
        response.body = ready_() ? "ok\n" : "workloads are not listed yet\n";
        co_return response;
    }
    if (request.path == "/v1/events" && serves(request, "events")) {
        if (request.method != "POST") {
            co_return api_error(405, "method", "POST events here");
        }
        co_return co_await events(std::move(request));
    }
    if (request.path.starts_with(Webhooks::kPath) && serves(request, "webhooks")) {
        co_return co_await webhooks_(std::move(request));
    }
    if (request.path == "/v1/actions" && serves(request, "api")) {
        if (request.method != "POST") {
            co_return api_error(405, "method", "POST actions here");
        }
        co_return co_await actions_.handle(std::move(request));
    }
    if (request.path == "/v1/approvals" && votes_ && serves(request, "api")) {
        co_return co_await votes_(std::move(request));
    }
    // Nothing is applied by it: who may read may ask.
    if (request.path == "/v1/plan" && request.method == "POST" && serves(request, "api")) {
        co_return plan_(request);
    }
    const bool acts = request.path == "/v1/actions";  // where it is not served
    if (!acts && request.method != "GET" && request.method != "HEAD") {
        co_return api_error(405, "method",
                            request.method + " is not supported for " + request.path);
    }
    if (request.path == "/metrics" && serves(request, "metrics")) {
        co_return views_.metrics();
    }
    if (!serves(request, "api")) {
        co_return api_error(404, "not-served", request.path + " is not served on " + request.serve);
    }
    co_return read(request);
}

ApiResponse Router::read(const ApiRequest& request) {
    if (request.path == "/v1/status") {
        return views_.status();
    }
    if (request.path == "/v1/plan") {
        return views_.plan();
    }
    if (request.path == "/v1/workloads") {
        return views_.workloads(request);
    }
    if (request.path.starts_with(kWorkloads)) {
        return views_.workload(request.path.substr(kWorkloads.size()));
    }
    if (request.path == "/v1/tags") {
        return views_.tags(request);
    }
    if (request.path == "/v1/holds") {
        return views_.holds(request);
    }
    if (request.path == "/v1/audit/watches") {
        return views_.watches(request);
    }
    if (request.path == "/v1/report") {
        return views_.report(request);
    }
    if (request.path == "/v1/pins") {
        return views_.pins(request);
    }
    if (request.path == "/v1/migrate/kyverno") {
        return views_.leftovers(request);
    }
    if (request.path == "/v1/phases") {
        return views_.phases();
    }
    if (request.path == "/v1/rollouts") {
        return views_.rollouts(request);
    }
    if (request.path == "/v1/ledger") {
        return views_.ledger(request);
    }
    return api_error(404, "not-found", request.path + " is not a path of this API");
}

Task<ApiResponse> Router::events(ApiRequest request) {
    SignedMessage message;
    message.id = request.header("webhook-id");
    message.timestamp = request.header("webhook-timestamp");
    message.signature = request.header("webhook-signature");
    message.body = std::move(request.body);
    const Expected<void> taken = co_await feed_.receive(std::move(message));
    ApiResponse response;
    if (taken) {
        response.status = 204;
        response.content_type.clear();
        co_return response;
    }
    co_return api_error(status_of(taken.error().code), taken.error().code, taken.error().text);
}

}  // namespace keel
