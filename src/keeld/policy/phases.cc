#include "keeld/policy/phases.h"

#include <algorithm>
#include <array>

#include "core/glob.h"

namespace keel {
namespace {

constexpr std::array<std::string_view, 4> kStates{"waiting", "active", "paused", "completed"};

bool has_labels(const Namespace* ns, const std::map<std::string, std::string>& selector) {
    return std::ranges::all_of(selector, [ns](const auto& wanted) {
        if (ns == nullptr) return false;
        const auto found = ns->labels.find(wanted.first);
        return found != ns->labels.end() && found->second == wanted.second;
    });
}

// Names and labels both, where both are given.
bool claims(const PhaseConfig& phase, const std::string& name, const Namespace* ns) {
    const bool named = phase.namespaces.empty() || matches_any(phase.namespaces, name);
    return named && has_labels(ns, phase.selector);
}

}  // namespace

std::string_view to_string(PhaseState state) {
    return kStates.at(static_cast<std::size_t>(state));
}

std::optional<PhaseState> parse_phase_state(std::string_view text) {
    const auto* found = std::ranges::find(kStates, text);
    if (found == kStates.end()) return std::nullopt;
    return static_cast<PhaseState>(found - kStates.begin());
}

PhaseState state_of(const PhaseStates& states, const PhaseConfig& phase) {
    const auto found = states.find(phase.name);
    return found != states.end() ? found->second : PhaseState::waiting;
}

PhaseStates begun(PhaseStates states, const Config& config) {
    const auto is = [&states](const PhaseConfig& phase, PhaseState state) {
        return state_of(states, phase) == state;
    };
    const bool under_way = std::ranges::any_of(config.phases, [&is](const PhaseConfig& phase) {
        return is(phase, PhaseState::active) || is(phase, PhaseState::paused);
    });
    const auto next = std::ranges::find_if(
        config.phases, [&is](const PhaseConfig& phase) { return is(phase, PhaseState::waiting); });
    if (config.mode == Mode::act && !under_way && next != config.phases.end()) {
        states[next->name] = PhaseState::active;
    }
    return states;
}

std::vector<const PhaseConfig*> phases_of(const std::string& name, const Namespace* ns,
                                          const Config& config) {
    std::vector<const PhaseConfig*> found;
    for (const PhaseConfig& phase : config.phases) {
        if (claims(phase, name, ns)) found.push_back(&phase);
    }
    return found;
}

}  // namespace keel
