// Where the API server is and how to prove who we are: a kubeconfig, or the pod's service account.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/expected.h"
#include "keeld/http/client.h"

namespace keel {

struct ClusterAccess {
    // client-go credential plugin, client.authentication.k8s.io/v1 or v1beta1
    struct Exec {
        std::string api_version;
        std::string command;  // relative with a slash: made absolute from the kubeconfig's folder
        std::vector<std::string> args;
        std::vector<std::pair<std::string, std::string>> env;
        std::string install_hint;
        bool provide_cluster_info = false;
    };

    std::string server;  // "https://host:port", perhaps with a path; no slash at the end
    TlsOptions tls;
    std::string token;       // static
    std::string token_file;  // stronger than `token`; read again (rotation), see Credentials
    std::string username;    // basic, where a kubeconfig still has it
    std::string password;
    std::optional<Exec> exec;
    std::string ns;     // of the context, or of the service account
    std::string proxy;  // proxy-url; empty: the environment decides
};

// kubeconfig by path; context empty: its current-context. Relative file names are relative to it.
// Errors: code "kubeconfig", the text names the file, the key and what was expected. Reads files:
// at start and on demand only.
[[nodiscard]] Expected<ClusterAccess> load_kubeconfig(const std::string& path,
                                                      const std::string& context = {});

inline constexpr char kServiceAccount[] = "/var/run/secrets/kubernetes.io/serviceaccount";

// The pod's service account: KUBERNETES_SERVICE_HOST and _PORT, and the files token, ca.crt and
// namespace in `folder`. Errors: "kubeconfig", saying that keeld does not run in a pod and what to
// configure.
[[nodiscard]] Expected<ClusterAccess> in_cluster_access(
    const std::string& folder = kServiceAccount);

}  // namespace keel
