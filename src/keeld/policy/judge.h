// The verdict on a workload: one per container, computed from what is known now, never stored on
// the object. Pure: it asks nobody; what it would need to know more is in `wants`.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/verdict.h"
#include "keeld/catalogue/catalogue.h"
#include "keeld/catalogue/listings.h"
#include "keeld/catalogue/tags.h"
#include "keeld/config.h"
#include "keeld/policy/choices.h"
#include "keeld/policy/settings.h"
#include "keeld/registry/content.h"

namespace keel {

// Where one container goes.
struct Target {
    std::string container;
    Tag tag;           // what a pull asks for after the rollout
    std::string from;  // the digest that most of its pods run
    Digest to;
    std::string image{};       // the exact text for the container's image field; empty: it stays
    std::string from_image{};  // what that field was; set where `image` is

    friend bool operator==(const Target& one, const Target& other) {
        return one.container == other.container && one.tag == other.tag && one.to == other.to;
    }
};

// Which content goes where: "CONTAINER TAG DIGEST, …". Equal for equal targets.
[[nodiscard]] std::string targets_text(const std::vector<Target>& targets);

struct ContainerVerdict {
    Verdict verdict = Verdict::ignore;
    Reason reason = Reason::not_enrolled;
    std::string sentence;
    std::optional<Tag> tag;
    std::optional<Target> target;  // with `roll`
    std::optional<Target> jump;    // with `stream_jump`: where a vote would let it go
    bool would_change = false;     // a restart would give it other content than it runs, or might
    bool revert = false;           // the target is older than what runs, by our own ledger
    std::string allowed;           // the newer name that the policy allows, taken or not; or empty
    std::string newest;            // the newest name that is known in the tag's stream
};

struct WorkloadVerdict {
    Verdict verdict = Verdict::ignore;
    Reason reason = Reason::not_enrolled;
    std::string sentence;
    Standing standing;
    std::shared_ptr<const WorkloadSettings> settings;  // null: not judged
    std::vector<ContainerVerdict> containers;          // beside the workload's containers
    std::vector<Target> targets;  // of a restart, if one is due; empty otherwise
    std::vector<Target> asks;     // nothing is due, and a vote for just this would let it go
    std::string vote_because;  // why targets, or asks, need a vote whatever settings say; or empty
    std::optional<Time> recheck;  // when a digest is old enough: the verdict may be another then

    // What must be known before more can be said, or must stay known while it bears on this.
    struct Want {
        enum class What : std::uint8_t {
            answer,   // the digest of a tag that no container refers to: looked at on the schedule
            content,  // what the digest holds
            created,  // and when that was made
        };
        What what = What::content;
        Tag tag;
        Digest digest{};  // but of an answer

        friend bool operator==(const Want&, const Want&) = default;
    };
    std::vector<Want> wants;
};

// What the judge may look at. Functions are called while judging only.
struct Knowledge {
    const Config& config;
    const PhaseStates& phases;
    const Catalogue& catalogue;
    const Tags& tags;
    Choices& choices;
    std::function<const Content*(const Digest&)> content;  // null: not known
    std::function<const Error*(const Digest&)>
        fetch_failure;  // asked for and not to be had: why; null: it is not
    // Why this target of the workload with this UID is not tried (again); null: it may be.
    std::function<const std::string*(const std::string&, const Target&)> rejected;
    std::function<const std::string*(const std::string&, const Target&)> stalled;
    // Of the tag's repository; null: its list was never asked for.
    std::function<const Listing*(const Tag&)> listing;
    // The number of the list that had the tag first; nullopt: none had it.
    std::function<std::optional<std::uint64_t>(const Tag&)> first_seen;
    // Whether our own ledger shows that keeld wrote this text into the image field of the container
    // of the workload with this UID.
    std::function<bool(const std::string&, const std::string&, const std::string&)> wrote;
    // Whether enough people voted for just these targets of the workload with this UID.
    std::function<bool(const std::string&, const std::vector<Target>&)> approved;
    std::function<std::vector<std::string>()> platforms;  // of the cluster's nodes
    Time now;
    // What webhooks released of the tag (Pushes); null: nothing.
    std::function<const Digest*(const Tag&)> released = [](const Tag&) -> const Digest* {
        return nullptr;
    };
    // Where the container of the workload with this UID goes back to, after what it went to failed
    // (S1); null: it does not.
    std::function<const Target*(const std::string&, const std::string&)> way_back =
        [](const std::string&, const std::string&) -> const Target* { return nullptr; };
};

[[nodiscard]] WorkloadVerdict judge(const CatalogueEntry& entry, const Knowledge& knowledge);

}  // namespace keel
