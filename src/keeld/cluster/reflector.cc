#include "keeld/cluster/reflector.h"

#include <jansson.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <random>

#include "keeld/clock.h"
#include "keeld/json.h"
#include "keeld/signal.h"

namespace keel {
namespace {

constexpr Millis kFirstPause{200};
constexpr Millis kLastPause{30'000};
// A watch that lived for so long, or brought something, was a good one.
constexpr std::chrono::seconds kGoodLife{5};

class BackOff {
  public:
    // Between half and all of a pause that doubles each time.
    Millis next() {
        const Millis most = pause_;
        pause_ = std::min(pause_ * 2, kLastPause);
        return Millis{
            std::uniform_int_distribution<Millis::rep>{most.count() / 2, most.count()}(random_)};
    }
    void reset() { pause_ = kFirstPause; }

  private:
    Millis pause_ = kFirstPause;
    std::minstd_rand random_{std::random_device{}()};
};

// A repetition of the same watch may succeed: the server was away or busy, the resourceVersion is
// still good.
bool is_passing(const Error& error) {
    const std::string& code = error.code;
    return is_away(error) || code == "too-many-requests" || code == "service-unavailable" ||
           code == "unauthorized" || code == "credentials" || code == "bad-answer";
}

}  // namespace

struct Reflector::State {
    State(Loop& on, ClusterClient& of, std::string at, std::string with, ReflectorHandlers to)
        : loop(on),
          client(of),
          path(std::move(at)),
          query(std::move(with)),
          handlers(std::move(to)),
          stop(on) {
        stop.expires_at(Steady::time_point::max());
    }

    Loop& loop;
    ClusterClient& client;
    std::string path;
    std::string query;
    ReflectorHandlers handlers;
    asio::steady_timer stop;  // its cancellation: the end
    bool stopped = false;
    bool synced = false;
    std::string resource_version;  // empty: to be listed
    std::string problem;
    BackOff back_off;
    bool good = false;  // the watch under way
    std::exception_ptr failure;

    static Task<void> run(std::shared_ptr<State> self);
    static Task<void> wait_for_stop(std::shared_ptr<State> self);
    static Task<void> guarded(std::shared_ptr<State> self);
    static Task<Expected<void>> list(std::shared_ptr<State> self);
    static Task<Expected<void>> watch(std::shared_ptr<State> self);

    void tell(const std::string& text);
    bool take(std::string_view type, const json_t* object);
};

Task<void> Reflector::State::run(std::shared_ptr<State> self) {
    using namespace asio::experimental::awaitable_operators;
    auto either = guarded(self) || wait_for_stop(self);
    co_await std::move(either);
    if (self->failure) std::rethrow_exception(std::exchange(self->failure, nullptr));
}

Task<void> Reflector::State::wait_for_stop(std::shared_ptr<State> self) {
    if (self->stopped) co_return;
    co_await self->stop.async_wait(asio::as_tuple(asio::use_awaitable));
}

// List and watch, with a pause after each failure.
Task<void> Reflector::State::guarded(std::shared_ptr<State> self) {
    try {
        while (!self->stopped) {
            Expected<void> done{};
            if (self->resource_version.empty()) done = co_await list(self);
            if (done) {
                done = co_await watch(self);
                if (self->good) self->back_off.reset();
                if (done && self->good) continue;
            }
            if (self->stopped) break;
            if (!done && done.error().code == "gone") {
                self->resource_version.clear();
                if (self->good) continue;
            } else if (!done) {
                self->tell(done.error().text);
                if (!is_passing(done.error())) self->resource_version.clear();
            }
            const Millis pause = self->back_off.next();
            co_await pause_for(self->loop, pause);
        }
    } catch (...) {
        // One of two parallel branches: an exception must not wait for the other one.
        if (!self->stopped) self->failure = std::current_exception();
    }
}

Task<Expected<void>> Reflector::State::list(std::shared_ptr<State> self) {
    self->good = false;
    self->handlers.begin();
    ClusterClient::ListOptions options;
    options.path = self->path;
    options.query = self->query;
    std::function<void(const json_t*)> each = [self](const json_t* object) {
        self->handlers.upsert(object);
    };
    std::function<void()> restart = [self] { self->handlers.begin(); };
    const Expected<std::string> version =
        co_await self->client.list(std::move(options), std::move(each), std::move(restart));
    if (!version) co_return tl::unexpected<Error>(version.error());
    self->resource_version = *version;
    self->synced = true;
    self->handlers.end();
    co_return Expected<void>{};
}

Task<Expected<void>> Reflector::State::watch(std::shared_ptr<State> self) {
    self->good = false;
    Steady::time_point opened_at = Steady::time_point::max();
    ClusterClient::WatchOptions options;
    options.path = self->path;
    options.query = self->query;
    options.resource_version = self->resource_version;
    std::function<bool(std::string_view, const json_t*)> each =
        [self](std::string_view type, const json_t* object) { return self->take(type, object); };
    std::function<void()> opened = [self, &opened_at] {
        opened_at = Steady::now();
        self->tell({});
    };
    const Expected<void> ended =
        co_await self->client.watch(std::move(options), std::move(each), std::move(opened));
    const Steady::time_point now = Steady::now();
    if (opened_at < now && now - opened_at >= kGoodLife) self->good = true;
    co_return ended;
}

void Reflector::State::tell(const std::string& text) {
    if (text == problem) return;
    problem = text;
    if (handlers.problem) handlers.problem(problem);
}

bool Reflector::State::take(std::string_view type, const json_t* object) {
    if (stopped) return false;
    const std::string_view version =
        text_of(json_object_get(object, "metadata"), "resourceVersion");
    if (type == "ADDED" || type == "MODIFIED") {
        handlers.upsert(object);
    } else if (type == "DELETED") {
        handlers.remove(object);
    }
    // After the handler: what it did not see is asked for again.
    if (!version.empty()) resource_version = version;
    good = true;
    return !stopped;
}

Reflector::Reflector(Loop& loop, ClusterClient& client, std::string path, std::string query,
                     ReflectorHandlers handlers)
    : state_(std::make_shared<State>(loop, client, std::move(path), std::move(query),
                                     std::move(handlers))) {}

Reflector::~Reflector() {
    stop();
}

Task<void> Reflector::run() {
    return State::run(state_);
}

void Reflector::stop() {
    state_->stopped = true;
    state_->stop.cancel();
}

bool Reflector::synced() const {
    return state_->synced;
}

}  // namespace keel
