#include "keeld/policy/schedule.h"

#include <algorithm>
#include <utility>

#include "core/tag_shape.h"
#include "keeld/spawn.h"
#include "keeld/zone.h"

namespace keel {
namespace {

constexpr int kConcurrent = 8;
constexpr Millis kFirstRetry{2'000};
constexpr int kMostFailures = 16;
constexpr Millis kWidestSpread = std::chrono::minutes{5};
// Clocks of caches may be so much ahead of ours; what lies further in the future is not believed.
constexpr Millis kAhead = std::chrono::minutes{5};

const PollSchedule& once_a_day() {
    static const PollSchedule schedule = *PollSchedule::parse("@every 24h");
    return schedule;
}

template <class T>
void add_new(std::vector<T>& all, const T& one) {
    if (std::ranges::find(all, one) == all.end()) {
        all.push_back(one);
    }
}

std::vector<PollSchedule> look_schedules(const std::vector<Wish>& wishes) {
    std::vector<PollSchedule> all;
    for (const Wish& wish : wishes) {
        if (!wish.on_hint) {
            add_new(all, wish.schedule);
        }
    }
    return all;
}

}  // namespace

Wish::List list_rule(const Policy& policy, std::string_view name) {
    using Kind = Policy::Kind;
    const bool ordered = read_shape(name).ordered();
    switch (policy.kind()) {
        case Kind::glob:
        case Kind::regexp:
            return Wish::List::scheduled;
        case Kind::patch:
        case Kind::minor:
        case Kind::major:
        case Kind::all:
            return ordered ? Wish::List::scheduled : Wish::List::never;
        case Kind::force:
            return ordered ? Wish::List::daily : Wish::List::never;
        case Kind::none:
        case Kind::never:
            break;
    }
    return Wish::List::never;
}

Time due_after(Time answered, const std::vector<PollSchedule>& schedules, const Zone& zone,
               double share) {
    Time first = Time::max();
    for (const PollSchedule& schedule : schedules) {
        Time tick = schedule.next(answered, zone);
        Time after = schedule.next(tick, zone);
        const Millis spread = std::min<Millis>((after - tick) / 10, kWidestSpread);
        if (tick - answered < spread) {
            tick = after;
        }
        first = std::min(
            first,
            tick + Millis(static_cast<Millis::rep>(static_cast<double>(spread.count()) * share)));
    }
    return first;
}

Schedule::Schedule(Parts parts)
    : parts_(std::move(parts)), random_(std::random_device{}()), wake_(parts_.loop) {
    zone_name_ = parts_.config.time_zone;
    zone_ = zone_named(zone_name_);
}

void Schedule::stop() {
    stopped_ = true;
    wake_.notify();
}

void Schedule::clock_moved() {
    freshened_ = {};  // however little time passed
    looking_ = true;
    wake_.notify();
}

// --- when ---

// The newest answer about the tag that counts: ours, or one that traffic brought.
Time Schedule::heard(const Tag& tag, const Followed& followed) const {
    const Time now = parts_.clock.now();
    Time newest{};
    const auto count = [&](Time at) {
        if (at <= now + kAhead) {
            newest = std::max(newest, std::min(at, now));
        }
    };
    count(followed.round.answered);
    if (const TagInfo* info = parts_.tags.find(tag); info != nullptr && !info->current.empty()) {
        count(info->confirmed_at);
        count(info->traffic_at);
    }
    return newest;
}

Time Schedule::due(const Round& round, Time answered,
                   const std::vector<PollSchedule>& schedules) const {
    if (schedules.empty()) {
        return Time::max();
    }
    const Time base = std::max(answered, round.failed);
    return base == Time{} ? Time{} : due_after(base, schedules, zone_, round.share);
}

Time Schedule::look_due(const Tag& tag, const Followed& followed) const {
    return due(followed.round, heard(tag, followed), look_schedules(followed.wishes));
}

std::vector<PollSchedule> Schedule::list_schedules(const Repository& repository,
                                                   const Listed& listed) const {
    std::vector<PollSchedule> all;
    for (const std::string& name : listed.names) {
        const auto followed = followed_.find(Tag{repository.first, repository.second, name});
        if (followed == followed_.end()) {
            continue;
        }
        for (const Wish& wish : followed->second.wishes) {
            if (wish.on_hint) {
                continue;
            }
            if (wish.list == Wish::List::scheduled) {
                add_new(all, wish.schedule);
            } else if (wish.list == Wish::List::daily) {
                add_new(all, once_a_day());
            }
        }
    }
    return all;
}

void Schedule::schedule_look(const Tag& tag, Followed& followed) {
    if (!followed.round.queued && !followed.hinted) {
        followed.round.due = look_due(tag, followed);
    }
}

void Schedule::schedule_list(const Repository& repository, Listed& listed) {
    if (listed.round.queued) {
        return;
    }
    const std::vector<PollSchedule> schedules = list_schedules(repository, listed);
    const Listing* known = parts_.listings.find(repository.first, repository.second);
    const Time now = parts_.clock.now();
    const Time at = known != nullptr && known->at <= now + kAhead ? known->at : Time{};
    listed.round.due = due(listed.round, std::min(at, now), schedules);
}

double Schedule::share() {
    return std::uniform_real_distribution<double>(0.0, 1.0)(random_);
}

// --- who ---

void Schedule::follow(const Tag& tag, const Wish& wish) {
    const auto [at, added] = followed_.try_emplace(tag);
    Followed& followed = at->second;
    if (!added && std::ranges::find(followed.wishes, wish) != followed.wishes.end()) {
        return;
    }
    if (added && hinted_.erase(tag) > 0) {
        followed.hinted = true;
    }
    if (added) {
        followed.round.share = share();
        note_gone(tag, nullptr);
    }
    followed.wishes.push_back(wish);
    schedule_look(tag, followed);
    const Repository repository(tag.registry, tag.repository);
    const auto [list, first] = listed_.try_emplace(repository);
    Listed& listed = list->second;
    if (first) {
        listed.round.share = share();
    }
    listed.names.insert(tag.name);
    schedule_list(repository, listed);
    wake_.notify();
}

void Schedule::forget(const Tag& tag) {
    const Repository repository(tag.registry, tag.repository);
    gone_.erase(tag);
    if (const auto found = listed_.find(repository); found != listed_.end()) {
        found->second.names.erase(tag.name);
        if (found->second.names.empty() && !found->second.round.queued) {
            listed_.erase(found);
        }
    }
    followed_.erase(tag);
}

void Schedule::hint(const Tag& tag) {
    if (const auto found = followed_.find(tag); found != followed_.end()) {
        found->second.hinted = true;
        wake_.notify();
    } else {
        hinted_.insert(tag);
    }
}

bool Schedule::lists_for_policies(const std::string& registry,
                                  const std::string& repository) const {
    const auto listed = listed_.find(Repository(registry, repository));
    return listed != listed_.end() &&
           std::ranges::any_of(listed->second.names, [&](const std::string& name) {
               const auto followed = followed_.find(Tag{registry, repository, name});
               return followed != followed_.end() &&
                      std::ranges::any_of(followed->second.wishes, [](const Wish& wish) {
                          return wish.list == Wish::List::scheduled;
                      });
           });
}

void Schedule::hint_list(const std::string& registry, const std::string& repository) {
    if (lists_for_policies(registry, repository)) {
        listed_.at(Repository(registry, repository)).hinted = true;
        wake_.notify();
    }
}

void Schedule::want_confirmation(const Tag& tag) {
    if (confirm_.try_emplace(tag, Question{.not_before = Steady::now()}).second) {
        wake_.notify();
    }
}

bool Schedule::confirmation_under_way(const Tag& tag) const {
    const auto found = confirm_.find(tag);
    return found != confirm_.end() && !found->second.answered;
}

std::size_t Schedule::waiting() const {
    return looks_.size() + lists_.size() + static_cast<std::size_t>(under_way_) +
           (looking_ ? 1 : 0);
}

// --- the loop ---

Task<void> Schedule::run() {
    while (!stopped_) {
        if (zone_name_ != parts_.config.time_zone) {
            zone_name_ = parts_.config.time_zone;
            zone_ = zone_named(zone_name_);
        }
        if (freshness_wanted()) {
            const Steady::time_point began = Steady::now();
            co_await parts_.freshen();
            freshened_ = Steady::now();
            // Never for more than a tenth of the time, however large the caches are.
            freshen_again_ =
                std::max<Steady::duration>(parts_.freshen_again, (freshened_ - began) * 10);
        }
        Steady::time_point next = queue_due();
        start_queued();
        next = std::min(next, start_confirmations());
        looking_ = false;
        if (!stopped_) {
            co_await wake_.wait_until(next);
        }
    }
}

// Failures that said when to come back are asked again then; others with back-off, or when the
// schedule comes to it.
bool Schedule::is_due(const Round& round) const {
    const bool on_time = round.due <= parts_.clock.now();
    if (round.failed == Time{}) {
        return on_time;
    }
    return Steady::now() >= round.not_before || (on_time && !round.told);
}

Steady::time_point Schedule::wake_for(const Round& round) const {
    const Steady::time_point on_time =
        round.due == Time::max() ? Steady::time_point::max() : parts_.clock.when(round.due);
    if (round.failed == Time{}) {
        return on_time;
    }
    return round.told ? round.not_before : std::min(round.not_before, on_time);
}

// Something is due that traffic may have answered.
bool Schedule::freshness_wanted() const {
    if (!parts_.freshen || Steady::now() < freshened_ + freshen_again_) {
        return false;
    }
    return std::ranges::any_of(followed_, [this](const auto& one) {
        const Followed& followed = one.second;
        return !followed.round.queued && !followed.hinted && is_due(followed.round);
    });
}

// What is due waits for its turn from now on; returns when the next comes.
Steady::time_point Schedule::queue_due() {
    Steady::time_point next = Steady::now() + std::chrono::hours(1);
    for (auto at = followed_.begin(); at != followed_.end();) {
        const Tag& tag = at->first;
        Followed& followed = at->second;
        Round& round = followed.round;
        ++at;
        if (round.queued) {
            continue;
        }
        if (followed.hinted || is_due(round)) {
            // What is wanted may be less by now than it was, and fresher what is known.
            followed.wishes = parts_.wishes(tag);
            if (followed.wishes.empty()) {
                if (followed.hinted) {
                    hinted_.insert(tag);
                }
                forget(Tag(tag));  // followed again when somebody uses it again
                continue;
            }
            const Time heard_at = heard(tag, followed);
            if (heard_at > round.failed) {
                round.failed = Time{};
                round.told = false;
            }
            const Time before = round.due;
            schedule_look(tag, followed);
            if (!followed.hinted && !is_due(round)) {
                metrics_.spared += before != Time{} && round.due > before ? 1 : 0;
            } else {
                round.queued = true;
                looks_.push_back(tag);
                continue;
            }
        }
        next = std::min(next, wake_for(round));
    }
    for (auto& [repository, listed] : listed_) {
        if (listed.round.queued) {
            continue;
        }
        if (listed.hinted || is_due(listed.round)) {
            for (const std::string& name : listed.names) {
                const Tag tag{repository.first, repository.second, name};
                followed_.at(tag).wishes = parts_.wishes(tag);
            }
            schedule_list(repository, listed);
            const bool for_policies = lists_for_policies(repository.first, repository.second);
            listed.hinted = listed.hinted && for_policies;
            const bool wanted = listed.round.due != Time::max() || for_policies;
            if (wanted && (listed.hinted || is_due(listed.round))) {
                listed.round.queued = true;
                lists_.push_back(repository);
                continue;
            }
            if (!wanted) {
                listed.round.failed = Time{};
            }
        }
        next = std::min(next, wake_for(listed.round));
    }
    return next;
}

void Schedule::start_queued() {
    if (stopped_) {
        return;
    }
    while (under_way_ < kConcurrent && !looks_.empty()) {
        const Tag tag = std::move(looks_.front());
        looks_.pop_front();
        const auto found = followed_.find(tag);
        found->second.hinted = false;  // a hint from here on asks once more
        ++under_way_;
        keel::spawn(parts_.loop, look(tag));
    }
    // Lists come after look-ups: what they tell is less urgent.
    while (under_way_ < kConcurrent && !lists_.empty()) {
        const Repository repository = std::move(lists_.front());
        lists_.pop_front();
        Listed& listed = listed_.at(repository);
        listed.hinted = false;  // a hint from here on asks once more
        if (listed.names.empty()) {
            listed_.erase(repository);
            continue;
        }
        ++under_way_;
        keel::spawn(parts_.loop,
                    list(Tag{repository.first, repository.second, *listed.names.begin()}));
    }
}

Steady::time_point Schedule::start_confirmations() {
    const Steady::time_point now = Steady::now();
    Steady::time_point next = Steady::time_point::max();
    for (auto& [tag, question] : confirm_) {
        Steady::time_point& not_before = question.not_before;
        if (not_before <= now && under_way_ < kConcurrent) {
            std::uniform_real_distribution<double> spread(0.9, 1.0);
            not_before = now + std::chrono::duration_cast<Steady::duration>(parts_.confirm_again *
                                                                            spread(random_));
            ++under_way_;
            keel::spawn(parts_.loop, ask_second_source(tag));
        }
        if (not_before > now) {
            next = std::min(next, not_before);
        }
    }
    return next;
}

// An answer came; `error`: why it is none.
void Schedule::ended(Round& round, const Error* error, const std::vector<PollSchedule>& schedules) {
    const Time now = parts_.clock.now();
    round.queued = false;
    round.share = share();
    if (error == nullptr) {
        round.answered = now;
        round.failed = Time{};
        round.failures = 0;
        round.told = false;
        return;
    }
    round.failed = now;
    round.told = error->retry_after > Millis{0};
    round.failures = std::min(round.failures + 1, kMostFailures);
    const Millis interval = schedules.empty() ? Millis{std::chrono::hours{1}}
                                              : due_after(now, schedules, zone_, 0) - now;
    const Millis wait =
        round.told ? error->retry_after : std::min(interval, kFirstRetry * (1 << round.failures));
    round.not_before = Steady::now() + wait;
}

// All that is followed is gone through again only when there is nothing else to do.
void Schedule::ended_one() {
    start_queued();
    if (looks_.empty() && lists_.empty()) {
        wake_.notify();
    }
}

Task<void> Schedule::look(Tag tag) {
    const Time asked = parts_.clock.now();
    const Expected<Answer> answer = co_await parts_.observations.look_up(tag);
    --under_way_;
    if (const auto found = followed_.find(tag); found != followed_.end()) {
        Followed& followed = found->second;
        ended(followed.round, answer ? nullptr : &answer.error(), look_schedules(followed.wishes));
        if (answer) {
            followed.round.answered = asked;
        }
        schedule_look(tag, followed);
        note_gone(tag, answer ? nullptr : &answer.error());
    }
    if (answer && parts_.answered) {
        parts_.answered(tag, answer->digest, asked);
    }
    ended_one();
}

Task<void> Schedule::list(Tag tag) {
    const Repository repository(tag.registry, tag.repository);
    const Time asked = parts_.clock.now();
    Expected<Names> names = co_await parts_.list_tags(tag);
    --under_way_;
    ++metrics_.lists;
    bool news = false;
    if (names) {
        news = parts_.listings.listed(repository.first, repository.second, std::move(names->names),
                                      names->complete, asked);
        if (!names->complete) {
            parts_.listings.failed(repository.first, repository.second, names->stopped);
        }
    } else {
        ++metrics_.list_failures;
        news = parts_.listings.failed(repository.first, repository.second, names.error().text);
    }
    if (const auto found = listed_.find(repository); found != listed_.end()) {
        Listed& listed = found->second;
        ended(listed.round, names ? nullptr : &names.error(), list_schedules(repository, listed));
        schedule_list(repository, listed);
        const std::set<std::string> followed = listed.names;
        for (const std::string& name : followed) {
            const Tag one{repository.first, repository.second, name};
            note_gone(one, nullptr);
            if (news) {
                parts_.listed(one);
            }
        }
    }
    ended_one();
}

// 404 is about this path now, and a list may be late: told, and nothing else is made of it (D8).
void Schedule::note_gone(const Tag& tag, const Error* refusal) {
    const Listing* listing = parts_.listings.find(tag.registry, tag.repository);
    const TagInfo* info = parts_.tags.find(tag);
    if (info == nullptr || info->heard_at() == Time{}) {
        gone_.erase(tag);  // as far as anybody knows it never was there
    } else if (refusal != nullptr && refusal->code == "not-found") {
        gone_[tag] = refusal->text;
    } else if (listing != nullptr && listing->known() && listing->complete &&
               !listing->has(tag.name)) {
        gone_[tag] = "the list of " + tag.registry + "/" + tag.repository + " of " +
                     format_time(listing->at) + " does not have it";
    } else if (refusal == nullptr) {
        gone_.erase(tag);
    }
}

Task<void> Schedule::ask_second_source(Tag tag) {
    co_await parts_.observations.confirm(tag);
    --under_way_;
    const TagInfo* info = parts_.tags.find(tag);
    const bool settled = info == nullptr || (info->pending.empty() && !info->without_history());
    if (settled || parts_.wishes(tag).empty()) {
        confirm_.erase(tag);
    } else if (const auto found = confirm_.find(tag); found != confirm_.end()) {
        found->second.answered = true;
    }
    wake_.notify();
}

}  // namespace keel
