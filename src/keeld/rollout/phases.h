// The plan's phases: which one is active, what it has brought about so far, whether it is accepted,
// and when the next one begins.
//
//   waiting → active: rolling → soaking → (accepted, waiting for a person) → completed
//
// One phase at a time: where none is active, the first of the configuration that is not completed
// begins. A person may pause one (nothing new starts there, nor is it completed) and resume it.
// Kept in the ledger, a document each (kind "phase", the key is its name), queued there before it
// takes effect, so that no rollout can be durable whose phase is not. Nothing is begun or completed
// by a keeld that may not write.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/verdict.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/order.h"
#include "keeld/policy/judge.h"
#include "keeld/policy/phases.h"
#include "keeld/rollout/acceptance.h"
#include "keeld/signal.h"

namespace keel {

// A workload that was due for a rollout since its phase began.
struct Followed {
    std::string uid;
    std::string targets;  // what it was due for last: "app docker.io/library/nginx:1.28 sha256:…"
    Time due;             // since when; counted anew when the phase is resumed
    Time reached;         // seen on the newest since; epoch: not yet
    Time crashing;        // its pods are in a crash loop since; epoch: they are not
    int restarts = 0;     // of their containers, when they were last read
};

// What the ledger keeps of a phase.
struct PhaseRecord {
    std::string name;
    PhaseState state = PhaseState::waiting;  // never `paused`
    Time begun;
    Time soaking;              // everything has rolled and is clean since; epoch: not
    Time accepted;             // the soak is over and a person is to say so; epoch: not
    Time completed;            // epoch: not
    std::string completed_by;  // who said so; empty: the plan
    Time paused;               // epoch: it is not
    std::string paused_by;
    std::string paused_reason;
    std::string violation;  // why its soak began again last, or cannot begin; empty: never
    int violations = 0;     // how often it did
    bool gone = false;      // not in the configuration; that was told
    std::map<std::string, Followed> followed;  // by the workload's name

    // The state that counts for its namespaces.
    [[nodiscard]] PhaseState effective() const;
};

[[nodiscard]] std::string phase_to_json(const PhaseRecord& record);
[[nodiscard]] PhaseRecord phase_from_json(const std::string& name, const std::string& json);

class Phases {
  public:
    // What phases need of the rest. References outlive the object.
    struct Parts {
        Loop& loop;
        const Config& config;
        PhaseStates& states;  // written here alone
        const Clock& clock;
        const Catalogue& catalogue;
        Ledger& ledger;
        std::function<bool()> may_act;  // mode act, and the Lease is held
        // Something about the workload is to be judged again.
        std::function<void(const WorkloadKey&)> reconsider;
        // Reads what the pods of a namespace run, into the catalogue.
        std::function<Task<Expected<void>>(std::string)> read_pods;
    };
    // Loads the ledger's documents.
    explicit Phases(Parts parts);

    // The newest verdict on a workload; null: it is gone.
    void judged(const WorkloadKey& key, const CatalogueEntry* entry,
                const WorkloadVerdict& verdict);
    void start();  // workloads are listed: from now on phases begin and end
    // The leadership, the clock or the mode is another one.
    void look();
    // The configuration is another one.
    void reconfigured();
    [[nodiscard]] Task<void> run();       // until stop()
    [[nodiscard]] Task<void> run_pods();  // reads pods of the active phase when that is due
    void stop();
    // What was due has been done.
    [[nodiscard]] bool settled() const { return !started_ || (!due_ && (!reading_ || failing_)); }

    // The actions phase-advance, phase-pause and phase-resume; `on` is the phase's name.
    [[nodiscard]] Task<std::vector<OrderResult>> order(Order order);

    struct View {
        PhaseRecord record;                    // without `followed`
        std::optional<Assessment> assessment;  // of an active one
        Time until;         // of an active one: the end of its soak; epoch: not soaking
        std::string stage;  // "waiting", "rolling", "soaking", "accepted", "paused", "completed"
        std::string text;   // one sentence: what it waits for
        bool configured = true;
    };
    // In the order of the configuration, then those that are only in the ledger.
    [[nodiscard]] std::vector<View> views() const;
    // Null: never begun, nor paused.
    [[nodiscard]] const PhaseRecord* find(const std::string& name) const;
    // Why nothing may start in the namespace: its phase is paused. Empty: it may.
    [[nodiscard]] std::string closed(const std::string& ns) const;
    // Namespaces that two phases claim, with the names of those.
    [[nodiscard]] std::map<std::string, std::string> conflicts() const;

  private:
    [[nodiscard]] PhaseRecord& record(const std::string& name);
    [[nodiscard]] const PhaseConfig* configured(const std::string& name) const;
    [[nodiscard]] const PhaseConfig* active() const;
    [[nodiscard]] const PhaseConfig* phase_of(const std::string& ns) const;
    [[nodiscard]] std::vector<Member> members(const PhaseConfig& phase) const;
    [[nodiscard]] std::string sentence(const View& view, const PhaseConfig* phase) const;
    void evaluate();
    void begin_next();
    void follow(const PhaseConfig& phase);
    void assess_active(const PhaseConfig& phase);
    void complete(const PhaseConfig& phase, const std::string& by, const std::string& reason);
    void violate(PhaseRecord& record, const std::string& violation);
    Task<Expected<void>> read_phase(std::string name);
    void note_pods(PhaseRecord& record, const std::string& ns);
    void set_states();
    void save(const PhaseRecord& record);
    void log(EntryKind kind, const std::string& code, const std::string& cause,
             const std::string& text);
    [[nodiscard]] OrderResult obey(const Order& order);

    Parts parts_;
    std::map<std::string, PhaseRecord, std::less<>> records_;
    struct Judged {
        std::string uid;
        Verdict verdict = Verdict::ignore;
        Reason reason = Reason::not_enrolled;
        std::string targets;
    };
    std::map<WorkloadKey, Judged> judged_;  // those of the active phase
    Time read_;                             // when its pods were last read; epoch: not yet
    Signal wake_;
    Signal pods_wake_;
    Time next_;             // when to look again; epoch: when something happens
    bool due_ = false;      // evaluate() is to run
    bool reading_ = false;  // pods are to be read, or are being
    bool failing_ = false;  // they could not be read
    bool started_ = false;
    bool stopped_ = false;
};

}  // namespace keel
