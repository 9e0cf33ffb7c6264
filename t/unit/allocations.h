// Counts what operator new is asked for, so that a test can prove that a path allocates nothing.
#pragma once

#include <cstddef>

namespace keel::test {

// Calls of operator new by this thread since it began.
[[nodiscard]] std::size_t allocations() noexcept;

}  // namespace keel::test
