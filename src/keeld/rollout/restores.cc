#include "keeld/rollout/restores.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "keeld/json.h"
#include "keeld/random_id.h"
#include "keeld/spawn.h"

namespace keel {
namespace {

constexpr const char* kRestore = "restore";
constexpr const char* kAuthor = "keeld (restore)";
constexpr auto kTryAgain = std::chrono::minutes(5);

}  // namespace

Restores::Restores(Parts parts) : parts_(std::move(parts)) {
    for (const DocumentRow& row : parts_.ledger.documents(kRestore)) {
        const Json json = parse_json(row.json);
        const Expected<Tag> tag = Tag::parse(row.key);
        const std::optional<Digest> bad = Digest::parse(text_of(json.get(), "bad"));
        if (tag && bad) {
            kept_[*tag] = {*bad, std::string(text_of(json.get(), "workload"))};
        }
    }
}

void Restores::judged(const WorkloadKey& key, const CatalogueEntry& entry,
                      const WorkloadVerdict& verdict) {
    if (stopped_ || !parts_.may_write()) {
        return;
    }
    lift(entry);
    const std::string& uid = entry.object.uid;
    std::optional<Rollouts::Way> way = parts_.rollouts.way_of(uid);
    // What is due already goes there by itself, after a restart of keeld too.
    const bool due = way && verdict.verdict == Verdict::roll && verdict.targets == way->targets;
    const bool down = verdict.reason == Reason::target_rejected;
    if (!way || (!way->ordered && !verdict.settings->reversible.parsed) || (!due && !down)) {
        stuck_.erase(key);
        return;
    }
    if (!parts_.rollouts.is_going_back(uid) && under_way_.insert(uid).second) {
        keel::spawn(parts_.loop, prepare(key, uid, std::move(*way)));
    }
}

// Every target has to be what a pull gets before anything is restarted. It is told first where this
// goes: as soon as a hold is there the move is due.
Task<void> Restores::prepare(WorkloadKey key, std::string uid, Rollouts::Way way) {
    parts_.rollouts.go_back(uid, way);
    std::string why;
    for (const Target& target : way.targets) {
        if (why.empty()) {
            why = co_await make_pullable(key, way, target);
        }
    }
    if (why.empty()) {
        stuck_.erase(key);
        parts_.reconsider(key);
    } else {
        parts_.rollouts.stay(uid);
        tell_stuck(key, way, why);
        co_await pause_for(parts_.loop, kTryAgain);
        parts_.reconsider(key);
    }
    under_way_.erase(uid);
}

Task<std::string> Restores::make_pullable(WorkloadKey key, Rollouts::Way way, Target target) {
    const std::string before = brief_digest(target.to.to_string());
    if (!target.image.empty()) {
        Tag tag = target.tag;
        const Expected<Answer> answer = co_await parts_.look_up(std::move(tag));
        if (!answer) {
            co_return target.tag.to_string() + " could not be asked for: " + answer.error().text;
        }
        co_return answer->digest == target.to
            ? ""
            : target.tag.to_string() + " is not " + before + " any more, which ran before";
    }
    const TagInfo* info = parts_.tags.find(target.tag);
    if (info != nullptr && info->held) {
        const Held& held = *info->held;
        const bool there = held.digest == target.to && held.everywhere;
        co_return there ? ""
                        : target.tag.to_string() + " is held at " +
                              brief_digest(held.digest.to_string()) + " by " + held.author;
    }
    const std::string needed = co_await needed_by_others(key, target);
    if (!needed.empty()) {
        co_return needed;
    }
    const std::optional<Digest> bad = Digest::parse(target.from);
    kept_[target.tag] = {bad.value_or(Digest{}), key.to_string()};
    const Json json(
        json_pack("{s:s,s:s}", "bad", target.from.c_str(), "workload", key.to_string().c_str()));
    parts_.ledger.put(DocumentRow{kRestore, target.tag.to_string(), dump_json(json.get())});
    Holds::Wish wish;
    wish.id = random_id();
    wish.tag = target.tag;
    wish.digest = target.to;
    wish.author = kAuthor;
    wish.reason = brief_digest(target.from) +
                  (way.ordered ? " was taken back on " : " failed on ") + key.to_string() +
                  ", rollout " + way.rollout + "; lifted when the tag moves on";
    const std::vector<Holds::Result> results = co_await parts_.holds.set(std::move(wish));
    std::string why;
    for (const Holds::Result& one : results) {
        if (!one.ok) {
            why += (why.empty() ? "" : "; ") + one.code + ": " + one.text;
        }
    }
    if (std::ranges::none_of(results, &Holds::Result::ok)) {
        kept_.erase(target.tag);
        parts_.ledger.erase_document(kRestore, target.tag.to_string());
    }
    co_return why.empty() && !results.empty()
        ? ""
        : target.tag.to_string() + " cannot be held at " + before + ": " + why;
}

// A hold reaches everybody who pulls the tag: nobody who is well with it is taken back (R4).
Task<std::string> Restores::needed_by_others(WorkloadKey key, Target target) {
    const std::set<WorkloadKey> consumers(parts_.catalogue.consumers(target.tag).begin(),
                                          parts_.catalogue.consumers(target.tag).end());
    for (const WorkloadKey& other : consumers) {
        const CatalogueEntry* entry = parts_.catalogue.find(other);
        if (other == key || entry == nullptr) {
            continue;
        }
        if (!entry->running.usable() && other.kind != WorkloadKind::cron_job) {
            WorkloadKey asked = other;
            const Expected<WorkloadPods> pods =
                co_await parts_.pods.read_workload(std::move(asked));
            entry = parts_.catalogue.find(other);
            if (entry != nullptr && !pods) {
                co_return "whether " + other.to_string() +
                    " needs it could not be asked: " + pods.error().text;
            }
            if (entry == nullptr) {
                continue;
            }
        }
        const bool runs = std::ranges::any_of(
            entry->running.images,
            [&target](const RunningImage& image) { return image.digest == target.from; });
        const std::optional<Digest> bad = Digest::parse(target.from);
        if (runs || (bad && parts_.rollouts.proved(entry->object.uid, target.tag, *bad))) {
            co_return other.to_string() + " runs " + brief_digest(target.from) + " of " +
                target.tag.to_string() + ", and a hold would take it back, too";
        }
    }
    co_return "";
}

void Restores::tell_stuck(const WorkloadKey& key, const Rollouts::Way& way,
                          const std::string& why) {
    if (stuck_[key] == why) {
        return;
    }
    stuck_[key] = why;
    Entry entry;
    entry.at = parts_.clock.now();
    entry.kind = EntryKind::refused;
    entry.code = "restore-stuck";
    entry.workload = key.to_string();
    entry.rollout = way.rollout;
    entry.text = why;
    parts_.ledger.append(std::move(entry));
}

// The bad build is not what the tag answers any more: what is newer may be tried.
void Restores::lift(const CatalogueEntry& entry) {
    for (const Expected<Reference>& reference : entry.references) {
        const std::optional<Tag> tag = reference ? reference->tag() : std::nullopt;
        const auto kept = tag ? kept_.find(*tag) : kept_.end();
        if (kept == kept_.end()) {
            continue;
        }
        const TagInfo* info = parts_.tags.find(*tag);
        const bool moved = info != nullptr && info->held && info->held->author == kAuthor &&
                           info->pending.empty() && !info->current.empty() &&
                           info->current != kept->second.bad;
        if (moved && lifting_.insert(*tag).second) {
            keel::spawn(parts_.loop, release(*tag));
        }
    }
}

Task<void> Restores::release(Tag tag) {
    Holds::Wish wish;
    wish.id = random_id();
    wish.tag = tag;
    wish.author = kAuthor;
    wish.reason = "the tag moved on from " + brief_digest(kept_[tag].bad.to_string());
    const std::vector<Holds::Result> results = co_await parts_.holds.release(std::move(wish));
    if (std::ranges::all_of(results, &Holds::Result::ok)) {
        kept_.erase(tag);
        parts_.ledger.erase_document(kRestore, tag.to_string());
    } else {
        co_await pause_for(parts_.loop, kTryAgain);
    }
    lifting_.erase(tag);
}

}  // namespace keel
