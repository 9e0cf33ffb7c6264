// Pull secrets and the names of those that a ServiceAccount brings, read when they are needed.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/docker_config.h"
#include "core/expected.h"
#include "keeld/clock.h"
#include "keeld/cluster/client.h"
#include "keeld/loop.h"

namespace keel {

struct PullSecret {
    std::shared_ptr<const DockerConfig> config;  // null: none to be had
    std::string failure;                         // why: "it does not exist", its type, …
};

// One per keeld, on its loop. Nothing of a secret is logged or written anywhere, nor kept longer
// than a minute.
class PullSecrets {
  public:
    explicit PullSecrets(ClusterClient& client);

    // A Secret of the type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg.
    [[nodiscard]] Task<PullSecret> read(std::string ns, std::string name);
    // imagePullSecrets of a ServiceAccount. Errors: ClusterClient's, "bad-object".
    [[nodiscard]] Task<Expected<std::vector<std::string>>> of_account(std::string ns,
                                                                      std::string name);
    // Forgets what was read a minute ago; to be called every now and then.
    void expire(Steady::time_point now = Steady::now());

  private:
    using Place = std::pair<std::string, std::string>;  // namespace, name
    template <class T>
    struct Kept {
        T value;
        Steady::time_point until;
    };
    ClusterClient& client_;
    std::map<Place, Kept<PullSecret>> secrets_;
    std::map<Place, Kept<std::vector<std::string>>> accounts_;
};

}  // namespace keel
