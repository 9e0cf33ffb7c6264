#include "keeld/policy/choices.h"

#include <string_view>
#include <utility>

namespace keel {
namespace {

constexpr std::size_t kKept = 20'000;

std::string key_of(const Tag& tag, const WorkloadSettings& settings) {
    std::string key = tag.to_string();
    key += settings.match_pre_release.parsed ? " =" : " ~";
    key += settings.step.parsed == Step::next ? "+ " : " ";
    return key += settings.policy.parsed.text();
}

}  // namespace

const Choice& Choices::choose(
    const Listing& listing, const Tag& current, const WorkloadSettings& settings,
    const std::function<std::optional<std::uint64_t>(const Tag&)>& first_seen,
    const std::vector<std::string>& passed_over) {
    const std::string key = passed_over.empty() ? key_of(current, settings) : "";
    if (const auto found = kept_.find(key);
        found != kept_.end() && found->second.number == listing.number) {
        return found->second.choice;
    }
    const std::vector<std::string_view> listed(listing.names.begin(), listing.names.end());
    const std::vector<std::string_view> passed(passed_over.begin(), passed_over.end());
    Tag asked = current;
    const FirstSeen seen = [&](std::string_view name) {
        asked.name = name;
        return first_seen(asked);
    };
    const Policy& policy = settings.policy.parsed;
    const TagChoice chosen =
        choose_tag(policy, {current.name, listed, settings.match_pre_release.parsed,
                            settings.step.parsed, &seen, passed});
    Choice choice{chosen.reason, std::string(chosen.selected), std::string(chosen.beyond),
                  sentence(policy, current.name, chosen)};
    if (!passed_over.empty()) {
        return last_ = std::move(choice);
    }
    if (kept_.size() >= kKept) {
        kept_.clear();
    }
    Kept& kept = kept_[key];
    kept = Kept{listing.number, std::move(choice)};
    return kept.choice;
}

}  // namespace keel
