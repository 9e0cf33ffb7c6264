#include "keeld/rollout/gates.h"

#include <algorithm>
#include <utility>

#include "core/glob.h"
#include "keeld/json.h"
#include "keeld/zone.h"

namespace keel {
namespace {

constexpr const char* kPause = "pause";
constexpr const char* kBreaker = "breaker";
constexpr const char* kException = "exception";
constexpr const char* kCluster = "cluster";
constexpr std::string_view kNamespace = "namespace/";
constexpr int kPage = 1000;

Time time_of(const json_t* object, const char* key) {
    return parse_time(text_of(object, key)).value_or(Time{});
}

bool has_failed(const RolloutRow& row) {
    return row.state == "failed" || row.state == "rolled-back";
}

// Only what was written says anything of the content: done, or failed on it. What goes back to the
// old one says nothing of the new.
bool counts(const RolloutRow& row) {
    return restores(row).empty() &&
           (row.state == "done" || (has_failed(row) && row.reason == "content"));
}

}  // namespace

Expected<std::string> parse_scope(const std::string& text) {
    if (text == kCluster || (text.starts_with(kNamespace) && text.size() > kNamespace.size() &&
                             std::ranges::count(text, '/') == 1)) {
        return text;
    }
    const Expected<WorkloadKey> key = WorkloadKey::parse(text);
    if (!key) {
        return fail("bad-action",
                    "on: \"" + text + "\" is none of cluster, namespace/NAME, KIND/NAMESPACE/NAME");
    }
    return key->to_string();
}

Gates::Gates(Parts parts) : parts_(parts) {
    for (const DocumentRow& row : parts_.ledger.documents(kPause)) {
        const Json json = parse_json(row.json);
        pauses_[row.key] = {row.key, std::string(text_of(json.get(), "author")),
                            std::string(text_of(json.get(), "reason")),
                            time_of(json.get(), "since")};
    }
    for (const DocumentRow& row : parts_.ledger.documents(kBreaker)) {
        const Json json = parse_json(row.json);
        opened_ = time_of(json.get(), "opened");
        resumed_ = time_of(json.get(), "resumed");
        breaker_text_ = text_of(json.get(), "text");
    }
    for (const DocumentRow& row : parts_.ledger.documents(kException)) {
        exceptions_[row.key] = text_of(parse_json(row.json).get(), "targets");
    }
    // Newest first in the ledger, by the begin of the rollouts.
    const auto wanted = static_cast<std::size_t>(parts_.config.breaker.of);
    std::string after;
    while (outcomes_.size() < wanted) {
        const std::vector<RolloutRow> rows = parts_.ledger.rollouts("", after, kPage);
        for (const RolloutRow& row : rows) {
            if (counts(row) && row.ended > resumed_ && outcomes_.size() < wanted) {
                outcomes_.push_back({row.ended, has_failed(row), row.workload});
            }
        }
        if (rows.empty()) {
            break;
        }
        after = rows.back().id;
    }
    std::ranges::sort(outcomes_, {}, &Outcome::at);
}

const Gates::Pause* Gates::pause_of(const WorkloadKey& key) const {
    for (const std::string& on :
         {std::string(kCluster), std::string(kNamespace) + key.ns, key.to_string()}) {
        if (const auto found = pauses_.find(on); found != pauses_.end()) {
            return &found->second;
        }
    }
    return nullptr;
}

std::vector<ClosedGate> Gates::closed(const WorkloadKey& key) const {
    std::vector<ClosedGate> all;
    if (const Pause* pause = pause_of(key)) {
        all.push_back({Gate::paused, std::nullopt,
                       pause->on + " is paused by " + pause->author + " since " +
                           format_time(pause->since) +
                           (pause->reason.empty() ? "" : ": " + pause->reason) +
                           "; keelctl resume " + pause->on});
    }
    const Namespace* ns = parts_.catalogue.find_namespace(key.ns);
    std::vector<Windows> sets{windows_of(key.ns, parts_.config)};
    for (const PhaseConfig* phase : phases_of(key.ns, ns, parts_.config)) {
        sets.push_back(windows_of(*phase, parts_.config));
    }
    if (opened_ != Time{}) {
        all.push_back({Gate::breaker_open, std::nullopt,
                       breaker_text_ + "; keelctl resume cluster closes the breaker"});
    }
    const Time now = parts_.clock.now();
    const auto zone = [this](const WindowConfig& window) {
        return zone_named(window.zone.empty() ? parts_.config.time_zone : window.zone);
    };
    const std::optional<Time> opening = next_opening(sets, zone, now);
    if (!opening || *opening > now) {
        std::string names;
        for (const Windows& set : sets) {
            for (const WindowConfig* window : set) {
                names += (names.empty() ? "" : ", ") + window->name;
            }
        }
        all.push_back({Gate::awaiting_window, opening,
                       opening ? "rollouts start in windows only: " + names
                               : "its windows are never open together: " + names});
    }
    return all;
}

int Gates::priority(const WorkloadKey& key) const {
    const std::string workload = key.to_string();
    std::optional<int> highest;
    for (const PriorityConfig& one : parts_.config.priorities) {
        if (matches_any(one.workloads, workload)) {
            highest = std::max(highest.value_or(one.value), one.value);
        }
    }
    return highest.value_or(0);
}

const GroupConfig* Gates::group_of(const WorkloadKey& key) const {
    if (parts_.config.groups.empty()) {
        return nullptr;
    }
    const std::string workload = key.to_string();
    const auto found = std::ranges::find_if(parts_.config.groups, [&workload](const auto& group) {
        return matches_any(group.workloads, workload);
    });
    return found != parts_.config.groups.end() ? &*found : nullptr;
}

bool Gates::excepted(const std::string& group, const std::string& targets) const {
    const auto found = exceptions_.find(group);
    return found != exceptions_.end() && found->second == targets;
}

void Gates::except(const std::string& group, const std::string& targets,
                   const std::string& author) {
    exceptions_[group] = targets;
    const Json json(json_pack("{s:s,s:s}", "targets", targets.c_str(), "author", author.c_str()));
    parts_.ledger.put(DocumentRow{kException, group, dump_json(json.get())});
    log(EntryKind::ordered, "excepted", "", author, "group " + group + " may start at once");
    if (moved_) {
        moved_();
    }
}

void Gates::use_exception(const std::string& group) {
    if (exceptions_.erase(group) > 0) {
        parts_.ledger.erase_document(kException, group);
    }
}

void Gates::ended(const RolloutRow& row) {
    if (!counts(row)) {
        return;
    }
    outcomes_.push_back({row.ended, has_failed(row), row.workload});
    if (outcomes_.size() > static_cast<std::size_t>(parts_.config.breaker.of)) {
        outcomes_.erase(outcomes_.begin());
    }
    if (row.state == "failed" && opened_ == Time{}) {
        count();
    }
}

Gates::Breaker Gates::breaker() const {
    Breaker result{opened_, breaker_text_};
    const auto of = static_cast<std::size_t>(parts_.config.breaker.of);
    const std::size_t skipped = outcomes_.size() > of ? outcomes_.size() - of : 0;
    for (std::size_t i = skipped; i < outcomes_.size(); ++i) {
        ++result.counted;
        result.failures += outcomes_[i].failed ? 1 : 0;
    }
    return result;
}

// Opens the breaker where there were too many.
void Gates::count() {
    const BreakerConfig& limit = parts_.config.breaker;
    const Breaker now = breaker();
    const bool many = limit.failures > 0 && now.failures >= limit.failures;
    const bool large = limit.failures > 0 && limit.share > 0 && now.counted >= limit.of &&
                       now.failures >= limit.share * limit.of;
    if (!many && !large) {
        return;
    }
    std::string failed;
    for (const Outcome& one : outcomes_) {
        if (one.failed) {
            failed += (failed.empty() ? "" : ", ") + one.workload;
        }
    }
    opened_ = parts_.clock.now();
    breaker_text_ = std::to_string(now.failures) + " of the last " + std::to_string(now.counted) +
                    " rollouts failed on their content: " + failed;
    save_breaker();
    log(EntryKind::planned, "breaker-open", "", "", breaker_text_);
}

void Gates::save_breaker() {
    const auto time = [](Time at) { return at == Time{} ? "" : format_time(at); };
    const Json json(json_pack("{s:s,s:s,s:s}", "opened", std::string(time(opened_)).c_str(),
                              "resumed", std::string(time(resumed_)).c_str(), "text",
                              breaker_text_.c_str()));
    parts_.ledger.put(DocumentRow{kBreaker, kCluster, dump_json(json.get())});
}

Task<std::vector<OrderResult>> Gates::order(Order order) {
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

OrderResult Gates::obey(const Order& order) {
    const Expected<std::string> on = parse_scope(order.on);
    if (!on) {
        return OrderResult{order.on, false, on.error().code, on.error().text};
    }
    const bool pause = order.action == "pause";
    const auto there = pauses_.find(*on);
    const bool paused = there != pauses_.end();
    const bool close = !pause && *on == kCluster && opened_ != Time{};
    if (paused == pause && !close) {
        return OrderResult{
            *on, false, pause ? "paused" : "not-paused",
            pause ? "it is paused already, by " + there->second.author : "it is not paused"};
    }
    const std::string text = pause   ? "nothing new starts there; what has begun goes on"
                             : close ? "the breaker is closed; failures count anew"
                                     : "it goes on, as gates and pacing allow";
    const std::string code = pause ? "paused" : "resumed";
    if (order.dry_run) {
        return OrderResult{*on, true, code, text};
    }
    if (pause) {
        Pause& one = pauses_[*on];
        one = {*on, order.author, order.reason, parts_.clock.now()};
        const Json json(json_pack("{s:s,s:s,s:s}", "author", one.author.c_str(), "reason",
                                  one.reason.c_str(), "since", format_time(one.since).c_str()));
        parts_.ledger.put(DocumentRow{kPause, *on, dump_json(json.get())});
    } else {
        pauses_.erase(*on);
        parts_.ledger.erase_document(kPause, *on);
    }
    if (close) {
        opened_ = Time{};
        resumed_ = parts_.clock.now();
        outcomes_.clear();
        breaker_text_.clear();
        save_breaker();
    }
    log(EntryKind::ordered, code, *on, order.author, order.reason.empty() ? text : order.reason);
    if (moved_) {
        moved_();
    }
    return OrderResult{*on, true, code, text};
}

std::vector<Gates::Pause> Gates::pauses() const {
    std::vector<Pause> all;
    for (const auto& [on, pause] : pauses_) {
        all.push_back(pause);
    }
    return all;
}

void Gates::log(EntryKind kind, const std::string& code, const std::string& workload,
                const std::string& cause, const std::string& text) {
    Entry entry;
    entry.at = parts_.clock.now();
    entry.kind = kind;
    entry.code = code;
    entry.workload =
        workload.find('/') == std::string::npos || workload.starts_with(kNamespace) ? "" : workload;
    entry.cause = cause;
    entry.text = entry.workload.empty() && !workload.empty() ? workload + ": " + text : text;
    parts_.ledger.append(std::move(entry));
}

}  // namespace keel
