// The clock of --clock: what it shows, and when it wakes whom.
#include "keeld/outside_clock.h"

#include <gtest/gtest.h>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>

#include "unit/keeld/peer.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::at;
using Local = asio::local::stream_protocol;

class OutsideClockTest : public testing::Test {
  protected:
    // What a test does at the other end.
    void tell(const std::string& line) { asio::write(peer, asio::buffer(line + "\n")); }
    std::string answer() {
        EXPECT_TRUE(test::run_until(loop, [this] { return peer.available() > 0; }));
        const std::size_t size = asio::read_until(peer, asio::dynamic_buffer(said), '\n');
        const std::string line = said.substr(0, size - 1);
        said.erase(0, size);
        return line;
    }
    Expected<void> start() { return test::await(loop, clock.start()); }

    Loop loop;
    test::ScratchDirectory directory;
    std::string path = directory.file("clock");
    Local::acceptor acceptor{loop, Local::endpoint(path)};
    Local::socket peer{loop};
    std::string said;
    OutsideClock clock{loop, path};
};

TEST_F(OutsideClockTest, ItStandsAtWhatItWasTold) {
    acceptor.async_accept(peer, [this](auto) { tell("2026-11-22T12:00:00Z"); });
    ASSERT_TRUE(start());
    EXPECT_EQ(clock.now(), at(0));
    bool ended = false;
    int moves = 0;
    clock.on_move([&] { ++moves; });
    asio::co_spawn(loop, clock.run(), [&](const std::exception_ptr&) { ended = true; });
    EXPECT_EQ(answer(), "2026-11-22T12:00:00.000Z");
    EXPECT_EQ(clock.when(at(1)), Steady::time_point::max()) << "until it is told, that never comes";
    const Time before = SystemClock().now();
    ASSERT_TRUE(test::run_until(loop, [&] { return SystemClock().now() > before; }));
    int asked = 0;
    clock.settled_when([&] { return ++asked > 3; });
    tell("2026-11-22T15:00:00+02:00");
    EXPECT_EQ(answer(), "2026-11-22T15:00:00+02:00");
    EXPECT_EQ(moves, 1);
    EXPECT_EQ(asked, 4);
    EXPECT_EQ(clock.now(), at(3600));
    const Steady::time_point wake = clock.when(at(1));
    EXPECT_LE(wake, Steady::now());
    EXPECT_EQ(clock.shown_at(before), at(0)) << "what it showed then";
    EXPECT_EQ(clock.shown_at(SystemClock().now()), at(3600));
    EXPECT_LT(clock.shown_at(before - std::chrono::hours{1}), at(-3000)) << "before it was told";
    tell("tomorrow");
    ASSERT_TRUE(test::run_until(loop, [&] { return ended; }));
    EXPECT_EQ(clock.now(), at(3600));
}

TEST_F(OutsideClockTest, E2_AStartWithoutATimeSaysSo) {
    acceptor.async_accept(peer, [this](auto) { tell("now"); });
    const Expected<void> started = start();
    ASSERT_FALSE(started);
    EXPECT_NE(started.error().text.find(path), std::string::npos);
    EXPECT_NE(started.error().text.find("no time came"), std::string::npos);
    OutsideClock nowhere(loop, directory.file("nothing"));
    const Expected<void> refused = test::await(loop, nowhere.start());
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().text.find("No such file"), std::string::npos) << refused.error().text;
}

}  // namespace
}  // namespace keel
