// Programs of other people's that keeld runs: credential plugins and helpers.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "core/expected.h"
#include "keeld/loop.h"

namespace keel {

struct Program {
    std::string command;                   // a path, or a name to be found in PATH
    std::vector<std::string> args;         // without the program's own name
    std::vector<std::string> environment;  // all of it, "NAME=value"
    std::string input;                     // standard input, at most 4 kB; empty: /dev/null
    std::chrono::seconds deadline{30};
};

// How a program ended.
struct Ended {
    int status = 0;      // as waitpid has it
    bool late = false;   // killed at its deadline
    std::string output;  // the first megabyte
    std::string errors;

    [[nodiscard]] bool well() const { return !late && status == 0; }
    // "did not end within 60 s", "failed, exit code 3".
    [[nodiscard]] std::string how(std::chrono::seconds deadline) const;
    // The end of what it said on standard error, as ": text" to be put behind a sentence.
    [[nodiscard]] std::string complaint() const;
};

// Runs it to its end without blocking the loop, with no descriptor of ours, in a process group of
// its own that is killed when time is up or the caller is cancelled. Errors: "not-started", whose
// text is the system's reason; "cancelled".
[[nodiscard]] Task<Expected<Ended>> run_program(Program program);

}  // namespace keel
