// keeld.yaml: what is read, and that every mistake is told at once, with its line and what was
// expected.
#include "keeld/config.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "keeld/address.h"

namespace keel {
namespace {

constexpr const char* kExample = "conf/keeld.yaml";

class ConfigTest : public testing::Test {
  protected:
    ConfigTest() {
        std::string pattern = (std::filesystem::temp_directory_path() / "config-XXXXXX").string();
        directory_ = ::mkdtemp(pattern.data());
        // Thirty-two bytes in base64.
        write("event.secret", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n", 0600);
    }
    ~ConfigTest() override {
        std::error_code ignored;
        std::filesystem::remove_all(directory_, ignored);
    }

    std::string path(const std::string& name) const { return (directory_ / name).string(); }

    void write(const std::string& name, const std::string& text, mode_t mode = 0644) const {
        std::ofstream(path(name)) << text;
        ASSERT_EQ(::chmod(path(name).c_str(), mode), 0);
    }

    ConfigResult load(const std::string& yaml) const {
        write("keeld.yaml", yaml);
        return load_config(path("keeld.yaml"));
    }

    Config good(const std::string& yaml) const {
        auto result = load(yaml);
        EXPECT_TRUE(result.config.has_value()) << all(result);
        EXPECT_EQ(all(result), "");
        return result.config.value_or(Config());
    }

    // All errors of a file, one a line, without its directory.
    std::string bad(const std::string& yaml) const {
        const auto result = load(yaml);
        EXPECT_FALSE(result.config.has_value()) << yaml;
        EXPECT_FALSE(result.errors.empty());
        return all(result);
    }

    std::string all(const ConfigResult& result) const {
        std::string text;
        for (const Error& error : result.errors) {
            EXPECT_EQ(error.code, "config");
            std::string line = error.text;
            const std::string prefix = directory_.string() + "/";
            for (auto at = line.find(prefix); at != std::string::npos; at = line.find(prefix)) {
                line.erase(at, prefix.size());
            }
            text += line + "\n";
        }
        return text;
    }

    // That one mistake beside a good rest gives exactly this one error.
    void expect_error(const std::string& yaml, const std::string& error) const {
        EXPECT_EQ(bad(yaml), error + "\n") << yaml;
    }

    std::filesystem::path directory_;
};

// Something to do, for files whose interest lies elsewhere.
const std::string kCluster = "kubernetes: {}\n";

const std::string kCaches =
    "events: {secret: event.secret}\n"
    "caches: [{name: cache-a, api: \"http://127.0.0.1:5000/keel/\", lookup: "
    "\"http://127.0.0.1:5000\"}]\n";

TEST_F(ConfigTest, DefaultsAreThoseOfTheDesign) {
    const Config config = good(kCluster);
    EXPECT_EQ(config.mode, Mode::observe);
    EXPECT_EQ(config.time_zone, "UTC");
    ASSERT_EQ(config.listen.size(), 1U);
    EXPECT_EQ(config.listen[0].at, "unix:/run/keeld/keeld.sock");
    EXPECT_EQ(config.listen[0].mode, "0600");
    EXPECT_TRUE(config.listen[0].serve.empty());
    EXPECT_EQ(config.ledger_path, "/var/lib/keeld/ledger.db");
    EXPECT_EQ(format_duration(config.ledger_keep), format_duration(std::chrono::hours{24 * 400}));
    EXPECT_TRUE(config.ledger_loss_observe);
    ASSERT_TRUE(config.kubernetes.has_value());
    EXPECT_EQ(config.kubernetes->kubeconfig, "");
    EXPECT_EQ(config.kubernetes->lease_namespace, "keel");
    EXPECT_EQ(config.kubernetes->lease_name, "keeld");
    EXPECT_EQ(config.enrolment.label_key, "keel.sh/enrolled");
    EXPECT_EQ(config.enrolment.label_value, "true");
    EXPECT_EQ(config.enrolment.exclude.size(), 3U);
    EXPECT_FALSE(config.enrolment.workload_annotation);
    EXPECT_EQ(config.defaults.policy, "force");
    EXPECT_EQ(config.defaults.trigger, Trigger::all);
    EXPECT_EQ(config.defaults.step, Step::highest);
    EXPECT_EQ(config.defaults.poll_schedule, "@every 1h");
    EXPECT_EQ(config.defaults.reverts, Reverts::ask);
    EXPECT_EQ(config.defaults.deadline, std::nullopt);
    EXPECT_EQ(config.defaults.restart_key, "kubectl.kubernetes.io/restartedAt");
    EXPECT_EQ(config.pacing.cluster.count, 5);
    EXPECT_EQ(config.pacing.cluster.per, std::chrono::hours{1});
    EXPECT_EQ(config.pacing.ns.count, 2);
    EXPECT_EQ(config.pacing.concurrent, 2);
    EXPECT_FALSE(config.event_secrets.has_value());
    EXPECT_NE(std::find(config.stateful_images.begin(), config.stateful_images.end(), "*/postgres"),
              config.stateful_images.end());
}

TEST_F(ConfigTest, ReadsEveryKey) {
    write("kube.config", "{}");
    const Config config = good(R"(
mode: act
timeZone: UTC
listen:
  - {at: "unix:/run/keeld/a.sock", mode: "0660", group: root, serve: [api, metrics]}
  - {at: "[::1]:0", serve: [events]}
ledger: {path: ledger.db, keep: 30d, onLoss: act}
kubernetes: {kubeconfig: kube.config, context: lab, namespaces: [website, shop], lease: {namespace: ops, name: roller}}
caches:
  - {name: cache-a, api: "https://cache.lan/keel/", secret: event.secret, lookup: "http://127.0.0.1:5000/", namespace: registry}
  - {name: cache-b, api: "unix:/run/nginx.sock:/keel", lookup: {ghcr.io: "http://127.0.0.1:5010"}}
events: {secret: event.secret}
registries:
  docker.io: {through: cache-a, upstream: "https://registry-1.docker.io"}
  ghcr.io: {through: cache-b}
  "forge.example:5000": {direct: "https://forge.example:5000", upstream: null}
enrolment: {label: example.org/roll=yes, exclude: [kube-system]}
defaults: {policy: never, pollSchedule: "@every 2m", reverts: follow, deadline: 15m, restartKey: example.org/at}
pacing: {cluster: 20/d, namespace: unlimited, concurrent: unlimited}
stateful: {images: ["*/db"]}
)");
    EXPECT_EQ(config.mode, Mode::act);
    EXPECT_EQ(config.listen.at(0).mode, "0660");
    EXPECT_EQ(config.listen.at(0).group, "root");
    EXPECT_EQ(config.listen.at(0).serve, (std::vector<std::string>{"api", "metrics"}));
    EXPECT_EQ(config.listen.at(1).at, "[::1]:0");
    EXPECT_EQ(config.ledger_path, path("ledger.db"));
    EXPECT_EQ(config.ledger_keep, std::chrono::hours{24 * 30});
    EXPECT_FALSE(config.ledger_loss_observe);
    EXPECT_EQ(config.kubernetes->kubeconfig, path("kube.config"));
    EXPECT_EQ(config.kubernetes->context, "lab");
    EXPECT_EQ(config.kubernetes->namespaces, (std::vector<std::string>{"website", "shop"}));
    EXPECT_EQ(config.kubernetes->lease_namespace, "ops");
    EXPECT_EQ(config.kubernetes->lease_name, "roller");
    EXPECT_EQ(config.caches.at(0).api, "https://cache.lan/keel");
    EXPECT_EQ(config.caches.at(0).secret, path("event.secret"));
    EXPECT_EQ(config.caches.at(0).lookup.at("*"), "http://127.0.0.1:5000");
    EXPECT_EQ(config.caches.at(0).ns, "registry");
    EXPECT_EQ(config.caches.at(1).api, "unix:/run/nginx.sock:/keel");
    EXPECT_EQ(config.caches.at(1).lookup.at("ghcr.io"), "http://127.0.0.1:5010");
    ASSERT_TRUE(config.event_secrets.has_value());
    EXPECT_TRUE(config.event_secrets->sign("a", "1", "b").starts_with("v1,"));
    EXPECT_EQ(config.registries.at("docker.io").through, "cache-a");
    EXPECT_EQ(config.registries.at("docker.io").upstream, "https://registry-1.docker.io");
    EXPECT_EQ(config.registries.at("forge.example:5000").direct, "https://forge.example:5000");
    EXPECT_EQ(config.registries.at("forge.example:5000").upstream, "");
    EXPECT_EQ(config.enrolment.label_key, "example.org/roll");
    EXPECT_EQ(config.enrolment.label_value, "yes");
    EXPECT_EQ(config.enrolment.exclude, (std::vector<std::string>{"kube-system"}));
    EXPECT_EQ(config.defaults.policy, "never");
    EXPECT_EQ(config.defaults.poll_schedule, "@every 2m");
    EXPECT_EQ(config.defaults.reverts, Reverts::follow);
    EXPECT_EQ(config.defaults.deadline, std::chrono::minutes{15});
    EXPECT_EQ(config.defaults.restart_key, "example.org/at");
    EXPECT_EQ(config.pacing.cluster.count, 20);
    EXPECT_EQ(config.pacing.cluster.per, std::chrono::hours{24});
    EXPECT_EQ(config.pacing.ns.count, 0);
    EXPECT_EQ(config.pacing.concurrent, 0);
    EXPECT_EQ(config.stateful_images, (std::vector<std::string>{"*/db"}));
}

TEST_F(ConfigTest, UnlimitedPacingIsOneWord) {
    const Config config = good(kCluster + "pacing: unlimited\n");
    EXPECT_EQ(config.pacing.cluster.count, 0);
    EXPECT_EQ(config.pacing.ns.count, 0);
    EXPECT_EQ(config.pacing.concurrent, 0);
}

TEST_F(ConfigTest, E2_AllMistakesAreToldAtOnceWithTheirLines) {
    EXPECT_EQ(
        bad("mode: active\n"
            "pacing:\n"
            "  cluster: 5\n"
            "  concurent: 2\n"
            "kubernetes:\n"
            "  namespaces: [Website]\n"),
        "keeld.yaml:1: mode: \"active\" is not known; expected one of observe, act\n"
        "keeld.yaml:6: kubernetes.namespaces[0]: \"Website\" is not a namespace's name "
        "(lower-case letters, digits and -)\n"
        "keeld.yaml:4: pacing.concurent: unknown key; did you mean \"concurrent\"?\n"
        "keeld.yaml:3: pacing.cluster: \"5\" is not a rate; expected N/s, N/m, N/h or N/d with N "
        "from 1, or unlimited (to write nothing at all: mode: observe)\n");
}

TEST_F(ConfigTest, E2_UnknownKeysNameTheNearestOne) {
    expect_error(kCluster + "Mode: act\n",
                 "keeld.yaml:2: Mode: unknown key; did you mean \"mode\"?");
    expect_error(kCluster + "enrollment: {}\n",
                 "keeld.yaml:2: enrollment: unknown key; did you mean \"enrolment\"?");
    expect_error(
        kCluster + "ledger: {retention: 1d}\n",
        "keeld.yaml:2: ledger.retention: unknown key; the keys here are path, keep, onLoss");
    expect_error(kCluster + "registries: {ghcr.io: {direct: \"http://a\", trough: b}}\n",
                 "keeld.yaml:2: registries.ghcr.io.trough: unknown key; did you mean \"through\"?");
}

TEST_F(ConfigTest, WebhooksHaveTheirSecrets) {
    write("hook.secret", "the-first-one\n\n  the-second \r\n", 0600);
    write("users.secret", "bob:password\n", 0600);
    const Config config = good(kCluster + R"(webhooks:
  native: {auth: none}
  github: {auth: hmac, secret: hook.secret}
  harbor: {auth: basic, secret: users.secret}
)");
    ASSERT_EQ(config.webhooks.size(), 3U);
    EXPECT_EQ(config.webhooks.at("native").auth, WebhookAuth::none);
    EXPECT_TRUE(config.webhooks.at("native").secrets.empty());
    EXPECT_EQ(config.webhooks.at("github").auth, WebhookAuth::hmac);
    EXPECT_EQ(config.webhooks.at("github").secrets,
              (std::vector<std::string>{"the-first-one", "  the-second"}));
    EXPECT_EQ(config.webhooks.at("harbor").auth, WebhookAuth::basic);
    EXPECT_TRUE(good(kCluster).webhooks.empty());
}

TEST_F(ConfigTest, E2_WebhooksThatProveNothingAreRefused) {
    write("short.secret", "short\n", 0600);
    write("empty.secret", "\n", 0600);
    write("token.secret", "no-user-in-it\n", 0600);
    const auto wrong = [this](const std::string& webhook, const std::string& text) {
        const std::string all = bad(kCluster + "webhooks: {" + webhook + "}\n");
        EXPECT_NE(all.find("keeld.yaml:2: webhooks." + text), std::string::npos) << all;
    };
    wrong("gitbucket: {auth: none}", "gitbucket: is not known; expected one of native, dockerhub");
    wrong("native: {}", "native: needs \"auth\"");
    wrong("native: {auth: perhaps}", "native.auth: \"perhaps\" is not known");
    wrong("quay: {auth: hmac, secret: token.secret}",
          "quay.auth: is hmac, and this sender does not");
    wrong("native: {auth: bearer}", "native: needs \"secret\"");
    wrong("native: {auth: none, secret: token.secret}", "native.secret: is set, and auth is none");
    wrong("native: {auth: bearer, secret: short.secret}", "native.secret: short.secret: line 1");
    wrong("native: {auth: bearer, secret: empty.secret}", "native.secret: empty.secret: holds no");
    wrong("native: {auth: basic, secret: token.secret}",
          "native.secret: token.secret: line 1 is no secret; expected USER:PASSWORD");
    expect_error(kCluster +
                     "webhooks: {native: {auth: none}}\n"
                     "listen: [{at: \"127.0.0.1:9320\", serve: [events]}]\n",
                 "keeld.yaml:2: webhooks: has senders, and no listener has webhooks in its serve");
    EXPECT_EQ(bad(kCluster + "webhooks: {native: {auth: bearer, secret: short.secret}}\n")
                  .find("\"short\""),
              std::string::npos)
        << "the secret itself is never shown";
}

TEST_F(ConfigTest, E2_KeysOfLaterVersionsAreToldSo) {
    for (const std::string key : {"auth", "checks", "watch", "notify", "hooks", "coexist"}) {
        expect_error(kCluster + key + ": {}\n",
                     "keeld.yaml:2: " + key + ": not supported by this version; take it out");
    }
    for (const std::string key : {"restart", "allowPin"}) {
        expect_error(
            kCluster + "defaults: {" + key + ": 1}\n",
            "keeld.yaml:2: defaults." + key + ": not supported by this version; take it out");
    }
    expect_error(kCluster + "ledger: {url: \"postgresql://a\"}\n",
                 "keeld.yaml:2: ledger.url: not supported by this version; take it out");
    expect_error(kCluster + "listen: [{at: \"127.0.0.1:0\", tls: {}}]\n",
                 "keeld.yaml:2: listen[0].tls: not supported by this version; take it out");
}

TEST_F(ConfigTest, WhoseCredentialsARegistryIsAskedWith) {
    using Kind = CredentialsConfig::Kind;
    const auto with = [](const std::string& credentials) {
        return kCluster + "registries: {ghcr.io: {direct: \"http://a\"" + credentials + "}}\n";
    };
    const auto read = [&](const std::string& credentials) {
        return good(with(", credentials: " + credentials)).registries.at("ghcr.io").credentials;
    };
    EXPECT_EQ(good(with("")).registries.at("ghcr.io").credentials.kind, Kind::none);
    EXPECT_EQ(read("none").kind, Kind::none);
    EXPECT_EQ(read("pullSecrets").kind, Kind::pull_secrets);
    write("config.json", R"({"auths":{}})");
    EXPECT_EQ(read("{config: config.json}").config, path("config.json"));
    EXPECT_EQ(read("{config: config.json}").kind, Kind::config);

    const auto wrong = [&](const std::string& credentials, const std::string& error) {
        expect_error(with(", credentials: " + credentials),
                     "keeld.yaml:2: registries.ghcr.io.credentials" + error);
    };
    wrong("secret",
          ": \"secret\" is not known; expected none, pullSecrets, {config: FILE} or "
          "{helper: NAME}");
    wrong("{}", ": needs config (a file) or helper (a name)");
    wrong("{helper: a/b}", ".helper: \"a/b\" is not a helper's name (letters, digits, -, _ and .)");
    wrong("{helper: no-such}",
          ".helper: \"no-such\" needs the program "
          "docker-credential-no-such, which is not in PATH");
    write("config.json", R"({"auths":{"ghcr.io":{"auth":"%%"}}})");
    wrong("{config: config.json}",
          ".config: \"config.json\" is not a config.json: the auth of "
          "\"ghcr.io\" is not base64 of USER:PASSWORD");
    expect_error("registries: {ghcr.io: {direct: \"http://a\", credentials: pullSecrets}}\n",
                 "keeld.yaml:1: registries.ghcr.io.credentials: is pullSecrets, and there is no "
                 "kubernetes: nobody has any");
}

TEST_F(ConfigTest, TriggersStepsAndEnrolmentByTheWorkload) {
    EXPECT_EQ(good(kCluster + "defaults: {trigger: push, step: next}\n").defaults.trigger,
              Trigger::push);
    EXPECT_EQ(good(kCluster + "defaults: {trigger: poll, step: next}\n").defaults.step, Step::next);
    EXPECT_TRUE(
        good(kCluster + "enrolment: {workloadAnnotation: true}\n").enrolment.workload_annotation);
    expect_error(kCluster + "defaults: {trigger: webhook}\n",
                 "keeld.yaml:2: defaults.trigger: \"webhook\" is not known; expected one of all, "
                 "poll, push");
    expect_error(kCluster + "enrolment: {workloadAnnotation: 1}\n",
                 "keeld.yaml:2: enrolment.workloadAnnotation: \"1\" is not known; expected one of "
                 "true, false");
}

TEST_F(ConfigTest, EveryPolicyMayBeTheDefault) {
    for (const std::string policy : {"major", "glob:1.*", "regexp:^1", "never"}) {
        EXPECT_EQ(good(kCluster + "defaults: {policy: \"" + policy + "\"}\n").defaults.policy,
                  policy);
    }
}

TEST_F(ConfigTest, E2_PoliciesThatAreUnknownAreRefused) {
    for (const std::string policy : {"Force", "glob:", "regexp:(", "sometimes"}) {
        const std::string told = bad(kCluster + "defaults: {policy: \"" + policy + "\"}\n");
        EXPECT_NE(told.find("keeld.yaml:2: defaults.policy: \"" + policy + "\" is not a policy: "),
                  std::string::npos)
            << told;
    }
}

TEST_F(ConfigTest, E2_BadYamlNamesItsLine) {
    const std::string text = bad("mode: act\nlisten: [\n");
    EXPECT_TRUE(text.starts_with("keeld.yaml:3: is not YAML: ")) << text;
    EXPECT_EQ(bad("- a\n"),
              "keeld.yaml:1: is not a mapping; expected mode, timeZone, listen, ledger, "
              "kubernetes, caches, events, webhooks, registries, enrolment, defaults, pacing, "
              "breaker, windows, phases, groups, priorities, stateful, stamp, settings, cap "
              "below it\n"
              "keeld.yaml: nothing to look at: neither caches nor registries nor "
              "kubernetes are there\n");
    expect_error(kCluster + "mode: act\nmode: observe\n", "keeld.yaml:3: mode: is written twice");
    expect_error(kCluster + "---\nmode: act\n",
                 "keeld.yaml:3: a second document begins here; only one is read");
    expect_error(
        "",
        "keeld.yaml: nothing to look at: neither caches nor registries nor kubernetes are there");
    expect_error(
        "kubernetes:\n",
        "keeld.yaml:1: kubernetes: is empty; write {} for the cluster that keeld runs in, or take "
        "the key out for a watcher without a cluster\n"
        "keeld.yaml: nothing to look at: neither caches nor registries nor kubernetes are there");
}

TEST_F(ConfigTest, E2_AMissingFileIsNamed) {
    const auto result = load_config(path("nowhere.yaml"));
    EXPECT_EQ(
        all(result),
        "nowhere.yaml: cannot be read: No such file or directory; name the file with --config\n");
}

TEST_F(ConfigTest, E2_ValuesOfTheWrongShapeAreRefused) {
    expect_error(kCluster + "mode: [act]\n", "keeld.yaml:2: mode: is not a single value");
    expect_error(kCluster + "mode: \"\"\n", "keeld.yaml:2: mode: is empty");
    expect_error(kCluster + "ledger: path\n",
                 "keeld.yaml:2: ledger: is not a mapping; expected path, keep, onLoss below it");
    expect_error(
        "kubernetes: {namespaces: website}\n",
        "keeld.yaml:1: kubernetes.namespaces: is not a list; expected [a, b] or lines that begin "
        "with \"- \"");
    expect_error("kubernetes: {namespaces: [a, b, a]}\n",
                 "keeld.yaml:1: kubernetes.namespaces[2]: \"a\" is there twice");
    expect_error(kCluster + "timeZone: Mars/Olympus\n",
                 "keeld.yaml:2: timeZone: \"Mars/Olympus\" is not a time zone of this machine, "
                 "such as UTC or "
                 "Europe/Sofia");
    expect_error(
        kCluster + "pacing: {concurrent: 0}\n",
        "keeld.yaml:2: pacing.concurrent: \"0\" is not a number from 1 to 1000, or unlimited");
    expect_error(
        kCluster + "pacing: fast\n",
        "keeld.yaml:2: pacing: \"fast\" is not known; expected cluster, namespace and concurrent "
        "below it, or unlimited");
    expect_error(kCluster + "ledger: {keep: 1h}\n",
                 "keeld.yaml:2: ledger.keep: \"1h\" is not between 48h and 876000h");
    expect_error(
        kCluster + "defaults: {deadline: soon}\n",
        "keeld.yaml:2: defaults.deadline: \"soon\" is not a duration such as 90s, 1h30m or 7d");
    for (const char* schedule : {"5m", "@every 0s", "0 0 30 2 *", "* * * * * * *"}) {
        const std::string error =
            bad(kCluster + "defaults: {pollSchedule: \"" + schedule + "\"}\n");
        EXPECT_TRUE(error.starts_with(std::string("keeld.yaml:2: defaults.pollSchedule: \"") +
                                      schedule + "\" is no schedule: "))
            << error;
    }
    expect_error(kCluster + "enrolment: {label: enrolled}\n",
                 "keeld.yaml:2: enrolment.label: \"enrolled\" is not a label KEY=VALUE such as "
                 "keel.sh/enrolled=true");
    expect_error(kCluster + "defaults: {restartKey: \"a b\"}\n",
                 "keeld.yaml:2: defaults.restartKey: \"a b\" is not an annotation's key");
    expect_error("kubernetes: {context: lab}\n",
                 "keeld.yaml:1: kubernetes.context: is set, but kubernetes.kubeconfig is not");
}

TEST_F(ConfigTest, E2_RatesAreWhole) {
    for (const std::string rate :
         {"0/h", "-1/h", "5/w", "5/", "/h", "1.5/h", "5 /h", "99999999999/h"}) {
        EXPECT_NE(bad(kCluster + "pacing: {namespace: \"" + rate + "\"}\n").find("is not a rate"),
                  std::string::npos)
            << rate;
    }
    EXPECT_EQ(good(kCluster + "pacing: {namespace: 3/m}\n").pacing.ns.per, std::chrono::minutes{1});
}

TEST_F(ConfigTest, E2_SecretsComeFromFilesOnly) {
    expect_error(
        kCluster + "events: {secret: none.secret}\n", "keeld.yaml:2: events.secret: " + [&] {
            const auto missing = read_secret_file(path("none.secret"));
            std::string text = missing.error().text;
            const std::string prefix = directory_.string() + "/";
            return text.erase(text.find(prefix), prefix.size());
        }());
    write("open.secret", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n", 0644);
    EXPECT_NE(bad(kCluster + "events: {secret: open.secret}\n").find("others may read"),
              std::string::npos);
    write("short.secret", "whsec_c2hvcnQ=\n", 0600);
    const std::string text = bad(kCluster + "events: {secret: short.secret}\n");
    EXPECT_NE(text.find("keeld.yaml:2: events.secret: short.secret: "), std::string::npos) << text;
    EXPECT_EQ(text.find("c2hvcnQ"), std::string::npos) << "the secret itself is never shown";
    expect_error(kCluster + "events: {secret: \"${SECRET}\"}\n",
                 "keeld.yaml:2: events.secret: holds \"${\": variables are not replaced here; "
                 "write the value "
                 "itself");
    expect_error(kCluster + "registries: {ghcr.io: {direct: \"http://me:word@a\"}}\n",
                 "keeld.yaml:2: registries.ghcr.io.direct: \"http://me:word@a\" holds a password; "
                 "secrets are "
                 "read from files only");
}

TEST_F(ConfigTest, E2_ListensOnSocketsAndLoopbackOnly) {
    const auto at = [&](const std::string& text) {
        return bad(kCluster + "listen: [{at: \"" + text + "\"}]\n");
    };
    for (const std::string address : {"0.0.0.0:80", "192.0.2.1:80", "[::]:80", "[2001:db8::1]:80",
                                      "localhost:80", ":80", "::1:80"}) {
        EXPECT_NE(at(address).find("is not a loopback address"), std::string::npos) << at(address);
    }
    EXPECT_NE(at("127.0.0.1").find("has no port"), std::string::npos);
    EXPECT_NE(at("127.0.0.1:70000").find("has no port from 0 to 65535"), std::string::npos);
    EXPECT_NE(at("unix:run/a.sock").find("is not an absolute path"), std::string::npos);
    EXPECT_NE(at("unix:/" + std::string(107, 'a')).find("is longer than"), std::string::npos);
    EXPECT_EQ(
        good(kCluster + "listen: [{at: \"127.1.2.3:80\"}, {at: \"[::1]:80\"}]\n").listen.size(),
        2U);
    expect_error(kCluster + "listen: [{at: \"127.0.0.1:80\"}, {at: \"127.0.0.1:80\"}]\n",
                 "keeld.yaml:2: listen[1]: \"127.0.0.1:80\" is there twice");
    expect_error(kCluster + "listen: [{mode: \"0600\"}]\n",
                 "keeld.yaml:2: listen[0]: needs \"at\", for example unix:/run/keeld/keeld.sock");
    expect_error(kCluster + "listen: [{at: \"unix:/a\", mode: rw}]\n",
                 "keeld.yaml:2: listen[0].mode: \"rw\" is not an octal mode such as \"0660\"");
    expect_error(kCluster + "listen: [{at: \"unix:/a\", group: no-such-group}]\n",
                 "keeld.yaml:2: listen[0].group: \"no-such-group\" is not a group of this machine");
    expect_error(kCluster + "listen: [{at: \"unix:/a\", serve: [api, page]}]\n",
                 "keeld.yaml:2: listen[0].serve[1]: \"page\" is not known; expected some of api, "
                 "events, webhooks, metrics");
}

TEST_F(ConfigTest, E2_CachesAndRegistriesMustFitTogether) {
    good(kCaches + "registries: {docker.io: {through: cache-a}}\n");
    expect_error("caches: [{name: a, api: \"http://127.0.0.1:1/keel\"}]\n",
                 "keeld.yaml:1: events.secret: is missing, and caches are there: their events "
                 "would be refused; "
                 "expected the file that keel_companion in nginx names");
    expect_error(
        "events: {secret: event.secret}\n"
        "caches: [{name: a, api: \"http://127.0.0.1:1/keel\"}, {name: a, api: "
        "\"http://127.0.0.1:2/keel\"}]\n",
        "keeld.yaml:2: caches[1].name: \"a\" is the name of two caches");
    expect_error("events: {secret: event.secret}\ncaches: [{}]\n",
                 "keeld.yaml:2: caches[0]: needs \"name\", as keel_cache_name in nginx has it\n"
                 "keeld.yaml:2: caches[0]: needs \"api\", the URL of the location with keel_api");
    expect_error("events: {secret: event.secret}\ncaches: [{name: a, api: \"ftp://a\"}]\n",
                 "keeld.yaml:2: caches[0].api: \"ftp://a\" is not an http:// or https:// URL");
    expect_error(
        "events: {secret: event.secret}\ncaches: [{name: a, api: \"unix:/run/a\"}]\n",
        "keeld.yaml:2: caches[0].api: \"unix:/run/a\" is not of the form unix:/SOCKET:/PREFIX");
    expect_error(kCaches + "registries: {docker.io: {through: cache-b}}\n",
                 "keeld.yaml:3: registries.docker.io.through: \"cache-b\" is not the name of a "
                 "cache; there are "
                 "cache-a");
    expect_error(kCaches + "registries: {docker.io: {through: cache-a, direct: \"http://a\"}}\n",
                 "keeld.yaml:3: registries.docker.io: has both through and direct; only one says "
                 "where it is asked");
    expect_error(kCaches + "registries: {docker.io: {upstream: \"http://a\"}}\n",
                 "keeld.yaml:3: registries.docker.io: needs \"through\" (a cache's name) or "
                 "\"direct\" (a URL)");
    expect_error(
        kCaches + "registries: {index.docker.io: {through: cache-a}}\n",
        "keeld.yaml:3: registries.index.docker.io: is written \"docker.io\" in references");
    expect_error(kCaches + "registries: {library: {through: cache-a}}\n",
                 "keeld.yaml:3: registries.library: is not a registry's host[:port]");
    expect_error(
        "events: {secret: event.secret}\n"
        "caches: [{name: a, api: \"http://127.0.0.1:1/keel\", lookup: {ghcr.io: \"http://b\"}}]\n"
        "registries: {docker.io: {through: a}}\n",
        "keeld.yaml:3: registries.docker.io.through: goes through \"a\", whose \"lookup\" has no "
        "URL for "
        "docker.io: its tags could never be looked up");
}

// --- the commented example ---

std::string read_file(const std::string& name) {
    std::ifstream file(name);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

void replace_all(std::string& text, const std::string& what, const std::string& with) {
    for (auto at = text.find(what); at != std::string::npos;
         at = text.find(what, at + with.size())) {
        text.replace(at, what.size(), with);
    }
}

TEST_F(ConfigTest, APlanIsRead) {
    const Config config =
        good(kCluster +
             "windows:\n"
             "  - {name: nights, days: [mon, sat], from: \"22:00\", to: \"06:00\","
             " zone: Europe/Sofia, namespaces: []}\n"
             "phases:\n"
             "  - name: one\n"
             "    namespaces: [website, \"f1-*\"]\n"
             "    select: {matchLabels: {tier: gold}}\n"
             "    soak: 3d\n"
             "    accept: {newestWithin: 12h, crashLoop: 5m, pinnedOut: 2}\n"
             "    advance: auto\n"
             "    windows: [nights]\n"
             "    settings: {policy: minor, minAge: 24h, stateful: allow}\n"
             "  - {name: two, namespaces: [\"*\"]}\n"
             "groups: [{name: immich, workloads: [\"Deployment/immich/*\"]}]\n"
             "priorities: [{workloads: [\"*/website/*\"], value: 10}]\n"
             "breaker: {failures: 5, of: 30, share: 0.5}\n"
             "defaults: {minAge: 2h}\n"
             "settings: {ignoreManagers: [kyverno]}\n"
             "cap: {workloads: 7}\n");
    ASSERT_EQ(config.windows.size(), 1U);
    EXPECT_EQ(config.windows[0].days, 0b1000010U);
    EXPECT_EQ(config.windows[0].from, std::chrono::hours{22});
    EXPECT_EQ(config.windows[0].to, std::chrono::hours{6});
    EXPECT_TRUE(config.windows[0].namespaces.empty());
    ASSERT_EQ(config.phases.size(), 2U);
    const PhaseConfig& one = config.phases[0];
    EXPECT_EQ(one.namespaces, (std::vector<std::string>{"website", "f1-*"}));
    EXPECT_EQ(one.selector.at("tier"), "gold");
    EXPECT_EQ(one.soak, std::chrono::hours{72});
    EXPECT_EQ(one.accept.newest_within, std::chrono::hours{12});
    EXPECT_EQ(one.accept.crash_loop, std::chrono::minutes{5});
    EXPECT_EQ(one.accept.pinned_out, 2);
    EXPECT_TRUE(one.automatic);
    EXPECT_EQ(one.windows, std::vector<std::string>{"nights"});
    EXPECT_EQ(one.settings, (std::map<std::string, std::string>{{"keel.sh/policy", "minor"},
                                                                {"keel.sh/minAge", "24h"},
                                                                {"keel.sh/stateful", "allow"}}));
    EXPECT_EQ(config.phases[1].soak, std::chrono::hours{7 * 24});
    EXPECT_FALSE(config.phases[1].automatic);
    EXPECT_EQ(config.groups[0].workloads, std::vector<std::string>{"Deployment/immich/*"});
    EXPECT_EQ(config.priorities[0].value, 10);
    EXPECT_EQ(config.breaker.failures, 5);
    EXPECT_EQ(config.breaker.of, 30);
    EXPECT_DOUBLE_EQ(config.breaker.share, 0.5);
    EXPECT_EQ(config.defaults.min_age, std::chrono::hours{2});
    EXPECT_EQ(config.ignored_managers, std::vector<std::string>{"kyverno"});
    EXPECT_EQ(config.cap, 7);
}

TEST_F(ConfigTest, E2_MistakesOfAPlanAreNamed) {
    const auto phase = [this](const std::string& rest, const std::string& error) {
        expect_error(kCluster + "phases: [{name: one, " + rest + "}]\n",
                     "keeld.yaml:2: phases[0]" + error);
    };
    phase("soak: 1d", ": matches nothing; expected namespaces, select.matchLabels or both");
    phase("namespaces: [a], windows: [nights]",
          ".windows[0]: \"nights\" is not the name of a window");
    phase("namespaces: [b, a/b]",
          ".namespaces[1]: \"a/b\" is no namespace's name, with * or ? in it or not");
    phase("namespaces: [a], settings: {policy: sometimes}",
          ".settings.policy: \"sometimes\" is not a policy: " +
              Policy::parse("sometimes").error().text);
    phase("namespaces: [a], settings: {stateful: yes}",
          ".settings.stateful: \"yes\" is none of allow");
    phase("namespaces: [a], settings: {minAge: soon}",
          ".settings.minAge: \"soon\" is not a duration such as 24h");
    expect_error(kCluster + "phases: [{name: a, namespaces: [a]}, {name: a, namespaces: [b]}]\n",
                 "keeld.yaml:2: phases[1].name: \"a\" is there twice");
    expect_error(kCluster + "windows: [{name: a, from: \"25:00\"}]\n",
                 "keeld.yaml:2: windows[0].from: \"25:00\" is not a time of day such as \"22:00\"");
    expect_error(kCluster + "windows: [{name: a, days: []}]\n",
                 "keeld.yaml:2: windows[0].days: names no day: it would never open");
    expect_error(kCluster + "groups: [{name: a, workloads: [shop]}]\n",
                 "keeld.yaml:2: groups[0].workloads[0]: \"shop\" is not of the form "
                 "KIND/NAMESPACE/NAME, such as Deployment/immich/* or */db-*/*");
    expect_error(kCluster + "breaker: {share: 2}\n",
                 "keeld.yaml:2: breaker.share: \"2\" is not a share from 0 to 1, such as 0.25");
}

TEST_F(ConfigTest, TheExampleIsValid) {
    std::string text = read_file(kExample);
    ASSERT_NE(text, "") << "run from the top of the tree";
    replace_all(text, "/etc/keeld/", directory_.string() + "/");
    write("cache-a.secret", read_file(path("event.secret")), 0600);
    write("kubeconfig", "{}");
    good(text);
}

TEST_F(ConfigTest, TheConfigMapIsValid) {
    std::string text;
    for (const YAML::Node& document : YAML::LoadAllFromFile("conf/kubernetes/keeld.yaml")) {
        if (document["kind"].as<std::string>() == "ConfigMap") {
            text = document["data"]["keeld.yaml"].as<std::string>();
        }
    }
    ASSERT_NE(text, "");
    replace_all(text, "/etc/keeld/secret/", directory_.string() + "/");
    const Config config = good(text);
    EXPECT_EQ(config.mode, Mode::observe);
    EXPECT_TRUE(config.kubernetes.has_value());
}

TEST_F(ConfigTest, TheExampleHasEveryKey) {
    const std::string text = read_file(kExample);
    for (const std::string& key : supported_config_keys()) {
        const std::string name = key.substr(key.rfind('.') + 1);
        if (name == "*") continue;
        EXPECT_NE(text.find(name + ":"), std::string::npos) << key;
    }
}

TEST_F(ConfigTest, TheExampleShowsTheDefaults) {
    std::string text = read_file(kExample);
    replace_all(text, "/etc/keeld/", directory_.string() + "/");
    write("cache-a.secret", read_file(path("event.secret")), 0600);
    write("kubeconfig", "{}");
    const Config example = good(text);
    const Config plain = good(kCluster);
    EXPECT_EQ(example.mode, plain.mode);
    EXPECT_EQ(example.time_zone, plain.time_zone);
    EXPECT_EQ(example.listen.at(0).at, plain.listen.at(0).at);
    EXPECT_EQ(example.listen.at(0).mode, plain.listen.at(0).mode);
    EXPECT_EQ(example.ledger_path, plain.ledger_path);
    EXPECT_EQ(example.ledger_keep, plain.ledger_keep);
    EXPECT_EQ(example.ledger_loss_observe, plain.ledger_loss_observe);
    EXPECT_EQ(example.kubernetes->namespaces, plain.kubernetes->namespaces);
    EXPECT_EQ(example.kubernetes->lease_namespace, plain.kubernetes->lease_namespace);
    EXPECT_EQ(example.kubernetes->lease_name, plain.kubernetes->lease_name);
    EXPECT_EQ(example.enrolment.label_key, plain.enrolment.label_key);
    EXPECT_EQ(example.enrolment.label_value, plain.enrolment.label_value);
    EXPECT_EQ(example.enrolment.exclude, plain.enrolment.exclude);
    EXPECT_EQ(example.enrolment.workload_annotation, plain.enrolment.workload_annotation);
    EXPECT_EQ(example.defaults.policy, plain.defaults.policy);
    EXPECT_EQ(example.defaults.trigger, plain.defaults.trigger);
    EXPECT_EQ(example.defaults.step, plain.defaults.step);
    EXPECT_EQ(example.defaults.poll_schedule, plain.defaults.poll_schedule);
    EXPECT_EQ(example.defaults.reverts, plain.defaults.reverts);
    EXPECT_EQ(example.defaults.deadline, plain.defaults.deadline);
    EXPECT_EQ(example.defaults.restart_key, plain.defaults.restart_key);
    EXPECT_EQ(example.pacing.cluster.count, plain.pacing.cluster.count);
    EXPECT_EQ(example.pacing.ns.count, plain.pacing.ns.count);
    EXPECT_EQ(example.pacing.concurrent, plain.pacing.concurrent);
    EXPECT_EQ(example.stateful_images, plain.stateful_images);
}

TEST(ListenAddressTest, IsWrittenAsItIsRead) {
    for (const std::string text : {"unix:/run/keeld/keeld.sock", "127.0.0.1:8080", "[::1]:0"}) {
        const auto address = ListenAddress::parse(text);
        ASSERT_TRUE(address.has_value()) << address.error().text;
        EXPECT_EQ(address->to_string(), text);
    }
}

// What is to be tried need not run here.
TEST_F(ConfigTest, P8_ATextIsReadWithoutTheFilesThatItNames) {
    const std::string text =
        "mode: act\n"
        "caches: [{name: a, api: 'http://127.0.0.1:1/keel', secret: none.secret}]\n"
        "events: {secret: none.secret}\n"
        "registries: {ghcr.io: {direct: 'https://ghcr.io', credentials: {config: none.json}},\n"
        "             quay.io: {direct: 'https://quay.io', credentials: {helper: not-there}}}\n"
        "cap: {workloads: 7}\n";
    const ConfigResult parsed = parse_config(text, path("other.yaml"));
    ASSERT_TRUE(parsed.config) << all(parsed);
    EXPECT_EQ(parsed.config->cap, 7);
    EXPECT_EQ(parsed.config->text, text);
    EXPECT_FALSE(parsed.config->event_secrets);
    EXPECT_FALSE(load(text).config);
    const ConfigResult wrong = parse_config("kubernetes: {}\ncapp: {}\n", path("other.yaml"));
    ASSERT_EQ(wrong.errors.size(), 1U);
    EXPECT_NE(wrong.errors[0].text.find("other.yaml:2: capp: unknown key"), std::string::npos)
        << wrong.errors[0].text;
}

}  // namespace
}  // namespace keel
