#include "keeld/catalogue/tags.h"

#include <algorithm>

namespace keel {

bool TagInfo::without_history() const {
    const auto found = seen.find(current);
    return found != seen.end() && found->second.oldest && !found->second.confirmed;
}

std::string_view to_string(Effect effect) {
    switch (effect) {
        case Effect::fresh:
            return "new";
        case Effect::changed:
            return "changed";
        case Effect::same:
            return "same";
        case Effect::cleared:
            return "cleared";
        case Effect::revert:
            return "revert";
    }
    return "";
}

Tags::Tags(Ledger& ledger) : ledger_(ledger) {
    for (const TagRow& row : ledger.tags()) {
        Expected<Tag> tag = Tag::parse(row.tag);
        if (!tag) {
            continue;
        }
        TagInfo& info = tags_[*tag];
        info.tag = *tag;
        info.current = Digest::parse(row.current).value_or(Digest{});
        info.kind = row.kind == "index" ? ManifestKind::index : ManifestKind::image;
        info.since = row.since;
        info.pending = Digest::parse(row.pending).value_or(Digest{});
        info.pending_since = row.pending_since;
        info.confirmed_at = row.confirmed_at;
        info.confirmed_by = row.confirmed_by;
        info.held_at = row.held_at;
    }
    for (const SightingRow& row : ledger.sightings()) {
        const Expected<Tag> tag = Tag::parse(row.tag);
        const std::optional<Digest> digest = Digest::parse(row.digest);
        if (tag && digest && tags_.contains(*tag)) {
            tags_[*tag].seen[*digest] =
                Seen{row.first_seen, row.last_seen, row.source, row.first, row.confirmed};
        }
    }
}

Effect Tags::observe(const Tag& tag, const Digest& digest, ManifestKind kind, Time at,
                     const std::string& source) {
    TagInfo& info = tags_[tag];
    const bool unknown = info.current.empty();
    info.tag = tag;
    info.confirmed_at = std::max(info.confirmed_at, at);
    info.confirmed_by = source;
    info.failure.clear();
    info.failure_code.clear();
    if (!unknown && digest == info.current) {
        info.seen[digest].last = std::max(info.seen[digest].last, at);
        if (info.pending.empty()) {
            return Effect::same;  // freshness alone is not worth a write; it is asked again after a
                                  // restart
        }
        const Digest from = info.pending;
        info.pending = Digest{};
        save(info);
        log(info, Effect::cleared, from, digest, at, source);
        return Effect::cleared;
    }
    if (!unknown && info.seen.contains(digest)) {
        info.seen[digest].last = std::max(info.seen[digest].last, at);
        if (info.pending == digest) {
            return Effect::same;
        }
        info.pending = digest;
        info.pending_since = at;
        save(info);
        log(info, Effect::revert, info.current, digest, at, source);
        return Effect::revert;
    }
    const Digest from = info.current;
    info.seen[digest] = Seen{at, at, source, info.seen.empty(), false};
    info.current = digest;
    info.kind = kind;
    info.since = at;
    info.pending = Digest{};
    info.cause = source;
    const Effect effect = unknown ? Effect::fresh : Effect::changed;
    save(info);
    save(info, digest);
    log(info, effect, from, digest, at, source);
    return effect;
}

void Tags::remember(const Tag& tag, const Digest& digest, Time first, Time last,
                    const std::string& source) {
    TagInfo& info = tags_[tag];
    if (info.seen.contains(digest)) {
        return;
    }
    const bool unknown = info.current.empty();
    info.tag = tag;
    if (unknown) {
        info.current = digest;  // until the newer ones of the same history are told
        info.since = first;
        info.cause = source;
    }
    // Older than all that is known: then what was the oldest has a history now.
    const bool oldest = std::ranges::all_of(
        info.seen, [first](const auto& entry) { return first <= entry.second.first; });
    if (oldest) {
        for (auto& [other, seen] : info.seen) {
            if (seen.oldest) {
                seen.oldest = false;
                save(info, other);
            }
        }
    }
    info.seen[digest] = Seen{first, last, source, oldest, false};
    if (unknown) {
        save(info);
    }
    save(info, digest);
}

bool Tags::confirm(const Tag& tag, const Digest& digest, Time at, const std::string& source) {
    const auto found = tags_.find(tag);
    if (found == tags_.end() || !found->second.seen.contains(digest)) {
        return false;
    }
    TagInfo& info = found->second;
    Seen& seen = info.seen[digest];
    if (digest == info.pending) {
        const Digest from = info.current;
        info.current = digest;
        info.pending = Digest{};
        info.since = at;
        info.cause = source;
        seen.confirmed = true;
        save(info);
        save(info, digest);
        log(info, Effect::changed, from, digest, at, source);
        return true;
    }
    if (digest != info.current || seen.confirmed) {
        return false;
    }
    seen.confirmed = true;
    save(info, digest);
    return true;
}

void Tags::seen(const Tag& tag, Time at, Time no_kubelet_since) {
    if (const auto found = tags_.find(tag); found != tags_.end()) {
        TagInfo& info = found->second;
        info.traffic_at = std::max(info.traffic_at, at);
        info.no_kubelet_since = std::max(info.no_kubelet_since, no_kubelet_since);
    }
}

void Tags::failed(const Tag& tag, const std::string& why, const std::string& code) {
    if (const auto found = tags_.find(tag); found != tags_.end()) {
        found->second.failure = why;
        found->second.failure_code = code;
        return;
    }
    TagInfo& info = tags_[tag];  // in memory only, so that the verdict can say why nothing is known
    info.tag = tag;
    info.failure = why;
    info.failure_code = code;
}

bool Tags::hold(const Tag& tag, std::optional<Held> held, Time at) {
    if (!held && !tags_.contains(tag)) {
        return false;
    }
    TagInfo& info = tags_[tag];
    info.tag = tag;
    if (info.held == held) {
        return false;
    }
    const bool moved =
        info.held.has_value() != held.has_value() || (held && info.held->digest != held->digest);
    const Time since = held ? held->since : at;  // not each restart of keeld is a new beginning
    if (moved && since > info.held_at) {
        info.held_at = since;
    }
    info.held = std::move(held);
    if (moved && !info.current.empty()) {
        save(info);
    }
    return true;
}

const TagInfo* Tags::find(const Tag& tag) const {
    const auto found = tags_.find(tag);
    return found != tags_.end() ? &found->second : nullptr;
}

void Tags::save(const TagInfo& info) {
    TagRow row;
    row.tag = info.tag.to_string();
    row.current = info.current.to_string();
    row.kind = to_string(info.kind);
    row.since = info.since;
    row.pending = info.pending.to_string();
    row.pending_since = info.pending_since;
    row.confirmed_at = info.confirmed_at;
    row.confirmed_by = info.confirmed_by;
    row.held_at = info.held_at;
    ledger_.put(std::move(row));
}

void Tags::save(const TagInfo& info, const Digest& digest) {
    const Seen& seen = info.seen.at(digest);
    SightingRow row;
    row.tag = info.tag.to_string();
    row.digest = digest.to_string();
    row.first_seen = seen.first;
    row.last_seen = seen.last;
    row.source = seen.source;
    row.first = seen.oldest;
    row.confirmed = seen.confirmed;
    ledger_.put(std::move(row));
}

void Tags::log(const TagInfo& info, Effect effect, const Digest& from, const Digest& to, Time at,
               const std::string& source) {
    Entry entry;
    entry.at = at;
    entry.kind = EntryKind::observed;
    entry.tag = info.tag.to_string();
    entry.from = from.to_string();
    entry.to = to.to_string();
    entry.code = to_string(effect);
    entry.cause = source;
    ledger_.append(std::move(entry));
}

}  // namespace keel
