#include "keeld/cluster/client.h"

#include <curl/curl.h>
#include <jansson.h>
#include <malloc.h>

#include <algorithm>
#include <charconv>

#include "keeld/clock.h"
#include "keeld/cluster/credentials.h"
#include "keeld/cluster/page.h"
#include "keeld/json.h"
#include "keeld/signal.h"

namespace keel {
namespace {

constexpr int kRepeats = 5;
constexpr int kListRestarts = 3;
constexpr Millis kListTimeout{60'000};
constexpr Millis kWatchGrace{30'000};  // beyond the time that the server was asked for
constexpr std::size_t kMaxEvent = 16U << 20U;
constexpr char kMetadataOnly[] =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

// "TooManyRequests" is "too-many-requests".
std::string hyphenated(std::string_view reason) {
    std::string code;
    for (const char c : reason) {
        const bool upper = c >= 'A' && c <= 'Z';
        if (upper && !code.empty()) code += '-';
        code += upper ? static_cast<char>(c - 'A' + 'a') : c;
    }
    return code;
}

std::string code_of(std::string_view reason, int status) {
    if (status == 410 || reason == "Expired") return "gone";
    if (reason == "Timeout") return "server-timeout";  // "timeout" is the transport's
    if (!reason.empty() && reason != "Unknown") return hyphenated(reason);
    switch (status) {
        case 400:
            return "bad-request";
        case 401:
            return "unauthorized";
        case 403:
            return "forbidden";
        case 404:
            return "not-found";
        case 409:
            return "conflict";
        case 422:
            return "invalid";
        case 429:
            return "too-many-requests";
        case 503:
            return "service-unavailable";
        case 504:
            return "server-timeout";
        default:
            return "http-" + std::to_string(status);
    }
}

// From a Status object, or from whatever else came with the number.
Error status_error(const json_t* body, int status, const std::string& what) {
    const bool is_status = text_of(body, "kind") == "Status";
    const std::string_view message = is_status ? text_of(body, "message") : std::string_view{};
    return Error{code_of(is_status ? text_of(body, "reason") : std::string_view{}, status),
                 what + ": " + std::to_string(status) +
                     (message.empty() ? std::string{} : ", " + std::string{message})};
}

// Seconds, as the API server writes it; a date or nonsense is nullopt.
std::optional<std::chrono::seconds> retry_after(const HttpResponse& answer) {
    const std::string_view text = answer.header("retry-after");
    int seconds = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    if (error != std::errc{} || end != text.data() + text.size() || seconds < 0) {
        return std::nullopt;
    }
    return std::chrono::seconds{seconds};
}

// How long to wait before the same request may be sent again; nullopt: not at all.
std::optional<std::chrono::seconds> repeat_after(const HttpResponse& answer) {
    if (answer.status == 429) {
        return std::max(retry_after(answer).value_or(std::chrono::seconds{1}),
                        std::chrono::seconds{1});
    }
    if (answer.status == 503) return retry_after(answer);
    return std::nullopt;
}

std::string with_query(const std::string& path, const std::string& query) {
    return query.empty() ? path : path + "?" + query;
}

std::string path_of(const std::string& target) {
    return target.substr(0, target.find('?'));
}

// Cuts a watch's stream into lines and each line into type and object.
class EventStream {
  public:
    EventStream(std::string what, std::function<bool(std::string_view, const json_t*)> each)
        : what_(std::move(what)), each_(std::move(each)) {}

    // False ends the watch; problem() tells whether that is an error.
    bool take(std::string_view data) {
        while (!data.empty()) {
            const std::size_t end = data.find('\n');
            if (end == std::string_view::npos) return keep(data);
            const std::string_view piece = data.substr(0, end);
            data.remove_prefix(end + 1);
            if (rest_.empty()) {
                if (!line(piece)) return false;
                continue;
            }
            rest_.append(piece);
            const std::string whole = std::exchange(rest_, {});
            if (!line(whole)) return false;
        }
        return true;
    }
    [[nodiscard]] const std::optional<Error>& problem() const { return problem_; }

  private:
    bool keep(std::string_view piece) {
        if (rest_.size() + piece.size() > kMaxEvent) {
            problem_ = Error{"too-large", what_ + ": an event of more than 16 MiB"};
            return false;
        }
        rest_.append(piece);
        return true;
    }
    bool line(std::string_view text) {
        if (text.empty()) return true;
        const Json event = parse_json(text);
        const std::string_view type = text_of(event.get(), "type");
        const json_t* object = json_object_get(event.get(), "object");
        if (type.empty() || !json_is_object(object)) {
            problem_ = Error{"bad-answer", what_ + ": a line that is no event"};
            return false;
        }
        if (type == "ERROR") {
            const auto status = json_integer_value(json_object_get(object, "code"));
            problem_ = status_error(object, static_cast<int>(status), what_);
            return false;
        }
        return each_(type, object);
    }

    std::string what_;
    std::function<bool(std::string_view, const json_t*)> each_;
    std::string rest_;  // of a line whose end has not come
    std::optional<Error> problem_;
};

}  // namespace

std::string query_escape(std::string_view text) {
    char* escaped = curl_easy_escape(nullptr, text.data(), static_cast<int>(text.size()));
    std::string copy{escaped != nullptr ? escaped : ""};
    curl_free(escaped);
    return copy;
}

class ClusterClient::Impl {
  public:
    Impl(Loop& loop, HttpClient& http, ClusterAccess access)
        : loop_(loop),
          http_(http),
          server_(access.server),
          proxy_(access.proxy),
          credentials_(std::make_shared<Credentials>(loop, std::move(access))) {}

    // What goes beyond a Call.
    struct Shape {
        std::string accept = "application/json";
        Millis idle{0};
        std::function<void(int)> on_status;
        std::function<bool(std::string_view)> on_data;
    };

    // One 2xx answer, its body as text.
    static Task<Expected<HttpResponse>> perform(std::shared_ptr<Impl> self, Call call, Shape shape);
    static Task<Expected<Json>> decoded(std::shared_ptr<Impl> self, Call call);
    static Task<Expected<std::string>> list(std::shared_ptr<Impl> self, ListOptions options,
                                            std::function<void(const json_t*)> each,
                                            std::function<void()> restart);
    static Task<Expected<void>> watch(std::shared_ptr<Impl> self, WatchOptions options,
                                      std::function<bool(std::string_view, const json_t*)> each,
                                      std::function<void()> opened);
    static Task<Expected<bool>> allowed(std::shared_ptr<Impl> self, AccessQuestion question);

  private:
    [[nodiscard]] HttpRequest request(const Call& call, const Shape& shape,
                                      const ClusterCredential& credential) const;

    Loop& loop_;
    HttpClient& http_;
    std::string server_;
    std::string proxy_;
    std::shared_ptr<Credentials> credentials_;
};

HttpRequest ClusterClient::Impl::request(const Call& call, const Shape& shape,
                                         const ClusterCredential& credential) const {
    HttpRequest request;
    request.method = call.method;
    request.url = server_ + call.path;
    request.headers.push_back({"Accept", shape.accept});
    if (!credential.authorization.empty()) {
        request.headers.push_back({"Authorization", credential.authorization});
    }
    if (!call.content_type.empty()) request.headers.push_back({"Content-Type", call.content_type});
    request.body = call.body;
    request.tls = credential.tls;
    request.proxy = proxy_;
    request.timeout = call.timeout;
    request.idle_timeout = shape.idle;
    request.on_status = shape.on_status;
    request.on_data = shape.on_data;
    return request;
}

Task<Expected<HttpResponse>> ClusterClient::Impl::perform(std::shared_ptr<Impl> self, Call call,
                                                          Shape shape) {
    const std::string what = call.method + " " + path_of(call.path);
    const Steady::time_point patience = Steady::now() + call.patience;
    bool renewed = false;
    for (int attempt = 0;; ++attempt) {
        const Expected<ClusterCredential> credential =
            co_await Credentials::get(self->credentials_);
        if (!credential) co_return tl::unexpected<Error>(credential.error());
        if (call.may_write && !call.may_write()) {
            co_return fail("not-allowed", what + ": not sent, writing is not allowed any more");
        }
        HttpRequest request = self->request(call, shape, *credential);
        Expected<HttpResponse> answer = co_await self->http_.send(std::move(request));
        if (!answer || answer->status / 100 == 2) co_return answer;
        if (answer->status == 401 && !renewed && self->credentials_->refused(*credential)) {
            renewed = true;
            continue;
        }
        const std::optional<std::chrono::seconds> wait = repeat_after(*answer);
        if (!wait || attempt >= kRepeats || Steady::now() + *wait > patience) {
            const Json body = parse_json(answer->body);
            co_return tl::unexpected<Error>(status_error(body.get(), answer->status, what));
        }
        co_await pause_for(self->loop_, *wait);
    }
}

Task<Expected<Json>> ClusterClient::Impl::decoded(std::shared_ptr<Impl> self, Call call) {
    const std::string what = call.method + " " + path_of(call.path);
    Shape shape;
    const Expected<HttpResponse> answer = co_await perform(self, std::move(call), std::move(shape));
    if (!answer) co_return tl::unexpected<Error>(answer.error());
    Json body = parse_json(answer->body);
    if (body == nullptr) co_return fail("bad-answer", what + ": the answer is no JSON");
    co_return body;
}

Task<Expected<std::string>> ClusterClient::Impl::list(std::shared_ptr<Impl> self,
                                                      ListOptions options,
                                                      std::function<void(const json_t*)> each,
                                                      std::function<void()> restart) {
    int page_size = std::max(1, options.page);
    int restarts = 0;
    std::string next;
    const std::string filter = options.query.empty() ? "" : options.query + "&";
    for (bool first = true;; first = false) {
        Call call;
        call.path =
            with_query(options.path, filter + "limit=" + std::to_string(page_size) +
                                         (next.empty() ? "" : "&continue=" + query_escape(next)));
        call.timeout = kListTimeout;
        Shape shape;
        if (options.metadata_only) shape.accept = kMetadataOnly;
        Expected<HttpResponse> answer = co_await perform(self, std::move(call), std::move(shape));
        if (!answer) {
            const std::string& code = answer.error().code;
            if (code == "too-large" && page_size > 1) {
                page_size = (page_size + 1) / 2;
                continue;
            }
            if (code == "gone" && !next.empty() && restarts < kListRestarts) {
                ++restarts;
                next.clear();
                if (restart) restart();
                continue;
            }
            co_return tl::unexpected<Error>(answer.error());
        }
        const Expected<ListPage> page = read_list_page(answer->body, each);
        if (!page) {
            co_return fail(page.error().code, "GET " + options.path + ": " + page.error().text);
        }
        if (page->next.empty()) {
            // What the pages took goes back to the system: the heap would keep it for good.
            if (!first) {
                *answer = {};
                malloc_trim(0);
            }
            co_return page->resource_version;
        }
        next = page->next;
    }
}

Task<Expected<void>> ClusterClient::Impl::watch(
    std::shared_ptr<Impl> self, WatchOptions options,
    std::function<bool(std::string_view, const json_t*)> each, std::function<void()> opened) {
    const auto stream =
        std::make_shared<EventStream>("GET " + options.path + " (watch)", std::move(each));
    const std::string filter = options.query.empty() ? "" : options.query + "&";
    Call call;
    call.path =
        with_query(options.path, filter + "watch=1&allowWatchBookmarks=true&resourceVersion=" +
                                     query_escape(options.resource_version) +
                                     "&timeoutSeconds=" + std::to_string(options.timeout_seconds));
    call.timeout = std::chrono::seconds{options.timeout_seconds} + kWatchGrace;
    Shape shape;
    shape.idle = options.idle;
    shape.on_data = [stream](std::string_view data) { return stream->take(data); };
    shape.on_status = [opened = std::move(opened)](int status) {
        if (opened && status / 100 == 2) opened();
    };
    const Expected<HttpResponse> answer = co_await perform(self, std::move(call), std::move(shape));
    if (stream->problem()) co_return tl::unexpected<Error>(*stream->problem());
    if (!answer && answer.error().code != "stopped" && answer.error().code != "timeout") {
        co_return tl::unexpected<Error>(answer.error());
    }
    co_return Expected<void>{};
}

Task<Expected<bool>> ClusterClient::Impl::allowed(std::shared_ptr<Impl> self,
                                                  AccessQuestion question) {
    const Json body{json_pack("{s:s, s:s, s:{s:{s:s, s:s, s:s, s:s, s:s}}}", "apiVersion",
                              "authorization.k8s.io/v1", "kind", "SelfSubjectAccessReview", "spec",
                              "resourceAttributes", "verb", question.verb.c_str(), "group",
                              question.group.c_str(), "resource", question.resource.c_str(),
                              "namespace", question.ns.c_str(), "name", question.name.c_str())};
    Call call;
    call.method = "POST";
    call.path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    call.content_type = "application/json";
    call.body = dump_json(body.get());
    const Expected<Json> answer = co_await decoded(self, std::move(call));
    if (!answer) co_return tl::unexpected<Error>(answer.error());
    const json_t* status = json_object_get(answer->get(), "status");
    co_return json_is_true(json_object_get(status, "allowed"));
}

ClusterClient::ClusterClient(Loop& loop, HttpClient& http, ClusterAccess access)
    : impl_(std::make_shared<Impl>(loop, http, std::move(access))) {}

ClusterClient::~ClusterClient() = default;

Task<Expected<Json>> ClusterClient::get(std::string path) {
    Call call;
    call.path = std::move(path);
    return Impl::decoded(impl_, std::move(call));
}

Task<Expected<Json>> ClusterClient::patch(std::string path, std::string content_type,
                                          std::string body, std::function<bool()> may_write) {
    Call call;
    call.method = "PATCH";
    call.path = std::move(path);
    call.content_type = std::move(content_type);
    call.body = std::move(body);
    call.may_write = std::move(may_write);
    return Impl::decoded(impl_, std::move(call));
}

Task<Expected<Json>> ClusterClient::create(std::string path, std::string body) {
    Call call;
    call.method = "POST";
    call.path = std::move(path);
    call.content_type = "application/json";
    call.body = std::move(body);
    return Impl::decoded(impl_, std::move(call));
}

Task<Expected<Json>> ClusterClient::update(std::string path, std::string body) {
    Call call;
    call.method = "PUT";
    call.path = std::move(path);
    call.content_type = "application/json";
    call.body = std::move(body);
    return Impl::decoded(impl_, std::move(call));
}

Task<Expected<Json>> ClusterClient::call(Call call) {
    return Impl::decoded(impl_, std::move(call));
}

Task<Expected<std::string>> ClusterClient::list(ListOptions options,
                                                std::function<void(const json_t*)> each,
                                                std::function<void()> restart) {
    return Impl::list(impl_, std::move(options), std::move(each), std::move(restart));
}

Task<Expected<void>> ClusterClient::watch(WatchOptions options,
                                          std::function<bool(std::string_view, const json_t*)> each,
                                          std::function<void()> opened) {
    return Impl::watch(impl_, std::move(options), std::move(each), std::move(opened));
}

Task<Expected<bool>> ClusterClient::allowed(AccessQuestion question) {
    return Impl::allowed(impl_, std::move(question));
}

}  // namespace keel
