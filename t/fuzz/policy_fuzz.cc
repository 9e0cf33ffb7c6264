// Names that a registry lists and policies that people write come from outside. What is chosen is
// listed, is higher, and has the running tag's shape; order is the same from both sides.
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
    }
    if (choice.selected.empty() || policy->pattern() != nullptr) return 0;
    const auto order = keel::compare(keel::read_shape(choice.selected), keel::read_shape(current),
                                     keel::Suffixes::ordered);
    REQUIRE(order && *order > 0);
    return 0;
}
