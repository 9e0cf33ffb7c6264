#include "keeld/cache/feed.h"

#include <algorithm>
#include <utility>

#include "keeld/cache/hold_api.h"
#include "keeld/json.h"

namespace keel {
namespace {

constexpr auto kResyncInterval = std::chrono::seconds(60);
constexpr int kPage = 100;
// Of tags with nothing but a time.
constexpr int kSeenPage = 1000;
// After a start what was asked for until then counts too, unless it is older than this.
constexpr auto kSeenBefore = std::chrono::hours(24);
constexpr Millis kSeenTimeout{2'000};
// So many unreadable tags of a cache are remembered; all are counted.
constexpr std::size_t kUnreadableKept = 100;
constexpr std::string_view kSourcePrefix = "/caches/";

}  // namespace

CacheFeed::CacheFeed(Loop& loop, HttpClient& http, const Config& config, const Clock& clock,
                     Ledger& ledger, std::function<void(const CacheNews&)> news)
    : loop_(loop),
      http_(http),
      config_(config),
      clock_(clock),
      ledger_(ledger),
      news_(std::move(news)) {
    for (const CacheConfig& one : config_.caches) {
        Cache& cache = caches_.try_emplace(one.name, loop).first->second;
        cache.config = one;
        cache.state.name = one.name;
    }
    for (const CursorRow& row : ledger_.cursors()) {
        if (const auto found = caches_.find(row.cache); found != caches_.end()) {
            found->second.state.epoch = row.epoch;
            found->second.state.seq = row.seq;
        }
    }
}

Task<std::vector<Error>> CacheFeed::check() {
    std::vector<Error> errors;
    for (const auto& [name, cache] : caches_) {
        const std::string where = "caches: " + name + ": " + cache.config.api + "/status";
        HttpRequest request = cache_request(cache.config.api, "/status");
        const Expected<HttpResponse> response = co_await http_.send(std::move(request));
        if (!response) {
            errors.push_back({"cache", "caches: " + name + ": " + response.error().text});
            continue;
        }
        const Json root = parse_json(response->body);
        const std::string_view told = text_of(root.get(), "cache");
        if (response->status != 200 || told.empty()) {
            errors.push_back({"cache", where + " answered " + std::to_string(response->status) +
                                           "; api must name the location of keel_api"});
        } else if (told != name) {
            errors.push_back({"cache", where + " calls itself " + std::string(told) +
                                           "; the name must be that of keel_cache_name"});
        }
    }
    co_return errors;
}

Task<Expected<void>> CacheFeed::receive(SignedMessage message) {
    if (!config_.event_secrets) {
        ++metrics_.refused_signature;
        co_return fail("bad-signature", "events.secret is not set: no event can be accepted");
    }
    const Expected<void> genuine = config_.event_secrets->verify(
        message.id, message.timestamp, message.body, message.signature, clock_.now());
    if (!genuine) {
        (genuine.error().code == "clock-skew" ? metrics_.refused_skew
                                              : metrics_.refused_signature) += 1;
        co_return genuine;
    }
    const Expected<Batch> batch = decode_batch(message.body);
    if (!batch) {
        ++metrics_.refused_malformed;
        co_return tl::unexpected<Error>(batch.error());
    }
    for (const TagEvent& event : batch->events) {
        const std::string name = event.source.starts_with(kSourcePrefix)
                                     ? event.source.substr(kSourcePrefix.size())
                                     : std::string();
        const auto found = caches_.find(name);
        if (found == caches_.end()) {
            ++metrics_.unknown_cache;
            continue;
        }
        found->second.state.last_event = clock_.now();
        take(found->second, event.data, "event " + name);
    }
    for (const HoldEvent& event : batch->holds) {
        const std::string name = event.source.substr(kSourcePrefix.size());
        if (!caches_.contains(name)) {
            ++metrics_.unknown_cache;
        } else if (held_) {
            held_(name, event);
        }
    }
    ++metrics_.accepted;
    co_return co_await ledger_.durable();
}

// Newer than all that was told of this tag; not newer; or not comparable (another epoch, or told by
// an earlier run of keeld, which remembers only how far it had read).
CacheFeed::Order CacheFeed::order_of(Cache& cache, const TagState& state) {
    if (cache.state.epoch != state.epoch) {
        return Order::unknown;
    }
    if (const auto found = cache.seqs.find(state.tag); found != cache.seqs.end()) {
        return state.seq > found->second ? Order::newer : Order::stale;
    }
    return state.seq > cache.state.seq ? Order::newer : Order::unknown;
}

void CacheFeed::take(Cache& cache, const TagState& state, const std::string& source) {
    const Order order = order_of(cache, state);
    if (order == Order::stale) {
        ++cache.state.stale;
        return;
    }
    if (cache.state.epoch != state.epoch) {
        // A new zone, or a first meeting: what it had before this entry is not known until its
        // table is read.
        new_table(cache, state.epoch);
        cache.resync_wanted = true;
        cache.wake.notify();
    }
    cache.seqs[state.tag] = state.seq;
    forgive(cache, cache.unreadable, state.tag);
    // Events come in the order of seq, so what lies below this one has been told; but for what a
    // resync is still to read.
    if (!cache.resync_wanted && !cache.reading) {
        cache.state.seq = std::max(cache.state.seq, state.seq);
        save(cache);
    }
    ++cache.state.events;
    news_(CacheNews{source, state, order == Order::newer && !cache.settling});
}

// A new zone, or a first meeting.
void CacheFeed::new_table(Cache& cache, const std::string& epoch) {
    cache.settling = !cache.state.epoch.empty();
    cache.state.epoch = epoch;
    cache.state.seq = 0;
    cache.seqs.clear();
    cache.unreadable.clear();
    cache.unseen.clear();
    tell_unreadable(cache);
}

// Reading goes on behind them: the cache tells such a tag again when it changes or is asked for.
void CacheFeed::leave_out(Cache& cache, Unreadable& where,
                          const std::vector<UnreadableEntry>& entries) {
    for (const UnreadableEntry& entry : entries) {
        ++cache.state.left_out;
        if (where.size() < kUnreadableKept) {
            where[entry.tag] = entry.text;
        }
    }
    tell_unreadable(cache);
}

void CacheFeed::forgive(Cache& cache, Unreadable& where, const Tag& tag) {
    if (!where.empty() && where.erase(tag.to_string()) > 0) {
        tell_unreadable(cache);
    }
}

void CacheFeed::tell_unreadable(Cache& cache) {
    cache.state.unreadable.clear();
    const std::size_t count = cache.unreadable.size() + cache.unseen.size();
    if (count > 0) {
        const Unreadable& first = cache.unreadable.empty() ? cache.unseen : cache.unreadable;
        const auto& [tag, text] = *first.begin();
        cache.state.unreadable =
            "entries of its table that cannot be read: " + std::to_string(count) + "; " +
            (tag.empty() ? "one without a name" : tag) + ": " + text;
    }
}

Task<Expected<HttpResponse>> CacheFeed::read_page(Cache* cache, std::string epoch,
                                                  std::uint64_t since) {
    std::string query = "/tags?limit=" + std::to_string(kPage) + "&since=" + std::to_string(since);
    if (since > 0) {
        query += "&epoch=" + epoch;
    }
    HttpRequest request = cache_request(cache->config.api, query);
    co_return co_await http_.send(std::move(request));
}

Task<bool> CacheFeed::read_traffic(std::function<void(const SeenTag&)> seen) {
    bool all = true;
    for (auto& [name, cache] : caches_) {
        // One that is away holds nobody up; run() finds out when it is back.
        if (cache.state.resyncs == 0 || !cache.state.problem.empty()) {
            all = false;
            continue;
        }
        const Expected<void> done = co_await read_seen(&cache, &seen);
        if (!done) {
            all = false;
            cache.state.problem = done.error().text;
            cache.wake.notify();
        }
    }
    co_return all;
}

Task<Expected<void>> CacheFeed::read_seen(Cache* cache,
                                          const std::function<void(const SeenTag&)>* seen) {
    Time newest = cache->state.seen_since;
    if (newest == Time{}) {
        newest = clock_.now() - kSeenBefore;
    }
    const std::string since = format_time(newest);
    std::string epoch;
    std::uint64_t after = 0;
    while (!stopped_) {
        std::string query = "/tags?limit=" + std::to_string(kSeenPage) + "&seen_since=" + since;
        if (after > 0) {
            query += "&since=" + std::to_string(after) + "&epoch=" + epoch;
        }
        HttpRequest request = cache_request(cache->config.api, query);
        request.timeout = kSeenTimeout;
        const Expected<HttpResponse> response = co_await http_.send(std::move(request));
        if (!response) {
            co_return tl::unexpected<Error>(response.error());
        }
        if (response->status == 410) {
            break;  // another epoch: its table is read as a whole
        }
        const Expected<SeenPage> page = decode_seen_page(response->body);
        if (response->status != 200 || !page) {
            co_return fail("bad-answer", cache->config.api + "/tags?seen_since answered " +
                                             std::to_string(response->status));
        }
        for (const SeenTag& one : page->seen) {
            (*seen)(one);
            newest = std::max(newest, one.last_seen);
            forgive(*cache, cache->unseen, one.tag);
        }
        leave_out(*cache, cache->unseen, page->unreadable);
        epoch = page->epoch;
        if (!page->next || *page->next <= after) {
            cache->state.seen_since = newest;
            break;
        }
        after = *page->next;
    }
    co_return Expected<void>{};
}

Task<Expected<void>> CacheFeed::resync(Cache* cache) {
    cache->resync_wanted = false;
    cache->reading = true;
    const Expected<void> done = co_await read_pages(cache);
    cache->reading = false;
    co_return done;
}

Task<Expected<void>> CacheFeed::read_pages(Cache* cache) {
    const std::string source = "resync " + cache->config.name;
    std::string epoch = cache->state.epoch;
    std::uint64_t since = cache->state.seq;
    while (!stopped_) {
        const Expected<HttpResponse> response = co_await read_page(cache, epoch, since);
        if (!response) {
            co_return tl::unexpected<Error>(response.error());
        }
        if (response->status == 410 && since > 0) {
            since = 0;
            cache->seqs.clear();
            cache->unreadable.clear();
            continue;
        }
        const Expected<TagPage> page = decode_tag_page(response->body);
        if (response->status != 200 || !page) {
            co_return fail("bad-answer", cache->config.api + "/tags answered " +
                                             std::to_string(response->status) +
                                             "; caches[].api must name the location of keel_api");
        }
        epoch = page->epoch;
        if (cache->state.epoch != epoch) {
            new_table(*cache, epoch);
        }
        for (const TagState& state : page->tags) {
            take(*cache, state, source);
        }
        leave_out(*cache, cache->unreadable, page->unreadable);
        if (!page->next) {
            cache->state.seq = std::max(cache->state.seq, page->seq);
            save(*cache);
            cache->settling = false;
            cache->state.last_resync = clock_.now();
            ++cache->state.resyncs;
            co_return Expected<void>{};
        }
        const std::uint64_t following = *page->next;
        if (following <= since) {
            co_return fail("bad-answer", cache->config.api + "/tags: next is not after since");
        }
        since = following;
        cache->state.seq = std::max(cache->state.seq, since);
        save(*cache);
    }
    co_return Expected<void>{};
}

// What it says of registries is good to know; that it answers was just seen.
Task<void> CacheFeed::read_status(Cache* cache) {
    HttpRequest request = cache_request(cache->config.api, "/status");
    const Expected<HttpResponse> response = co_await http_.send(std::move(request));
    if (response && response->status == 200) {
        const Json root = parse_json(response->body);
        status_(cache->config.name, root.get());
    }
}

Task<void> CacheFeed::run(std::string name) {
    Cache* cache = &caches_.at(name);
    auto backoff = std::chrono::milliseconds(500);
    while (!stopped_) {
        const Expected<void> done = co_await resync(cache);
        if (done && status_) {
            co_await read_status(cache);
        }
        cache->state.problem = done ? "" : done.error().text;
        cache->resync_wanted = cache->resync_wanted || !done;
        backoff = done ? std::chrono::milliseconds(500)
                       : std::min(backoff * 2, std::chrono::milliseconds(30'000));
        const Steady::duration wait =
            done ? Steady::duration(kResyncInterval) : Steady::duration(backoff);
        co_await cache->wake.wait_until(Steady::now() + wait);
    }
}

void CacheFeed::stop() {
    stopped_ = true;
    for (auto& [name, cache] : caches_) {
        cache.wake.notify();
    }
}

void CacheFeed::save(const Cache& cache) {
    ledger_.put(CursorRow{cache.config.name, cache.state.epoch, cache.state.seq});
}

std::vector<CacheFeed::State> CacheFeed::states() const {
    std::vector<State> all;
    for (const auto& [name, cache] : caches_) {
        all.push_back(cache.state);
    }
    return all;
}

}  // namespace keel
