#include "keeld/policy/pushes.h"

#include <algorithm>
#include <utility>

#include "keeld/json.h"

namespace keel {
namespace {

constexpr const char* kPush = "push";

}  // namespace

Pushes::Pushes(Ledger& ledger) : ledger_(ledger) {
    for (const DocumentRow& row : ledger_.documents(kPush)) {
        const Json json = parse_json(row.json);
        const Expected<Tag> tag = Tag::parse(row.key);
        const std::optional<Time> at = parse_time(text_of(json.get(), "named"));
        if (tag && at) {
            all_[*tag] = {*at,
                          Digest::parse(text_of(json.get(), "digest")).value_or(Digest{}),
                          json_is_true(json_object_get(json.get(), "awaited")),
                          {Digest::parse(text_of(json.get(), "said")).value_or(Digest{}),
                           std::string(text_of(json.get(), "by"))}};
        }
    }
}

void Pushes::named(const Tag& tag, Time at, Word word) {
    if (all_.size() >= kMost && !all_.contains(tag)) {
        const auto oldest =
            std::ranges::min_element(all_, {}, [](const auto& one) { return one.second.named; });
        ledger_.erase_document(kPush, oldest->first.to_string());
        all_.erase(oldest);
    }
    Push& push = all_[tag];
    push.named = at;
    push.awaited = true;
    push.word = std::move(word);
    save(tag, push);
}

const std::string* Pushes::confirmed_by(const Tag& tag, const Digest& digest, Time asked) const {
    const auto found = all_.find(tag);
    const bool said = found != all_.end() && found->second.awaited &&
                      asked >= found->second.named && found->second.word.digest == digest;
    return said ? &found->second.word.source : nullptr;
}

bool Pushes::answered(const Tag& tag, const Digest& digest, Time asked) {
    const auto found = all_.find(tag);
    if (found == all_.end() || !found->second.awaited || asked < found->second.named) {
        return false;
    }
    found->second.digest = digest;
    found->second.awaited = false;
    save(tag, found->second);
    return true;
}

const Digest* Pushes::released(const Tag& tag) const {
    const auto found = all_.find(tag);
    return found != all_.end() && !found->second.digest.empty() ? &found->second.digest : nullptr;
}

bool Pushes::is_awaited(const Tag& tag) const {
    const auto found = all_.find(tag);
    return found != all_.end() && found->second.awaited;
}

bool Pushes::awaits(const std::string& registry, const std::string& repository) const {
    return std::ranges::any_of(all_, [&](const auto& one) {
        return one.second.awaited && one.first.registry == registry &&
               one.first.repository == repository;
    });
}

void Pushes::save(const Tag& tag, const Push& push) {
    const Json json(json_object());
    json_object_set_new(json.get(), "named", json_text(format_time(push.named)));
    json_object_set_new(json.get(), "digest", json_text(push.digest.to_string()));
    json_object_set_new(json.get(), "awaited", json_boolean(push.awaited));
    json_object_set_new(json.get(), "said", json_text(push.word.digest.to_string()));
    json_object_set_new(json.get(), "by", json_text(push.word.source));
    ledger_.put(DocumentRow{kPush, tag.to_string(), dump_json(json.get())});
}

}  // namespace keel
