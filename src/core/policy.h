// May the tag change, and to which? Pure: the names that a registry lists go in, one of them or a
// reason comes out. Whether a digest moved is another question, asked elsewhere.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/expected.h"
#include "core/pattern.h"
#include "core/tag_shape.h"
#include "core/verdict.h"

namespace keel {

// What `keel.sh/policy` says. Immutable; cheap to copy.
class Policy {
  public:
    enum class Kind : std::uint8_t { none, never, force, patch, minor, major, all, glob, regexp };

    // Errors: "policy-invalid" for what is none of the policies, for an empty pattern and for one
    // that does not compile or is longer than 1,000 bytes. Empty text is Kind::none.
    [[nodiscard]] static Expected<Policy> parse(std::string_view text);

    [[nodiscard]] Kind kind() const noexcept { return kind_; }
    [[nodiscard]] const std::string& text() const noexcept { return text_; }
    // Null unless glob or regexp.
    [[nodiscard]] const Pattern* pattern() const noexcept { return pattern_.get(); }

  private:
    Kind kind_ = Kind::none;
    std::string text_;
    Pattern::Pointer pattern_;
};

// highest: the newest that is allowed. next: within the lowest first number that has something
// newer, for products that must not skip a major.
enum class Step : std::uint8_t { highest, next };

// The number of the listing in which our own ledger first saw a name; nothing when it never did.
using FirstSeen = std::function<std::optional<std::uint64_t>(std::string_view name)>;

struct TagQuestion {
    std::string_view current;
    std::span<const std::string_view> listed;
    bool match_pre_release = true;
    Step step = Step::highest;
    const FirstSeen* first_seen = nullptr;  // null: no ledger
    // Names that the policy would allow, and that are not to be had: the next lower one is.
    std::span<const std::string_view> passed_over{};
};

// Views into the question.
struct TagChoice {
    Reason reason = Reason::up_to_date;
    std::string_view selected;  // with newer_tag; empty where every candidate was passed over
    std::string_view beyond;    // the highest that is higher and not taken, or empty
    const char* detail = "";    // what the reason's sentence adds, or ""
};

// Reasons: newer_tag; policy_invalid, unknown_order, stream_unknown, stream_jump; up_to_date,
// beyond_policy, fixed_tag; vetoed, no_policy. Time is linear in what is listed, and bounded for
// each name whatever the pattern.
[[nodiscard]] TagChoice choose_tag(const Policy& policy, const TagQuestion& question);

// What the choice means, in one sentence.
[[nodiscard]] std::string sentence(const Policy& policy, std::string_view current,
                                   const TagChoice& choice);

}  // namespace keel
