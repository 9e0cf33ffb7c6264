#include "keeld/api/webhooks.h"

#include <algorithm>
#include <boost/beast/core/string.hpp>
#include <optional>
#include <set>

#include "core/reference.h"
#include "keeld/signal.h"
#include "keeld/spawn.h"

namespace keel {
namespace {

bool same_name(const WebhookHint& hint, std::string_view name) {
    return hint.any_case ? boost::beast::iequals(hint.name, name) : hint.name == name;
}

}  // namespace

Webhooks::Webhooks(Parts parts) : parts_(std::move(parts)) {
    for (Bucket& bucket : buckets_) {
        bucket.filled = Steady::now();
    }
}

ApiResponse Webhooks::handle(const ApiRequest& request) {
    const std::string name = request.path.substr(kPath.size());
    const std::optional<WebhookSender> sender = webhook_sender(name);
    const auto config = parts_.config.webhooks.find(name);
    if (!sender || config == parts_.config.webhooks.end()) {
        return api_error(404, "not-found", "keeld.yaml names no such sender below webhooks");
    }
    if (request.method != "POST") {
        return api_error(405, "method", "POST webhooks here");
    }
    const auto refuse = [&](int status, const char* result, const Error& error) {
        ++counts_[{name, result}];
        return api_error(status, error.code, error.text);
    };
    if (request.body.size() > kMaxBody) {
        return refuse(413, "too-large", {"too-large", "a webhook has 128 kB at most"});
    }
    const WebhookRequest message{request.headers, request.body};
    const Expected<void> known =
        authorize_webhook(*sender, config->second.auth, config->second.secrets, message);
    if (!known) {
        return refuse(401, "unauthorized", known.error());
    }
    if (!room(*sender)) {
        ApiResponse response =
            refuse(429, "too-many", {"too-many", "10 webhooks a second of one sender are taken"});
        response.headers.emplace_back("Retry-After", "1");
        return response;
    }
    if (!parts_.ready()) {
        return refuse(503, "not-ready", {"not-ready", "workloads are not listed yet; send again"});
    }
    const Expected<std::vector<WebhookHint>> hints = read_webhook(*sender, message);
    if (!hints) {
        return refuse(400, "malformed", hints.error());
    }
    std::erase_if(asked_, [this](const auto& one) {
        return !one.second.waiting && one.second.at + parts_.again < Steady::now();
    });
    Effect effect = Effect::nothing;
    for (const WebhookHint& hint : *hints) {
        effect = std::max(
            effect, take(hint, config->second.auth == WebhookAuth::none ? "" : "webhook " + name));
    }
    constexpr std::array<const char*, 4> kResults{"nothing", "unknown", "coalesced", "asked"};
    ++counts_[{name, kResults.at(static_cast<std::size_t>(effect))}];
    ApiResponse response;
    response.content_type.clear();
    return response;
}

bool Webhooks::room(WebhookSender sender) {
    Bucket& bucket = buckets_.at(static_cast<std::size_t>(sender));
    const Steady::time_point now = Steady::now();
    const std::chrono::duration<double> passed = now - bucket.filled;
    bucket.tokens = std::min(kBurst, bucket.tokens + passed.count() * kPerSecond);
    bucket.filled = now;
    if (bucket.tokens < 1) {
        return false;
    }
    bucket.tokens -= 1;
    return true;
}

// The tag itself where it is followed, and the list of its repository, where it may be new.
// `source`: who says so; empty: anybody may.
Webhooks::Effect Webhooks::take(const WebhookHint& hint, const std::string& source) {
    Schedule* const schedule = parts_.schedule;
    std::set<Tag> tags;
    std::set<std::pair<std::string, std::string>> repositories;
    for (const auto& [tag, consumers] : parts_.catalogue.by_tag()) {
        const bool there = hint.registry.empty() || tag.registry == hint.registry;
        if (schedule == nullptr || !there || tag.repository != hint.repository) {
            continue;
        }
        repositories.emplace(tag.registry, tag.repository);
        const Tag exact{tag.registry, tag.repository, hint.name};
        if (same_name(hint, tag.name)) {
            tags.insert(tag);
        } else if (schedule->follows(exact)) {
            tags.insert(exact);
        }
    }
    Effect effect = repositories.empty() ? Effect::unknown : Effect::nothing;
    for (const Tag& tag : tags) {
        // One that does not say which registry it speaks of may speak of another.
        const bool counts = !source.empty() && !hint.registry.empty() && !hint.digest.empty();
        if (counts) {
            parts_.confirm(tag, hint.digest, source);
        }
        parts_.pushes.named(tag, parts_.clock.now(),
                            counts ? Pushes::Word{hint.digest, source} : Pushes::Word{});
        if (schedule->follows(tag)) {
            effect =
                std::max(effect, want(tag.to_string(), [schedule, tag] { schedule->hint(tag); }));
        }
    }
    for (const auto& [registry, repository] : repositories) {
        if (schedule->lists_for_policies(registry, repository)) {
            parts_.pushes.named(Tag{registry, repository, hint.name}, parts_.clock.now());
            effect =
                std::max(effect, want(registry + "/" + repository,
                                      [schedule, registry = registry, repository = repository] {
                                          schedule->hint_list(registry, repository);
                                      }));
        }
    }
    return effect;
}

// A hint within `again` of the last one is not lost: the tag may have moved in between.
Webhooks::Effect Webhooks::want(const std::string& key, std::function<void()> ask) {
    const Steady::time_point now = Steady::now();
    const auto [at, first] = asked_.try_emplace(key);
    Asked& asked = at->second;
    if (asked.waiting) {
        return Effect::coalesced;
    }
    if (first || now >= asked.at + parts_.again) {
        asked.at = now;
        ask();
        return Effect::asked;
    }
    asked.waiting = true;
    keel::spawn(parts_.loop, ask_later(key, asked.at + parts_.again - now, std::move(ask)));
    return Effect::coalesced;
}

Task<void> Webhooks::ask_later(std::string key, Steady::duration wait, std::function<void()> ask) {
    co_await pause_for(parts_.loop, wait);
    asked_[key] = Asked{.at = Steady::now()};
    ask();
}

}  // namespace keel
