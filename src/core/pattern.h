// glob: and regexp: patterns, compiled. Whatever the pattern and whatever the name, a match ends
// soon: PCRE2 runs with limits on steps and memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/expected.h"

namespace keel {

class Pattern {
  public:
    enum class Match : std::uint8_t { no, yes, too_expensive };
    using Pointer = std::shared_ptr<const Pattern>;

    // Errors: "pattern-invalid" for an empty pattern, one that is longer than 1,000 bytes, and one
    // that does not compile.
    [[nodiscard]] static Expected<Pointer> glob(std::string_view text);    // `*` and `?`
    [[nodiscard]] static Expected<Pointer> regexp(std::string_view text);  // PCRE2, unanchored

    // Whether the pattern has a group named `compare`: names are ordered by it, the rest may
    // differ.
    [[nodiscard]] bool names_key() const noexcept { return key_group_ > 0; }

    // `key`, a view into `name`, is what the name is ordered by. One caller at a time: the match's
    // memory is kept.
    [[nodiscard]] Match match(std::string_view name, std::string_view& key) const noexcept;
    [[nodiscard]] Match match(std::string_view name) const noexcept;

  private:
    struct Compiled;

    std::string glob_;
    std::shared_ptr<const Compiled> compiled_;  // of regexp
    int key_group_ = 0;
};

}  // namespace keel
