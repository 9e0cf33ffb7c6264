// What goes with every request to the API server, kept fresh: files are read again, plugins are run
// again.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/steady_timer.hpp>

#include "core/expected.h"
#include "keeld/clock.h"
#include "keeld/cluster/access.h"
#include "keeld/cluster/exec_plugin.h"
#include "keeld/loop.h"

namespace keel {

struct ClusterCredential {
    std::string authorization;  // of the header; empty: none, or a client certificate
    std::shared_ptr<const TlsOptions> tls;

    friend bool operator==(const ClusterCredential&, const ClusterCredential&) = default;
};

class Credentials {
  public:
    Credentials(Loop& loop, ClusterAccess access);

    // What is valid now. Files (token, certificates, CA) are read again when the last reading is
    // older than a minute; a file that is away for a moment leaves the last content in force. An
    // exec plugin is run when its credential has expired, once for everybody who waits. Errors:
    // "credentials". `self` outlives the wait.
    [[nodiscard]] static Task<Expected<ClusterCredential>> get(std::shared_ptr<Credentials> self);

    // The server answered 401 to `used`. True: ask again, there may be another one now.
    [[nodiscard]] bool refused(const ClusterCredential& used);

  private:
    struct [[nodiscard]] Running;

    [[nodiscard]] bool needs_files() const;
    [[nodiscard]] bool needs_plugin() const;
    Expected<void> read_files();
    void compose();

    ClusterAccess access_;
    TlsOptions tls_;     // access_.tls with the files' texts
    std::string token_;  // of token or token_file
    std::optional<ExecCredential> plugin_;
    std::optional<ClusterCredential> current_;   // of the three above
    std::optional<Steady::time_point> read_at_;  // the files
    bool running_ = false;                       // the plugin
    std::uint64_t runs_ = 0;                     // that have ended
    std::optional<Error> failure_;               // of its last run
    asio::steady_timer ended_;                   // its cancellation: the plugin has ended
};

}  // namespace keel
