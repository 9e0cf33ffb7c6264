// The way back (S1, R4): what is marked reversible and failed on its new content, or what a person
// takes back, goes back to what it ran before; once. A restart of an unchanged tag would pull the
// bad build again, so a hold is set first, and lifted when the tag moves on; where the image was
// changed, it is changed back.
//
// Level-triggered: everything follows from the newest rollout of the workload, from what is held,
// and from what the tag answers. Rollouts make the move.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "keeld/catalogue/catalogue.h"
#include "keeld/catalogue/holds.h"
#include "keeld/catalogue/pods.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/rollout/rollouts.h"

namespace keel {

class Restores {
  public:
    // References outlive the object.
    struct Parts {
        Loop& loop;
        const Clock& clock;
        const Catalogue& catalogue;
        const Tags& tags;
        PodReader& pods;
        Ledger& ledger;
        Holds& holds;
        Rollouts& rollouts;
        std::function<bool()> may_write;
        std::function<Task<Expected<Answer>>(Tag)> look_up;
        std::function<void(const WorkloadKey&)> reconsider;
    };
    // Reads the ledger.
    explicit Restores(Parts parts);
    void stop() { stopped_ = true; }

    // Something was decided on the workload: whether it has to go back, or may go forward again.
    void judged(const WorkloadKey& key, const CatalogueEntry& entry,
                const WorkloadVerdict& verdict);

    // Workloads that would go back and cannot, and why. Tried again every five minutes.
    [[nodiscard]] const std::map<WorkloadKey, std::string>& stuck() const { return stuck_; }

  private:
    // What a hold of ours keeps away from a tag.
    struct Kept {
        Digest bad;
        std::string workload;
    };
    void lift(const CatalogueEntry& entry);
    Task<void> release(Tag tag);
    Task<void> prepare(WorkloadKey key, std::string uid, Rollouts::Way way);
    // An empty text: a pull of the target gets what ran before.
    [[nodiscard]] Task<std::string> make_pullable(WorkloadKey key, Rollouts::Way way,
                                                  Target target);
    [[nodiscard]] Task<std::string> needed_by_others(WorkloadKey key, Target target);
    void tell_stuck(const WorkloadKey& key, const Rollouts::Way& way, const std::string& why);

    Parts parts_;
    std::map<Tag, Kept> kept_;
    std::set<std::string> under_way_;  // UIDs
    std::set<Tag> lifting_;
    std::map<WorkloadKey, std::string> stuck_;
    bool stopped_ = false;
};

}  // namespace keel
