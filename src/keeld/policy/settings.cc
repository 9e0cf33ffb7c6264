#include "keeld/policy/settings.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/edit_distance.h"
#include "core/glob.h"

namespace keel {
namespace {

constexpr int kMostVotes = 100;
constexpr int kMostHours = 8'760;
constexpr Millis kNoDeadline = Millis::max();

// Decimal digits alone; nullopt: something else, or out of range.
std::optional<int> whole_number(const std::string& text, int least, int most) {
    int value = 0;
    const char* end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, value);
    const bool fits = error == std::errc() && at == end && value >= least && value <= most;
    return fits ? std::optional(value) : std::nullopt;
}

struct Layer {
    std::string name;
    std::string_view value;
    std::string note{};  // why it does not count; empty: it does
};

constexpr const char* kPolicy = "keel.sh/policy";
constexpr const char* kPolicyAlias = "keel.observer/policy";
constexpr const char* kMatchTag = "keel.sh/matchTag";
constexpr const char* kMatchTagAlias = "keel.sh/match-tag";
// Keel reads these in any case.
constexpr std::array<std::string_view, 4> kAnyCase{"keel.sh/monitorContainers",
                                                   "keel.sh/initContainers", "keel.sh/imageVolumes",
                                                   "keel.sh/imagePullSecret"};

// Those that are read by their very names; where others come near one, it was meant.
constexpr std::array<std::string_view, 25> kKnown{kPolicy,
                                                  kPolicyAlias,
                                                  kMatchTag,
                                                  kMatchTagAlias,
                                                  "keel.sh/matchPreRelease",
                                                  "keel.sh/trigger",
                                                  "keel.sh/pollSchedule",
                                                  "keel.sh/monitorContainers",
                                                  "keel.sh/initContainers",
                                                  "keel.sh/imageVolumes",
                                                  "keel.sh/imagePullSecret",
                                                  "keel.sh/step",
                                                  "keel.sh/stateful",
                                                  "keel.sh/operator-owned",
                                                  "keel.sh/second-owner",
                                                  "keel.sh/all-at-once",
                                                  "keel.sh/disruption-budget",
                                                  "keel.sh/draining",
                                                  "keel.sh/host-port-in-use",
                                                  "keel.sh/volume-in-use",
                                                  "keel.sh/minAge",
                                                  "keel.sh/soak",
                                                  "keel.sh/reversible",
                                                  "keel.sh/approvals",
                                                  "keel.sh/approvalDeadline"};

bool same_in_any_case(std::string_view one, std::string_view other) {
    const auto lower = [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    return std::ranges::equal(one, other, {}, lower, lower);
}

// Why what a key says there is no setting: none but field managers that are ignored wrote it (the
// configuration's, and keeld's own). Empty: it is one.
std::string ignored(const std::vector<KeyWriters>& writers, KeyPlace place, std::string_view key,
                    const Config& config) {
    const auto found = std::ranges::find_if(
        writers, [&](const KeyWriters& one) { return one.place == place && one.key == key; });
    if (found == writers.end() || found->managers.empty()) return "";
    const bool all = std::ranges::all_of(found->managers, [&config](const std::string& manager) {
        return manager == kStampManager || matches_any(config.ignored_managers, manager);
    });
    return all ? "ignored: field manager " + found->managers.front() : "";
}

constexpr const char* kWorkloadAnnotation = "workload annotation";
constexpr const char* kWorkloadLabel = "workload label";

// Calls visit(name, map, place, writers) for every place of the cluster where a setting may stand,
// the strongest first (design.md, "Settings").
template <class Visit>
void for_each_place(const Workload& workload, const Namespace* ns, Visit visit) {
    const auto& writers = workload.writers;
    visit(kWorkloadAnnotation, workload.annotations, KeyPlace::annotation, writers);
    visit(kWorkloadLabel, workload.labels, KeyPlace::label, writers);
    visit("pod template annotation", workload.template_annotations, KeyPlace::template_annotation,
          writers);
    visit("pod template label", workload.template_labels, KeyPlace::template_label, writers);
    if (ns != nullptr) {
        visit("namespace annotation", ns->annotations, KeyPlace::annotation, ns->writers);
        visit("namespace label", ns->labels, KeyPlace::label, ns->writers);
    }
}

// What a key says in each place and phase, strongest first. Other spellings count only where the
// key itself is absent from the same map, or is no setting there.
std::vector<Layer> layers(const Workload& workload, const Namespace* ns, const Config& config,
                          const std::string& key) {
    std::vector<Layer> all;
    for_each_place(
        workload, ns,
        [&](const char* name, const auto& map, KeyPlace place,
            const std::vector<KeyWriters>& writers) {
            if (map.empty()) return;
            const auto counts = [&](auto found) {
                if (found == map.end()) return false;
                all.push_back({name, found->second, ignored(writers, place, found->first, config)});
                return all.back().note.empty();
            };
            if (counts(map.find(key))) return;
            if (key == kPolicy) {
                counts(map.find(kPolicyAlias));
            } else if (key == kMatchTag) {
                counts(map.find(kMatchTagAlias));
            } else if (std::ranges::find(kAnyCase, key) != kAnyCase.end()) {
                counts(std::ranges::find_if(map, [&key](const auto& item) {
                    return item.first != key && same_in_any_case(item.first, key);
                }));
            }
        });
    for (const PhaseConfig* phase : phases_of(workload.key.ns, ns, config)) {
        const auto found = phase->settings.find(key);
        if (found != phase->settings.end()) {
            all.push_back({"phase " + phase->name, found->second});
        }
    }
    return all;
}

// Where a veto stands, as a layer's name; empty if nowhere. The alias vetoes beside the key itself
// too (P3).
std::string veto_of(const Workload& workload, const Namespace* ns, const Config& config) {
    std::string where;
    for_each_place(workload, ns,
                   [&](const char* name, const auto& map, KeyPlace place,
                       const std::vector<KeyWriters>& writers) {
                       if (!where.empty() || map.empty()) return;
                       for (const char* key : {kPolicy, kPolicyAlias}) {
                           const auto found = map.find(key);
                           if (found != map.end() && found->second == "never" &&
                               ignored(writers, place, key, config).empty()) {
                               where = name;
                               return;
                           }
                       }
                   });
    return where;
}

}  // namespace

Setting effective_setting(const Workload& workload, const Namespace* ns, const Config& config,
                          const std::string& key, const std::string& fallback) {
    Setting result;
    for (const Layer& one : layers(workload, ns, config, key)) {
        if (result.layer.empty() && one.note.empty()) {
            result.value = one.value;
            result.layer = one.name;
        } else {
            result.overridden.push_back({std::string(one.value), one.name, one.note});
        }
    }
    if (result.layer.empty()) {
        result.value = fallback;
        result.layer = "default";
    } else {
        result.overridden.push_back({fallback, "default"});
    }
    return result;
}

namespace {

constexpr std::size_t kKept = 1'000;  // texts that are remembered

// What was compiled once is compiled for good: 10,000 workloads say the same few things. keeld has
// one thread.
template <class T>
const Expected<T>& compiled(const std::string& text, Expected<T> (*compile)(std::string_view)) {
    static thread_local std::unordered_map<std::string, Expected<T>> known;
    const auto found = known.find(text);
    if (found != known.end()) return found->second;
    if (known.size() == kKept) known.clear();
    return known.emplace(text, compile(text)).first->second;
}

// Reads one workload's settings, and collects what means nothing.
class SettingsReader {
  public:
    SettingsReader(const Workload& workload, const Namespace* ns, const Config& config)
        : workload_(workload), ns_(ns), config_(config) {}

    WorkloadSettings read() {
        read_policy();
        const Policy::Kind kind = settings_.policy.parsed.kind();
        const bool version = kind == Policy::Kind::patch || kind == Policy::Kind::minor ||
                             kind == Policy::Kind::major || kind == Policy::Kind::all;
        settings_.match_tag = read_bool(kMatchTag, "false", false);
        settings_.match_pre_release = read_bool("keel.sh/matchPreRelease", "true", version);
        settings_.init_containers = read_bool("keel.sh/initContainers", "false", true);
        settings_.image_volumes = read_bool("keel.sh/imageVolumes", "false", true);
        read_trigger();
        read_schedule();
        read_monitor();
        settings_.image_pull_secret = find("keel.sh/imagePullSecret", "");
        read_step(version);
        read_guards();
        read_typos();
        static constexpr const char* kReverts[] = {"ask", "follow", "never"};
        settings_.reverts.value = kReverts[static_cast<int>(config_.defaults.reverts)];
        settings_.reverts.layer = "default";
        settings_.reverts.parsed = config_.defaults.reverts;
        return std::move(settings_);
    }

  private:
    Setting find(const std::string& key, const std::string& fallback) const {
        return effective_setting(workload_, ns_, config_, key, fallback);
    }

    void fault(const std::string& key, const Setting& setting, const std::string& expected,
               bool blocks) {
        settings_.faults.push_back(
            {key + ": \"" + setting.value + "\" (" + setting.layer + ") " + expected, blocks});
    }

    void read_policy() {
        Parsed<Policy>& policy = settings_.policy;
        static_cast<Setting&>(policy) = find(kPolicy, config_.defaults.policy);
        const Expected<Policy>& parsed = compiled<Policy>(policy.value, &Policy::parse);
        if (parsed && parsed->kind() != Policy::Kind::none) {
            policy.parsed = *parsed;
        } else if (policy.value.starts_with("glob:") || policy.value.starts_with("regexp:")) {
            fault(kPolicy, policy, "is no policy: " + parsed.error().text, true);
        } else {
            fault(kPolicy, policy, "is none of force patch minor major all glob:… regexp:… never",
                  true);
        }
    }

    Parsed<bool> read_bool(const std::string& key, const std::string& fallback, bool blocks) {
        Parsed<bool> result{find(key, fallback), fallback == "true"};
        if (result.value == "true" || result.value == "false") {
            result.parsed = result.value == "true";
        } else {
            fault(key, result, "is neither true nor false", blocks);
        }
        return result;
    }

    void read_trigger() {
        const bool all = config_.defaults.trigger == Trigger::all;
        Parsed<Trigger>& trigger = settings_.trigger;
        static_cast<Setting&>(trigger) = find("keel.sh/trigger", all ? "all" : "push");
        const bool either = trigger.value == "all" || trigger.value == "poll";
        trigger.parsed = either ? Trigger::all : Trigger::push;
    }

    void read_schedule() {
        const std::string& fallback = config_.defaults.poll_schedule;
        Parsed<PollSchedule>& schedule = settings_.poll_schedule;
        static_cast<Setting&>(schedule) = find("keel.sh/pollSchedule", fallback);
        const auto* parsed = &compiled<PollSchedule>(schedule.value, &PollSchedule::parse);
        if (!*parsed) {
            fault("keel.sh/pollSchedule", schedule,
                  "is no schedule, so " + fallback + " holds: " + parsed->error().text, false);
            parsed = &compiled<PollSchedule>(fallback, &PollSchedule::parse);
        }
        schedule.parsed = parsed->value_or(PollSchedule{});
    }

    void read_monitor() {
        Parsed<Pattern::Pointer>& monitor = settings_.monitor_containers;
        static_cast<Setting&>(monitor) = find("keel.sh/monitorContainers", "");
        if (monitor.layer == "default" || monitor.value.empty()) return;
        const auto& parsed = compiled<Pattern::Pointer>(monitor.value, &Pattern::regexp);
        if (!parsed) {
            fault("keel.sh/monitorContainers", monitor,
                  "is no regular expression: " + parsed.error().text, true);
            return;
        }
        monitor.parsed = *parsed;
        const auto costly =
            std::ranges::find_if(workload_.containers, [&monitor](const Container& container) {
                return monitor.parsed->match(container.own_name()) == Pattern::Match::too_expensive;
            });
        if (costly != workload_.containers.end()) {
            fault("keel.sh/monitorContainers", monitor,
                  "takes too many steps on " + std::string(costly->own_name()) +
                      ", so nobody can tell whether it is meant",
                  true);
        }
    }

    void read_step(bool blocks) {
        const bool next = config_.defaults.step == Step::next;
        Parsed<Step>& step = settings_.step;
        static_cast<Setting&>(step) = find("keel.sh/step", next ? "next" : "highest");
        step.parsed = step.value == "next" ? Step::next : Step::highest;
        if (step.value != "next" && step.value != "highest") {
            fault("keel.sh/step", step, "is neither highest nor next", blocks);
        }
    }

    // A stronger layer may tighten, never loosen: of all layers the value that is ahead of the
    // others holds, and the strongest layer among equals. One that means nothing blocks, wherever
    // it stands: nobody knows how strict it was meant (V4).
    template <class T, class Parse, class Stricter>
    Parsed<T> strictest(const std::string& key, const std::string& fallback, Parse parse,
                        Stricter stricter, const char* expected) {
        const Setting found = find(key, fallback);
        std::vector<Setting::Loser> all{{found.value, found.layer}};
        all.insert(all.end(), found.overridden.begin(), found.overridden.end());
        Parsed<T> result;
        std::size_t best = all.size();
        for (std::size_t i = 0; i < all.size(); ++i) {
            if (!all[i].note.empty()) continue;
            const std::optional<T> value = parse(all[i].value);
            if (!value) {
                fault(key, Setting{all[i].value, all[i].layer, {}}, expected, true);
            } else if (best == all.size() || stricter(*value, result.parsed)) {
                best = i;
                result.parsed = *value;
            }
        }
        best = best == all.size() ? 0 : best;
        result.value = all[best].value;
        result.layer = all[best].layer;
        all.erase(all.begin() + static_cast<std::ptrdiff_t>(best));
        result.overridden = std::move(all);
        return result;
    }

    Parsed<Millis> longest(const std::string& key, Millis fallback) {
        return strictest<Millis>(
            key, format_duration(fallback),
            [](const std::string& text) { return parse_duration(text); }, std::greater<>(),
            "is no duration such as 24h");
    }

    void read_guards() {
        settings_.min_age = longest("keel.sh/minAge", config_.defaults.min_age);
        settings_.soak = longest("keel.sh/soak", config_.defaults.soak);
        settings_.reversible =
            read_bool("keel.sh/reversible", config_.defaults.reversible ? "true" : "false", false);
        settings_.approvals = strictest<int>(
            "keel.sh/approvals", "0",
            [](const std::string& text) { return whole_number(text, 0, kMostVotes); },
            std::greater<>(), "is no number of votes from 0 to 100");
        // The default is nobody's wish: it does not shorten what somebody says.
        const std::string key = "keel.sh/approvalDeadline";
        const std::string none;
        settings_.approval_deadline = strictest<Millis>(
            key, none,
            [&none](const std::string& text) -> std::optional<Millis> {
                if (text == none) return kNoDeadline;
                const std::optional<int> count = whole_number(text, 1, kMostHours);
                return count ? std::optional<Millis>(std::chrono::hours{*count}) : std::nullopt;
            },
            std::less<>(), "is no number of hours from 1 to 8760");
        fill_deadline(settings_.approval_deadline);
    }

    // Who says nothing has 24 hours.
    static void fill_deadline(Parsed<Millis>& deadline) {
        if (deadline.parsed == kNoDeadline) {
            deadline.parsed = std::chrono::hours{24};
            deadline.value = deadline.layer == "default" ? "24" : deadline.value;
        }
        for (Setting::Loser& loser : deadline.overridden) {
            if (loser.layer == "default") loser.value = "24";
        }
    }

    // A key that is nearly one that exists was meant as that, and a veto is a veto (V4).
    void read_typos() {
        for_each_place(
            workload_, ns_,
            [this](const char* name, const auto& map, KeyPlace place, const auto& writers) {
                for (const auto& [key, value] : map) {
                    if (is_known(key) || !ignored(writers, place, key, config_).empty()) continue;
                    const std::string_view meant = nearest_known(key);
                    if (meant.empty()) continue;
                    const bool policy = meant == kPolicy || meant == kPolicyAlias;
                    fault(key, Setting{value, name, {}},
                          "is no setting; did you mean " + std::string(meant) + "?",
                          policy && value == "never");
                }
            });
    }

    bool is_known(std::string_view key) const {
        return std::ranges::find(kKnown, key) != kKnown.end() ||
               key == config_.enrolment.label_key || key == config_.defaults.restart_key ||
               std::ranges::any_of(
                   kAnyCase, [key](std::string_view one) { return same_in_any_case(one, key); });
    }

    // Empty: none is near. Found once: every namespace carries the same few labels.
    static std::string_view nearest_known(const std::string& key) {
        static thread_local std::unordered_map<std::string, std::string_view> found;
        if (const auto known = found.find(key); known != found.end()) return known->second;
        if (found.size() == kKept) found.clear();
        return found[key] = look_for_nearest(key);
    }

    static std::string_view look_for_nearest(std::string_view key) {
        constexpr std::size_t kNear = 2;
        std::string_view nearest;
        std::size_t least = kNear + 1;
        for (const std::string_view known : kKnown) {
            if (known.size() > key.size() + kNear || key.size() > known.size() + kNear) continue;
            const std::size_t distance = edit_distance(key, known);
            if (distance < least) {
                nearest = known;
                least = distance;
            }
        }
        return nearest;
    }

    const Workload& workload_;
    const Namespace* ns_;
    const Config& config_;
    WorkloadSettings settings_;
};

}  // namespace

bool Setting::is_own() const {
    return layer == kWorkloadAnnotation || layer == kWorkloadLabel;
}

const WorkloadSettings::Fault* WorkloadSettings::blocking() const {
    const auto found = std::ranges::find_if(faults, &Fault::blocks);
    return found != faults.end() ? &*found : nullptr;
}

bool WorkloadSettings::monitors(std::string_view name) const {
    const Pattern* pattern = monitor_containers.parsed.get();
    return pattern == nullptr || pattern->match(name) != Pattern::Match::no;
}

WorkloadSettings settings_of(const Workload& workload, const Namespace* ns, const Config& config) {
    return SettingsReader(workload, ns, config).read();
}

namespace {

// Everything that settings_of reads but the containers' names, as one text: equal texts, equal
// settings. No text of the API server or of YAML's holds a NUL.
std::string basis_of(const Workload& workload, const Namespace* ns, const Config& config) {
    std::string basis;
    const auto add = [&basis](std::string_view text) { basis.append(text).push_back('\0'); };
    const auto add_number = [&add](auto number) {
        add(std::to_string(static_cast<std::int64_t>(number)));
    };
    const DefaultsConfig& defaults = config.defaults;
    add(defaults.policy);
    add(defaults.poll_schedule);
    add(defaults.restart_key);
    add(config.enrolment.label_key);
    add_number(defaults.trigger);
    add_number(defaults.step);
    add_number(defaults.reverts);
    add_number(defaults.reversible);
    add_number(defaults.min_age.count());
    add_number(defaults.soak.count());
    for_each_place(workload, ns,
                   [&](const char* name, const auto& map, KeyPlace place,
                       const std::vector<KeyWriters>& writers) {
                       if (map.empty()) return;
                       add(name);
                       for (const auto& [key, value] : map) {
                           // Every namespace has another, and it is no setting.
                           if (key == "kubernetes.io/metadata.name") continue;
                           add(key);
                           add(value);
                           add(ignored(writers, place, key, config));
                       }
                   });
    for (const PhaseConfig* phase : phases_of(workload.key.ns, ns, config)) {
        add("phase");
        add(phase->name);
        for (const auto& [key, value] : phase->settings) {
            add(key);
            add(value);
        }
    }
    return basis;
}

}  // namespace

std::shared_ptr<const WorkloadSettings> shared_settings_of(const Workload& workload,
                                                           const Namespace* ns,
                                                           const Config& config) {
    static thread_local std::unordered_map<std::string, std::shared_ptr<const WorkloadSettings>>
        known;
    std::string basis = basis_of(workload, ns, config);
    if (const auto found = known.find(basis); found != known.end()) return found->second;
    auto settings = std::make_shared<const WorkloadSettings>(settings_of(workload, ns, config));
    // Whether a pattern takes too many steps hangs on the containers' names.
    if (settings->monitor_containers.parsed != nullptr) return settings;
    if (known.size() == kKept) known.clear();
    known.emplace(std::move(basis), settings);
    return settings;
}

bool is_excluded(const std::string& ns, const Config& config) {
    const bool configured =
        std::ranges::find(config.enrolment.exclude, ns) != config.enrolment.exclude.end();
    const bool own = config.kubernetes && config.kubernetes->lease_namespace == ns;
    const bool cache =
        std::ranges::any_of(config.caches, [&ns](const CacheConfig& one) { return one.ns == ns; });
    return configured || own || cache;
}

namespace {

// "workload annotation keel.sh/policy"; empty where the workload says nothing of its own.
std::string own_policy(const Workload& workload, const Config& config) {
    std::string where;
    for_each_place(workload, nullptr,
                   [&](const char* name, const auto& map, KeyPlace place,
                       const std::vector<KeyWriters>& writers) {
                       if (place != KeyPlace::annotation && place != KeyPlace::label) return;
                       for (const char* key : {kPolicy, kPolicyAlias}) {
                           const auto found = map.find(key);
                           if (where.empty() && found != map.end() && !found->second.empty() &&
                               ignored(writers, place, key, config).empty()) {
                               where = std::string(name) + " " + key;
                           }
                       }
                   });
    return where;
}

// By what the workload takes part; empty: it does not.
std::string enrolled_by(const Workload& workload, const Namespace* ns, const PhaseConfig* phase,
                        const Config& config) {
    const EnrolmentConfig& rule = config.enrolment;
    if (phase != nullptr) {
        return "phase " + phase->name;
    }
    if (ns != nullptr) {
        const auto label = ns->labels.find(rule.label_key);
        if (label != ns->labels.end() && label->second == rule.label_value) {
            return "namespace label " + rule.label_key + "=" + rule.label_value;
        }
    }
    return rule.workload_annotation ? own_policy(workload, config) : "";
}

Standing outside(Reason reason, std::string sentence) {
    Standing result;
    result.reason = reason;
    result.sentence = std::move(sentence);
    return result;
}

}  // namespace

Standing standing_of(const Workload& workload, const Namespace* ns, const Config& config,
                     const PhaseStates& states) {
    return standing_of(workload, ns, config, states,
                       effective_setting(workload, ns, config, kPolicy, config.defaults.policy));
}

Standing standing_of(const Workload& workload, const Namespace* ns, const Config& config,
                     const PhaseStates& states, const Setting& policy) {
    if (is_excluded(workload.key.ns, config)) {
        return outside(Reason::excluded_namespace,
                       "namespace " + workload.key.ns +
                           " is excluded (enrolment.exclude, keeld's own, or a cache's)");
    }
    if (const std::string where = veto_of(workload, ns, config); !where.empty()) {
        return outside(Reason::vetoed, "keel.sh/policy: never stands as " + where +
                                           "; remove it there to follow again");
    }
    const std::vector<const PhaseConfig*> phases = phases_of(workload.key.ns, ns, config);
    if (phases.size() > 1) {
        return outside(Reason::phase_conflict, "namespace " + workload.key.ns +
                                                   " belongs to the phases " + phases[0]->name +
                                                   " and " + phases[1]->name +
                                                   "; nothing moves until one lets go of it");
    }
    const PhaseConfig* phase = phases.empty() ? nullptr : phases.front();
    if (phase != nullptr && state_of(states, *phase) == PhaseState::waiting) {
        return outside(Reason::not_enrolled,
                       "the phase " + phase->name + " of this namespace has not begun");
    }
    Standing result;
    result.enrolled_by = enrolled_by(workload, ns, phase, config);
    if (result.enrolled_by.empty()) {
        const EnrolmentConfig& rule = config.enrolment;
        result.reason = Reason::not_enrolled;
        result.sentence = "namespace " + workload.key.ns + " does not carry the label " +
                          rule.label_key + "=" + rule.label_value;
        if (ns != nullptr && ns->labels.contains(rule.label_key)) {
            result.sentence +=
                " (it carries " + rule.label_key + "=" + ns->labels.at(rule.label_key) + ")";
        }
        result.sentence += config.enrolment.workload_annotation
                               ? ", and the workload has no keel.sh/policy of its own"
                               : "";
        return result;
    }
    // No veto of its own: any explicit policy is stronger.
    if (policy.value == "never") {
        result.reason = Reason::vetoed;
        result.sentence = (policy.layer == "default" ? "defaults.policy" : policy.layer) +
                          " is never; a keel.sh/policy of its own releases it";
        return result;
    }
    result.ours = true;
    return result;
}

bool matches_image(std::string_view pattern, std::string_view image) {
    if (matches_glob(pattern, image)) return true;
    // A star at its begin has tried the registry's end, too.
    return !pattern.starts_with('*') && matches_glob(pattern, image.substr(image.find('/') + 1));
}

}  // namespace keel
