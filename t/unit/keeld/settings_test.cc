// Whose a workload is: enrolment, vetoes and settings with the layer that they come from.
#include "keeld/policy/settings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::container;
using test::deployment;
using test::enrolled;

constexpr const char* kPolicy = "keel.sh/policy";
constexpr const char* kAlias = "keel.observer/policy";

// A place where a setting may be written, by the name that keeld gives it.
struct Place {
    const char* name;
    std::function<void(Workload&, Namespace&, const std::string&, const std::string&)> write;
};

// Strongest first.
const std::vector<Place>& places() {
    using W = Workload;
    using N = Namespace;
    using S = std::string;
    static const std::vector<Place> kPlaces{
        {"workload annotation",
         [](W& w, N&, const S& key, const S& value) { w.annotations[key] = value; }},
        {"workload label", [](W& w, N&, const S& key, const S& value) { w.labels[key] = value; }},
        {"pod template annotation",
         [](W& w, N&, const S& key, const S& value) { w.template_annotations[key] = value; }},
        {"pod template label",
         [](W& w, N&, const S& key, const S& value) { w.template_labels[key] = value; }},
        {"namespace annotation",
         [](W&, N& n, const S& key, const S& value) { n.annotations[key] = value; }},
        {"namespace label", [](W&, N& n, const S& key, const S& value) { n.labels[key] = value; }},
    };
    return kPlaces;
}

Workload sample() {
    return deployment("shop", "web", {container("app", "nginx")});
}

class SettingsPlace : public testing::TestWithParam<std::size_t> {
  protected:
    const Place& place = places().at(GetParam());
    Workload workload = sample();
    Namespace ns = enrolled("shop");
    Config config;
};

TEST_P(SettingsPlace, P3_NeverIsAVetoWhereverItIsWritten) {
    for (const char* key : {kPolicy, kAlias}) {
        workload = sample();
        ns = enrolled("shop");
        ASSERT_TRUE(standing_of(workload, &ns, config).ours);
        place.write(workload, ns, key, "never");
        const Standing standing = standing_of(workload, &ns, config);
        EXPECT_FALSE(standing.ours) << key;
        EXPECT_EQ(standing.reason, Reason::vetoed) << key;
        EXPECT_NE(standing.sentence.find(place.name), std::string::npos) << standing.sentence;
    }
}

TEST_P(SettingsPlace, P3_NoOtherPlaceOverridesAVeto) {
    place.write(workload, ns, kPolicy, "never");
    for (const Place& other : places()) {
        if (other.name == std::string(place.name)) continue;
        Workload both = workload;
        Namespace both_ns = ns;
        other.write(both, both_ns, kPolicy, "force");
        other.write(both, both_ns, kAlias, "all");
        EXPECT_EQ(standing_of(both, &both_ns, config).reason, Reason::vetoed) << other.name;
    }
}

TEST_P(SettingsPlace, P3_TheKeyBesideItDoesNotHideAVetoInTheAlias) {
    place.write(workload, ns, kPolicy, "force");
    place.write(workload, ns, kAlias, "never");
    EXPECT_EQ(standing_of(workload, &ns, config).reason, Reason::vetoed);
}

TEST_P(SettingsPlace, P1_AnExplicitValueBeatsTheDefaultAndNamesIt) {
    place.write(workload, ns, kPolicy, "minor");
    const Setting setting = effective_setting(workload, &ns, kPolicy, "force");
    EXPECT_EQ(setting.value, "minor");
    EXPECT_EQ(setting.layer, place.name);
    ASSERT_EQ(setting.overridden.size(), 1U);
    EXPECT_EQ(setting.overridden[0].value, "force");
    EXPECT_EQ(setting.overridden[0].layer, "default");
}

TEST_P(SettingsPlace, WeakerPlacesLoseAndAreListed) {
    std::size_t expected = 1;  // the default
    for (std::size_t i = GetParam(); i < places().size(); ++i) {
        places()[i].write(workload, ns, kPolicy, "glob:" + std::to_string(i));
    }
    expected += places().size() - GetParam() - 1;
    const Setting setting = effective_setting(workload, &ns, kPolicy, "force");
    EXPECT_EQ(setting.value, "glob:" + std::to_string(GetParam()));
    EXPECT_EQ(setting.layer, place.name);
    EXPECT_EQ(setting.overridden.size(), expected);
}

TEST_P(SettingsPlace, TheAliasIsReadWhereTheKeyIsAbsent) {
    place.write(workload, ns, kAlias, "patch");
    EXPECT_EQ(effective_setting(workload, &ns, kPolicy, "force").value, "patch");
    place.write(workload, ns, kPolicy, "minor");
    EXPECT_EQ(effective_setting(workload, &ns, kPolicy, "force").value, "minor");
}

INSTANTIATE_TEST_SUITE_P(All, SettingsPlace, testing::Range<std::size_t>(0, 6),
                         [](const auto& info) {
                             std::string name = places().at(info.param).name;
                             std::erase(name, ' ');
                             return name;
                         });

TEST(Settings, P2_WithoutAnySettingTheDefaultHoldsAsItIsNow) {
    const Workload workload = sample();
    const Namespace ns = enrolled("shop");
    for (const char* value : {"force", "minor"}) {
        const Setting setting = effective_setting(workload, &ns, kPolicy, value);
        EXPECT_EQ(setting.value, value);
        EXPECT_EQ(setting.layer, "default");
        EXPECT_TRUE(setting.overridden.empty());
    }
}

TEST(Settings, P1_ADefaultOfNeverIsOverridden) {
    Workload workload = sample();
    const Namespace ns = enrolled("shop");
    Config config;
    config.defaults.policy = "never";
    const Standing standing = standing_of(workload, &ns, config);
    EXPECT_FALSE(standing.ours);
    EXPECT_EQ(standing.reason, Reason::vetoed);
    EXPECT_NE(standing.sentence.find("defaults.policy"), std::string::npos);
    workload.annotations[kPolicy] = "force";
    EXPECT_TRUE(standing_of(workload, &ns, config).ours);
}

TEST(Settings, OtherKeysHaveNoAlias) {
    Workload workload = sample();
    workload.annotations[kAlias] = "patch";
    EXPECT_EQ(effective_setting(workload, nullptr, "keel.sh/stateful", "").value, "");
}

struct EnrolmentCase {
    const char* name;
    std::function<void(Namespace&, Config&)> change;
    bool ours;
    Reason reason;
};

class Enrolment : public testing::TestWithParam<EnrolmentCase> {};

TEST_P(Enrolment, P4_OnlyTheExactLabelEnrols) {
    Namespace ns = enrolled("shop");
    Config config;
    GetParam().change(ns, config);
    const Standing standing = standing_of(sample(), &ns, config);
    EXPECT_EQ(standing.ours, GetParam().ours) << standing.sentence;
    if (!GetParam().ours) {
        EXPECT_EQ(standing.reason, GetParam().reason);
        EXPECT_FALSE(standing.sentence.empty());
        EXPECT_EQ(standing.enrolled_by, "");
    } else {
        EXPECT_NE(standing.enrolled_by.find("namespace label"), std::string::npos);
    }
}

INSTANTIATE_TEST_SUITE_P(
    All, Enrolment,
    testing::Values(
        EnrolmentCase{"Labelled", [](Namespace&, Config&) {}, true, {}},
        EnrolmentCase{"NoLabel", [](Namespace& ns, Config&) { ns.labels.clear(); }, false,
                      Reason::not_enrolled},
        EnrolmentCase{"OtherValue",
                      [](Namespace& ns, Config&) { ns.labels["keel.sh/enrolled"] = "True"; }, false,
                      Reason::not_enrolled},
        EnrolmentCase{"AnnotationInsteadOfLabel",
                      [](Namespace& ns, Config&) {
                          ns.labels.clear();
                          ns.annotations["keel.sh/enrolled"] = "true";
                      },
                      false, Reason::not_enrolled},
        EnrolmentCase{"ConfiguredLabel",
                      [](Namespace& ns, Config& config) {
                          config.enrolment.label_key = "team";
                          config.enrolment.label_value = "shop";
                          ns.labels = {{"team", "shop"}};
                      },
                      true,
                      {}},
        EnrolmentCase{"NotTheConfiguredLabel",
                      [](Namespace&, Config& config) { config.enrolment.label_key = "team"; },
                      false, Reason::not_enrolled},
        EnrolmentCase{"Excluded",
                      [](Namespace&, Config& config) { config.enrolment.exclude = {"shop"}; },
                      false, Reason::excluded_namespace},
        EnrolmentCase{"KeeldsOwn",
                      [](Namespace&, Config& config) {
                          config.kubernetes.emplace().lease_namespace = "shop";
                      },
                      false, Reason::excluded_namespace},
        EnrolmentCase{"OfACache",
                      [](Namespace&, Config& config) { config.caches.emplace_back().ns = "shop"; },
                      false, Reason::excluded_namespace}),
    [](const auto& info) { return info.param.name; });

TEST(Settings, P4_AnUnknownNamespaceIsNotEnrolled) {
    const Standing standing = standing_of(sample(), nullptr, Config{});
    EXPECT_FALSE(standing.ours);
    EXPECT_EQ(standing.reason, Reason::not_enrolled);
}

TEST(Settings, P4_AWorkloadsOwnPolicyDoesNotEnrol) {
    Workload workload = sample();
    workload.annotations[kPolicy] = "force";
    Namespace ns = enrolled("shop");
    ns.labels.clear();
    EXPECT_EQ(standing_of(workload, &ns, Config{}).reason, Reason::not_enrolled);
}

TEST(Settings, V4_WhatIsNotExactlyAPolicyIsInvalid) {
    const std::vector<std::pair<std::string, PolicyKind>> cases{
        {"force", PolicyKind::digest},    {"patch", PolicyKind::tag},
        {"minor", PolicyKind::tag},       {"major", PolicyKind::tag},
        {"all", PolicyKind::tag},         {"glob:1.*", PolicyKind::tag},
        {"regexp:^1", PolicyKind::tag},   {"never", PolicyKind::never},
        {"Force", PolicyKind::invalid},   {"never ", PolicyKind::invalid},
        {"", PolicyKind::invalid},        {"glob:", PolicyKind::invalid},
        {"regexp:", PolicyKind::invalid}, {"sometimes", PolicyKind::invalid},
    };
    for (const auto& [value, kind] : cases) {
        EXPECT_EQ(policy_kind(value), kind) << '"' << value << '"';
    }
}

TEST(Settings, S2_ImagePatterns) {
    struct Case {
        const char* pattern;
        const char* registry;
        const char* repository;
        bool matches;
    };
    const Case cases[] = {
        {"*/postgres", "docker.io", "library/postgres", true},
        {"*/postgres", "ghcr.io", "some/where/deep/postgres", true},
        {"*/postgres", "docker.io", "library/postgres-exporter", false},
        {"*/postgres", "docker.io", "library/mypostgres", false},
        {"*/timescaledb*", "docker.io", "timescale/timescaledb-ha", true},
        {"*/mssql/server", "mcr.microsoft.com", "mssql/server", true},
        {"*/mssql/server", "mcr.microsoft.com", "dotnet/server", false},
        {"docker.io/library/mysql", "docker.io", "library/mysql", true},
        {"docker.io/library/mysql", "ghcr.io", "library/mysql", false},
        {"library/mysql", "ghcr.io", "library/mysql", true},
        {"db.example/*", "db.example", "any/thing/below", true},
        {"*", "docker.io", "library/nginx", true},
        {"*a*b*c", "docker.io", "xaxxbxxc", true},
        {"*a*b*c", "docker.io", "xaxxbxxcx", false},
        {"", "docker.io", "library/nginx", false},
    };
    for (const Case& one : cases) {
        EXPECT_EQ(matches_image(one.pattern, one.registry, one.repository), one.matches)
            << one.pattern << " on " << one.registry << '/' << one.repository;
    }
    const std::string stars(40, '*');
    EXPECT_FALSE(matches_image(stars + "x", "docker.io", std::string(200, 'a')));
}

TEST(Settings, S2_TheDefaultListKnowsDatabasesAndLeavesTheirHelpersAlone) {
    const auto is_database = [](const std::string& repository) {
        const std::vector<std::string> images = default_stateful_images();
        return std::ranges::any_of(images, [&](const std::string& pattern) {
            return matches_image(pattern, "docker.io", repository);
        });
    };
    for (const char* repository :
         {"library/postgres", "bitnami/postgresql", "library/mariadb", "library/mongo",
          "library/mysql", "clickhouse/clickhouse-server", "timescale/timescaledb"}) {
        EXPECT_TRUE(is_database(repository)) << repository;
    }
    for (const char* repository : {"library/nginx", "library/redis", "dpage/pgadmin4",
                                   "prometheuscommunity/postgres-exporter"}) {
        EXPECT_FALSE(is_database(repository)) << repository;
    }
}

}  // namespace
}  // namespace keel
