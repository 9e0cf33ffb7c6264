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
        ASSERT_TRUE(standing_of(workload, &ns, config, {}).ours);
        place.write(workload, ns, key, "never");
        const Standing standing = standing_of(workload, &ns, config, {});
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
        EXPECT_EQ(standing_of(both, &both_ns, config, {}).reason, Reason::vetoed) << other.name;
    }
}

TEST_P(SettingsPlace, P3_TheKeyBesideItDoesNotHideAVetoInTheAlias) {
    place.write(workload, ns, kPolicy, "force");
    place.write(workload, ns, kAlias, "never");
    EXPECT_EQ(standing_of(workload, &ns, config, {}).reason, Reason::vetoed);
}

TEST_P(SettingsPlace, P1_AnExplicitValueBeatsTheDefaultAndNamesIt) {
    place.write(workload, ns, kPolicy, "minor");
    const Setting setting = effective_setting(workload, &ns, Config{}, kPolicy, "force");
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
    const Setting setting = effective_setting(workload, &ns, Config{}, kPolicy, "force");
    EXPECT_EQ(setting.value, "glob:" + std::to_string(GetParam()));
    EXPECT_EQ(setting.layer, place.name);
    EXPECT_EQ(setting.overridden.size(), expected);
}

TEST_P(SettingsPlace, TheAliasIsReadWhereTheKeyIsAbsent) {
    place.write(workload, ns, kAlias, "patch");
    EXPECT_EQ(effective_setting(workload, &ns, Config{}, kPolicy, "force").value, "patch");
    place.write(workload, ns, kPolicy, "minor");
    EXPECT_EQ(effective_setting(workload, &ns, Config{}, kPolicy, "force").value, "minor");
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
        const Setting setting = effective_setting(workload, &ns, Config{}, kPolicy, value);
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
    const Standing standing = standing_of(workload, &ns, config, {});
    EXPECT_FALSE(standing.ours);
    EXPECT_EQ(standing.reason, Reason::vetoed);
    EXPECT_NE(standing.sentence.find("defaults.policy"), std::string::npos);
    workload.annotations[kPolicy] = "force";
    EXPECT_TRUE(standing_of(workload, &ns, config, {}).ours);
}

TEST(Settings, OtherKeysHaveNoAlias) {
    Workload workload = sample();
    workload.annotations[kAlias] = "patch";
    EXPECT_EQ(effective_setting(workload, nullptr, Config{}, "keel.sh/stateful", "").value, "");
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
    const Standing standing = standing_of(sample(), &ns, config, {});
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
    const Standing standing = standing_of(sample(), nullptr, Config{}, {});
    EXPECT_FALSE(standing.ours);
    EXPECT_EQ(standing.reason, Reason::not_enrolled);
}

TEST(Settings, P4_AWorkloadsOwnPolicyDoesNotEnrol) {
    Workload workload = sample();
    workload.annotations[kPolicy] = "force";
    Namespace ns = enrolled("shop");
    ns.labels.clear();
    EXPECT_EQ(standing_of(workload, &ns, Config{}, {}).reason, Reason::not_enrolled);
}

TEST(Settings, P4_AnotherValueOfTheEnrolmentLabelIsNamed) {
    Namespace ns = enrolled("shop");
    ns.labels["keel.sh/enrolled"] = "True";
    const Standing standing = standing_of(sample(), &ns, Config{}, {});
    EXPECT_EQ(standing.reason, Reason::not_enrolled);
    EXPECT_EQ(standing.sentence,
              "namespace shop does not carry the label keel.sh/enrolled=true (it carries "
              "keel.sh/enrolled=True)");
    ns.labels.clear();
    EXPECT_EQ(standing_of(sample(), &ns, Config{}, {}).sentence.find("it carries"),
              std::string::npos);
}

// What nearly is a key was meant as that; a veto that was mistyped holds everything.
TEST(Settings, V4_AKeyThatIsNearlyOne) {
    struct Case {
        const char* key;
        const char* value;
        const char* meant;  // empty: nothing is near, or it is a key
        bool blocks;
    };
    const Case cases[] = {
        {"keel.sh/polcy", "force", "keel.sh/policy", false},
        {"keel.sh/polcy", "never", "keel.sh/policy", true},
        {"keel.sh/Policy", "never", "keel.sh/policy", true},
        {"keel.sh/policies", "never", "", false},
        {"keel.observer/plicy", "never", "keel.observer/policy", true},
        {"keel.sh/pollschedule", "@every 1m", "keel.sh/pollSchedule", false},
        {"keel.sh/matchtags", "true", "keel.sh/matchTag", false},
        {"keel.sh/min-age", "3h", "keel.sh/minAge", false},
        {"keel.sh/INITCONTAINERS", "true", "", false},
        {"keel.sh/enrolled", "true", "", false},
        {"keel.sh/notify", "chat", "", false},
        {"keel.sh/update-time", "now", "", false},
        {"keel.observer/trigger", "poll", "", false},
    };
    for (const Case& one : cases) {
        for (const Place& place : places()) {
            Workload workload = sample();
            Namespace ns = enrolled("shop");
            place.write(workload, ns, one.key, one.value);
            const WorkloadSettings settings = settings_of(workload, &ns, Config{});
            const bool fault = *one.meant != '\0';
            ASSERT_EQ(settings.faults.size(), fault ? 1U : 0U) << one.key << " " << place.name;
            EXPECT_EQ(settings.blocking() != nullptr, one.blocks) << one.key;
            if (!fault) continue;
            EXPECT_EQ(settings.faults.front().text,
                      std::string(one.key) + ": \"" + one.value + "\" (" + place.name +
                          ") is no setting; did you mean " + one.meant + "?");
        }
    }
}

TEST(Settings, V4_WhatIsNotExactlyAPolicyBlocks) {
    const std::vector<std::pair<std::string, bool>> cases{
        {"force", true},     {"patch", true},
        {"minor", true},     {"major", true},
        {"all", true},       {"glob:1.*", true},
        {"never", true},     {"regexp:^1", true},
        {"Force", false},    {"never ", false},
        {"", false},         {"glob:", false},
        {"regexp:", false},  {"sometimes", false},
        {"regexp:(", false}, {"regexp:" + std::string(1'001, 'a'), false},
    };
    for (const auto& [value, valid] : cases) {
        Workload workload = sample();
        workload.annotations[kPolicy] = value;
        const WorkloadSettings settings = settings_of(workload, nullptr, Config{});
        EXPECT_EQ(settings.blocking() == nullptr, valid) << '"' << value << '"';
        EXPECT_EQ(settings.policy.parsed.kind() != Policy::Kind::none, valid) << value;
        EXPECT_EQ(settings.faults.empty(), valid);
    }
}

// A value that means nothing is told with its key and its layer, and blocks where safety hangs on
// it.
TEST(Settings, V4_ValuesThatMeanNothing) {
    struct Case {
        const char* policy;
        const char* key;
        const char* value;
        bool fault;
        bool blocks;
    };
    const Case cases[] = {
        {"minor", "keel.sh/matchPreRelease", "false", false, false},
        {"minor", "keel.sh/matchPreRelease", "False", true, true},
        {"minor", "keel.sh/matchPreRelease", "", true, true},
        {"force", "keel.sh/matchPreRelease", "False", true, false},
        {"force", "keel.sh/matchTag", "yes", true, false},
        {"force", "keel.sh/match-tag", "yes", true, false},
        {"major", "keel.sh/step", "next", false, false},
        {"major", "keel.sh/step", "lowest", true, true},
        {"force", "keel.sh/step", "lowest", true, false},
        {"force", "keel.sh/monitorContainers", "^app$", false, false},
        {"force", "keel.sh/monitorContainers", "app(", true, true},
        {"force", "keel.sh/monitorContainers", "", false, false},
        {"force", "keel.sh/initContainers", "1", true, true},
        {"force", "keel.sh/imageVolumes", "1", true, true},
        {"force", "keel.sh/pollSchedule", "@every 5m", false, false},
        {"force", "keel.sh/pollSchedule", "0 */5 * * * *", false, false},
        {"force", "keel.sh/pollSchedule", "5m", true, false},
        {"force", "keel.sh/pollSchedule", "", true, false},
        {"force", "keel.sh/trigger", "whatever", false, false},
    };
    for (const Case& one : cases) {
        Workload workload = sample();
        workload.annotations[kPolicy] = one.policy;
        workload.template_labels[one.key] = one.value;
        const WorkloadSettings settings = settings_of(workload, nullptr, Config{});
        const std::string what = std::string(one.policy) + " " + one.key + "=" + one.value;
        ASSERT_EQ(settings.faults.size(), one.fault ? 1U : 0U) << what;
        EXPECT_EQ(settings.blocking() != nullptr, one.blocks) << what;
        if (!one.fault) continue;
        const std::string& text = settings.faults.front().text;
        EXPECT_NE(text.find("pod template label"), std::string::npos) << text;
        EXPECT_NE(text.find("\"" + std::string(one.value) + "\""), std::string::npos) << text;
    }
}

TEST(Settings, MeaningsOfValues) {
    Config config;
    config.defaults.poll_schedule = "@every 7m";
    Workload workload = sample();
    WorkloadSettings settings = settings_of(workload, nullptr, config);
    EXPECT_EQ(settings.policy.parsed.kind(), Policy::Kind::force);
    EXPECT_TRUE(settings.match_pre_release.parsed);
    EXPECT_FALSE(settings.match_tag.parsed || settings.init_containers.parsed);
    EXPECT_FALSE(settings.image_volumes.parsed);
    EXPECT_EQ(settings.trigger.parsed, Trigger::all);
    EXPECT_EQ(settings.step.parsed, Step::highest);
    EXPECT_EQ(settings.poll_schedule.value, "@every 7m");
    EXPECT_EQ(settings.poll_schedule.parsed.next(test::at(0), utc), test::at(420));
    EXPECT_TRUE(settings.monitors("anything"));
    EXPECT_EQ(settings.reverts.value, "ask");
    EXPECT_FALSE(settings.policy.is_own());

    config.defaults.trigger = Trigger::push;
    config.defaults.step = Step::next;
    config.defaults.policy = "minor";
    settings = settings_of(workload, nullptr, config);
    EXPECT_EQ(settings.trigger.parsed, Trigger::push);
    EXPECT_EQ(settings.step.parsed, Step::next);
    EXPECT_EQ(settings.policy.parsed.kind(), Policy::Kind::minor);

    workload.annotations = {{"keel.sh/trigger", "poll"},
                            {"keel.sh/step", "highest"},
                            {"keel.sh/pollSchedule", "@every 90s"},
                            {"keel.sh/MonitorContainers", "^(app|web)"},
                            {"keel.sh/initcontainers", "true"},
                            {"keel.sh/imagevolumes", "true"},
                            {"keel.sh/ImagePullSecret", "regcred"}};
    workload.labels = {{"keel.sh/policy", "patch"}, {"keel.sh/initContainers", "false"}};
    settings = settings_of(workload, nullptr, config);
    EXPECT_EQ(settings.trigger.parsed, Trigger::all);
    EXPECT_EQ(settings.step.parsed, Step::highest);
    EXPECT_EQ(settings.poll_schedule.parsed.next(test::at(0), utc), test::at(90));
    EXPECT_TRUE(settings.monitors("web-2"));
    EXPECT_FALSE(settings.monitors("my-web"));
    EXPECT_TRUE(settings.init_containers.parsed && settings.image_volumes.parsed)
        << "the annotation wins, in any case";
    EXPECT_EQ(settings.image_pull_secret.value, "regcred");
    EXPECT_TRUE(settings.policy.is_own());
    for (const char* other : {"default", "push", ""}) {
        workload.annotations["keel.sh/trigger"] = other;
        EXPECT_EQ(settings_of(workload, nullptr, config).trigger.parsed, Trigger::push) << other;
    }
}

TEST(Settings, P1_MatchTagIsReadByItsOldNameWhereTheNewOneIsAbsent) {
    Workload workload = sample();
    workload.labels["keel.sh/match-tag"] = "true";
    EXPECT_TRUE(settings_of(workload, nullptr, Config{}).match_tag.parsed);
    workload.annotations["keel.sh/matchTag"] = "false";
    const WorkloadSettings settings = settings_of(workload, nullptr, Config{});
    EXPECT_FALSE(settings.match_tag.parsed);
    ASSERT_EQ(settings.match_tag.overridden.size(), 2U);
    EXPECT_EQ(settings.match_tag.overridden[0].layer, "workload label");
}

// With enrolment.workloadAnnotation, as a migration from Keel sets it.
TEST(Settings, P4_AWorkloadsOwnPolicyEnrolsItWhereThatIsConfigured) {
    struct Case {
        const char* name;
        std::function<void(Workload&, Namespace&)> change;
        const char* enrolled_by;  // empty: not enrolled
    };
    const Case cases[] = {
        {"annotation", [](Workload& w, Namespace&) { w.annotations[kPolicy] = "force"; },
         "workload annotation keel.sh/policy"},
        {"label", [](Workload& w, Namespace&) { w.labels[kPolicy] = "all"; },
         "workload label keel.sh/policy"},
        {"alias", [](Workload& w, Namespace&) { w.annotations[kAlias] = "patch"; },
         "workload annotation keel.observer/policy"},
        {"what is no policy", [](Workload& w, Namespace&) { w.annotations[kPolicy] = "Force"; },
         "workload annotation keel.sh/policy"},
        {"empty", [](Workload& w, Namespace&) { w.annotations[kPolicy] = ""; }, ""},
        {"pod template", [](Workload& w, Namespace&) { w.template_annotations[kPolicy] = "force"; },
         ""},
        {"namespace", [](Workload&, Namespace& ns) { ns.annotations[kPolicy] = "force"; }, ""},
        {"another key", [](Workload& w, Namespace&) { w.annotations["keel.sh/trigger"] = "poll"; },
         ""},
    };
    Config config;
    config.enrolment.workload_annotation = true;
    for (const Case& one : cases) {
        Workload workload = sample();
        Namespace ns = enrolled("shop");
        ns.labels.clear();
        one.change(workload, ns);
        const Standing standing = standing_of(workload, &ns, config, {});
        EXPECT_EQ(standing.enrolled_by, one.enrolled_by) << one.name;
        EXPECT_EQ(standing.ours, *one.enrolled_by != '\0') << one.name;
        EXPECT_FALSE(standing_of(workload, &ns, Config{}, {}).ours) << one.name;
    }
    Workload workload = sample();
    workload.annotations[kPolicy] = "force";
    Namespace ns = enrolled("shop");
    ns.labels = {{kPolicy, "never"}};
    EXPECT_EQ(standing_of(workload, &ns, config, {}).reason, Reason::vetoed);
    config.enrolment.exclude = {"shop"};
    EXPECT_EQ(standing_of(workload, &ns, config, {}).reason, Reason::excluded_namespace);
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
        EXPECT_EQ(matches_image(one.pattern, std::string(one.registry) + "/" + one.repository),
                  one.matches)
            << one.pattern << " on " << one.registry << '/' << one.repository;
    }
    const std::string stars(40, '*');
    EXPECT_FALSE(matches_image(stars + "x", "docker.io/" + std::string(200, 'a')));
}

TEST(Settings, S2_TheDefaultListKnowsDatabasesAndLeavesTheirHelpersAlone) {
    const auto is_database = [](const std::string& repository) {
        const std::vector<std::string> images = default_stateful_images();
        return std::ranges::any_of(images, [&](const std::string& pattern) {
            return matches_image(pattern, "docker.io/" + repository);
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

// --- ignored field managers ---

TEST_P(SettingsPlace, WhatAnIgnoredManagerWroteIsNeitherSettingNorVeto) {
    static constexpr KeyPlace kPlaces[] = {KeyPlace::annotation,          KeyPlace::label,
                                           KeyPlace::template_annotation, KeyPlace::template_label,
                                           KeyPlace::annotation,          KeyPlace::label};
    std::vector<KeyWriters>& writers = GetParam() < 4 ? workload.writers : ns.writers;
    for (const char* key : {kPolicy, kAlias}) {
        workload = sample();
        ns = enrolled("shop");
        place.write(workload, ns, key, "never");
        writers = {{kPlaces[GetParam()], key, {"kyverno-background"}}};
        config.ignored_managers.clear();
        EXPECT_EQ(standing_of(workload, &ns, config, {}).reason, Reason::vetoed) << key;
        config.ignored_managers = {"kyverno*"};
        EXPECT_TRUE(standing_of(workload, &ns, config, {}).ours) << key;
        Setting setting = effective_setting(workload, &ns, config, kPolicy, "force");
        EXPECT_EQ(setting.value + " " + setting.layer, "force default");
        ASSERT_EQ(setting.overridden.size(), 1U);
        EXPECT_EQ(setting.overridden[0].layer, place.name);
        EXPECT_EQ(setting.overridden[0].note, "ignored: field manager kyverno-background");
        writers[0].managers = {"kyverno-background", "kubectl"};  // a person wrote it, too
        EXPECT_EQ(standing_of(workload, &ns, config, {}).reason, Reason::vetoed) << key;
        writers[0].managers = {std::string(kStampManager)};
        config.ignored_managers.clear();
        EXPECT_TRUE(standing_of(workload, &ns, config, {}).ours) << "our own, always";
        writers.clear();
        EXPECT_EQ(standing_of(workload, &ns, config, {}).reason, Reason::vetoed) << "nobody known";
    }
}

TEST(Settings, AnIgnoredGuardNeitherTightensNorBlocks) {
    Workload workload = sample();
    Config config;
    config.ignored_managers = {"kyverno"};
    workload.annotations["keel.sh/minAge"] = "soon";
    workload.labels["keel.sh/minAge"] = "1h";
    workload.writers = {{KeyPlace::annotation, "keel.sh/minAge", {"kyverno"}}};
    const WorkloadSettings settings = settings_of(workload, nullptr, config);
    EXPECT_EQ(settings.blocking(), nullptr);
    EXPECT_EQ(settings.min_age.layer, "workload label");
    EXPECT_EQ(settings.min_age.parsed, std::chrono::hours{1});
}

TEST(Settings, P4_AnIgnoredPolicyDoesNotEnrol) {
    Workload workload = sample();
    Namespace ns = enrolled("shop");
    ns.labels.clear();
    Config config;
    config.enrolment.workload_annotation = true;
    workload.annotations[kPolicy] = "force";
    EXPECT_TRUE(standing_of(workload, &ns, config, {}).ours);
    workload.writers = {{KeyPlace::annotation, kPolicy, {"kyverno"}}};
    config.ignored_managers = {"kyverno"};
    EXPECT_FALSE(standing_of(workload, &ns, config, {}).ours);
}

// --- phases ---

Config two_phases() {
    Config config;
    PhaseConfig first;
    first.name = "first";
    first.namespaces = {"sh?p", "f1-*"};
    first.settings["keel.sh/policy"] = "minor";
    PhaseConfig second;
    second.name = "second";
    second.namespaces = {"*"};
    second.selector["tier"] = "gold";
    config.phases = {first, second};
    return config;
}

TEST(Phases, P4_ANamespaceOfAPhaseIsEnrolledByItsPhaseAlone) {
    const Config config = two_phases();
    Namespace ns = enrolled("shop");
    const Standing before = standing_of(sample(), &ns, config, {});
    EXPECT_FALSE(before.ours);
    EXPECT_EQ(before.reason, Reason::not_enrolled);
    EXPECT_NE(before.sentence.find("first"), std::string::npos) << before.sentence;
    ns.labels.clear();
    for (const PhaseState state : {PhaseState::active, PhaseState::paused, PhaseState::completed}) {
        const Standing after = standing_of(sample(), &ns, config, {{"first", state}});
        EXPECT_TRUE(after.ours) << to_string(state);
        EXPECT_EQ(after.enrolled_by, "phase first");
    }
    EXPECT_FALSE(standing_of(sample(), &ns, config, {{"second", PhaseState::active}}).ours);
}

TEST(Phases, P4_NoAnnotationEnrolsBeforeItsPhaseBegins) {
    Config config = two_phases();
    config.enrolment.workload_annotation = true;
    Workload workload = sample();
    workload.annotations[kPolicy] = "minor";
    const Namespace ns = enrolled("shop");
    EXPECT_FALSE(standing_of(workload, &ns, config, {}).ours);
    config.phases.clear();
    EXPECT_TRUE(standing_of(workload, &ns, config, {}).ours);
}

TEST(Phases, ANamespaceOfTwoPhasesIsBlocked) {
    const Config config = two_phases();
    Namespace ns = enrolled("shop");
    ns.labels["tier"] = "gold";
    const Standing standing = standing_of(sample(), &ns, config, {{"first", PhaseState::active}});
    EXPECT_FALSE(standing.ours);
    EXPECT_EQ(standing.reason, Reason::phase_conflict);
    EXPECT_EQ(verdict_of(standing.reason), Verdict::blocked);
    EXPECT_NE(standing.sentence.find("first and second"), std::string::npos) << standing.sentence;
}

TEST(Phases, P1_ASettingOfThePhaseLosesToWhatIsWrittenAndWinsOverTheDefault) {
    const Config config = two_phases();
    Namespace ns = enrolled("shop");
    Setting setting = effective_setting(sample(), &ns, config, kPolicy, "force");
    EXPECT_EQ(setting.value, "minor");
    EXPECT_EQ(setting.layer, "phase first");
    ns.annotations[kPolicy] = "patch";
    setting = effective_setting(sample(), &ns, config, kPolicy, "force");
    EXPECT_EQ(setting.value, "patch");
    ASSERT_EQ(setting.overridden.size(), 2U);
    EXPECT_EQ(setting.overridden[0].layer, "phase first");
}

TEST(Phases, NeverOfAPhaseGivesWayToAnExplicitPolicy) {
    Config config = two_phases();
    config.phases[0].settings[kPolicy] = "never";
    const PhaseStates active{{"first", PhaseState::active}};
    const Namespace ns = enrolled("shop");
    Workload workload = sample();
    EXPECT_EQ(standing_of(workload, &ns, config, active).reason, Reason::vetoed);
    workload.annotations[kPolicy] = "force";
    EXPECT_TRUE(standing_of(workload, &ns, config, active).ours);
}

}  // namespace
}  // namespace keel
