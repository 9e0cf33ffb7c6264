// keeld as a whole: makes the components, wires them, and ends them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/expected.h"
#include "keeld/api/actions.h"
#include "keeld/api/approvals.h"
#include "keeld/api/router.h"
#include "keeld/api/server.h"
#include "keeld/api/views.h"
#include "keeld/api/webhooks.h"
#include "keeld/cache/feed.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/catalogue/holds.h"
#include "keeld/catalogue/listings.h"
#include "keeld/catalogue/observations.h"
#include "keeld/catalogue/pods.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/cluster/client.h"
#include "keeld/cluster/lease.h"
#include "keeld/cluster/pull_secrets.h"
#include "keeld/cluster/reflector.h"
#include "keeld/config.h"
#include "keeld/http/client.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/outside_clock.h"
#include "keeld/policy/pushes.h"
#include "keeld/policy/schedule.h"
#include "keeld/policy/workload_keys.h"
#include "keeld/registry/key_sources.h"
#include "keeld/registry/registry.h"
#include "keeld/rollout/approvals.h"
#include "keeld/rollout/gates.h"
#include "keeld/rollout/migration.h"
#include "keeld/rollout/phases.h"
#include "keeld/rollout/planner.h"
#include "keeld/rollout/restores.h"
#include "keeld/rollout/rollouts.h"
#include "keeld/rollout/stamper.h"

namespace keel {

class Daemon {
  public:
    // `clock`: path of the socket of --clock; empty: the system's clock. `yes`: cap.workloads does
    // not hold for this start.
    Daemon(Loop& loop, Config config, std::string clock, bool yes = false);
    ~Daemon();

    // Opens the ledger, reaches the API server, checks permissions, binds listeners; everything
    // that is wrong is returned. Nothing runs before it has succeeded.
    [[nodiscard]] Task<std::vector<Error>> start(bool check_only);
    // Until stop() has been called and everything has ended. `give_up`: called where the
    // configuration turns out to change more than its cap allows, once the workloads are listed;
    // nothing has been written to the cluster then.
    void run_background(std::function<void()> give_up);
    // Ends within `grace`: listeners first, then rollouts at their next step, the Lease is given
    // back, the ledger is flushed.
    [[nodiscard]] Task<void> stop();
    // SIGHUP: takes a new configuration, at once and for everything that there is, but for what
    // needs a restart, which is named: listeners, ledger, cluster, caches, the restart key, and act
    // after a start in observe. One that is wrong, or changes more than its cap allows, is not
    // taken at all.
    void reload();

  private:
    [[nodiscard]] Expected<ClusterAccess> cluster_access() const;
    [[nodiscard]] Task<std::vector<Error>> check_cluster();
    void make_components();
    void make_cluster_components(ClusterAccess access);
    void make_reflectors();
    void follow_workloads(WorkloadKind kind, const std::string& ns);
    void follow_namespaces(const std::string& only);
    void follow(const std::string& path, const std::string& query, ReflectorHandlers handlers);
    void collection_listed();
    void lease_changed();
    [[nodiscard]] bool may_begin();
    [[nodiscard]] std::vector<std::string> keep_what_needs_a_restart(Config& next) const;
    void remember_config();
    [[nodiscard]] ApiResponse plan_of(const ApiRequest& request) const;
    [[nodiscard]] Task<Expected<Answer>> what_a_pull_gets(Tag tag);
    [[nodiscard]] const Clock& clock() const;
    Task<Expected<Schedule::Names>> list_tags(Tag tag);
    Task<void> read_traffic();
    void believe(const Tag& tag, const Digest& digest, const std::string& source);
    Task<ApiResponse> take_webhook(ApiRequest request);
    void clock_moved();
    [[nodiscard]] bool is_over(const Approval& one);
    Task<void> run_upkeep();

    Loop& loop_;
    Config config_;
    PhaseStates phases_;  // written by plan_
    SystemClock real_;    // of signatures and of what caches and people are told
    std::unique_ptr<OutsideClock> outside_;
    std::unique_ptr<Ledger> ledger_;
    std::unique_ptr<HttpClient> http_;
    std::unique_ptr<ClusterClient> cluster_;
    std::unique_ptr<Lease> lease_;
    std::unique_ptr<Tags> tags_;
    std::unique_ptr<Registry> registry_;
    std::unique_ptr<Catalogue> catalogue_;
    std::unique_ptr<Listings> listings_;
    std::unique_ptr<Pushes> pushes_;
    std::unique_ptr<PullSecrets> pull_secrets_;
    std::unique_ptr<WorkloadKeys> workload_keys_;
    std::unique_ptr<KeySources> key_sources_;
    std::unique_ptr<Observations> observations_;
    std::unique_ptr<Holds> holds_;
    std::unique_ptr<PodReader> pods_;
    std::unique_ptr<Schedule> schedule_;
    std::unique_ptr<Phases> plan_;
    std::unique_ptr<Gates> gates_;
    std::unique_ptr<Approvals> approvals_;
    std::unique_ptr<Stamper> stamper_;
    std::unique_ptr<Migration> migration_;
    std::unique_ptr<Planner> planner_;
    std::unique_ptr<Rollouts> rollouts_;
    std::unique_ptr<Restores> restores_;
    Rollouts* rollouts_pointer_ = nullptr;
    std::unique_ptr<CacheFeed> feed_;
    std::unique_ptr<Webhooks> webhooks_;
    std::unique_ptr<Views> views_;
    std::unique_ptr<Actions> actions_;
    std::unique_ptr<ApprovalsApi> approvals_api_;
    std::unique_ptr<Router> router_;
    std::unique_ptr<Server> server_;
    std::vector<std::unique_ptr<Reflector>> reflectors_;
    std::map<std::string, std::string> cluster_problems_;  // by collection
    std::set<std::string> listed_;                         // collections that have been listed once
    std::function<void()> give_up_;
    std::string config_problem_;  // why the newest keeld.yaml was not taken; empty: it was
    bool yes_ = false;
    bool led_ = false;  // started in mode act
    bool ready_ = false;
    bool ledger_lost_ = false;
    bool stopping_ = false;
};

}  // namespace keel
