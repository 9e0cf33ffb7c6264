// Whether a rollout can work, before anything of it is written. Pure: no clock, no network; any
// thread may call it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/expected.h"
#include "keeld/cluster/objects.h"
#include "keeld/ledger/ledger.h"
#include "keeld/policy/judge.h"

namespace keel {

// Why a rollout may not start. The text is a sentence that says what releases it.
struct Obstacle {
    std::string code;
    std::string text;
    friend bool operator==(const Obstacle&, const Obstacle&) = default;
};

// Whether image fields are to be written; otherwise one template annotation restarts.
[[nodiscard]] bool writes_images(const std::vector<Target>& targets);

// The object has what is intended: this very marker, or every one of these images.
[[nodiscard]] bool is_written(const Workload& workload, const RolloutRow& row,
                              const std::vector<Target>& targets);

// Only these say for certain that nothing was applied; after any other error of a patch the object
// tells.
[[nodiscard]] bool nothing_was_written(const Error& error);

// What the API server's answer to a server-side dry run of the patch forbids: "dry-run-refused"
// with its message, or "write-without-effect" where admission puts something else into the fields.
// An error that says nothing about the patch ("unreachable", "conflict", "too-many-requests" …) is
// no obstacle (refuses_the_patch): ask again.
[[nodiscard]] std::optional<Obstacle> judge_dry_run(const Expected<Workload>& answer,
                                                    const RolloutRow& row,
                                                    const std::vector<Target>& targets);

// Whether the error is the API server's verdict on the patch, and not about the way there.
[[nodiscard]] bool refuses_the_patch(const Error& error);

}  // namespace keel
