// What a person told keeld to do (POST /v1/actions), and what came of it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "keeld/json.h"
#include "keeld/loop.h"

namespace keel {

struct Order {
    std::string id;      // random
    std::string author;  // as the socket tells; never from the body
    std::string action;  // "phase-pause"
    std::string on;      // what it is about, as its action names things
    std::string reason;  // one line; may be empty
    bool dry_run = false;
    Json args;  // an object, or null
};

struct OrderResult {
    std::string on;
    bool ok = false;
    std::string code;  // "paused", "not-accepted"
    std::string text;  // one sentence
};

// Does one kind of order. What it could not do is told in its results, one at least.
using OrderHandler = std::function<Task<std::vector<OrderResult>>(Order)>;

}  // namespace keel
