// Rollouts: one workload going to one target, as a coroutine that reads like the runbook it
// replaces.
//
//   waiting → preflight → rolling → verifying → soaking → done, or failed, superseded, recalled
//
// A rollout is written to the ledger with its intent, before anything is written to the cluster;
// while it waits it is only computed, so nothing waits for ever. After a restart open rollouts go
// on from what the object and the ledger say.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/verdict.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/catalogue/pods.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/cluster/client.h"
#include "keeld/cluster/lease.h"
#include "keeld/config.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/policy/judge.h"
#include "keeld/registry/registry.h"
#include "keeld/rollout/approvals.h"
#include "keeld/rollout/gates.h"
#include "keeld/rollout/outcome.h"
#include "keeld/rollout/pacing.h"
#include "keeld/rollout/preflight.h"
#include "keeld/rollout/soak.h"
#include "keeld/rollout/surroundings.h"
#include "keeld/signal.h"

namespace keel {

class Rollouts {
  public:
    // What rollouts need of the rest. References outlive the object.
    struct Parts {
        Loop& loop;
        const Config& config;
        const Clock& clock;
        Catalogue& catalogue;
        Tags& tags;
        Registry& registry;
        PodReader& pods;
        ClusterClient& cluster;
        Ledger& ledger;
        Lease& lease;
        Gates& gates;
        Approvals& approvals;
        std::function<WorkloadVerdict(const CatalogueEntry&)> judge;
        // A fresh look at a tag right now, recorded like any other; joins one that is under way.
        std::function<Task<Expected<Answer>>(Tag)> look_up;
        // False: the caches' holds have not been read since start, so nobody knows yet what a pull
        // of the tag gets.
        std::function<bool(const Tag&)> holds_known;
        // Something about the workload is to be judged again.
        std::function<void(const WorkloadKey&)> reconsider;
        // Why nothing may start in the namespace's phase; empty: something may. May be null.
        std::function<std::string(const std::string&)> phase_closed{};
        // For how long new pods have to be seen well before they prove anything: what crashes at
        // once is ready for a moment, too. Five times that where one was restarted before.
        Steady::duration steady = std::chrono::seconds(2);
    };

    explicit Rollouts(Parts parts);
    ~Rollouts();

    // Goes on with what the ledger has open. To be called once, when workloads are listed and
    // before anything is offered.
    void recover();
    // A restart of this workload is due. Starts waiting for it, or refreshes what it waits for.
    void offer(const WorkloadKey& key, const WorkloadVerdict& verdict);
    // Nothing is due, and people may let go what the verdict asks for.
    void ask(const WorkloadKey& key, const WorkloadVerdict& verdict);
    // Whether they did, for just these targets of the workload with this UID.
    [[nodiscard]] bool approved(const std::string& uid, const std::vector<Target>& targets) const {
        return parts_.approvals.approved(uid, targets);
    }
    // Something changed that a rollout of this workload may be waiting for.
    void notify(const WorkloadKey& key);
    // The leadership changed, or a place became free: all waiting rollouts look at their gates.
    void wake_waiting();
    // The configuration is another one: its pacing counts from now on.
    void reconfigured();
    // Ends all coroutines at their next step; rows stay open.
    void stop();

    // Why this very target is not tried again, or null: it failed here (rejected), or it was rolled
    // out and did not arrive (stalled).
    [[nodiscard]] const std::string* rejected(const std::string& uid, const Target& target) const;
    [[nodiscard]] const std::string* stalled(const std::string& uid, const Target& target) const;

    // Whether the newest text that keeld's own ledger shows as written into this container's image
    // field is this very one: then a digest in it is keeld's, not somebody's decision.
    [[nodiscard]] bool wrote(const std::string& uid, const std::string& container,
                             const std::string& image) const;

    // The gates that keep a due rollout of this workload from starting now.
    [[nodiscard]] std::vector<ClosedGate> gates(const WorkloadKey& key,
                                                const WorkloadVerdict& verdict);
    // What waits, in the order in which places would go to it. `earliest` is an estimate from
    // pacing and from what gates tell; nullopt: nobody knows.
    struct Pending {
        RolloutRow row;
        int priority = 0;
        std::vector<ClosedGate> closed;
        std::optional<Time> earliest;
    };
    [[nodiscard]] std::vector<Pending> pending();
    // The action approve on "group/NAME": lets a group that is larger than pacing allows go to what
    // it is due for now, once.
    [[nodiscard]] Task<std::vector<OrderResult>> let_group_go(Order order);
    // What a workload goes back to, of those targets that failed (S1).
    struct Way {
        std::string rollout;  // that failed
        std::vector<Target> targets;
        bool ordered = false;  // by a person, reversible or not
    };
    // Where the workload with this UID could go back to: its newest rollout failed on its content,
    // or a person says so, and was none that brought it back. The digests are what most of its pods
    // ran.
    [[nodiscard]] std::optional<Way> way_of(const std::string& uid) const;
    // It goes there as soon as that is due: past windows, phases, votes, breaker and pacing; what
    // is paused stays. Once: forgotten when it has ended.
    void go_back(const std::string& uid, Way way);
    void stay(const std::string& uid) { ways_.erase(uid); }
    [[nodiscard]] bool is_going_back(const std::string& uid) const { return ways_.contains(uid); }
    // Of one container; null: it does not go back.
    [[nodiscard]] const Target* way_back(const std::string& uid,
                                         const std::string& container) const;
    // Whether this very content was rolled out there, and stayed well.
    [[nodiscard]] bool proved(const std::string& uid, const Tag& tag, const Digest& digest) const;
    // Workloads that still lack what others of their group were written with, and why: the write
    // of one failed after that of another.
    [[nodiscard]] std::map<WorkloadKey, std::string> parted() const;
    // The action rollback on KIND/NAMESPACE/NAME: what its newest rollout brought is rejected
    // there, and it goes back to what ran before.
    [[nodiscard]] Task<std::vector<OrderResult>> rollback(Order order);
    // The action retry on KIND/NAMESPACE/NAME: what failed on this workload so far counts no
    // longer, so that the same target may be due again.
    [[nodiscard]] Task<std::vector<OrderResult>> retry(Order order);
    // The rollout that is under way or waits, if any.
    [[nodiscard]] std::optional<RolloutRow> active(const WorkloadKey& key) const;
    [[nodiscard]] std::vector<RolloutRow> all_active() const;
    [[nodiscard]] Pacing& pacing() { return pacing_; }

    struct Metrics {
        std::uint64_t intended = 0;
        std::uint64_t applied = 0;
        std::uint64_t done = 0;
        std::uint64_t failed = 0;
        std::uint64_t superseded = 0;
        std::uint64_t recalled = 0;
        std::uint64_t stalled = 0;
        std::uint64_t conflicts = 0;
    };
    [[nodiscard]] const Metrics& metrics() const { return metrics_; }

  private:
    // Members of a group that start as one: each asks what a pull gets, and all or none go on. They
    // meet again when their intents are on disk, right before the first write.
    struct Batch {
        int running = 0;       // members that count, together, as one of `concurrent`
        int asking = 0;        // that have no answer yet
        bool all = true;       // every answer was the target
        int coming = 0;        // that have not come to the first write yet
        std::string obstacle;  // why one may not be written; before the first, none is then
        std::vector<std::string> written;
        std::map<WorkloadKey, RolloutRow> left;  // ended without being written
    };
    struct Active {
        explicit Active(Loop& loop) : changed(loop) {}
        WorkloadKey key;
        RolloutRow row;
        std::vector<Target> targets;
        WorkloadVerdict verdict;  // the newest one, while waiting
        bool recovered =
            false;  // the object may have been written, or may have changed, since the intent
        std::optional<Steady::time_point> well{};  // since when all its new pods are,
        int restarts = 0;                          // at that many restarts
        Steady::time_point not_before{};           // the gate that counts could not be asked
        bool place = false;                        // counted by pacing at row.intended
        bool running = false;                      // past waiting: counts as one of `concurrent`
        Soak soak;                                 // while it soaks it counts no longer
        std::shared_ptr<Batch> batch;              // while it runs with others of its group
        bool has_come = false;                     // to the first write of its batch
        Signal changed;
    };
    using Handle = std::shared_ptr<Active>;
    enum class Applied : std::uint8_t { yes, superseded, refused, stopped };

    [[nodiscard]] std::vector<std::pair<Time, std::string>> paced_since() const;
    Task<void> run(Handle rollout);
    Task<bool> wait_for_turn(Handle rollout);
    Task<bool> wait_for_gates(Handle rollout);
    [[nodiscard]] const Way* way_now(const WorkloadKey& key, const WorkloadVerdict& verdict) const;
    [[nodiscard]] bool goes_back(const Handle& rollout) const;
    [[nodiscard]] std::vector<ClosedGate> gates_back(const WorkloadKey& key,
                                                     const WorkloadVerdict& verdict) const;
    void end_way(const Handle& rollout);
    [[nodiscard]] OrderResult obey_rollback(const WorkloadKey& key, const Order& order);
    [[nodiscard]] bool is_ordered_back(const std::string& uid, const std::string& rollout) const;
    [[nodiscard]] std::vector<ClosedGate> own_gates(const WorkloadKey& key,
                                                    const WorkloadVerdict& verdict) const;
    struct GroupState {
        std::vector<ClosedGate> closed;
        std::vector<Handle> members;  // that would start now
        std::string targets;          // of these, as one text
    };
    [[nodiscard]] GroupState state_of(const GroupConfig& group);
    [[nodiscard]] std::vector<ClosedGate> pacing_gates(const Pacing::Wanted& wanted);
    [[nodiscard]] std::vector<Handle> waiting() const;
    [[nodiscard]] Handle first_in_line(const Handle& rollout);
    void start(const Handle& rollout);
    void stop_running(const Handle& rollout);
    Task<bool> go_together(Handle rollout, bool ready);
    Task<bool> write_together(Handle rollout);
    [[nodiscard]] bool waits_for_parted(const Handle& rollout) const;
    void come(const Handle& rollout);
    [[nodiscard]] std::string obstacle(const GroupConfig& group,
                                       const std::shared_ptr<Batch>& batch);
    [[nodiscard]] bool kept_back(const Handle& rollout);
    void leave_unwritten(const Handle& rollout);
    void tell_parted(Batch& batch);
    void wake(const std::shared_ptr<Batch>& batch);
    enum class Pull : std::uint8_t { gets_target, gets_other, unanswered, under_way };
    Task<Pull> ask_what_a_pull_gets(Handle rollout);
    enum class Ready : std::uint8_t { yes, blocked, unanswered, not_due };
    Task<Ready> look_before(Handle rollout);
    [[nodiscard]] bool is_released(const WorkloadKey& key, const std::string& obstacle) const;
    void block(const Handle& rollout, Obstacle obstacle);
    [[nodiscard]] std::optional<ClosedGate> obstacle_gate(const WorkloadKey& key,
                                                          const WorkloadVerdict& verdict) const;
    [[nodiscard]] std::set<Tag> pulled_tags(const Handle& rollout) const;
    [[nodiscard]] bool may_be_under_way(const Handle& rollout) const;
    void give_place_back(const Handle& rollout);
    Task<bool> intend(Handle rollout);
    Task<Applied> apply(Handle rollout);
    Task<Applied> apply_once(Handle rollout);
    Task<Applied> look_whether_applied(Handle rollout);
    Task<void> verify(Handle rollout);
    Task<Expected<Finding>> look_at_pods(Handle rollout, bool at_deadline);
    bool is_steady(const Handle& rollout, const Finding& finding) const;
    [[nodiscard]] bool has_moved(const Handle& rollout) const;
    [[nodiscard]] bool is_overwritten(const Handle& rollout) const;
    [[nodiscard]] bool holds_are_known(const Handle& rollout) const;
    void prove(const Handle& rollout, const std::string& reason, const std::string& counted);
    Task<void> soak(Handle rollout);
    bool stayed_well(const Handle& rollout, const std::vector<Pod>& updated);
    void keep(const Handle& rollout);
    bool conclude(const Handle& rollout, const Finding& finding, bool at_deadline);
    [[nodiscard]] bool still_due(const Handle& rollout);
    [[nodiscard]] bool still_the_same(const Handle& rollout);
    [[nodiscard]] bool would_write_the_same(const Handle& rollout);
    [[nodiscard]] bool may_write() const;
    [[nodiscard]] const Workload* object(const Handle& rollout) const;
    void enter(const Handle& rollout, const std::string& state);
    void end(const Handle& rollout, const std::string& state, const std::string& reason,
             const std::string& text);
    void reject(const RolloutRow& row, const std::vector<Target>& targets,
                const std::string& container, const std::string& text);
    void record_applied(const Handle& rollout, std::int64_t generation, const std::string& code,
                        const std::string& text);
    void log(const Handle& rollout, EntryKind kind, const std::string& code,
             const std::string& text);
    Task<bool> make_durable(Handle rollout);

    Parts parts_;
    Surroundings surroundings_;
    Pacing pacing_;
    std::map<WorkloadKey, Handle> active_;
    std::map<std::string, std::string> rejected_;  // "uid tag digest" → why
    std::map<std::string, Time> retried_;          // by UID: what ended by then counts no longer
    std::map<std::pair<std::string, std::string>, std::string>
        written_;  // UID and container → the image that was written last
    struct Ended {
        std::vector<Target> targets;
        std::string text;
        bool final = false;   // these targets are not rolled out again
        bool failed = false;  // on its content, going forward
        std::string id{};
        int attempt = 1;  // the next one's number, after a stale pull
        Time at;
        std::int64_t generation = 0;  // of the object, as it was left
    };
    static Ended ended_from(const RolloutRow& row, std::vector<Target> targets);
    void remember(const RolloutRow& row, Ended ended);
    [[nodiscard]] bool is_forgotten(const std::string& uid, Time at) const;
    void forget(const std::string& uid);
    std::map<std::string, Ended> ended_;  // uid → the newest that was written
    // Images that arrived, or did not, by uid, container, tag and digest → what was written. Who
    // sets one back meant it: it is not written again, however long ago it was.
    std::map<std::string, std::string> tried_;
    std::map<WorkloadKey, std::pair<Time, int>>
        refused_;  // the API server refused: not before, and how often
    std::map<WorkloadKey, std::string> parted_;   // from their groups, and why
    std::map<std::string, Way> ways_;             // by UID: back, and not there yet
    std::map<std::string, std::string> ordered_;  // by UID: the rollout that a person takes back
    struct Blocked {
        Obstacle obstacle;
        std::vector<Target> targets;
        std::int64_t generation = 0;  // of the object that was looked at
        Time until;                   // looked at again
        int times = 0;
    };
    std::map<WorkloadKey, Blocked> obstacles_;  // what preflight found
    Metrics metrics_;
    int running_ = 0;
    bool stopped_ = false;
};

// The targets of a row, as the ledger keeps them.
[[nodiscard]] std::string targets_to_json(const std::vector<Target>& targets);
[[nodiscard]] std::vector<Target> targets_from_json(const std::string& json);

}  // namespace keel
