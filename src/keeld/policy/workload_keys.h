// The credentials of those who run a repository's images: what `credentials: pullSecrets` means.
#pragma once

#include <string>
#include <vector>

#include "keeld/catalogue/catalogue.h"
#include "keeld/cluster/pull_secrets.h"
#include "keeld/config.h"
#include "keeld/loop.h"
#include "keeld/policy/phases.h"
#include "keeld/registry/keys.h"

namespace keel {

class WorkloadKeys {
  public:
    WorkloadKeys(const Config& config, const PhaseStates& phases, const Catalogue& catalogue,
                 PullSecrets& secrets);

    // Of every enrolled, not vetoed workload with a container from this repository, in the order
    // of their names: the Secret that keel.sh/imagePullSecret names, its pod template's
    // imagePullSecrets, its ServiceAccount's (`default` where it names none); each Secret once.
    // One that cannot be read, or has nothing for the registry, is there with the reason.
    [[nodiscard]] Task<std::vector<Key>> keys(std::string registry, std::string repository);

  private:
    const Config& config_;
    const PhaseStates& phases_;
    const Catalogue& catalogue_;
    PullSecrets& secrets_;
};

}  // namespace keel
