// A condition that coroutines of the loop wait for, with a deadline.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "keeld/clock.h"
#include "keeld/loop.h"

namespace keel {

class Signal {
  public:
    explicit Signal(Loop& loop) : timer_(loop) { timer_.expires_at(Steady::time_point::max()); }

    // Returns when notified or at `deadline`, whichever is first. Whoever waits looks again at what
    // it waits for.
    [[nodiscard]] Task<void> wait_until(Steady::time_point deadline) {
        if (raised_) {
            raised_ = false;
            co_return;
        }
        timer_.expires_at(deadline);
        constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
        co_await timer_.async_wait(kToken);
        raised_ = false;
    }
    // One waiter at a time; a notification before the wait is not lost.
    void notify() {
        raised_ = true;
        timer_.cancel();
    }

  private:
    asio::steady_timer timer_;
    bool raised_ = false;
};

// Sleeps on the monotonic clock; cancelled by cancellation of the coroutine.
[[nodiscard]] inline Task<void> pause_for(Loop& loop, Steady::duration duration) {
    asio::steady_timer timer(loop);
    timer.expires_after(duration);
    constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
    co_await timer.async_wait(kToken);
}

}  // namespace keel
