// The clock of --clock, for tests: it stands at what it was told last, so that a day of schedules
// and pacing passes in a minute.
#pragma once

#include <deque>
#include <functional>
#include <string>

#include "core/expected.h"
#include "keeld/clock.h"
#include "keeld/loop.h"

namespace keel {

class OutsideClock final : public Clock {
  public:
    // `path` of a unix socket on which somebody listens and writes times (RFC 3339), one a line.
    // Each line is written back once it holds and what was due by then has been done.
    OutsideClock(Loop& loop, std::string path) : loop_(loop), path_(std::move(path)) {}

    // Connects and takes the first time. Errors: "clock" naming the path, also where no time comes
    // within five seconds.
    [[nodiscard]] Task<Expected<void>> start();
    // Takes the others, for as long as the peer stays; the last one goes on to hold after that.
    [[nodiscard]] Task<void> run();
    void stop();
    // `moved` is called after each change.
    void on_move(std::function<void()> moved) { moved_ = std::move(moved); }
    // Whether what was due has been done; asked again and again before a line is written back.
    void settled_when(std::function<bool()> settled) { settled_ = std::move(settled); }

    [[nodiscard]] Time now() const override;
    [[nodiscard]] Time shown_at(Time real) const override;
    [[nodiscard]] Steady::time_point when(Time moment) const override;

    // What a line says takes effect; false: it is no time.
    bool take(const std::string& line);

  private:
    class Connection;
    // When it was told what, newest last; the oldest are forgotten.
    struct Told {
        Time real;
        Time shown;
    };
    Loop& loop_;
    std::string path_;
    std::shared_ptr<Connection> connection_;
    std::deque<Told> told_;
    std::function<void()> moved_;
    std::function<bool()> settled_;
};

}  // namespace keel
