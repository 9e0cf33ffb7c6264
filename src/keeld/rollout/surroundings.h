// What stands around a rollout and would stop it half-way: quotas and admission of pods, volumes,
// host ports, disruption budgets, nodes that are being emptied. Asked before anything is written.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "keeld/clock.h"
#include "keeld/cluster/client.h"
#include "keeld/cluster/objects.h"
#include "keeld/json.h"
#include "keeld/rollout/preflight.h"

namespace keel {

// How the pods of a workload are replaced, by its own strategy. Of whole objects as the API server
// tells them, with its defaults filled in.
struct Replacement {
    int pods = 1;         // wanted
    int surge = 0;        // new ones that may come before an old one goes
    int unavailable = 1;  // old ones that may go before a new one is there
    bool host_ports = false;
    std::vector<std::string> claims;  // PersistentVolumeClaims that all of its pods share
    std::string node_selector;        // as a label selector; empty: any node

    // No old pod goes before a new one is there: one that cannot come stops everything.
    [[nodiscard]] bool waits_for_new() const { return surge > 0 && unavailable == 0; }
};
[[nodiscard]] Replacement replacement_of(WorkloadKind kind, const json_t* object);

// One new pod of the workload, as its controller would make it.
[[nodiscard]] Json trial_pod(const WorkloadKey& key, const json_t* object);

// The API server's refusal of that pod, asked by a dry run. A quota that is used up stops nothing
// where old pods go first.
[[nodiscard]] std::optional<Obstacle> judge_trial(const Error& error, const Replacement& replaced);

// A PersistentVolumeClaim that an old and a new pod would have at once. `nodes`: how many may take
// the new one.
[[nodiscard]] std::optional<Obstacle> judge_claim(const json_t* claim, std::size_t nodes);

// Asks the API server. Runs on keeld's loop.
class Surroundings {
  public:
    // What a look found in the way. nullopt: nothing. Errors: somebody did not answer.
    using Found = Expected<std::optional<Obstacle>>;

    // Whether the obstacle with this code is released, by the annotation keel.sh/CODE: allow.
    using Allowed = std::function<bool(const std::string& code)>;

    Surroundings(ClusterClient& cluster, const Clock& clock) : cluster_(cluster), clock_(clock) {}

    // `object`: the workload as it would be. `crashing`: its pods do, and are worth no protection.
    // What keeld may not read is not looked at.
    [[nodiscard]] Task<Found> look(Workload workload, Json object, bool crashing, Allowed allowed);

  private:
    Task<Found> try_pod(WorkloadKey key, Json pod, Replacement replaced);
    Task<Found> look_at_nodes(std::string ns, Replacement replaced, Allowed allowed);
    Task<Found> look_at_budgets(Workload workload);
    Task<Found> look_at_drains(Workload workload);
    Task<Expected<void>> read_emptied();
    Task<Expected<bool>> has_pods(std::string ns, std::string query);

    ClusterClient& cluster_;
    const Clock& clock_;
    // Nodes that were cordoned a short while ago, as they were told last.
    std::vector<std::string> emptied_;
    Steady::time_point emptied_until_{};  // asked again
};

}  // namespace keel
