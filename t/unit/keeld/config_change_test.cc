// What another configuration would change, workload by workload, and the cap on it.
#include "keeld/policy/config_change.h"

#include <gtest/gtest.h>

#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::at;
using test::container;
using test::deployment;
using test::digest;
using test::enrolled;
using test::tag;

// Deployments shop/a, shop/b and other/c on one tag whose digest moved since they started; only
// shop is enrolled by its label.
class Cluster {
  public:
    Cluster() {
        catalogue.upsert(enrolled("shop"));
        Namespace other = enrolled("other");
        other.labels = {{"tier", "gold"}};
        catalogue.upsert(other);
        for (const auto& [ns, name] : {std::pair{"shop", "a"}, {"shop", "b"}, {"other", "c"}}) {
            catalogue.upsert(
                deployment(ns, name, {container("app", "docker.io/library/nginx:1.27")}));
        }
        for (const char hex : {'a', 'b'}) {
            tags.observe(tag(), digest(hex), ManifestKind::index, at(hex), "event cache-a");
            contents[digest(hex)] = Content{digest(hex),
                                            ManifestKind::index,
                                            {{"linux/amd64", digest(hex), digest(hex), Time{}}}};
        }
        for (const char* name : {"a", "b"})
            runs("shop", name);
    }
    void runs(const std::string& ns, const std::string& name) {
        Running running;
        running.known = true;
        running.pods = 2;
        running.images.push_back({"app", false, digest('a').to_string(), "linux/amd64", 2});
        catalogue.set_running({WorkloadKind::deployment, ns, name}, running, catalogue.changes());
    }
    [[nodiscard]] Knowledge knowledge(const Config& config, const PhaseStates& phases) {
        return Knowledge{
            config,
            phases,
            catalogue,
            tags,
            choices,
            [this](const Digest& one) {
                const auto found = contents.find(one);
                return found != contents.end() ? &found->second : nullptr;
            },
            [](const Digest&) -> const Error* { return nullptr; },
            [](const std::string&, const Target&) -> const std::string* { return nullptr; },
            [](const std::string&, const Target&) -> const std::string* { return nullptr; },
            [](const Tag&) -> const Listing* { return nullptr; },
            [](const Tag&) -> std::optional<std::uint64_t> { return std::nullopt; },
            [](const std::string&, const std::string&, const std::string&) { return false; },
            [](const std::string&, const std::vector<Target>&) { return false; },
            [] { return std::vector<std::string>{"linux/amd64"}; },
            at(1'000)};
    }
    ConfigChange change(const Config& before, const Config& after) {
        const PhaseStates next = begun(phases, after);
        const Knowledge is = knowledge(before, phases);
        return change_between(&is, knowledge(after, next));
    }

    Loop loop;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Tags tags{*ledger};
    Catalogue catalogue{[](const WorkloadKey&) {}};
    Choices choices;
    std::map<Digest, Content> contents;
    PhaseStates phases;
};

std::string names(const std::vector<WorkloadKey>& keys) {
    std::string all;
    for (const WorkloadKey& key : keys)
        all += (all.empty() ? "" : " ") + key.ns + "/" + key.name;
    return all;
}

Config acting() {
    Config config;
    config.mode = Mode::act;
    return config;
}

TEST(ConfigChange, P8_TheSameConfigurationChangesNothing) {
    Cluster cluster;
    const ConfigChange change = cluster.change(acting(), acting());
    EXPECT_EQ(names(change.enrolled) + names(change.rolled) + names(change.released), "");
    EXPECT_EQ(change.changed, 0U);
}

TEST(ConfigChange, P8_AnotherLabelEnrolsAndReleases) {
    Cluster cluster;
    Config after = acting();
    after.enrolment.label_key = "tier";
    after.enrolment.label_value = "gold";
    const ConfigChange change = cluster.change(acting(), after);
    EXPECT_EQ(names(change.enrolled), "other/c");
    EXPECT_EQ(names(change.unknown), "other/c") << "its pods have not been read";
    EXPECT_EQ(names(change.released), "shop/a shop/b");
    EXPECT_EQ(names(change.rolled), "");
    EXPECT_EQ(change.changed, 3U);
    cluster.runs("other", "c");
    const ConfigChange known = cluster.change(acting(), after);
    EXPECT_EQ(names(known.rolled), "other/c");
    EXPECT_EQ(known.changed, 3U) << "each workload counts once";
}

TEST(ConfigChange, P8_ADefaultThatLetsGoRollsWhatWasWaitingForIt) {
    Cluster cluster;
    Config before = acting();
    before.defaults.min_age = std::chrono::hours{24};
    EXPECT_EQ(names(cluster.change(before, acting()).rolled), "shop/a shop/b");
    EXPECT_EQ(names(cluster.change(acting(), before).rolled), "");
    Config never = acting();
    never.defaults.policy = "never";
    const ConfigChange change = cluster.change(never, acting());
    EXPECT_EQ(names(change.enrolled), "shop/a shop/b");
    EXPECT_EQ(change.changed, 2U);
}

TEST(ConfigChange, P8_FromObserveToActEverythingThatIsDueIsRolled) {
    Cluster cluster;
    const ConfigChange change = cluster.change(Config{}, acting());
    EXPECT_EQ(names(change.rolled), "shop/a shop/b");
    EXPECT_EQ(names(change.enrolled), "");
}

TEST(ConfigChange, P8_TheFirstPhaseOfANewPlanBeginsInModeAct) {
    Cluster cluster;
    Config after = acting();
    for (const char* name : {"first", "second"}) {
        PhaseConfig phase;
        phase.name = name;
        phase.namespaces = {name == std::string("first") ? "other" : "shop"};
        after.phases.push_back(phase);
    }
    ConfigChange change = cluster.change(acting(), after);
    EXPECT_EQ(names(change.enrolled), "other/c");
    EXPECT_EQ(names(change.released), "shop/a shop/b") << "until their phase begins";
    after.mode = Mode::observe;
    EXPECT_EQ(names(cluster.change(acting(), after).enrolled), "");
    cluster.phases = {{"first", PhaseState::completed}};
    after.mode = Mode::act;
    change = cluster.change(acting(), after);
    EXPECT_EQ(names(change.released), "") << "the second one is next";
}

TEST(ConfigChange, P8_TheVeryFirstConfigurationChangesAllThatItEnrols) {
    Cluster cluster;
    const Config config = acting();
    const ConfigChange change = change_between(nullptr, cluster.knowledge(config, cluster.phases));
    EXPECT_EQ(names(change.enrolled), "shop/a shop/b");
    EXPECT_EQ(names(change.rolled), "shop/a shop/b");
    EXPECT_EQ(change.changed, 2U);
}

TEST(ConfigChange, P8_TheCapRefusesAndSaysWhatToDo) {
    Cluster cluster;
    Config after = acting();
    after.enrolment.label_key = "tier";
    after.enrolment.label_value = "gold";
    after.cap = 2;
    const ConfigChange change = cluster.change(acting(), after);
    EXPECT_EQ(
        refusal_of(change, after),
        "would change 3, limit 2: refused (enrolled 1, rolled 0, released 2); try it with "
        "keelctl plan --config FILE, then raise cap.workloads or start once with keeld --yes");
    after.cap = 3;
    EXPECT_EQ(refusal_of(change, after), "");
    after.cap = 0;
    EXPECT_EQ(refusal_of(change, after), "");
}

}  // namespace
}  // namespace keel
