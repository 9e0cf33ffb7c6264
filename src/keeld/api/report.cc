#include "keeld/api/report.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "keeld/rollout/rollouts.h"

namespace keel {
namespace {

// What is told of one phase, or of all of them.
struct Section {
    int workloads = 0;
    int followed = 0;
    int newest = 0;
    int on_the_way = 0;
    int unknown = 0;
    int rollouts = 0;  // that ended, since the phase began
    int failed_rollouts = 0;
    Json pinned_out{json_array()};
    Json apart{json_array()};
    Json failed{json_array()};
    Json leaked{json_array()};
    std::vector<Millis> proven;  // from upstream to proven
};

void add(const Json& list, const std::string& workload, std::string_view reason,
         const std::string& text) {
    json_t* item = json_object();
    json_object_set_new(item, "workload", json_text(workload));
    json_object_set_new(item, "reason", json_text(reason));
    json_object_set_new(item, "text", json_text_or_null(text));
    json_array_append_new(list.get(), item);
}

// The nearest rank. `sorted` is not empty.
Millis percentile(const std::vector<Millis>& sorted, std::size_t percent) {
    const std::size_t rank = (sorted.size() * percent + 99) / 100;
    return sorted[std::max<std::size_t>(rank, 1) - 1];
}

json_t* proven_object(std::vector<Millis> times) {
    std::ranges::sort(times);
    json_t* object = json_object();
    json_object_set_new(object, "count", json_integer(static_cast<json_int_t>(times.size())));
    for (const auto& [key, percent] : {std::pair{"p50", 50U}, std::pair{"p95", 95U}}) {
        json_object_set_new(
            object, key,
            times.empty() ? json_null() : json_text(format_duration(percentile(times, percent))));
    }
    return object;
}

json_t* section_object(const Section& section) {
    const auto pinned = static_cast<int>(json_array_size(section.pinned_out.get()));
    const int able = section.newest + section.on_the_way + pinned;
    json_t* object = json_object();
    for (const auto& [key, count] :
         {std::pair{"workloads", section.workloads}, std::pair{"followed", section.followed},
          std::pair{"newest", section.newest}, std::pair{"on_the_way", section.on_the_way},
          std::pair{"unknown", section.unknown}, std::pair{"rollouts", section.rollouts},
          std::pair{"failed_rollouts", section.failed_rollouts}}) {
        json_object_set_new(object, key, json_integer(count));
    }
    json_object_set_new(
        object, "share",
        able > 0 ? json_real(static_cast<double>(section.newest) / able) : json_null());
    json_object_set(object, "pinned_out", section.pinned_out.get());
    json_object_set(object, "failed", section.failed.get());
    json_object_set(object, "leaked", section.leaked.get());
    json_object_set(object, "apart", section.apart.get());
    json_object_set_new(object, "upstream_to_proven", proven_object(section.proven));
    return object;
}

void join(Section& all, const Section& one) {
    all.workloads += one.workloads;
    all.followed += one.followed;
    all.newest += one.newest;
    all.on_the_way += one.on_the_way;
    all.unknown += one.unknown;
    all.rollouts += one.rollouts;
    all.failed_rollouts += one.failed_rollouts;
    json_array_extend(all.pinned_out.get(), one.pinned_out.get());
    json_array_extend(all.apart.get(), one.apart.get());
    json_array_extend(all.failed.get(), one.failed.get());
    json_array_extend(all.leaked.get(), one.leaked.get());
    all.proven.insert(all.proven.end(), one.proven.begin(), one.proven.end());
}

class Reporter {
  public:
    explicit Reporter(const ReportParts& parts) : parts_(parts) { read_rollouts(); }

    Section section(const PhaseConfig& phase, const PhaseRecord& record) {
        Section result;
        std::map<std::string, bool> own;  // by namespace
        for (const auto& [key, entry] : parts_.catalogue.workloads()) {
            const auto [at, added] = own.try_emplace(key.ns, false);
            if (added) {
                const auto all =
                    phases_of(key.ns, parts_.catalogue.find_namespace(key.ns), parts_.config);
                at->second = all.size() == 1 && all.front() == &phase;
            }
            if (at->second) {
                add_workload(result, phase, record, key.to_string(), entry);
            }
        }
        return result;
    }

  private:
    // Ended ones of each workload, the newest first.
    void read_rollouts() {
        constexpr int kPage = 1000;
        std::string after;
        for (;;) {
            std::vector<RolloutRow> rows = parts_.ledger.rollouts("", after, kPage);
            if (rows.empty()) {
                return;
            }
            after = rows.back().id;
            for (RolloutRow& row : rows) {
                if (row.ended != Time{}) {
                    rollouts_[row.uid].push_back(std::move(row));
                }
            }
        }
    }

    void add_workload(Section& result, const PhaseConfig& phase, const PhaseRecord& record,
                      const std::string& name, const CatalogueEntry& entry) {
        const WorkloadVerdict verdict = parts_.planner.verdict(entry);
        Member member;
        member.workload = name;
        member.judged = true;
        member.verdict = verdict.verdict;
        member.reason = verdict.reason;
        const auto followed = record.followed.find(name);
        member.followed =
            followed != record.followed.end() && followed->second.uid == entry.object.uid;
        ++result.workloads;
        result.followed += member.followed ? 1 : 0;
        const Standpoint standpoint =
            standpoint_of(member, phase.accept, record.begun, parts_.clock.now());
        const std::string_view reason = to_string(verdict.reason);
        switch (standpoint) {
            case Standpoint::newest:
                ++result.newest;
                break;
            case Standpoint::on_the_way:
                ++result.on_the_way;
                break;
            case Standpoint::pinned_out:
                add(result.pinned_out, name, reason, verdict.sentence);
                break;
            case Standpoint::apart:
                add(result.apart, name, reason, verdict.sentence);
                break;
            case Standpoint::unknown:
                ++result.unknown;
                break;
        }
        add_rollouts(result, record, name, entry, verdict);
        if (member.followed && standpoint == Standpoint::newest) {
            add_leaked(result, name, entry, followed->second);
        }
    }

    void add_rollouts(Section& result, const PhaseRecord& record, const std::string& name,
                      const CatalogueEntry& entry, const WorkloadVerdict& verdict) {
        const auto found = rollouts_.find(entry.object.uid);
        if (found == rollouts_.end()) {
            return;
        }
        for (const RolloutRow& row : found->second) {
            if (row.intended < record.begun || row.applied == Time{} || !restores(row).empty()) {
                continue;
            }
            ++result.rollouts;
            result.failed_rollouts += row.state == "failed" || row.state == "rolled-back" ? 1 : 0;
            if (row.state == "done" && row.reason == "proven") {
                add_time(result, row);
            }
        }
        const RolloutRow& newest = found->second.front();
        if (newest.state == "failed" && newest.intended >= record.begun &&
            verdict.verdict != Verdict::current) {
            add(result.failed, name, newest.reason, newest.text);
        }
    }

    // From the first sight of the last of its targets to the proof.
    void add_time(Section& result, const RolloutRow& row) {
        Time first;
        for (const Target& target : targets_from_json(row.targets)) {
            const TagInfo* info = parts_.tags.find(target.tag);
            if (info == nullptr) {
                continue;
            }
            if (const auto seen = info->seen.find(target.to); seen != info->seen.end()) {
                first = std::max(first, seen->second.first);
            }
        }
        if (first != Time{} && row.ended >= first) {
            result.proven.push_back(row.ended - first);
        }
    }

    // It runs its target, and no rollout brought that: a drain did, or a crash, or somebody else.
    void add_leaked(Section& result, const std::string& name, const CatalogueEntry& entry,
                    const Followed& followed) {
        const auto found = rollouts_.find(entry.object.uid);
        const bool released =
            found != rollouts_.end() &&
            std::ranges::any_of(found->second, [&followed](const RolloutRow& row) {
                return row.applied != Time{} &&
                       targets_text(targets_from_json(row.targets)) == followed.targets;
            });
        if (!released) {
            add(result.leaked, name, "leaked",
                std::to_string(entry.running.pods) + " pods run what no rollout released");
        }
    }

    const ReportParts& parts_;
    std::map<std::string, std::vector<RolloutRow>> rollouts_;  // by UID
};

}  // namespace

Json report(const ReportParts& parts, const std::string& phase) {
    Reporter reporter(parts);
    Section all;
    json_t* list = json_array();
    for (const PhaseConfig& config : parts.config.phases) {
        const PhaseRecord* record = parts.plan.find(config.name);
        const bool wanted = phase.empty() || phase == config.name;
        if (!wanted || record == nullptr || record->begun == Time{}) {
            continue;
        }
        const Section section = reporter.section(config, *record);
        json_t* item = section_object(section);
        json_object_set_new(item, "name", json_text(config.name));
        json_object_set_new(item, "state", json_text(to_string(record->effective())));
        for (const auto& [key, time] :
             {std::pair{"begun", record->begun}, std::pair{"soaking", record->soaking},
              std::pair{"completed", record->completed}}) {
            json_object_set_new(item, key,
                                time == Time{} ? json_null() : json_text(format_time(time)));
        }
        json_object_set_new(item, "violation", json_text_or_null(record->violation));
        json_array_append_new(list, item);
        join(all, section);
    }
    Json root(json_object());
    json_object_set_new(root.get(), "at", json_text(format_time(parts.clock.now())));
    json_object_set_new(root.get(), "phases", list);
    json_object_set_new(root.get(), "plan", section_object(all));
    return root;
}

}  // namespace keel
