// What a registry's 401 is answered with.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/challenge.h"
#include "core/expected.h"
#include "keeld/http/client.h"
#include "keeld/loop.h"
#include "keeld/registry/path.h"

namespace keel {

class Authorization {
  public:
    // Sends a request as one that counts for the registry of the path (its budget, its circuit).
    using Send = std::function<Task<Expected<HttpResponse>>(RegistryPath, HttpRequest)>;
    explicit Authorization(Send send);

    // The value of the Authorization header that answers one of the challenges: a token, got
    // anonymously. Empty: none of them is one that can be answered so. Errors: "denied", Send's.
    [[nodiscard]] Task<Expected<std::string>> answer(RegistryPath path, std::string repository,
                                                     std::vector<Challenge> challenges);

  private:
    Send send_;
};

}  // namespace keel
