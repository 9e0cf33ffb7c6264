// Leadership by a coordination.k8s.io/v1 Lease: only its holder writes to the cluster.
#pragma once

#include <chrono>
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

// Times are on the monotonic clock: what others write as renewTime is only compared with what they
// wrote before, as in client-go, so that clocks need not agree. A foreign holder is alive until its
// record has not changed for the leaseDurationSeconds that it wrote. A holder of our own identity
// is us before a restart, and goes on at once: two processes must not share an identity (the
// ledger's lock sees to that).
class Lease {
  public:
    // `client` is borrowed.
    Lease(Loop& loop, ClusterClient& client, LeaseOptions options);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    // Acquires and renews until stop(). Creates the Lease when absent. `changed` is called on the
    // loop whenever held() changes, by itself too when the renew deadline passes.
    [[nodiscard]] Task<void> run(std::function<void()> changed);
    // Gives the Lease back (no holderIdentity) so that another takes over at once. After stop();
    // waits until run() has ended.
    [[nodiscard]] Task<void> release();
    void stop();

    // Held, and the renew deadline (duration less a tenth, from the start of the last successful
    // renewal) has not passed. To be asked before every write.
    [[nodiscard]] bool held() const;
    // The Lease has been read (or created) once; the two below mean nothing before.
    [[nodiscard]] bool known() const;
    // The ledger that the Lease remembered when it was first read; empty if it was new. Differs
    // from ours: a lost ledger.
    [[nodiscard]] const std::string& remembered_ledger() const;
    // From the next renewal on the Lease remembers our ledger. Until then another one's id stays,
    // through restarts too, so that a lost ledger is not forgotten by starting twice. An empty
    // memory is filled at once.
    void accept_ledger();
    [[nodiscard]] const std::string& holder() const;  // as last read
    [[nodiscard]] const std::string& problem()
        const;  // empty when fine; a foreign holder is no problem

  private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace keel
