#include "keeld/rollout/phases.h"

#include <algorithm>
#include <utility>

#include "core/time.h"

namespace keel {
namespace {

constexpr const char* kKind = "phase";
constexpr Millis kReadPods = std::chrono::minutes{10};
constexpr auto kReadAgain = std::chrono::seconds(5);

json_t* time_or_null(Time time) {
    return time == Time{} ? json_null() : json_text(format_time(time));
}

Time time_of(const json_t* object, const char* key) {
    return parse_time(text_of(object, key)).value_or(Time{});
}

int number_of(const json_t* object, const char* key) {
    return static_cast<int>(json_integer_value(json_object_get(object, key)));
}

}  // namespace

PhaseState PhaseRecord::effective() const {
    return paused != Time{} && state != PhaseState::waiting ? PhaseState::paused : state;
}

std::string phase_to_json(const PhaseRecord& record) {
    const Json root(json_object());
    const auto set = [&root](const char* key, json_t* value) {
        json_object_set_new(root.get(), key, value);
    };
    set("state", json_text(to_string(record.state)));
    set("begun", time_or_null(record.begun));
    set("soaking", time_or_null(record.soaking));
    set("accepted", time_or_null(record.accepted));
    set("completed", time_or_null(record.completed));
    set("completed_by", json_text_or_null(record.completed_by));
    set("paused", time_or_null(record.paused));
    set("paused_by", json_text_or_null(record.paused_by));
    set("paused_reason", json_text_or_null(record.paused_reason));
    set("violation", json_text_or_null(record.violation));
    set("violations", json_integer(record.violations));
    set("gone", json_boolean(record.gone));
    json_t* list = json_array();
    for (const auto& [workload, one] : record.followed) {
        json_t* item = json_object();
        json_object_set_new(item, "workload", json_text(workload));
        json_object_set_new(item, "uid", json_text(one.uid));
        json_object_set_new(item, "targets", json_text(one.targets));
        json_object_set_new(item, "due", time_or_null(one.due));
        json_object_set_new(item, "reached", time_or_null(one.reached));
        json_object_set_new(item, "crashing", time_or_null(one.crashing));
        json_object_set_new(item, "restarts", json_integer(one.restarts));
        json_array_append_new(list, item);
    }
    set("followed", list);
    return dump_json(root.get());
}

PhaseRecord phase_from_json(const std::string& name, const std::string& json) {
    const Json root = parse_json(json);
    PhaseRecord record;
    record.name = name;
    record.state = parse_phase_state(text_of(root.get(), "state")).value_or(PhaseState::waiting);
    record.begun = time_of(root.get(), "begun");
    record.soaking = time_of(root.get(), "soaking");
    record.accepted = time_of(root.get(), "accepted");
    record.completed = time_of(root.get(), "completed");
    record.completed_by = text_of(root.get(), "completed_by");
    record.paused = time_of(root.get(), "paused");
    record.paused_by = text_of(root.get(), "paused_by");
    record.paused_reason = text_of(root.get(), "paused_reason");
    record.violation = text_of(root.get(), "violation");
    record.violations = number_of(root.get(), "violations");
    record.gone = json_is_true(json_object_get(root.get(), "gone"));
    std::size_t at = 0;
    json_t* item = nullptr;
    json_array_foreach(json_object_get(root.get(), "followed"), at, item) {
        Followed& one = record.followed[std::string(text_of(item, "workload"))];
        one.uid = text_of(item, "uid");
        one.targets = text_of(item, "targets");
        one.due = time_of(item, "due");
        one.reached = time_of(item, "reached");
        one.crashing = time_of(item, "crashing");
        one.restarts = number_of(item, "restarts");
    }
    return record;
}

Phases::Phases(Parts parts)
    : parts_(std::move(parts)), wake_(parts_.loop), pods_wake_(parts_.loop) {
    for (const DocumentRow& row : parts_.ledger.documents(kKind)) {
        records_.emplace(row.key, phase_from_json(row.key, row.json));
    }
    set_states();
}

PhaseRecord& Phases::record(const std::string& name) {
    PhaseRecord& found = records_[name];
    found.name = name;
    return found;
}

const PhaseRecord* Phases::find(const std::string& name) const {
    const auto found = records_.find(name);
    return found != records_.end() ? &found->second : nullptr;
}

const PhaseConfig* Phases::configured(const std::string& name) const {
    const auto found = std::ranges::find(parts_.config.phases, name, &PhaseConfig::name);
    return found != parts_.config.phases.end() ? &*found : nullptr;
}

const PhaseConfig* Phases::active() const {
    const auto found = std::ranges::find_if(parts_.config.phases, [this](const PhaseConfig& one) {
        const PhaseRecord* record = find(one.name);
        return record != nullptr && record->state == PhaseState::active;
    });
    return found != parts_.config.phases.end() ? &*found : nullptr;
}

// Null where none claims it, or two do.
const PhaseConfig* Phases::phase_of(const std::string& ns) const {
    const std::vector<const PhaseConfig*> all =
        phases_of(ns, parts_.catalogue.find_namespace(ns), parts_.config);
    return all.size() == 1 ? all.front() : nullptr;
}

std::string Phases::closed(const std::string& ns) const {
    const PhaseConfig* phase = phase_of(ns);
    const PhaseRecord* record = phase != nullptr ? find(phase->name) : nullptr;
    if (record == nullptr || record->paused == Time{}) {
        return "";
    }
    return "the phase " + phase->name + " is paused by " + record->paused_by +
           (record->paused_reason.empty() ? "" : ": " + record->paused_reason);
}

std::map<std::string, std::string> Phases::conflicts() const {
    std::map<std::string, std::string> found;
    if (parts_.config.phases.size() < 2) {
        return found;
    }
    for (const auto& [name, ns] : parts_.catalogue.namespaces()) {
        const std::vector<const PhaseConfig*> all = phases_of(name, &ns, parts_.config);
        if (all.size() > 1) {
            found[name] = all[0]->name + " and " + all[1]->name;
        }
    }
    return found;
}

// ---- What happens ----

void Phases::judged(const WorkloadKey& key, const CatalogueEntry* entry,
                    const WorkloadVerdict& verdict) {
    const PhaseConfig* phase = active();
    if (phase == nullptr || phase_of(key.ns) != phase) {
        return;
    }
    if (entry == nullptr) {
        judged_.erase(key);
    } else {
        judged_[key] = Judged{entry->object.uid, verdict.verdict, verdict.reason,
                              targets_text(verdict.targets)};
    }
    look();
}

void Phases::start() {
    started_ = true;
    reconfigured();
}

void Phases::look() {
    due_ = true;
    wake_.notify();
}

void Phases::stop() {
    stopped_ = true;
    wake_.notify();
    pods_wake_.notify();
}

// States of phases that the configuration does not know stay in the ledger: they count again when
// their name is back.
void Phases::reconfigured() {
    for (auto& [name, record] : records_) {
        const bool gone = configured(name) == nullptr;
        if (gone != record.gone) {
            record.gone = gone;
            save(record);
            log(EntryKind::planned, gone ? "phase-gone" : "phase-back", "plan",
                "phase " + name + " (" + std::string(to_string(record.effective())) + ") is " +
                    (gone ? "not in the configuration any more: its namespaces are released"
                          : "in the configuration again"));
        }
    }
    judged_.clear();
    read_ = Time{};
    set_states();
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        parts_.reconsider(key);
    }
    look();
}

void Phases::set_states() {
    parts_.states.clear();
    for (const PhaseConfig& phase : parts_.config.phases) {
        if (const PhaseRecord* record = find(phase.name)) {
            parts_.states[phase.name] = record->effective();
        }
    }
}

Task<void> Phases::run() {
    while (!stopped_) {
        if (started_ && due_) {
            due_ = false;
            evaluate();
        }
        if (!due_ || !started_) {
            const Steady::time_point until =
                next_ == Time{} ? Steady::time_point::max() : parts_.clock.when(next_);
            co_await wake_.wait_until(until);
            due_ = due_ || (next_ != Time{} && parts_.clock.now() >= next_);
        }
    }
}

void Phases::evaluate() {
    next_ = Time{};
    if (parts_.config.phases.empty() || !parts_.may_act()) {
        return;
    }
    begin_next();
    if (const PhaseConfig* phase = active()) {
        follow(*phase);
        assess_active(*phase);
    }
}

void Phases::begin_next() {
    if (active() != nullptr) {
        return;
    }
    const auto next = std::ranges::find_if(parts_.config.phases, [this](const PhaseConfig& one) {
        const PhaseRecord* record = find(one.name);
        return record == nullptr || record->state == PhaseState::waiting;
    });
    if (next == parts_.config.phases.end() || record(next->name).paused != Time{}) {
        return;
    }
    PhaseRecord& begun = record(next->name);
    begun.state = PhaseState::active;
    begun.begun = parts_.clock.now();
    judged_.clear();
    read_ = Time{};
    save(begun);
    log(EntryKind::planned, "phase-begun", "plan", "phase " + next->name + " begins");
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        if (phase_of(key.ns) == &*next) {
            parts_.reconsider(key);
        }
    }
}

// Remembers who was due, and who has arrived.
void Phases::follow(const PhaseConfig& phase) {
    PhaseRecord& record = this->record(phase.name);
    bool changed = false;
    for (const auto& [key, judged] : judged_) {
        const std::string name = key.to_string();
        const auto known = record.followed.find(name);
        const bool followed = known != record.followed.end();
        if (judged.verdict == Verdict::roll && (!followed || known->second.uid != judged.uid ||
                                                known->second.targets != judged.targets)) {
            Followed& one = record.followed[name];
            one.uid = judged.uid;
            one.targets = judged.targets;
            one.due = parts_.clock.now();
            one.reached = Time{};
            changed = true;
        } else if (followed && judged.verdict == Verdict::current &&
                   known->second.reached == Time{}) {
            known->second.reached = parts_.clock.now();
            changed = true;
        } else if (followed && known->second.reached != Time{} && is_unproven(judged.reason)) {
            // It was there, and is to be proven anew: keeld has started, or its pods are others.
            known->second.due = parts_.clock.now();
            known->second.reached = Time{};
            changed = true;
        }
    }
    if (changed) {
        save(record);
    }
}

std::vector<Member> Phases::members(const PhaseConfig& phase) const {
    std::vector<Member> all;
    const PhaseRecord* record = find(phase.name);
    std::map<std::string, bool> own;  // by namespace
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        const auto [at, added] = own.try_emplace(key.ns, false);
        if (added) {
            at->second = phase_of(key.ns) == &phase;
        }
        if (!at->second) {
            continue;
        }
        Member member;
        member.workload = key.to_string();
        if (const auto judged = judged_.find(key);
            judged != judged_.end() && judged->second.uid == entry.object.uid) {
            member.judged = true;
            member.verdict = judged->second.verdict;
            member.reason = judged->second.reason;
        }
        const auto followed = record->followed.find(member.workload);
        if (followed != record->followed.end() && followed->second.uid == entry.object.uid) {
            member.followed = true;
            member.due = followed->second.due;
            member.crashing = followed->second.crashing;
        }
        all.push_back(std::move(member));
    }
    return all;
}

void Phases::assess_active(const PhaseConfig& phase) {
    PhaseRecord& record = this->record(phase.name);
    const Time now = parts_.clock.now();
    const bool paused = record.paused != Time{};
    const Assessment found = assess(members(phase), phase.accept, record.begun, paused, now);
    next_ = found.next;
    const auto wake_at = [this](Time moment) {
        next_ = next_ == Time{} ? moment : std::min(next_, moment);
    };
    if (read_ == Time{}) {
        read_ = now;  // verdicts are made of what has just been read
    }
    if (!record.followed.empty()) {
        if (now >= read_ + kReadPods) {
            reading_ = true;
            pods_wake_.notify();
        } else {
            wake_at(read_ + kReadPods);
        }
    }
    if (!found.violations.empty()) {
        violate(record, found.violations.front());
        return;
    }
    if (record.soaking == Time{}) {
        if (!found.settled) {
            return;
        }
        record.soaking = now;
        save(record);
        log(EntryKind::planned, "phase-soaking", "plan",
            "phase " + phase.name + ": everything has rolled; it soaks until " +
                format_time(now + phase.soak));
    }
    const Time end = record.soaking + phase.soak;
    if (now < end) {
        wake_at(end);
        return;
    }
    if (paused || !found.settled || reading_) {
        return;
    }
    // What runs is checked at the end as well.
    if (read_ < end && !record.followed.empty()) {
        reading_ = true;
        pods_wake_.notify();
        return;
    }
    if (phase.automatic) {
        complete(phase, "", "");
    } else if (record.accepted == Time{}) {
        record.accepted = now;
        save(record);
        log(EntryKind::planned, "phase-accepted", "plan",
            "phase " + phase.name + " is accepted; keelctl phase advance " + phase.name +
                " completes it");
    }
}

void Phases::violate(PhaseRecord& record, const std::string& violation) {
    if (record.soaking == Time{} && record.violation == violation) {
        return;
    }
    const bool soaked = record.soaking != Time{};
    record.soaking = Time{};
    record.accepted = Time{};
    record.violation = violation;
    ++record.violations;
    save(record);
    log(EntryKind::planned, "phase-violated", "plan",
        "phase " + record.name + ": " + violation +
            (soaked ? "; it soaks again from the begin once that is over" : ""));
}

void Phases::complete(const PhaseConfig& phase, const std::string& by, const std::string& reason) {
    PhaseRecord& record = this->record(phase.name);
    record.state = PhaseState::completed;
    record.completed = parts_.clock.now();
    record.completed_by = by;
    save(record);
    judged_.clear();
    if (by.empty()) {
        log(EntryKind::planned, "phase-completed", "plan", "phase " + phase.name + " is completed");
    } else {
        log(EntryKind::ordered, "phase-advance", by,
            "phase " + phase.name + " is completed" + (reason.empty() ? "" : ": " + reason));
    }
    look();  // the next one begins
}

// ---- Pods ----

Task<void> Phases::run_pods() {
    while (!stopped_) {
        if (!reading_) {
            co_await pods_wake_.wait_until(Steady::time_point::max());
            continue;
        }
        const PhaseConfig* phase = active();
        std::string name = phase != nullptr ? phase->name : "";
        const Time now = parts_.clock.now();
        Expected<void> done{};
        if (!name.empty()) {
            done = co_await read_phase(std::move(name));
        }
        failing_ = !done;
        if (done) {
            read_ = now;
            reading_ = false;
            look();
        } else {
            co_await pods_wake_.wait_until(Steady::now() + kReadAgain);
        }
    }
}

Task<Expected<void>> Phases::read_phase(std::string name) {
    std::set<std::string> namespaces;
    for (const auto& [workload, one] : records_[name].followed) {
        if (const Expected<WorkloadKey> key = WorkloadKey::parse(workload)) {
            namespaces.insert(key->ns);
        }
    }
    for (const std::string& ns : namespaces) {
        std::string asked = ns;
        const Expected<void> done = co_await parts_.read_pods(std::move(asked));
        if (!done || stopped_) {
            co_return done;
        }
        note_pods(records_[name], ns);
    }
    co_return Expected<void>{};
}

// A crash loop is told by one look that meets it between two starts, and goes on for as long as
// containers are started again.
void Phases::note_pods(PhaseRecord& record, const std::string& ns) {
    bool changed = false;
    for (auto& [workload, one] : record.followed) {
        const Expected<WorkloadKey> key = WorkloadKey::parse(workload);
        const CatalogueEntry* entry = key && key->ns == ns ? parts_.catalogue.find(*key) : nullptr;
        if (entry == nullptr || entry->object.uid != one.uid) {
            continue;
        }
        const Running& running = entry->running;
        const bool again = one.crashing != Time{} && running.restarts > one.restarts;
        const bool crashing = running.crashing > 0 || again;
        changed = changed || crashing != (one.crashing != Time{}) ||
                  (crashing && running.restarts != one.restarts);
        one.crashing = !crashing                ? Time{}
                       : one.crashing != Time{} ? one.crashing
                                                : parts_.clock.now();
        one.restarts = running.restarts;
    }
    if (changed) {
        save(record);
    }
    // What was decided on older readings counts no more; those on this one are on their way.
    std::erase_if(judged_, [&ns](const auto& one) { return one.first.ns == ns; });
}

// ---- People ----

Task<std::vector<OrderResult>> Phases::order(Order order) {
    std::vector<OrderResult> results;
    results.push_back(obey(order));
    if (results.front().ok && !order.dry_run) {
        const Expected<void> kept = co_await parts_.ledger.durable();
        if (!kept) {
            results.front() = OrderResult{order.on, false, "ledger",
                                          "it holds, but is not on disk yet: " + kept.error().text};
        }
    }
    co_return results;
}

OrderResult Phases::obey(const Order& order) {
    const PhaseConfig* phase = configured(order.on);
    const auto refuse = [&order](std::string code, std::string text) {
        return OrderResult{order.on, false, std::move(code), std::move(text)};
    };
    if (phase == nullptr) {
        return refuse("unknown-phase", "the configuration has no phase of this name");
    }
    if (order.action == "phase-advance") {
        const PhaseRecord* known = find(order.on);
        if (known == nullptr || known->state != PhaseState::active) {
            const bool over = known != nullptr && known->state == PhaseState::completed;
            return refuse(over ? "completed" : "not-active",
                          over ? "it is completed already" : "it has not begun");
        }
        if (known->accepted == Time{} || known->paused != Time{}) {
            const std::vector<View> all = views();
            const auto view = std::ranges::find_if(
                all, [&order](const View& one) { return one.record.name == order.on; });
            return refuse("not-accepted", "not yet: " + view->text);
        }
        if (!order.dry_run) {
            complete(*phase, order.author, order.reason);
        }
        return OrderResult{order.on, true, "completed", "it is completed; the next phase begins"};
    }
    const bool pause = order.action == "phase-pause";
    const PhaseRecord* known = find(order.on);
    const bool paused = known != nullptr && known->paused != Time{};
    if (paused == pause) {
        return refuse(pause ? "paused" : "not-paused",
                      pause ? "it is paused already, by " + known->paused_by : "it is not paused");
    }
    if (!order.dry_run) {
        PhaseRecord& changed = record(order.on);
        changed.paused = pause ? parts_.clock.now() : Time{};
        changed.paused_by = pause ? order.author : "";
        changed.paused_reason = pause ? order.reason : "";
        for (auto& [workload, one] : changed.followed) {
            // Nothing could start meanwhile.
            one.due = !pause && one.reached == Time{} ? parts_.clock.now() : one.due;
        }
        save(changed);
        log(EntryKind::ordered, order.action, order.author,
            "phase " + order.on + (pause ? " is paused" : " is resumed") +
                (order.reason.empty() ? "" : ": " + order.reason));
        for (const auto& [key, entry] : parts_.catalogue.workloads()) {
            if (phase_of(key.ns) == phase) {
                parts_.reconsider(key);
            }
        }
        look();
    }
    return OrderResult{
        order.on, true, pause ? "paused" : "resumed",
        pause ? "nothing new starts there until it is resumed" : "it goes on where it was"};
}

// ---- Telling ----

std::vector<Phases::View> Phases::views() const {
    std::vector<View> all;
    const auto add = [this, &all](const std::string& name, const PhaseConfig* phase) {
        View view;
        const PhaseRecord* known = find(name);
        if (known != nullptr) {
            view.record = *known;
            view.record.followed.clear();
        }
        view.record.name = name;
        view.configured = phase != nullptr;
        if (phase != nullptr && view.record.state == PhaseState::active) {
            view.assessment = assess(members(*phase), phase->accept, known->begun,
                                     known->paused != Time{}, parts_.clock.now());
            view.until = known->soaking == Time{} ? Time{} : known->soaking + phase->soak;
        }
        const PhaseRecord& record = view.record;
        view.stage = record.paused != Time{}              ? "paused"
                     : record.state != PhaseState::active ? std::string(to_string(record.state))
                     : record.accepted != Time{}          ? "accepted"
                     : record.soaking != Time{}           ? "soaking"
                                                          : "rolling";
        view.text = sentence(view, phase);
        all.push_back(std::move(view));
    };
    for (const PhaseConfig& phase : parts_.config.phases) {
        add(phase.name, &phase);
    }
    for (const auto& [name, record] : records_) {
        if (configured(name) == nullptr) {
            add(name, nullptr);
        }
    }
    return all;
}

std::string Phases::sentence(const View& view, const PhaseConfig* phase) const {
    const PhaseRecord& record = view.record;
    if (phase == nullptr) {
        return "not in the configuration: its namespaces are not enrolled by it";
    }
    if (view.stage == "paused") {
        return "paused by " + record.paused_by +
               (record.paused_reason.empty() ? "" : ": " + record.paused_reason) +
               "; keelctl phase resume " + record.name + " lets it go on";
    }
    if (view.stage == "waiting") {
        return parts_.config.mode == Mode::act ? "begins when those before it are completed"
                                               : "begins in mode act";
    }
    if (view.stage == "completed") {
        return record.completed_by.empty() ? "completed by the plan"
                                           : "completed by " + record.completed_by;
    }
    if (view.stage == "accepted") {
        return "accepted; keelctl phase advance " + record.name + " completes it";
    }
    const Assessment& found = *view.assessment;
    std::string text;
    if (!found.violations.empty()) {
        text = found.violations.front();
    } else if (!found.settled) {
        text = std::to_string(found.on_the_way) + " on their way, " +
               std::to_string(found.unknown) + " not known yet";
    }
    if (view.stage == "soaking") {
        const bool over = view.until <= parts_.clock.now();
        text = (over ? std::string("its soak is over") : "soaks until " + format_time(view.until)) +
               (text.empty() ? "" : "; " + text);
    }
    return text.empty() ? "its soak begins" : text;
}

void Phases::save(const PhaseRecord& record) {
    parts_.ledger.put(DocumentRow{kKind, record.name, phase_to_json(record)});
    set_states();
}

void Phases::log(EntryKind kind, const std::string& code, const std::string& cause,
                 const std::string& text) {
    Entry entry;
    entry.at = parts_.clock.now();
    entry.kind = kind;
    entry.code = code;
    entry.cause = cause;
    entry.text = text;
    parts_.ledger.append(std::move(entry));
}

}  // namespace keel
