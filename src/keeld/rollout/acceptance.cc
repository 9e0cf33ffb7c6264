#include "keeld/rollout/acceptance.h"

#include <algorithm>
#include <array>

namespace keel {
namespace {

constexpr std::array<std::string_view, 5> kStandpoints{"newest", "on-the-way", "pinned-out",
                                                       "apart", "unknown"};

bool is_passing(Reason reason) {
    return reason == Reason::no_baseline || reason == Reason::no_answer;
}

void earlier(Time& next, Time moment, Time now) {
    if (moment > now && (next == Time{} || moment < next)) {
        next = moment;
    }
}

}  // namespace

bool is_unproven(Reason reason) {
    switch (reason) {
        case Reason::rollout_stalled:
        case Reason::target_not_pullable:
        case Reason::held_at_cache:
        case Reason::no_baseline:
        case Reason::no_answer:
            return true;
        default:
            return false;
    }
}

std::string_view to_string(Standpoint standpoint) {
    return kStandpoints.at(static_cast<std::size_t>(standpoint));
}

Standpoint standpoint_of(const Member& member, const AcceptConfig& accept, Time begun, Time now) {
    if (!member.judged) {
        return Standpoint::unknown;
    }
    switch (member.verdict) {
        case Verdict::roll:
            return Standpoint::on_the_way;
        case Verdict::ignore:
            return Standpoint::apart;
        case Verdict::current:
            if (member.reason == Reason::at_next_run || member.reason == Reason::at_next_start) {
                return Standpoint::apart;
            }
            return member.reason == Reason::held && member.followed ? Standpoint::pinned_out
                                                                    : Standpoint::newest;
        case Verdict::blocked:
            break;
    }
    if (member.followed && is_unproven(member.reason)) {
        return Standpoint::on_the_way;
    }
    // A tag that nobody ever answers for is no reason to wait for ever.
    if (is_passing(member.reason) && now - begun < accept.newest_within) {
        return Standpoint::unknown;
    }
    const bool for_good =
        member.reason == Reason::target_rejected || member.reason == Reason::pinned;
    return member.followed && for_good ? Standpoint::pinned_out : Standpoint::apart;
}

Assessment assess(const std::vector<Member>& members, const AcceptConfig& accept, Time begun,
                  bool paused, Time now) {
    Assessment result;
    std::string pinned;
    for (const Member& member : members) {
        ++result.workloads;
        result.followed += member.followed ? 1 : 0;
        const std::string reason(to_string(member.reason));
        switch (standpoint_of(member, accept, begun, now)) {
            case Standpoint::newest:
                ++result.newest;
                break;
            case Standpoint::on_the_way:
                ++result.on_the_way;
                if (!paused && now - member.due >= accept.newest_within && member.followed) {
                    result.violations.push_back(member.workload + " is not proven on its target " +
                                                format_duration(accept.newest_within) +
                                                " after that became due (" + reason + ")");
                }
                earlier(result.next, member.due + accept.newest_within, now);
                break;
            case Standpoint::pinned_out:
                ++result.pinned_out;
                ++result.reasons[reason];
                pinned += (pinned.empty() ? "" : ", ") + member.workload + " (" + reason + ")";
                break;
            case Standpoint::apart:
                ++result.apart;
                ++result.reasons[reason];
                break;
            case Standpoint::unknown:
                ++result.unknown;
                earlier(result.next, begun + accept.newest_within, now);
                break;
        }
        if (member.followed && member.crashing != Time{}) {
            if (now - member.crashing >= accept.crash_loop) {
                result.violations.push_back(member.workload + " is in a crash loop since " +
                                            format_time(member.crashing));
            }
            earlier(result.next, member.crashing + accept.crash_loop, now);
        }
    }
    if (result.pinned_out > accept.pinned_out) {
        result.violations.push_back(std::to_string(result.pinned_out) +
                                    " are held back for good, and accept.pinnedOut is " +
                                    std::to_string(accept.pinned_out) + ": " + pinned);
    }
    result.settled = result.on_the_way == 0 && result.unknown == 0;
    return result;
}

}  // namespace keel
