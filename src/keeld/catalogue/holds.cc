#include "keeld/catalogue/holds.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <memory>
#include <utility>

#include "keeld/spawn.h"

namespace keel {
namespace {

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr auto kRound = std::chrono::seconds(30);
constexpr auto kAwayRound = std::chrono::seconds(5);
constexpr Millis kCheckAgain = std::chrono::hours(6);
constexpr Millis kCheckRetry = std::chrono::minutes(15);
constexpr Millis kUnaskedRetry = std::chrono::minutes(1);  // the registry behind the cache failed
constexpr Millis kAwayRetry{10'000};
constexpr Millis kClockGrain{1'000};  // a cache may keep its times in whole seconds
constexpr int kStale = 5;

std::string brief(const Digest& digest) {
    return brief_digest(digest.to_string());
}

// What a check that failed is told as.
std::string failure_of(const Error& error) {
    return error.text + (error.code == "no-path"
                             ? ": nothing tells whether it is complete there, so that cache holds "
                               "it with keelctl hold --force only"
                             : "");
}

// It says nothing of the digest.
bool nobody_asked(const Error& error) {
    return is_away(error) || is_postponed(error) || error.code == "cancelled";
}

bool as_wished(const CacheHold& hold, const HoldRow& row) {
    return hold.digest.to_string() == row.digest && hold.until == row.until &&
           hold.reason == row.reason;
}

// The answer to an action that was refused as a whole.
Holds::Result refusal(std::string code, std::string text) {
    return {"", false, std::move(code), std::move(text)};
}

std::vector<Holds::Result> refused(Holds::Result result) {
    std::vector<Holds::Result> results;
    results.push_back(std::move(result));
    return results;
}

}  // namespace

std::string brief_digest(const std::string& digest) {
    return digest.substr(0, digest.find(':') + 13);
}

HoldRow row_of(const CacheHold& hold) {
    HoldRow row;
    row.tag = hold.tag.to_string();
    row.digest = hold.digest.to_string();
    row.author = hold.author;
    row.reason = hold.reason;
    row.since = hold.since;
    row.until = hold.until;
    return row;
}

Holds::Holds(Parts parts) : parts_(std::move(parts)), changed_(parts_.loop) {
    changed_.expires_at(Steady::time_point::max());
    for (const CacheConfig& one : parts_.config.caches) {
        caches_.try_emplace(one.name, parts_.loop, parts_.http, parts_.clock, one);
    }
    for (HoldRow& row : parts_.ledger.holds()) {
        if (const Expected<Tag> tag = Tag::parse(row.tag)) {
            rows_[*tag] = std::move(row);
        }
    }
    for (PlacedRow& row : parts_.ledger.placed()) {
        const auto cache = caches_.find(row.cache);
        const Expected<Tag> tag = Tag::parse(row.tag);
        if (cache == caches_.end() || !tag) {
            continue;  // of a cache that the configuration no longer names
        }
        Check& check = cache->second.checks[*tag];
        check.digest = Digest::parse(row.digest).value_or(Digest{});
        check.verified = row.verified;
        cache->second.placed[*tag] = std::move(row);
    }
    tell_all();
}

const HoldRow* Holds::wanted(const Tag& tag) const {
    const auto found = rows_.find(tag);
    return found != rows_.end() && found->second.lifted == Time{} ? &found->second : nullptr;
}

bool Holds::serves(const Cache& cache, const Tag& tag) const {
    return !cache.looks_up || parts_.registry.path_through(cache.name, tag.registry).has_value();
}

std::vector<Holds::Cache*> Holds::serving(const Tag& tag) {
    std::vector<Cache*> found;
    for (auto& [name, cache] : caches_) {
        if (serves(cache, tag)) {
            found.push_back(&cache);
        }
    }
    return found;
}

// ---- Rounds ----

Task<void> Holds::run(std::string name) {
    Cache* cache = &caches_.at(name);
    while (!stopped_) {
        const std::uint64_t round = ++cache->begun;
        lift_expired();
        const bool known = co_await read(cache);
        cache->read = round;
        cache->step.cancel();
        if (known && !stopped_) {
            co_await mend(cache);
            start_check(*cache);
        }
        cache->ended = round;
        cache->step.cancel();
        const Steady::time_point next = Steady::now() + next_round(*cache, known);
        co_await cache->wake.wait_until(next);
    }
    cache->step.cancel();
}

void Holds::stop() {
    stopped_ = true;
    for (auto& [name, cache] : caches_) {
        cache.wake.notify();
        cache.step.cancel();
    }
}

void Holds::look(const std::string& cache) {
    if (const auto found = caches_.find(cache); found != caches_.end()) {
        found->second.wake.notify();
    }
}

Steady::duration Holds::next_round(const Cache& cache, bool read) const {
    Steady::duration wait = read ? Steady::duration(kRound) : Steady::duration(kAwayRound);
    const Time now = parts_.clock.now();
    const auto not_after = [&wait, now](Time time) {
        const Steady::duration left = std::max(time - now, Millis{10});
        wait = std::min(wait, left);
    };
    for (const auto& [tag, row] : rows_) {
        if (row.lifted != Time{}) {
            continue;
        }
        if (row.until != Time{}) {
            not_after(row.until);
        }
        const auto check = cache.checks.find(tag);
        if (read && check != cache.checks.end() && check->second.not_before > now) {
            not_after(check->second.not_before);
        }
    }
    return wait;
}

// Until a round that begins from now on has read the cache's holds, or has ended.
Task<void> Holds::wait_for_round(Cache* cache, bool only_read) {
    const std::uint64_t round = cache->begun + 1;
    cache->wake.notify();
    while (!stopped_ && (only_read ? cache->read : cache->ended) < round) {
        co_await cache->step.async_wait(kToken);
    }
}

// Needs no wait for the disk: whoever reads the older row comes to the same.
void Holds::lift_expired() {
    if (changing_) {
        return;  // what is being noted would be overwritten in the queue; a round follows
    }
    const Time now = parts_.clock.now();
    for (auto& [tag, row] : rows_) {
        if (row.lifted == Time{} && row.until != Time{} && row.until <= now) {
            row.lifted = now;
            row.lifted_by = "expiry";
            parts_.ledger.put(row);
            log(EntryKind::released, row, "expired", "keeld", "until " + format_time(row.until));
            tell(tag);
        }
    }
}

Task<bool> Holds::read(Cache* cache) {
    const Expected<CacheHolds> told = co_await cache->api.list();
    cache->problem = told ? "" : told.error().text;
    if (told) {
        take(*cache, *told);
    } else {
        tell_all();
    }
    co_return told.has_value();
}

void Holds::take(Cache& cache, const CacheHolds& told) {
    std::map<Tag, CacheHold> before = std::exchange(cache.holds, {});
    cache.known = true;
    cache.revision = told.revision;
    for (const CacheHold& hold : told.holds) {
        before.erase(hold.tag);
        cache.holds[hold.tag] = hold;
        count(cache, hold);
        // The answer to the write may have been lost, with us or on its way: this is its trace.
        const auto placed = cache.placed.find(hold.tag);
        if (placed != cache.placed.end() && placed->second.owner.empty() && ours(cache, hold)) {
            placed->second.owner = hold.owner;
            parts_.ledger.put(placed->second);
        }
    }
    for (const auto& [tag, gone] : before) {
        cache.counted.erase(tag);
    }
    forget_lost(cache);
    tell_all();
}

// Whether this hold is the one that we put there.
bool Holds::ours(const Cache& cache, const CacheHold& listed) const {
    const auto placed = cache.placed.find(listed.tag);
    if (placed == cache.placed.end()) {
        return false;
    }
    if (!placed->second.owner.empty()) {
        return placed->second.owner == listed.owner;
    }
    const PlacedRow& sent = placed->second;
    return listed.digest.to_string() == sent.digest && listed.reason == sent.reason &&
           listed.until == sent.until;
}

// What we had put there and somebody else has replaced since, or what is gone and not wanted back.
void Holds::forget_lost(Cache& cache) {
    for (auto at = cache.placed.begin(); at != cache.placed.end();) {
        const Tag& tag = at->first;
        const auto listed = cache.holds.find(tag);
        const bool foreign = listed != cache.holds.end() && !ours(cache, listed->second);
        const bool gone = listed == cache.holds.end() && wanted(tag) == nullptr;
        if (!foreign && !gone) {
            ++at;
            continue;
        }
        if (const auto row = rows_.find(tag); row != rows_.end()) {
            log(EntryKind::released, row->second, foreign ? "replaced" : "gone", cache.name,
                foreign ? cache.name + " holds it for " + listed->second.owner + " now"
                        : cache.name + " does not hold it any more");
        }
        parts_.ledger.erase_placed(cache.name, tag.to_string());
        cache.checks.erase(tag);
        at = cache.placed.erase(at);
    }
}

void Holds::count(Cache& cache, const CacheHold& hold) {
    const auto [at, first] = cache.counted.try_emplace(hold.tag);
    Counted& counted = at->second;
    const std::string before = counted.trouble;
    if (hold.answers < counted.answers || hold.unfetchable < counted.unfetchable ||
        hold.ineffective < counted.ineffective) {
        counted = Counted{};  // another life of the hold, or of the cache
    }
    if (first) {
        // What was counted before anybody looked is no news: it may have been over long ago.
    } else if (hold.ineffective > counted.ineffective) {
        counted.trouble = "ineffective";
    } else if (hold.unfetchable > counted.unfetchable) {
        counted.trouble = "unfetchable";
    } else if (hold.answers > counted.answers) {
        counted.trouble.clear();
    }
    counted.answers = hold.answers;
    counted.unfetchable = hold.unfetchable;
    counted.ineffective = hold.ineffective;
    if (counted.trouble.empty() || counted.trouble == before) {
        return;
    }
    log(EntryKind::held, row_of(hold), counted.trouble, cache.name, "told by its counters");
    if (const auto check = cache.checks.find(hold.tag); check != cache.checks.end()) {
        check->second.again = true;
    }
}

// ---- Mending ----

Time Holds::verified(const Cache& cache, const Tag& tag, const Digest& digest) const {
    const auto found = cache.checks.find(tag);
    return found != cache.checks.end() && found->second.digest == digest ? found->second.verified
                                                                         : Time{};
}

bool Holds::needs_put(const Cache& cache, const HoldRow& row, const Tag& tag) const {
    if (!serves(cache, tag)) {
        return false;
    }
    const Digest digest = Digest::parse(row.digest).value_or(Digest{});
    const Time checked = verified(cache, tag, digest);
    const bool may = row.forced || checked != Time{};
    const auto listed = cache.holds.find(tag);
    if (listed == cache.holds.end()) {
        return may;
    }
    const CacheHold& hold = listed->second;
    if (!ours(cache, hold)) {
        return false;
    }
    if (hold.digest != digest) {
        return may;
    }
    return !as_wished(hold, row) || hold.verified + kClockGrain < checked;
}

std::optional<Holds::Write> Holds::next_write(const Cache& cache) const {
    for (const auto& [tag, row] : rows_) {
        if (row.lifted == Time{} && !cache.tried.contains(tag) && needs_put(cache, row, tag)) {
            return Write{tag, true};
        }
    }
    for (const auto& [tag, placed] : cache.placed) {
        const auto listed = cache.holds.find(tag);
        if (wanted(tag) == nullptr && !cache.tried.contains(tag) && listed != cache.holds.end() &&
            ours(cache, listed->second)) {
            return Write{tag, false};
        }
    }
    return std::nullopt;
}

// Until the cache is as it should be, or what is missing cannot be mended in this round.
Task<void> Holds::mend(Cache* cache) {
    cache->tried.clear();
    int stale = 0;
    for (std::optional<Write> next = next_write(*cache); next && !stopped_;
         next = next_write(*cache)) {
        const Tag tag = next->tag;
        const Expected<void> done = co_await write(cache, *next);
        const bool again = !done && done.error().code == "stale" && ++stale < kStale;
        if (done) {
            cache->refused.erase(tag);
        } else {
            cache->refused[tag] = done.error().text;
        }
        if (!again) {
            cache->tried.insert(tag);
        }
        // Whatever was answered, the cache says what is.
        const bool known = co_await read(cache);
        if (!known) {
            co_return;
        }
    }
}

Task<Expected<void>> Holds::write(Cache* cache, Write what) {
    const auto row = rows_.find(what.tag);
    if (!what.put) {
        std::string revision = cache->revision;
        Tag tag = what.tag;
        const Expected<void> done = co_await cache->api.remove(std::move(tag), std::move(revision));
        co_return done;
    }
    HoldRequest request;
    request.tag = what.tag;
    request.digest = Digest::parse(row->second.digest).value_or(Digest{});
    request.reason = row->second.reason;
    request.until = row->second.until;
    request.verified = verified(*cache, what.tag, request.digest);
    request.force = row->second.forced;
    if (const auto check = cache->checks.find(what.tag); check != cache->checks.end()) {
        request.kind =
            check->second.digest == request.digest ? check->second.kind : ManifestKind::unknown;
    }
    // First the note that it may be there and is ours, then the cache.
    const auto before = cache->placed.find(what.tag);
    PlacedRow sent = before != cache->placed.end() ? before->second : PlacedRow{};
    const auto listed = cache->holds.find(what.tag);
    const bool news = listed == cache->holds.end() || listed->second.digest != request.digest;
    sent.cache = cache->name;
    sent.tag = row->second.tag;
    sent.digest = row->second.digest;
    sent.verified = request.verified;
    sent.reason = request.reason;
    sent.until = request.until;
    parts_.ledger.put(sent);
    const HoldRow wish = row->second;
    const Expected<void> noted = co_await parts_.ledger.durable();
    const auto known = cache->placed.find(what.tag);
    if (!noted) {
        // It is still queued, and nothing was sent.
        if (known != cache->placed.end()) {
            parts_.ledger.put(known->second);
        } else {
            parts_.ledger.erase_placed(cache->name, wish.tag);
        }
        co_return noted;
    }
    PlacedRow& placed = cache->placed[what.tag];
    placed = std::move(sent);
    std::string revision = cache->revision;
    const Expected<std::string> owner =
        co_await cache->api.put(std::move(request), std::move(revision));
    if (!owner) {
        co_return tl::unexpected<Error>(owner.error());
    }
    if (placed.owner.empty() && !owner->empty()) {
        placed.owner = *owner;
        parts_.ledger.put(placed);
    }
    if (news) {
        log(EntryKind::held, wish, "placed", cache->name, "by " + wish.author + ": " + wish.reason);
    }
    co_return Expected<void>{};
}

// ---- Completeness ----

// One digest at a time and cache: first what waits to be held, then what was checked six hours ago.
void Holds::start_check(Cache& cache) {
    const Time now = parts_.clock.now();
    for (const auto& [tag, check] : cache.checks) {
        if (check.under_way) {
            return;
        }
    }
    for (const auto& [tag, row] : rows_) {
        const auto listed = cache.holds.find(tag);
        if (row.lifted != Time{} || !serves(cache, tag) ||
            (listed != cache.holds.end() && !ours(cache, listed->second))) {
            continue;
        }
        const Digest digest = Digest::parse(row.digest).value_or(Digest{});
        Check& check = cache.checks[tag];
        if (check.digest != digest) {
            check = Check{};
            check.digest = digest;
        }
        const bool due =
            check.verified == Time{} || check.again || now - check.verified >= kCheckAgain;
        if (due && now >= check.not_before) {
            check.under_way = true;
            keel::spawn(parts_.loop, this->check(&cache, tag, digest));
            return;
        }
    }
}

Task<void> Holds::check(Cache* cache, Tag tag, Digest digest) {
    Tag asked = tag;
    const Expected<Complete> complete =
        co_await ask_complete(cache, std::move(asked), digest, kPatientCompletenessTime);
    note_check(*cache, tag, digest, complete);
    cache->wake.notify();
}

// What has come is kept over tries that were cut short, as long as a whole check would count.
Task<Expected<Complete>> Holds::ask_complete(Cache* cache, Tag tag, Digest digest, Millis time) {
    const Time now = parts_.clock.now();
    std::erase_if(cache->fetched,
                  [now](const auto& one) { return now - one.second->since >= kCheckAgain; });
    std::shared_ptr<Fetched>& kept = cache->fetched[digest];
    if (!kept) {
        kept = std::make_shared<Fetched>();
        kept->since = now;
    }
    std::shared_ptr<Fetched> fetched = kept;
    std::string name = cache->name;
    Expected<Complete> outcome =
        co_await check_complete(parts_.loop, parts_.registry, std::move(name), std::move(tag),
                                digest, std::move(fetched), time);
    if (outcome || outcome.error().code == "incomplete") {
        cache->fetched.erase(digest);
    }
    co_return outcome;
}

void Holds::note_check(Cache& cache, const Tag& tag, const Digest& digest,
                       const Expected<Complete>& outcome) {
    const auto known = cache.checks.find(tag);
    if (const HoldRow* row = wanted(tag); row == nullptr || row->digest != digest.to_string()) {
        // Another is wanted meanwhile, or none.
        if (known != cache.checks.end() && known->second.digest == digest) {
            known->second.under_way = false;
        }
        return;
    }
    Check& check = cache.checks[tag];
    if (check.digest != digest) {
        check = Check{};
        check.digest = digest;
    }
    check.under_way = false;
    check.again = false;
    if (!outcome) {
        check.failure = failure_of(outcome.error());
        const std::string& code = outcome.error().code;
        const Millis wait = code == "rate-limited"          ? kCheckRetry
                            : nobody_asked(outcome.error()) ? kAwayRetry
                            : code == "unavailable"         ? kUnaskedRetry
                                                            : kCheckRetry;
        check.not_before = parts_.clock.now() + std::max(wait, outcome.error().retry_after);
        return;
    }
    check.kind = outcome->kind;
    check.failure.clear();
    check.not_before = Time{};
    check.verified = parts_.clock.now();
    const auto placed = cache.placed.find(tag);
    if (placed != cache.placed.end() && placed->second.digest == digest.to_string()) {
        placed->second.verified = check.verified;
        parts_.ledger.put(placed->second);
    }
}

// ---- What a pull gets ----

void Holds::tell_all() {
    std::set<Tag> tags;
    for (const auto& [tag, row] : rows_) {
        tags.insert(tag);
    }
    for (const auto& [name, cache] : caches_) {
        for (const auto& [tag, hold] : cache.holds) {
            tags.insert(tag);
        }
    }
    for (const auto& [tag, info] : parts_.tags.all()) {
        if (info.held) {
            tags.insert(tag);
        }
    }
    for (const Tag& tag : tags) {
        tell(tag);
    }
}

void Holds::tell(const Tag& tag) {
    const HoldRow* row = wanted(tag);
    const Time now = parts_.clock.now();
    std::optional<Held> held;
    std::vector<std::pair<std::string, std::string>> has;  // cache, digest
    for (const auto& [name, cache] : caches_) {
        std::string digest;
        const auto listed = cache.holds.find(tag);
        const bool there = listed != cache.holds.end();
        // A cache that is away ends its holds by itself too.
        if (there && (listed->second.until == Time{} || now < listed->second.until)) {
            digest = listed->second.digest.to_string();
            const bool wished = row != nullptr && row->digest == digest;
            if (!held || (wished && held->digest.to_string() != digest)) {
                const HoldRow told = wished ? *row : row_of(listed->second);
                held = Held{listed->second.digest,
                            told.author,
                            told.reason,
                            told.since,
                            told.until,
                            true,
                            ""};
            }
        } else if (const auto placed = cache.placed.find(tag);
                   !cache.known && row != nullptr && placed != cache.placed.end()) {
            digest =
                placed->second.digest;  // as this keeld left it, until the cache says otherwise
            if (const auto parsed = Digest::parse(digest); !held && parsed) {
                held = Held{*parsed, row->author, row->reason, row->since, row->until, true, ""};
            }
        }
        if (!digest.empty() || serves(cache, tag)) {
            has.emplace_back(name, digest);
        }
    }
    if (held) {
        held->everywhere = std::ranges::all_of(
            has, [&](const auto& one) { return one.second == held->digest.to_string(); });
        for (const auto& [name, digest] : has) {
            held->caches += held->caches.empty() ? "" : ", ";
            held->caches += name;
            if (!held->everywhere) {
                held->caches +=
                    digest.empty() ? " does not hold it" : " holds " + brief_digest(digest);
            }
        }
    }
    if (parts_.tags.hold(tag, std::move(held), now)) {
        parts_.changed(tag);
    }
}

Task<Expected<void>> Holds::read_now(Tag tag) {
    const std::string asked = parts_.registry.cache_of(tag.registry);
    const std::vector<Cache*> caches = serving(tag);
    // A cache that was away a moment ago is not waited for, unless the answer will come from it.
    for (Cache* cache : caches) {
        if (cache->name == asked || cache->problem.empty()) {
            co_await wait_for_round(cache, true);
        }
        if (cache->name == asked && !cache->problem.empty()) {
            co_return fail("unavailable",
                           "the holds of " + asked + " cannot be read: " + cache->problem);
        }
    }
    co_return Expected<void>{};
}

bool Holds::known(const Tag& tag) const {
    return std::ranges::all_of(
        caches_, [&](const auto& one) { return one.second.known || !serves(one.second, tag); });
}

// ---- Actions ----

// What the tag answers now, where nobody says which digest is to be held. nullopt: the wish is
// whole.
Task<std::optional<Holds::Result>> Holds::choose_digest(Wish* wish) {
    const TagInfo* info = parts_.tags.find(wish->tag);
    if (wish->digest && info != nullptr && !info->current.empty()) {
        co_return std::nullopt;
    }
    Tag tag = wish->tag;
    const Expected<Answer> answer = co_await parts_.look_up(std::move(tag));
    if (wish->digest) {
        co_return std::nullopt;  // asked only for whether the tag answers an index
    }
    if (!answer) {
        co_return refusal("no-answer", "what the tag answers now could not be asked: " +
                                           answer.error().text + "; name the digest with --at");
    }
    wish->digest = answer->digest;
    co_return std::nullopt;
}

std::optional<Holds::Result> Holds::single_platform(const Wish& wish, ManifestKind kind) const {
    const TagInfo* info = parts_.tags.find(wish.tag);
    if (kind != ManifestKind::image || info == nullptr || info->kind != ManifestKind::index) {
        return std::nullopt;
    }
    return refusal("single-platform",
                   brief(*wish.digest) +
                       " is an image of one platform, and the tag answers an "
                       "index: nodes of other platforms would get the wrong one; "
                       "hold the index, or use --force");
}

// Through every cache at once. Nothing is noted: there may be no such hold in the end.
Task<Holds::Verdict> Holds::verify_everywhere(Wish wish) {
    struct Asked {
        explicit Asked(Loop& loop) : ended(loop) {}
        Signal ended;
        std::size_t left = 0;
        std::map<std::string, Expected<Complete>> outcomes;
    };
    const auto asked = std::make_shared<Asked>(parts_.loop);
    const std::vector<Cache*> caches = serving(wish.tag);
    asked->left = caches.size();
    const auto one = [](Holds* self, std::shared_ptr<Asked> all, std::string name, Tag tag,
                        Digest digest) -> Task<void> {
        Cache* cache = &self->caches_.at(name);
        Expected<Complete> outcome =
            co_await self->ask_complete(cache, std::move(tag), digest, kCompletenessTime);
        all->outcomes.emplace(std::move(name), std::move(outcome));
        --all->left;
        all->ended.notify();
    };
    for (const Cache* cache : caches) {
        keel::spawn(parts_.loop, one(this, asked, cache->name, wish.tag, *wish.digest));
    }
    while (asked->left > 0) {
        co_await asked->ended.wait_until(Steady::time_point::max());
    }
    Verdict verdict;
    std::vector<Result>& results = verdict.results;
    for (const auto& [name, outcome] : asked->outcomes) {
        if (outcome) {
            if (const auto one_platform = single_platform(wish, outcome->kind)) {
                verdict.results = refused(*one_platform);
                co_return verdict;
            }
            results.push_back({name, true, "would-hold",
                               std::to_string(outcome->manifests) + " manifests and " +
                                   std::to_string(outcome->blobs) + " blobs are there"});
            continue;
        }
        const bool away = nobody_asked(outcome.error());
        results.push_back({name, false, away ? "away" : "incomplete", failure_of(outcome.error())});
    }
    verdict.outcomes = std::move(asked->outcomes);
    co_return verdict;
}

Task<std::vector<Holds::Result>> Holds::set(Wish wish) {
    if (serving(wish.tag).empty()) {
        co_return refused(refusal(
            "no-caches", "keeld.yaml names no cache of this registry: nothing can hold it"));
    }
    const std::optional<Result> unknown = co_await choose_digest(&wish);
    if (unknown) {
        co_return refused(*unknown);
    }
    Verdict verdict;
    std::vector<Result>& checked = verdict.results;
    if (!wish.force) {
        Wish asked = wish;
        verdict = co_await verify_everywhere(std::move(asked));
    } else if (wish.dry_run) {
        for (const Cache* cache : serving(wish.tag)) {
            checked.push_back(
                {cache->name, true, "would-hold", "without looking whether it is complete"});
        }
    }
    const bool none = std::ranges::none_of(checked, [](const Result& one) { return one.ok; });
    if (wish.dry_run || (none && !wish.force)) {
        co_return checked;
    }
    co_await begin_change();
    HoldRow row;
    row.tag = wish.tag.to_string();
    row.digest = wish.digest->to_string();
    row.id = wish.id;
    row.author = wish.author;
    row.reason = wish.reason;
    row.since = parts_.clock.now();
    row.until = wish.until;
    row.forced = wish.force;
    const char* const news = wanted(wish.tag) != nullptr ? "changed" : "set";
    Tag tag = wish.tag;
    HoldRow copy = row;
    const Expected<void> noted = co_await note(std::move(tag), std::move(copy));
    if (!noted) {
        co_return refused(refusal("ledger", noted.error().text + "; nothing is held for it"));
    }
    log(EntryKind::held, row, news, wish.author, wish.reason);
    for (const auto& [name, outcome] : verdict.outcomes) {
        note_check(caches_.at(name), wish.tag, *wish.digest, outcome);
    }
    co_return co_await carry_out(std::move(wish));
}

Task<std::vector<Holds::Result>> Holds::release(Wish wish) {
    std::vector<Result> results;
    if (wanted(wish.tag) == nullptr) {
        for (const auto& [name, cache] : caches_) {
            const AtCache there = at_cache(cache, wish.tag);
            if (!there.state.empty()) {
                results.push_back({name, false, there.state, there.text});
            }
        }
        if (results.empty()) {
            results.push_back(refusal("not-held", wish.tag.to_string() + " is not held"));
        }
        co_return results;
    }
    if (wish.dry_run) {
        for (const auto& [name, cache] : caches_) {
            const AtCache there = at_cache(cache, wish.tag);
            results.push_back({name, there.state == "held",
                               there.state == "held" ? "would-release" : there.state, there.text});
        }
        co_return results;
    }
    co_await begin_change();
    HoldRow row = rows_[wish.tag];
    if (row.lifted != Time{}) {  // by somebody else, meanwhile
        end_change();
        co_return co_await carry_out(std::move(wish));
    }
    row.lifted = parts_.clock.now();
    row.lifted_by = wish.author;
    Tag tag = wish.tag;
    HoldRow copy = row;
    const Expected<void> noted = co_await note(std::move(tag), std::move(copy));
    if (!noted) {
        co_return refused(refusal("ledger", noted.error().text + "; it stays held"));
    }
    log(EntryKind::released, row, "lifted", wish.author, wish.reason);
    co_return co_await carry_out(std::move(wish));
}

Task<void> Holds::begin_change() {
    while (changing_) {
        co_await changed_.async_wait(kToken);
    }
    changing_ = true;
}

void Holds::end_change() {
    changing_ = false;
    changed_.cancel();
}

// What is wanted is what is on disk: nobody hears of, and no cache gets, what a restart would not
// know. Between begin_change() and this nothing is waited for; it ends the change.
Task<Expected<void>> Holds::note(Tag tag, HoldRow row) {
    parts_.ledger.put(row);
    const Expected<void> done = co_await parts_.ledger.durable();
    const auto known = rows_.find(tag);
    if (done) {
        rows_[tag] = std::move(row);
    } else if (known != rows_.end()) {
        parts_.ledger.put(known->second);  // in the queue, in place of what was refused
    } else {
        row.lifted = row.since;
        row.lifted_by = "ledger";
        parts_.ledger.put(std::move(row));
    }
    end_change();
    co_return done;
}

// What the ledger says now is brought to every cache; says how far that went.
Task<std::vector<Holds::Result>> Holds::carry_out(Wish wish) {
    std::vector<Result> results;
    const std::vector<Cache*> caches = serving(wish.tag);
    for (Cache* cache : caches) {
        co_await wait_for_round(cache, false);
    }
    for (const Cache* cache : caches) {
        const AtCache there = at_cache(*cache, wish.tag);
        const bool held = wanted(wish.tag) != nullptr;
        const bool ok = held ? there.state == "held" : there.state.empty();
        results.push_back({cache->name, ok, there.state.empty() ? "released" : there.state,
                           there.state.empty() ? "does not hold it any more" : there.text});
    }
    co_return results;
}

// ---- Telling ----

// An empty state: this cache has nothing to do with the tag.
Holds::AtCache Holds::at_cache(const Cache& cache, const Tag& tag) const {
    AtCache told;
    told.cache = cache.name;
    const HoldRow* row = wanted(tag);
    const auto listed = cache.holds.find(tag);
    const auto refused = cache.refused.find(tag);
    const bool there = listed != cache.holds.end();
    const auto say = [&told](const char* state, std::string text) {
        told.state = state;
        told.text = std::move(text);
        return told;
    };
    if (there) {
        told.listed = listed->second;
        if (!ours(cache, listed->second)) {
            return say("foreign", "held at " + brief(listed->second.digest) + " for " +
                                      listed->second.owner + " (" + listed->second.reason +
                                      "); only they lift it");
        }
    }
    if (row == nullptr) {
        if (!there && !cache.placed.contains(tag)) {
            return told;
        }
        return !cache.problem.empty()
                   ? say("away", "lifted when the cache is back: " + cache.problem)
                   : say("lifting",
                         refused != cache.refused.end() ? refused->second : "is being lifted");
    }
    if (!there && !serves(cache, tag)) {
        return told;
    }
    const Digest digest = Digest::parse(row->digest).value_or(Digest{});
    told.verified = verified(cache, tag, digest);
    const auto check = cache.checks.find(tag);
    told.again = check != cache.checks.end() ? check->second.not_before : Time{};
    if (!cache.problem.empty()) {
        return say("away", "set when the cache is back: " + cache.problem);
    }
    if (there && as_wished(listed->second, *row)) {
        const std::string checked = told.verified == Time{}
                                        ? "; not found complete yet"
                                        : "; found complete " + format_time(told.verified);
        return say("held", "held at " + brief(digest) + checked);
    }
    if (refused != cache.refused.end()) {
        return say("refused", refused->second);
    }
    if (check != cache.checks.end() && check->second.under_way) {
        return say("checking", "whether " + brief(digest) + " is complete is being looked at");
    }
    if (check != cache.checks.end() && !check->second.failure.empty()) {
        return say("incomplete", check->second.failure);
    }
    return say("pending", "is being set");
}

void Holds::log(EntryKind kind, const HoldRow& row, const std::string& code,
                const std::string& cause, const std::string& text) {
    Entry entry;
    entry.at = parts_.clock.now();
    entry.kind = kind;
    entry.tag = row.tag;
    entry.to = row.digest;
    entry.code = code;
    entry.cause = cause;
    entry.text = text;
    parts_.ledger.append(std::move(entry));
}

}  // namespace keel
