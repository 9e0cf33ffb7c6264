// A repository's list of tags: page after page, within bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/expected.h"
#include "core/time.h"

namespace keel {

struct TagList {
    std::vector<std::string> names;  // sorted, each once
    bool complete = true;            // false: see `stopped`; what is missing may be anything
    Error stopped;  // "list-too-long" (a bound was reached), "list-loop" (it comes round again, or
                    // brings nothing new), "list-elsewhere" (the next page is not of this
                    // repository at this registry)
    std::size_t pages = 0;
    std::uint64_t dropped = 0;  // names that no tag can have
};

// A list that is longer than this is not read to its end.
inline constexpr std::size_t kListPages = 200;
inline constexpr std::size_t kListNames = 100'000;
inline constexpr std::size_t kListBytes = 16U << 20U;
inline constexpr Millis kListTime{60'000};
inline constexpr std::size_t kListPage = 1'000;  // names that are asked for at a time

// Reads one page after the other; knows what was read and what is to be asked next, and sends
// nothing itself.
class TagListReader {
  public:
    // `base`: RegistryPath::base.
    TagListReader(std::string base, std::string repository);

    // The query of the page to be asked for next; empty: no more.
    [[nodiscard]] const std::string& next() const { return next_; }
    // Takes the page that was asked for. Errors: "bad-list", when it is none.
    [[nodiscard]] Expected<void> take(std::string_view body, std::string_view link);
    // Ends it here, with what there is.
    void stop(std::string code, std::string text);
    // Sorted.
    [[nodiscard]] TagList result() &&;

  private:
    void follow(std::string_view link, bool brought);

    std::string base_;
    std::string repository_;
    std::string next_;
    std::vector<std::string> asked_;
    std::set<std::string, std::less<>> names_;
    std::size_t bytes_ = 0;
    TagList list_;
};

}  // namespace keel
