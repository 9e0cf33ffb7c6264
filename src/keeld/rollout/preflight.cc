#include "keeld/rollout/preflight.h"

#include <algorithm>
#include <iterator>

namespace keel {
namespace {

template <std::size_t N>
bool is_one_of(const std::string& code, const char* const (&codes)[N]) {
    return std::ranges::find(codes, code) != std::end(codes);
}

std::optional<Obstacle> judge_effect(const Workload& would_be, const RolloutRow& row,
                                     const std::vector<Target>& targets) {
    if (is_written(would_be, row, targets)) {
        return std::nullopt;
    }
    std::string what = "the restart marker";
    for (const Target& target : targets) {
        const Container* there = would_be.find_container(target.container);
        if (!target.image.empty() && there != nullptr && there->image != target.image) {
            what = "the image of " + target.container + " (" + target.image + " becomes " +
                   there->image.str() + ")";
        }
    }
    return Obstacle{"write-without-effect",
                    "admission in the cluster rewrites " + what +
                        ": a write would not last; exempt this workload from the webhook or "
                        "policy that does it, or veto it (keel.sh/policy: never)"};
}

}  // namespace

bool writes_images(const std::vector<Target>& targets) {
    return std::ranges::any_of(targets, [](const Target& one) { return !one.image.empty(); });
}

bool is_written(const Workload& workload, const RolloutRow& row,
                const std::vector<Target>& targets) {
    if (!writes_images(targets)) {
        return workload.uid == row.uid && workload.marker == row.marker;
    }
    return workload.uid == row.uid && std::ranges::all_of(targets, [&](const Target& target) {
               const Container* there = workload.find_container(target.container);
               return target.image.empty() || (there != nullptr && there->image == target.image);
           });
}

bool nothing_was_written(const Error& error) {
    static const char* const kCertain[] = {"invalid",
                                           "bad-request",
                                           "forbidden",
                                           "unauthorized",
                                           "credentials",
                                           "too-many-requests",
                                           "method-not-allowed",
                                           "unsupported-media-type",
                                           "request-entity-too-large"};
    return is_one_of(error.code, kCertain);
}

bool refuses_the_patch(const Error& error) {
    static const char* const kVerdicts[] = {"invalid",
                                            "bad-request",
                                            "forbidden",
                                            "method-not-allowed",
                                            "unsupported-media-type",
                                            "request-entity-too-large"};
    return is_one_of(error.code, kVerdicts);
}

std::optional<Obstacle> judge_dry_run(const Expected<Workload>& answer, const RolloutRow& row,
                                      const std::vector<Target>& targets) {
    if (answer) {
        return judge_effect(*answer, row, targets);
    }
    if (!refuses_the_patch(answer.error())) {
        return std::nullopt;
    }
    return Obstacle{"dry-run-refused",
                    "the API server refuses the patch, asked by a dry run: " + answer.error().text +
                        "; asked again when the workload changes, and later and "
                        "later by itself: nothing else is to be done once the "
                        "cause is mended"};
}

}  // namespace keel
