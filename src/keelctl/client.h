// Asks keeld: one blocking request at a time.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/expected.h"
#include "keelctl/json.h"

namespace keel::ctl {

inline constexpr std::string_view kDefaultServer = "unix:/run/keeld/keeld.sock";

using Query = std::vector<std::pair<std::string, std::string>>;

struct Answer {
    std::string body;  // as it came
    Json root;
};

class Client {
  public:
    // `server`: "unix:/PATH", "/PATH", "http://HOST:PORT" or "https://…". Errors: "usage".
    [[nodiscard]] static Expected<Client> open(const std::string& server);

    // GET `path` (already escaped). Errors: "unreachable", naming the place and what to do; keeld's
    // own codes
    // ("not-found", "bad-parameter", …) with its own text; "bad-answer" where what answers is not
    // keeld.
    [[nodiscard]] Expected<Answer> get(const std::string& path, const Query& query);

    // POST of a JSON body; waits up to ten minutes, since keeld may look at whole images first.
    // Errors as get().
    [[nodiscard]] Expected<Answer> post(const std::string& path, const std::string& body);

    // A list, its pages followed until `limit` items are there (0: all): {"items": […], "next": …}.
    // Errors as get().
    [[nodiscard]] Expected<Answer> list(const std::string& path, const Query& query,
                                        std::size_t limit);

    // For a path's segment.
    [[nodiscard]] static std::string escape(std::string_view text);

  private:
    struct Handle {
        void operator()(void* curl) const;
    };
    [[nodiscard]] Expected<Answer> perform(const std::string& path, const std::string& url,
                                           const std::string* body);
    [[nodiscard]] tl::unexpected<Error> unreachable(const std::string& why, long number) const;

    std::string server_;  // as given
    std::string socket_;  // of unix:
    std::string base_;
    std::unique_ptr<void, Handle> curl_;
};

}  // namespace keel::ctl
