// What keeps a rollout that is due from starting, beside mode, Lease, phase, approval and pacing:
// pauses, windows and the breaker. And which one goes first.
//
// Pauses and the breaker are kept in the ledger (documents "pause" and "breaker"): a restart opens
// nothing.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/verdict.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/order.h"
#include "keeld/policy/phases.h"
#include "keeld/policy/windows.h"

namespace keel {

// A closed gate of a due rollout.
struct ClosedGate {
    Gate gate = Gate::observe_only;
    std::optional<Time> until{};  // when it opens, if that is known
    std::string text;
};

class Gates {
  public:
    struct Parts {
        const Config& config;
        const Clock& clock;
        const Catalogue& catalogue;
        Ledger& ledger;
    };
    // Reads the ledger.
    explicit Gates(Parts parts);

    // `moved` is called whenever a gate may have opened or closed by a person's order.
    void on_move(std::function<void()> moved) { moved_ = std::move(moved); }

    // The closed ones of this workload now.
    [[nodiscard]] std::vector<ClosedGate> closed(const WorkloadKey& key) const;

    // The highest value of `priorities` that matches; 0 where none does.
    [[nodiscard]] int priority(const WorkloadKey& key) const;
    // The first group that the workload belongs to; null: none.
    [[nodiscard]] const GroupConfig* group_of(const WorkloadKey& key) const;
    // Whether somebody let the group go to these targets at once although it is larger than pacing
    // allows; and to let it (document "exception"; the newest counts).
    [[nodiscard]] bool excepted(const std::string& group, const std::string& targets) const;
    void except(const std::string& group, const std::string& targets, const std::string& author);
    void use_exception(const std::string& group);  // the group has started: it counts no longer

    // A rollout that was written has ended. Failures of the content count for the breaker.
    void ended(const RolloutRow& row);

    // The actions pause and resume; `on` is "cluster", "namespace/NAME" or KIND/NAMESPACE/NAME.
    // Resuming the cluster closes the breaker, too.
    [[nodiscard]] Task<std::vector<OrderResult>> order(Order order);

    struct Pause {
        std::string on;
        std::string author;
        std::string reason;
        Time since;
    };
    [[nodiscard]] std::vector<Pause> pauses() const;

    struct Breaker {
        Time opened;       // epoch: closed
        std::string text;  // why
        int failures = 0;  // among those that it counts now
        int counted = 0;
    };
    [[nodiscard]] Breaker breaker() const;

  private:
    [[nodiscard]] OrderResult obey(const Order& order);
    [[nodiscard]] const Pause* pause_of(const WorkloadKey& key) const;
    void count();
    void save_breaker();
    void log(EntryKind kind, const std::string& code, const std::string& workload,
             const std::string& cause, const std::string& text);

    Parts parts_;
    std::function<void()> moved_;
    std::map<std::string, Pause, std::less<>> pauses_;
    std::map<std::string, std::string, std::less<>> exceptions_;  // group → targets
    struct Outcome {
        Time at;
        bool failed = false;
        std::string workload;
    };
    std::vector<Outcome> outcomes_;  // the newest since the breaker was closed, oldest first
    Time opened_;                    // epoch: closed
    Time resumed_;
    std::string breaker_text_;
};

// "cluster", "namespace/NAME" or KIND/NAMESPACE/NAME in its own spelling. Errors: "bad-action".
[[nodiscard]] Expected<std::string> parse_scope(const std::string& text);

}  // namespace keel
