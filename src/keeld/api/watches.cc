#include "keeld/api/watches.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tag_shape.h"
#include "keeld/policy/settings.h"
#include "keeld/zone.h"

namespace keel {
namespace {

constexpr Millis kCountedFor = std::chrono::minutes(1);

constexpr Millis kSlack = std::chrono::minutes(5);  // ticks are spread, answers take their time

// What a failed look-up says that no time mends, as a watch's state; empty: it may pass.
std::string_view lasting(std::string_view code) {
    struct Meaning {
        std::string_view code;
        std::string_view state;
    };
    static constexpr std::array<Meaning, 9> kMeanings{{
        {"no-path", "no-path"},
        {"no-credential", "no-credential"},
        {"denied", "denied"},
        {"token-empty", "denied"},
        {"token-refused", "denied"},
        {"token-scope", "denied"},
        {"realm-invalid", "denied"},
        {"not-found", "not-found"},
        {"held", "held"},
    }};
    const auto found = std::ranges::find(kMeanings, code, &Meaning::code);
    return found != kMeanings.end() ? found->state : std::string_view();
}

// What a person does about it.
std::string remedy(std::string_view state, const Tag& tag) {
    const std::string registry = "registries." + tag.registry;
    if (state == "no-path") {
        return "name " + tag.registry + " in caches[].lookup, or set " + registry + ".direct";
    }
    if (state == "no-credential") {
        return "give the workload a pull secret and set " + registry +
               ".credentials: pullSecrets, or name a config.json or a helper there";
    }
    if (state == "denied") return "renew the credentials that the sentence names";
    if (state == "not-found") return "name a tag that exists, or mend the way to the registry";
    if (state == "tag-gone") {
        return "a restart may find nothing to pull; name a tag that is there, or bring it back";
    }
    if (state == "held") return "keelctl release lifts a hold; keelctl holds lists them";
    return "look at the registry and the cache: keelctl status";
}

// The end of the last interval in which a check had to succeed.
Time last_chance(const PollSchedule& schedule, Time confirmed, const Zone& zone) {
    Time at = confirmed;
    for (int i = 0; i < kMissedChecks; ++i) {
        at = schedule.next(at, zone);
    }
    return at + std::min(kSlack, (at - confirmed) / 10);
}

// Of every repository, when a tag of it in use came to another digest, and which.
struct Move {
    Time at;
    const Tag* tag = nullptr;
};
using Repository = std::pair<std::string, std::string>;  // with its registry before it

std::map<Repository, std::vector<Move>> moves_of(const Tags& tags) {
    std::map<Repository, std::vector<Move>> moves;
    for (const auto& [tag, info] : tags.all()) {
        for (const auto& [digest, seen] : info.seen) {
            if (!seen.oldest && digest != info.pending) {
                moves[{tag.registry, tag.repository}].push_back({seen.first, &tag});
            }
        }
    }
    return moves;
}

class Examiner {
  public:
    Examiner(const WatchParts& parts, Time now)
        : parts_(parts),
          now_(now),
          zone_(zone_named(parts.config.time_zone)),
          moves_(moves_of(parts.tags)) {}

    void examine(const CatalogueEntry& entry, const Container& container,
                 const WorkloadSettings& settings, Watch& watch) {
        settings_ = &settings;
        watch_ = &watch;
        watch.state = "fine";
        (void)(bad_setting() || no_receiver() || held() || unanswered() || unlisted() ||
               bypassed(entry, container) || abandoned());
    }

  private:
    bool say(std::string_view state, std::string sentence, std::string next) {
        watch_->state = state;
        watch_->sentence = std::move(sentence);
        watch_->next = std::move(next);
        return true;
    }

    bool bad_setting() {
        if (settings_->faults.empty()) return false;
        return say("setting-invalid", settings_->faults.front().text, "write a value that exists");
    }

    [[nodiscard]] bool by_webhooks_alone() const {
        return settings_->trigger.parsed == Trigger::push;
    }

    bool no_receiver() {
        if (!by_webhooks_alone() || !parts_.config.webhooks.empty()) return false;
        return say("no-receiver",
                   "keel.sh/trigger: " + settings_->trigger.value + " (" +
                       settings_->trigger.layer +
                       ") waits for webhooks only, and keeld.yaml names no sender",
                   "keel.sh/trigger: poll, or webhooks in keeld.yaml");
    }

    bool held() {
        const TagInfo* info = parts_.tags.find(*watch_->tag);
        if (info == nullptr || !info->held) return false;
        const Held& held = *info->held;
        return say("held",
                   watch_->tag->to_string() + " is held at " + held.digest.to_string() + " by " +
                       held.author + " (" + held.reason + "): nothing newer is pulled",
                   remedy("held", *watch_->tag));
    }

    bool unanswered() {
        const Tag& tag = *watch_->tag;
        if (const Expected<void> path = parts_.registry.has_path(tag.registry); !path) {
            return say("no-path", path.error().text, remedy("no-path", tag));
        }
        if (parts_.gone != nullptr) {
            if (const auto gone = parts_.gone->find(tag); gone != parts_.gone->end()) {
                return say("tag-gone", gone->second, remedy("tag-gone", tag));
            }
        }
        const TagInfo* info = parts_.tags.find(tag);
        if (info == nullptr || (info->heard_at() == Time{} && info->failure.empty())) {
            return !by_webhooks_alone() &&
                   say("waiting", "its first answer is under way", "nothing");
        }
        if (const std::string_view state = lasting(info->failure_code); !state.empty()) {
            return say(state, info->failure, remedy(state, tag));
        }
        if (info->heard_at() == Time{}) {
            return say("never-answered", info->failure, remedy("never-answered", tag));
        }
        if (by_webhooks_alone() || !is_late(info->heard_at())) return false;
        return say("stale",
                   "no successful check since " + format_time(info->heard_at()) + ", which is " +
                       std::to_string(kMissedChecks) + " intervals of " +
                       settings_->poll_schedule.value + " ago" +
                       (info->failure.empty() ? "" : ": " + info->failure),
                   remedy("stale", tag));
    }

    // Whether its policy takes names from the repository's list.
    [[nodiscard]] bool takes_other_names() const {
        const Policy::Kind kind = settings_->policy.parsed.kind();
        const bool pattern = kind == Policy::Kind::glob || kind == Policy::Kind::regexp;
        const bool version = kind == Policy::Kind::patch || kind == Policy::Kind::minor ||
                             kind == Policy::Kind::major || kind == Policy::Kind::all;
        return pattern || (version && read_shape(watch_->tag->name).ordered());
    }

    bool unlisted() {
        if (parts_.listings == nullptr || !takes_other_names()) return false;
        const Tag& tag = *watch_->tag;
        const Listing* list = parts_.listings->find(tag.registry, tag.repository);
        if (list == nullptr || list->failure.empty()) return false;
        const bool late = !list->known() || is_late(list->at);
        return late && say("list-unreadable",
                           "keel.sh/policy: " + settings_->policy.value +
                               " needs the list of tags of " + tag.registry + "/" + tag.repository +
                               ", which cannot be read: " + list->failure,
                           "mend the way to the list; the digest of the tag is followed meanwhile");
    }

    // Its nodes ask somebody else: the caches neither see what they pull nor can hold it. Only a
    // kubelet that must ask at every start tells; what passes under a hold is not seen.
    bool bypassed(const CatalogueEntry& entry, const Container& container) {
        const Tag& tag = *watch_->tag;
        const TagInfo* info = parts_.tags.find(tag);
        if (info == nullptr || info->no_kubelet_since == Time{} ||
            info->held_at > info->no_kubelet_since || container.pull != PullPolicy::always ||
            watch_->reference.find('@') != std::string::npos) {
            return false;
        }
        const auto image =
            std::ranges::max_element(entry.running.images, {}, [&](const RunningImage& one) {
                const bool own = one.container == container.name && one.init == container.init;
                return own ? one.started : Time{};
            });
        if (image == entry.running.images.end() || image->container != container.name ||
            image->started > parts_.tags.traffic_read_at() ||
            image->started < info->no_kubelet_since + kPullTakes) {
            return false;
        }
        return say("bypassed",
                   "a container started at " + format_time(image->started) +
                       ", and no kubelet has asked a cache for " + tag.to_string() + " since " +
                       format_time(info->no_kubelet_since),
                   "see that the nodes' hosts.toml names the cache, and why they went past it: "
                   "its access log, and containerd's journal");
    }

    // Versions stand still by nature.
    bool abandoned() {
        const Tag& tag = *watch_->tag;
        const Shape shape = read_shape(tag.name).shape;
        const bool moves = shape == Shape::channel || shape == Shape::floating;
        const TagInfo* info = parts_.tags.find(tag);
        const auto all = moves_.find({tag.registry, tag.repository});
        if (!moves || takes_other_names() || info == nullptr || all == moves_.end() ||
            now_ < info->since + kStandsStill) {
            return false;
        }
        std::size_t count = 0;
        const Move* last = nullptr;
        for (const Move& move : all->second) {
            if (*move.tag == tag || move.at <= info->since) continue;
            ++count;
            if (last == nullptr || move.at > last->at) last = &move;
        }
        return count >= kSiblingMoves &&
               say("abandoned",
                   tag.to_string() + " has stood still since " + format_time(info->since) +
                       ", while other tags of its repository moved " + std::to_string(count) +
                       " times, " + last->tag->name + " at " + format_time(last->at),
                   "name a tag that its publisher still moves");
    }

    [[nodiscard]] bool is_late(Time confirmed) const {
        return now_ > last_chance(settings_->poll_schedule.parsed, confirmed, zone_);
    }

    const WatchParts& parts_;
    const Time now_;
    const Zone zone_;
    const std::map<Repository, std::vector<Move>> moves_;
    const WorkloadSettings* settings_ = nullptr;
    Watch* watch_ = nullptr;
};

}  // namespace

void each_watch(const WatchParts& parts, Time now, const std::function<void(const Watch&)>& each) {
    Examiner examiner(parts, now);
    for (const auto& [key, entry] : parts.catalogue.workloads()) {
        const Namespace* ns = parts.catalogue.find_namespace(key.ns);
        if (!standing_of(entry.object, ns, parts.config, parts.phases).ours) {
            continue;
        }
        const auto shared = shared_settings_of(entry.object, ns, parts.config);
        const WorkloadSettings& settings = *shared;
        for (std::size_t i = 0; i < entry.references.size(); ++i) {
            const Container& container = entry.object.containers[i];
            if (!settings.monitors(container.own_name())) {
                continue;
            }
            Watch watch;
            watch.workload = key;
            watch.container = container.name;
            watch.init = container.init;
            watch.reference = container.image;
            watch.schedule = settings.poll_schedule.value;
            const Expected<Reference>& reference = entry.references[i];
            if (!reference) {
                watch.state = "reference-invalid";
                watch.sentence = reference.error().text;
                watch.next = "mend the image field";
                each(watch);
                continue;
            }
            watch.tag = reference->tag();
            if (!watch.tag) {
                continue;  // a digest and no tag: there is nothing to watch
            }
            if (const TagInfo* info = parts.tags.find(*watch.tag)) {
                watch.confirmed = info->heard_at();
            }
            examiner.examine(entry, container, settings, watch);
            each(watch);
        }
    }
}

const std::map<std::string, std::size_t>& WatchCounts::of(const WatchParts& parts, Time now) {
    const std::uint64_t revision = parts.catalogue.revision();
    const bool fresh = !states_.empty() && revision == revision_ && now >= counted_ &&
                       now - counted_ < kCountedFor;
    if (!fresh) {
        states_ = {{"fine", 0}};
        each_watch(parts, now, [this](const Watch& watch) { ++states_[watch.state]; });
        revision_ = revision;
        counted_ = now;
    }
    return states_;
}

}  // namespace keel
