// POST /v1/actions: what people, CI and agents may tell keeld to do.
#pragma once

#include <map>
#include <string>

#include "keeld/api/server.h"
#include "keeld/catalogue/holds.h"
#include "keeld/clock.h"
#include "keeld/json.h"
#include "keeld/loop.h"
#include "keeld/order.h"

namespace keel {

// The user's name in a file like /etc/passwd, or its number where it has none. Other sources of
// names may ask the network, and the loop waits for nobody.
[[nodiscard]] std::string user_name(unsigned uid, const std::string& path = "/etc/passwd");

// 403, for who asks for an action elsewhere.
[[nodiscard]] ApiResponse not_on_a_unix_socket();

class Actions {
  public:
    Actions(Holds& holds, const Clock& clock) : holds_(holds), clock_(clock) {}

    // On unix sockets only: the kernel says who asks, and that is the author. 403 elsewhere, 400
    // for what is not an action; otherwise 200, and each result says whether it was done.
    [[nodiscard]] Task<ApiResponse> handle(ApiRequest request);

    // Who does the orders of this name.
    void serve(std::string action, OrderHandler handler);

  private:
    Holds& holds_;
    const Clock& clock_;
    std::map<std::string, OrderHandler, std::less<>> handlers_;
};

}  // namespace keel
