// What the pods of workloads run: the baseline of whole namespaces, and one workload's pods by
// revision.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/expected.h"
#include "core/time.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/clock.h"
#include "keeld/cluster/client.h"
#include "keeld/loop.h"

namespace keel {

// Alive pods of one workload. Finished and terminating ones are left out.
struct WorkloadPods {
    std::vector<Pod> updated;  // of the newest revision of the template
    std::vector<Pod> older;
};

class PodReader {
  public:
    PodReader(ClusterClient& client, Catalogue& catalogue, const Clock& clock);

    // Lists pods of a namespace once and sets what each of its workloads runs (no pods: known, and
    // none).
    [[nodiscard]] Task<Expected<void>> read_namespace(std::string ns);
    // Lists the pods of one workload and sets what it runs. Errors: "not-found" when the workload
    // is gone.
    [[nodiscard]] Task<Expected<WorkloadPods>> read_workload(WorkloadKey key);

    // "linux/amd64" of a node; empty where nodes may not be read or it is gone. Kept once known.
    [[nodiscard]] Task<std::string> platform_of(std::string node);
    // The platforms of all nodes met so far.
    [[nodiscard]] std::vector<std::string> platforms() const;

  private:
    [[nodiscard]] Task<Expected<void>> read_nodes();
    struct Revisions {
        std::string
            newest;  // the hash that its pods carry; for Deployments the UID of the ReplicaSet
        std::set<std::string> own;  // for Deployments: the UIDs of all their ReplicaSets
    };
    [[nodiscard]] Task<Expected<Revisions>> revisions_of(Workload workload);
    void count(Running& running, const Pod& pod);

    ClusterClient& client_;
    Catalogue& catalogue_;
    const Clock& clock_;
    std::map<std::string, std::string> node_platforms_;
    bool nodes_read_ = false;
    bool nodes_forbidden_ = false;
};

}  // namespace keel
