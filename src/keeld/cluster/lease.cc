#include "keeld/cluster/lease.h"

#include <jansson.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>

#include "keeld/clock.h"
#include "keeld/json.h"
#include "keeld/signal.h"

namespace keel {
namespace {

constexpr char kLedgerKey[] = "keel.sh/ledger";

// RFC 3339 with microseconds, as a MicroTime has to look. Wall time on purpose: for people to read.
std::string micro_time() {
    std::string text =
        format_time(std::chrono::time_point_cast<Millis>(std::chrono::system_clock::now()));
    text.insert(text.size() - 1, "000");
    return text;
}

json_t* spec_of(const Json& lease) {
    return json_object_get(lease.get(), "spec");
}

// The object member, made where it is missing.
json_t* member(json_t* parent, const char* key) {
    json_t* value = json_object_get(parent, key);
    if (json_is_object(value)) return value;
    json_object_set_new(parent, key, json_object());
    return json_object_get(parent, key);
}

}  // namespace

struct Lease::State {
    State(Loop& on, ClusterClient& of, LeaseOptions with)
        : loop(on), client(of), options(std::move(with)), stop(on), deadline(on), ended(on) {
        stop.expires_at(Steady::time_point::max());
        ended.expires_at(Steady::time_point::max());
        collection = "/apis/coordination.k8s.io/v1/namespaces/" + options.ns + "/leases";
    }

    Loop& loop;
    ClusterClient& client;
    LeaseOptions options;
    std::string collection;
    std::function<void()> changed;
    asio::steady_timer stop;      // its cancellation: the end of run()
    asio::steady_timer deadline;  // of the last renewal
    asio::steady_timer ended;     // its cancellation: run() has ended
    bool stopped = false;
    bool running = false;

    Json lease;                        // as last read or written; null: to be read
    std::string record;                // its spec, to notice that somebody renewed
    Steady::time_point observed_at{};  // when the record was last seen to change
    std::string holder;
    bool known = false;
    std::string remembered;
    bool accepted = false;  // our ledger replaces another one's
    bool ours = false;      // the last write made us the holder
    Steady::time_point renewed_at{};
    bool told = false;  // what `changed` was last called for
    std::string problem;
    std::exception_ptr failure;

    [[nodiscard]] bool held() const;
    [[nodiscard]] Steady::duration life() const { return options.duration * 9 / 10; }
    [[nodiscard]] std::string path() const { return collection + "/" + options.name; }
    [[nodiscard]] Steady::time_point foreign_until() const;
    [[nodiscard]] Steady::duration pause(bool succeeded) const;

    static Task<void> run(std::shared_ptr<State> self);
    static Task<void> wait_for_stop(std::shared_ptr<State> self);
    static Task<void> guarded(std::shared_ptr<State> self);
    static Task<Expected<void>> attempt(std::shared_ptr<State> self);
    static Task<Expected<Json>> send(std::shared_ptr<State> self, std::string method,
                                     std::string path, std::string body);
    static Task<Expected<void>> read(std::shared_ptr<State> self);
    static Task<Expected<void>> write(std::shared_ptr<State> self);
    static Task<void> release(std::shared_ptr<State> self);

    void observe(Json seen);
    void claim();
    void renewed(Steady::time_point at);
    void lost();
    void tell();
    void watch_deadline(std::weak_ptr<State> self);
};

bool Lease::State::held() const {
    return ours && Steady::now() < renewed_at + life();
}

// --- run
// -------------------------------------------------------------------------------------------

Task<void> Lease::State::run(std::shared_ptr<State> self) {
    using namespace asio::experimental::awaitable_operators;
    struct Running {
        State& state;
        explicit Running(State& of) : state(of) { state.running = true; }
        ~Running() {
            state.running = false;
            state.ended.cancel();
        }
    };
    const Running running{*self};
    auto either = guarded(self) || wait_for_stop(self);
    co_await std::move(either);
    if (self->failure) std::rethrow_exception(std::exchange(self->failure, nullptr));
}

Task<void> Lease::State::wait_for_stop(std::shared_ptr<State> self) {
    if (self->stopped) co_return;
    co_await self->stop.async_wait(asio::as_tuple(asio::use_awaitable));
}

Task<void> Lease::State::guarded(std::shared_ptr<State> self) {
    try {
        while (!self->stopped) {
            const Steady::time_point began = Steady::now();
            Expected<void> done = co_await attempt(self);
            if (!done && done.error().code == "conflict") done = co_await attempt(self);
            self->problem = done ? std::string{}
                                 : "Lease " + self->options.ns + "/" + self->options.name + ": " +
                                       done.error().text;
            self->tell();
            if (self->ours) self->watch_deadline(self);
            const Steady::duration pause = began + self->pause(done.has_value()) - Steady::now();
            co_await pause_for(self->loop, pause);
        }
    } catch (...) {
        if (!self->stopped) self->failure = std::current_exception();
    }
}

// From the start of one attempt to the start of the next.
Steady::duration Lease::State::pause(bool succeeded) const {
    const Steady::duration retry = options.renew * 2 / 5;
    if (succeeded && ours) return options.renew;
    if (!succeeded || holder.empty()) return retry;
    const Steady::duration left = foreign_until() - Steady::now();
    return std::clamp<Steady::duration>(left, Millis{50}, retry);
}

// Reads unless we know what is there, and renews or takes over where that is allowed.
Task<Expected<void>> Lease::State::attempt(std::shared_ptr<State> self) {
    const Steady::time_point began = Steady::now();
    if (self->lease == nullptr || !self->ours) {
        const Expected<void> seen = co_await read(self);
        if (!seen) co_return seen;
    }
    if (self->holder != self->options.identity && !self->holder.empty()) {
        self->lost();
        if (Steady::now() < self->foreign_until()) co_return Expected<void>{};
    }
    self->claim();
    const Expected<void> written = co_await write(self);
    if (written) {
        self->renewed(began);
    } else {
        // What is there now is unknown: the write may have been applied, or another one's.
        self->lease.reset();
    }
    co_return written;
}

// --- requests
// --------------------------------------------------------------------------------------

Task<Expected<Json>> Lease::State::send(std::shared_ptr<State> self, std::string method,
                                        std::string path, std::string body) {
    ClusterClient::Call call;
    call.method = std::move(method);
    call.path = std::move(path);
    call.body = std::move(body);
    if (!call.body.empty()) call.content_type = "application/json";
    call.timeout = std::chrono::duration_cast<Millis>(self->options.renew);
    call.patience = Millis{0};
    Expected<Json> answer = co_await self->client.call(std::move(call));
    co_return answer;
}

Task<Expected<void>> Lease::State::read(std::shared_ptr<State> self) {
    std::string method = "GET";
    std::string path = self->path();
    std::string body;
    Expected<Json> answer =
        co_await send(self, std::move(method), std::move(path), std::move(body));
    if (answer) {
        self->observe(std::move(*answer));
    } else if (answer.error().code == "not-found") {
        Json fresh{json_pack("{s:s, s:s, s:{s:s, s:s}}", "apiVersion", "coordination.k8s.io/v1",
                             "kind", "Lease", "metadata", "namespace", self->options.ns.c_str(),
                             "name", self->options.name.c_str())};
        self->observe(std::move(fresh));
    } else {
        co_return tl::unexpected<Error>(answer.error());
    }
    co_return Expected<void>{};
}

// Creates or replaces; the resourceVersion in it makes sure that nobody else's write is
// overwritten.
Task<Expected<void>> Lease::State::write(std::shared_ptr<State> self) {
    const bool exists =
        !text_of(json_object_get(self->lease.get(), "metadata"), "resourceVersion").empty();
    std::string method = exists ? "PUT" : "POST";
    std::string path = exists ? self->path() : self->collection;
    std::string body = dump_json(self->lease.get());
    Expected<Json> answer =
        co_await send(self, std::move(method), std::move(path), std::move(body));
    if (!answer) {
        const bool raced = answer.error().code == "already-exists" ||
                           (exists && answer.error().code == "not-found");
        co_return fail(raced ? "conflict" : answer.error().code, answer.error().text);
    }
    self->observe(std::move(*answer));
    co_return Expected<void>{};
}

Task<void> Lease::State::release(std::shared_ptr<State> self) {
    if (self->running) co_await self->ended.async_wait(asio::as_tuple(asio::use_awaitable));
    const bool had = self->ours;
    self->lost();
    if (!had) co_return;
    // Read first: what run() was just writing may have been applied.
    Expected<void> done = co_await read(self);
    if (done && self->holder == self->options.identity) {
        json_t* spec = spec_of(self->lease);
        json_object_del(spec, "holderIdentity");
        json_object_set_new(spec, "leaseDurationSeconds", json_integer(1));
        json_object_set_new(spec, "renewTime", json_string(micro_time().c_str()));
        done = co_await write(self);
    }
    if (!done) self->problem = done.error().text;
    self->lease.reset();
}

// --- what is known
// ---------------------------------------------------------------------------------

void Lease::State::observe(Json seen) {
    lease = std::move(seen);
    const std::string now_there = spec_of(lease) != nullptr ? dump_json(spec_of(lease)) : "";
    if (now_there != record || !known) observed_at = Steady::now();
    record = now_there;
    holder = text_of(spec_of(lease), "holderIdentity");
    if (known) return;
    known = true;
    const json_t* metadata = json_object_get(lease.get(), "metadata");
    remembered = text_of(json_object_get(metadata, "annotations"), kLedgerKey);
}

Steady::time_point Lease::State::foreign_until() const {
    const auto theirs = json_integer_value(json_object_get(spec_of(lease), "leaseDurationSeconds"));
    return observed_at + (theirs > 0 ? std::chrono::seconds{theirs} : options.duration);
}

// Makes us the holder in `lease`, to be written.
void Lease::State::claim() {
    json_t* spec = member(lease.get(), "spec");
    const std::string now = micro_time();
    const bool again = holder == options.identity;
    const json_int_t transitions = json_integer_value(json_object_get(spec, "leaseTransitions"));
    const bool first = text_of(spec, "acquireTime").empty();
    json_object_set_new(spec, "holderIdentity", json_string(options.identity.c_str()));
    json_object_set_new(spec, "leaseDurationSeconds", json_integer(options.duration.count()));
    json_object_set_new(spec, "renewTime", json_string(now.c_str()));
    if (!again || first) json_object_set_new(spec, "acquireTime", json_string(now.c_str()));
    json_object_set_new(spec, "leaseTransitions",
                        json_integer(again || first ? transitions : transitions + 1));
    json_t* annotations = member(member(lease.get(), "metadata"), "annotations");
    if (accepted || text_of(annotations, kLedgerKey).empty()) {
        json_object_set_new(annotations, kLedgerKey, json_string(options.ledger_id.c_str()));
    }
}

void Lease::State::renewed(Steady::time_point at) {
    ours = true;
    renewed_at = at;
}

void Lease::State::lost() {
    ours = false;
    deadline.cancel();
    tell();
}

void Lease::State::tell() {
    if (held() == told) return;
    told = !told;
    if (changed) changed();
}

void Lease::State::watch_deadline(std::weak_ptr<State> self) {
    deadline.expires_at(renewed_at + life());
    deadline.async_wait([self = std::move(self)](const boost::system::error_code& error) {
        if (const std::shared_ptr<State> state = self.lock(); state != nullptr && !error) {
            state->tell();
        }
    });
}

// --- the interface
// ---------------------------------------------------------------------------------

Lease::Lease(Loop& loop, ClusterClient& client, LeaseOptions options)
    : state_(std::make_shared<State>(loop, client, std::move(options))) {}

Lease::~Lease() {
    state_->changed = {};
    stop();
}

Task<void> Lease::run(std::function<void()> changed) {
    state_->changed = std::move(changed);
    return State::run(state_);
}

Task<void> Lease::release() {
    return State::release(state_);
}

void Lease::stop() {
    state_->stopped = true;
    state_->stop.cancel();
}

bool Lease::held() const {
    return state_->held();
}

bool Lease::known() const {
    return state_->known;
}

const std::string& Lease::remembered_ledger() const {
    return state_->remembered;
}

void Lease::accept_ledger() {
    state_->accepted = true;
}

const std::string& Lease::holder() const {
    return state_->holder;
}

const std::string& Lease::problem() const {
    return state_->problem;
}

}  // namespace keel
