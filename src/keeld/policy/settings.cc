#include "keeld/policy/settings.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace keel {
namespace {

struct Layer {
    const char* name;
    std::string_view value;
    bool set;
};

template <class Map>
Layer layer(const char* name, const Map& map, const std::string& key) {
    const auto found = map.find(key);
    return found != map.end() ? Layer{name, found->second, true} : Layer{name, {}, false};
}

constexpr const char* kPolicy = "keel.sh/policy";
constexpr const char* kPolicyAlias = "keel.observer/policy";

// The alias counts only where the key itself is absent from the same map.
template <class Map>
Layer aliased_layer(const char* name, const Map& map, const std::string& key) {
    const Layer own = layer(name, map, key);
    return own.set || key != kPolicy ? own : layer(name, map, kPolicyAlias);
}

// Strongest first (design.md, "Settings").
std::vector<Layer> layers(const Workload& workload, const Namespace* ns, const std::string& key) {
    std::vector<Layer> all{
        aliased_layer("workload annotation", workload.annotations, key),
        aliased_layer("workload label", workload.labels, key),
        aliased_layer("pod template annotation", workload.template_annotations, key),
        aliased_layer("pod template label", workload.template_labels, key),
    };
    if (ns != nullptr) {
        all.push_back(aliased_layer("namespace annotation", ns->annotations, key));
        all.push_back(aliased_layer("namespace label", ns->labels, key));
    }
    std::erase_if(all, [](const Layer& one) { return !one.set; });
    return all;
}

// '*' stands for any bytes. Only the newest star is ever taken back: quadratic at worst.
bool glob(std::string_view pattern, std::string_view text) {
    std::size_t at = 0;
    std::size_t star = std::string_view::npos;
    std::size_t taken = 0;
    for (std::size_t i = 0; i < text.size();) {
        if (at < pattern.size() && pattern[at] == '*') {
            star = at++;
            taken = i;
        } else if (at < pattern.size() && pattern[at] == text[i]) {
            ++at;
            ++i;
        } else if (star != std::string_view::npos) {
            at = star + 1;
            i = ++taken;
        } else {
            return false;
        }
    }
    return pattern.find_first_not_of('*', at) == std::string_view::npos;
}

// Where a veto stands, as a layer's name; empty if nowhere. The alias vetoes beside the key itself
// too (P3).
std::string veto_of(const Workload& workload, const Namespace* ns) {
    const auto says_never = [](const auto& map) {
        return std::ranges::any_of(std::array{kPolicy, kPolicyAlias}, [&map](const char* key) {
            const auto found = map.find(key);
            return found != map.end() && found->second == "never";
        });
    };
    if (says_never(workload.annotations)) return "workload annotation";
    if (says_never(workload.labels)) return "workload label";
    if (says_never(workload.template_annotations)) return "pod template annotation";
    if (says_never(workload.template_labels)) return "pod template label";
    if (ns != nullptr && says_never(ns->annotations)) return "namespace annotation";
    if (ns != nullptr && says_never(ns->labels)) return "namespace label";
    return "";
}

}  // namespace

Setting effective_setting(const Workload& workload, const Namespace* ns, const std::string& key,
                          const std::string& fallback) {
    Setting result;
    for (const Layer& one : layers(workload, ns, key)) {
        if (result.layer.empty()) {
            result.value = one.value;
            result.layer = one.name;
        } else {
            result.overridden.push_back({std::string(one.value), one.name});
        }
    }
    if (result.layer.empty()) {
        return Setting{fallback, "default", {}};
    }
    result.overridden.push_back({fallback, "default"});
    return result;
}

PolicyKind policy_kind(const std::string& value) {
    if (value == "force") {
        return PolicyKind::digest;
    }
    if (value == "never") {
        return PolicyKind::never;
    }
    const bool version = value == "patch" || value == "minor" || value == "major" || value == "all";
    const bool pattern = (value.starts_with("glob:") && value.size() > 5) ||
                         (value.starts_with("regexp:") && value.size() > 7);
    return version || pattern ? PolicyKind::tag : PolicyKind::invalid;
}

bool is_excluded(const std::string& ns, const Config& config) {
    const bool configured =
        std::ranges::find(config.enrolment.exclude, ns) != config.enrolment.exclude.end();
    const bool own = config.kubernetes && config.kubernetes->lease_namespace == ns;
    const bool cache =
        std::ranges::any_of(config.caches, [&ns](const CacheConfig& one) { return one.ns == ns; });
    return configured || own || cache;
}

Standing standing_of(const Workload& workload, const Namespace* ns, const Config& config) {
    Standing result;
    result.policy = effective_setting(workload, ns, kPolicy, config.defaults.policy);
    if (is_excluded(workload.key.ns, config)) {
        result.reason = Reason::excluded_namespace;
        result.sentence = "namespace " + workload.key.ns +
                          " is excluded (enrolment.exclude, keeld's own, or a cache's)";
        return result;
    }
    if (const std::string where = veto_of(workload, ns); !where.empty()) {
        result.reason = Reason::vetoed;
        result.sentence =
            "keel.sh/policy: never stands as " + where + "; remove it there to follow again";
        return result;
    }
    const std::string wanted = config.enrolment.label_key + "=" + config.enrolment.label_value;
    const auto label =
        ns != nullptr ? ns->labels.find(config.enrolment.label_key) : decltype(ns->labels.end()){};
    if (ns == nullptr || label == ns->labels.end() ||
        label->second != config.enrolment.label_value) {
        result.reason = Reason::not_enrolled;
        result.sentence = "namespace " + workload.key.ns + " does not carry the label " + wanted;
        return result;
    }
    result.enrolled_by = "namespace label " + wanted;
    if (policy_kind(result.policy.value) == PolicyKind::never) {
        result.reason = Reason::vetoed;  // no veto of its own: any explicit policy is stronger
        result.sentence = "defaults.policy is never; a keel.sh/policy of its own releases it";
        return result;
    }
    result.ours = true;
    return result;
}

bool matches_image(const std::string& pattern, const std::string& registry,
                   const std::string& repository) {
    return glob(pattern, registry + "/" + repository) || glob(pattern, repository);
}

}  // namespace keel
