// keelctl's command line: words in, text and an exit code out. Knows no process, so that tests can
// be one.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>

#include "core/time.h"

namespace keel::ctl {

// Exit codes, as --help documents them.
inline constexpr int kFine = 0;
inline constexpr int kAttention = 1;
inline constexpr int kUnknown = 2;

struct Environment {
    std::string server;    // KEELD_URL; empty: unset
    bool colours = false;  // standard output is a terminal and NO_COLOR is unset
    std::function<Time()> now;
    std::function<bool()> pause;  // between two looks of `history --follow`; false ends it
    std::istream* in = nullptr;   // standard input, for `policy try --batch`
};

int run(int argc, const char* const* argv, const Environment& environment, std::ostream& out,
        std::ostream& err);

}  // namespace keel::ctl
