// Leadership by a coordination.k8s.io/v1 Lease: only its holder writes to the cluster.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "keeld/cluster/client.h"
#include "keeld/loop.h"

namespace keel {

struct LeaseOptions {
    std::string ns;
    std::string name;
    std::string identity;   // of this keeld: "<host name>_<ledger id>", so that a restart over the
                            // same ledger goes on at once
    std::string ledger_id;  // kept in the annotation keel.sh/ledger
    std::chrono::seconds duration{15};
    std::chrono::seconds renew{5};
};

class Lease {
  public:
    Lease(Loop& loop, ClusterClient& client, LeaseOptions options);
    ~Lease();

    // Acquires and renews until stop(). Creates the Lease when absent. `changed` is called whenever
    // held() changes.
    [[nodiscard]] Task<void> run(std::function<void()> changed);
    // Gives the Lease back (holderIdentity empty) so that another takes over at once.
    [[nodiscard]] Task<void> release();
    void stop();

    // Held, and the renew deadline (duration less a tenth, on the monotonic clock, from the start
    // of the last successful renewal) has not passed. To be asked before every write.
    [[nodiscard]] bool held() const;
    // The ledger that the Lease remembered when it was first read; empty if it was new. Differs
    // from ours: a lost ledger.
    [[nodiscard]] const std::string& remembered_ledger() const;
    [[nodiscard]] const std::string& holder() const;   // as last read
    [[nodiscard]] const std::string& problem() const;  // empty when fine

  private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace keel
