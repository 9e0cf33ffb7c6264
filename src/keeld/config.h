// keeld.yaml: one immutable object after reading. conf/keeld.yaml is the commented example with
// every key.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/expected.h"
#include "core/policy.h"
#include "core/signature.h"
#include "core/time.h"

namespace keel {

// Where keeld listens, and keelctl looks for it, when nobody says otherwise.
inline constexpr std::string_view kDefaultListen = "unix:/run/keeld/keeld.sock";

enum class Mode : std::uint8_t { observe, act };

struct ListenConfig {
    std::string at;  // "unix:/path" or "127.0.0.1:8080", "[::1]:8080"; only loopback addresses in
                     // this version
    std::string mode = "0600";  // of the socket file
    std::string group;
    std::vector<std::string> serve;  // api, events, metrics; empty: all
};

struct CacheConfig {
    std::string name;
    std::string api;  // base URL of keel_api, "http://127.0.0.1:5000/keel", or "unix:/path:/keel"
    std::string secret;  // file; empty: keel_api is written to on a unix socket only, or not at all
    std::optional<Secrets> secrets;  // what it holds; the first signs
    std::map<std::string, std::string>
        lookup;      // registry → base URL; key "*": one URL for all, asked with ?ns=
    std::string ns;  // namespace that the cache itself runs in: excluded
};

// "5/h", "10/m", "unlimited"
struct Rate {
    int count = 0;  // 0: unlimited
    Millis per{3'600'000};
};

// Whose credentials a registry is asked with.
struct CredentialsConfig {
    enum class Kind : std::uint8_t { none, pull_secrets, config, helper };
    Kind kind = Kind::none;
    std::string config;  // a config.json, re-read when it changes
    std::string helper;  // docker-credential-<helper>
};

struct RegistryConfig {
    std::string through;    // name of a cache
    std::string direct;     // base URL, asked without a cache
    std::string upstream;   // base URL of the second source; empty: none
    Rate requests;          // of all kinds, by every way to it
    Rate pulls;             // of them, GETs of manifests
    double reserve = 0.25;  // share of RateLimit-Limit that is left to nodes; 0 to 0.9
    CredentialsConfig credentials;
};

struct KubernetesConfig {
    std::string kubeconfig;  // empty: in-cluster
    std::string context;
    std::vector<std::string> namespaces;  // empty: all
    std::string lease_namespace = "keel";
    std::string lease_name = "keeld";
};

struct PacingConfig {
    Rate cluster{5, Millis{3'600'000}};
    Rate ns{2, Millis{3'600'000}};
    int concurrent = 2;  // 0: unlimited
};

enum class Reverts : std::uint8_t { ask, follow, never };

// What makes a workload move. all: traffic, look-ups and webhooks; push: webhooks only.
enum class Trigger : std::uint8_t { all, push };

struct DefaultsConfig {
    std::string policy = "force";
    Trigger trigger = Trigger::all;
    Step step = Step::highest;
    std::string poll_schedule = "@every 1h";  // see core/poll_schedule.h; parses
    Reverts reverts = Reverts::ask;
    std::optional<Millis>
        deadline;  // of the verification; absent: progress deadline and pull allowance
    std::string restart_key = "kubectl.kubernetes.io/restartedAt";
};

struct EnrolmentConfig {
    std::string label_key = "keel.sh/enrolled";
    std::string label_value = "true";
    std::vector<std::string> exclude{"kube-system", "kube-public", "kube-node-lease"};
    bool workload_annotation = false;  // a workload's own keel.sh/policy enrols it too
};

// Images that are taken for databases where the configuration does not say.
[[nodiscard]] std::vector<std::string> default_stateful_images();

struct Config {
    std::string path;  // of the file
    Mode mode = Mode::observe;
    std::string time_zone = "UTC";  // of cron schedules
    std::vector<ListenConfig> listen;
    std::string ledger_path = "/var/lib/keeld/ledger.db";
    Millis ledger_keep = std::chrono::hours{24 * 400};
    bool ledger_loss_observe = true;  // ledger.onLoss: observe | act
    std::optional<KubernetesConfig> kubernetes;
    std::vector<CacheConfig> caches;
    std::optional<Secrets> event_secrets;
    std::map<std::string, RegistryConfig> registries;
    EnrolmentConfig enrolment;
    DefaultsConfig defaults;
    PacingConfig pacing;
    // Globs over registry/repository, in which * stands for any bytes, slashes too.
    std::vector<std::string> stateful_images = default_stateful_images();
};

// Reads and checks everything that can be checked without a network: syntax, unknown keys, types,
// ranges, secret files. Relative paths start at the configuration's own directory. All findings are
// returned, each with the code "config" and a text "FILE:LINE: KEY: what is wrong; what was
// expected".
struct ConfigResult {
    std::optional<Config> config;  // set if there are no errors
    std::vector<Error> errors;
};
[[nodiscard]] ConfigResult load_config(const std::string& path);

// Every key that this version reads, as a path ("registries.*.through"; lists count as their
// elements).
[[nodiscard]] std::vector<std::string> supported_config_keys();

}  // namespace keel
