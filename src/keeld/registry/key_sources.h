// Where the credentials for a registry come from, as registries.*.credentials says: nowhere, a
// config.json, a credential helper, or the pull secrets of those who run its images.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/docker_config.h"
#include "core/expected.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/loop.h"
#include "keeld/registry/keys.h"

namespace keel {

// Asks docker-credential-NAME for a registry: at most 30 s, with nothing of our environment but
// what finds and configures such programs (kHelperEnvironment). Errors: "credentials", naming the
// program and what it said, never what it gave.
[[nodiscard]] Task<Expected<Credential>> ask_helper(std::string name, std::string registry);

class KeySources {
  public:
    // `pull_secrets`: what registries with `credentials: pullSecrets` are asked with; empty where
    // there is no cluster.
    KeySources(const Config& config, Keys pull_secrets);

    [[nodiscard]] Task<std::vector<Key>> keys(std::string registry, std::string repository);

    // Forgets what helpers gave more than a minute ago, and files that nobody asks for; to be
    // called every now and then.
    void expire(Steady::time_point now = Steady::now());

  private:
    struct File {
        std::string version;  // of what was read: a changed file is read again
        std::shared_ptr<const DockerConfig> config;
        std::string failure;
        Steady::time_point used;
    };
    struct Asked {
        Key key;
        Steady::time_point until;
    };
    [[nodiscard]] const File& read(const std::string& path);
    [[nodiscard]] Task<Key> helper(std::string name, std::string registry, std::string where);

    const Config& config_;
    Keys pull_secrets_;
    std::map<std::string, File> files_;
    std::map<std::string, Asked> asked_;  // by helper and registry
};

}  // namespace keel
