// Credentials to be tried at a registry, wherever they come from.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/docker_config.h"
#include "keeld/loop.h"

namespace keel {

// One credential to be tried, and where it comes from.
struct Key {
    std::string name;  // "Secret shop/regcred", "/etc/keeld/config.json", "helper ecr-login"
    Credential credential;
    std::string failure;  // why there is none to be had from there; empty: there is one
};

// Everything that may be tried for a repository ("docker.io", "library/redis"), in this order.
using Keys = std::function<Task<std::vector<Key>>(std::string, std::string)>;

}  // namespace keel
