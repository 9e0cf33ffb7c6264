// Whether a phase of the plan may be over: what became of the workloads that were due for a rollout
// since it began. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/time.h"
#include "core/verdict.h"
#include "keeld/config.h"

namespace keel {

// Where a workload stands in its phase.
enum class Standpoint : std::uint8_t {
    newest,      // what its pods run is the newest that it may run
    on_the_way,  // due for a rollout, or rolled out and not proven
    pinned_out,  // was due, and is held back for good: by a person's hold or pin, or a rejected
                 // target
    apart,       // nothing to wait for: CronJobs not due, suspended, vetoed, blocked otherwise …
    unknown,     // not judged, or not known yet what it runs or what its tags are at
};
[[nodiscard]] std::string_view to_string(Standpoint standpoint);

// One workload of a phase.
struct Member {
    std::string workload;  // "Deployment/ns/name"
    bool judged = false;
    Verdict verdict = Verdict::ignore;
    Reason reason = Reason::not_enrolled;
    bool followed = false;  // its verdict was `roll` since the phase began
    Time due;               // of a followed one: when its target became due
    Time crashing;          // of a followed one: in a crash loop since; epoch: it is in none
};

struct Assessment {
    int workloads = 0;
    int followed = 0;
    int newest = 0;
    int on_the_way = 0;
    int pinned_out = 0;
    int apart = 0;
    int unknown = 0;
    std::map<std::string, int> reasons;   // of those apart and pinned out, by reason code
    bool settled = false;                 // none is on the way, or unknown
    std::vector<std::string> violations;  // one sentence each, naming a workload
    Time next;                            // when time alone may change this; epoch: never
};

[[nodiscard]] Standpoint standpoint_of(const Member& member, const AcceptConfig& accept, Time begun,
                                       Time now);

// Of a followed one: it was to run something newer, and what it does run is not proven to be that.
[[nodiscard]] bool is_unproven(Reason reason);

// `paused`: nothing may start, so nothing is late.
[[nodiscard]] Assessment assess(const std::vector<Member>& members, const AcceptConfig& accept,
                                Time begun, bool paused, Time now);

}  // namespace keel
