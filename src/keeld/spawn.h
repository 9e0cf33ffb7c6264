// Starting coroutines of keeld's own.
#pragma once

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>

#include <exception>
#include <utility>

#include "keeld/loop.h"

namespace keel {

// One that throws takes keeld down with it, out of Loop::run(): everything is durable or computed
// again, so a restart mends more than a daemon with a dead limb. It starts on the loop's next turn,
// never inside the caller, who may be in the middle of a container that the coroutine changes.
inline void spawn(Loop& loop, Task<void> task) {
    asio::post(loop, [&loop, task = std::move(task)]() mutable {
        asio::co_spawn(loop, std::move(task), [](std::exception_ptr error) {
            if (error) {
                std::rethrow_exception(error);
            }
        });
    });
}

}  // namespace keel
