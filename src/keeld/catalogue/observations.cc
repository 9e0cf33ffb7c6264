#include "keeld/catalogue/observations.h"

#include <utility>

namespace keel {

Observations::Observations(Loop& loop, const Clock& clock, Ledger& ledger, Tags& tags, Registry& registry,
                           std::function<void(const Tag&)> changed, std::function<void(const Tag&)> settle)
    : loop_(loop),
      clock_(clock),
      ledger_(ledger),
      tags_(tags),
      registry_(registry),
      changed_(std::move(changed)),
      settle_(std::move(settle)) {}

void Observations::take(const CacheNews& news) {
    const TagState& state = news.state;
    // A digest that goes back stands beside the current one; it is what was answered last.
    const Digest answered = state.pending.value_or(state.digest);
    for (const Sighting& sighting : state.history) {
        if (sighting.digest != state.digest && sighting.digest != answered) {
            tags_.remember(state.tag, sighting.digest, sighting.first_seen, sighting.last_seen, news.source);
        }
    }
    const TagInfo* info = tags_.find(state.tag);
    const bool known = info != nullptr && !info->current.empty();
    if (state.previous && !known) {
        tags_.remember(state.tag, *state.previous, state.first_seen, state.first_seen, news.source);
    }
    const bool late = known && state.last_seen < info->confirmed_at;
    if (known && answered != info->current && (late || !news.in_order)) {
        settle_(state.tag);
        return;
    }
    if (state.pending && !known) {
        tags_.observe(state.tag, state.digest, state.kind, state.first_seen, news.source);
    }
    const Effect effect = tags_.observe(state.tag, answered, state.kind, state.last_seen, news.source);
    if (effect == Effect::same) {
        return;
    }
    Entry entry;
    entry.at = clock_.now();
    entry.kind = EntryKind::received;
    entry.tag = state.tag.to_string();
    entry.to = answered.to_string();
    entry.code = to_string(effect);
    entry.cause = news.source;
    entry.text = std::string("asked by ") + std::string(to_string(state.asked_by)) +
                 (state.node.empty() ? "" : " from " + state.node);
    ledger_.append(std::move(entry));
    changed_(state.tag);
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
    Expected<Answer> answer = co_await registry_.look_up(tag);
    flights_.erase(tag);
    if (answer) {
        const Effect effect = tags_.observe(tag, answer->digest, answer->kind, asked, answer->source);
        if (effect != Effect::same) {
            changed_(tag);
        }
    } else {
        const TagInfo* before = tags_.find(tag);
        const bool told = before != nullptr && before->failure == answer.error().text;
        tags_.failed(tag, answer.error().text);
        if (!told) {
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
    if (answer && tags_.confirm(tag, answer->digest, clock_.now(), answer->source)) {
        changed_(tag);
    }
    co_return answer;
}

}  // namespace keel
