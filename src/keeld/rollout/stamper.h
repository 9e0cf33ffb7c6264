// Stamping: the effective settings of enrolled workloads as annotations, for people who want to
// see them on the object. By server-side apply with a field manager of its own, which is how the
// API server knows what is ours: taking a stamp away takes nothing else.
//
// Level-triggered: a workload is looked at after each of its changes, and what it carries is made
// what stamp_for() says, at most ten writes a second.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "keeld/catalogue/catalogue.h"
#include "keeld/clock.h"
#include "keeld/cluster/client.h"
#include "keeld/config.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/policy/phases.h"
#include "keeld/policy/stamps.h"
#include "keeld/signal.h"

namespace keel {

class Stamper {
  public:
    struct Parts {
        Loop& loop;
        const Config& config;
        const PhaseStates& phases;
        const Clock& clock;
        Catalogue& catalogue;
        ClusterClient& cluster;
        Ledger& ledger;
        std::function<bool()> may_write;  // mode act, and the Lease is held
    };
    explicit Stamper(Parts parts);

    // Once; before that nothing is written, for not everything is listed yet.
    void start();
    Task<void> run();
    void stop();

    // Something about this workload is another now.
    void look(const WorkloadKey& key);
    // The configuration is: what was fought over, or refused, is tried again.
    void reconfigured();

    // Workloads that carry a stamp, and those whose stamp is to be another one.
    [[nodiscard]] std::size_t stamped() const;
    [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }
    // Workloads whose stamp somebody else keeps changing: left alone until it is to be another
    // one, or the configuration is read again.
    [[nodiscard]] const std::map<WorkloadKey, std::string>& fought() const { return fought_; }
    // Workloads whose stamp the API server keeps refusing, with its newest answer; tried again.
    [[nodiscard]] const std::map<WorkloadKey, std::string>& refused() const { return refused_; }

  private:
    // One stamp on one object; another stamp, or another object of that name, begins anew.
    struct Tries {
        std::string uid;
        Stamp stamp;
        int written = 0;
        int failed = 0;  // in a row

        [[nodiscard]] bool are_of(const Workload& workload, const Stamp& wanted) const {
            return uid == workload.uid && stamp == wanted;
        }
    };

    [[nodiscard]] Stamp wanted_on(const Workload& workload) const;
    void forget(const WorkloadKey& key);
    Task<void> stamp(WorkloadKey key);
    void failed(const WorkloadKey& key, int times, const std::string& text);
    void note(const WorkloadKey& key, const std::string& code, const std::string& text);

    Parts parts_;
    Signal wake_;
    std::map<WorkloadKey, Steady::time_point> waiting_;  // not before
    std::map<WorkloadKey, Tries> tries_;
    std::map<WorkloadKey, std::string> fought_;   // why
    std::map<WorkloadKey, std::string> refused_;  // why
    bool started_ = false;
    bool stopped_ = false;
};

}  // namespace keel
