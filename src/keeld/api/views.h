// The objects of keeld's HTTP API (and of `keelctl -o json`), rendered from the live state, and its
// metrics.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/expected.h"
#include "keeld/api/server.h"
#include "keeld/api/watches.h"
#include "keeld/cache/feed.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/catalogue/holds.h"
#include "keeld/catalogue/listings.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/cluster/client.h"
#include "keeld/cluster/lease.h"
#include "keeld/config.h"
#include "keeld/ledger/ledger.h"
#include "keeld/policy/schedule.h"
#include "keeld/registry/registry.h"
#include "keeld/rollout/migration.h"
#include "keeld/rollout/phases.h"
#include "keeld/rollout/planner.h"
#include "keeld/rollout/restores.h"
#include "keeld/rollout/rollouts.h"
#include "keeld/rollout/stamper.h"

namespace keel {

class Webhooks;

// Something that needs attention, as GET /v1/status lists it.
struct Problem {
    std::string code;
    std::string text;
    Time since;
    std::string next;  // what keeld or a person does about it
};

class Views {
  public:
    // Null pointers where keeld runs without a cluster.
    struct Parts {
        const Config& config;
        const PhaseStates& phases;
        const Clock& clock;
        Ledger& ledger;
        Tags& tags;
        Registry& registry;
        CacheFeed& feed;
        Holds& holds;
        Catalogue& catalogue;
        Planner* planner = nullptr;
        Rollouts* rollouts = nullptr;
        Schedule* schedule = nullptr;
        Lease* lease = nullptr;
        std::function<std::map<std::string, std::string>()> cluster_problems;
        std::function<bool()> ready;
        std::function<bool()> ledger_lost;
        const Listings* listings = nullptr;  // null: no lists are read
        const Phases* plan = nullptr;
        const Gates* gates = nullptr;
        const Approvals* approvals = nullptr;
        const Stamper* stamper = nullptr;
        const Restores* restores = nullptr;
        const Migration* migration = nullptr;
        std::function<std::string()> config_problem{};  // may be null
        const Webhooks* webhooks = nullptr;
    };
    explicit Views(Parts parts);

    [[nodiscard]] ApiResponse status();
    // What waits to start, in its order, with the gates that are closed.
    [[nodiscard]] ApiResponse plan();
    [[nodiscard]] ApiResponse workloads(const ApiRequest& request);
    [[nodiscard]] ApiResponse workload(const std::string& key);
    [[nodiscard]] ApiResponse tags(const ApiRequest& request);
    [[nodiscard]] ApiResponse holds(const ApiRequest& request);
    // Those that cannot fire; all of them with ?all=true.
    [[nodiscard]] ApiResponse watches(const ApiRequest& request);
    [[nodiscard]] ApiResponse rollouts(const ApiRequest& request);
    [[nodiscard]] ApiResponse ledger(const ApiRequest& request);
    [[nodiscard]] ApiResponse phases();
    // What every workload runs, as image fields; ?namespace=.
    [[nodiscard]] ApiResponse pins(const ApiRequest& request);
    // ?manager=GLOB&value=KEY=VALUE, each any number of times.
    [[nodiscard]] ApiResponse leftovers(const ApiRequest& request);
    // ?phase=NAME: of that one alone.
    [[nodiscard]] ApiResponse report(const ApiRequest& request);
    [[nodiscard]] ApiResponse metrics();

    // What is wrong now. To be called once a second as well, so that `since` is true.
    const std::vector<Problem>& problems();

  private:
    [[nodiscard]] Json workload_summary(const CatalogueEntry& entry,
                                        const WorkloadVerdict& verdict) const;
    [[nodiscard]] Json container_detail(const CatalogueEntry& entry, std::size_t at,
                                        const ContainerVerdict& verdict,
                                        const WorkloadSettings& settings) const;
    [[nodiscard]] WatchParts watch_parts() const;
    void add_gates(json_t* root) const;
    void add_problem(std::vector<Problem>& now, std::string code, std::string text,
                     std::string next);

    Parts parts_;
    std::vector<Problem> problems_;
    WatchCounts watch_counts_;
};

}  // namespace keel
