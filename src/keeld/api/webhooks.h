// POST /v1/webhooks/NAME: who may post, how much of it, and what is looked up for it. What a
// webhook says is never used but to know which tag to ask the registry for, and, of a sender that
// shows who it is, to believe a registry that a tag went back.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "core/webhook.h"
#include "keeld/api/server.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/loop.h"
#include "keeld/policy/pushes.h"
#include "keeld/policy/schedule.h"

namespace keel {

class Webhooks {
  public:
    struct Parts {
        Loop& loop;
        const Config& config;
        const Clock& clock;
        const Catalogue& catalogue;
        Pushes& pushes;
        Schedule* schedule = nullptr;  // null: nothing is looked up
        std::function<bool()> ready;   // workloads are listed
        // A sender that shows who it is says that the tag was pushed at this digest: the second
        // source (design.md 1).
        std::function<void(const Tag&, const Digest&, const std::string& source)> confirm;
        Millis again{3'000};  // between two look-ups of one tag for webhooks' sake
    };
    explicit Webhooks(Parts parts);

    static constexpr std::string_view kPath = "/v1/webhooks/";
    static constexpr std::size_t kMaxBody = 128U << 10U;
    // Authorized requests of one sender: so many at once, and so many a second after that.
    static constexpr double kBurst = 100;
    static constexpr double kPerSecond = 10;

    // 200 without a body: taken, whether or not anything is looked up for it. 400 "bad-webhook",
    // 401 "unauthorized", 404 for a sender that the configuration does not name, 405, 413, 429, 503
    // "not-ready".
    [[nodiscard]] ApiResponse handle(const ApiRequest& request);

    // Requests by sender and result: "asked", "coalesced" (looked up within `again`, or about to
    // be), "unknown" (nobody runs it), "nothing" (it speaks of no tag), and those refused:
    // "malformed", "unauthorized", "too-large", "too-many", "not-ready".
    using Counts = std::map<std::pair<std::string, std::string>, std::uint64_t>;
    [[nodiscard]] const Counts& counts() const { return counts_; }

  private:
    struct Bucket {
        double tokens = kBurst;
        Steady::time_point filled;
    };
    struct Asked {
        Steady::time_point at;
        bool waiting = false;  // it is asked once more, `again` after `at`
    };
    // What a request came to, the best of its tags.
    enum class Effect : std::uint8_t { nothing, unknown, coalesced, asked };

    [[nodiscard]] bool room(WebhookSender sender);
    [[nodiscard]] Effect take(const WebhookHint& hint, const std::string& source);
    Effect want(const std::string& key, std::function<void()> ask);
    Task<void> ask_later(std::string key, Steady::duration wait, std::function<void()> ask);

    Parts parts_;
    std::array<Bucket, kWebhookSenders> buckets_;
    std::map<std::string, Asked> asked_;  // by tag, or repository for its list; the newest only
    Counts counts_;
};

}  // namespace keel
