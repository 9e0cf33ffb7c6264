#include "keeld/catalogue/observations.h"

#include <utility>

namespace keel {

Observations::Observations(Loop& loop, const Clock& clock, Ledger& ledger, Tags& tags,
                           Registry& registry, std::function<void(const Tag&)> changed,
                           std::function<void(const Tag&)> settle)
    : loop_(loop),
      clock_(clock),
      ledger_(ledger),
      tags_(tags),
      registry_(registry),
      changed_(std::move(changed)),
      settle_(std::move(settle)) {}

void Observations::take(CacheNews news) {
    TagState& state = news.state;
    state.first_seen = clock_.shown_at(state.first_seen);
    state.last_seen = clock_.shown_at(state.last_seen);
    for (Sighting& sighting : state.history) {
        sighting.first_seen = clock_.shown_at(sighting.first_seen);
        sighting.last_seen = clock_.shown_at(sighting.last_seen);
    }
    const TagInfo* info = tags_.find(state.tag);
    const bool first = info == nullptr || info->current.empty();
    if (first) {
        // Before its history, so that nothing older is ever taken for the current one.
        tags_.observe(state.tag, state.digest, state.kind, state.first_seen, news.source);
        info = tags_.find(state.tag);
    }
    remember_history(news);
    // A digest that goes back stands beside the current one; it is what was answered last. Both are
    // taken, or a move that was missed here and is already going back would leave what pods pulled
    // meanwhile unknown.
    if (state.pending && !info->seen.contains(state.digest)) {
        tags_.observe(state.tag, state.digest, state.kind, state.first_seen, news.source);
    }
    const Digest answered = state.pending.value_or(state.digest);
    const bool late = state.last_seen < info->confirmed_at;
    if (!first && answered != info->current && (late || !news.in_order)) {
        settle_(state.tag);
        return;
    }
    const Effect effect =
        tags_.observe(state.tag, answered, state.kind, state.last_seen, news.source);
    if (first || effect != Effect::same) {
        log_received(news, answered, effect == Effect::same ? Effect::fresh : effect);
        changed_(state.tag);
    }
}

// What the cache saw of the tag before. A digest that it calls going back has been there before:
// without its history here it would pass for a new one.
void Observations::remember_history(const CacheNews& news) {
    const TagState& state = news.state;
    const Time before = state.first_seen - Millis{1};  // of what is told without a time of its own
    for (const Sighting& sighting : state.history) {
        if (sighting.digest != state.digest) {
            tags_.remember(state.tag, sighting.digest, sighting.first_seen, sighting.last_seen,
                           news.source);
        }
    }
    if (state.pending) {
        tags_.remember(state.tag, *state.pending, before, before, news.source);
    }
    // After a confirmed move back the previous one is the newer one: then only the history tells.
    if (state.previous && state.change != Change::confirmed) {
        tags_.remember(state.tag, *state.previous, before, before, news.source);
    }
}

void Observations::log_received(const CacheNews& news, const Digest& answered, Effect effect) {
    Entry entry;
    entry.at = clock_.now();
    entry.kind = EntryKind::received;
    entry.tag = news.state.tag.to_string();
    entry.to = answered.to_string();
    entry.code = to_string(effect);
    entry.cause = news.source;
    entry.text = std::string("asked by ") + std::string(to_string(news.state.asked_by)) +
                 (news.state.node.empty() ? "" : " from " + news.state.node);
    ledger_.append(std::move(entry));
}

Digest Observations::current(const Tag& tag) const {
    const TagInfo* info = tags_.find(tag);
    return info != nullptr ? info->current : Digest{};
}

Task<Expected<Answer>> Observations::look_up(Tag tag) {
    constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
    if (const auto found = flights_.find(tag); found != flights_.end()) {
        const std::shared_ptr<Flight> flight = found->second;
        while (!flight->ended) {
            co_await flight->done.async_wait(kToken);
        }
        co_return flight->answer;
    }
    const auto flight = std::make_shared<Flight>(loop_);
    flight->done.expires_at(Steady::time_point::max());
    flights_[tag] = flight;
    const Time asked = clock_.now();
    const Digest before = current(tag);
    Expected<Answer> answer = co_await registry_.look_up(tag);
    flights_.erase(tag);
    const Digest now = current(tag);
    if (answer && now != before && answer->digest != now) {
        settle_(
            tag);  // news came during the flight: nothing tells which is older, another look does
    } else if (answer) {
        const Effect effect =
            tags_.observe(tag, answer->digest, answer->kind, asked, answer->source);
        if (effect != Effect::same) {
            changed_(tag);
        }
    } else {
        const TagInfo* before = tags_.find(tag);
        // That it was not asked again is no news where it had failed: the cause stays. A 429 is
        // an answer; but to a registry that was away it says no more than for how long.
        const bool answered = answer.error().code == "rate-limited" && before != nullptr &&
                              before->failure_code != "unavailable" &&
                              before->failure_code != "rate-limited";
        const bool told = before != nullptr &&
                          (before->failure == answer.error().text ||
                           (is_postponed(answer.error()) && !answered && !before->failure.empty()));
        if (!told) {
            tags_.failed(tag, answer.error().text, answer.error().code);
            changed_(tag);
        }
    }
    flight->answer = answer;
    flight->ended = true;
    flight->done.cancel();
    co_return answer;
}

Task<Expected<Answer>> Observations::confirm(Tag tag) {
    Expected<Answer> answer = co_await registry_.ask_upstream(tag);
    if (answer) {
        tags_.confirm(tag, answer->digest, clock_.now(), answer->source);
    }
    changed_(tag);  // also without an answer: who waited for it is judged on what there is
    co_return answer;
}

}  // namespace keel
