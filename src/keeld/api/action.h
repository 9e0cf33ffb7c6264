// The body of POST /v1/actions, read. Pure: who asks and when is the caller's.
#pragma once

#include <string_view>

#include "core/expected.h"
#include "core/time.h"
#include "keeld/catalogue/hold_wish.h"
#include "keeld/order.h"

namespace keel {

// On a tag, in the caches.
struct Action {
    bool hold = false;  // else release
    HoldWish wish;      // without id and author
};

// Errors: "bad-action", naming the member and what was expected there.
[[nodiscard]] Expected<Action> decode_action(std::string_view body, Time now);

// Any other action, without id and author. Errors: "bad-action".
[[nodiscard]] Expected<Order> decode_order(std::string_view body);

}  // namespace keel
