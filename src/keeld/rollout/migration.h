// What an earlier policy (Kyverno's) stamped onto workloads and namespaces: found, and from
// workloads taken away when a person says so. Namespaces are others' (a label of theirs may let
// privileged pods in): keeld has no right to write them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "keeld/catalogue/catalogue.h"
#include "keeld/clock.h"
#include "keeld/cluster/client.h"
#include "keeld/config.h"
#include "keeld/json.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/order.h"
#include "keeld/policy/stamps.h"

namespace keel {

class Migration {
  public:
    struct Parts {
        const Config& config;
        const Clock& clock;
        const Catalogue& catalogue;
        ClusterClient& cluster;
        Ledger& ledger;
    };
    explicit Migration(Parts parts) : parts_(parts) {}

    struct Found {
        std::string on;                       // "Namespace/shop", "Deployment/shop/web"
        std::optional<WorkloadKey> workload;  // none: it is a namespace
        std::vector<Leftover> keys;
    };
    // Namespaces, then workloads, in the order of their names.
    [[nodiscard]] std::vector<Found> find(const LeftoverRule& rule) const;

    // The action migrate: takes from one workload (`on`: KIND/NAMESPACE/NAME), or from all (`on`:
    // "cluster"), the annotations that the rule in `args` finds and that are removable, each only
    // while nobody has changed the workload since it was looked at. A namespace's are told as not
    // removed. Refused in observe.
    [[nodiscard]] Task<std::vector<OrderResult>> order(Order order);

  private:
    Task<OrderResult> remove(WorkloadKey workload, std::vector<Leftover> keys, Order order);

    Parts parts_;
};

// {"managers": ["kyverno"], "values": {"keel.sh/policy": "patch"}}; Kyverno's own names where there
// are no managers. Errors: "bad-action".
[[nodiscard]] Expected<LeftoverRule> leftover_rule(const json_t* args);

}  // namespace keel
