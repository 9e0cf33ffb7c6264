#include "core/verdict.h"

namespace keel {

std::string_view to_string(Verdict verdict) noexcept {
    switch (verdict) {
        case Verdict::roll:
            return "roll";
        case Verdict::current:
            return "current";
        case Verdict::blocked:
            return "blocked";
        case Verdict::ignore:
            return "ignore";
    }
    return "";
}

std::string_view to_string(Reason reason) noexcept {
    switch (reason) {
        case Reason::newer_tag:
            return "newer-tag";
        case Reason::digest_moved:
            return "digest-moved";
        case Reason::goes_back:
            return "goes-back";
        case Reason::policy_invalid:
            return "policy-invalid";
        case Reason::reference_invalid:
            return "reference-invalid";
        case Reason::phase_conflict:
            return "phase-conflict";
        case Reason::second_owner:
            return "second-owner";
        case Reason::stateful:
            return "stateful";
        case Reason::operator_owned:
            return "operator-owned";
        case Reason::pinned:
            return "pinned";
        case Reason::target_rejected:
            return "target-rejected";
        case Reason::revert_unconfirmed:
            return "revert-unconfirmed";
        case Reason::revert_refused:
            return "revert-refused";
        case Reason::unknown_order:
            return "unknown-order";
        case Reason::stream_unknown:
            return "stream-unknown";
        case Reason::stream_jump:
            return "stream-jump";
        case Reason::older_build:
            return "older-build";
        case Reason::incomplete:
            return "incomplete";
        case Reason::rollout_stalled:
            return "rollout-stalled";
        case Reason::restart_cannot_pull:
            return "restart-cannot-pull";
        case Reason::target_not_pullable:
            return "target-not-pullable";
        case Reason::held_at_cache:
            return "held-at-cache";
        case Reason::too_young:
            return "too-young";
        case Reason::awaiting_webhook:
            return "awaiting-webhook";
        case Reason::on_delete:
            return "on-delete";
        case Reason::partitioned:
            return "partitioned";
        case Reason::deployment_paused:
            return "deployment-paused";
        case Reason::scaled_to_zero:
            return "scaled-to-zero";
        case Reason::sibling_blocked:
            return "sibling-blocked";
        case Reason::no_baseline:
            return "no-baseline";
        case Reason::no_answer:
            return "no-answer";
        case Reason::up_to_date:
            return "up-to-date";
        case Reason::beyond_policy:
            return "beyond-policy";
        case Reason::fixed_tag:
            return "fixed-tag";
        case Reason::same_content:
            return "same-content";
        case Reason::held:
            return "held";
        case Reason::at_next_run:
            return "at-next-run";
        case Reason::at_next_start:
            return "at-next-start";
        case Reason::not_enrolled:
            return "not-enrolled";
        case Reason::vetoed:
            return "vetoed";
        case Reason::no_policy:
            return "no-policy";
        case Reason::no_tag:
            return "no-tag";
        case Reason::excluded_namespace:
            return "excluded-namespace";
        case Reason::self:
            return "self";
        case Reason::not_monitored:
            return "not-monitored";
    }
    return "";
}

Verdict verdict_of(Reason reason) noexcept {
    if (reason <= Reason::goes_back) {
        return Verdict::roll;
    }
    if (reason <= Reason::no_answer) {
        return Verdict::blocked;
    }
    if (reason <= Reason::at_next_start) {
        return Verdict::current;
    }
    return Verdict::ignore;
}

std::string_view to_string(Gate gate) noexcept {
    switch (gate) {
        case Gate::awaiting_window:
            return "awaiting-window";
        case Gate::awaiting_approval:
            return "awaiting-approval";
        case Gate::approval_rejected:
            return "approval-rejected";
        case Gate::awaiting_phase:
            return "awaiting-phase";
        case Gate::awaiting_pacing:
            return "awaiting-pacing";
        case Gate::awaiting_group:
            return "awaiting-group";
        case Gate::group_exceeds_pacing:
            return "group-exceeds-pacing";
        case Gate::breaker_open:
            return "breaker-open";
        case Gate::paused:
            return "paused";
        case Gate::observe_only:
            return "observe-only";
        case Gate::not_leader:
            return "not-leader";
        case Gate::preflight:
            return "preflight";
    }
    return "";
}

}  // namespace keel
