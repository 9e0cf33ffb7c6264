#include "keeld/rollout/rollouts.h"

#include <algorithm>
#include <utility>

#include "keeld/json.h"
#include "keeld/random_id.h"
#include "keeld/spawn.h"

namespace keel {
namespace {

constexpr Millis kPullAllowance{300'000};
constexpr auto kAskAgain = std::chrono::seconds(5);
constexpr auto kLookAgain = std::chrono::seconds(1);
constexpr auto kPodInterval = std::chrono::milliseconds(500);
constexpr int kMaxAttempts = 2;
constexpr const char* kRetry = "retry";
constexpr const char* kParted = "group-parted";
constexpr const char* kRollback = "rollback";
constexpr const char* kSoak = "soak";
constexpr const char* kSoaking = "soaking";
constexpr Millis kSoakInterval{30'000};  // at most, and a twentieth of the soak

std::string rejection_key(const std::string& uid, const std::string& tag,
                          const std::string& digest) {
    return uid + " " + tag + " " + digest;
}

// The same bytes in place of the same ones, for the same digests.
bool same_write(const std::vector<Target>& one, const std::vector<Target>& other) {
    return std::ranges::equal(one, other, [](const Target& left, const Target& right) {
        return left == right && left.image == right.image && left.from_image == right.from_image;
    });
}

// "app: nginx:1.27 → nginx:1.28, …"
std::string images_text(const std::vector<Target>& targets) {
    std::string text;
    for (const Target& target : targets) {
        if (!target.image.empty()) {
            text += (text.empty() ? "" : ", ") + target.container + ": " + target.from_image +
                    " → " + target.image;
        }
    }
    return text;
}

struct Patch {
    std::string type;
    std::string body;
};

// A change of the pod template, for this very object, in this very state where it has a version.
std::string template_patch(const Workload& workload, const Json& pod_template) {
    const bool cron_job = workload.key.kind == WorkloadKind::cron_job;
    const Json spec(
        cron_job ? json_pack("{s:{s:{s:O}}}", "jobTemplate", "spec", "template", pod_template.get())
                 : json_pack("{s:O}", "template", pod_template.get()));
    const char* version =
        workload.resource_version.empty() ? nullptr : workload.resource_version.c_str();
    const Json root(json_pack("{s:{s:s,s:s*},s:O}", "metadata", "uid", workload.uid.c_str(),
                              "resourceVersion", version, "spec", spec.get()));
    return dump_json(root.get());
}

// The narrowest patch that restarts: one template annotation.
Patch restart_patch(const Workload& workload, const RolloutRow& row) {
    const Json pod_template(json_pack("{s:{s:{s:s}}}", "metadata", "annotations",
                                      row.marker_key.c_str(), row.marker.c_str()));
    return {"application/merge-patch+json", template_patch(workload, pod_template)};
}

// The narrowest patch that names other images: each list is merged by the names in it.
Patch image_patch(const Workload& workload, const std::vector<Target>& targets) {
    const Json pod(json_object());
    for (const Target& target : targets) {
        const Container* there = workload.find_container(target.container);
        if (target.image.empty() || there == nullptr) {
            continue;
        }
        const char* list = there->volume ? "volumes"
                           : there->init ? "initContainers"
                                         : "containers";
        const std::string name(there->own_name());
        json_t* item = there->volume ? json_pack("{s:s,s:{s:s}}", "name", name.c_str(), "image",
                                                 "reference", target.image.c_str())
                                     : json_pack("{s:s,s:s}", "name", name.c_str(), "image",
                                                 target.image.c_str());
        if (json_object_get(pod.get(), list) == nullptr) {
            json_object_set_new(pod.get(), list, json_array());
        }
        json_array_append_new(json_object_get(pod.get(), list), item);
    }
    const Json pod_template(json_pack("{s:O}", "spec", pod.get()));
    return {"application/strategic-merge-patch+json", template_patch(workload, pod_template)};
}

// The very patch of the rollout, for the object in the state that is known of it.
Patch patch_of(const Workload& workload, const RolloutRow& row,
               const std::vector<Target>& targets) {
    return writes_images(targets) ? image_patch(workload, targets) : restart_patch(workload, row);
}

// A new template replaces every pod by itself: there is no marker where images are written.
std::string marker_of(const RolloutRow& row, const std::vector<Target>& targets) {
    return writes_images(targets) ? "" : format_time(row.intended);
}

std::string tried_key(const std::string& uid, const Target& target) {
    return uid + " " + target.container + " " + target.tag.to_string() + " " +
           target.to.to_string();
}

// Whether pods of the newest template run something else than their targets: those of an older one
// are about to go.
bool lacks_target(const std::vector<Pod>& updated, const std::vector<Target>& targets) {
    return std::ranges::any_of(updated, [&targets](const Pod& pod) {
        return std::ranges::any_of(pod.containers, [&targets](const ContainerStatus& status) {
            const auto target = std::ranges::find(targets, status.name, &Target::container);
            const std::string runs = digest_of_image_id(status.image_id);
            return target != targets.end() && !runs.empty() && runs != target->to.to_string();
        });
    });
}

// What an image volume holds is in no pod's status.
bool is_provable(const Target& target) {
    return !is_volume_name(target.container);
}

std::vector<Target> provable(std::vector<Target> targets) {
    std::erase_if(targets, [](const Target& one) { return !is_provable(one); });
    return targets;
}

// The tags of one workload, asked for at once.
struct Asked {
    explicit Asked(Loop& loop) : ended(loop) {}
    Signal ended;  // one more of them
    std::size_t left = 0;
    bool all = true;  // every one was answered
};

Task<void> ask_into(std::function<Task<Expected<Answer>>(Tag)> look_up, Tag tag,
                    std::shared_ptr<Asked> asked) {
    const Expected<Answer> answer = co_await look_up(std::move(tag));
    asked->all = asked->all && answer.has_value();
    --asked->left;
    asked->ended.notify();
}

}  // namespace

std::string targets_to_json(const std::vector<Target>& targets) {
    const Json list(json_array());
    for (const Target& target : targets) {
        json_t* item = json_object();
        json_object_set_new(item, "container", json_text(target.container));
        json_object_set_new(item, "tag", json_text(target.tag.to_string()));
        json_object_set_new(item, "from", json_text_or_null(target.from));
        json_object_set_new(item, "to", json_text(target.to.to_string()));
        if (!target.image.empty()) {
            json_object_set_new(item, "image", json_text(target.image));
            json_object_set_new(item, "from_image", json_text(target.from_image));
        }
        json_array_append_new(list.get(), item);
    }
    return dump_json(list.get());
}

std::vector<Target> targets_from_json(const std::string& json) {
    std::vector<Target> targets;
    const Json list = parse_json(json);
    std::size_t at = 0;
    json_t* item = nullptr;
    json_array_foreach(list.get(), at, item) {
        const Expected<Tag> tag = Tag::parse(text_of(item, "tag"));
        const std::optional<Digest> to = Digest::parse(text_of(item, "to"));
        if (tag && to) {
            targets.push_back(Target{std::string(text_of(item, "container")), *tag,
                                     std::string(text_of(item, "from")), *to,
                                     std::string(text_of(item, "image")),
                                     std::string(text_of(item, "from_image"))});
        }
    }
    return targets;
}

// What the ledger has that the present rates count.
std::vector<std::pair<Time, std::string>> Rollouts::paced_since() const {
    const PacingConfig& pacing = parts_.config.pacing;
    return parts_.ledger.intended_since(parts_.clock.now() -
                                        std::max(pacing.cluster.per, pacing.ns.per));
}

void Rollouts::reconfigured() {
    pacing_.configure(parts_.config.pacing, paced_since());
    wake_waiting();
}

Rollouts::Rollouts(Parts parts)
    : parts_(std::move(parts)),
      surroundings_(parts_.cluster, parts_.clock),
      pacing_(parts_.config.pacing, paced_since()) {
    for (const DocumentRow& row : parts_.ledger.documents(kRetry)) {
        const Json json = parse_json(row.json);
        retried_[row.key] = parse_time(text_of(json.get(), "at")).value_or(Time{});
    }
    for (const DocumentRow& row : parts_.ledger.documents(kRollback)) {
        ordered_[row.key] = text_of(parse_json(row.json).get(), "rollout");
    }
    for (const RejectedRow& row : parts_.ledger.rejected()) {
        if (is_forgotten(row.uid, row.at)) {
            continue;
        }
        rejected_[rejection_key(row.uid, row.tag, row.digest)] = row.text;
    }
    constexpr int kPage = 1000;
    std::set<std::string> known;  // whose newest row was met
    std::string after;
    for (std::vector<RolloutRow> rows; after.empty() || !rows.empty();) {
        rows = parts_.ledger.rollouts("", after, kPage);
        for (const RolloutRow& row : rows) {
            if (const Expected<WorkloadKey> key = WorkloadKey::parse(row.workload);
                known.insert(row.workload).second && row.reason == kParted && key) {
                parted_[*key] = row.text;
            }
            std::vector<Target> targets = targets_from_json(row.targets);
            for (const Target& target : targets) {
                if (row.applied != Time{} && !target.image.empty()) {
                    written_.try_emplace({row.uid, target.container}, target.image);
                }
            }
            if (row.ended != Time{}) {
                remember(row, ended_from(row, std::move(targets)));
            }
        }
        if (rows.empty()) {
            break;
        }
        after = rows.back().id;
    }
}

Rollouts::~Rollouts() = default;

Rollouts::Ended Rollouts::ended_from(const RolloutRow& row, std::vector<Target> targets) {
    const bool final = row.state == "done" || row.reason == "stalled";
    const std::string images = images_text(targets);
    const std::string text = images.empty() ? row.text
                                            : "rollout " + row.id + " wrote " + images + " at " +
                                                  format_time(row.applied) + ": " + row.text;
    Ended ended;
    ended.targets = std::move(targets);
    ended.text = text;
    ended.final = final;
    ended.failed = row.state == "failed" && row.reason == "content" && restores(row).empty();
    ended.id = row.id;
    ended.attempt = row.reason == "stale-pull" ? row.attempt + 1 : 1;
    ended.at = row.ended;
    ended.generation = row.generation;
    return ended;
}

// What was never written says nothing about what was tried.
void Rollouts::remember(const RolloutRow& row, Ended ended) {
    if (row.applied == Time{} || is_forgotten(row.uid, row.ended)) {
        return;
    }
    for (const Target& target : ended.targets) {
        if (ended.final && !target.image.empty()) {
            tried_.try_emplace(tried_key(row.uid, target), ended.text);
        }
    }
    const auto [at, first] = ended_.try_emplace(row.uid, ended);
    if (!first && at->second.at <= ended.at) {
        at->second = std::move(ended);
    }
}

bool Rollouts::is_forgotten(const std::string& uid, Time at) const {
    const auto found = retried_.find(uid);
    return found != retried_.end() && at <= found->second;
}

void Rollouts::forget(const std::string& uid) {
    const auto of_this = [prefix = uid + " "](const auto& item) {
        return item.first.starts_with(prefix);
    };
    std::erase_if(rejected_, of_this);
    std::erase_if(tried_, of_this);
    ended_.erase(uid);
    ways_.erase(uid);
    if (ordered_.erase(uid) > 0) {
        parts_.ledger.erase_document(kRollback, uid);
    }
}

Task<std::vector<OrderResult>> Rollouts::retry(Order order) {
    const Expected<WorkloadKey> key = WorkloadKey::parse(order.on);
    const CatalogueEntry* entry = key ? parts_.catalogue.find(*key) : nullptr;
    OrderResult result{order.on, false, "unknown-workload",
                       key ? "no such workload is in the cluster" : key.error().text};
    const WorkloadVerdict verdict = entry != nullptr ? parts_.judge(*entry) : WorkloadVerdict{};
    const bool failed =
        verdict.reason == Reason::target_rejected || verdict.reason == Reason::rollout_stalled;
    if (entry != nullptr && !failed) {
        result = {key->to_string(), false, "nothing-failed",
                  "no target is held back because it failed; it is " +
                      std::string(to_string(verdict.reason)) + ": " + verdict.sentence};
    } else if (entry != nullptr) {
        result = {
            key->to_string(), true, order.dry_run ? "would-retry" : "retried",
            "what failed counts no longer; gates and pacing hold. It was: " + verdict.sentence};
    }
    if (result.ok && !order.dry_run) {
        const std::string uid = entry->object.uid;
        const Time now = parts_.clock.now();
        retried_[uid] = now;
        forget(uid);
        const Json json(
            json_pack("{s:s,s:s}", "at", format_time(now).c_str(), "author", order.author.c_str()));
        parts_.ledger.put(DocumentRow{kRetry, uid, dump_json(json.get())});
        Entry told;
        told.at = now;
        told.kind = EntryKind::ordered;
        told.code = "retried";
        told.workload = key->to_string();
        told.uid = uid;
        told.cause = order.author;
        told.text = order.reason.empty() ? verdict.sentence : order.reason;
        parts_.ledger.append(std::move(told));
        parts_.reconsider(*key);
        const Expected<void> kept = co_await parts_.ledger.durable();
        if (!kept) {
            result = {key->to_string(), false, "ledger",
                      "it holds, but is not on disk yet: " + kept.error().text};
        }
    }
    std::vector<OrderResult> results;
    results.push_back(std::move(result));
    co_return results;
}

bool Rollouts::wrote(const std::string& uid, const std::string& container,
                     const std::string& image) const {
    const auto found = written_.find({uid, container});
    return found != written_.end() && found->second == image;
}

bool Rollouts::may_write() const {
    return parts_.config.mode == Mode::act && parts_.lease.held();
}

const std::string* Rollouts::rejected(const std::string& uid, const Target& target) const {
    if (rejected_.empty()) {
        return nullptr;
    }
    const auto found =
        rejected_.find(rejection_key(uid, target.tag.to_string(), target.to.to_string()));
    return found != rejected_.end() ? &found->second : nullptr;
}

const std::string* Rollouts::stalled(const std::string& uid, const Target& target) const {
    if (!target.image.empty()) {
        const auto before = tried_.find(tried_key(uid, target));
        if (before != tried_.end()) {
            return &before->second;
        }
    }
    const auto found = ended_.find(uid);
    if (found == ended_.end() || !found->second.final) {
        return nullptr;
    }
    const TagInfo* info = parts_.tags.find(target.tag);
    // A hold that came or went since took pods elsewhere: the target is due anew.
    const bool tried =
        (info == nullptr || info->held_at <= found->second.at) &&
        std::ranges::find(found->second.targets, target) != found->second.targets.end();
    return tried ? &found->second.text : nullptr;
}

void Rollouts::recover() {
    std::map<std::pair<const GroupConfig*, Time>, std::shared_ptr<Batch>> batches;
    std::vector<Handle> recovered;
    std::map<std::string, std::string> soaks;
    for (DocumentRow& document : parts_.ledger.documents(kSoak)) {
        soaks[document.key] = std::move(document.json);
    }
    for (RolloutRow& row : parts_.ledger.open_rollouts()) {
        const Expected<WorkloadKey> key = WorkloadKey::parse(row.workload);
        if (!key) {
            continue;
        }
        auto rollout = std::make_shared<Active>(parts_.loop);
        rollout->key = *key;
        rollout->targets = targets_from_json(row.targets);
        rollout->soak = Soak::from_json(soaks[row.id]);
        rollout->row = std::move(row);
        rollout->recovered = true;
        rollout->place = true;  // its intended time is in the window already
        // Members of a group took their places in one moment.
        const GroupConfig* group = parts_.gates.group_of(*key);
        if (group != nullptr && rollout->row.applied == Time{}) {
            std::shared_ptr<Batch>& batch = batches[{group, rollout->row.intended}];
            batch = batch ? batch : std::make_shared<Batch>();
            rollout->batch = batch;
            ++batch->running;
            ++batch->coming;
        }
        rollout->running = rollout->row.state != kSoaking;
        running_ += !rollout->running || (rollout->batch && rollout->batch->running > 1) ? 0 : 1;
        if (const std::string failed = restores(rollout->row); !failed.empty()) {
            ways_[rollout->row.uid] =
                Way{failed, rollout->targets, is_ordered_back(rollout->row.uid, failed)};
        }
        active_[*key] = rollout;
        recovered.push_back(rollout);
    }
    for (const Handle& rollout : recovered) {
        keel::spawn(parts_.loop, run(rollout));
    }
}

void Rollouts::stop() {
    stopped_ = true;
    for (const auto& [key, rollout] : active_) {
        rollout->changed.notify();
    }
}

void Rollouts::notify(const WorkloadKey& key) {
    if (const auto found = active_.find(key); found != active_.end()) {
        found->second->changed.notify();
    }
}

// The longest waiting first: under a full window the place goes to it, not to the first name in the
// alphabet.
void Rollouts::wake_waiting() {
    for (const Handle& rollout : waiting()) {
        rollout->changed.notify();
    }
}

// By priority, then the longest waiting.
std::vector<Rollouts::Handle> Rollouts::waiting() const {
    std::vector<std::pair<int, Handle>> all;
    for (const auto& [key, rollout] : active_) {
        if (!rollout->running && rollout->row.state != kSoaking) {
            all.emplace_back(-parts_.gates.priority(key), rollout);
        }
    }
    std::ranges::stable_sort(
        all, {}, [](const auto& one) { return std::pair(one.first, one.second->row.created); });
    std::vector<Handle> line;
    for (auto& [priority, rollout] : all) {
        line.push_back(std::move(rollout));
    }
    return line;
}

void Rollouts::offer(const WorkloadKey& key, const WorkloadVerdict& verdict) {
    if (const auto found = active_.find(key); found != active_.end()) {
        found->second->changed.notify();
        return;
    }
    const CatalogueEntry* entry = parts_.catalogue.find(key);
    if (stopped_ || entry == nullptr || parts_.config.mode != Mode::act) {
        return;
    }
    auto rollout = std::make_shared<Active>(parts_.loop);
    rollout->key = key;
    rollout->targets = verdict.targets;
    rollout->verdict = verdict;
    RolloutRow& row = rollout->row;
    row.id = random_id();
    row.workload = key.to_string();
    row.uid = entry->object.uid;
    row.ns = key.ns;
    row.state = "waiting";
    row.targets = targets_to_json(rollout->targets);
    row.marker_key = parts_.config.defaults.restart_key;
    row.created = parts_.clock.now();
    const auto last = ended_.find(row.uid);
    row.attempt =
        last != ended_.end() && last->second.targets == rollout->targets ? last->second.attempt : 1;
    const TagInfo* info = parts_.tags.find(rollout->targets.front().tag);
    row.cause = info != nullptr ? info->brought_by() : "";
    if (const Way* way = way_now(key, verdict)) {
        row.cause = std::string(kRestoreOf) + way->rollout;
    }
    active_[key] = rollout;
    keel::spawn(parts_.loop, run(rollout));
}

void Rollouts::ask(const WorkloadKey& key, const WorkloadVerdict& verdict) {
    const CatalogueEntry* entry = parts_.catalogue.find(key);
    if (entry != nullptr && may_write()) {
        parts_.approvals.ask(entry->object, verdict);
    }
}

// ---- The way back ----

std::optional<Rollouts::Way> Rollouts::way_of(const std::string& uid) const {
    const auto found = ended_.find(uid);
    const bool ordered = found != ended_.end() && is_ordered_back(uid, found->second.id);
    if (found == ended_.end() || (!found->second.failed && !ordered)) {
        return std::nullopt;
    }
    Way way{found->second.id, {}, ordered};
    for (const Target& target : found->second.targets) {
        if (rejected(uid, target) == nullptr) {
            continue;
        }
        const std::optional<Digest> before = Digest::parse(target.from);
        const Expected<Reference> named = Reference::parse(target.from_image);
        const std::optional<Tag> tag = target.image.empty() ? std::optional(target.tag)
                                       : named              ? named->tag()
                                                            : std::nullopt;
        if (!before || !tag) {
            return std::nullopt;
        }
        way.targets.push_back(Target{target.container, *tag, target.to.to_string(), *before,
                                     target.from_image, target.image});
    }
    return way.targets.empty() ? std::nullopt : std::optional(std::move(way));
}

void Rollouts::go_back(const std::string& uid, Way way) {
    ways_[uid] = std::move(way);
}

const Target* Rollouts::way_back(const std::string& uid, const std::string& container) const {
    const auto found = ways_.find(uid);
    if (found == ways_.end()) {
        return nullptr;
    }
    const std::vector<Target>& targets = found->second.targets;
    const auto target = std::ranges::find(targets, container, &Target::container);
    return target != targets.end() ? &*target : nullptr;
}

bool Rollouts::proved(const std::string& uid, const Tag& tag, const Digest& digest) const {
    const auto found = ended_.find(uid);
    return found != ended_.end() && found->second.final &&
           std::ranges::any_of(found->second.targets, [&](const Target& target) {
               return target.tag == tag && target.to == digest;
           });
}

// The way that these very targets are.
const Rollouts::Way* Rollouts::way_now(const WorkloadKey& key,
                                       const WorkloadVerdict& verdict) const {
    const CatalogueEntry* entry = parts_.catalogue.find(key);
    const auto found = entry != nullptr ? ways_.find(entry->object.uid) : ways_.end();
    const bool all =
        found != ways_.end() && !verdict.targets.empty() &&
        std::ranges::all_of(verdict.targets, [&](const Target& target) {
            return std::ranges::find(found->second.targets, target) != found->second.targets.end();
        });
    return all ? &found->second : nullptr;
}

bool Rollouts::goes_back(const Handle& rollout) const {
    return !restores(rollout->row).empty();
}

// A workload that is down waits for no window, no vote and no place.
std::vector<ClosedGate> Rollouts::gates_back(const WorkloadKey& key,
                                             const WorkloadVerdict& verdict) const {
    std::vector<ClosedGate> closed = own_gates(key, verdict);
    std::erase_if(closed, [](const ClosedGate& one) {
        switch (one.gate) {
            case Gate::awaiting_window:
            case Gate::awaiting_approval:
            case Gate::approval_rejected:
            case Gate::awaiting_phase:
            case Gate::breaker_open:
                return true;
            default:
                return false;  // awaiting_pacing: the API server refused it
        }
    });
    return closed;
}

// The rollout that failed is told to have been brought back where that was proven.
void Rollouts::end_way(const Handle& rollout) {
    const RolloutRow& row = rollout->row;
    ways_.erase(row.uid);
    if (ordered_.erase(row.uid) > 0) {
        parts_.ledger.erase_document(kRollback, row.uid);
    }
    if (row.state != "done") {
        return;
    }
    constexpr int kBetween = 100;  // rows of its own earlier attempts
    for (RolloutRow& failed : parts_.ledger.rollouts(row.workload, row.id, kBetween)) {
        if (failed.id == restores(row)) {
            failed.state = "rolled-back";
            failed.text += "; rollout " + row.id + " brought it back at " + format_time(row.ended);
            parts_.ledger.put(std::move(failed));
        }
    }
}

bool Rollouts::is_ordered_back(const std::string& uid, const std::string& rollout) const {
    const auto found = ordered_.find(uid);
    return found != ordered_.end() && found->second == rollout;
}

Task<std::vector<OrderResult>> Rollouts::rollback(Order order) {
    const Expected<WorkloadKey> key = WorkloadKey::parse(order.on);
    OrderResult result = key ? obey_rollback(*key, order)
                             : OrderResult{order.on, false, "unknown-workload", key.error().text};
    if (result.ok && !order.dry_run) {
        const Expected<void> kept = co_await parts_.ledger.durable();
        if (!kept) {
            result = {order.on, false, "ledger",
                      "it holds, but is not on disk yet: " + kept.error().text};
        }
    }
    std::vector<OrderResult> results;
    results.push_back(std::move(result));
    co_return results;
}

OrderResult Rollouts::obey_rollback(const WorkloadKey& key, const Order& order) {
    const std::string name = key.to_string();
    const CatalogueEntry* entry = parts_.catalogue.find(key);
    if (entry == nullptr) {
        return {name, false, "unknown-workload", "no such workload is in the cluster"};
    }
    const std::string uid = entry->object.uid;
    const auto active = active_.find(key);
    const bool soaking = active != active_.end() && active->second->row.state == kSoaking;
    if (active != active_.end() && active->second->running) {
        return {name, false, "under-way",
                "a rollout of it is under way; it can be taken back once it soaks, or has ended"};
    }
    const auto last = ended_.find(uid);
    const std::vector<RolloutRow> rows = parts_.ledger.rollouts(name, "", 100);
    const auto found = std::ranges::find_if(rows, [&](const RolloutRow& row) {
        return row.id == (soaking                ? active->second->row.id
                          : last != ended_.end() ? last->second.id
                                                 : "");
    });
    if (found == rows.end() || !restores(*found).empty() || found->state == "rolled-back" ||
        found->state == "superseded") {
        return {name, false, "nothing-to-undo",
                "no rollout of it by keeld is what it runs now; keelctl hold, or another image, "
                "brings something else"};
    }
    const std::vector<Target> targets = targets_from_json(found->targets);
    const bool known = std::ranges::all_of(
        targets, [](const Target& target) { return Digest::parse(target.from).has_value(); });
    if (!known) {
        return {name, false, "no-way-back",
                "what it ran before rollout " + found->id + " is not known"};
    }
    const std::string text =
        "taken back by " + order.author + (order.reason.empty() ? "" : ": " + order.reason);
    if (!order.dry_run) {
        ordered_[uid] = found->id;
        const Json json(
            json_pack("{s:s,s:s}", "rollout", found->id.c_str(), "author", order.author.c_str()));
        parts_.ledger.put(DocumentRow{kRollback, uid, dump_json(json.get())});
        reject(*found, targets, "", text);
        Entry told;
        told.at = parts_.clock.now();
        told.kind = EntryKind::ordered;
        told.code = kRollback;
        told.workload = name;
        told.uid = uid;
        told.rollout = found->id;
        told.cause = order.author;
        told.text = text;
        parts_.ledger.append(std::move(told));
        notify(key);
        parts_.reconsider(key);
    }
    return {name, true, order.dry_run ? "would-roll-back" : "rolling-back",
            "it goes back to what it ran before rollout " + found->id +
                "; keelctl why tells what it waits for"};
}

// Beside those of its group and of pacing.
std::vector<ClosedGate> Rollouts::own_gates(const WorkloadKey& key,
                                            const WorkloadVerdict& verdict) const {
    std::vector<ClosedGate> closed;
    if (parts_.config.mode != Mode::act) {
        closed.push_back({Gate::observe_only, std::nullopt, "mode is observe: nothing is written"});
        return closed;
    }
    if (!parts_.lease.held()) {
        closed.push_back({Gate::not_leader, std::nullopt, "the Lease is not held by this keeld"});
    }
    const std::vector<ClosedGate> plan = parts_.gates.closed(key);
    closed.insert(closed.end(), plan.begin(), plan.end());
    if (const CatalogueEntry* entry = parts_.catalogue.find(key)) {
        if (std::optional<ClosedGate> votes = parts_.approvals.gate(entry->object, verdict)) {
            closed.push_back(std::move(*votes));
        }
    }
    if (const std::string why = parts_.phase_closed ? parts_.phase_closed(key.ns) : "";
        !why.empty()) {
        closed.push_back({Gate::awaiting_phase, std::nullopt, why});
    }
    const auto parted = parted_.find(key);
    if (std::optional<ClosedGate> obstacle = obstacle_gate(key, verdict)) {
        closed.push_back(std::move(*obstacle));
    }
    if (const auto found = refused_.find(key);
        found != refused_.end() && found->second.first > parts_.clock.now()) {
        closed.push_back({Gate::awaiting_pacing, found->second.first,
                          "the API server refused the last attempt" +
                              (parted != parted_.end() ? "; " + parted->second : "")});
    }
    return closed;
}

std::vector<ClosedGate> Rollouts::pacing_gates(const Pacing::Wanted& wanted) {
    if (const auto free = pacing_.next_free(wanted, parts_.clock.now())) {
        return {{Gate::awaiting_pacing, *free, "the pacing limit is reached"}};
    }
    if (parts_.config.pacing.concurrent > 0 && running_ >= parts_.config.pacing.concurrent) {
        return {{Gate::awaiting_pacing, std::nullopt, "as many rollouts as allowed are under way"}};
    }
    return {};
}

// R7: all that are due start at once, or none. One that has begun already, before a restart of
// keeld, is not waited for.
Rollouts::GroupState Rollouts::state_of(const GroupConfig& group) {
    GroupState state;
    Pacing::Wanted wanted;
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        if (parts_.gates.group_of(key) != &group) {
            continue;
        }
        const std::string name = key.to_string();
        const auto waits = [&](const std::string& why, std::optional<Time> until = {}) {
            state.closed = {
                {Gate::awaiting_group, until,
                 "the group " + group.name + " moves together, and " + name + " " + why}};
            return state;
        };
        const WorkloadVerdict verdict = parts_.judge(entry);
        if (verdict.verdict == Verdict::blocked) {
            return waits("is blocked: " + std::string(to_string(verdict.reason)));
        }
        if (verdict.verdict != Verdict::roll) {
            continue;
        }
        const auto active = active_.find(key);
        if (active != active_.end() && active->second->running) {
            continue;
        }
        if (active == active_.end() || active->second->row.state == kSoaking ||
            Steady::now() < active->second->not_before) {
            return waits("is not ready to start");
        }
        if (const std::vector<ClosedGate> closed = own_gates(key, verdict); !closed.empty()) {
            return waits("waits: " + std::string(to_string(closed.front().gate)),
                         closed.front().until);
        }
        state.members.push_back(active->second);
        ++wanted[key.ns];
        state.targets += name + " " + targets_to_json(verdict.targets) + "\n";
    }
    const std::string limit = state.members.size() > 1 ? pacing_.exceeds(wanted) : "";
    if (!limit.empty() && !parts_.gates.excepted(group.name, state.targets)) {
        state.closed = {
            {Gate::group_exceeds_pacing, std::nullopt,
             "the group " + group.name + " has " + std::to_string(state.members.size()) +
                 " workloads to move, more than " + limit +
                 " allows at once; keelctl approve group/" + group.name + " starts it once"}};
        return state;
    }
    state.closed = pacing_gates(limit.empty() ? wanted : Pacing::Wanted{});
    return state;
}

std::vector<Rollouts::Pending> Rollouts::pending() {
    std::vector<Pending> all;
    Pacing places = pacing_;  // as if each started at its earliest
    const Time now = parts_.clock.now();
    for (const Handle& rollout : waiting()) {
        Pending one{rollout->row, parts_.gates.priority(rollout->key),
                    gates(rollout->key, rollout->verdict), now};
        for (const ClosedGate& gate : one.closed) {
            const bool paced = gate.gate == Gate::awaiting_pacing;
            if (one.earliest && (gate.until || paced)) {
                one.earliest = std::max(*one.earliest, gate.until.value_or(now));
            } else {
                one.earliest.reset();
            }
        }
        if (one.earliest) {
            one.earliest = places.when_free(rollout->key.ns, *one.earliest);
            places.take(rollout->key.ns, *one.earliest);
        }
        all.push_back(std::move(one));
    }
    return all;
}

Task<std::vector<OrderResult>> Rollouts::let_group_go(Order order) {
    constexpr std::string_view kGroup = "group/";
    const std::string name = order.on.starts_with(kGroup) ? order.on.substr(kGroup.size()) : "";
    const auto group = std::ranges::find(parts_.config.groups, name, &GroupConfig::name);
    OrderResult result{order.on, false, "unknown-group",
                       "expected group/NAME with the name of a group in keeld.yaml"};
    if (group != parts_.config.groups.end()) {
        const GroupState state = state_of(*group);
        const bool waits =
            !state.closed.empty() && state.closed.front().gate == Gate::group_exceeds_pacing;
        result = {order.on, waits, waits ? "excepted" : "not-waiting",
                  waits ? "it starts at once, with what it is due for now"
                        : "it does not wait for an exception from pacing"};
        if (waits && !order.dry_run) {
            parts_.gates.except(name, state.targets, order.author);
            const Expected<void> kept = co_await parts_.ledger.durable();
            if (!kept) {
                result = {order.on, false, "ledger",
                          "it holds, but is not on disk yet: " + kept.error().text};
            }
        }
    }
    std::vector<OrderResult> results;
    results.push_back(std::move(result));
    co_return results;
}

std::vector<ClosedGate> Rollouts::gates(const WorkloadKey& key, const WorkloadVerdict& verdict) {
    if (way_now(key, verdict) != nullptr) {
        return gates_back(key, verdict);
    }
    std::vector<ClosedGate> closed = own_gates(key, verdict);
    if (parts_.config.mode != Mode::act) {
        return closed;
    }
    const GroupConfig* group = parts_.gates.group_of(key);
    const std::vector<ClosedGate> rest = group != nullptr && closed.empty()
                                             ? state_of(*group).closed
                                             : pacing_gates(Pacing::Wanted{{key.ns, 1}});
    closed.insert(closed.end(), rest.begin(), rest.end());
    return closed;
}

// Where places are scarce, the one that takes the next: by priority, then the longest waiting.
Rollouts::Handle Rollouts::first_in_line(const Handle& rollout) {
    const PacingConfig& limits = parts_.config.pacing;
    if (goes_back(rollout)) {
        return rollout;
    }
    if (limits.cluster.count == 0 && limits.ns.count == 0 && limits.concurrent == 0) {
        return rollout;
    }
    for (const Handle& other : waiting()) {
        const bool ready = other == rollout || (Steady::now() >= other->not_before &&
                                                gates(other->key, other->verdict).empty());
        if (ready) {
            return other;
        }
    }
    return rollout;
}

// Takes the places: of this one, or of its whole group.
void Rollouts::start(const Handle& rollout) {
    std::vector<Handle> members{rollout};
    const GroupConfig* group = parts_.gates.group_of(rollout->key);
    if (group != nullptr && !goes_back(rollout)) {
        members = state_of(*group).members;  // it is open, or this one would not start
    }
    const auto batch = std::make_shared<Batch>();
    const Time now = parts_.clock.now();
    for (const Handle& member : members) {
        member->row.intended = now;
        pacing_.take(member->key.ns, now);
        member->place = true;
        member->running = true;
        member->batch = batch;
        ++batch->running;
        ++batch->asking;
        ++batch->coming;
        member->has_come = false;
        if (member != rollout) {
            member->changed.notify();
        }
    }
    ++running_;
}

// It counts as under way no longer.
void Rollouts::stop_running(const Handle& rollout) {
    rollout->running = false;
    if (!rollout->batch || --rollout->batch->running == 0) {
        --running_;
    }
    rollout->batch.reset();
}

// After the gate that counts: whether all that started with it may go on.
Task<bool> Rollouts::go_together(Handle rollout, bool ready) {
    const std::shared_ptr<Batch> batch = rollout->batch;
    batch->all = batch->all && ready;
    if (--batch->asking == 0) {
        wake(batch);
    }
    while (batch->asking > 0 && !stopped_) {
        co_await rollout->changed.wait_until(Steady::time_point::max());
    }
    co_return batch->all && !stopped_;
}

void Rollouts::wake(const std::shared_ptr<Batch>& batch) {
    for (const auto& [key, other] : active_) {
        if (other->batch == batch) {
            other->changed.notify();
        }
    }
}

// Right before the first write of a group: true once every member has come, and all of them may
// still be written. False: it was ended, or keeld stops.
Task<bool> Rollouts::write_together(Handle rollout) {
    const std::shared_ptr<Batch> batch = rollout->batch;
    if (!batch || goes_back(rollout) || parts_.gates.group_of(rollout->key) == nullptr) {
        co_return true;
    }
    come(rollout);
    while ((batch->coming > 0 || waits_for_parted(rollout)) && !stopped_) {
        co_await rollout->changed.wait_until(Steady::time_point::max());
    }
    co_return !stopped_ && !kept_back(rollout);
}

// R7: a member that was refused when others were written goes first, and no other one where it is
// refused again: they would be two steps apart.
bool Rollouts::waits_for_parted(const Handle& rollout) const {
    return !parted_.contains(rollout->key) && std::ranges::any_of(active_, [&](const auto& one) {
        return one.second->batch == rollout->batch && one.second->row.applied == Time{} &&
               parted_.contains(one.first);
    });
}

// The last one to come looks at all of them, in one moment.
void Rollouts::come(const Handle& rollout) {
    const std::shared_ptr<Batch> batch = rollout->batch;
    if (std::exchange(rollout->has_come, true) || --batch->coming > 0) {
        return;
    }
    const GroupConfig* group = parts_.gates.group_of(rollout->key);
    if (group != nullptr && batch->obstacle.empty() && batch->written.empty()) {
        batch->obstacle = obstacle(*group, batch);
    }
    if (group != nullptr && batch->obstacle.empty()) {
        parts_.gates.use_exception(group->name);
    }
    wake(batch);
}

// What keeps the group from being written now; empty: nothing.
std::string Rollouts::obstacle(const GroupConfig& group, const std::shared_ptr<Batch>& batch) {
    if (!may_write()) {
        return "the mode is observe, or the Lease is not held";
    }
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        if (parts_.gates.group_of(key) != &group) {
            continue;
        }
        const auto active = active_.find(key);
        const bool running = active != active_.end() && active->second->running;
        if (running && active->second->batch == batch) {
            if (!would_write_the_same(active->second)) {
                return key.to_string() + " is not due any more";
            }
            continue;
        }
        const WorkloadVerdict verdict = parts_.judge(entry);
        if (verdict.verdict == Verdict::blocked) {
            return key.to_string() + " is blocked: " + std::string(to_string(verdict.reason));
        }
        if (verdict.verdict == Verdict::roll && !running) {
            return key.to_string() + " is due, too";
        }
    }
    return "";
}

// Ends it where another one of its group may not be written and none is yet: it costs no place.
bool Rollouts::kept_back(const Handle& rollout) {
    const std::shared_ptr<Batch> batch = rollout->batch;
    if (!batch || batch->obstacle.empty() || !batch->written.empty()) {
        return false;
    }
    pacing_.give_back(rollout->row.ns, rollout->row.intended);
    rollout->row.intended = Time{};
    end(rollout, "superseded", std::string(to_string(Gate::awaiting_group)),
        "not written, like all of its group: " + batch->obstacle);
    return true;
}

void Rollouts::leave_unwritten(const Handle& rollout) {
    Batch& batch = *rollout->batch;
    if (batch.obstacle.empty()) {
        batch.obstacle = rollout->row.workload + ": " + rollout->row.text;
    }
    batch.left[rollout->key] = rollout->row;
    tell_parted(batch);
    rollout->row = batch.left[rollout->key];
    come(rollout);
    wake(rollout->batch);
}

// Members were written and others were not, now or before: said of those, until they are, too.
void Rollouts::tell_parted(Batch& batch) {
    for (auto& [key, row] : batch.left) {
        const bool now = !batch.written.empty();
        if (row.reason == kParted || (!now && !parted_.contains(key))) {
            continue;
        }
        row.text += "; its group is parted: " +
                    (now ? batch.written.front() + " was written" : "others were written before");
        row.reason = kParted;
        parted_[key] = row.text;
        parts_.ledger.put(row);
        parts_.reconsider(key);
    }
}

std::map<WorkloadKey, std::string> Rollouts::parted() const {
    std::map<WorkloadKey, std::string> now;
    for (const auto& [key, text] : parted_) {
        const CatalogueEntry* entry = parts_.catalogue.find(key);
        const Verdict verdict = entry != nullptr ? parts_.judge(*entry).verdict : Verdict::ignore;
        if (verdict == Verdict::roll || verdict == Verdict::blocked) {
            now.emplace(key, text);
        }
    }
    return now;
}

std::optional<RolloutRow> Rollouts::active(const WorkloadKey& key) const {
    const auto found = active_.find(key);
    return found != active_.end() ? std::optional(found->second->row) : std::nullopt;
}

std::vector<RolloutRow> Rollouts::all_active() const {
    std::vector<RolloutRow> rows;
    for (const auto& [key, rollout] : active_) {
        rows.push_back(rollout->row);
    }
    return rows;
}

// ---- The runbook ----

Task<void> Rollouts::run(Handle rollout) {
    if (rollout->row.state == "waiting") {
        const bool turn = co_await wait_for_turn(rollout);
        if (!turn) {
            co_return;
        }
        const bool intended = co_await intend(rollout);
        if (!intended) {
            co_return;
        }
    }
    if (rollout->row.applied == Time{}) {
        const Applied applied = co_await apply(rollout);
        if (applied != Applied::yes) {
            co_return;
        }
    }
    if (rollout->row.state != kSoaking) {
        co_await verify(rollout);
    }
    if (rollout->row.state == kSoaking) {
        co_await soak(rollout);
    }
}

// Through the gates and the one that counts; false: it is no longer due, or keeld stops.
Task<bool> Rollouts::wait_for_turn(Handle rollout) {
    while (!stopped_) {
        const bool open = co_await wait_for_gates(rollout);
        if (!open) {
            co_return false;
        }
        enter(rollout, "preflight");
        const Ready ready = co_await look_before(rollout);
        Pull pull = Pull::gets_other;
        if (ready == Ready::yes) {
            pull = co_await ask_what_a_pull_gets(rollout);
        }
        const bool together = co_await go_together(rollout, pull == Pull::gets_target);
        if (together) {
            co_return true;
        }
        // Something else is to be pulled now, or nobody answers: its place goes to another
        // meanwhile.
        enter(rollout, "waiting");
        give_place_back(rollout);
        if (ready == Ready::unanswered) {
            rollout->row.reason = to_string(Gate::preflight);
            rollout->row.text = "the API server did not answer a dry run; tried again";
            rollout->not_before = Steady::now() + kAskAgain;
        } else if (pull == Pull::under_way) {
            rollout->row.reason = "under-way";
            rollout->row.text = "somebody else changed it, and none of its new pods runs yet";
            rollout->not_before = Steady::now() + kLookAgain;
        } else if (pull == Pull::unanswered) {
            rollout->row.reason = to_string(Reason::target_not_pullable);
            rollout->row.text = "what a pull would get now could not be asked; tried again";
            rollout->not_before = Steady::now() + kAskAgain;
        } else if (pull == Pull::gets_target) {
            rollout->row.reason = to_string(Gate::awaiting_group);
            rollout->row.text = "another one of its group could not start";
            rollout->not_before = Steady::now() + kLookAgain;
        }
        wake_waiting();
    }
    co_return false;
}

void Rollouts::give_place_back(const Handle& rollout) {
    pacing_.give_back(rollout->row.ns, rollout->row.intended);
    rollout->row.intended = Time{};
    rollout->place = false;
    stop_running(rollout);
}

// Until every gate is open; false: it is no longer due.
Task<bool> Rollouts::wait_for_gates(Handle rollout) {
    while (!stopped_) {
        if (rollout->running) {  // its group has started
            co_return true;
        }
        if (!still_due(rollout)) {
            end(rollout, "superseded", "not-due", "it is not due any more");
            co_return false;
        }
        if (may_write() && !goes_back(rollout)) {
            parts_.approvals.ask(*object(rollout), rollout->verdict);
        }
        if (Steady::now() < rollout->not_before) {
            co_await rollout->changed.wait_until(rollout->not_before);
            continue;
        }
        const std::vector<ClosedGate> closed = gates(rollout->key, rollout->verdict);
        if (closed.empty()) {
            const Handle first = first_in_line(rollout);
            if (first == rollout) {
                start(rollout);
                co_return true;
            }
            first->changed.notify();
            co_await rollout->changed.wait_until(Steady::now() + kLookAgain);
            continue;
        }
        rollout->row.reason = to_string(closed.front().gate);
        rollout->row.text = closed.front().text;
        Steady::time_point wake = Steady::now() + std::chrono::minutes(1);
        for (const ClosedGate& gate : closed) {
            if (gate.until) {
                const Steady::duration left =
                    std::max(*gate.until - parts_.clock.now(), Millis{10});
                wake = std::min(wake, Steady::now() + left);
            }
        }
        co_await rollout->changed.wait_until(wake);
    }
    co_return false;
}

// Somebody else changed the workload and its pods have not all followed: what they run is not what
// the new template gives (R6). Bounded, so that what never comes up can be mended.
bool Rollouts::may_be_under_way(const Handle& rollout) const {
    const Workload* workload = object(rollout);
    const auto own = ended_.find(rollout->row.uid);
    const bool foreign = workload != nullptr && workload->generation > 1 &&
                         (own == ended_.end() || own->second.generation != workload->generation);
    return foreign && !workload->rolled_out() && !workload->deadline_exceeded &&
           parts_.clock.now() - rollout->row.created <
               std::chrono::seconds(workload->progress_deadline);
}

// The tags that the new pods will ask for: the goals, and what stays and is pulled at every start.
std::set<Tag> Rollouts::pulled_tags(const Handle& rollout) const {
    std::set<Tag> tags;
    const CatalogueEntry* entry = parts_.catalogue.find(rollout->key);
    for (std::size_t i = 0; entry != nullptr && i < entry->references.size(); ++i) {
        const Container& container = entry->object.containers[i];
        const Expected<Reference>& reference = entry->references[i];
        const auto target = std::ranges::find(rollout->targets, container.name, &Target::container);
        if (target != rollout->targets.end()) {
            tags.insert(target->tag);
        } else if (container.pull == PullPolicy::always && reference && reference->tag() &&
                   !reference->digest) {
            tags.insert(*reference->tag());
        }
    }
    return tags;
}

// The gate that counts, right before the write: what a pull would get now, for every container that
// will pull, is the target; and what runs is what the verdict was made from.
Task<Rollouts::Pull> Rollouts::ask_what_a_pull_gets(Handle rollout) {
    const std::set<Tag> tags = pulled_tags(rollout);
    const auto asked = std::make_shared<Asked>(parts_.loop);
    asked->left = tags.size();
    for (const Tag& tag : tags) {
        keel::spawn(parts_.loop, ask_into(parts_.look_up, tag, asked));
    }
    while (asked->left > 0) {
        co_await asked->ended.wait_until(Steady::time_point::max());
    }
    if (!asked->all) {
        co_return Pull::unanswered;
    }
    // What a CronJob's pods run is of earlier runs, and no write changes it.
    const CatalogueEntry* entry = parts_.catalogue.find(rollout->key);
    const bool has_pods = rollout->key.kind != WorkloadKind::cron_job;
    const bool may_be_under_way = this->may_be_under_way(rollout);
    if (has_pods && entry != nullptr && (!entry->running.usable() || may_be_under_way)) {
        const Expected<WorkloadPods> pods = co_await parts_.pods.read_workload(rollout->key);
        if (!pods) {
            co_return Pull::unanswered;
        }
        if (may_be_under_way && !lacks_target(pods->updated, rollout->targets)) {
            co_return Pull::under_way;
        }
    }
    const bool same = still_the_same(rollout) && may_write();
    co_return same ? Pull::gets_target : Pull::gets_other;
}

// A dry run of the very patch, on whatever state the object is in: the write itself is for the one
// that is known. Then what is around it, unless it goes back: what is broken goes back whatever a
// budget says.
Task<Rollouts::Ready> Rollouts::look_before(Handle rollout) {
    if (!may_write() || !still_the_same(rollout)) {
        co_return Ready::not_due;
    }
    RolloutRow row = rollout->row;
    row.marker = marker_of(row, rollout->targets);
    const std::vector<Target> targets = rollout->targets;
    Workload any = *object(rollout);
    any.resource_version.clear();
    const Patch patch = patch_of(any, row, targets);
    const std::string path = rollout->key.path() + "?fieldManager=keeld&dryRun=All";
    Expected<Json> answer = co_await parts_.cluster.patch(path, patch.type, patch.body);
    const Expected<Workload> would_be =
        answer ? decode_workload(rollout->key.kind, answer->get(), row.marker_key)
               : tl::unexpected<Error>(answer.error());
    if (std::optional<Obstacle> obstacle = judge_dry_run(would_be, row, targets)) {
        block(rollout, std::move(*obstacle));
        co_return Ready::blocked;
    }
    if (!would_be) {
        co_return Ready::unanswered;
    }
    if (!goes_back(rollout)) {
        const WorkloadKey key = rollout->key;
        const CatalogueEntry* entry = parts_.catalogue.find(key);
        const bool crashing = entry != nullptr && entry->running.crashing > 0;
        const Surroundings::Allowed allowed = [this, key](const std::string& code) {
            return is_released(key, code);
        };
        Surroundings::Found found =
            co_await surroundings_.look(*would_be, std::move(*answer), crashing, allowed);
        if (!found) {
            co_return Ready::unanswered;
        }
        if (*found) {
            block(rollout, std::move(**found));
            co_return Ready::blocked;
        }
    }
    obstacles_.erase(rollout->key);
    co_return Ready::yes;
}

bool Rollouts::is_released(const WorkloadKey& key, const std::string& obstacle) const {
    const CatalogueEntry* entry = parts_.catalogue.find(key);
    return entry != nullptr &&
           effective_setting(entry->object, parts_.catalogue.find_namespace(key.ns), parts_.config,
                             "keel.sh/" + obstacle, "")
                   .value == "allow";
}

// Told once for each cause (N1), and looked at again later and later, or when the object changes.
void Rollouts::block(const Handle& rollout, Obstacle obstacle) {
    constexpr Millis kFirst{30'000};
    constexpr int kMostDoublings = 6;
    auto& blocked = obstacles_[rollout->key];
    if (blocked.obstacle != obstacle) {
        blocked.times = 0;
        log(rollout, EntryKind::refused, obstacle.code, obstacle.text);
    }
    blocked.until = parts_.clock.now() + kFirst * (1 << blocked.times);
    blocked.times = std::min(blocked.times + 1, kMostDoublings);
    blocked.obstacle = std::move(obstacle);
    blocked.targets = rollout->targets;
    const Workload* workload = object(rollout);
    blocked.generation = workload != nullptr ? workload->generation : 0;
}

std::optional<ClosedGate> Rollouts::obstacle_gate(const WorkloadKey& key,
                                                  const WorkloadVerdict& verdict) const {
    const auto found = obstacles_.find(key);
    const CatalogueEntry* entry = parts_.catalogue.find(key);
    const bool holds = found != obstacles_.end() && entry != nullptr &&
                       found->second.until > parts_.clock.now() &&
                       found->second.generation == entry->object.generation &&
                       same_write(found->second.targets, verdict.targets);
    if (!holds) {
        return std::nullopt;
    }
    const Obstacle& obstacle = found->second.obstacle;
    return ClosedGate{Gate::preflight, found->second.until, obstacle.code + ": " + obstacle.text};
}

Task<bool> Rollouts::intend(Handle rollout) {
    RolloutRow& row = rollout->row;
    const Workload* workload = object(rollout);
    if (workload == nullptr) {
        end(rollout, "superseded", "workload-gone", "the workload is gone");
        co_return false;
    }
    const bool images = writes_images(rollout->targets);
    row.marker = marker_of(row, rollout->targets);
    row.old_marker = images ? "" : workload->marker;
    row.targets = targets_to_json(rollout->targets);
    row.reason.clear();
    row.text.clear();
    enter(rollout, "intended");
    parts_.ledger.put(row);
    rollout->soak.usual = restarts_an_hour(parts_.catalogue.find(rollout->key)->running);
    keep(rollout);
    log(rollout, EntryKind::intended, images ? "image" : "restart",
        images ? images_text(rollout->targets) : row.marker_key + ": " + row.marker);
    const bool at_once = co_await make_durable(rollout);
    // After a wait for the disk the world may be another one: look and judge again before the
    // write.
    rollout->recovered = !at_once;
    ++metrics_.intended;
    co_return !stopped_;
}

Task<Rollouts::Applied> Rollouts::apply(Handle rollout) {
    // An intent that another run of keeld left behind: the object tells whether it was written.
    bool uncertain = rollout->recovered;
    while (!stopped_) {
        if (uncertain) {
            const Applied known = co_await look_whether_applied(rollout);
            if (known != Applied::refused) {
                co_return known;
            }
        }
        const bool together = co_await write_together(rollout);
        if (!together) {
            co_return stopped_ ? Applied::stopped : Applied::superseded;
        }
        const Applied applied = co_await apply_once(rollout);
        if (applied != Applied::stopped) {
            co_return applied;
        }
        uncertain = true;
    }
    co_return Applied::stopped;
}

// yes: the marker is there. superseded: ended. refused: not written, and still due: to be written
// with the same bytes.
Task<Rollouts::Applied> Rollouts::look_whether_applied(Handle rollout) {
    const std::string path = rollout->key.path();
    std::optional<Steady::time_point> unanswered_since;
    bool looked = false;  // whether it was written is to be known in any mode and without the
                          // Lease; what follows is not
    while (!stopped_) {
        if (looked && parts_.config.mode == Mode::act && !parts_.lease.held()) {
            co_await rollout->changed.wait_until(Steady::now() + kLookAgain);
            continue;
        }
        const Expected<Json> fresh = co_await parts_.cluster.get(path);
        if (!fresh && fresh.error().code == "not-found") {
            end(rollout, "superseded", "workload-gone", "the workload is gone");
            co_return Applied::superseded;
        }
        Expected<Workload> workload =
            fresh ? decode_workload(rollout->key.kind, fresh->get(), rollout->row.marker_key)
                  : tl::unexpected<Error>(fresh.error());
        if (!workload) {
            co_await rollout->changed.wait_until(Steady::now() + kLookAgain);
            continue;
        }
        looked = true;
        const std::int64_t generation = workload->generation;
        const bool ours = is_written(*workload, rollout->row, rollout->targets);
        parts_.catalogue.answered(std::move(*workload));
        if (ours) {
            const std::string what = writes_images(rollout->targets)
                                         ? "what was intended stands in the image field already"
                                         : "the marker was already on the object";
            record_applied(rollout, generation, "found", what);
            co_return Applied::yes;
        }
        if (parts_.config.mode != Mode::act) {
            end(rollout, "superseded", "observe-only", "the mode is observe: nothing is written");
            co_return Applied::superseded;
        }
        if (!parts_.lease.held()) {
            continue;
        }
        const std::vector<Target> before = rollout->targets;
        const Pull pull = co_await ask_what_a_pull_gets(rollout);
        if (pull == Pull::gets_target) {
            co_return Applied::refused;
        }
        rollout->targets = before;
        if (pull == Pull::gets_other && may_write()) {
            end(rollout, "superseded", "not-due",
                "its target was not due any more before it was written");
            co_return Applied::superseded;
        }
        unanswered_since = unanswered_since.value_or(Steady::now());
        if (pull == Pull::unanswered && Steady::now() - *unanswered_since >= kAskAgain) {
            end(rollout, "superseded", std::string(to_string(Reason::target_not_pullable)),
                "not written: what a pull would get could not be asked; it waits again without a "
                "place");
            co_return Applied::superseded;
        }
        co_await rollout->changed.wait_until(Steady::now() + kLookAgain);
    }
    co_return Applied::stopped;
}

// stopped: not known whether it was written, or the object had changed: look, then again.
Task<Rollouts::Applied> Rollouts::apply_once(Handle rollout) {
    const Workload* workload = object(rollout);
    if (workload == nullptr) {
        end(rollout, "superseded", "workload-gone", "the workload is gone");
        co_return Applied::superseded;
    }
    if (!may_write()) {
        co_return Applied::stopped;
    }
    // The patch names the newest state that is known of the object: it must be one that the verdict
    // holds for.
    const std::vector<Target> intended = rollout->targets;
    if (!would_write_the_same(rollout)) {
        end(rollout, "superseded", "not-due",
            "its target was not due any more before it was written");
        co_return Applied::superseded;
    }
    const bool images = writes_images(intended);
    const std::string path = rollout->key.path() + "?fieldManager=keeld";
    const Patch patch = patch_of(*workload, rollout->row, intended);
    const std::function<bool()> may = [this] { return may_write(); };
    const Expected<Json> answer = co_await parts_.cluster.patch(path, patch.type, patch.body, may);
    if (answer) {
        Expected<Workload> fresh =
            decode_workload(rollout->key.kind, answer->get(), parts_.config.defaults.restart_key);
        const std::int64_t generation = fresh ? fresh->generation : rollout->row.generation;
        if (fresh) {
            parts_.catalogue.answered(std::move(*fresh));
        }
        refused_.erase(rollout->key);
        record_applied(rollout, generation, images ? "image" : "restart",
                       images ? images_text(intended) : "the API server accepted the patch");
        co_return Applied::yes;
    }
    const Error& error = answer.error();
    if (error.code == "conflict") {
        ++metrics_.conflicts;
        co_return Applied::stopped;
    }
    if (!nothing_was_written(error)) {
        co_return Applied::stopped;
    }
    auto& [until, times] = refused_[rollout->key];
    times = std::min(times + 1, 7);
    until = parts_.clock.now() + Millis{30'000} * (1 << (times - 1));
    pacing_.give_back(rollout->row.ns,
                      rollout->row.intended);  // nothing was written: it costs no place
    rollout->row.intended = Time{};
    log(rollout, EntryKind::refused, error.code, error.text);
    end(rollout, "failed", "refused", "the API server refused the patch: " + error.text);
    co_return Applied::refused;
}

Task<void> Rollouts::verify(Handle rollout) {
    RolloutRow& row = rollout->row;
    if (rollout->key.kind == WorkloadKind::cron_job) {
        end(rollout, "done", "at-next-run",
            "written, and proven by nothing yet: the next run is the first that pulls it");
        co_return;
    }
    const Workload* workload = object(rollout);
    if (row.deadline == Time{} && workload != nullptr) {
        const Millis own = std::chrono::seconds(workload->progress_deadline) + kPullAllowance;
        row.deadline = row.applied + parts_.config.defaults.deadline.value_or(own);
        parts_.ledger.put(row);
    }
    // The deadline itself runs on the monotonic clock; what is left of it after a restart comes
    // from the wall clock.
    Steady::time_point deadline = Steady::now() + (row.deadline - parts_.clock.now());
    bool came = false;
    if (row.state != "verifying") {
        enter(rollout, "verifying");
        parts_.ledger.put(row);
    }
    while (!stopped_) {
        workload = object(rollout);
        if (workload == nullptr) {
            end(rollout, "superseded", "workload-gone", "the workload is gone");
            co_return;
        }
        if (is_overwritten(rollout)) {
            end(rollout, "superseded", "image-changed",
                "somebody wrote another image before the pods were proven");
            co_return;
        }
        const bool moved = has_moved(rollout);
        const bool known = !moved || holds_are_known(rollout);
        if (moved && known) {
            end(rollout, "superseded", "tag-moved",
                "the tag moved again before its pods were proven");
            co_return;
        }
        const bool arrived = workload->generation >= row.generation && workload->rolled_out();
        // Pods that were there have pulled, and a Deployment that was complete once has no deadline
        // of its own any more: what crashes after its one moment would be waited for in vain.
        const bool complete =
            workload->was_complete && workload->observed_generation >= row.generation;
        if (!came && (arrived || complete)) {
            came = true;
            const Steady::time_point most =
                Steady::now() + std::chrono::seconds(workload->progress_deadline);
            deadline = std::min(deadline, most);
        }
        const bool late =
            Steady::now() >= deadline ||
            (workload->deadline_exceeded && workload->observed_generation >= row.generation);
        Steady::time_point wake = deadline;
        if (!known) {
            wake = std::min(wake, Steady::now() + kLookAgain);
        }
        if (arrived || late) {
            const Expected<Finding> finding = co_await look_at_pods(rollout, late);
            if (finding && is_steady(rollout, *finding) && conclude(rollout, *finding, late)) {
                co_return;
            }
            wake = Steady::now() + kPodInterval;
        }
        co_await rollout->changed.wait_until(wake);
    }
}

Task<Expected<Finding>> Rollouts::look_at_pods(Handle rollout, bool at_deadline) {
    const Expected<WorkloadPods> pods = co_await parts_.pods.read_workload(rollout->key);
    if (!pods) {
        co_return tl::unexpected<Error>(pods.error());
    }
    std::map<std::string, std::string> platforms;
    for (const Pod& pod : pods->updated) {
        const std::string platform = co_await parts_.pods.platform_of(pod.node);
        platforms[pod.node] = platform;
        // What they report may be a digest never met before: resolve it, so that content decides.
        for (const ContainerStatus& status : pod.containers) {
            const std::optional<Digest> reported =
                Digest::parse(digest_of_image_id(status.image_id));
            const auto target = std::ranges::find_if(
                rollout->targets,
                [&status](const Target& one) { return one.container == status.name; });
            if (reported && target != rollout->targets.end() && *reported != target->to) {
                const Tag tag = target->tag;
                const std::vector<std::string> wanted = parts_.pods.platforms();
                const Expected<Content> content =
                    co_await parts_.registry.content(tag, *reported, wanted);
                (void)content;  // not to be had: cannot tell
            }
        }
    }
    const auto content = [this](const Digest& digest) {
        return parts_.registry.known_content(digest);
    };
    co_return inspect(pods->updated, provable(rollout->targets), platforms, content, at_deadline);
}

// R3: once is not enough for pods that are well; anything else is taken as it is seen.
bool Rollouts::is_steady(const Handle& rollout, const Finding& finding) const {
    constexpr int kCrashed = 5;
    if (finding.arrival != Arrival::proven) {
        rollout->well.reset();
        return true;
    }
    if (!rollout->well || rollout->restarts != finding.restarts) {
        rollout->well = Steady::now();
        rollout->restarts = finding.restarts;
    }
    const int times = finding.restarts > 0 ? kCrashed : 1;
    return Steady::now() - *rollout->well >= parts_.steady * times;
}

// What is seen while verifying decides (design.md 5). True: ended.
bool Rollouts::conclude(const Handle& rollout, const Finding& finding, bool at_deadline) {
    RolloutRow& row = rollout->row;
    const std::vector<Target> seen = provable(rollout->targets);
    std::string counted = std::to_string(finding.proven) + " of " + std::to_string(finding.pods) +
                          (seen.empty() ? " new pods are ready" : " new pods run the target");
    for (const Target& target : rollout->targets) {
        if (!is_provable(target)) {
            counted += "; which content they have of " + target.container +
                       " is not in their status: not proven";
        }
    }
    switch (finding.arrival) {
        case Arrival::proven:
            // Beyond the deadline the pods that are there may be well while others are still
            // missing.
            if (at_deadline && (object(rollout) == nullptr || !object(rollout)->rolled_out())) {
                end(rollout, "failed", "stalled",
                    counted + "; not all are there by the deadline, and none of them is unwell");
                return true;
            }
            if (!seen.empty()) {
                log(rollout, EntryKind::verified, "proven", counted);
            }
            prove(rollout, seen.size() == rollout->targets.size() ? "proven" : "unproven", counted);
            return true;
        case Arrival::later:
            end(rollout, "superseded", "later-digest",
                finding.text + ", a later digest of the tag");
            return true;
        case Arrival::previous:
            if (row.attempt < kMaxAttempts) {
                end(rollout, "superseded", "stale-pull",
                    finding.text + " after the restart: a stale pull, tried once more");
                return true;
            }
            end(rollout, "failed", "stalled",
                finding.text + " after two restarts: pulls on that node do not get the target");
            return true;
        case Arrival::crashing:
            reject(row, rollout->targets, finding.container, finding.text);
            end(rollout, "failed", "content", finding.text);
            return true;
        case Arrival::cannot_tell:
        case Arrival::on_the_way:
        case Arrival::unschedulable:
        case Arrival::not_pulled:
            if (!at_deadline) {
                return false;
            }
            end(rollout, "failed", "stalled",
                "deadline passed: " + finding.text + "; not a fault of the content");
            return true;
    }
    return false;
}

// The new content runs. Done, or first it has to stay well for a while: then its place is free.
void Rollouts::prove(const Handle& rollout, const std::string& reason, const std::string& counted) {
    const CatalogueEntry* entry = parts_.catalogue.find(rollout->key);
    const Millis time = entry != nullptr ? parts_.judge(*entry).settings->soak.parsed : Millis{0};
    if (time == Millis{0}) {
        end(rollout, "done", reason, counted);
        return;
    }
    RolloutRow& row = rollout->row;
    rollout->soak.begun = parts_.clock.now();
    row.deadline = rollout->soak.begun + time;
    row.reason = reason;
    row.text = counted + "; soaks until " + format_time(row.deadline);
    enter(rollout, kSoaking);
    parts_.ledger.put(row);
    keep(rollout);
    stop_running(rollout);
    wake_waiting();
}

// Readiness is not health (R3): the new pods are looked at until they have stayed well for the
// whole soak. What is unready at its end has its minute yet.
Task<void> Rollouts::soak(Handle rollout) {
    RolloutRow& row = rollout->row;
    const Millis time = row.deadline - rollout->soak.begun;
    const Millis interval = std::clamp(time / 20, Millis{500}, kSoakInterval);
    Steady::time_point next{};
    while (!stopped_) {
        if (object(rollout) == nullptr) {
            end(rollout, "superseded", "workload-gone", "the workload is gone");
            co_return;
        }
        if (is_ordered_back(row.uid, row.id)) {
            end(rollout, "failed", kRollback, "a person took it back while it soaked");
            co_return;
        }
        if (is_overwritten(rollout)) {
            end(rollout, "superseded", "image-changed",
                "somebody wrote another image while it soaked");
            co_return;
        }
        if (has_moved(rollout) && holds_are_known(rollout)) {
            const bool back = std::ranges::all_of(rollout->targets, [this](const Target& target) {
                const TagInfo* info = parts_.tags.find(target.tag);
                return info == nullptr || info->pulled() == target.to ||
                       info->pulled().to_string() == target.from;
            });
            end(rollout, back ? "recalled" : "superseded", back ? "tag-went-back" : "tag-moved",
                back ? "the tag went back to what ran before, while it soaked"
                     : "the tag moved again while it soaked");
            co_return;
        }
        if (Steady::now() >= next) {
            next = Steady::now() + interval;
            const Expected<WorkloadPods> pods = co_await parts_.pods.read_workload(rollout->key);
            if (pods && row.ended == Time{} && stayed_well(rollout, pods->updated)) {
                co_return;
            }
        }
        co_await rollout->changed.wait_until(std::min(next, Steady::now() + kLookAgain));
    }
}

// True: ended, well or not.
bool Rollouts::stayed_well(const Handle& rollout, const std::vector<Pod>& updated) {
    const std::string before = rollout->soak.to_json();
    const Time now = parts_.clock.now();
    if (const auto unwell = look(rollout->soak, updated, rollout->targets, now)) {
        reject(rollout->row, rollout->targets, unwell->container, unwell->text);
        end(rollout, "failed", "content", unwell->text);
        return true;
    }
    if (now >= rollout->row.deadline && std::ranges::all_of(updated, &Pod::ready)) {
        end(rollout, "done", rollout->row.reason,
            std::to_string(updated.size()) + " new pods stayed well for " +
                format_duration(rollout->row.deadline - rollout->soak.begun));
        return true;
    }
    if (rollout->soak.to_json() != before) {
        keep(rollout);
    }
    return false;
}

void Rollouts::keep(const Handle& rollout) {
    parts_.ledger.put(DocumentRow{kSoak, rollout->row.id, rollout->soak.to_json()});
}

// What a pull gets is another digest by now.
bool Rollouts::has_moved(const Handle& rollout) const {
    return std::ranges::any_of(rollout->targets, [this](const Target& target) {
        const TagInfo* info = parts_.tags.find(target.tag);
        return info != nullptr && info->pulled() != target.to;
    });
}

// A container that was rolled follows another tag by now, or is gone: what it runs says nothing of
// the target.
bool Rollouts::is_overwritten(const Handle& rollout) const {
    const CatalogueEntry* entry = parts_.catalogue.find(rollout->key);
    if (entry == nullptr || entry->object.generation < rollout->row.generation) {
        return false;
    }
    const std::vector<Container>& containers = entry->object.containers;
    return std::ranges::any_of(rollout->targets, [&](const Target& target) {
        const auto found = std::ranges::find(containers, target.container, &Container::name);
        if (found == containers.end()) return true;
        const auto& reference =
            entry->references[static_cast<std::size_t>(found - containers.begin())];
        return !reference || reference->tag() != target.tag;
    });
}

// Right after a start what moved may be a hold that nobody has read yet.
bool Rollouts::holds_are_known(const Handle& rollout) const {
    return std::ranges::all_of(rollout->targets,
                               [this](const Target& one) { return parts_.holds_known(one.tag); });
}

// ---- Small steps ----

// Judges again; keeps targets and verdict up to date while nothing is intended.
bool Rollouts::still_due(const Handle& rollout) {
    const CatalogueEntry* entry = parts_.catalogue.find(rollout->key);
    if (entry == nullptr || entry->object.uid != rollout->row.uid) {
        return false;
    }
    rollout->verdict = parts_.judge(*entry);
    const bool back = way_now(rollout->key, rollout->verdict) != nullptr;
    if (rollout->verdict.targets.empty() || back != goes_back(rollout)) {
        return false;
    }
    rollout->targets = rollout->verdict.targets;
    return true;
}

// It is due, and what it would write and prove now is what it was going to.
bool Rollouts::still_the_same(const Handle& rollout) {
    const std::vector<Target> before = rollout->targets;
    return still_due(rollout) && same_write(rollout->targets, before) &&
           (goes_back(rollout) || !parts_.approvals.gate(*object(rollout), rollout->verdict));
}

// The same of one that is intended: what was intended stays.
bool Rollouts::would_write_the_same(const Handle& rollout) {
    const std::vector<Target> intended = rollout->targets;
    const bool same = still_the_same(rollout);
    rollout->targets = intended;
    return same;
}

const Workload* Rollouts::object(const Handle& rollout) const {
    const CatalogueEntry* entry = parts_.catalogue.find(rollout->key);
    return entry != nullptr && entry->object.uid == rollout->row.uid ? &entry->object : nullptr;
}

void Rollouts::enter(const Handle& rollout, const std::string& state) {
    rollout->row.state = state;
}

// The object has what was intended: what follows is to prove it.
void Rollouts::record_applied(const Handle& rollout, std::int64_t generation,
                              const std::string& code, const std::string& text) {
    RolloutRow& row = rollout->row;
    row.generation = generation;
    row.applied = parts_.clock.now();
    enter(rollout, "rolling");
    for (const Target& target : rollout->targets) {
        if (!target.image.empty()) {
            written_[{row.uid, target.container}] = target.image;
        }
    }
    parts_.ledger.put(row);
    log(rollout, EntryKind::applied, code, text);
    ++metrics_.applied;
    parted_.erase(rollout->key);
    if (rollout->batch) {
        rollout->batch->written.push_back(row.workload);
        tell_parted(*rollout->batch);
        come(rollout);
        wake(rollout->batch);
    }
}

void Rollouts::log(const Handle& rollout, EntryKind kind, const std::string& code,
                   const std::string& text) {
    for (const Target& target : rollout->targets) {
        if (kind == EntryKind::verified && !is_provable(target)) {
            continue;
        }
        Entry entry;
        entry.at = parts_.clock.now();
        entry.kind = kind;
        entry.workload = rollout->row.workload;
        entry.uid = rollout->row.uid;
        entry.container = target.container;
        entry.tag = target.tag.to_string();
        entry.from = target.from;
        entry.to = target.to.to_string();
        entry.rollout = rollout->row.id;
        entry.code = code;
        entry.cause = rollout->row.cause;
        entry.text = text;
        parts_.ledger.append(std::move(entry));
    }
}

void Rollouts::reject(const RolloutRow& row, const std::vector<Target>& targets,
                      const std::string& container, const std::string& text) {
    for (const Target& target : targets) {
        if (!container.empty() && target.container != container) {
            continue;
        }
        RejectedRow rejected;
        rejected.uid = row.uid;
        rejected.workload = row.workload;
        rejected.tag = target.tag.to_string();
        rejected.digest = target.to.to_string();
        rejected.rollout = row.id;
        rejected.at = parts_.clock.now();
        rejected.text = text;
        rejected_[rejection_key(rejected.uid, rejected.tag, rejected.digest)] = text;
        parts_.ledger.put(std::move(rejected));
    }
}

void Rollouts::end(const Handle& rollout, const std::string& state, const std::string& reason,
                   const std::string& text) {
    RolloutRow& row = rollout->row;
    const bool written = row.state != "waiting" && row.state != "preflight";
    row.state = state;
    row.reason = reason;
    row.text = text;
    row.ended = parts_.clock.now();
    if (rollout->place && !written) {
        pacing_.give_back(row.ns, row.intended);
    }
    if (rollout->batch && row.applied == Time{}) {
        leave_unwritten(rollout);
    }
    if (rollout->running) {
        stop_running(rollout);
    }
    if (written) {
        parts_.ledger.put(row);
        log(rollout, EntryKind::outcome, state, row.reason + ": " + row.text);
        remember(row, ended_from(row, rollout->targets));
        parts_.gates.ended(row);
        parts_.ledger.erase_document(kSoak, row.id);
        if (goes_back(rollout) && row.applied != Time{}) {
            end_way(rollout);
        }
        if (state != "superseded") {
            parts_.approvals.used(row.uid, rollout->targets);
        }
        metrics_.done += state == "done" ? 1 : 0;
        metrics_.failed += state == "failed" ? 1 : 0;
        metrics_.superseded += state == "superseded" ? 1 : 0;
        metrics_.recalled += state == "recalled" ? 1 : 0;
        metrics_.stalled += reason == "stalled" ? 1 : 0;
    }
    if (const auto found = active_.find(rollout->key);
        found != active_.end() && found->second == rollout) {
        active_.erase(found);
    }
    parts_.reconsider(rollout->key);
    wake_waiting();
}

// Nobody acts on what is not on disk: waits until it is. True: it was at once.
Task<bool> Rollouts::make_durable(Handle rollout) {
    for (bool at_once = true; !stopped_; at_once = false) {
        const Expected<void> done = co_await parts_.ledger.durable();
        if (done) {
            co_return at_once;
        }
        rollout->row.text = done.error().text;
        co_await rollout->changed.wait_until(Steady::now() + std::chrono::seconds(1));
    }
    co_return false;
}

}  // namespace keel
