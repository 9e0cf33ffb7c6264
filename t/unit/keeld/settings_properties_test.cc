// Settings with their provenance, over thousands of arbitrary combinations of what is written
// where: what holds, which layer it comes from, and that nothing which was written is lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <optional>
#include <random>

#include "keeld/policy/settings.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using std::chrono::minutes;

constexpr int kRounds = 5'000;
constexpr const char* kPhase = "phase nightly";
// Strongest first, as design and documentation have them.
constexpr std::array<const char*, 8> kLayers{"workload annotation",
                                             "workload label",
                                             "pod template annotation",
                                             "pod template label",
                                             "namespace annotation",
                                             "namespace label",
                                             kPhase,
                                             "default"};
constexpr std::size_t kDefault = kLayers.size() - 1;

// One key as it may be written; nullopt: not there.
using Written = std::array<std::optional<std::string>, kLayers.size() - 1>;

struct Cluster {
    Workload workload = test::deployment("shop", "web", {test::container("app", "nginx")});
    Namespace ns = test::enrolled("shop");
    Config config;

    Cluster() {
        PhaseConfig phase;
        phase.name = "nightly";
        phase.namespaces = {"shop"};
        config.phases.push_back(phase);
    }
    void write(const std::string& key, const Written& all) {
        const auto put = [&key](auto& map, const std::optional<std::string>& value) {
            if (value) map[key] = *value;
        };
        put(workload.annotations, all[0]);
        put(workload.labels, all[1]);
        put(workload.template_annotations, all[2]);
        put(workload.template_labels, all[3]);
        put(ns.annotations, all[4]);
        put(ns.labels, all[5]);
        put(config.phases.front().settings, all[6]);
    }
    [[nodiscard]] WorkloadSettings read() const { return settings_of(workload, &ns, config); }
};

class Random {
  public:
    std::size_t below(std::size_t bound) { return generator_() % bound; }
    Written some_of(const std::vector<std::string>& values) {
        Written all;
        for (auto& one : all) {
            if (below(3) == 0) one = values[below(values.size())];
        }
        return all;
    }

  private:
    std::mt19937 generator_{20261122};
};

std::size_t rank(const std::string& layer) {
    return static_cast<std::size_t>(std::ranges::find(kLayers, layer) - kLayers.begin());
}

// Whatever wins, it and the losers together are exactly what was written, and the default.
void expect_complete(const Setting& setting, const Written& all, const std::string& fallback) {
    std::array<std::optional<std::string>, kLayers.size()> told;
    told.at(rank(setting.layer)) = setting.value;
    std::size_t before = 0;
    for (const Setting::Loser& loser : setting.overridden) {
        const std::size_t place = rank(loser.layer);
        EXPECT_FALSE(told.at(place)) << loser.layer << " is told twice";
        EXPECT_GE(place, before) << "losers stand strongest first";
        told.at(place) = loser.value;
        before = place;
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
        EXPECT_EQ(told.at(i), all.at(i)) << kLayers.at(i);
    }
    EXPECT_EQ(told[kDefault], fallback);
}

TEST(SettingsProperties, P1_TheStrongestLayerHoldsWhateverTheDefaultIs) {
    Random random;
    for (int round = 0; round < kRounds; ++round) {
        Cluster cluster;
        const Written all = random.some_of({"force", "minor", "all", "glob:1.*", "nonsense"});
        cluster.write("keel.sh/policy", all);
        const auto strongest = std::ranges::find_if(all, [](const auto& one) { return !!one; });
        for (const char* fallback : {"force", "major"}) {
            cluster.config.defaults.policy = fallback;
            const Setting policy = cluster.read().policy;
            EXPECT_EQ(policy.value, strongest != all.end() ? **strongest : fallback);
            EXPECT_EQ(rank(policy.layer), static_cast<std::size_t>(strongest - all.begin()));
            expect_complete(policy, all, fallback);
        }
    }
}

TEST(SettingsProperties, P2_WhatIsTakenAwayIsGone) {
    Random random;
    for (int round = 0; round < kRounds; ++round) {
        const Written all = random.some_of({"force", "minor", "patch"});
        Written less = all;
        less.at(random.below(less.size())).reset();
        Cluster never_had;
        never_had.write("keel.sh/policy", less);
        Cluster had;
        had.write("keel.sh/policy", all);
        (void)had.read();
        had = Cluster();
        had.write("keel.sh/policy", less);
        EXPECT_EQ(had.read().policy.value, never_had.read().policy.value);
        EXPECT_EQ(had.read().policy.layer, never_had.read().policy.layer);
    }
}

TEST(SettingsProperties, P3_OneNeverVetoesWhereverItIsButOfPhaseAndDefault) {
    Random random;
    for (int round = 0; round < kRounds; ++round) {
        Cluster cluster;
        const Written all = random.some_of({"force", "never"});
        cluster.write("keel.sh/policy", all);
        cluster.config.defaults.policy = random.below(2) == 0 ? "never" : "force";
        const bool veto = std::any_of(all.begin(), all.begin() + 6,
                                      [](const auto& one) { return one == "never"; });
        const bool explicit_value =
            std::any_of(all.begin(), all.begin() + 6, [](const auto& one) { return !!one; });
        const std::string configured = all[6].value_or(cluster.config.defaults.policy);
        const bool ours = !veto && (explicit_value || configured != "never");
        const PhaseStates active{{"nightly", PhaseState::active}};
        const Standing standing =
            standing_of(cluster.workload, &cluster.ns, cluster.config, active);
        EXPECT_EQ(standing.ours, ours) << standing.sentence;
        if (!ours) {
            EXPECT_EQ(standing.reason, Reason::vetoed);
        }
    }
}

TEST(SettingsProperties, TheStrictestGuardHoldsAndOnlyTightens) {
    Random random;
    for (int round = 0; round < kRounds; ++round) {
        Cluster cluster;
        const Written ages = random.some_of({"0s", "90m", "1h30m", "24h", "7d"});
        const Written votes = random.some_of({"0", "1", "2", "5"});
        const Written hours = random.some_of({"1", "12", "24", "48"});
        cluster.write("keel.sh/minAge", ages);
        cluster.write("keel.sh/soak", ages);
        cluster.write("keel.sh/approvals", votes);
        cluster.write("keel.sh/approvalDeadline", hours);
        cluster.config.defaults.min_age = std::chrono::hours(random.below(3));
        Millis oldest = cluster.config.defaults.min_age;
        Millis soak = cluster.config.defaults.soak;
        for (const auto& one : ages) {
            if (one) oldest = std::max(oldest, *parse_duration(*one));
            if (one) soak = std::max(soak, *parse_duration(*one));
        }
        int most = 0;
        for (const auto& one : votes) {
            if (one) most = std::max(most, std::stoi(*one));
        }
        int fewest = 1'000;
        for (const auto& one : hours) {
            if (one) fewest = std::min(fewest, std::stoi(*one));
        }
        const WorkloadSettings settings = cluster.read();
        EXPECT_EQ(settings.min_age.parsed, oldest);
        EXPECT_EQ(settings.soak.parsed, soak);
        EXPECT_EQ(settings.approvals.parsed, most);
        EXPECT_EQ(settings.approval_deadline.parsed,
                  std::chrono::hours(fewest == 1'000 ? 24 : fewest));
        EXPECT_EQ(settings.blocking(), nullptr);
        expect_complete(settings.min_age, ages, format_duration(cluster.config.defaults.min_age));
        expect_complete(settings.approvals, votes, "0");
        expect_complete(settings.approval_deadline, hours, "24");
        EXPECT_EQ(parse_duration(settings.min_age.value), oldest);
    }
}

TEST(SettingsProperties, V4_AGuardThatMeansNothingBlocksWhereverItStands) {
    Random random;
    const std::string durations[] = {"keel.sh/minAge", "keel.sh/soak"};
    for (const std::string key :
         {"keel.sh/minAge", "keel.sh/soak", "keel.sh/approvals", "keel.sh/approvalDeadline"}) {
        for (int round = 0; round < kRounds / 10; ++round) {
            Cluster cluster;
            Written all = random.some_of({"1"});
            if (std::ranges::find(durations, key) != std::end(durations)) {
                all = random.some_of({"1h"});
            }
            const std::size_t wrong = random.below(all.size());
            all.at(wrong) = "soon";
            cluster.write(key, all);
            const WorkloadSettings settings = cluster.read();
            ASSERT_NE(settings.blocking(), nullptr) << key << " in " << kLayers.at(wrong);
            EXPECT_NE(settings.blocking()->text.find(kLayers.at(wrong)), std::string::npos);
        }
    }
}

// Everything that a workload's settings say.
std::string told(const WorkloadSettings& all) {
    std::string text;
    for (const Setting* one : std::initializer_list<const Setting*>{
             &all.policy, &all.match_tag, &all.match_pre_release, &all.trigger, &all.poll_schedule,
             &all.monitor_containers, &all.init_containers, &all.image_volumes,
             &all.image_pull_secret, &all.step, &all.reverts, &all.min_age, &all.reversible,
             &all.soak, &all.approvals, &all.approval_deadline}) {
        text += one->value + " by " + one->layer;
        for (const Setting::Loser& loser : one->overridden) {
            text += ", not " + loser.value + " by " + loser.layer + " " + loser.note;
        }
        text += "\n";
    }
    for (const WorkloadSettings::Fault& fault : all.faults) {
        text += (fault.blocks ? "blocks: " : "") + fault.text + "\n";
    }
    return text + std::to_string(all.min_age.parsed.count()) + " " +
           std::to_string(all.soak.parsed.count()) + " " + std::to_string(all.approvals.parsed) +
           " " + std::string(all.policy.parsed.text());
}

// Few words, so that most of what is asked for was asked for before, of other objects.
TEST(SettingsProperties, WhatIsKeptIsWhatWouldBeRead) {
    static const std::vector<std::string> kSaid{"never", "minor", "true", "push", "2h", "^a", "("};
    static const std::vector<std::string> kKeys{
        "keel.sh/policy",  "keel.observer/policy", "keel.sh/trigger",           "keel.sh/minAge",
        "keel.sh/policcy", "keel.sh/reversible",   "keel.sh/monitorContainers", "keel.sh/enrolled"};
    Random random;
    const auto pick = [&random](const std::vector<std::string>& from) {
        return from[random.below(from.size())];
    };
    for (int round = 0; round < kRounds; ++round) {
        Cluster one;
        one.workload = test::deployment("shop", "web", {test::container(pick({"app", "b"}), "x")});
        Written all{};
        all[random.below(all.size())] = pick(kSaid);
        one.write(pick(kKeys), all);
        one.config.phases.front().name = pick({"nightly", "weekly"});
        one.config.phases.front().namespaces = {pick({"shop", "other"})};
        one.config.defaults.policy = pick({"force", "minor"});
        one.config.defaults.reversible = random.below(2) == 0;
        one.config.defaults.soak = minutes{random.below(2)};
        one.config.defaults.min_age = minutes{random.below(2)};
        one.config.enrolment.label_key = pick({"keel.sh/enrolled", "keel.sh/policcy"});
        one.workload.writers = {{KeyPlace::annotation, pick(kKeys), {pick({"kyverno", "me"})}}};
        if (random.below(2) == 0) one.config.ignored_managers = {"kyverno"};
        const auto kept = shared_settings_of(one.workload, &one.ns, one.config);
        ASSERT_EQ(told(*kept), told(one.read())) << "round " << round;
    }
}

// How long it takes is told, and asserted nowhere: the machine may have other work.
TEST(SettingsProperties, P2_ADefaultThatChangesHoldsForTenThousandWorkloads) {
    constexpr std::size_t kWorkloads = 10'000;
    Random random;
    std::vector<Cluster> clusters(100);
    for (Cluster& cluster : clusters) {
        cluster.write("keel.sh/minAge", random.some_of({"1h", "2h"}));
        cluster.config.phases.clear();
    }
    const PhaseStates states;
    Config config;
    config.defaults.policy = "major";
    const auto begin = std::chrono::steady_clock::now();
    std::size_t changed = 0;
    for (std::size_t i = 0; i < kWorkloads; ++i) {
        const Cluster& one = clusters[i % clusters.size()];
        const bool ours = standing_of(one.workload, &one.ns, config, states).ours;
        const WorkloadSettings settings = settings_of(one.workload, &one.ns, config);
        changed += ours && settings.policy.value == "major" ? 1 : 0;
    }
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    EXPECT_EQ(changed, kWorkloads);
    std::cout << "settings of 10,000 workloads recomputed in " << took.count() << " ms\n";
}

}  // namespace
}  // namespace keel
