// What a tag's name looks like, and which of two is higher. Order is known only between names of
// one shape, one prefix and one number of fields; everything else does not compare.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string_view>

namespace keel {

// version: three or four numbers. floating: one or two. channel: words. hash, number and other
// have no order.
enum class Shape : std::uint8_t { version, floating, channel, hash, number, other };
[[nodiscard]] std::string_view to_string(Shape shape) noexcept;

inline constexpr std::size_t kMaxFields = 4;

// A name taken apart; views into it. Prefix, fields and suffix are set for version and floating.
struct TagShape {
    Shape shape = Shape::other;
    std::uint8_t count = 0;                         // fields
    std::array<std::uint8_t, kMaxFields> digits{};  // of each field, leading zeros aside
    std::array<std::uint32_t, kMaxFields> fields{};
    bool zeros = false;  // a field has leading zeros
    std::string_view prefix;
    std::string_view suffix;  // a glued pre-release and what begins with '-'

    [[nodiscard]] bool ordered() const noexcept {
        return shape == Shape::version || shape == Shape::floating;
    }
};

// Takes any text; what is no tag is `other`. Never throws, never allocates.
[[nodiscard]] TagShape read_shape(std::string_view name) noexcept;

// 7 to 64 hex characters with a letter and a digit among them, or any hex after `sha-`, `sha256-`
// or `git-`.
[[nodiscard]] bool is_hash(std::string_view text) noexcept;

// How suffixes compare. identical: byte for byte. ordered: pre-releases and counters have an order,
// variants must be the same.
enum class Suffixes : std::uint8_t { identical, ordered };

// Nothing where the two do not compare. Both must come from read_shape.
[[nodiscard]] std::optional<std::strong_ordering> compare(const TagShape& a, const TagShape& b,
                                                          Suffixes suffixes) noexcept;

// Runs of digits as numbers, everything else as bytes.
[[nodiscard]] std::strong_ordering natural_order(std::string_view a, std::string_view b) noexcept;
// Whether the two are the same once every run of digits is replaced by one sign.
[[nodiscard]] bool same_skeleton(std::string_view a, std::string_view b) noexcept;

}  // namespace keel
