#include "keeld/rollout/stamper.h"

#include <algorithm>
#include <utility>

#include "keeld/json.h"
#include "keeld/policy/settings.h"

namespace keel {
namespace {

constexpr auto kBetweenWrites = std::chrono::milliseconds(100);
constexpr auto kAfterFailure = std::chrono::seconds(5);  // doubled each time, up to the longest
constexpr auto kLongest = std::chrono::minutes(5);
constexpr int kTold = 3;  // failures in a row that people are told of; one may be a mere conflict
constexpr auto kMayAgain = std::chrono::seconds(5);
constexpr int kMostTimes = 3;  // the same stamp on the same object, before it is a fight

// All that keeld-stamp is to own, of this very object in this very state.
std::string stamp_patch(const Workload& workload, const Stamp& stamp) {
    const Json annotations(json_object());
    for (const auto& [key, value] : stamp) {
        json_object_set_new(annotations.get(), key.c_str(), json_text(value));
    }
    const bool cron_job = workload.key.kind == WorkloadKind::cron_job;
    const Json metadata(json_pack("{s:s,s:s,s:s,s:s}", "name", workload.key.name.c_str(),
                                  "namespace", workload.key.ns.c_str(), "uid", workload.uid.c_str(),
                                  "resourceVersion", workload.resource_version.c_str()));
    if (!stamp.empty()) {
        json_object_set(metadata.get(), "annotations", annotations.get());
    }
    const Json root(json_pack("{s:s,s:s,s:O}", "apiVersion", cron_job ? "batch/v1" : "apps/v1",
                              "kind", std::string(to_string(workload.key.kind)).c_str(), "metadata",
                              metadata.get()));
    return dump_json(root.get());
}

std::string text_of(const Stamp& stamp) {
    std::string text;
    for (const auto& [key, value] : stamp) {
        text += (text.empty() ? "" : ", ") + key + ": " + value;
    }
    return text.empty() ? "nothing" : text;
}

}  // namespace

Stamper::Stamper(Parts parts) : parts_(std::move(parts)), wake_(parts_.loop) {}

void Stamper::start() {
    started_ = true;
    reconfigured();
}

void Stamper::stop() {
    stopped_ = true;
    wake_.notify();
}

Stamp Stamper::wanted_on(const Workload& workload) const {
    return stamp_for(workload, parts_.catalogue.find_namespace(workload.key.ns), parts_.config,
                     parts_.phases);
}

void Stamper::forget(const WorkloadKey& key) {
    waiting_.erase(key);
    tries_.erase(key);
    fought_.erase(key);
    refused_.erase(key);
}

void Stamper::look(const WorkloadKey& key) {
    if (!started_) {
        return;
    }
    const CatalogueEntry* entry = parts_.catalogue.find(key);
    if (entry == nullptr) {
        forget(key);
        return;
    }
    const Stamp wanted = wanted_on(entry->object);
    const auto tried = tries_.find(key);
    if (tried != tries_.end() && !tried->second.are_of(entry->object, wanted)) {
        forget(key);
    }
    if (stamped_on(entry->object) == wanted) {
        waiting_.erase(key);
        refused_.erase(key);
    } else if (!fought_.contains(key)) {
        waiting_.try_emplace(key);
        wake_.notify();
    }
}

void Stamper::reconfigured() {
    waiting_.clear();
    tries_.clear();
    fought_.clear();
    refused_.clear();
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        look(key);
    }
}

std::size_t Stamper::stamped() const {
    return static_cast<std::size_t>(std::ranges::count_if(
        parts_.catalogue.workloads(),
        [](const auto& item) { return !stamped_on(item.second.object).empty(); }));
}

Task<void> Stamper::run() {
    Steady::time_point next{};  // the next write, or the next look whether there may be one
    while (!stopped_) {
        const auto first =
            std::ranges::min_element(waiting_, {}, [](const auto& item) { return item.second; });
        if (first == waiting_.end()) {
            co_await wake_.wait_until(Steady::time_point::max());
            continue;
        }
        const Steady::time_point due = std::max(first->second, next);
        if (Steady::now() < due) {
            co_await wake_.wait_until(due);
            continue;
        }
        if (!parts_.may_write()) {
            next = Steady::now() + kMayAgain;
            continue;
        }
        const WorkloadKey key = first->first;
        waiting_.erase(first);
        co_await stamp(key);
        next = Steady::now() + kBetweenWrites;
    }
}

Task<void> Stamper::stamp(WorkloadKey key) {
    const CatalogueEntry* entry = parts_.catalogue.find(key);
    if (entry == nullptr) {
        co_return;
    }
    const Workload& workload = entry->object;
    const Stamp stamp = wanted_on(workload);
    if (stamped_on(workload) == stamp) {
        co_return;
    }
    if (auto& tries = tries_[key]; !tries.are_of(workload, stamp)) {
        tries = {workload.uid, stamp};
    }
    if (tries_[key].written == kMostTimes) {
        const std::string& why = fought_[key] =
            "somebody changed the stamp " + std::to_string(kMostTimes) + " times";
        note(key, "stamp-fought",
             why + "; it is left alone until it is to be another one, or keeld.yaml is read again");
        co_return;
    }
    const std::string path = key.path() + "?fieldManager=" + std::string(kStampManager);
    const std::string type = "application/apply-patch+yaml";
    const std::string body = stamp_patch(workload, stamp);
    const Expected<Json> answer = co_await parts_.cluster.patch(path, type, body, parts_.may_write);
    const auto tried = tries_.find(key);  // gone or another one: looked at again meanwhile
    const bool counts = tried != tries_.end() && tried->second.stamp == stamp;
    if (!answer) {  // of what caused a conflict the watch tells soon
        failed(key, counts && answer.error().code != "not-allowed" ? ++tried->second.failed : 0,
               answer.error().text);
        co_return;
    }
    if (counts) {
        ++tried->second.written;
        tried->second.failed = 0;
        refused_.erase(key);
    }
    note(key, stamp.empty() ? "unstamped" : "stamped", text_of(stamp));
    Expected<Workload> fresh =
        decode_workload(key.kind, answer->get(), parts_.config.defaults.restart_key);
    if (fresh) {
        parts_.catalogue.answered(std::move(*fresh));
    }
}

void Stamper::failed(const WorkloadKey& key, int times, const std::string& text) {
    std::chrono::seconds pause = kAfterFailure;
    for (int doubled = 1; doubled < times && pause < kLongest; ++doubled) {
        pause *= 2;
    }
    waiting_[key] = Steady::now() + std::min<std::chrono::seconds>(pause, kLongest);
    if (times == kTold) {
        note(key, "stamp-refused", text);
    }
    if (times >= kTold) {
        refused_[key] = text;
    }
}

void Stamper::note(const WorkloadKey& key, const std::string& code, const std::string& text) {
    Entry entry;
    entry.at = parts_.clock.now();
    entry.kind = EntryKind::planned;
    entry.code = code;
    entry.workload = key.to_string();
    entry.text = text;
    parts_.ledger.append(std::move(entry));
}

}  // namespace keel
