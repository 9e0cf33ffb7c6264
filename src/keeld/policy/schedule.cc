#include "keeld/policy/schedule.h"

#include <algorithm>
#include <utility>

#include "keeld/spawn.h"

namespace keel {
namespace {

constexpr int kConcurrent = 8;
constexpr Millis kFirstRetry{2'000};

}  // namespace

Schedule::Schedule(Loop& loop, const Config& config, const Clock& clock, const Tags& tags,
                   Observations& observations, std::function<bool(const Tag&)> in_use)
    : loop_(loop),
      config_(config),
      clock_(clock),
      tags_(tags),
      observations_(observations),
      in_use_(std::move(in_use)),
      random_(std::random_device{}()),
      wake_(loop) {}

Steady::duration Schedule::jittered(Millis interval) {
    std::uniform_real_distribution<double> spread(0.9, 1.0);
    return std::chrono::duration_cast<Steady::duration>(interval * spread(random_));
}

Task<void> Schedule::run() {
    while (!stopped_) {
        const Steady::time_point next = start_due();
        co_await wake_.wait_until(next);
    }
}

void Schedule::stop() {
    stopped_ = true;
    wake_.notify();
}

void Schedule::follow(const Tag& tag) {
    const auto [at, added] = due_.try_emplace(tag, Due{.at = Steady::now()});
    if (!added) {
        return;
    }
    if (hinted_.erase(tag) > 0) {
        at->second.at = Steady::time_point::min();
    }
    wake_.notify();
}

// Traffic that a cache saw meanwhile postpones the look-up.
void Schedule::credit(const Tag& tag, Due& due) const {
    const TagInfo* info = tags_.find(tag);
    if (info == nullptr || info->confirmed_at == Time{} || !info->failure.empty()) {
        return;
    }
    const Millis fresh_for = config_.defaults.poll - (clock_.now() - info->confirmed_at);
    if (fresh_for > Millis{0} && fresh_for <= config_.defaults.poll) {
        due.at = std::max(due.at, Steady::now() + fresh_for);
    }
}

// Starts what is due; returns when to come back.
Steady::time_point Schedule::start_due() {
    const Steady::time_point now = Steady::now();
    Steady::time_point next = now + std::chrono::hours(1);
    for (auto at = due_.begin(); at != due_.end();) {
        auto& [tag, due] = *at;
        if (!due.under_way && due.at <= now && !in_use_(tag)) {
            if (due.at == Steady::time_point::min()) {
                hinted_.insert(tag);
            }
            at = due_.erase(at);  // followed again when somebody uses it again
            continue;
        }
        ++at;
        if (due.under_way) {
            continue;
        }
        if (due.at > Steady::time_point::min() && due.at <= now) {
            credit(tag, due);
        }
        if (due.at > now) {
            next = std::min(next, due.at);
        } else if (under_way_ < kConcurrent) {
            due.under_way = true;
            due.at = now;
            ++under_way_;
            keel::spawn(loop_, look(tag));
        }
    }
    for (auto& [tag, question] : confirm_) {
        Steady::time_point& not_before = question.not_before;
        if (not_before <= now && under_way_ < kConcurrent) {
            not_before = now + jittered(std::min(config_.defaults.poll, Millis{60'000}));
            ++under_way_;
            keel::spawn(loop_, ask_second_source(tag));
        }
        if (not_before > now) {
            next = std::min(next, not_before);
        }
    }
    return next;
}

Task<void> Schedule::look(Tag tag) {
    const Expected<Answer> answer = co_await observations_.look_up(tag);
    --under_way_;
    if (const auto found = due_.find(tag); found != due_.end()) {
        Due& due = found->second;
        due.under_way = false;
        due.failures = answer ? 0 : std::min(due.failures + 1, 16);
        const Millis retry = std::min(config_.defaults.poll, kFirstRetry * (1 << due.failures));
        if (due.at != Steady::time_point::min()) {  // else a hint came meanwhile
            due.at = Steady::now() + jittered(answer ? config_.defaults.poll : retry);
            if (!answer) {
                due.at = std::max(due.at, Steady::now() + answer.error().retry_after);
            }
        }
    }
    wake_.notify();
}

Task<void> Schedule::ask_second_source(Tag tag) {
    co_await observations_.confirm(tag);
    --under_way_;
    const TagInfo* info = tags_.find(tag);
    const bool settled = info == nullptr || (info->pending.empty() && !info->without_history());
    if (settled || !in_use_(tag)) {
        confirm_.erase(tag);
    } else if (const auto found = confirm_.find(tag); found != confirm_.end()) {
        found->second.answered = true;
    }
    wake_.notify();
}

void Schedule::hint(const Tag& tag) {
    if (const auto found = due_.find(tag); found != due_.end()) {
        found->second.at = Steady::time_point::min();
        wake_.notify();
    } else {
        hinted_.insert(tag);
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

}  // namespace keel
