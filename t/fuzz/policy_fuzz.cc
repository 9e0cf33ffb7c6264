// Names that a registry lists and policies that people write come from outside. What is chosen is
// listed, is higher, and has the running tag's shape; order is the same from both sides and total
// on what is ordered, and the order of the list decides nothing.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/policy.h"
#include "fuzz/require.h"

namespace {

std::vector<std::string_view> lines(std::string_view text) {
    std::vector<std::string_view> all;
    for (;;) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        all.push_back(text.substr(0, end));
        if (end == text.size()) return all;
        text.remove_prefix(end + 1);
    }
}

void order_is_one(std::string_view a, std::string_view b, keel::Suffixes suffixes) {
    const keel::TagShape left = keel::read_shape(a);
    const keel::TagShape right = keel::read_shape(b);
    const auto order = keel::compare(left, right, suffixes);
    const auto mirrored = keel::compare(right, left, suffixes);
    REQUIRE(order.has_value() == mirrored.has_value());
    if (order) REQUIRE((*order > 0) == (*mirrored < 0));
    REQUIRE((keel::natural_order(a, b) > 0) == (keel::natural_order(b, a) < 0));
    REQUIRE(keel::same_skeleton(a, b) == keel::same_skeleton(b, a));
}

// a ≥ b and b ≥ c make a ≥ c, where a and c compare at all.
void order_is_total(std::string_view a, std::string_view b, std::string_view c) {
    const keel::TagShape shapes[] = {keel::read_shape(a), keel::read_shape(b), keel::read_shape(c)};
    const auto ab = keel::compare(shapes[0], shapes[1], keel::Suffixes::ordered);
    const auto bc = keel::compare(shapes[1], shapes[2], keel::Suffixes::ordered);
    const auto ac = keel::compare(shapes[0], shapes[2], keel::Suffixes::ordered);
    if (ab && bc && ac && *ab >= 0 && *bc >= 0) REQUIRE(*ac >= 0);
}

}  // namespace

// The first line is the policy, the second the running tag, the others are listed.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::vector<std::string_view> all = lines({reinterpret_cast<const char*>(data), size});
    const auto policy = keel::Policy::parse(all[0]);
    if (!policy || all.size() < 2) return 0;
    const std::string_view current = all[1];
    const std::span<const std::string_view> listed{all.data() + 2, all.size() - 2};
    const bool match = size % 2 == 0;
    const keel::TagChoice choice = keel::choose_tag(*policy, {current, listed, match});
    REQUIRE((choice.reason == keel::Reason::newer_tag) == !choice.selected.empty());
    REQUIRE(!keel::sentence(*policy, current, choice).empty());
    for (const std::string_view name : listed) {
        order_is_one(current, name, keel::Suffixes::ordered);
        order_is_one(current, name, keel::Suffixes::identical);
        order_is_total(current, name, listed.front());
    }
    const std::vector<std::string_view> reversed(listed.rbegin(), listed.rend());
    const keel::TagChoice again = keel::choose_tag(*policy, {current, reversed, match});
    REQUIRE(again.reason == choice.reason && again.selected == choice.selected);
    if (!choice.selected.empty()) {
        const std::string_view passed[] = {choice.selected};
        const keel::TagChoice next = keel::choose_tag(
            *policy, {current, listed, match, keel::Step::highest, nullptr, passed});
        REQUIRE(next.selected != choice.selected);
    }
    if (choice.selected.empty() || policy->pattern() != nullptr) return 0;
    const auto order = keel::compare(keel::read_shape(choice.selected), keel::read_shape(current),
                                     keel::Suffixes::ordered);
    REQUIRE(order && *order > 0);
    REQUIRE(keel::read_shape(choice.selected).prefix == keel::read_shape(current).prefix);
    REQUIRE(keel::read_shape(choice.selected).count == keel::read_shape(current).count);
    if (match && policy->kind() != keel::Policy::Kind::all) {
        REQUIRE(keel::read_shape(choice.selected).suffix == keel::read_shape(current).suffix);
    }
    return 0;
}
