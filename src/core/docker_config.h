// Registry credentials as people keep them: a pull secret's .dockerconfigjson, the older
// .dockercfg, a config.json with credential helpers.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/expected.h"

namespace keel {

// One way to say who asks. Never logged, never written anywhere.
struct Credential {
    std::string username;
    std::string password;
    std::string identity_token;  // exchanged for a token at the realm
    std::string registry_token;  // sent as it is

    [[nodiscard]] bool empty() const {
        return username.empty() && password.empty() && identity_token.empty() &&
               registry_token.empty();
    }
    friend bool operator==(const Credential&, const Credential&) = default;
};

class DockerConfig {
  public:
    // Takes both formats; unknown members are ignored. Errors: "credentials-invalid" naming the
    // entry, never showing a value.
    [[nodiscard]] static Expected<DockerConfig> parse(std::string_view json);

    // What fits "registry/repository" as kubelet's keyring has it, the longest path first: host
    // parts may be globs, a path is what the repository begins with, also within a component.
    [[nodiscard]] std::vector<Credential> find(std::string_view registry,
                                               std::string_view repository) const;
    // The suffix of the `docker-credential-` program to ask for the registry, or nothing.
    [[nodiscard]] std::optional<std::string> helper(std::string_view registry) const;

    [[nodiscard]] bool empty() const {
        return entries_.empty() && helpers_.empty() && store_.empty();
    }

  private:
    struct Entry {
        std::string host;  // as written, without scheme; with its port
        std::string path;  // "" or "a/b"
        Credential credential;
    };
    struct Helper {
        std::string host;
        std::string suffix;
    };
    std::vector<Entry> entries_;  // the longest path first
    std::vector<Helper> helpers_;
    std::string store_;
};

// What a helper is asked, on its standard input, and what its answer says. Errors:
// "credentials-invalid".
[[nodiscard]] std::string helper_question(std::string_view registry);
[[nodiscard]] Expected<Credential> helper_answer(std::string_view json);

}  // namespace keel
