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
#include "core/webhook.h"

namespace keel {

// Where keeld listens, and keelctl looks for it, when nobody says otherwise.
inline constexpr std::string_view kDefaultListen = "unix:/run/keeld/keeld.sock";

enum class Mode : std::uint8_t { observe, act };

struct ListenConfig {
    std::string at;  // "unix:/path" or "127.0.0.1:8080", "[::1]:8080"; only loopback addresses in
                     // this version
    std::string mode = "0600";  // of the socket file
    std::string group;
    std::vector<std::string> serve;  // api, events, webhooks, metrics; empty: all

    friend bool operator==(const ListenConfig&, const ListenConfig&) = default;
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

// A sender of webhooks that is served.
struct WebhookConfig {
    WebhookAuth auth = WebhookAuth::none;
    std::vector<std::string> secrets;  // any of them will do; "USER:PASSWORD" for basic
};

struct KubernetesConfig {
    std::string kubeconfig;  // empty: in-cluster
    std::string context;
    std::vector<std::string> namespaces;  // empty: all
    std::string lease_namespace = "keel";
    std::string lease_name = "keeld";

    friend bool operator==(const KubernetesConfig&, const KubernetesConfig&) = default;
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
    Millis min_age{0};                       // of a digest, since keeld or its cache saw it first
    Millis soak = std::chrono::minutes{10};  // how long new pods have to stay well
    bool reversible = false;  // what failed on its content goes back to what ran before
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

// When rollouts may start. In `zone` local time; a window belongs to the day that it begins on, and
// `to` is on the next day where it is not later than `from`.
struct WindowConfig {
    std::string name;
    unsigned days = 0b1111111;                 // bit 0 is Sunday
    std::chrono::minutes from{0};              // since midnight, below 24 h
    std::chrono::minutes to{24 * 60};          // since midnight, up to 24 h
    std::string zone;                          // empty: timeZone
    std::vector<std::string> namespaces{"*"};  // globs; empty: where a phase names it only
};

// What must hold before a phase is over, beside its soak.
struct AcceptConfig {
    Millis newest_within = std::chrono::hours{24};
    Millis crash_loop = std::chrono::hours{1};  // no crash loop lasts longer
    int pinned_out = 0;                         // at most so many held back for good
};

// A set of namespaces in the order of the plan.
struct PhaseConfig {
    std::string name;
    std::vector<std::string> namespaces;          // globs
    std::map<std::string, std::string> selector;  // labels that a namespace must have, all of them
    Millis soak = std::chrono::hours{24 * 7};
    AcceptConfig accept;
    bool automatic = false;            // advance: auto; else it waits for `keelctl phase advance`
    std::vector<std::string> windows;  // names of windows: in one of them
    std::map<std::string, std::string> settings;  // "keel.sh/policy" → "patch": weaker than a
                                                  // namespace's, stronger than defaults
};

// Workloads that move together or not at all.
struct GroupConfig {
    std::string name;
    std::vector<std::string> workloads;  // globs over KIND/NAMESPACE/NAME
};

struct PriorityConfig {
    std::vector<std::string> workloads;  // globs over KIND/NAMESPACE/NAME
    int value = 0;                       // the highest that matches goes first; 0 where none does
};

// When failures stop everything: so many, or a share, of the newest `of` rollouts that ended.
struct BreakerConfig {
    int failures = 3;  // 0: never
    int of = 20;
    double share = 0.2;
};

// Images that are taken for databases where the configuration does not say.
[[nodiscard]] std::vector<std::string> default_stateful_images();

struct Config {
    std::string path;  // of the file
    std::string text;  // of the file
    Mode mode = Mode::observe;
    std::string time_zone = "UTC";  // of cron schedules
    std::vector<ListenConfig> listen;
    std::string ledger_path = "/var/lib/keeld/ledger.db";
    Millis ledger_keep = std::chrono::hours{24 * 400};
    bool ledger_loss_observe = true;  // ledger.onLoss: observe | act
    std::optional<KubernetesConfig> kubernetes;
    std::vector<CacheConfig> caches;
    std::optional<Secrets> event_secrets;
    std::map<std::string, WebhookConfig> webhooks;  // by the sender's name
    std::map<std::string, RegistryConfig> registries;
    EnrolmentConfig enrolment;
    DefaultsConfig defaults;
    PacingConfig pacing;
    BreakerConfig breaker;
    std::vector<WindowConfig> windows;
    std::vector<PhaseConfig> phases;  // in their order
    std::vector<GroupConfig> groups;
    std::vector<PriorityConfig> priorities;
    bool stamp = false;                         // whether enrolled workloads get annotations
    std::vector<std::string> ignored_managers;  // settings.ignoreManagers: field managers whose
                                                // keys are no settings
    // settings.imageOwners: field managers that set an image back to what they declare.
    std::vector<std::string> image_owners{
        "HashiCorp",       "Terraform", "helm",   "argocd-*", "kustomize-controller",
        "helm-controller", "flux*",     "pulumi*"};
    int cap = 40;  // workloads that a change of configuration may touch without --yes; 0: any
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
// The same of a text that stands for the file at `path`. Other files that it names are not looked
// at, so that it can be judged where they are not, or not yet; nothing can run by it.
[[nodiscard]] ConfigResult parse_config(const std::string& text, const std::string& path);

// Every key that this version reads, as a path ("registries.*.through"; lists count as their
// elements).
[[nodiscard]] std::vector<std::string> supported_config_keys();

}  // namespace keel
