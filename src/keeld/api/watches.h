// Every watch there is (a tag that a container of an enrolled workload refers to), and whether
// anything could ever come of it (D1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/reference.h"
#include "core/time.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/catalogue/listings.h"
#include "keeld/catalogue/tags.h"
#include "keeld/config.h"
#include "keeld/policy/phases.h"
#include "keeld/registry/registry.h"

namespace keel {

// So many intervals of its schedule a watch may be without a successful check.
inline constexpr int kMissedChecks = 3;

// D4: a tag that has stood still for so long is abandoned if others of its repository, as far as
// they are in use here, moved so often meanwhile.
inline constexpr Millis kStandsStill = std::chrono::hours(30 * 24);
inline constexpr std::size_t kSiblingMoves = 3;

// D1: a container that starts so long after the last kubelet asked any cache for its tag was pulled
// past them. Long enough for a slow pull, and for clocks that differ.
inline constexpr Millis kPullTakes = std::chrono::hours(1);

struct Watch {
    WorkloadKey workload;
    std::string container;
    bool init = false;
    std::string reference;
    std::optional<Tag> tag;  // absent where the reference cannot be read
    // "fine"; "waiting" (its first answer is under way); otherwise why it cannot fire:
    // "reference-invalid", "setting-invalid", "no-receiver", "no-path", "no-credential", "denied",
    // "not-found", "tag-gone", "never-answered", "stale", "list-unreadable", "held", "bypassed",
    // "abandoned".
    std::string state;
    std::string sentence;  // empty with "fine"
    std::string next;      // what mends it
    std::string schedule;
    Time confirmed;  // the last successful check; epoch: there was none

    [[nodiscard]] bool can_fire() const { return state == "fine" || state == "waiting"; }
};

struct WatchParts {
    const Config& config;
    const PhaseStates& phases;
    const Catalogue& catalogue;
    const Tags& tags;
    const Listings* listings;  // null: no lists are read
    const Registry& registry;
    const std::map<Tag, std::string>* gone = nullptr;  // Schedule's; null: nobody looks
};

// Calls `each` for every watch, in the order of the workloads' names.
void each_watch(const WatchParts& parts, Time now, const std::function<void(const Watch&)>& each);

// How many watches there are by state. All of them are gone through again when a workload or a
// namespace has changed, else once a minute: answers about tags come too often for that.
class WatchCounts {
  public:
    // With "fine" in any case.
    const std::map<std::string, std::size_t>& of(const WatchParts& parts, Time now);

  private:
    std::map<std::string, std::size_t> states_;  // empty: not counted yet
    std::uint64_t revision_ = 0;                 // of the catalogue, as counted
    Time counted_;
};

}  // namespace keel
