#include "keeld/rollout/planner.h"

#include <malloc.h>

#include <algorithm>
#include <utility>

#include "keeld/rollout/rollouts.h"
#include "keeld/spawn.h"

namespace keel {
namespace {

constexpr auto kContentRetry = std::chrono::seconds(2);
constexpr auto kContentLost = std::chrono::seconds(60);
constexpr int kLost = 3;
constexpr auto kSettle = std::chrono::seconds(1);
constexpr auto kBaselineRetry = std::chrono::seconds(5);

// What makes a decision another one than before.
std::size_t signature(const Entry& line) {
    return std::hash<std::string>{}(line.uid + line.code + line.container + line.to);
}

// What a workload wants of a tag that one of its containers refers to, or may change to.
Wish wish_of(const WorkloadSettings& settings, const Tag& tag, bool refers) {
    return {settings.poll_schedule.parsed,
            refers ? list_rule(settings.policy.parsed, tag.name) : Wish::List::never,
            settings.trigger.parsed == Trigger::push};
}

// Passing states of keeld itself: told by the API, not worth a line in the log.
bool is_passing(Reason reason) {
    return reason == Reason::no_baseline || reason == Reason::no_answer;
}

}  // namespace

Planner::Planner(Parts parts) : parts_(parts), wake_(parts.loop), baseline_wake_(parts.loop) {}

void Planner::reconsider(const WorkloadKey& key) {
    dirty_.insert(key);
    if (started_) {
        wake_.notify();
    }
}

void Planner::reconsider(const Tag& tag) {
    const auto concerns = [this](const WorkloadKey& key) {
        reconsider(key);
        if (parts_.rollouts != nullptr) {
            parts_.rollouts->notify(key);
        }
    };
    std::ranges::for_each(parts_.catalogue.consumers(tag), concerns);
    if (const auto found = askers_.find(tag); found != askers_.end()) {
        std::ranges::for_each(found->second, concerns);
    }
}

void Planner::start() {
    started_ = true;
    wake_.notify();
    baseline_wake_.notify();
}

void Planner::stop() {
    stopped_ = true;
    wake_.notify();
    baseline_wake_.notify();
}

WorkloadVerdict Planner::verdict(const CatalogueEntry& entry) const {
    return judge(entry, knowledge(parts_.config, parts_.phases));
}

ConfigChange Planner::change(const Config* before, const Config& after) const {
    const PhaseStates next = begun(parts_.phases, after);
    const Knowledge will_be = knowledge(after, next);
    if (before == nullptr) {
        return change_between(nullptr, will_be);
    }
    const Knowledge is = knowledge(*before, parts_.phases);
    return change_between(&is, will_be);
}

Knowledge Planner::knowledge(const Config& config, const PhaseStates& phases) const {
    return Knowledge{
        config,
        phases,
        parts_.catalogue,
        parts_.tags,
        choices_,
        [this](const Digest& digest) { return parts_.registry.known_content(digest); },
        [this](const Digest& digest) {
            const auto found = failed_.find(digest);
            return found != failed_.end() && found->second.times >= kLost ? &found->second.error
                                                                          : nullptr;
        },
        [this](const std::string& uid, const Target& target) {
            return parts_.rollouts != nullptr ? parts_.rollouts->rejected(uid, target) : nullptr;
        },
        [this](const std::string& uid, const Target& target) {
            return parts_.rollouts != nullptr ? parts_.rollouts->stalled(uid, target) : nullptr;
        },
        [this](const Tag& tag) { return parts_.listings.find(tag.registry, tag.repository); },
        [this](const Tag& tag) {
            return parts_.listings.first_seen(tag.registry, tag.repository, tag.name);
        },
        [this](const std::string& uid, const std::string& container, const std::string& image) {
            return parts_.rollouts != nullptr && parts_.rollouts->wrote(uid, container, image);
        },
        [this](const std::string& uid, const std::vector<Target>& targets) {
            return parts_.rollouts != nullptr && parts_.rollouts->approved(uid, targets);
        },
        [this] { return parts_.pods.platforms(); },
        parts_.clock.now(),
        [this](const Tag& tag) { return parts_.pushes.released(tag); },
        [this](const std::string& uid, const std::string& container) {
            return parts_.rollouts != nullptr ? parts_.rollouts->way_back(uid, container) : nullptr;
        },
    };
}

bool Planner::is_ours(const CatalogueEntry& entry) const {
    const Namespace* ns = parts_.catalogue.find_namespace(entry.object.key.ns);
    return standing_of(entry.object, ns, parts_.config, parts_.phases).ours;
}

bool Planner::in_use(const Tag& tag) const {
    return askers_.contains(tag) ||
           std::ranges::any_of(parts_.catalogue.consumers(tag), [this](const WorkloadKey& key) {
               const CatalogueEntry* entry = parts_.catalogue.find(key);
               return entry != nullptr && is_ours(*entry);
           });
}

std::vector<Wish> Planner::wishes(const Tag& tag) const {
    std::vector<Wish> all;
    const auto add = [&](const WorkloadKey& key, bool refers) {
        const CatalogueEntry* entry = parts_.catalogue.find(key);
        const Namespace* ns = parts_.catalogue.find_namespace(key.ns);
        if (entry == nullptr || !is_ours(*entry)) {
            return;
        }
        const auto settings = shared_settings_of(entry->object, ns, parts_.config);
        const Wish wish = wish_of(*settings, tag, refers);
        if (std::ranges::find(all, wish) == all.end()) {
            all.push_back(wish);
        }
    };
    for (const WorkloadKey& key : parts_.catalogue.consumers(tag)) {
        add(key, true);
    }
    if (const auto found = askers_.find(tag); found != askers_.end()) {
        for (const WorkloadKey& key : found->second) {
            add(key, false);
        }
    }
    return all;
}

Task<void> Planner::run() {
    while (!stopped_) {
        if (started_) {
            take_due();
            const std::set<WorkloadKey> now = std::exchange(dirty_, {});
            for (const WorkloadKey& key : now) {
                consider(key);
            }
        }
        if (dirty_.empty() || !started_) {
            Steady::time_point next = Steady::time_point::max();
            if (started_ && !due_.empty()) {
                next = parts_.clock.when(due_.begin()->first);
            }
            co_await wake_.wait_until(next);
        }
    }
}

void Planner::clock_moved() {
    wake_.notify();
}

bool Planner::settled() const {
    return !started_ || stopped_ ||
           (dirty_.empty() && (due_.empty() || due_.begin()->first > parts_.clock.now()));
}

void Planner::take_due() {
    while (!due_.empty() && due_.begin()->first <= parts_.clock.now()) {
        const WorkloadKey key = due_.begin()->second;
        wake_at(key, std::nullopt);
        dirty_.insert(key);
    }
}

void Planner::wake_at(const WorkloadKey& key, std::optional<Time> moment) {
    if (const auto before = due_at_.find(key); before != due_at_.end()) {
        due_.erase({before->second, key});
        due_at_.erase(before);
    }
    if (moment) {
        due_.emplace(*moment, key);
        due_at_.emplace(key, *moment);
    }
}

void Planner::consider(const WorkloadKey& key) {
    CatalogueEntry* entry = parts_.catalogue.find(key);
    faulty_.erase(key);
    if (entry == nullptr) {
        wake_at(key, std::nullopt);
        ask(key, {});
        parts_.rollouts->notify(key);
        tell(key, nullptr, {});
        return;
    }
    parts_.rollouts->notify(key);
    const WorkloadVerdict verdict = this->verdict(*entry);
    entry->judged = {verdict.verdict, verdict.reason};
    wake_at(key, verdict.recheck);
    ask(key, verdict);
    tell(key, entry, verdict);
    if (!verdict.standing.ours) {
        return;
    }
    if (!verdict.settings->faults.empty()) {
        faulty_[key] = verdict.settings->faults.front().text;
    }
    if (!read_.contains(key.ns) || !entry->running.usable()) {
        baseline_wake_.notify();
    }
    for (const ContainerVerdict& one : verdict.containers) {
        if (!one.tag) {
            continue;
        }
        follow(*one.tag, wish_of(*verdict.settings, *one.tag, true));
        if (one.reason == Reason::revert_unconfirmed &&
            parts_.registry.has_second_source(one.tag->registry)) {
            parts_.schedule.want_confirmation(*one.tag);
        }
    }
    // While a rollout is under way its pods are still the old ones, and that is no news.
    const std::optional<RolloutRow> rollout = parts_.rollouts->active(key);
    if (!rollout || rollout->state == "waiting") {
        log_decision(key, *entry, verdict);
    }
    // No write changes what a CronJob's pods run: they are not read for it.
    const bool known = entry->running.known || key.kind == WorkloadKind::cron_job;
    if (!verdict.targets.empty() && known) {
        parts_.rollouts->offer(key, verdict);
    } else if (!verdict.asks.empty()) {
        parts_.rollouts->ask(key, verdict);
    }
}

void Planner::tell(const WorkloadKey& key, const CatalogueEntry* entry,
                   const WorkloadVerdict& verdict) {
    if (parts_.judged) {
        parts_.judged(key, entry, verdict);
    }
}

// What a webhook named before anybody used it, or before a restart, is looked at now.
void Planner::follow(const Tag& tag, const Wish& wish) {
    const bool first = !parts_.schedule.follows(tag);
    parts_.schedule.follow(tag, wish);
    if (first && parts_.pushes.awaits(tag.registry, tag.repository)) {
        parts_.schedule.hint_list(tag.registry, tag.repository);
    }
    if (first && parts_.pushes.is_awaited(tag)) {
        parts_.schedule.hint(tag);
    }
}

// Fetches what the verdict lacks, and follows the tags that the workload may change to for as long
// as it may.
void Planner::ask(const WorkloadKey& key, const WorkloadVerdict& verdict) {
    std::set<Tag> now;
    for (const WorkloadVerdict::Want& want : verdict.wants) {
        if (want.what == WorkloadVerdict::Want::What::answer) {
            now.insert(want.tag);
        } else {
            fetch(want);
        }
    }
    const auto before = asked_.find(key);
    if (before != asked_.end()) {
        for (const Tag& tag : before->second) {
            const auto found = askers_.find(tag);
            if (!now.contains(tag) && found != askers_.end()) {
                found->second.erase(key);
                if (found->second.empty()) {
                    askers_.erase(found);
                }
            }
        }
    }
    for (const Tag& tag : now) {
        askers_[tag].insert(key);
        follow(tag, wish_of(*verdict.settings, tag, false));
    }
    if (now.empty()) {
        asked_.erase(key);
    } else {
        asked_[key] = std::move(now);
    }
}

void Planner::log_decision(const WorkloadKey& key, CatalogueEntry& entry,
                           const WorkloadVerdict& verdict) {
    const bool asking =
        std::ranges::any_of(verdict.containers, [this](const ContainerVerdict& one) {
            return one.reason == Reason::revert_unconfirmed &&
                   parts_.schedule.confirmation_under_way(*one.tag);
        });
    if (is_passing(verdict.reason) || asking) {
        return;
    }
    Entry line;
    line.at = parts_.clock.now();
    line.kind = EntryKind::decided;
    line.workload = key.to_string();
    line.uid = entry.object.uid;
    line.code = to_string(verdict.reason);
    line.text = verdict.sentence;
    for (const ContainerVerdict& one : verdict.containers) {
        if (one.reason == verdict.reason) {
            line.container = one.target ? one.target->container : "";
            line.tag = one.target ? one.target->tag.to_string()
                       : one.tag  ? one.tag->to_string()
                                  : "";
            line.from = one.target ? one.target->from : "";
            line.to = one.target ? one.target->to.to_string() : "";
            const TagInfo* info = one.tag ? parts_.tags.find(*one.tag) : nullptr;
            line.cause = info != nullptr ? info->brought_by() : "";
            break;
        }
    }
    const bool telling = verdict.verdict == Verdict::roll || verdict.verdict == Verdict::blocked;
    if (!entry.decided && telling) {
        // After a restart: the ledger knows what was decided last.
        EntryQuery query;
        query.workload = key.to_string();
        query.kind = EntryKind::decided;
        query.limit = 1;
        const std::vector<Entry> last = parts_.ledger.entries(query);
        entry.decided = last.empty() ? 0 : signature(last.front());
    }
    const std::size_t now = signature(line);
    if (std::exchange(entry.decided, now) != now && telling) {
        parts_.ledger.append(std::move(line));
    }
}

// Several tags may be at one digest: it is fetched once, and all that wait for it hear of it.
void Planner::fetch(const WorkloadVerdict::Want& want) {
    if (stopped_) {
        return;
    }
    const auto [at, added] = fetching_.try_emplace(want.digest);
    at->second.insert(want.tag);
    if (added) {
        keel::spawn(parts_.loop, fetch_content(want));
    }
}

Task<void> Planner::fetch_content(WorkloadVerdict::Want want) {
    const std::vector<std::string> platforms = parts_.pods.platforms();
    const bool with_created = want.what == WorkloadVerdict::Want::What::created;
    const Expected<Content> content =
        co_await parts_.registry.content(want.tag, want.digest, platforms, with_created);
    if (content) {
        failed_.erase(want.digest);
        fetched(want.digest);
        co_return;
    }
    // One time-out is not a loss: only what fails again and again is told, and compared by digest
    // alone.
    Failure& failure = failed_[want.digest];
    ++failure.times;
    failure.error = content.error();
    if (failure.times == kLost) {
        for (const Tag& tag : fetching_[want.digest]) {
            reconsider(tag);
        }
    }
    // Still in `fetching_`: nobody asks again before the pause is over.
    // Another registry may have it sooner than the one that is to be left alone.
    const Millis usual = failure.times < kLost ? kContentRetry : kContentLost;
    const Millis pause = std::clamp<Millis>(content.error().retry_after, usual, kContentLost);
    co_await pause_for(parts_.loop, pause);
    fetched(want.digest);
}

void Planner::fetched(const Digest& digest) {
    const auto waiting = fetching_.extract(digest);
    for (const Tag& tag : waiting.mapped()) {
        reconsider(tag);
    }
}

std::set<std::string> Planner::unread_namespaces() const {
    std::set<std::string> names;
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        if (!read_.contains(key.ns) && !names.contains(key.ns) && is_ours(entry)) {
            names.insert(key.ns);
        }
    }
    return names;
}

// Enrolled workloads whose pods have settled since they changed.
std::vector<WorkloadKey> Planner::stale_workloads() const {
    std::vector<WorkloadKey> keys;
    // One that is under way reads them itself; one that waits must hear that somebody else
    // restarted its workload.
    const auto under_way = [this](const WorkloadKey& key) {
        const std::optional<RolloutRow> rollout = parts_.rollouts->active(key);
        return rollout && rollout->state != "waiting";
    };
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        const bool unknown = !entry.running.known && read_.contains(key.ns);
        const bool settled = entry.running.stale && entry.object.rolled_out();
        if ((unknown || settled) && key.kind != WorkloadKind::cron_job && is_ours(entry) &&
            !under_way(key)) {
            keys.push_back(key);
        }
    }
    return keys;
}

Task<void> Planner::run_baseline() {
    while (!stopped_) {
        if (!started_) {
            co_await baseline_wake_.wait_until(Steady::time_point::max());
            continue;
        }
        baseline_problem_.clear();
        const std::set<std::string> unread = unread_namespaces();
        for (const std::string& ns : unread) {
            const Expected<void> done = co_await parts_.pods.read_namespace(ns);
            if (done) {
                read_.insert(ns);
            } else {
                baseline_problem_ = done.error().text;
            }
        }
        if (!unread.empty()) {
            malloc_trim(0);  // what reading so many pods took goes back to the system: the heap
                             // would keep it for good
        }
        baseline_done_ = baseline_done_ || baseline_problem_.empty();
        const std::vector<WorkloadKey> stale = stale_workloads();
        for (const WorkloadKey& key : stale) {
            const CatalogueEntry* entry = parts_.catalogue.find(key);
            if (entry == nullptr || entry->running.usable()) {
                continue;
            }
            const Expected<WorkloadPods> pods = co_await parts_.pods.read_workload(key);
            if (!pods && pods.error().code != "not-found") {
                baseline_problem_ = pods.error().text;
            }
        }
        if (baseline_problem_.empty()) {
            co_await baseline_wake_.wait_until(Steady::time_point::max());
            // Changes come in bursts: a rollout of somebody else is read once it has settled.
            co_await pause_for(parts_.loop, kSettle);
        } else {
            co_await pause_for(parts_.loop, kBaselineRetry);
        }
    }
}

}  // namespace keel
