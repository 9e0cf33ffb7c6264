#include "core/policy.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "core/pattern.h"
#include "core/reference.h"

namespace keel {
namespace {

constexpr std::uint32_t kWidestStep = 2;    // in the first field, on the way up
constexpr std::uint32_t kCountsUpTo = 100;  // a single field from here on counts builds

}  // namespace

Expected<Policy> Policy::parse(std::string_view text) {
    struct Word {
        std::string_view text;
        Policy::Kind kind;
    };
    static constexpr std::array<Word, 7> kWords{{{"", Policy::Kind::none},
                                                 {"never", Policy::Kind::never},
                                                 {"force", Policy::Kind::force},
                                                 {"patch", Policy::Kind::patch},
                                                 {"minor", Policy::Kind::minor},
                                                 {"major", Policy::Kind::major},
                                                 {"all", Policy::Kind::all}}};
    Policy policy;
    policy.text_ = text;
    for (const Word& word : kWords) {
        if (text != word.text) continue;
        policy.kind_ = word.kind;
        return policy;
    }
    const bool glob = text.starts_with("glob:");
    if (!glob && !text.starts_with("regexp:")) {
        return fail("policy-invalid",
                    "there are force, patch, minor, major, all, never, glob:PATTERN and "
                    "regexp:PATTERN");
    }
    policy.kind_ = glob ? Policy::Kind::glob : Policy::Kind::regexp;
    const std::string_view pattern = text.substr(text.find(':') + 1);
    auto compiled = glob ? Pattern::glob(pattern) : Pattern::regexp(pattern);
    if (!compiled) return fail("policy-invalid", compiled.error().text);
    policy.pattern_ = std::move(*compiled);
    return policy;
}

namespace {

// --- version policies ---

struct Candidate {
    std::string_view name;
    TagShape shape;
};

bool is_higher(const TagShape& a, const TagShape& b, Suffixes suffixes) noexcept {
    const auto order = compare(a, b, suffixes);
    return order && *order > 0;
}

// Among equals the one without leading zeros, then the lowest in bytes.
bool is_better(const Candidate& a, const Candidate& b, Suffixes suffixes) noexcept {
    const auto order = compare(a.shape, b.shape, suffixes);
    if (order && *order != 0) return *order > 0;
    if (a.shape.zeros != b.shape.zeros) return b.shape.zeros;
    return a.name < b.name;
}

// The highest name that is higher than the current one in its own stream, whatever the policy.
std::string_view highest_beyond(const TagShape& current, const TagQuestion& question) {
    Candidate best{{}, current};
    for (const std::string_view name : question.listed) {
        const Candidate candidate{name, read_shape(name)};
        if (!is_higher(candidate.shape, current, Suffixes::ordered)) continue;
        if (best.name.empty() || is_better(candidate, best, Suffixes::ordered)) best = candidate;
    }
    return best.name;
}

// Fields from the left that the policy keeps as they are; nothing where it allows no other name.
std::optional<std::size_t> kept_fields(Policy::Kind kind, const TagShape& current) noexcept {
    switch (kind) {
        case Policy::Kind::patch:
            return current.count >= 3 ? std::optional<std::size_t>{2} : std::nullopt;
        case Policy::Kind::minor:
            return current.count >= 2 ? std::optional<std::size_t>{1} : std::nullopt;
        case Policy::Kind::major:
        case Policy::Kind::all:
            return 0;
        default:
            return std::nullopt;
    }
}

// What lies behind a step of more than two in the first field is another product or another
// numbering. Returns whether anything was left out.
bool leave_out_jumps(const TagShape& current, std::vector<Candidate>& candidates) {
    if (current.count == 1 && current.fields[0] >= kCountsUpTo) return false;
    std::ranges::sort(candidates, {}, [](const Candidate& one) { return one.shape.fields[0]; });
    std::uint32_t reached = current.fields[0];
    const auto jump = std::ranges::find_if(candidates, [&](const Candidate& one) {
        const bool too_far = one.shape.fields[0] > reached + kWidestStep;
        reached = one.shape.fields[0];
        return too_far;
    });
    const bool any = jump != candidates.end();
    candidates.erase(jump, candidates.end());
    return any;
}

bool is_passed_over(const TagQuestion& question, std::string_view name) noexcept {
    return std::ranges::find(question.passed_over, name) != question.passed_over.end();
}

TagChoice newer(std::string_view selected, std::string_view beyond) noexcept {
    return {Reason::newer_tag, selected, beyond == selected ? std::string_view{} : beyond, ""};
}

TagChoice none_newer(std::string_view beyond) noexcept {
    TagChoice choice;
    choice.reason = beyond.empty() ? Reason::up_to_date : Reason::beyond_policy;
    choice.beyond = beyond;
    return choice;
}

TagChoice choose_version(Policy::Kind kind, const TagQuestion& question) {
    const TagShape current = read_shape(question.current);
    if (!current.ordered()) return {Reason::fixed_tag, {}, {}, ""};
    const std::string_view beyond = highest_beyond(current, question);
    const auto kept = kept_fields(kind, current);
    if (!kept) return none_newer(beyond);
    const bool ordered = kind == Policy::Kind::all || !question.match_pre_release;
    const Suffixes suffixes = ordered ? Suffixes::ordered : Suffixes::identical;
    std::vector<Candidate> candidates;
    for (const std::string_view name : question.listed) {
        const TagShape shape = read_shape(name);
        if (!is_higher(shape, current, suffixes)) continue;
        if (!std::equal(current.fields.begin(), current.fields.begin() + *kept,
                        shape.fields.begin())) {
            continue;
        }
        candidates.push_back({name, shape});
    }
    const bool jumped = leave_out_jumps(current, candidates);
    if (candidates.empty()) {
        if (jumped) return {Reason::stream_jump, {}, beyond, ""};
        return none_newer(beyond);
    }
    if (question.step == Step::next) {
        const std::uint32_t lowest = std::ranges::min(candidates, {}, [](const Candidate& one) {
                                         return one.shape.fields[0];
                                     }).shape.fields[0];
        std::erase_if(candidates,
                      [&](const Candidate& one) { return one.shape.fields[0] != lowest; });
    }
    std::erase_if(candidates,
                  [&](const Candidate& one) { return is_passed_over(question, one.name); });
    const auto best = std::ranges::min_element(
        candidates,
        [&](const Candidate& a, const Candidate& b) { return is_better(a, b, suffixes); });
    return newer(best != candidates.end() ? best->name : std::string_view{}, beyond);
}

// --- pattern policies ---

struct Keyed {
    std::string_view name;
    std::string_view key;
};

bool is_hex_word(std::string_view text) noexcept {
    return !text.empty() && text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
}

// Whether natural order says nothing about these keys: hashes among them, or what can only be
// hashes of one length.
bool are_hashes(std::span<const Keyed> matching) noexcept {
    constexpr std::size_t kShortestHash = 7;
    if (std::ranges::any_of(matching, is_hash, &Keyed::key)) return true;
    const std::size_t size = matching.front().key.size();
    const bool words = std::ranges::all_of(
        matching, [&](const Keyed& one) { return one.key.size() == size && is_hex_word(one.key); });
    const bool letters = std::ranges::any_of(matching, [](const Keyed& one) {
        return one.key.find_first_not_of("0123456789") != one.key.npos;
    });
    return size >= kShortestHash && words && letters;
}

// By the order in which our own ledger first saw them. The current one stands first.
TagChoice choose_by_first_sight(std::span<const Keyed> matching, const TagQuestion& question,
                                std::string_view beyond) {
    if (matching.size() == 1) return none_newer(beyond);
    const char* kUnseen = "they look like hashes, and the order of first sight is not known";
    const auto seen = [&](std::string_view name) {
        return question.first_seen == nullptr ? std::nullopt : (*question.first_seen)(name);
    };
    const std::optional<std::uint64_t> current = seen(matching.front().name);
    if (!current) return {Reason::unknown_order, {}, beyond, kUnseen};
    std::uint64_t newest = *current;
    std::string_view selected = matching.front().name;
    bool alone = true;
    for (const Keyed& one : matching.subspan(1)) {
        const std::optional<std::uint64_t> at = seen(one.name);
        if (!at) return {Reason::unknown_order, {}, beyond, kUnseen};
        if (is_passed_over(question, one.name) || one.name == selected) continue;
        if (*at > newest) selected = one.name;
        alone = *at > newest || (alone && *at != newest);
        newest = std::max(newest, *at);
    }
    if (!alone) return {Reason::unknown_order, {}, beyond, "they were first seen in one listing"};
    if (selected != matching.front().name) return newer(selected, beyond);
    return question.passed_over.empty() ? none_newer(beyond) : newer({}, beyond);
}

TagChoice choose_by_natural_order(const Pattern& pattern, std::span<const Keyed> matching,
                                  const TagQuestion& question, std::string_view beyond) {
    const Keyed current = matching.front();
    Keyed best = current;
    bool alone = true;
    for (const Keyed& one : matching.subspan(1)) {
        if (!pattern.names_key() && !same_skeleton(one.key, current.key)) continue;
        if (is_passed_over(question, one.name) || one.name == best.name) continue;
        const auto order = natural_order(one.key, best.key);
        if (order > 0) {
            best = one;
            alone = true;
        } else if (order == 0) {
            alone = false;
        }
    }
    if (!alone) return {Reason::unknown_order, {}, beyond, "several have the same highest key"};
    if (best.name != current.name) return newer(best.name, beyond);
    return question.passed_over.empty() ? none_newer(beyond) : newer({}, beyond);
}

TagChoice choose_by_pattern(const Pattern& pattern, const TagQuestion& question) {
    constexpr const char* kExpensive = "the pattern takes too many steps";
    std::vector<Keyed> matching(1);
    matching[0].name = question.current;
    switch (pattern.match(question.current, matching[0].key)) {
        case Pattern::Match::too_expensive:
            return {Reason::policy_invalid, {}, {}, kExpensive};
        case Pattern::Match::no:
            return {Reason::stream_unknown, {}, {}, ""};
        case Pattern::Match::yes:
            break;
    }
    for (const std::string_view name : question.listed) {
        Keyed one{name, {}};
        if (name == question.current || is_signature_tag(name)) continue;
        const Pattern::Match match = pattern.match(name, one.key);
        if (match == Pattern::Match::too_expensive)
            return {Reason::policy_invalid, {}, {}, kExpensive};
        if (match == Pattern::Match::yes) matching.push_back(one);
    }
    const TagShape shape = read_shape(question.current);
    const std::string_view beyond =
        shape.ordered() ? highest_beyond(shape, question) : std::string_view{};
    if (are_hashes(matching)) return choose_by_first_sight(matching, question, beyond);
    return choose_by_natural_order(pattern, matching, question, beyond);
}

}  // namespace

TagChoice choose_tag(const Policy& policy, const TagQuestion& question) {
    switch (policy.kind()) {
        case Policy::Kind::none:
            return {Reason::no_policy, {}, {}, ""};
        case Policy::Kind::never:
            return {Reason::vetoed, {}, {}, ""};
        case Policy::Kind::force: {
            const TagShape current = read_shape(question.current);
            return none_newer(current.ordered() ? highest_beyond(current, question)
                                                : std::string_view{});
        }
        case Policy::Kind::glob:
        case Policy::Kind::regexp:
            return choose_by_pattern(*policy.pattern(), question);
        default:
            return choose_version(policy.kind(), question);
    }
}

std::string sentence(const Policy& policy, std::string_view current, const TagChoice& choice) {
    const std::string tag{current};
    const std::string beyond{choice.beyond};
    const std::string& rule = policy.text();
    std::string text;
    switch (choice.reason) {
        case Reason::newer_tag:
            if (choice.selected.empty()) {
                text = "what " + rule + " allows is newer than " + tag + " and not to be had";
                if (!beyond.empty()) text += "; the newest there is: " + beyond;
                return text;
            }
            text =
                rule + " allows " + std::string{choice.selected} + ", which is newer than " + tag;
            if (!beyond.empty()) text += "; the newest there is, " + beyond + ", it does not";
            return text;
        case Reason::up_to_date:
            return "nothing listed is newer than " + tag;
        case Reason::beyond_policy:
            return beyond + " is newer than " + tag + ", and " + rule + " does not allow it";
        case Reason::fixed_tag:
            return tag + " has no order; its digest is followed and the tag never changes";
        case Reason::stream_jump:
            return "between " + tag + " and " + beyond +
                   " lies a step of more than two in the first number: another product or another "
                   "numbering; a pattern or a vote releases it";
        case Reason::stream_unknown:
            return tag + " itself does not match " + rule + ", so what matches is another stream";
        case Reason::unknown_order:
            return "what matches " + rule + " cannot be ordered: " + choice.detail;
        case Reason::policy_invalid:
            return rule + ": " + choice.detail;
        case Reason::vetoed:
            return "somebody said never";
        case Reason::no_policy:
            return "no policy is set";
        default:
            return std::string{to_string(choice.reason)};
    }
}

}  // namespace keel
