// Votes: whether a due rollout may go where it is due to go.
//
// An approval is about one workload (its UID) and its targets with their digests. A vote for an
// older digest never releases a newer one (P6): that is another approval, asked for anew.
//
//   pending → approved | rejected | expired → archived, when nothing waits for it any more
//
// Kept in the ledger (documents "approval", and "votes" for what people demand beyond settings).
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "keeld/catalogue/catalogue.h"
#include "keeld/clock.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/order.h"
#include "keeld/policy/judge.h"
#include "keeld/rollout/gates.h"

namespace keel {

struct Approval {
    enum class State : std::uint8_t { pending, approved, rejected, expired };

    std::string id;        // random
    std::string workload;  // KIND/NAMESPACE/NAME
    std::string uid;
    std::string targets;     // targets_text of what it is about
    std::string identifier;  // KIND/NAMESPACE/NAME:TAG@DIGEST, further targets after commas
    std::string current;     // tags that are to change, or the one that stays
    std::string wanted;
    std::string tag;  // of the first target, in full
    std::string digest;
    std::string why;  // what asks for votes
    int needed = 1;   // votes
    std::map<std::string, Time> voters;
    std::string rejected_by;  // empty: nobody
    std::string reason;       // of the last vote
    Time created;
    Time updated;
    Time deadline;
    bool expiry_told = false;
    Time archived;  // epoch: not yet

    [[nodiscard]] State state(Time now) const;
};
[[nodiscard]] std::string_view to_string(Approval::State state);

class Approvals {
  public:
    struct Parts {
        const Clock& clock;
        Ledger& ledger;
    };
    // Reads the ledger.
    explicit Approvals(Parts parts);

    // `moved` is called when a vote may have opened or closed a gate.
    void on_move(std::function<void()> moved) { moved_ = std::move(moved); }

    // What a due rollout waits for before it may go to its targets; nullopt: for nothing.
    [[nodiscard]] std::optional<ClosedGate> gate(const Workload& workload,
                                                 const WorkloadVerdict& verdict) const;
    // Whether enough people voted for just these targets of the workload with this UID.
    [[nodiscard]] bool approved(const std::string& uid, const std::vector<Target>& targets) const;
    // Asks for the votes that a due rollout, or what a verdict asks for, needs, if nobody has; what
    // was asked for other targets of this workload is over. Idempotent.
    void ask(const Workload& workload, const WorkloadVerdict& verdict);
    // The rollout to these targets has ended: the same ones need votes anew.
    void used(const std::string& uid, const std::vector<Target>& targets);
    // Archives what nothing waits for any more. `over` is asked for each that is not archived.
    void sweep(const std::function<bool(const Approval&)>& over);

    // The actions approve and reject. `on`: an id, or an identifier with its digest; a workload's
    // name alone is refused, for what it waits for may be newer than what the voter saw. Args:
    // "undo": true forgets the votes, so that it is asked anew; "archive": true puts an ended one
    // away.
    [[nodiscard]] Task<std::vector<OrderResult>> order(Order order);
    // Demands so many votes, 0 to 100, of this workload whatever its settings say; fewer than they
    // say has no effect. `on`: KIND/NAMESPACE/NAME in any case of letters. Args: "votes".
    [[nodiscard]] Task<std::vector<OrderResult>> demand(Order order);

    // By id; the archived ones as well, the newest kMaxArchived of them.
    [[nodiscard]] const std::map<std::string, Approval>& all() const { return all_; }
    [[nodiscard]] const Approval* find(const std::string& id) const;
    // The newest with this id or identifier, however its letters are written; null: none.
    [[nodiscard]] const Approval* named(const std::string& name) const;
    [[nodiscard]] std::size_t pending() const;

    static constexpr std::size_t kMaxArchived = 1000;

  private:
    [[nodiscard]] int needed(const Workload& workload, const WorkloadVerdict& verdict) const;
    [[nodiscard]] const Approval* open_one(const std::string& uid,
                                           const std::vector<Target>& targets) const;
    [[nodiscard]] OrderResult obey(const Order& order);
    [[nodiscard]] OrderResult vote(Approval& one, const Order& order, bool approve);
    void archive(Approval& one);
    void save(const Approval& one);
    void log(EntryKind kind, const std::string& code, const Approval& about,
             const std::string& cause, const std::string& text);

    Parts parts_;
    std::function<void()> moved_;
    std::map<std::string, Approval> all_;
    std::map<std::string, int> demanded_;  // KIND/NAMESPACE/NAME → votes
};

[[nodiscard]] std::string approval_to_json(const Approval& approval);
// nullopt: it is not one.
[[nodiscard]] std::optional<Approval> approval_from_json(const std::string& id,
                                                         const std::string& json);

}  // namespace keel
