#include "core/tag_shape.h"

#include <algorithm>

namespace keel {
namespace {

constexpr std::size_t kMaxParts = 64;     // of a suffix: a tag has 128 characters
constexpr std::size_t kShortField = 4;    // digits of the first two fields
constexpr std::size_t kLongField = 9;     // of later ones
constexpr std::size_t kWordField = 6;     // of a single one after a word
constexpr std::size_t kBuildNumber = 5;   // nothing but so many digits is no version
constexpr std::uint8_t kEquallyLong = 6;  // from so many digits on
constexpr std::size_t kShortestHash = 7;
constexpr std::size_t kLongestHash = 64;

constexpr bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

constexpr char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

constexpr bool is_letter(char c) noexcept {
    return lower(c) >= 'a' && lower(c) <= 'z';
}

constexpr bool is_hex(char c) noexcept {
    return is_digit(c) || (lower(c) >= 'a' && lower(c) <= 'f');
}

bool equal_in_any_case(std::string_view a, std::string_view lower_case) noexcept {
    return std::ranges::equal(a, lower_case, {}, lower);
}

template <class Is>
std::size_t run(std::string_view text, Is is) noexcept {
    return static_cast<std::size_t>(std::ranges::find_if_not(text, is) - text.begin());
}

std::string_view without_zeros(std::string_view digits) noexcept {
    const std::size_t zeros = std::min(digits.find_first_not_of('0'), digits.size());
    return digits.substr(zeros);
}

// Both are nothing but digits, of any length.
std::strong_ordering compare_numbers(std::string_view a, std::string_view b) noexcept {
    a = without_zeros(a);
    b = without_zeros(b);
    if (a.size() != b.size()) return a.size() <=> b.size();
    return a.compare(b) <=> 0;
}

bool is_hex_of_hash_length(std::string_view text) noexcept {
    return text.size() >= kShortestHash && text.size() <= kLongestHash &&
           std::ranges::all_of(text, is_hex);
}

bool is_channel(std::string_view name) noexcept {
    bool after_letter = false;
    for (const char c : name) {
        if (is_letter(c)) {
            after_letter = true;
        } else if (after_letter && (c == '-' || c == '_' || c == '.')) {
            after_letter = false;
        } else {
            return false;
        }
    }
    return after_letter;
}

bool is_number(std::string_view name) noexcept {
    if (name.starts_with('v')) name.remove_prefix(1);
    return name.size() >= kBuildNumber && std::ranges::all_of(name, is_digit);
}

// --- prefix, fields, suffix ---

// Its length; the prefix ends where the first digit stands. Nothing where no prefix ends there.
std::optional<std::size_t> prefix_of(std::string_view name) noexcept {
    const std::size_t size = run(name, [](char c) { return !is_digit(c); });
    std::string_view prefix = name.substr(0, size);
    if (prefix.empty() || prefix == "v" || prefix == "V") return size;
    const std::size_t word = run(prefix, is_letter);
    prefix.remove_prefix(word);
    const bool joined =
        !prefix.empty() && (prefix[0] == '-' || prefix[0] == '_' || prefix[0] == '.');
    if (word == 0 || !joined) return std::nullopt;
    prefix.remove_prefix(1);
    if (!prefix.empty() && prefix != "v") return std::nullopt;
    return size;
}

// Numbers of what is asked for review, never of a release.
bool counts_reviews(std::string_view prefix) noexcept {
    const std::string_view word = prefix.substr(0, run(prefix, is_letter));
    return equal_in_any_case(word, "pr") || equal_in_any_case(word, "mr") ||
           equal_in_any_case(word, "commit");
}

// Takes the fields from the front of `rest`. False when there are too many or too long ones.
bool take_fields(std::string_view& rest, TagShape& shape) noexcept {
    for (;;) {
        const std::string_view digits = rest.substr(0, run(rest, is_digit));
        if (digits.empty() || shape.count == kMaxFields) return false;
        const std::string_view significant = without_zeros(digits);
        if (significant.size() > kLongField) return false;
        std::uint32_t value = 0;
        for (const char c : significant)
            value = value * 10 + static_cast<std::uint32_t>(c - '0');
        shape.zeros = shape.zeros || (digits.size() > 1 && digits[0] == '0');
        shape.digits[shape.count] = static_cast<std::uint8_t>(significant.size());
        shape.fields[shape.count] = value;
        ++shape.count;
        rest.remove_prefix(digits.size());
        if (!rest.starts_with('.')) return true;
        rest.remove_prefix(1);
    }
}

bool fields_are_short_enough(const TagShape& shape) noexcept {
    const bool word = shape.prefix.size() > 1;
    const std::size_t first = shape.count == 1 && word ? kWordField : kShortField;
    return shape.digits[0] <= first && (shape.count == 1 || shape.digits[1] <= kShortField);
}

// --- suffix ---

struct PreRelease {
    int rank;                  // alpha, beta, others, rc
    std::string_view word;     // of others
    std::string_view counter;  // digits, may be empty
};

constexpr int kOthers = 2;

struct PreReleaseWord {
    std::string_view word;
    int rank;
    bool bare;   // may stand in a part without a counter
    bool glued;  // may stand right behind the last field
};

constexpr std::array<PreReleaseWord, 9> kPreReleases{{{"alpha", 0, true, true},
                                                      {"beta", 1, true, true},
                                                      {"rc", 3, true, true},
                                                      {"dev", kOthers, false, true},
                                                      {"pre", kOthers, false, true},
                                                      {"preview", kOthers, false, false},
                                                      {"snapshot", kOthers, false, false},
                                                      {"m", kOthers, false, false},
                                                      {"ea", kOthers, false, false}}};

// `rc1`, `rc.1`, `rc`; nothing for a part of the variant.
std::optional<PreRelease> pre_release(std::string_view part) noexcept {
    const std::string_view word = part.substr(0, run(part, is_letter));
    std::string_view counter = part.substr(word.size());
    const bool counted = !counter.empty();
    if (counter.starts_with('.')) counter.remove_prefix(1);
    if (!std::ranges::all_of(counter, is_digit) || (counted && counter.empty()))
        return std::nullopt;
    for (const PreReleaseWord& known : kPreReleases) {
        if (!equal_in_any_case(word, known.word)) continue;
        if (!counted && !known.bare) return std::nullopt;
        return PreRelease{known.rank, known.rank == kOthers ? known.word : std::string_view{},
                          counter};
    }
    return std::nullopt;
}

// `rc1`, `a2`: always with a counter, never with a dot.
std::optional<PreRelease> glued_pre_release(std::string_view text) noexcept {
    const std::string_view word = text.substr(0, run(text, is_letter));
    const std::string_view counter = text.substr(word.size());
    if (counter.empty() || !std::ranges::all_of(counter, is_digit)) return std::nullopt;
    if (equal_in_any_case(word, "a")) return PreRelease{0, {}, counter};
    if (equal_in_any_case(word, "b")) return PreRelease{1, {}, counter};
    for (const PreReleaseWord& known : kPreReleases) {
        if (known.glued && equal_in_any_case(word, known.word)) return pre_release(text);
    }
    return std::nullopt;
}

std::strong_ordering compare_pre_releases(const PreRelease& a, const PreRelease& b) noexcept {
    if (a.rank != b.rank) return a.rank <=> b.rank;
    if (const int order = a.word.compare(b.word); order != 0) return order <=> 0;
    if (a.counter.empty() != b.counter.empty()) return a.counter.size() <=> b.counter.size();
    return compare_numbers(a.counter, b.counter);
}

// Where a counter's numbers begin in a part: `9` of `ls9`, `3.19` of `alpine3.19`; nothing where
// the part is none.
std::optional<std::size_t> counter_at(std::string_view part) noexcept {
    constexpr std::array<std::string_view, 7> kWords{"", "ls", "r", "p", "build", "rev", "alpine"};
    const std::size_t word = run(part, is_letter);
    if (std::ranges::find(kWords, part.substr(0, word)) == kWords.end()) return std::nullopt;
    bool digit = false;
    for (const char c : part.substr(word)) {
        if (!is_digit(c) && !(c == '.' && digit)) return std::nullopt;
        digit = is_digit(c);
    }
    return digit ? std::optional{word} : std::nullopt;
}

struct Suffix {
    std::array<PreRelease, kMaxParts> pre;
    std::array<std::string_view, kMaxParts> variant;
    std::size_t pre_count = 0;
    std::size_t variant_count = 0;
};

// Calls visit(part) for each part behind a '-'; `suffix` is empty or begins with one.
template <class Visit>
void for_each_part(std::string_view suffix, Visit visit) noexcept {
    while (!suffix.empty()) {
        suffix.remove_prefix(1);
        const std::size_t end = std::min(suffix.find('-'), suffix.size());
        visit(suffix.substr(0, end));
        suffix.remove_prefix(end);
    }
}

void read_suffix(std::string_view text, Suffix& suffix) noexcept {
    const std::size_t glued = std::min(text.find('-'), text.size());
    if (const auto pre = glued_pre_release(text.substr(0, glued))) {
        suffix.pre[suffix.pre_count++] = *pre;
    }
    for_each_part(text.substr(glued), [&](std::string_view part) {
        if (suffix.pre_count + suffix.variant_count == kMaxParts) return;
        if (const auto pre = pre_release(part)) {
            suffix.pre[suffix.pre_count++] = *pre;
        } else {
            suffix.variant[suffix.variant_count++] = part;
        }
    });
}

// None is higher than any.
std::strong_ordering compare_pre_releases(const Suffix& a, const Suffix& b) noexcept {
    if ((a.pre_count == 0) != (b.pre_count == 0)) return b.pre_count <=> a.pre_count;
    for (std::size_t i = 0; i < std::min(a.pre_count, b.pre_count); ++i) {
        const auto order = compare_pre_releases(a.pre[i], b.pre[i]);
        if (order != 0) return order;
    }
    return a.pre_count <=> b.pre_count;
}

// Numbers joined by dots, equally many of them; nothing when they are not.
std::optional<std::strong_ordering> compare_dotted(std::string_view a,
                                                   std::string_view b) noexcept {
    if (std::ranges::count(a, '.') != std::ranges::count(b, '.')) return std::nullopt;
    auto order = std::strong_ordering::equal;
    while (!a.empty()) {
        const std::size_t a_size = run(a, is_digit);
        const std::size_t b_size = run(b, is_digit);
        if (order == 0) order = compare_numbers(a.substr(0, a_size), b.substr(0, b_size));
        a.remove_prefix(std::min(a_size + 1, a.size()));
        b.remove_prefix(std::min(b_size + 1, b.size()));
    }
    return order;
}

// The order of the counters, or nothing where the variants are not the same.
std::optional<std::strong_ordering> compare_variants(const Suffix& a, const Suffix& b) noexcept {
    if (a.variant_count != b.variant_count) return std::nullopt;
    auto result = std::strong_ordering::equal;
    for (std::size_t i = 0; i < a.variant_count; ++i) {
        if (a.variant[i] == b.variant[i]) continue;
        const auto a_at = counter_at(a.variant[i]);
        const auto b_at = counter_at(b.variant[i]);
        if (!a_at || !b_at || a.variant[i].substr(0, *a_at) != b.variant[i].substr(0, *b_at)) {
            return std::nullopt;
        }
        const auto order = compare_dotted(a.variant[i].substr(*a_at), b.variant[i].substr(*b_at));
        if (!order) return std::nullopt;
        if (result == 0) result = *order;
    }
    return result;
}

// Whether version or floating may have this suffix.
bool suffix_is_fine(std::string_view suffix, bool floating) noexcept {
    const std::size_t glued = std::min(suffix.find('-'), suffix.size());
    if (glued > 0 && !glued_pre_release(suffix.substr(0, glued))) return false;
    bool fine = true;
    bool hash_follows = false;  // the part before was `sha`, `sha256` or `git`
    for_each_part(suffix.substr(glued), [&](std::string_view part) {
        if (part.empty() || (floating && is_digit(part[0]))) fine = false;
        const std::string_view hex = part.starts_with('g') ? part.substr(1) : part;
        if (is_hash(part) || (hex.size() < part.size() && is_hex_of_hash_length(hex)) ||
            (hash_follows && is_hex_of_hash_length(part))) {
            fine = false;
        }
        hash_follows = part == "sha" || part == "sha256" || part == "git";
    });
    return fine;
}

}  // namespace

std::string_view to_string(Shape shape) noexcept {
    switch (shape) {
        case Shape::version:
            return "version";
        case Shape::floating:
            return "floating";
        case Shape::channel:
            return "channel";
        case Shape::hash:
            return "hash";
        case Shape::number:
            return "number";
        case Shape::other:
            return "other";
    }
    return "";
}

bool is_hash(std::string_view text) noexcept {
    for (const std::string_view prefix : {"sha-", "sha256-", "git-"}) {
        if (text.starts_with(prefix)) return is_hex_of_hash_length(text.substr(prefix.size()));
    }
    return is_hex_of_hash_length(text) && std::ranges::any_of(text, is_digit) &&
           std::ranges::any_of(text, is_letter);
}

TagShape read_shape(std::string_view name) noexcept {
    TagShape shape;
    if (is_hash(name)) {
        shape.shape = Shape::hash;
        return shape;
    }
    if (is_number(name)) {
        shape.shape = Shape::number;
        return shape;
    }
    const std::optional<std::size_t> prefix = prefix_of(name);
    if (!prefix || *prefix == name.size()) {
        if (is_channel(name)) shape.shape = Shape::channel;
        return shape;
    }
    shape.prefix = name.substr(0, *prefix);
    std::string_view rest = name.substr(*prefix);
    if (!take_fields(rest, shape) || !fields_are_short_enough(shape)) return shape;
    const bool floating = shape.count <= 2;
    if (shape.count == 1 && counts_reviews(shape.prefix)) return shape;
    if (!suffix_is_fine(rest, floating)) return shape;
    shape.suffix = rest;
    shape.shape = floating ? Shape::floating : Shape::version;
    return shape;
}

std::optional<std::strong_ordering> compare(const TagShape& a, const TagShape& b,
                                            Suffixes suffixes) noexcept {
    if (!a.ordered() || a.shape != b.shape || a.count != b.count || a.prefix != b.prefix) {
        return std::nullopt;
    }
    auto order = std::strong_ordering::equal;
    for (std::size_t i = 0; i < a.count; ++i) {
        const bool is_long = std::max(a.digits[i], b.digits[i]) >= kEquallyLong;
        if (is_long && a.digits[i] != b.digits[i]) return std::nullopt;
        if (order == 0) order = a.fields[i] <=> b.fields[i];
    }
    if (a.suffix == b.suffix) return order;
    if (suffixes == Suffixes::identical) return std::nullopt;
    Suffix a_suffix;
    Suffix b_suffix;
    read_suffix(a.suffix, a_suffix);
    read_suffix(b.suffix, b_suffix);
    const auto counters = compare_variants(a_suffix, b_suffix);
    if (!counters || order != 0) return counters ? std::optional{order} : std::nullopt;
    const auto pre_releases = compare_pre_releases(a_suffix, b_suffix);
    return pre_releases != 0 ? pre_releases : *counters;
}

std::strong_ordering natural_order(std::string_view a, std::string_view b) noexcept {
    while (!a.empty() && !b.empty()) {
        if (is_digit(a[0]) && is_digit(b[0])) {
            const std::size_t a_size = run(a, is_digit);
            const std::size_t b_size = run(b, is_digit);
            const auto order = compare_numbers(a.substr(0, a_size), b.substr(0, b_size));
            if (order != 0) return order;
            a.remove_prefix(a_size);
            b.remove_prefix(b_size);
            continue;
        }
        if (a[0] != b[0])
            return static_cast<unsigned char>(a[0]) <=> static_cast<unsigned char>(b[0]);
        a.remove_prefix(1);
        b.remove_prefix(1);
    }
    return a.size() <=> b.size();
}

bool same_skeleton(std::string_view a, std::string_view b) noexcept {
    while (!a.empty() && !b.empty()) {
        if (is_digit(a[0]) != is_digit(b[0])) return false;
        if (!is_digit(a[0]) && a[0] != b[0]) return false;
        const std::size_t a_size = is_digit(a[0]) ? run(a, is_digit) : 1;
        const std::size_t b_size = is_digit(b[0]) ? run(b, is_digit) : 1;
        a.remove_prefix(a_size);
        b.remove_prefix(b_size);
    }
    return a.empty() && b.empty();
}

}  // namespace keel
