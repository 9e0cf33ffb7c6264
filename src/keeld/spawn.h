// Starting coroutines of keeld's own.
#pragma once

#include <boost/asio/co_spawn.hpp>

#include <exception>
#include <utility>

#include "keeld/loop.h"

namespace keel {

// One that throws takes keeld down with it, out of Loop::run(): everything is durable or computed again, so a restart mends
// more than a daemon with a dead limb.
inline void spawn(Loop& loop, Task<void> task) {
    asio::co_spawn(loop, std::move(task), [](std::exception_ptr error) {
        if (error) {
            std::rethrow_exception(error);
        }
    });
}

}  // namespace keel
