#include "keeld/api/server.h"

#include <grp.h>
#include <jansson.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <list>
#include <system_error>
#include <utility>
#include <variant>

#include "keeld/address.h"
#include "keeld/clock.h"

namespace keel {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using std::chrono::milliseconds;
using std::chrono::seconds;

using Tcp = asio::ip::tcp;
using Local = asio::local::stream_protocol;
using Socket = asio::generic::stream_protocol::socket;
using Stream = beast::basic_stream<asio::generic::stream_protocol>;
using Parser = http::request_parser<http::string_body>;
using Response = http::response<http::string_body>;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

constexpr std::size_t kMaxHead = 16 * 1024;
constexpr std::size_t kReadSize = 4096;
constexpr seconds kAnswerTime{30};
// After a refusal the rest of what the client sends is read and dropped, so that it sees the
// refusal, not a reset.
constexpr seconds kLingerTime{1};
constexpr std::size_t kLingerBytes = 1024 * 1024;
constexpr milliseconds kAcceptPause{100};  // when the process has no descriptors left
constexpr seconds kCancelTime{1};          // for handlers to end once they were cancelled

std::string message_of(int number) {
    return std::generic_category().message(number);
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// Percent-decoded; a plus stays a plus, as times have them. nullopt: an escape is broken or stands
// for a NUL.
std::optional<std::string> decode(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '%') {
            result += text[i];
            continue;
        }
        if (i + 2 >= text.size()) return std::nullopt;
        const int high = hex_digit(text[i + 1]);
        const int low = hex_digit(text[i + 2]);
        if (high < 0 || low < 0 || (high == 0 && low == 0)) return std::nullopt;
        result += static_cast<char>(high * 16 + low);
        i += 2;
    }
    return result;
}

bool read_target(std::string_view target, ApiRequest& request) {
    if (!target.starts_with('/')) return false;
    target = target.substr(0, target.find('#'));
    const auto mark = target.find('?');
    auto path = decode(target.substr(0, mark));
    if (!path) return false;
    request.path = std::move(*path);
    if (mark == std::string_view::npos) return true;
    std::string_view rest = target.substr(mark + 1);
    while (!rest.empty()) {
        const std::string_view pair = rest.substr(0, rest.find('&'));
        rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
        if (pair.empty()) continue;
        const auto equals = pair.find('=');
        auto name = decode(pair.substr(0, equals));
        auto value = decode(equals == std::string_view::npos ? "" : pair.substr(equals + 1));
        if (!name || !value) return false;
        request.query.emplace_back(std::move(*name), std::move(*value));
    }
    return true;
}

std::string lower_case(std::string_view text) {
    std::string result(text);
    std::transform(result.begin(), result.end(), result.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    return result;
}

// Whether a Host header names this machine's loopback. A web page whose name was made to resolve to
// 127.0.0.1 sends its own name, and is refused by that.
bool is_local_host(std::string_view host) {
    const auto colon = host.rfind(':');
    const auto bracket = host.rfind(']');
    if (colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket)) {
        host = host.substr(0, colon);
    }
    if (lower_case(host) == "localhost") return true;
    return ListenAddress::parse(std::string(host) + ":0").has_value();
}

// RFC 9110's date.
std::string http_date(std::chrono::system_clock::time_point now) {
    const std::time_t time = std::chrono::system_clock::to_time_t(now);
    std::tm parts{};
    ::gmtime_r(&time, &parts);
    std::array<char, 40> text{};
    const auto size = std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
    return {text.data(), size};
}

ApiRequest make_request(const Parser& parser) {
    const auto& message = parser.get();
    ApiRequest request;
    request.method = std::string(message.method_string());
    for (const auto& field : message) {
        request.headers.emplace_back(lower_case(std::string(field.name_string())),
                                     std::string(field.value()));
    }
    return request;
}

Response make_response(const ApiResponse& answer, bool with_body, bool keep_alive) {
    Response response;
    response.version(11);
    response.result(static_cast<unsigned>(answer.status));
    response.set(http::field::date, http_date(std::chrono::system_clock::now()));
    response.set(http::field::server, "keeld");
    response.set(http::field::cache_control, "no-store");
    response.set("X-Content-Type-Options", "nosniff");
    if (!answer.body.empty()) response.set(http::field::content_type, answer.content_type);
    for (const auto& [name, value] : answer.headers)
        response.set(name, value);
    response.keep_alive(keep_alive);
    if (with_body) response.body() = answer.body;
    response.content_length(answer.body.size());
    return response;
}

// The answer to a request that could not be read; nullopt where nobody waits for one.
std::optional<ApiResponse> unreadable(const beast::error_code& error, const ServerLimits& limits) {
    if (error == http::error::body_limit) {
        return api_error(413, "too-large",
                         "the body is larger than " + std::to_string(limits.max_body) + " bytes");
    }
    if (error == http::error::header_limit) {
        return api_error(
            431, "too-large",
            "request line and headers are larger than " + std::to_string(kMaxHead) + " bytes");
    }
    const bool ended = error == http::error::end_of_stream || error == http::error::partial_message;
    if (ended || error.category() != http::make_error_code(http::error::bad_method).category()) {
        return std::nullopt;
    }
    return api_error(400, "bad-request", "not an HTTP request: " + error.message());
}

tl::unexpected<Error> cannot_listen(const ListenAddress& where, const std::string& what) {
    return fail("listen", where.to_string() + ": " + what);
}

// Makes room for a socket file: a stale one goes, anything else is an error.
Expected<void> clear_socket_file(const ListenAddress& where) {
    struct stat status {};
    if (::lstat(where.socket.c_str(), &status) != 0) return {};
    if (!S_ISSOCK(status.st_mode)) {
        return cannot_listen(where, "there is a file that is not a socket; move it away");
    }
    const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) return cannot_listen(where, message_of(errno));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    where.socket.copy(address.sun_path, sizeof(address.sun_path) - 1);
    const int result =
        ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    const int reason = result == 0 ? 0 : errno;
    ::close(probe);
    if (reason == EACCES || reason == EPERM) {
        return cannot_listen(where, "the socket of user " + std::to_string(status.st_uid) +
                                        " is in the way; remove it if nothing listens there");
    }
    if (reason != ECONNREFUSED && reason != ENOENT) {
        return cannot_listen(where, "another process answers there; stop it, or use another path");
    }
    if (::unlink(where.socket.c_str()) != 0 && errno != ENOENT) {
        return cannot_listen(where, "a stale socket cannot be removed: " + message_of(errno));
    }
    return {};
}

// A unix socket that this process made, removed with it unless somebody else's has taken its place.
class SocketFile {
  public:
    explicit SocketFile(std::string path) : path_(std::move(path)) {
        known_ = ::stat(path_.c_str(), &status_) == 0;
    }
    ~SocketFile() {
        struct stat now {};
        if (known_ && ::stat(path_.c_str(), &now) == 0 && now.st_ino == status_.st_ino &&
            now.st_dev == status_.st_dev) {
            ::unlink(path_.c_str());
        }
    }
    SocketFile(const SocketFile&) = delete;
    SocketFile& operator=(const SocketFile&) = delete;

  private:
    std::string path_;
    struct stat status_ {};
    bool known_ = false;
};

struct Listener {
    std::variant<Tcp::acceptor, Local::acceptor> acceptor;
    std::unique_ptr<SocketFile> file;
    std::string name;

    [[nodiscard]] bool local() const { return std::holds_alternative<Local::acceptor>(acceptor); }
    void close() {
        beast::error_code ignored;
        std::visit([&](auto& each) { each.close(ignored); }, acceptor);
        file.reset();
    }
};

// Who is at the other end of a unix socket.
std::optional<unsigned> peer_of(Socket& socket) {
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (::getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        return std::nullopt;
    }
    return peer.uid;
}

struct Connection {
    Connection(Socket socket, bool is_local, std::string listener)
        : stream(std::move(socket)), local(is_local), serve(std::move(listener)) {}

    Stream stream;
    bool local;
    std::string serve;
    // Waits for the first byte of a request since then; max: it does not.
    Steady::time_point idle_since = Steady::now();
    asio::cancellation_signal cancel;

    [[nodiscard]] bool idle() const { return idle_since != Steady::time_point::max(); }
    void close() { stream.close(); }
};

}  // namespace

std::string_view ApiRequest::header(std::string_view lower_case_name) const {
    for (const auto& [name, value] : headers) {
        if (name == lower_case_name) return value;
    }
    return {};
}

std::optional<std::string> ApiRequest::parameter(std::string_view name) const {
    for (const auto& [each, value] : query) {
        if (each == name) return value;
    }
    return std::nullopt;
}

ApiResponse api_error(int status, std::string code, std::string text) {
    const auto piece = [](const std::string& value) {
        json_t* string = json_stringn(value.data(), value.size());
        return string != nullptr ? string : json_string("(not UTF-8)");
    };
    json_t* object = json_pack("{s:{s:o,s:o}}", "error", "code", piece(code), "text", piece(text));
    char* dumped = json_dumps(object, JSON_COMPACT);
    ApiResponse response;
    response.status = status;
    response.body = dumped != nullptr ? dumped : "";
    response.body += "\n";
    std::free(dumped);
    json_decref(object);
    return response;
}

struct Server::State : std::enable_shared_from_this<Server::State> {
    State(Loop& the_loop, ApiHandler the_handler, ServerLimits the_limits)
        : loop(the_loop),
          handler(std::move(the_handler)),
          limits(the_limits),
          drained(the_loop, asio::steady_timer::time_point::max()),
          room(the_loop, asio::steady_timer::time_point::max()) {}

    Expected<void> bind_tcp(const ListenAddress& where);
    Expected<void> bind_local(const ListenAddress& where, const ListenConfig& config);

    Task<void> accept_all(std::shared_ptr<Listener> listener);
    Task<std::optional<Socket>> accept_one(std::shared_ptr<Listener> listener);
    Task<void> wait_for_room();
    void start(Socket socket, const Listener& listener);
    Task<void> serve(std::shared_ptr<Connection> connection);
    Task<bool> serve_one(std::shared_ptr<Connection> connection, beast::flat_buffer& buffer);
    Task<beast::error_code> read(std::shared_ptr<Connection> connection, beast::flat_buffer& buffer,
                                 Parser& parser);
    Task<ApiResponse> answer(std::shared_ptr<Connection> connection, Parser& parser);
    Task<ApiResponse> call(ApiRequest request);
    Task<bool> write(std::shared_ptr<Connection> connection, Response response);
    Task<void> linger(std::shared_ptr<Connection> connection);
    void ended(const std::shared_ptr<Connection>& connection);
    void stop_listening();
    void close_idle();
    void cut();

    Loop& loop;
    ApiHandler handler;
    ServerLimits limits;
    std::vector<std::shared_ptr<Listener>> listeners;
    std::vector<std::string> addresses;
    std::list<std::shared_ptr<Connection>> connections;
    bool stopping = false;
    // Never expire: cancelling them wakes who waits for the last connection to end, or for any.
    asio::steady_timer drained;
    asio::steady_timer room;
};

// --- listening ---

Expected<void> Server::State::bind_tcp(const ListenAddress& where) {
    beast::error_code error;
    const auto host = asio::ip::make_address(where.host, error);
    if (error) return cannot_listen(where, error.message());
    const Tcp::endpoint endpoint(host, where.port);
    Tcp::acceptor acceptor(loop);
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(Tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (error) return cannot_listen(where, error.message());
    ListenAddress bound = where;
    bound.port = acceptor.local_endpoint().port();
    listeners.push_back(
        std::make_shared<Listener>(Listener{std::move(acceptor), nullptr, bound.to_string()}));
    return {};
}

Expected<void> Server::State::bind_local(const ListenAddress& where, const ListenConfig& config) {
    if (auto cleared = clear_socket_file(where); !cleared) return cleared;
    beast::error_code error;
    Local::acceptor acceptor(loop);
    acceptor.open(Local(), error);
    if (error) return cannot_listen(where, error.message());
    // Nobody else gets in before mode and group are right.
    const mode_t mask = ::umask(0177);
    acceptor.bind(Local::endpoint(where.socket), error);
    ::umask(mask);
    if (error) {
        const std::string directory = std::filesystem::path(where.socket).parent_path().string();
        return cannot_listen(
            where, error.message() + "; " + directory + " must exist and be writable for keeld");
    }
    auto file = std::make_unique<SocketFile>(where.socket);
    if (!config.group.empty()) {
        const group* found = ::getgrnam(config.group.c_str());
        if (found == nullptr) return cannot_listen(where, "there is no group " + config.group);
        if (::chown(where.socket.c_str(), static_cast<uid_t>(-1), found->gr_gid) != 0) {
            return cannot_listen(
                where, "cannot be given to the group " + config.group + ": " + message_of(errno));
        }
    }
    const auto mode = static_cast<mode_t>(std::strtoul(config.mode.c_str(), nullptr, 8));
    if (::chmod(where.socket.c_str(), mode) != 0) {
        return cannot_listen(where, "its mode cannot be set: " + message_of(errno));
    }
    acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (error) return cannot_listen(where, error.message());
    listeners.push_back(std::make_shared<Listener>(
        Listener{std::move(acceptor), std::move(file), where.to_string()}));
    return {};
}

Task<void> Server::State::accept_all(std::shared_ptr<Listener> listener) {
    const auto self = shared_from_this();
    while (!stopping) {
        std::optional<Socket> socket = co_await accept_one(listener);
        if (socket) {
            co_await wait_for_room();
            start(std::move(*socket), *listener);
        } else if (!stopping) {
            asio::steady_timer pause(loop, kAcceptPause);
            co_await pause.async_wait(kToken);
        }
    }
}

// nullopt: accept itself failed, for want of descriptors or memory, or because the listener closed.
Task<std::optional<Socket>> Server::State::accept_one(std::shared_ptr<Listener> listener) {
    if (auto* tcp = std::get_if<Tcp::acceptor>(&listener->acceptor)) {
        auto [error, socket] = co_await tcp->async_accept(kToken);
        if (error) co_return std::nullopt;
        beast::error_code ignored;
        socket.set_option(Tcp::no_delay(true), ignored);
        co_return Socket(std::move(socket));
    }
    auto& local = std::get<Local::acceptor>(listener->acceptor);
    auto [error, socket] = co_await local.async_accept(kToken);
    if (error) co_return std::nullopt;
    co_return Socket(std::move(socket));
}

// At the limit the connection that has been without a request for longest makes room for a new one.
Task<void> Server::State::wait_for_room() {
    while (!stopping && connections.size() >= limits.max_connections) {
        const auto oldest = std::min_element(
            connections.begin(), connections.end(),
            [](const auto& a, const auto& b) { return a->idle_since < b->idle_since; });
        if ((*oldest)->idle()) (*oldest)->close();
        co_await room.async_wait(kToken);
    }
}

void Server::State::start(Socket socket, const Listener& listener) {
    if (stopping) return;
    auto connection =
        std::make_shared<Connection>(std::move(socket), listener.local(), listener.name);
    connections.push_back(connection);
    auto slot = connection->cancel.slot();
    asio::co_spawn(loop, serve(connection), asio::bind_cancellation_slot(slot, asio::detached));
}

// --- one connection ---

Task<void> Server::State::serve(std::shared_ptr<Connection> connection) {
    const auto self = shared_from_this();
    beast::flat_buffer buffer;
    try {
        bool more = true;
        while (more && !stopping)
            more = co_await serve_one(connection, buffer);
    } catch (const std::exception&) {
        // Cancelled at shutdown, or no memory: this connection ends, the others go on.
    }
    connection->close();
    ended(connection);
}

// True: the connection may carry another request.
Task<bool> Server::State::serve_one(std::shared_ptr<Connection> connection,
                                    beast::flat_buffer& buffer) {
    Parser parser;
    parser.header_limit(kMaxHead);
    parser.body_limit(limits.max_body);
    const beast::error_code error = co_await read(connection, buffer, parser);
    if (error) {
        const auto refusal = unreadable(error, limits);
        if (!refusal) co_return false;
        Response response = make_response(*refusal, true, false);
        const bool written = co_await write(connection, std::move(response));
        if (written) co_await linger(connection);
        co_return false;
    }
    const ApiResponse answered = co_await answer(connection, parser);
    const bool keep_alive = parser.get().keep_alive() && !stopping;
    const bool with_body = parser.get().method() != http::verb::head;
    Response response = make_response(answered, with_body, keep_alive);
    const bool written = co_await write(connection, std::move(response));
    co_return written&& keep_alive;
}

Task<beast::error_code> Server::State::read(std::shared_ptr<Connection> connection,
                                            beast::flat_buffer& buffer, Parser& parser) {
    Stream& stream = connection->stream;
    if (buffer.size() == 0) {
        connection->idle_since = Steady::now();
        room.cancel();
        stream.expires_after(limits.idle_time);
        const auto space = buffer.prepare(kReadSize);
        auto [error, size] = co_await stream.async_read_some(space, kToken);
        // Nobody has asked anything yet, so nobody waits for an answer.
        if (error) co_return http::make_error_code(http::error::end_of_stream);
        buffer.commit(size);
    }
    connection->idle_since = Steady::time_point::max();
    stream.expires_after(limits.request_time);
    auto [error, size] = co_await http::async_read_header(stream, buffer, parser, kToken);
    if (error) co_return error;
    const auto expect = parser.get().find(http::field::expect);
    if (expect != parser.get().end() && beast::iequals(expect->value(), "100-continue")) {
        http::response<http::empty_body> proceed{http::status::continue_, 11};
        auto [failed, written] = co_await http::async_write(stream, proceed, kToken);
        if (failed) co_return failed;
    }
    auto [body_error, body_size] = co_await http::async_read(stream, buffer, parser, kToken);
    stream.expires_never();
    co_return body_error;
}

Task<ApiResponse> Server::State::answer(std::shared_ptr<Connection> connection, Parser& parser) {
    ApiRequest request = make_request(parser);
    const std::string_view target(parser.get().target().data(), parser.get().target().size());
    if (!read_target(target, request)) {
        co_return api_error(400, "bad-request",
                            "the request's target is not a path, or its escapes are broken");
    }
    if (!connection->local && !is_local_host(request.header("host"))) {
        co_return api_error(421, "wrong-host",
                            "the Host header must be localhost or a loopback address");
    }
    if (request.method == "HEAD") request.method = "GET";
    request.body = std::move(parser.get().body());
    request.local_socket = connection->local;
    if (connection->local) request.peer_uid = peer_of(connection->stream.socket());
    request.serve = connection->serve;
    ApiResponse response = co_await call(std::move(request));
    co_return response;
}

// What a library below the handler throws costs one request, not the process.
Task<ApiResponse> Server::State::call(ApiRequest request) {
    std::string thrown;
    try {
        ApiResponse response = co_await handler(std::move(request));
        co_return response;
    } catch (const boost::system::system_error& error) {
        if (error.code() == asio::error::operation_aborted) throw;
        thrown = error.what();
    } catch (const std::exception& error) {
        thrown = error.what();
    }
    co_return api_error(500, "internal", "an error inside keeld: " + thrown);
}

Task<bool> Server::State::write(std::shared_ptr<Connection> connection, Response response) {
    connection->stream.expires_after(kAnswerTime);
    auto [error, size] = co_await http::async_write(connection->stream, response, kToken);
    connection->stream.expires_never();
    co_return !error;
}

Task<void> Server::State::linger(std::shared_ptr<Connection> connection) {
    beast::error_code ignored;
    connection->stream.socket().shutdown(Socket::shutdown_send, ignored);
    connection->stream.expires_after(kLingerTime);
    std::array<char, kReadSize> dropped;
    const auto space = asio::buffer(dropped);
    for (std::size_t total = 0; total < kLingerBytes;) {
        auto [error, size] = co_await connection->stream.async_read_some(space, kToken);
        if (error) break;
        total += size;
    }
}

// --- ending ---

void Server::State::ended(const std::shared_ptr<Connection>& connection) {
    connections.remove(connection);
    room.cancel();
    if (connections.empty()) drained.cancel();
}

void Server::State::stop_listening() {
    stopping = true;
    for (const auto& listener : listeners)
        listener->close();
    room.cancel();
}

void Server::State::close_idle() {
    for (const auto& connection : connections) {
        if (connection->idle()) connection->close();
    }
}

void Server::State::cut() {
    const auto all = connections;  // cancelling may end some at once
    for (const auto& connection : all) {
        connection->close();
        connection->cancel.emit(asio::cancellation_type::terminal);
    }
}

Server::Server(Loop& loop, ApiHandler handler, ServerLimits limits)
    : state_(std::make_shared<State>(loop, std::move(handler), limits)) {}

Server::Server(Loop& loop, ApiHandler handler, std::size_t max_body)
    : state_(std::make_shared<State>(loop, std::move(handler), ServerLimits{})) {
    state_->limits.max_body = max_body;
}

Server::~Server() {
    state_->stop_listening();
    for (const auto& connection : state_->connections)
        connection->close();
    // Asio passes a cancellation on through dispatch() with a plain pointer, which is only safe on
    // the loop.
    asio::post(state_->loop, [state = state_] { state->cut(); });
}

Expected<void> Server::listen(const ListenConfig& where) {
    const auto address = ListenAddress::parse(where.at);
    if (!address) return tl::unexpected(address.error());
    auto bound =
        address->socket.empty() ? state_->bind_tcp(*address) : state_->bind_local(*address, where);
    if (!bound) return bound;
    const auto& listener = state_->listeners.back();
    state_->addresses.push_back(listener->name);
    asio::co_spawn(state_->loop, state_->accept_all(listener), asio::detached);
    return {};
}

const std::vector<std::string>& Server::addresses() const {
    return state_->addresses;
}

Task<void> Server::shutdown(std::chrono::milliseconds grace) {
    const auto state = state_;
    state->stop_listening();
    state->close_idle();
    if (!state->connections.empty()) {
        state->drained.expires_after(grace);
        co_await state->drained.async_wait(kToken);
    }
    if (!state->connections.empty()) {
        state->cut();
        state->drained.expires_after(kCancelTime);
        co_await state->drained.async_wait(kToken);
    }
}

}  // namespace keel
