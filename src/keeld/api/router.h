// Which path of the HTTP API is answered by whom, and what a listener serves.
#pragma once

#include "keeld/api/actions.h"
#include "keeld/api/server.h"
#include "keeld/api/views.h"
#include "keeld/cache/feed.h"
#include "keeld/config.h"
#include "keeld/loop.h"

namespace keel {

class Router {
  public:
    Router(const Config& config, Views& views, Actions& actions, CacheFeed& feed,
           std::function<bool()> ready);

    // The addresses that were bound, in the order of `listen` in the configuration: what a
    // request's listener may serve.
    void set_addresses(std::vector<std::string> addresses) { addresses_ = std::move(addresses); }

    // Who answers POST /v1/plan.
    void plan_with(std::function<ApiResponse(const ApiRequest&)> plan) { plan_ = std::move(plan); }

    // Who answers /v1/approvals. Without: 404.
    void vote_with(std::function<Task<ApiResponse>(ApiRequest)> votes) {
        votes_ = std::move(votes);
    }

    // Who answers /v1/webhooks/NAME.
    void take_webhooks_with(std::function<Task<ApiResponse>(ApiRequest)> webhooks) {
        webhooks_ = std::move(webhooks);
    }

    // 404 for paths that are not served here, 405 for another method, 403 for what this listener
    // may not do.
    [[nodiscard]] Task<ApiResponse> handle(ApiRequest request);

  private:
    [[nodiscard]] bool serves(const ApiRequest& request, const std::string& what) const;
    [[nodiscard]] ApiResponse read(const ApiRequest& request);
    [[nodiscard]] Task<ApiResponse> events(ApiRequest request);

    const Config& config_;
    Views& views_;
    Actions& actions_;
    CacheFeed& feed_;
    std::function<bool()> ready_;
    std::function<ApiResponse(const ApiRequest&)> plan_;
    std::function<Task<ApiResponse>(ApiRequest)> votes_;
    std::function<Task<ApiResponse>(ApiRequest)> webhooks_;
    std::vector<std::string> addresses_;
};

}  // namespace keel
