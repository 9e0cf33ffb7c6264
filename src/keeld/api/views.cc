#include "keeld/api/views.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <tuple>
#include <utility>

#include "core/tag_shape.h"
#include "core/verdict_words.h"
#include "keeld/api/pins.h"
#include "keeld/api/report.h"
#include "keeld/json.h"

namespace keel {
namespace {

constexpr std::chrono::minutes kWorthTelling{1};

json_t* time_or_null(Time time) {
    return time == Time{} ? json_null() : json_text(format_time(time));
}

void set(json_t* object, const char* key, std::string_view text) {
    json_object_set_new(object, key, json_text(text));
}

void set_or_null(json_t* object, const char* key, std::string_view text) {
    json_object_set_new(object, key, json_text_or_null(text));
}

void set_number(json_t* object, const char* key, std::int64_t number) {
    json_object_set_new(object, key, json_integer(number));
}

ApiResponse answer(const Json& root) {
    ApiResponse response;
    response.body = dump_json(root.get());
    return response;
}

Json page(json_t* items, const std::string& next) {
    Json root(json_object());
    json_object_set_new(root.get(), "items", items);
    json_object_set_new(root.get(), "next", json_text_or_null(next));
    return root;
}

int limit_of(const ApiRequest& request) {
    int limit = 100;
    if (const auto text = request.parameter("limit")) {
        std::from_chars(text->data(), text->data() + text->size(), limit);
    }
    return std::clamp(limit, 1, 1000);
}

json_t* rate_text(const Rate& rate) {
    if (rate.count == 0) {
        return json_text("unlimited");
    }
    return json_text(std::to_string(rate.count) + " per " + format_duration(rate.per));
}

json_t* targets_array(const std::string& text) {
    Json list = parse_json(text);
    return list ? list.release() : json_array();
}

Json rollout_object(const RolloutRow& row) {
    Json object(json_object());
    set(object.get(), "id", row.id);
    set(object.get(), "workload", row.workload);
    set(object.get(), "uid", row.uid);
    set(object.get(), "state", row.state);
    set_or_null(object.get(), "reason", row.reason);
    set_or_null(object.get(), "text", row.text);
    json_object_set_new(object.get(), "targets", targets_array(row.targets));
    set_number(object.get(), "attempt", row.attempt);
    set_or_null(object.get(), "cause", row.cause);
    json_object_set_new(object.get(), "created", time_or_null(row.created));
    json_object_set_new(object.get(), "intended", time_or_null(row.intended));
    json_object_set_new(object.get(), "applied", time_or_null(row.applied));
    json_object_set_new(object.get(), "deadline", time_or_null(row.deadline));
    json_object_set_new(object.get(), "ended", time_or_null(row.ended));
    return object;
}

json_t* setting_object(const Setting& setting) {
    json_t* object = json_object();
    set(object, "value", setting.value);
    set(object, "layer", setting.layer);
    json_t* losers = json_array();
    for (const Setting::Loser& loser : setting.overridden) {
        json_t* item = json_object();
        set(item, "value", loser.value);
        set(item, "layer", loser.layer);
        if (!loser.note.empty()) {
            set(item, "note", loser.note);
        }
        json_array_append_new(losers, item);
    }
    json_object_set_new(object, "overridden", losers);
    return object;
}

// Each under its key's name, and what means nothing under "faults".
json_t* gate_object(const ClosedGate& gate) {
    json_t* item = json_object();
    set(item, "gate", to_string(gate.gate));
    json_object_set_new(item, "open", json_false());
    json_object_set_new(item, "until",
                        gate.until ? json_text(format_time(*gate.until)) : json_null());
    set(item, "text", gate.text);
    return item;
}

json_t* settings_object(const WorkloadSettings& settings) {
    json_t* object = json_object();
    const std::pair<const char*, const Setting&> all[] = {
        {"policy", settings.policy},
        {"matchTag", settings.match_tag},
        {"matchPreRelease", settings.match_pre_release},
        {"trigger", settings.trigger},
        {"pollSchedule", settings.poll_schedule},
        {"monitorContainers", settings.monitor_containers},
        {"initContainers", settings.init_containers},
        {"imageVolumes", settings.image_volumes},
        {"imagePullSecret", settings.image_pull_secret},
        {"step", settings.step},
        {"reverts", settings.reverts},
        {"minAge", settings.min_age},
        {"soak", settings.soak},
        {"reversible", settings.reversible},
        {"approvals", settings.approvals},
        {"approvalDeadline", settings.approval_deadline},
    };
    for (const auto& [name, setting] : all) {
        json_object_set_new(object, name, setting_object(setting));
    }
    json_t* faults = json_array();
    for (const WorkloadSettings::Fault& fault : settings.faults) {
        json_array_append_new(faults, json_text(fault.text));
    }
    json_object_set_new(object, "faults", faults);
    return object;
}

// A cache answers with what it has when its upstream fails, and does not say so (D5).
std::string marked(const std::string& source) {
    const bool first_hand = source.empty() || source.starts_with("upstream") ||
                            source == "look-up direct" || source.starts_with("webhook");
    return first_hand ? source : source + ", the cache's word";
}

// What is known of a repository's tags; those whose names have no order are told (D3).
json_t* list_object(const Listing* listing) {
    constexpr std::size_t kShown = 20;
    if (listing == nullptr) {
        return json_null();
    }
    json_t* object = json_object();
    json_object_set_new(object, "read", time_or_null(listing->at));
    set_number(object, "names", static_cast<std::int64_t>(listing->names.size()));
    json_object_set_new(object, "complete", json_boolean(listing->complete));
    set_or_null(object, "failure", listing->failure);
    std::int64_t count = 0;
    json_t* names = json_array();
    for (const std::string& name : listing->names) {
        if (read_shape(name).shape != Shape::other) {
            continue;
        }
        ++count;
        if (json_array_size(names) < kShown) {
            json_array_append_new(names, json_text(name));
        }
    }
    json_t* unordered = json_object();
    set_number(unordered, "count", count);
    json_object_set_new(unordered, "names", names);
    json_object_set_new(object, "unordered", unordered);
    return object;
}

json_t* running_array(const CatalogueEntry& entry, const Container& container) {
    json_t* list = json_array();
    for (const RunningImage& image : entry.running.images) {
        if (image.container != container.name || image.init != container.init) {
            continue;
        }
        json_t* item = json_object();
        set_or_null(item, "digest", image.digest);
        set_number(item, "pods", image.pods);
        set_or_null(item, "platform", image.platform);
        json_object_set_new(item, "since", time_or_null(entry.running.as_of));
        json_array_append_new(list, item);
    }
    return list;
}

// A hold as the caches have it; null where there is none.
json_t* held_object(const TagInfo* info) {
    if (info == nullptr || !info->held) {
        return json_null();
    }
    const Held& held = *info->held;
    json_t* object = json_object();
    set(object, "digest", held.digest.to_string());
    set(object, "author", held.author);
    set(object, "reason", held.reason);
    json_object_set_new(object, "since", time_or_null(held.since));
    json_object_set_new(object, "until", time_or_null(held.until));
    json_object_set_new(object, "everywhere", json_boolean(held.everywhere));
    set(object, "caches", held.caches);
    return object;
}

json_t* hold_at_cache(const Holds::AtCache& there) {
    json_t* item = json_object();
    set(item, "cache", there.cache);
    set(item, "state", there.state);
    set(item, "text", there.text);
    const std::optional<CacheHold>& listed = there.listed;
    set_or_null(item, "digest", listed ? listed->digest.to_string() : "");
    set_or_null(item, "author", listed ? listed->author : "");
    json_object_set_new(
        item, "verified",
        time_or_null(listed && there.state == "foreign" ? listed->verified : there.verified));
    for (const auto& [key, value] : {std::pair{"answers", listed ? listed->answers : 0},
                                     std::pair{"unfetchable", listed ? listed->unfetchable : 0},
                                     std::pair{"ineffective", listed ? listed->ineffective : 0}}) {
        set(item, key, std::to_string(value));
    }
    return item;
}

json_t* hold_object(const Holds::View& view, const TagInfo* info) {
    const HoldRow& row = view.hold;
    json_t* object = json_object();
    set(object, "tag", row.tag);
    set(object, "digest", row.digest);
    set(object, "author", row.author);
    set_or_null(object, "owner", view.owner);
    json_object_set_new(object, "own", json_boolean(view.own));
    set(object, "reason", row.reason);
    json_object_set_new(object, "since", time_or_null(row.since));
    json_object_set_new(object, "until", time_or_null(row.until));
    json_object_set_new(object, "forced", json_boolean(row.forced));
    json_object_set_new(object, "lifted", time_or_null(row.lifted));
    set_or_null(object, "newest", info != nullptr ? info->current.to_string() : "");
    json_t* caches = json_array();
    for (const Holds::AtCache& there : view.caches) {
        json_array_append_new(caches, hold_at_cache(there));
    }
    json_object_set_new(object, "caches", caches);
    return object;
}

// One way to a registry: what was asked, and what keeps keeld from asking now.
json_t* way_object(const RegistryState& state, Time now) {
    json_t* way = json_object();
    set(way, "by", state.source);
    for (const auto& [key, count] :
         {std::pair{"requests", state.requests}, std::pair{"pulls", state.pulls},
          std::pair{"postponed", state.postponed}, std::pair{"failures", state.failures}}) {
        set(way, key, std::to_string(count));
    }
    set(way, "circuit", state.circuit);
    set_or_null(way, "failure", state.failure);
    json_t* waits = json_null();
    if (!state.waits.empty()) {
        waits = json_object();
        set(waits, "code", state.waits);
        set(waits, "text", state.waits_text);
        set(waits, "until", format_time(now + state.wait));
        json_object_set_new(waits, "pulls_only", json_boolean(state.pulls_only));
    }
    json_object_set_new(way, "waits", waits);
    json_t* limit = json_null();
    if (state.remaining) {
        limit = json_object();
        json_object_set_new(
            limit, "limit",
            state.limit ? json_integer(static_cast<json_int_t>(*state.limit)) : json_null());
        set_number(limit, "remaining", static_cast<std::int64_t>(*state.remaining));
        set(limit, "window", format_duration(state.window));
        set_or_null(limit, "source", state.counted);
        set(limit, "told_by", state.told_by);
    }
    json_object_set_new(way, "rate_limit", limit);
    return way;
}

// Where a hold stands in the list, whatever comes and goes between two pages: own ones first, in
// the order of their tags; of others' holds of one tag by owner and digest.
using HoldPlace = std::tuple<bool, Tag, std::string>;

HoldPlace place_of(const Holds::View& view) {
    return {!view.own, Tag::parse(view.hold.tag).value_or(Tag{}),
            view.own ? "" : view.owner + " " + view.hold.digest};
}

// "own TAG", "other TAG OWNER DIGEST": the parameter `after`.
std::string to_text(const HoldPlace& place) {
    const auto& [other, tag, owner] = place;
    return other ? "other " + tag.to_string() + " " + owner : "own " + tag.to_string();
}

std::optional<HoldPlace> parse_place(const std::string& text) {
    const std::size_t space = text.find(' ');
    const std::size_t end = std::min(text.find(' ', space + 1), text.size());
    const bool other = text.starts_with("other ");
    if (!other && (!text.starts_with("own ") || end != text.size())) {
        return std::nullopt;
    }
    const Expected<Tag> tag = Tag::parse(text.substr(space + 1, end - space - 1));
    if (!tag) {
        return std::nullopt;
    }
    return HoldPlace{other, *tag, end < text.size() ? text.substr(end + 1) : ""};
}

// What releases a block.
std::string release_of(Reason reason) {
    switch (reason) {
        case Reason::policy_invalid:
            return "mend the setting that the sentence names";
        case Reason::reference_invalid:
            return "mend the image field";
        case Reason::stateful:
            return "the annotation keel.sh/stateful: allow on the workload or its namespace";
        case Reason::operator_owned:
            return "the annotation keel.sh/operator-owned: allow on the workload or its namespace";
        case Reason::second_owner:
            return "change the image where the other writer declares it; or, where that leaves the "
                   "field alone, the annotation keel.sh/second-owner: allow on the workload or its "
                   "namespace";
        case Reason::pinned:
            return "remove the digest from the image field";
        case Reason::target_rejected:
            return "the next build of the tag; or keelctl retry, when it was not the build";
        case Reason::revert_unconfirmed:
            return "a second source: registries.*.upstream in keeld.yaml, asked every minute, or a "
                   "webhook that names the digest; or the tag's next move";
        case Reason::revert_refused:
            return "reverts: follow in keeld.yaml, or the tag's next move";
        case Reason::unknown_order:
            return "a pattern that names a group (?<compare>…), or another tag";
        case Reason::stream_unknown:
            return "a pattern that the running tag matches, too";
        case Reason::stream_jump:
            return "a pattern that names the stream, or keelctl approve of what keelctl approvals "
                   "lists for it";
        case Reason::older_build:
        case Reason::incomplete:
            return "the next build of the tags that the sentence names; they are looked at on the "
                   "schedule";
        case Reason::awaiting_webhook:
            return "keel.sh/trigger: poll";
        case Reason::rollout_stalled:
            return "the cluster finishing it, the tag's next move, or keelctl retry";
        case Reason::restart_cannot_pull:
            return "imagePullPolicy: Always";
        case Reason::target_not_pullable:
        case Reason::no_answer:
            return "the cache answering; it is asked again";
        case Reason::held_at_cache:
            return "every cache holding the tag, or none: keelctl holds";
        case Reason::on_delete:
            return "another update strategy, or deleting the pods by hand";
        case Reason::partitioned:
            return "removing the partition";
        case Reason::deployment_paused:
            return "resuming the Deployment";
        case Reason::scaled_to_zero:
            return "nothing: its next start pulls";
        case Reason::sibling_blocked:
            return "what releases the container that the sentence names";
        case Reason::no_baseline:
            return "its pods starting, or being read; nothing has to be done";
        default:
            return "";
    }
}

// What a person can do about a verdict, or what keeld does next by itself.
std::string next_step(const WorkloadVerdict& verdict, const std::vector<ClosedGate>& gates,
                      const std::optional<RolloutRow>& rollout) {
    if (rollout && rollout->state != "waiting") {
        return "rollout " + rollout->id + " is " + rollout->state;
    }
    if (!verdict.targets.empty() && !gates.empty()) {
        return std::string(to_string(gates.front().gate)) + ": " + gates.front().text;
    }
    switch (verdict.verdict) {
        case Verdict::roll:
            return "it is restarted next";
        case Verdict::current:
            if (verdict.reason == Reason::held) {
                return "nothing until the hold ends: keelctl release lifts it";
            }
            return "nothing; the tag is looked at again on its schedule";
        case Verdict::ignore:
            return "nothing";
        case Verdict::blocked:
            return verdict.reason == Reason::too_young && verdict.recheck
                       ? "judged again " + format_time(*verdict.recheck)
                       : release_of(verdict.reason);
    }
    return "";
}

json_t* counts_object(const Assessment& found) {
    json_t* object = json_object();
    for (const auto& [key, count] :
         {std::pair{"workloads", found.workloads}, std::pair{"followed", found.followed},
          std::pair{"newest", found.newest}, std::pair{"on_the_way", found.on_the_way},
          std::pair{"pinned_out", found.pinned_out}, std::pair{"apart", found.apart},
          std::pair{"unknown", found.unknown}}) {
        set_number(object, key, count);
    }
    json_t* reasons = json_object();
    for (const auto& [reason, count] : found.reasons) {
        set_number(reasons, reason.c_str(), count);
    }
    json_object_set_new(object, "reasons", reasons);
    return object;
}

json_t* phase_object(const Phases::View& view) {
    const PhaseRecord& record = view.record;
    json_t* object = json_object();
    set(object, "name", record.name);
    set(object, "state", view.configured ? to_string(record.effective()) : "gone");
    set(object, "stage", view.stage);
    set(object, "text", view.text);
    for (const auto& [key, time] :
         {std::pair{"begun", record.begun}, std::pair{"soaking", record.soaking},
          std::pair{"until", view.until}, std::pair{"accepted", record.accepted},
          std::pair{"completed", record.completed}, std::pair{"paused", record.paused}}) {
        json_object_set_new(object, key, time_or_null(time));
    }
    set_or_null(object, "completed_by", record.completed_by);
    set_or_null(object, "paused_by", record.paused_by);
    set_or_null(object, "paused_reason", record.paused_reason);
    set_or_null(object, "violation", record.violation);
    set_number(object, "violations", record.violations);
    json_object_set_new(object, "counts",
                        view.assessment ? counts_object(*view.assessment) : json_null());
    return object;
}

json_t* phases_array(const Phases* plan) {
    json_t* list = json_array();
    if (plan != nullptr) {
        for (const Phases::View& view : plan->views()) {
            json_array_append_new(list, phase_object(view));
        }
    }
    return list;
}

// "2 tags …: one (why), another (why)", a sentence however many there are.
template <class Key>
std::string some_of(const std::map<Key, std::string>& all, const std::string& one,
                    const std::string& several) {
    constexpr std::size_t kNamed = 5;
    std::string text = std::to_string(all.size()) + " " + (all.size() == 1 ? one : several) + ": ";
    std::size_t named = 0;
    for (const auto& [key, why] : all) {
        if (++named > kNamed) {
            return text + " and " + std::to_string(all.size() - kNamed) + " more";
        }
        text += (named > 1 ? ", " : "") + key.to_string() + " (" + why + ")";
    }
    return text;
}

}  // namespace

Views::Views(Parts parts) : parts_(std::move(parts)) {}

void Views::add_problem(std::vector<Problem>& now, std::string code, std::string text,
                        std::string next) {
    const auto before = std::ranges::find_if(problems_, [&](const Problem& one) {
        const bool each = code == "tag-unanswered" || code == "phase-conflict" ||
                          code.starts_with("hold-") || code.starts_with("registry-");
        return one.code == code && (one.text == text || !each);
    });
    const Time since = before != problems_.end() ? before->since : parts_.clock.now();
    now.push_back(Problem{std::move(code), std::move(text), since, std::move(next)});
}

const std::vector<Problem>& Views::problems() {
    std::vector<Problem> now;
    if (!parts_.ledger.problem().empty()) {
        add_problem(
            now, "ledger-not-writable", parts_.ledger.problem(),
            "nothing is started until it can be written; make room or mend its permissions");
    }
    if (parts_.ledger_lost()) {
        add_problem(now, "ledger-lost",
                    "the Lease remembers another ledger than this one; keeld only observes",
                    "bring the old ledger back, or delete the annotation keel.sh/ledger of the "
                    "Lease and restart");
    }
    for (const auto& [what, text] : parts_.cluster_problems()) {
        add_problem(now, "cluster-unreachable", what + ": " + text, "tried again with back-off");
    }
    if (parts_.planner != nullptr && !parts_.planner->baseline_problem().empty()) {
        add_problem(now, "baseline-incomplete", parts_.planner->baseline_problem(),
                    "tried again every 5 s");
    }
    if (parts_.lease != nullptr && parts_.config.mode == Mode::act && !parts_.lease->held()) {
        const std::string holder = parts_.lease->holder();
        add_problem(now, "not-leader",
                    parts_.lease->problem().empty()
                        ? "the Lease is held by " + (holder.empty() ? "nobody yet" : holder)
                        : parts_.lease->problem(),
                    "nothing is written until this keeld holds the Lease");
    }
    for (const CacheFeed::State& cache : parts_.feed.states()) {
        if (!cache.problem.empty()) {
            add_problem(now, "cache-unreachable", "cache " + cache.name + ": " + cache.problem,
                        "read again with back-off; look-ups and other caches go on");
        }
        if (!cache.unreadable.empty()) {
            add_problem(now, "cache-unreadable", "cache " + cache.name + ": " + cache.unreadable,
                        "run keeld and the nginx module in one version; look-ups go on");
        }
    }
    for (const auto& [base, tag] : parts_.registry.holding_lookups()) {
        add_problem(now, "lookup-held",
                    base + " answers " + tag +
                        " from a hold: caches[].lookup names a server that "
                        "nodes pull from, and what it says is not used",
                    "name a server block of its own there, with keel_hold off");
    }
    for (const RegistryState& state : parts_.registry.budget().states()) {
        if (state.waits.empty() || (state.waits == "budget" && state.wait < kWorthTelling)) {
            continue;
        }
        const std::string then = format_time(parts_.clock.now() + state.wait);
        const bool open = state.waits == "circuit-open";
        const std::string next =
            open ? "one request tries it again at " + then + ", and the first answer is enough"
            : state.waits == "budget"
                ? "the next is sent at " + then + "; keeld.yaml says how many may be"
                : "it is left alone until " + then;
        add_problem(now, "registry-" + std::string(open ? "failing" : state.waits),
                    state.waits_text,
                    (state.pulls_only ? "look-ups go on; for pulls " : "") + next);
    }
    for (Holds::Trouble& trouble : parts_.holds.problems()) {
        add_problem(now, std::move(trouble.code), std::move(trouble.text), std::move(trouble.next));
    }
    for (const auto& [tag, info] : parts_.tags.all()) {
        const bool gone = info.failure_code == "not-found" && parts_.schedule != nullptr &&
                          parts_.schedule->gone().contains(tag);
        if (!info.failure.empty() && !gone && parts_.planner != nullptr &&
            parts_.planner->in_use(tag)) {
            add_problem(now, "tag-unanswered", tag.to_string() + ": " + info.failure,
                        "asked again with back-off");
        }
    }
    if (parts_.schedule != nullptr && !parts_.schedule->gone().empty()) {
        add_problem(
            now, "tag-gone",
            some_of(parts_.schedule->gone(), "tag that is in use is not in the registry any more",
                    "tags that are in use are not in the registry any more"),
            "a restart may find nothing to pull; name a tag that is there, or bring it "
            "back");
    }
    if (parts_.planner != nullptr && !parts_.planner->faulty().empty()) {
        add_problem(now, "setting-invalid",
                    some_of(parts_.planner->faulty(), "workload has a setting that means nothing",
                            "workloads have settings that mean nothing"),
                    "write it as the text says; keelctl why WORKLOAD has all of them");
    }
    if (parts_.gates != nullptr && parts_.gates->breaker().opened != Time{}) {
        add_problem(now, "breaker-open", parts_.gates->breaker().text,
                    "no rollout starts; look at what failed, then keelctl resume cluster");
    }
    if (const std::string why = parts_.config_problem ? parts_.config_problem() : "";
        !why.empty()) {
        add_problem(now, "configuration-refused", parts_.config.path + ": " + why,
                    "the one before stays in force; mend the file and send SIGHUP again");
    }
    std::set<std::string> too_large;  // groups, each by its sentence
    for (const RolloutRow& row : parts_.rollouts != nullptr && !parts_.config.groups.empty()
                                     ? parts_.rollouts->all_active()
                                     : std::vector<RolloutRow>{}) {
        if (row.reason == to_string(Gate::group_exceeds_pacing)) {
            too_large.insert(row.text);
        }
    }
    for (const std::string& text : too_large) {
        add_problem(now, std::string(to_string(Gate::group_exceeds_pacing)), text,
                    "it waits until somebody lets it go, or pacing allows as many");
    }
    if (const std::map<WorkloadKey, std::string> parted =
            parts_.rollouts != nullptr ? parts_.rollouts->parted()
                                       : std::map<WorkloadKey, std::string>{};
        !parted.empty()) {
        add_problem(now, "group-parted",
                    some_of(parted, "workload lacks what others of its group have",
                            "workloads lack what others of their groups have"),
                    "it is tried again by itself; keelctl why WORKLOAD tells what it waits for");
    }
    if (parts_.restores != nullptr && !parts_.restores->stuck().empty()) {
        add_problem(now, "restore-stuck",
                    some_of(parts_.restores->stuck(), "workload failed and cannot go back",
                            "workloads failed and cannot go back"),
                    "tried again every five minutes; keelctl hold TAG --at DIGEST, or another "
                    "image, brings it back by hand");
    }
    if (parts_.stamper != nullptr && !parts_.stamper->fought().empty()) {
        add_problem(
            now, "stamp-fought",
            some_of(parts_.stamper->fought(), "workload keeps no stamp", "workloads keep no stamp"),
            "left alone until keeld.yaml is read again (SIGHUP); let that writer ignore "
            "keel.sh/*, or switch `stamp` off");
    }
    if (parts_.stamper != nullptr && !parts_.stamper->refused().empty()) {
        add_problem(now, "stamp-refused",
                    some_of(parts_.stamper->refused(), "workload's stamp is refused",
                            "workloads' stamps are refused"),
                    "tried again with back-off; keeld's role needs the right to patch "
                    "(rbac.yaml), and admission policies must let it");
    }
    if (const std::size_t count = parts_.approvals != nullptr ? parts_.approvals->pending() : 0;
        count > 0) {
        add_problem(now, "approval-awaited",
                    std::to_string(count) +
                        (count == 1 ? " rollout waits for votes" : " rollouts wait for votes"),
                    "keelctl approvals lists what is asked for; approve or reject it");
    }
    if (parts_.plan != nullptr) {
        for (const auto& [ns, phases] : parts_.plan->conflicts()) {
            add_problem(now, "phase-conflict",
                        "namespace " + ns + " belongs to the phases " + phases,
                        "nothing moves there until one of them lets go of it");
        }
    }
    problems_ = std::move(now);
    return problems_;
}

// What people and the breaker keep from starting, and what carries stamps.
void Views::add_gates(json_t* root) const {
    json_t* pauses = json_array();
    json_t* breaker = json_null();
    if (parts_.gates != nullptr) {
        for (const Gates::Pause& pause : parts_.gates->pauses()) {
            json_t* item = json_object();
            set(item, "on", pause.on);
            set(item, "author", pause.author);
            set_or_null(item, "reason", pause.reason);
            set(item, "since", format_time(pause.since));
            json_array_append_new(pauses, item);
        }
        const Gates::Breaker now = parts_.gates->breaker();
        breaker = json_object();
        json_object_set_new(breaker, "open", json_boolean(now.opened != Time{}));
        json_object_set_new(breaker, "opened", time_or_null(now.opened));
        set_number(breaker, "failures", now.failures);
        set_number(breaker, "counted", now.counted);
        set_or_null(breaker, "text", now.text);
    }
    json_t* stamp = json_null();
    if (parts_.stamper != nullptr) {
        stamp = json_object();
        json_object_set_new(stamp, "enabled", json_boolean(parts_.config.stamp));
        set_number(stamp, "stamped", static_cast<std::int64_t>(parts_.stamper->stamped()));
        set_number(stamp, "waiting", static_cast<std::int64_t>(parts_.stamper->waiting()));
    }
    json_object_set_new(root, "stamp", stamp);
    json_object_set_new(root, "pauses", pauses);
    json_object_set_new(root, "breaker", breaker);
}

ApiResponse Views::plan() {
    if (parts_.rollouts == nullptr) {
        return api_error(404, "no-cluster", "keeld runs without a cluster: nothing is planned");
    }
    const Json root(json_object());
    json_t* items = json_array();
    for (const Rollouts::Pending& pending : parts_.rollouts->pending()) {
        json_t* item = json_object();
        set(item, "workload", pending.row.workload);
        json_object_set_new(item, "targets", json_loads(pending.row.targets.c_str(), 0, nullptr));
        set(item, "since", format_time(pending.row.created));
        set_number(item, "priority", pending.priority);
        json_t* gates = json_array();
        for (const ClosedGate& gate : pending.closed) {
            json_array_append_new(gates, gate_object(gate));
        }
        json_object_set_new(item, "gates", gates);
        json_object_set_new(
            item, "earliest",
            pending.earliest ? json_text(format_time(*pending.earliest)) : json_null());
        json_array_append_new(items, item);
    }
    json_object_set_new(root.get(), "items", items);
    json_object_set_new(root.get(), "next", json_null());
    return answer(root);
}

ApiResponse Views::status() {
    const Json root(json_object());
    set(root.get(), "mode", parts_.config.mode == Mode::act ? "act" : "observe");
    set(root.get(), "version", KEEL_VERSION);
    json_object_set_new(root.get(), "ready", json_boolean(parts_.ready()));
    if (parts_.lease != nullptr) {
        json_t* leader = json_object();
        json_object_set_new(leader, "held", json_boolean(parts_.lease->held()));
        set_or_null(leader, "holder", parts_.lease->holder());
        json_object_set_new(root.get(), "leader", leader);
    } else {
        json_object_set_new(root.get(), "leader", json_null());
    }
    json_t* caches = json_array();
    for (const CacheFeed::State& state : parts_.feed.states()) {
        json_t* cache = json_object();
        set(cache, "name", state.name);
        set_or_null(cache, "epoch", state.epoch);
        set(cache, "seq", std::to_string(state.seq));
        json_object_set_new(cache, "last_event", time_or_null(state.last_event));
        json_object_set_new(cache, "last_resync", time_or_null(state.last_resync));
        set_or_null(cache, "problem", state.problem);
        json_array_append_new(caches, cache);
    }
    json_object_set_new(root.get(), "caches", caches);
    json_t* holds = json_array();
    for (const Holds::View& view : parts_.holds.all()) {
        json_t* hold = json_object();
        set(hold, "tag", view.hold.tag);
        set(hold, "digest", view.hold.digest);
        set(hold, "author", view.hold.author);
        set(hold, "reason", view.hold.reason);
        json_object_set_new(hold, "until", time_or_null(view.hold.until));
        const Expected<Tag> tag = Tag::parse(view.hold.tag);
        const TagInfo* info = tag ? parts_.tags.find(*tag) : nullptr;
        set_or_null(hold, "newest", info != nullptr ? info->current.to_string() : "");
        std::string caches;
        for (const Holds::AtCache& there : view.caches) {
            caches += (caches.empty() ? "" : ", ") + there.cache +
                      (there.state == "held" ? "" : " (" + there.state + ")");
        }
        set(hold, "caches", caches);
        json_array_append_new(holds, hold);
    }
    json_object_set_new(root.get(), "holds", holds);
    json_t* registries = json_object();
    for (const auto& [name, registry] : parts_.config.registries) {
        json_t* item = json_object();
        set_or_null(item, "through", registry.through);
        set_or_null(item, "direct", registry.direct);
        set_or_null(item, "upstream", registry.upstream);
        json_object_set_new(item, "requests", rate_text(registry.requests));
        json_object_set_new(item, "pulls", rate_text(registry.pulls));
        json_object_set_new(item, "reserve", json_real(registry.reserve));
        json_object_set_new(item, "ways", json_array());
        json_object_set_new(registries, name.c_str(), item);
    }
    for (const RegistryState& state : parts_.registry.budget().states()) {
        json_t* item = json_object_get(registries, state.registry.c_str());
        if (item == nullptr) {  // by a cache that is asked for any registry
            item = json_pack("{s:n,s:n,s:n,s:s,s:s,s:f,s:[]}", "through", "direct", "upstream",
                             "requests", "unlimited", "pulls", "unlimited", "reserve",
                             RegistryConfig().reserve, "ways");
            json_object_set_new(registries, state.registry.c_str(), item);
        }
        json_array_append_new(json_object_get(item, "ways"), way_object(state, parts_.clock.now()));
    }
    json_object_set_new(root.get(), "registries", registries);
    json_t* cluster = json_object();
    set_number(cluster, "namespaces",
               static_cast<std::int64_t>(parts_.catalogue.namespaces().size()));
    set_number(cluster, "workloads",
               static_cast<std::int64_t>(parts_.catalogue.workloads().size()));
    set_number(cluster, "tags", static_cast<std::int64_t>(parts_.catalogue.by_tag().size()));
    json_object_set_new(cluster, "baseline",
                        json_boolean(parts_.planner != nullptr && parts_.planner->baseline_done()));
    json_object_set_new(root.get(), "cluster", cluster);
    json_t* ledger = json_object();
    set(ledger, "id", parts_.ledger.id());
    set(ledger, "path", parts_.config.ledger_path);
    set_number(ledger, "queued", static_cast<std::int64_t>(parts_.ledger.queued()));
    set_or_null(ledger, "problem", parts_.ledger.problem());
    json_object_set_new(root.get(), "ledger", ledger);
    json_t* pacing = json_object();
    json_object_set_new(pacing, "cluster", rate_text(parts_.config.pacing.cluster));
    json_object_set_new(pacing, "namespace", rate_text(parts_.config.pacing.ns));
    const int concurrent = parts_.config.pacing.concurrent;
    json_object_set_new(pacing, "concurrent",
                        concurrent > 0 ? json_integer(concurrent) : json_text("unlimited"));
    if (parts_.rollouts != nullptr) {
        const auto free = parts_.rollouts->pacing().next_free("", parts_.clock.now());
        set_number(pacing, "used", parts_.rollouts->pacing().used(parts_.clock.now()));
        json_object_set_new(pacing, "next_free",
                            free ? json_text(format_time(*free)) : json_null());
    }
    json_object_set_new(root.get(), "pacing", pacing);
    add_gates(root.get());
    json_object_set_new(root.get(), "phases", phases_array(parts_.plan));
    json_t* list = json_array();
    for (const Problem& problem : problems()) {
        json_t* item = json_object();
        set(item, "code", problem.code);
        set(item, "text", problem.text);
        json_object_set_new(item, "since", time_or_null(problem.since));
        set(item, "next", problem.next);
        json_array_append_new(list, item);
    }
    json_object_set_new(root.get(), "problems", list);
    return answer(root);
}

Json Views::workload_summary(const CatalogueEntry& entry, const WorkloadVerdict& verdict) const {
    Json object(json_object());
    set(object.get(), "workload", entry.object.key.to_string());
    set(object.get(), "uid", entry.object.uid);
    set_or_null(object.get(), "enrolled_by", verdict.standing.enrolled_by);
    set(object.get(), "verdict", to_string(verdict.verdict));
    set(object.get(), "reason", to_string(verdict.reason));
    json_t* containers = json_array();
    for (std::size_t i = 0; i < entry.object.containers.size(); ++i) {
        json_t* item = json_object();
        set(item, "name", entry.object.containers[i].name);
        set(item, "reference", entry.object.containers[i].image);
        set(item, "verdict", to_string(verdict.containers[i].verdict));
        set(item, "reason", to_string(verdict.containers[i].reason));
        json_array_append_new(containers, item);
    }
    json_object_set_new(object.get(), "containers", containers);
    return object;
}

ApiResponse Views::workloads(const ApiRequest& request) {
    if (parts_.planner == nullptr) {
        return answer(page(json_array(), ""));
    }
    const std::string ns = request.parameter("namespace").value_or("");
    const std::string wanted = request.parameter("verdict").value_or("");
    const std::string reason = request.parameter("reason").value_or("");
    if (!wanted.empty() && !parse_verdict(wanted)) {
        return api_error(400, "bad-parameter",
                         "verdict: \"" + wanted + "\" is none of " + known_verdicts());
    }
    if (!reason.empty() && !parse_reason(reason)) {
        return api_error(400, "bad-parameter",
                         "reason: \"" + reason + "\" is none of " + known_reasons());
    }
    const std::string after = request.parameter("after").value_or("");
    const int limit = limit_of(request);
    auto at = parts_.catalogue.workloads().begin();
    if (!after.empty()) {
        const Expected<WorkloadKey> key = WorkloadKey::parse(after);
        if (!key) {
            return api_error(400, key.error().code, key.error().text);
        }
        at = parts_.catalogue.workloads().upper_bound(*key);
    }
    json_t* items = json_array();
    std::string last;
    for (; at != parts_.catalogue.workloads().end(); ++at) {
        const auto& [key, entry] = *at;
        if (!ns.empty() && key.ns != ns) {
            continue;
        }
        const WorkloadVerdict verdict = parts_.planner->verdict(entry);
        const bool fits = (wanted.empty() || wanted == to_string(verdict.verdict)) &&
                          (reason.empty() || reason == to_string(verdict.reason));
        if (!fits) {
            continue;
        }
        if (static_cast<int>(json_array_size(items)) == limit) {
            return answer(page(items, last));
        }
        json_array_append_new(items, workload_summary(entry, verdict).release());
        last = key.to_string();
    }
    return answer(page(items, ""));
}

Json Views::container_detail(const CatalogueEntry& entry, std::size_t at,
                             const ContainerVerdict& verdict,
                             const WorkloadSettings& settings) const {
    const Container& container = entry.object.containers[at];
    Json object(json_object());
    set(object.get(), "name", container.name);
    json_object_set_new(object.get(), "init", json_boolean(container.init));
    json_object_set_new(object.get(), "volume", json_boolean(container.volume));
    set(object.get(), "reference", container.image);
    set_or_null(object.get(), "tag", verdict.tag ? verdict.tag->to_string() : "");
    json_object_set_new(object.get(), "running", running_array(entry, container));
    set(object.get(), "verdict", to_string(verdict.verdict));
    set(object.get(), "reason", to_string(verdict.reason));
    set(object.get(), "sentence", verdict.sentence);
    json_t* target = json_null();
    if (verdict.target && verdict.verdict == Verdict::roll) {
        target = json_object();
        set(target, "name", verdict.target->tag.name);
        set(target, "digest", verdict.target->to.to_string());
        set_or_null(target, "image", verdict.target->image);
    }
    json_object_set_new(object.get(), "target", target);
    const TagInfo* info = verdict.tag ? parts_.tags.find(*verdict.tag) : nullptr;
    const Listing* listing =
        verdict.tag && parts_.listings != nullptr
            ? parts_.listings->find(verdict.tag->registry, verdict.tag->repository)
            : nullptr;
    const auto named = [&](const std::string& name) -> json_t* {
        if (!verdict.tag || name.empty()) {
            return json_null();
        }
        Tag tag = *verdict.tag;
        tag.name = name;
        const TagInfo* known = parts_.tags.find(tag);
        const bool answered = known != nullptr && !known->current.empty();
        json_t* item = json_object();
        set(item, "name", name);
        set_or_null(item, "digest", answered ? known->current.to_string() : "");
        json_object_set_new(item, "seen",
                            time_or_null(answered             ? known->since
                                         : listing != nullptr ? listing->at
                                                              : Time{}));
        return item;
    };
    const bool current = verdict.newest.empty() && info != nullptr && !info->current.empty();
    json_object_set_new(object.get(), "newest", named(current ? info->tag.name : verdict.newest));
    json_object_set_new(object.get(), "allowed", named(verdict.allowed));
    json_object_set_new(object.get(), "list", list_object(listing));
    json_object_set_new(object.get(), "hold", held_object(info));
    json_object_set_new(object.get(), "settings", settings_object(settings));
    json_t* freshness = json_object();
    json_object_set_new(freshness, "confirmed",
                        info != nullptr ? time_or_null(info->heard_at()) : json_null());
    set_or_null(freshness, "by", info != nullptr ? marked(info->heard_by()) : "");
    set_or_null(freshness, "failure", info != nullptr ? info->failure : "");
    set_or_null(freshness, "code", info != nullptr ? info->failure_code : "");
    json_object_set_new(object.get(), "freshness", freshness);
    return object;
}

ApiResponse Views::workload(const std::string& text) {
    const Expected<WorkloadKey> key = WorkloadKey::parse(text);
    if (!key) {
        return api_error(400, key.error().code, key.error().text);
    }
    const CatalogueEntry* entry = parts_.catalogue.find(*key);
    if (entry == nullptr || parts_.planner == nullptr) {
        return api_error(404, "not-found", key->to_string() + " is not in the cluster");
    }
    const WorkloadVerdict verdict = parts_.planner->verdict(*entry);
    const std::optional<RolloutRow> rollout = parts_.rollouts->active(*key);
    const std::vector<ClosedGate> gates =
        verdict.targets.empty() ? std::vector<ClosedGate>{} : parts_.rollouts->gates(*key, verdict);
    const Json root(json_object());
    set(root.get(), "workload", key->to_string());
    set(root.get(), "uid", entry->object.uid);
    set_or_null(root.get(), "enrolled_by", verdict.standing.enrolled_by);
    set(root.get(), "verdict", to_string(verdict.verdict));
    set(root.get(), "reason", to_string(verdict.reason));
    set(root.get(), "sentence", verdict.sentence);
    set(root.get(), "next", next_step(verdict, gates, rollout));
    json_t* containers = json_array();
    for (std::size_t i = 0; i < verdict.containers.size(); ++i) {
        json_array_append_new(
            containers,
            container_detail(*entry, i, verdict.containers[i], *verdict.settings).release());
    }
    json_object_set_new(root.get(), "containers", containers);
    json_object_set_new(root.get(), "rollout",
                        rollout ? rollout_object(*rollout).release() : json_null());
    json_t* list = json_array();
    for (const ClosedGate& gate : gates) {
        json_array_append_new(list, gate_object(gate));
    }
    json_object_set_new(root.get(), "gates", list);
    return answer(root);
}

ApiResponse Views::tags(const ApiRequest& request) {
    std::vector<const TagInfo*> all;
    for (const auto& [tag, info] : parts_.tags.all()) {
        all.push_back(&info);
    }
    std::ranges::sort(all, [](const TagInfo* one, const TagInfo* other) {
        return std::pair(other->since, one->tag) < std::pair(one->since, other->tag);
    });
    const std::string after = request.parameter("after").value_or("");
    auto at = all.begin();
    if (!after.empty()) {
        at = std::ranges::find_if(
            all, [&after](const TagInfo* info) { return info->tag.to_string() == after; });
        at += at != all.end() ? 1 : 0;
    }
    json_t* items = json_array();
    const int limit = limit_of(request);
    std::string next;
    for (; at != all.end(); ++at) {
        if (static_cast<int>(json_array_size(items)) == limit) {
            next = (*std::prev(at))->tag.to_string();
            break;
        }
        const TagInfo& info = **at;
        json_t* item = json_object();
        set(item, "tag", info.tag.to_string());
        set_or_null(item, "digest", info.current.to_string());
        set(item, "kind", to_string(info.kind));
        json_object_set_new(item, "since", time_or_null(info.since));
        set_or_null(item, "pending", info.pending.to_string());
        json_object_set_new(item, "confirmed", time_or_null(info.heard_at()));
        set_or_null(item, "confirmed_by", info.heard_by());
        set_or_null(item, "failure", info.failure);
        set_or_null(item, "failure_code", info.failure_code);
        json_t* history = json_array();
        for (const auto& [digest, seen] : info.seen) {
            json_t* line = json_object();
            set(line, "digest", digest.to_string());
            json_object_set_new(line, "first_seen", time_or_null(seen.first));
            json_object_set_new(line, "last_seen", time_or_null(seen.last));
            set(line, "source", seen.source);
            json_object_set_new(line, "confirmed", json_boolean(seen.confirmed));
            json_array_append_new(history, line);
        }
        json_object_set_new(item, "history", history);
        json_object_set_new(item, "hold", held_object(&info));
        json_t* workloads = json_array();
        for (const WorkloadKey& key : parts_.catalogue.consumers(info.tag)) {
            json_array_append_new(workloads, json_text(key.to_string()));
        }
        json_object_set_new(item, "workloads", workloads);
        json_array_append_new(items, item);
    }
    return answer(page(items, next));
}

ApiResponse Views::holds(const ApiRequest& request) {
    std::optional<HoldPlace> after;
    if (const auto text = request.parameter("after"); text && !text->empty()) {
        after = parse_place(*text);
        if (!after) {
            return api_error(400, "bad-parameter",
                             "after: \"" + *text + "\" is not the `next` of a page of holds");
        }
    }
    json_t* items = json_array();
    std::string last;
    for (const Holds::View& view : parts_.holds.all()) {
        if (after && place_of(view) <= *after) {
            continue;
        }
        if (static_cast<int>(json_array_size(items)) == limit_of(request)) {
            return answer(page(items, last));
        }
        const Tag& tag = std::get<Tag>(place_of(view));
        json_array_append_new(items, hold_object(view, parts_.tags.find(tag)));
        last = to_text(place_of(view));
    }
    return answer(page(items, ""));
}

WatchParts Views::watch_parts() const {
    return WatchParts{parts_.config,
                      parts_.phases,
                      parts_.catalogue,
                      parts_.tags,
                      parts_.listings,
                      parts_.registry,
                      parts_.schedule != nullptr ? &parts_.schedule->gone() : nullptr};
}

ApiResponse Views::watches(const ApiRequest& request) {
    const bool all = request.parameter("all").value_or("") == "true";
    const std::string after = request.parameter("after").value_or("");
    std::size_t from = 0;
    std::from_chars(after.data(), after.data() + after.size(), from);
    const std::size_t end = from + static_cast<std::size_t>(limit_of(request));
    std::size_t at = 0;
    json_t* items = json_array();
    each_watch(watch_parts(), parts_.clock.now(), [&](const Watch& watch) {
        if ((!all && watch.can_fire()) || at++ < from || at > end) {
            return;
        }
        json_t* item = json_object();
        set(item, "workload", watch.workload.to_string());
        set(item, "container", watch.container);
        json_object_set_new(item, "init", json_boolean(watch.init));
        set(item, "reference", watch.reference);
        set_or_null(item, "tag", watch.tag ? watch.tag->to_string() : "");
        set(item, "state", watch.state);
        json_object_set_new(item, "can_fire", json_boolean(watch.can_fire()));
        set_or_null(item, "sentence", watch.sentence);
        set_or_null(item, "next", watch.next);
        set(item, "schedule", watch.schedule);
        json_object_set_new(item, "confirmed", time_or_null(watch.confirmed));
        json_array_append_new(items, item);
    });
    return answer(page(items, at > end ? std::to_string(end) : ""));
}

ApiResponse Views::phases() {
    return answer(page(phases_array(parts_.plan), ""));
}

ApiResponse Views::pins(const ApiRequest& request) {
    const std::string ns = request.parameter("namespace").value_or("");
    const auto content = [this](const Digest& digest) {
        return parts_.registry.known_content(digest);
    };
    json_t* items = json_array();
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        const Namespace* space = parts_.catalogue.find_namespace(key.ns);
        const bool ours = standing_of(entry.object, space, parts_.config, parts_.phases).ours;
        if (!ours || (!ns.empty() && key.ns != ns)) {
            continue;
        }
        json_t* pins = json_array();
        for (const Pin& pin : pins_of(entry, parts_.tags, content)) {
            json_t* one = json_object();
            set(one, "container", pin.container);
            set(one, "list", pin.list);
            set(one, "image", pin.image);
            set_or_null(one, "pinned", pin.pinned);
            set_number(one, "pods", pin.pods);
            set_or_null(one, "note", pin.note);
            json_array_append_new(pins, one);
        }
        json_t* item = json_object();
        set(item, "workload", key.to_string());
        json_object_set_new(item, "pins", pins);
        json_array_append_new(items, item);
    }
    return answer(page(items, ""));
}

ApiResponse Views::leftovers(const ApiRequest& request) {
    if (parts_.migration == nullptr) {
        return api_error(404, "no-cluster", "keeld runs without a cluster");
    }
    const Json args(json_pack("{s:[],s:{}}", "managers", "values"));
    for (const auto& [name, value] : request.query) {
        const std::size_t equals = value.find('=');
        if (name == "manager") {
            json_array_append_new(json_object_get(args.get(), "managers"), json_text(value));
        } else if (name == "value" && equals != std::string::npos) {
            set(json_object_get(args.get(), "values"), value.substr(0, equals).c_str(),
                value.substr(equals + 1));
        } else if (name == "value") {
            return api_error(400, "bad-parameter", "value: expected KEY=VALUE");
        }
    }
    const Expected<LeftoverRule> rule = leftover_rule(args.get());
    if (!rule) {
        return api_error(400, "bad-parameter", rule.error().text);
    }
    json_t* items = json_array();
    for (const Migration::Found& found : parts_.migration->find(*rule)) {
        for (const Leftover& one : found.keys) {
            json_t* item = json_object();
            set(item, "on", found.on);
            set(item, "key", one.key);
            set(item, "value", one.value);
            set(item, "where", one.where);
            json_t* managers = json_array();
            for (const std::string& manager : one.managers) {
                json_array_append_new(managers, json_text(manager));
            }
            json_object_set_new(item, "managers", managers);
            json_object_set_new(item, "removable", json_boolean(one.removable));
            set(item, "then", one.then);
            json_array_append_new(items, item);
        }
    }
    return answer(page(items, ""));
}

ApiResponse Views::report(const ApiRequest& request) {
    const std::string phase = request.parameter("phase").value_or("");
    const bool known = phase.empty() ||
                       std::ranges::any_of(parts_.config.phases,
                                           [&phase](const auto& one) { return one.name == phase; });
    if (parts_.plan == nullptr || parts_.planner == nullptr || !known) {
        return api_error(404, "not-found", "the configuration has no phase " + phase);
    }
    return answer(
        keel::report(ReportParts{parts_.config, parts_.clock, parts_.catalogue, parts_.tags,
                                 parts_.ledger, *parts_.planner, *parts_.plan},
                     phase));
}

ApiResponse Views::rollouts(const ApiRequest& request) {
    const int limit = std::min(
        limit_of(request), 999);  // one more tells whether there are more; the ledger gives 1,000
    const std::string workload = request.parameter("workload").value_or("");
    const std::string after = request.parameter("after").value_or("");
    std::vector<RolloutRow> rows = parts_.ledger.rollouts(workload, after, limit + 1);
    json_t* items = json_array();
    if (after.empty() && parts_.rollouts != nullptr) {
        for (const RolloutRow& row : parts_.rollouts->all_active()) {
            const bool kept = std::ranges::any_of(
                rows, [&row](const RolloutRow& one) { return one.id == row.id; });
            if (!kept && (workload.empty() || workload == row.workload)) {
                json_array_append_new(items, rollout_object(row).release());
            }
        }
    }
    const bool more = static_cast<int>(rows.size()) > limit;
    if (more) {
        rows.pop_back();
    }
    for (const RolloutRow& row : rows) {
        json_array_append_new(items, rollout_object(row).release());
    }
    return answer(page(items, more ? rows.back().id : ""));
}

ApiResponse Views::ledger(const ApiRequest& request) {
    EntryQuery query;
    query.limit = limit_of(request);
    query.workload = request.parameter("workload").value_or("");
    if (const auto text = request.parameter("kind")) {
        query.kind = parse_entry_kind(*text);
        if (!query.kind) {
            return api_error(400, "bad-parameter",
                             "kind: \"" + *text +
                                 "\" is not a kind of ledger entry; keelctl history --help and "
                                 "doc/api.md list them");
        }
    }
    if (const auto text = request.parameter("since")) {
        query.since = parse_time(*text);
        if (!query.since) {
            return api_error(400, "bad-parameter",
                             "since: \"" + *text + "\" is not an RFC 3339 time");
        }
    }
    if (const auto text = request.parameter("after")) {
        std::uint64_t seq = 0;
        const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), seq);
        if (error != std::errc{} || end != text->data() + text->size()) {
            return api_error(400, "bad-parameter",
                             "after: \"" + *text + "\" is not a sequence number");
        }
        query.after = seq;
    }
    json_t* items = json_array();
    std::string last;
    for (const Entry& entry : parts_.ledger.entries(query)) {
        json_t* item = json_object();
        last = std::to_string(entry.seq);
        set(item, "seq", last);
        json_object_set_new(item, "at", time_or_null(entry.at));
        set(item, "kind", to_string(entry.kind));
        set_or_null(item, "workload", entry.workload);
        set_or_null(item, "container", entry.container);
        set_or_null(item, "tag", entry.tag);
        set_or_null(item, "from", entry.from);
        set_or_null(item, "to", entry.to);
        set_or_null(item, "rollout", entry.rollout);
        set_or_null(item, "code", entry.code);
        set_or_null(item, "cause", entry.cause);
        set_or_null(item, "text", entry.text);
        json_array_append_new(items, item);
    }
    const bool full = static_cast<int>(json_array_size(items)) == query.limit;
    return answer(page(items, full ? last : ""));
}

}  // namespace keel
