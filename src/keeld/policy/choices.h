// Which tag a policy chooses from a repository's list, computed once for every list however many
// containers ask.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/policy.h"
#include "core/reference.h"
#include "keeld/catalogue/listings.h"
#include "keeld/policy/settings.h"

namespace keel {

// core's TagChoice with texts of its own.
struct Choice {
    Reason reason = Reason::up_to_date;
    std::string selected;  // with newer_tag; empty where everything was passed over
    std::string beyond;    // the highest that is higher and not taken
    std::string sentence;
};

class Choices {
  public:
    // `first_seen`: the number of the list that had the tag first. `passed_over`: names that are
    // not to be had. Valid until the next call.
    [[nodiscard]] const Choice& choose(
        const Listing& listing, const Tag& current, const WorkloadSettings& settings,
        const std::function<std::optional<std::uint64_t>(const Tag&)>& first_seen,
        const std::vector<std::string>& passed_over);

  private:
    struct Kept {
        std::uint64_t number = 0;  // of the list that it was computed from
        Choice choice;
    };
    std::unordered_map<std::string, Kept> kept_;
    Choice last_;  // with names that were passed over: not kept
};

}  // namespace keel
