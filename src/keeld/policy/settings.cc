#include "keeld/policy/settings.h"

#include <algorithm>
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

bool glob(std::string_view pattern, std::string_view text) {
    if (pattern.empty()) {
        return text.empty();
    }
    if (pattern.front() != '*') {
        return !text.empty() && pattern.front() == text.front() && glob(pattern.substr(1), text.substr(1));
    }
    for (std::size_t taken = 0;; ++taken) {
        if (glob(pattern.substr(1), text.substr(taken))) {
            return true;
        }
        if (taken == text.size() || text[taken] == '/') {
            return false;
        }
    }
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
    const bool configured = std::ranges::find(config.enrolment.exclude, ns) != config.enrolment.exclude.end();
    const bool own = config.kubernetes && config.kubernetes->lease_namespace == ns;
    const bool cache = std::ranges::any_of(config.caches, [&ns](const CacheConfig& one) { return one.ns == ns; });
    return configured || own || cache;
}

Standing standing_of(const Workload& workload, const Namespace* ns, const Config& config) {
    Standing result;
    result.policy = effective_setting(workload, ns, kPolicy, config.defaults.policy);
    if (is_excluded(workload.key.ns, config)) {
        result.reason = Reason::excluded_namespace;
        result.sentence = "namespace " + workload.key.ns + " is excluded (enrolment.exclude, keeld's own, or a cache's)";
        return result;
    }
    for (const Layer& one : layers(workload, ns, kPolicy)) {
        if (one.value == "never") {
            result.reason = Reason::vetoed;
            result.sentence = std::string("keel.sh/policy: never stands as ") + one.name + "; remove it there to follow again";
            return result;
        }
    }
    const std::string wanted = config.enrolment.label_key + "=" + config.enrolment.label_value;
    const auto label = ns != nullptr ? ns->labels.find(config.enrolment.label_key) : decltype(ns->labels.end()){};
    if (ns == nullptr || label == ns->labels.end() || label->second != config.enrolment.label_value) {
        result.reason = Reason::not_enrolled;
        result.sentence = "namespace " + workload.key.ns + " does not carry the label " + wanted;
        return result;
    }
    result.enrolled_by = "namespace label " + wanted;
    result.ours = true;
    return result;
}

bool matches_image(const std::string& pattern, const std::string& registry, const std::string& repository) {
    const std::string whole = registry + "/" + repository;
    if (!pattern.starts_with("*/")) {
        return glob(pattern, whole) || glob(pattern, repository);
    }
    const std::string_view tail = std::string_view(pattern).substr(2);
    for (std::size_t slash = whole.find('/'); slash != std::string::npos; slash = whole.find('/', slash + 1)) {
        if (glob(tail, std::string_view(whole).substr(slash + 1))) {
            return true;
        }
    }
    return false;
}

}  // namespace keel
