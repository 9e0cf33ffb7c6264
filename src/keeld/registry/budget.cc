#include "keeld/registry/budget.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "keeld/json.h"

namespace keel {
namespace {

constexpr Millis kLongestWait = std::chrono::hours(24);  // whatever a registry asks for
constexpr Millis kFirstUnsaid{60'000};  // after a 429 that does not say for how long
constexpr Millis kLongestUnsaid = std::chrono::hours(1);
constexpr Millis kFirstOpen{1'000};  // about as long again as the outage lasts so far
constexpr Millis kLongestOpen = std::chrono::minutes(10);
constexpr Millis kProbe{30'000};  // a probe that never came back gives its place up
constexpr std::chrono::hours kUnsaidWindow{1};
constexpr json_int_t kYear = 365 * 24 * 60 * 60;  // seconds
constexpr int kLongestDoubling = 16;

Millis doubled(Millis first, int times, Millis most) {
    return std::min(first * (1 << std::min(times, kLongestDoubling)), most);
}

Millis until(Steady::time_point then, Steady::time_point now) {
    return then <= now ? Millis{0} : std::chrono::ceil<Millis>(then - now);
}

std::string name_of(const RegistryPath& path) {
    return path.registry + " (" + path.source + ")";
}

std::uint64_t reserved(std::uint64_t limit, double share) {
    return static_cast<std::uint64_t>(std::ceil(static_cast<double>(limit) * share));
}

}  // namespace

bool is_postponed(const Error& error) noexcept {
    return error.code == "rate-limited" || error.code == "budget" || error.code == "circuit-open";
}

std::optional<Millis> retry_after_of(const HttpResponse& response) {
    const std::string_view text = response.header("retry-after");
    if (const std::optional<std::uint32_t> seconds = parse_retry_seconds(text)) {
        return std::min<Millis>(std::chrono::seconds(*seconds), kLongestWait);
    }
    const std::optional<Time> then = text.empty() ? std::nullopt : parse_http_date(text);
    if (!then) {
        return std::nullopt;
    }
    const std::optional<Time> date = parse_http_date(response.header("date"));
    const Time now = date ? *date : SystemClock().now();
    return std::clamp(*then - now, Millis{0}, kLongestWait);
}

Error registry_refusal(const HttpResponse& response, const std::string& where) {
    const std::string text = where + " answered " + std::to_string(response.status);
    if (response.status == 404) {
        return {"not-found",
                text + "; through a cache that may also mean an upstream that refuses or fails"};
    }
    if (response.status == 401 || response.status == 403) {
        return {"denied", text};
    }
    const Millis wait = retry_after_of(response).value_or(Millis{0});
    if (response.status == 429) {
        const std::string_view said = response.header("retry-after");
        return {"rate-limited", text + (said.empty() ? "" : "; Retry-After: " + std::string(said)),
                wait};
    }
    return {"unavailable", text, response.status == 503 ? wait : Millis{0}};
}

std::vector<RegistryNotice> notices_of(const json_t* status, Time now) {
    const auto limit_of = [](const json_t* rates, const char* key) -> std::optional<RateLimit> {
        const json_t* count = json_object_get(rates, key);
        if (!json_is_integer(count) || json_integer_value(count) < 0) {
            return std::nullopt;
        }
        const json_int_t window = json_integer_value(json_object_get(rates, "window"));
        return RateLimit{static_cast<std::uint64_t>(json_integer_value(count)),
                         static_cast<std::uint32_t>(std::clamp<json_int_t>(window, 0, kYear))};
    };
    std::vector<RegistryNotice> all;
    const char* name = nullptr;
    json_t* item = nullptr;
    json_object_foreach(json_object_get(status, "registries"), name, item) {
        RegistryNotice notice;
        notice.registry = name;
        const json_t* rates = json_object_get(item, "rate_limit");
        notice.limit = limit_of(rates, "limit");
        notice.remaining = limit_of(rates, "remaining");
        notice.source = text_of(rates, "source");
        notice.age = std::max(now - parse_time(text_of(rates, "at")).value_or(now), Millis{0});
        const Time retry_at = parse_time(text_of(item, "retry_at")).value_or(Time{});
        notice.retry_after = std::max(retry_at - now, Millis{0});
        all.push_back(std::move(notice));
    }
    return all;
}

Budget::Budget(const Config& config, Now now) : config_(config), now_(std::move(now)) {}

// --- how often the configuration allows ---

double Budget::Bucket::per_second() const {
    const double at_once = std::max(1, rate.count / 5);
    return (rate.count - at_once + 1) / std::chrono::duration<double>(rate.per).count();
}

void Budget::Bucket::refill(const Rate& now, Steady::time_point when) {
    const double at_once = std::max(1, now.count / 5);
    if (now.count != rate.count || now.per != rate.per) {
        tokens = rate.count == 0 ? at_once : std::min(tokens, at_once);
        rate = now;
    } else {
        const std::chrono::duration<double> since = when - at;
        tokens = std::min(tokens + since.count() * per_second(), at_once);
    }
    at = when;
}

Steady::duration Budget::Bucket::wait() const {
    if (rate.count == 0 || tokens >= 1) {
        return Steady::duration::zero();
    }
    const std::chrono::duration<double> rest((1 - tokens) / per_second());
    return std::chrono::ceil<Millis>(rest);
}

const RegistryConfig& Budget::settings(const std::string& registry) const {
    static const RegistryConfig kUnnamed;
    const auto found = config_.registries.find(registry);
    return found != config_.registries.end() ? found->second : kUnnamed;
}

// --- what the registry itself says ---

// When there is one again beside what is kept for nodes: they come back about evenly over the
// window.
Steady::time_point Budget::back_at(const Limits& limits, const std::string& registry) const {
    const std::uint64_t limit = limits.limit ? limits.limit->count : 0;
    const std::uint64_t least = reserved(limit, settings(registry).reserve) + 1;
    const std::chrono::seconds window(limits.remaining->window);
    if (least <= limits.remaining->count) {
        return limits.at;
    }
    const Steady::duration back =
        window.count() == 0 || limit == 0
            ? Steady::duration(kUnsaidWindow)
            : Steady::duration(window) / static_cast<std::int64_t>(limit) *
                  static_cast<std::int64_t>(least - limits.remaining->count);
    return limits.at + back;
}

// Those limits of which only the part is left that is kept for nodes; null: there are none.
const Budget::Limits* Budget::scarce(const Shared& shared, const std::string& registry,
                                     Cost cost) const {
    for (const auto& [who, limits] : shared.limits) {
        // Docker Hub counts pulls and names whose they are; others count everything.
        if (!limits.remaining || (cost != Cost::pull && !limits.source.empty())) {
            continue;
        }
        if (now_() < back_at(limits, registry)) {
            return &limits;
        }
    }
    return nullptr;
}

void Budget::read_limits(Shared& shared, const std::string& source, const HttpResponse& response) {
    const std::optional<RateLimit> remaining =
        parse_rate_limit(response.header("ratelimit-remaining"));
    if (!remaining) {
        return;
    }
    shared.limits[source] =
        Limits{parse_rate_limit(response.header("ratelimit-limit")), remaining,
               std::string(response.header("docker-ratelimit-source")), source, now_()};
}

void Budget::note(const std::string& cache, const RegistryNotice& notice) {
    Shared& shared = shared_[notice.registry];
    if (notice.remaining) {
        shared.limits[cache] =
            Limits{notice.limit, notice.remaining, notice.source, cache, now_() - notice.age};
    }
    if (notice.retry_after > Millis{0}) {
        Way& way = way_of(RegistryPath{notice.registry, "", "", "look-up " + cache});
        const Steady::time_point then = now_() + std::min(notice.retry_after, kLongestWait);
        if (then > way.all.until) {
            way.all = Stop{then, notice.registry + " told " + cache +
                                     " not to ask again before its Retry-After is over"};
        }
    }
}

void Budget::stop(Way& way, Cost cost, const HttpResponse& response) {
    std::optional<Millis> wait = retry_after_of(response);
    if (wait) {
        way.unsaid = 0;
    } else {
        wait = jittered(doubled(kFirstUnsaid, way.unsaid++, kLongestUnsaid));
    }
    const std::string_view said = response.header("retry-after");
    const bool pulls = cost == Cost::pull && !response.header("docker-ratelimit-source").empty();
    Stop& stop = pulls ? way.pulls : way.all;
    stop.until = std::max(stop.until, now_() + std::max<Millis>(*wait, std::chrono::seconds(1)));
    stop.why =
        way.told.registry + " (" + way.told.source + ") answered " +
        std::to_string(response.status) +
        (said.empty() ? " and did not say for how long" : "; Retry-After: " + std::string(said)) +
        (pulls ? "; it counts pulls" : "");
}

// --- whether it is there at all ---

Millis Budget::jittered(Millis duration) {
    std::uniform_real_distribution<double> spread(1.0, 1.2);
    return std::chrono::duration_cast<Millis>(duration * spread(random_));
}

void Budget::failed(Way& way, const std::string& why) {
    ++way.told.failures;
    ++way.in_a_row;
    way.told.failure = why;
    if (way.in_a_row < kFailures || (way.open && !way.probing)) {
        return;  // what was under way when it opened says nothing new
    }
    way.open = true;
    way.probing = false;
    way.closed_until = now_() + jittered(doubled(kFirstOpen, way.opened++, kLongestOpen));
}

void Budget::answered(Way& way) {
    way.in_a_row = 0;
    way.opened = 0;
    way.open = false;
    way.probing = false;
    way.told.failure.clear();
}

// --- the life of a request ---

Budget::Way& Budget::way_of(const RegistryPath& path) {
    Way& way = ways_[{path.registry, path.source}];
    way.told.registry = path.registry;
    way.told.source = path.source;
    return way;
}

Expected<void> Budget::check(const Way& way, const Shared& shared, Cost cost) const {
    const Steady::time_point now = now_();
    const std::string& registry = way.told.registry;
    if (way.open && now < way.closed_until) {
        return fail("circuit-open",
                    registry + " (" + way.told.source + ") failed " + std::to_string(kFailures) +
                        " times in a row: " + way.told.failure,
                    until(way.closed_until, now));
    }
    for (const Stop* stop : {&way.all, cost == Cost::pull ? &way.pulls : &way.all}) {
        if (now < stop->until) {
            return fail("rate-limited", stop->why, until(stop->until, now));
        }
    }
    if (const Limits* limits = scarce(shared, registry, cost)) {
        return fail("rate-limited",
                    registry + ": " + limits->told_by + " told that of " +
                        std::to_string(limits->limit ? limits->limit->count : 0) +
                        " requests hardly any is left; the rest is kept for nodes "
                        "(registries.*.reserve)",
                    until(back_at(*limits, registry), now));
    }
    const auto used_up = [&](const Bucket& bucket, const char* key) -> Expected<void> {
        if (bucket.wait() == Steady::duration::zero()) {
            return {};
        }
        return fail("budget",
                    "registries." + registry + "." + key + " (" +
                        std::to_string(bucket.rate.count) + " per " +
                        format_duration(bucket.rate.per) + ") is used up",
                    until(now + bucket.wait(), now));
    };
    Expected<void> fine = used_up(shared.requests, "requests");
    return fine && cost == Cost::pull ? used_up(shared.pulls, "pulls") : fine;
}

Expected<void> Budget::admit(const RegistryPath& path, Cost cost) {
    const Steady::time_point now = now_();
    Way& way = way_of(path);
    Shared& shared = shared_[path.registry];
    shared.requests.refill(settings(path.registry).requests, now);
    shared.pulls.refill(settings(path.registry).pulls, now);
    Expected<void> may = check(way, shared, cost);
    if (!may) {
        ++way.told.postponed;
        return may;
    }
    if (way.open) {
        way.probing = true;
        way.closed_until = now + kProbe;
    }
    shared.requests.tokens -= 1;
    ++way.told.requests;
    if (cost == Cost::pull) {
        shared.pulls.tokens -= 1;
        ++way.told.pulls;
    }
    return {};
}

void Budget::note(const RegistryPath& path, Cost cost, Scope scope,
                  const Expected<HttpResponse>& response) {
    Way& way = way_of(path);
    if (!response) {
        const bool late = scope == Scope::part && response.error().code == "timeout";
        if (is_away(response.error()) && !late) {
            failed(way, response.error().text);
        }
        return;
    }
    read_limits(shared_[path.registry], path.source, *response);
    const int status = response->status;
    if (status >= 500) {
        if (scope == Scope::whole || status != 500) {
            failed(way, name_of(path) + " answered " + std::to_string(status));
        }
        if (status == 503 && retry_after_of(*response)) {
            stop(way, cost, *response);
        }
        return;
    }
    answered(way);
    if (status == 429) {
        stop(way, cost, *response);
    } else if (status < 400) {
        way.unsaid = 0;
    }
}

std::vector<RegistryState> Budget::states() const {
    const Steady::time_point now = now_();
    std::vector<RegistryState> all;
    for (const auto& [key, way] : ways_) {
        RegistryState state = way.told;
        const Shared& shared = shared_.at(key.first);
        state.in_a_row = way.in_a_row;
        state.circuit = !way.open ? "closed" : now < way.closed_until ? "open" : "half-open";
        Shared then = shared;
        then.requests.refill(settings(key.first).requests, now);
        then.pulls.refill(settings(key.first).pulls, now);
        Expected<void> may = check(way, then, Cost::request);
        if (may) {
            may = check(way, then, Cost::pull);
            state.pulls_only = !may;
        }
        if (!may) {
            state.waits = may.error().code;
            state.waits_text = may.error().text;
            state.wait = may.error().retry_after;
        }
        const auto least = std::ranges::min_element(
            shared.limits, {}, [](const auto& one) { return one.second.remaining->count; });
        if (least != shared.limits.end()) {
            const Limits& limits = least->second;
            state.limit = limits.limit ? std::optional(limits.limit->count) : std::nullopt;
            state.remaining = limits.remaining->count;
            state.window = std::chrono::seconds(limits.remaining->window);
            state.counted = limits.source;
            state.told_by = limits.told_by;
        }
        all.push_back(std::move(state));
    }
    return all;
}

}  // namespace keel
