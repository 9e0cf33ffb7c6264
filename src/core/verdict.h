// Verdicts and the reasons for them: one of each for every container of every workload, always.
#pragma once

#include <cstdint>
#include <string_view>

namespace keel {

// roll: go to this target. current: nothing that the policy allows is newer. blocked: something
// newer exists or may exist, and is not taken. ignore: not ours.
enum class Verdict : std::uint8_t { roll, current, blocked, ignore };
[[nodiscard]] std::string_view to_string(Verdict verdict) noexcept;

// Reason codes. The blocked ones stand in their order of precedence; codes are added, never
// re-used.
enum class Reason : std::uint8_t {
    // roll
    newer_tag,
    digest_moved,
    goes_back,  // what failed here goes back to what ran before
    // blocked
    policy_invalid,
    reference_invalid,  // the image field is not a reference: D3, listed and not skipped
    phase_conflict,     // two phases claim the namespace
    second_owner,       // somebody else writes the image field, too
    stateful,
    operator_owned,
    pinned,
    target_rejected,
    revert_unconfirmed,
    revert_refused,
    unknown_order,    // the order of what matches is not known
    stream_unknown,   // the running tag is not of the stream that the pattern names
    stream_jump,      // only another product or another numbering is newer
    older_build,      // what is newer by its name was built before what runs
    incomplete,       // what is newer is not there for every platform that it may run on
    rollout_stalled,  // this very target was rolled out before and did not arrive; it is not
                      // written twice
    restart_cannot_pull,
    target_not_pullable,
    held_at_cache,  // some caches hold the tag and others do not: what a pull gets depends on its
                    // way
    too_young,      // the digest was first seen less than the minimum age ago
    awaiting_webhook,  // its trigger is push, and no webhook named the tag
    on_delete,
    partitioned,
    deployment_paused,
    scaled_to_zero,
    sibling_blocked,
    no_baseline,
    no_answer,
    // current
    up_to_date,
    beyond_policy,
    fixed_tag,
    same_content,   // the digest moved, and what a node would run is the same
    held,           // the tag is held at what runs, whatever is newer
    at_next_run,    // a CronJob whose pods always pull: nothing to restart
    at_next_start,  // an image volume: what pods have of it now is not in their status
    // ignore
    not_enrolled,
    vetoed,
    no_policy,
    no_tag,
    excluded_namespace,
    self,
    not_monitored,  // keel.sh/monitorContainers leaves it out, or it is an image volume
};
[[nodiscard]] std::string_view to_string(Reason reason) noexcept;  // "digest-moved"
[[nodiscard]] Verdict verdict_of(Reason reason) noexcept;

// Where a `roll` still waits.
enum class Gate : std::uint8_t {
    awaiting_window,
    awaiting_approval,
    approval_rejected,
    awaiting_phase,
    awaiting_pacing,
    awaiting_group,
    group_exceeds_pacing,
    breaker_open,
    paused,
    observe_only,
    not_leader,
    preflight  // the API server's dry run, or what was read, says that it cannot work
};
[[nodiscard]] std::string_view to_string(Gate gate) noexcept;

}  // namespace keel
