// Compares what is with what should be, for every workload that something was learned about, and
// offers what is due. Level-triggered: it never depends on having seen an event, only on the state
// it finds.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>

#include "keeld/catalogue/catalogue.h"
#include "keeld/catalogue/listings.h"
#include "keeld/catalogue/observations.h"
#include "keeld/catalogue/pods.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/policy/config_change.h"
#include "keeld/policy/judge.h"
#include "keeld/policy/pushes.h"
#include "keeld/policy/schedule.h"
#include "keeld/registry/registry.h"
#include "keeld/signal.h"

namespace keel {

class Rollouts;

class Planner {
  public:
    struct Parts {
        Loop& loop;
        const Config& config;
        const PhaseStates& phases;
        const Clock& clock;
        Catalogue& catalogue;
        Tags& tags;
        Registry& registry;
        PodReader& pods;
        Ledger& ledger;
        Schedule& schedule;
        const Listings& listings;
        const Pushes& pushes;
        Rollouts*& rollouts;  // made after the planner, because it asks the planner
        // Gets every verdict; null: the workload is gone.
        std::function<void(const WorkloadKey&, const CatalogueEntry*, const WorkloadVerdict&)>
            judged{};
    };
    explicit Planner(Parts parts);

    // Something about the workload, or the tag, is to be judged again. Cheap; the work is done by
    // run().
    void reconsider(const WorkloadKey& key);
    void reconsider(const Tag& tag);

    // The verdict from what is known now.
    [[nodiscard]] WorkloadVerdict verdict(const CatalogueEntry& entry) const;
    // What `after` would change; `before`: what holds now, null where nothing did. Pure.
    [[nodiscard]] ConfigChange change(const Config* before, const Config& after) const;
    // Whether some enrolled, not vetoed workload follows the tag, or may change to it.
    [[nodiscard]] bool in_use(const Tag& tag) const;
    // What those that follow the tag by look-ups want to hear of it, each different wish once.
    [[nodiscard]] std::vector<Wish> wishes(const Tag& tag) const;

    // Judges what is to be judged until stop().
    [[nodiscard]] Task<void> run();
    // Reads what runs in enrolled namespaces: all of them once, then those that come to be
    // enrolled, and the pods of single workloads after they changed.
    [[nodiscard]] Task<void> run_baseline();
    // The clock of ages is another one than before: what was waiting for a moment looks again.
    void clock_moved();
    // Whether everything that was to be judged by now has been.
    [[nodiscard]] bool settled() const;
    void start();  // workloads and namespaces are listed: from now on there are verdicts
    void stop();

    // Enrolled workloads with a setting that means nothing, and the first such setting of each
    // (D1).
    [[nodiscard]] const std::map<WorkloadKey, std::string>& faulty() const { return faulty_; }

    [[nodiscard]] bool baseline_done() const { return baseline_done_; }
    [[nodiscard]] const std::string& baseline_problem() const { return baseline_problem_; }

  private:
    [[nodiscard]] bool is_ours(const CatalogueEntry& entry) const;
    [[nodiscard]] Knowledge knowledge(const Config& config, const PhaseStates& phases) const;
    void consider(const WorkloadKey& key);
    void tell(const WorkloadKey& key, const CatalogueEntry* entry, const WorkloadVerdict& verdict);
    void wake_at(const WorkloadKey& key, std::optional<Time> moment);
    void take_due();
    void log_decision(const WorkloadKey& key, CatalogueEntry& entry,
                      const WorkloadVerdict& verdict);
    void follow(const Tag& tag, const Wish& wish);
    void ask(const WorkloadKey& key, const WorkloadVerdict& verdict);
    void fetch(const WorkloadVerdict::Want& want);
    Task<void> fetch_content(WorkloadVerdict::Want want);
    void fetched(const Digest& digest);
    [[nodiscard]] std::set<std::string> unread_namespaces() const;
    [[nodiscard]] std::vector<WorkloadKey> stale_workloads() const;

    Parts parts_;
    mutable Choices choices_;
    std::set<WorkloadKey> dirty_;
    // When time alone may change a verdict, and the same by workload.
    std::set<std::pair<Time, WorkloadKey>> due_;
    std::map<WorkloadKey, Time> due_at_;
    // Tags that workloads may change to: who asks for them, and what each workload asks for.
    std::unordered_map<Tag, std::set<WorkloadKey>> askers_;
    std::map<WorkloadKey, std::set<Tag>> asked_;
    std::map<WorkloadKey, std::string> faulty_;
    std::map<Digest, std::set<Tag>>
        fetching_;  // contents on their way, and whose workloads wait for them
    struct Failure {
        int times = 0;
        Error error;
    };
    std::unordered_map<Digest, Failure> failed_;  // contents that were not to be had, and why
    std::set<std::string> read_;                  // namespaces whose pods are known
    Signal wake_;
    Signal baseline_wake_;
    std::string baseline_problem_;
    bool baseline_done_ = false;
    bool started_ = false;
    bool stopped_ = false;
};

}  // namespace keel
