// Names that nobody else gives: of actions, rollouts, messages, ledgers.
#pragma once

#include <cstddef>
#include <random>
#include <string>

namespace keel {

// So many hex digits from the system's source of randomness, four bits each.
[[nodiscard]] inline std::string random_id(std::size_t digits = 16) {
    static constexpr char kHex[] = "0123456789abcdef";
    std::random_device source;
    std::string id;
    while (id.size() < digits) {
        for (auto bits = source(), i = 0U; i < 8 && id.size() < digits; ++i, bits >>= 4U) {
            id += kHex[bits & 15U];
        }
    }
    return id;
}

}  // namespace keel
