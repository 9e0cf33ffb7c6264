// Errors as values. A function that can fail for a reason that somebody outside can mend returns
// Expected<T>.
#pragma once

#include <chrono>
#include <string>
#include <utility>

#include <tl/expected.hpp>

namespace keel {

// code: a short stable word for machines ("not-found", "bad-digest"); text: one sentence that names
// the thing, the place and what to do.
struct Error {
    std::string code;
    std::string text;
    // From when the error came about, for how long asking again is of no use; zero: not known.
    std::chrono::milliseconds retry_after{0};
};

template <class T>
using Expected = tl::expected<T, Error>;

[[nodiscard]] inline tl::unexpected<Error> fail(std::string code, std::string text,
                                                std::chrono::milliseconds retry_after = {}) {
    return tl::unexpected<Error>(Error{std::move(code), std::move(text), retry_after});
}

}  // namespace keel
