// client-go credential plugins: a program of the user's that prints an ExecCredential.
#pragma once

#include <optional>
#include <string>

#include "core/expected.h"
#include "core/time.h"
#include "keeld/cluster/access.h"
#include "keeld/loop.h"

namespace keel {

struct ExecCredential {
    std::string token;
    std::string cert_pem;
    std::string key_pem;
    std::optional<Time> expires;  // absent: good until it is refused
};

// Runs access.exec without blocking the loop, at most for a minute, with no standard input and no
// descriptor of ours, in a process group of its own that is killed when time is up or the caller is
// cancelled. Errors: "credentials", naming the command, how it ended and what it said on standard
// error.
[[nodiscard]] Task<Expected<ExecCredential>> run_exec_plugin(ClusterAccess access);

// What a plugin printed. Errors: "credentials".
[[nodiscard]] Expected<ExecCredential> parse_exec_credential(const std::string& output,
                                                             const std::string& api_version);

}  // namespace keel
