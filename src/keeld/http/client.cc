// libcurl's multi interface on the loop: its sockets are waited for by Asio, its timer is one of
// Asio's. libcurl opens and closes the descriptors; we only watch them. No coroutine is resumed
// inside a libcurl callback: callbacks note what happened, and after() acts on it once libcurl has
// returned.
//
// Names are resolved by libcurl's own resolver thread (Debian's build has no c-ares); it touches
// nothing of ours.
#include "keeld/http/client.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <unordered_map>
#include <unordered_set>

#include "keeld/clock.h"

namespace keel {
namespace {

constexpr int kMaxRedirects = 5;
// libcurl counts those in use as well, and keeps none once there are more.
constexpr long kMaxKeptConnections = 256;
constexpr long kCaCacheSeconds = 60;  // a CA file that was replaced is noticed within this time
// A peer that acknowledges nothing for so long is gone: libcurl would go on using a connection that
// multiplexes requests, as it only ever ends the streams on it.
constexpr unsigned kTcpUserTimeoutMs = 20'000;
constexpr long kKeepAliveIdleSeconds = 15;
constexpr long kKeepAliveIntervalSeconds = 5;
// A timed out transfer takes its connection with it if nothing at all came on it for this time.
constexpr std::chrono::seconds kSilence{5};

struct EasyDelete {
    void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct ListDelete {
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
struct UrlDelete {
    void operator()(CURLU* url) const { curl_url_cleanup(url); }
};

// One request under way. Lives in the frame of the coroutine that sends it.
struct Transfer : std::enable_shared_from_this<Transfer> {
    using Noted = std::vector<std::shared_ptr<Transfer>>;
    Transfer(Loop& loop, HttpRequest&& asked, Noted& list)
        : request(std::move(asked)), wake(loop), noted(list) {}

    HttpRequest request;
    HttpResponse response;
    std::string shown_url;  // without credentials and query
    std::string scheme;
    std::string host;
    std::string port;
    std::unique_ptr<CURL, EasyDelete> easy;
    std::unique_ptr<curl_slist, ListDelete> headers;
    std::unique_ptr<curl_slist, ListDelete> connect_to;
    asio::steady_timer wake;  // its cancellation tells the coroutine that `finished` is set
    Noted& noted;             // where it puts itself when it has something to hand over
    std::string pending;      // of a stream, not yet handed to on_data
    int local_port = 0;       // of the connection; 0 before there is one, and on unix sockets
    bool opened = false;      // final headers are complete
    bool announced = false;   // on_status was called
    bool too_large = false;
    bool finished = false;
    CURLcode result = CURLE_OK;
    const char* ended = nullptr;  // the error code, where it was us who ended it
    Steady::time_point last_byte = Steady::now();
    char message[CURL_ERROR_SIZE] = {};

    [[nodiscard]] bool redirected() const {
        return request.follow_redirects && response.status / 100 == 3 &&
               !response.header("location").empty();
    }
    [[nodiscard]] bool streams() const {
        return request.on_data != nullptr && response.status / 100 == 2;
    }
};
using TransferPtr = std::shared_ptr<Transfer>;

// A descriptor that libcurl wants watched. A new one with the same number is another Socket, so
// that a wait that ends late cannot be taken for its successor's.
struct Socket {
    Socket(Loop& loop, int fd) : descriptor(loop, fd), number(fd) {}

    asio::posix::stream_descriptor descriptor;
    int number;
    int wanted = 0;  // CURL_POLL_IN, CURL_POLL_OUT bits
    bool alive = true;
    bool reading = false;
    bool writing = false;
    Steady::time_point last_read = Steady::now();
};
using SocketPtr = std::shared_ptr<Socket>;

std::string part_of(CURLU* url, CURLUPart part, unsigned flags = 0) {
    char* text = nullptr;
    if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return {};
    std::string copy{text};
    curl_free(text);
    return copy;
}

bool is_loopback(std::string_view host) {
    return host == "localhost" || host.starts_with("127.") || host == "[::1]";
}

bool has_line_break(std::string_view text) {
    return text.find_first_of(std::string_view{"\r\n\0", 3}) != std::string_view::npos;
}

bool same_name(std::string_view a, std::string_view b) {
    return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

std::string_view trimmed(std::string_view text) {
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    if (first == std::string_view::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

void append(std::unique_ptr<curl_slist, ListDelete>& list, const std::string& line) {
    curl_slist* longer = curl_slist_append(list.get(), line.c_str());
    if (longer == nullptr) throw std::bad_alloc();
    static_cast<void>(list.release());
    list.reset(longer);
}

void set_blob(CURL* easy, CURLoption option, const std::string& pem) {
    if (pem.empty()) return;
    curl_blob blob{const_cast<char*>(pem.data()), pem.size(), CURL_BLOB_NOCOPY};
    curl_easy_setopt(easy, option, &blob);
}

void set_text(CURL* easy, CURLoption option, const std::string& text) {
    if (!text.empty()) curl_easy_setopt(easy, option, text.c_str());
}

std::string_view code_of(CURLcode result) {
    switch (result) {
        case CURLE_URL_MALFORMAT:
        case CURLE_UNSUPPORTED_PROTOCOL:
            return "bad-url";
        case CURLE_OPERATION_TIMEDOUT:
            return "timeout";
        case CURLE_COULDNT_RESOLVE_HOST:
        case CURLE_COULDNT_RESOLVE_PROXY:
            return "no-such-host";
        case CURLE_PARTIAL_FILE:
            return "truncated";
        case CURLE_TOO_MANY_REDIRECTS:
            return "redirects";
        case CURLE_SSL_CONNECT_ERROR:
        case CURLE_SSL_CERTPROBLEM:
        case CURLE_SSL_CIPHER:
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_SSL_ISSUER_ERROR:
        case CURLE_SSL_CRL_BADFILE:
        case CURLE_SSL_INVALIDCERTSTATUS:
        case CURLE_SSL_CLIENTCERT:
        case CURLE_USE_SSL_FAILED:
            return "tls";
        case CURLE_OUT_OF_MEMORY:
        case CURLE_FILESIZE_EXCEEDED:
            return "too-large";
        default:
            return "unreachable";
    }
}

// --- libcurl's callbacks of one transfer ---------------------------------------------------------

std::size_t on_header(char* data, std::size_t size, std::size_t count, void* user) noexcept {
    auto* transfer = static_cast<Transfer*>(user);
    try {
        transfer->last_byte = Steady::now();
        const std::string_view line = trimmed({data, size * count});
        if (line.starts_with("HTTP/")) {  // interim answers and redirects come before the final one
            long status = 0;
            curl_easy_getinfo(transfer->easy.get(), CURLINFO_RESPONSE_CODE, &status);
            transfer->response = {};
            transfer->response.status = static_cast<int>(status);
        } else if (line.empty()) {
            if (transfer->response.status < 200 || transfer->redirected()) return size * count;
            transfer->opened = true;
            if (transfer->request.on_status)
                transfer->noted.push_back(transfer->shared_from_this());
        } else if (const std::size_t colon = line.find(':'); colon != std::string_view::npos) {
            transfer->response.headers.push_back({std::string{trimmed(line.substr(0, colon))},
                                                  std::string{trimmed(line.substr(colon + 1))}});
        }
        return size * count;
    } catch (...) {
        return 0;
    }
}

std::size_t on_body(char* data, std::size_t size, std::size_t count, void* user) noexcept {
    auto* transfer = static_cast<Transfer*>(user);
    try {
        transfer->last_byte = Steady::now();
        const std::size_t length = size * count;
        if (transfer->streams()) {
            if (transfer->pending.empty()) transfer->noted.push_back(transfer->shared_from_this());
            transfer->pending.append(data, length);
        } else if (length > transfer->request.max_body - transfer->response.body.size()) {
            transfer->too_large = true;
            return 0;
        } else {
            transfer->response.body.append(data, length);
        }
        return length;
    } catch (...) {
        return 0;
    }
}

int on_new_socket(void*, curl_socket_t fd, curlsocktype) noexcept {
    // Fails on unix sockets, where it means nothing.
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &kTcpUserTimeoutMs, sizeof(kTcpUserTimeoutMs));
    return CURL_SOCKOPT_OK;
}

int on_connection(void* user, char*, char*, int, int local_port) noexcept {
    static_cast<Transfer*>(user)->local_port = local_port;
    return CURL_PREREQFUNC_OK;
}

// The local TCP port of a descriptor; 0 for everything else.
int port_of(int fd) {
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
    if (address.ss_family == AF_INET) {
        return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
    }
    if (address.ss_family == AF_INET6) {
        return ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
    }
    return 0;
}

curl_socket_t open_socket(void*, curlsocktype, curl_sockaddr* address) noexcept {
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

}  // namespace

class HttpClient::Impl : public std::enable_shared_from_this<HttpClient::Impl> {
  public:
    Impl(Loop& loop, std::string user_agent);
    ~Impl();
    Impl(const Impl&) = delete;
    Impl& operator=(const Impl&) = delete;

    static Task<Expected<HttpResponse>> send(std::shared_ptr<Impl> self, HttpRequest request);
    void shutdown();

  private:
    // Takes the transfer away from libcurl however the coroutine ends.
    struct [[nodiscard]] Guard {
        Impl& client;
        Transfer& transfer;
        ~Guard() { client.finish(transfer); }
    };

    Expected<void> start(const TransferPtr& transfer);
    Expected<void> read_url(Transfer& transfer);
    void set_request(Transfer& transfer);
    void set_tls(Transfer& transfer);
    void set_route(Transfer& transfer);
    Expected<HttpResponse> outcome(Transfer& transfer);

    void action(curl_socket_t fd, int mask);
    void after();
    void hand_over(const TransferPtr& transfer);
    void end(Transfer& transfer, const char* code);
    void finish(Transfer& transfer);
    void drop_silent_connection(Transfer& transfer);

    void watch(const SocketPtr& socket);
    void forget(int fd);
    void set_timer(long milliseconds);

    static int on_socket(CURL*, curl_socket_t fd, int what, void* user, void* known) noexcept;
    static int on_timer(CURLM*, long milliseconds, void* user) noexcept;

    Loop& loop_;
    std::string user_agent_;
    CURLM* multi_ = nullptr;
    asio::steady_timer timer_;
    std::unordered_map<int, SocketPtr> sockets_;
    std::unordered_map<CURL*, TransferPtr> transfers_;
    std::vector<TransferPtr> noted_;  // have something to hand over
    bool closed_ = false;
};

HttpClient::Impl::Impl(Loop& loop, std::string user_agent)
    : loop_(loop), user_agent_(std::move(user_agent)), timer_(loop) {
    static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
    if (initialised != CURLE_OK) throw std::bad_alloc();
    multi_ = curl_multi_init();
    if (multi_ == nullptr) throw std::bad_alloc();
    curl_multi_setopt(multi_, CURLMOPT_SOCKETFUNCTION, &Impl::on_socket);
    curl_multi_setopt(multi_, CURLMOPT_SOCKETDATA, this);
    curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, &Impl::on_timer);
    curl_multi_setopt(multi_, CURLMOPT_TIMERDATA, this);
    curl_multi_setopt(multi_, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, kMaxKeptConnections);
}

HttpClient::Impl::~Impl() {
    shutdown();
    curl_multi_setopt(multi_, CURLMOPT_SOCKETFUNCTION, nullptr);
    curl_multi_setopt(multi_, CURLMOPT_TIMERFUNCTION, nullptr);
    while (!sockets_.empty())
        forget(sockets_.begin()->first);
    curl_multi_cleanup(multi_);
}

// --- the life of a request -----------------------------------------------------------------------

Task<Expected<HttpResponse>> HttpClient::Impl::send(std::shared_ptr<Impl> self,
                                                    HttpRequest request) {
    auto transfer = std::make_shared<Transfer>(self->loop_, std::move(request), self->noted_);
    const Expected<void> started = self->start(transfer);
    if (!started) co_return tl::unexpected<Error>(started.error());
    const Guard guard{*self, *transfer};
    while (!transfer->finished) {
        const Millis idle = transfer->request.idle_timeout;
        transfer->wake.expires_at(idle.count() > 0 ? transfer->last_byte + idle
                                                   : Steady::time_point::max());
        const auto [error] =
            co_await transfer->wake.async_wait(asio::as_tuple(asio::use_awaitable));
        if (transfer->finished) break;
        if (error) {
            self->end(*transfer, "cancelled");
        } else if (Steady::now() >= transfer->last_byte + idle) {
            self->drop_silent_connection(*transfer);
            self->end(*transfer, "timeout");
        }
    }
    co_return self->outcome(*transfer);
}

Expected<void> HttpClient::Impl::start(const TransferPtr& transfer) {
    if (closed_) return fail("cancelled", "no further requests: the HTTP client is shut down");
    const Expected<void> url = read_url(*transfer);
    if (!url) return url;
    for (const HttpHeader& header : transfer->request.headers) {
        if (has_line_break(header.name) || has_line_break(header.value)) {
            return fail("bad-url", transfer->shown_url + ": a header holds a line break");
        }
    }
    transfer->easy.reset(curl_easy_init());
    if (transfer->easy == nullptr) throw std::bad_alloc();
    set_request(*transfer);
    set_tls(*transfer);
    set_route(*transfer);
    transfers_.emplace(transfer->easy.get(), transfer);
    if (curl_multi_add_handle(multi_, transfer->easy.get()) != CURLM_OK) {
        transfers_.erase(transfer->easy.get());
        return fail("unreachable", transfer->shown_url + ": libcurl takes no further request");
    }
    return {};
}

Expected<void> HttpClient::Impl::read_url(Transfer& transfer) {
    const std::unique_ptr<CURLU, UrlDelete> url{curl_url()};
    if (url == nullptr) throw std::bad_alloc();
    if (curl_url_set(url.get(), CURLUPART_URL, transfer.request.url.c_str(), 0) != CURLUE_OK) {
        return fail("bad-url",
                    "a request's URL cannot be read; expected http:// or https://, a "
                    "host and a path");
    }
    transfer.scheme = part_of(url.get(), CURLUPART_SCHEME);
    transfer.host = part_of(url.get(), CURLUPART_HOST);
    transfer.port = part_of(url.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
    for (const CURLUPart part : {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_QUERY}) {
        curl_url_set(url.get(), part, nullptr, 0);
    }
    transfer.shown_url = part_of(url.get(), CURLUPART_URL);
    if (transfer.scheme != "http" && transfer.scheme != "https") {
        return fail("bad-url", transfer.shown_url + ": expected http:// or https://");
    }
    return {};
}

void HttpClient::Impl::set_request(Transfer& transfer) {
    CURL* easy = transfer.easy.get();
    const HttpRequest& request = transfer.request;
    curl_easy_setopt(easy, CURLOPT_URL, request.url.c_str());
    curl_easy_setopt(easy, CURLOPT_PRIVATE, &transfer);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer.message);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, user_agent_.c_str());
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, static_cast<long>(request.timeout.count()));
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     static_cast<long>(request.connect_timeout.count()));
    if (request.follow_redirects) {
        curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
        curl_easy_setopt(easy, CURLOPT_MAXREDIRS, static_cast<long>(kMaxRedirects));
        // Never from TLS to plain text.
        curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR,
                         transfer.scheme == "https" ? "https" : "http,https");
    }
    if (request.method == "HEAD") {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else if (request.method != "GET") {
        if (!request.body.empty() || request.method != "DELETE") {
            curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request.body.data());
            curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                             static_cast<curl_off_t>(request.body.size()));
        }
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
    }
    append(transfer.headers, "Expect:");  // no waiting for 100 Continue
    bool typed = false;
    for (const HttpHeader& header : request.headers) {
        typed = typed || same_name(header.name, "content-type");
        append(transfer.headers,
               header.value.empty() ? header.name + ";" : header.name + ": " + header.value);
    }
    if (!typed) append(transfer.headers, "Content-Type:");  // not libcurl's form encoding
}

void HttpClient::Impl::set_tls(Transfer& transfer) {
    if (transfer.scheme != "https") return;
    CURL* easy = transfer.easy.get();
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
    curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 1L);
    curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, kCaCacheSeconds);
    if (transfer.request.tls == nullptr) return;
    const TlsOptions& tls = *transfer.request.tls;
    if (!tls.ca_pem.empty()) {
        set_blob(easy, CURLOPT_CAINFO_BLOB, tls.ca_pem);
        curl_easy_setopt(easy, CURLOPT_CAPATH, nullptr);
    } else if (!tls.ca_file.empty()) {
        set_text(easy, CURLOPT_CAINFO, tls.ca_file);
        curl_easy_setopt(easy, CURLOPT_CAPATH, nullptr);
    }
    set_text(easy, CURLOPT_SSLCERT, tls.cert_file);
    set_blob(easy, CURLOPT_SSLCERT_BLOB, tls.cert_pem);
    set_text(easy, CURLOPT_SSLKEY, tls.key_file);
    set_blob(easy, CURLOPT_SSLKEY_BLOB, tls.key_pem);
    if (tls.insecure) {
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (!tls.server_name.empty() && tls.server_name != transfer.host) {
        // libcurl takes the name for SNI and verification from the URL: so that one names the
        // certificate's host, the connection goes to the real one, and Host stays what it was.
        const std::unique_ptr<CURLU, UrlDelete> url{curl_url()};
        if (url == nullptr) throw std::bad_alloc();
        curl_url_set(url.get(), CURLUPART_URL, transfer.request.url.c_str(), 0);
        const std::string authority =
            transfer.port == "443" ? transfer.host : transfer.host + ":" + transfer.port;
        curl_url_set(url.get(), CURLUPART_HOST, tls.server_name.c_str(), 0);
        curl_easy_setopt(easy, CURLOPT_URL, part_of(url.get(), CURLUPART_URL).c_str());
        append(transfer.headers, "Host: " + authority);
        append(transfer.connect_to,
               tls.server_name + ":" + transfer.port + ":" + transfer.host + ":" + transfer.port);
        curl_easy_setopt(easy, CURLOPT_CONNECT_TO, transfer.connect_to.get());
    }
}

void HttpClient::Impl::set_route(Transfer& transfer) {
    CURL* easy = transfer.easy.get();
    const HttpRequest& request = transfer.request;
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer.headers.get());
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, &on_connection);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, &open_socket);
    curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, &on_new_socket);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPIDLE, kKeepAliveIdleSeconds);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPINTVL, kKeepAliveIntervalSeconds);
    if (!request.unix_socket.empty()) {
        curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, request.unix_socket.c_str());
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
    } else if (!request.proxy.empty()) {
        curl_easy_setopt(easy, CURLOPT_PROXY, request.proxy.c_str());
        curl_easy_setopt(easy, CURLOPT_NOPROXY, "");
    } else if (is_loopback(transfer.host)) {
        // As Go's clients have it: the environment's proxy is never asked for this machine itself.
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
    }
}

Expected<HttpResponse> HttpClient::Impl::outcome(Transfer& transfer) {
    const std::string what = transfer.request.method + " " + transfer.shown_url + ": ";
    if (transfer.ended != nullptr) {
        const std::string_view code = transfer.ended;
        if (code == "timeout") {
            return fail("timeout", what + "nothing came for " +
                                       format_duration(transfer.request.idle_timeout));
        }
        return fail(transfer.ended, what + std::string{code});
    }
    if (transfer.too_large) {
        return fail("too-large", what + "the answer is larger than " +
                                     std::to_string(transfer.request.max_body) + " bytes");
    }
    // A refusal whose body broke off is one all the same: servers refuse before they have read all
    // of the request, and an API server that says 401 hangs up.
    const bool broke_off = transfer.result == CURLE_PARTIAL_FILE ||
                           transfer.result == CURLE_RECV_ERROR ||
                           transfer.result == CURLE_SEND_ERROR || transfer.result == CURLE_HTTP2 ||
                           transfer.result == CURLE_HTTP2_STREAM;
    const bool refused = broke_off && transfer.opened && transfer.response.status >= 400;
    if (transfer.result != CURLE_OK && !refused) {
        const char* message =
            transfer.message[0] != '\0' ? transfer.message : curl_easy_strerror(transfer.result);
        const bool elsewhere = transfer.redirected() && code_of(transfer.result) == "bad-url";
        return fail(elsewhere ? "redirects" : std::string{code_of(transfer.result)},
                    what + message);
    }
    return std::move(transfer.response);
}

void HttpClient::Impl::shutdown() {
    closed_ = true;
    std::vector<TransferPtr> left;
    left.reserve(transfers_.size());
    for (const auto& [easy, transfer] : transfers_)
        left.push_back(transfer);
    for (const TransferPtr& transfer : left)
        end(*transfer, "cancelled");
    timer_.cancel();
}

// --- between libcurl and the loop
// ------------------------------------------------------------------

void HttpClient::Impl::action(curl_socket_t fd, int mask) {
    int running = 0;
    curl_multi_socket_action(multi_, fd, mask, &running);
    after();
}

// Acts on what libcurl's callbacks noted. Runs outside of libcurl.
void HttpClient::Impl::after() {
    std::vector<TransferPtr> done;
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_, &left)) {
        if (message->msg != CURLMSG_DONE) continue;
        const auto found = transfers_.find(message->easy_handle);
        if (found == transfers_.end()) continue;
        found->second->result = message->data.result;
        done.push_back(found->second);
    }
    const std::vector<TransferPtr> noted = std::exchange(noted_, {});
    for (const TransferPtr& transfer : noted)
        hand_over(transfer);
    for (const TransferPtr& transfer : done) {
        if (transfer->finished) continue;
        if (transfer->result == CURLE_OPERATION_TIMEDOUT) drop_silent_connection(*transfer);
        finish(*transfer);
    }
}

void HttpClient::Impl::hand_over(const TransferPtr& transfer) {
    if (transfer->opened && !transfer->announced && !transfer->finished) {
        transfer->announced = true;
        if (transfer->request.on_status) transfer->request.on_status(transfer->response.status);
    }
    if (transfer->pending.empty() || transfer->finished) return;
    const std::string data = std::exchange(transfer->pending, {});
    if (!transfer->request.on_data(data)) end(*transfer, "stopped");
}

void HttpClient::Impl::end(Transfer& transfer, const char* code) {
    if (transfer.finished) return;
    transfer.ended = code;
    finish(transfer);
}

void HttpClient::Impl::finish(Transfer& transfer) {
    if (transfer.finished) return;
    transfer.finished = true;
    curl_multi_remove_handle(multi_, transfer.easy.get());
    transfer.wake.cancel();
    transfers_.erase(transfer.easy.get());
}

// A multiplexed connection outlives the transfers that time out on it. If nobody heard anything on
// it for a while it is dead (a load balancer that forgot us, for example), and everybody else
// should know now.
void HttpClient::Impl::drop_silent_connection(Transfer& transfer) {
    // libcurl does not tell which descriptor a stream was on, only the port at our end.
    for (const auto& [fd, socket] : sockets_) {
        if (transfer.local_port == 0 || port_of(fd) != transfer.local_port) continue;
        if (Steady::now() - socket->last_read >= kSilence) ::shutdown(fd, SHUT_RDWR);
    }
}

// Waits once for each direction that libcurl wants and that is not being waited for. Asio asks the
// kernel anew for each wait, so that readiness that is still there is seen again.
void HttpClient::Impl::watch(const SocketPtr& socket) {
    using Descriptor = asio::posix::stream_descriptor;
    const auto wait = [this, &socket](Descriptor::wait_type type, int bit, int mask,
                                      bool Socket::*waiting) {
        if ((socket->wanted & bit) == 0 || (*socket).*waiting) return;
        (*socket).*waiting = true;
        socket->descriptor.async_wait(type, [weak = weak_from_this(), socket, bit, mask,
                                             waiting](const boost::system::error_code& error) {
            (*socket).*waiting = false;
            const std::shared_ptr<Impl> self = weak.lock();
            if (self == nullptr || !socket->alive || error == asio::error::operation_aborted) {
                return;
            }
            if (bit == CURL_POLL_IN) socket->last_read = Steady::now();
            if ((socket->wanted & bit) != 0) {
                self->action(socket->number, error ? CURL_CSELECT_ERR : mask);
            }
            if (socket->alive) self->watch(socket);
        });
    };
    wait(Descriptor::wait_read, CURL_POLL_IN, CURL_CSELECT_IN, &Socket::reading);
    wait(Descriptor::wait_write, CURL_POLL_OUT, CURL_CSELECT_OUT, &Socket::writing);
}

void HttpClient::Impl::forget(int fd) {
    const auto found = sockets_.find(fd);
    if (found == sockets_.end()) return;
    found->second->alive = false;
    found->second->descriptor.release();  // libcurl closes it
    sockets_.erase(found);
}

int HttpClient::Impl::on_socket(CURL*, curl_socket_t fd, int what, void* user,
                                void* known) noexcept {
    auto* self = static_cast<Impl*>(user);
    try {
        // Unknown to libcurl but known to us: the number is in use again.
        if (what == CURL_POLL_REMOVE || known == nullptr) self->forget(fd);
        if (what == CURL_POLL_REMOVE) return 0;
        SocketPtr& socket = self->sockets_[fd];
        if (socket == nullptr) {
            socket = std::make_shared<Socket>(self->loop_, fd);
            curl_multi_assign(self->multi_, fd, socket.get());
        }
        socket->wanted = what;
        self->watch(SocketPtr{socket});
        return 0;
    } catch (...) {
        self->sockets_.erase(fd);
        return -1;  // libcurl fails its transfers
    }
}

void HttpClient::Impl::set_timer(long milliseconds) {
    timer_.expires_after(Millis{milliseconds});  // ends the wait before
    timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
        const std::shared_ptr<Impl> self = weak.lock();
        if (self != nullptr && !error) self->action(CURL_SOCKET_TIMEOUT, 0);
    });
}

int HttpClient::Impl::on_timer(CURLM*, long milliseconds, void* user) noexcept {
    auto* self = static_cast<Impl*>(user);
    try {
        if (milliseconds < 0) {
            self->timer_.cancel();
        } else {
            self->set_timer(milliseconds);
        }
        return 0;
    } catch (...) {
        return -1;
    }
}

HttpClient::HttpClient(Loop& loop, std::string user_agent)
    : impl_(std::make_shared<Impl>(loop, std::move(user_agent))) {}

HttpClient::~HttpClient() {
    impl_->shutdown();
}

Task<Expected<HttpResponse>> HttpClient::send(HttpRequest request) {
    return Impl::send(impl_, std::move(request));
}

void HttpClient::shutdown() {
    impl_->shutdown();
}

bool is_away(const Error& error) noexcept {
    return error.code == "unreachable" || error.code == "no-such-host" || error.code == "timeout" ||
           error.code == "tls" || error.code == "truncated";
}

std::optional<Time> parse_http_date(std::string_view text) {
    const std::time_t seconds = curl_getdate(std::string(text).c_str(), nullptr);
    if (seconds < 0) return std::nullopt;
    return Time{std::chrono::seconds{seconds}};
}

std::string_view HttpResponse::header(std::string_view name) const {
    for (const HttpHeader& header : headers) {
        if (same_name(header.name, name)) return header.value;
    }
    return {};
}

}  // namespace keel

// libcurl drags in GnuTLS, for RTMP, whose constructor sets up a megabyte that nobody here uses:
// GnuTLS asks this symbol of the program first (its GNUTLS_SKIP_GLOBAL_INIT).
extern "C" int _gnutls_global_init_skip();
extern "C" __attribute__((visibility("default"))) int _gnutls_global_init_skip() {
    return 1;
}
