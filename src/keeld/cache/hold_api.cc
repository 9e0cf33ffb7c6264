#include "keeld/cache/hold_api.h"

#include <chrono>
#include <utility>

#include "core/signature.h"
#include "keeld/json.h"
#include "keeld/random_id.h"

namespace keel {
namespace {

constexpr Millis kReadTime{5'000};
constexpr Millis kWriteTime{10'000};  // the module gives its disk five seconds

// Never the same twice: a cache refuses what it has seen.
std::string message_id() {
    return "keeld-" + random_id(32);
}

json_t* time_or_null(Time time) {
    return time == Time{} ? json_null() : json_text(format_time(time));
}

std::string body_of(const HoldRequest& hold) {
    const Json root(json_object());
    json_object_set_new(root.get(), "digest", json_text(hold.digest.to_string()));
    json_object_set_new(root.get(), "reason", json_text(hold.reason));
    json_object_set_new(root.get(), "until", time_or_null(hold.until));
    json_object_set_new(root.get(), "verified", time_or_null(hold.verified));
    if (hold.kind != ManifestKind::unknown) {
        json_object_set_new(root.get(), "kind", json_text(to_string(hold.kind)));
    }
    json_object_set_new(root.get(), "force", json_boolean(hold.force));
    return dump_json(root.get());
}

// What the cache says against a request, for people.
std::string complaint(const HttpResponse& response) {
    const Json root = parse_json(response.body);
    const std::string_view text = text_of(json_object_get(root.get(), "error"), "text");
    return "answered " + std::to_string(response.status) +
           (text.empty() ? "" : ": " + std::string(text));
}

}  // namespace

HttpRequest cache_request(const std::string& api, const std::string& rest) {
    HttpRequest request;
    if (!api.starts_with("unix:")) {
        request.url = api + rest;
        return request;
    }
    const std::size_t colon = api.find(':', 5);
    request.unix_socket = api.substr(5, colon == std::string::npos ? colon : colon - 5);
    request.url = "http://cache" +
                  (colon == std::string::npos ? std::string() : api.substr(colon + 1)) + rest;
    return request;
}

HoldApi::HoldApi(HttpClient& http, const Clock& clock, CacheConfig cache)
    : http_(http), clock_(clock), cache_(std::move(cache)) {}

Task<Expected<CacheHolds>> HoldApi::list() {
    HttpRequest request = cache_request(cache_.api, "/holds");
    request.timeout = kReadTime;
    const Expected<HttpResponse> response = co_await http_.send(std::move(request));
    if (!response) {
        co_return tl::unexpected<Error>(response.error());
    }
    const std::string where = cache_.api + "/holds ";
    Expected<CacheHolds> all = decode_cache_holds(response->body);
    if (response->status != 200) {
        co_return fail("bad-answer", where + complaint(*response));
    }
    if (!all) {
        co_return fail("bad-answer",
                       where + "answered what is no list of holds: " + all.error().text);
    }
    co_return all;
}

Task<Expected<std::string>> HoldApi::put(HoldRequest hold, std::string revision) {
    std::string method = "PUT";
    std::string body = body_of(hold);
    const Expected<HttpResponse> response = co_await write(std::move(method), std::move(hold.tag),
                                                           std::move(revision), std::move(body));
    if (!response) {
        co_return tl::unexpected<Error>(response.error());
    }
    const Json root = parse_json(response->body);
    co_return std::string(text_of(json_object_get(root.get(), "hold"), "owner"));
}

Task<Expected<void>> HoldApi::remove(Tag tag, std::string revision) {
    std::string method = "DELETE";
    std::string body;
    const Expected<HttpResponse> response =
        co_await write(std::move(method), std::move(tag), std::move(revision), std::move(body));
    if (!response) {
        co_return tl::unexpected<Error>(response.error());
    }
    co_return Expected<void>{};
}

Task<Expected<HttpResponse>> HoldApi::write(std::string method, Tag tag, std::string revision,
                                            std::string body) {
    HttpRequest request = cache_request(cache_.api, "/holds/" + tag.to_string());
    request.method = method;
    request.timeout = kWriteTime;
    request.headers.push_back(HttpHeader{"If-Match", std::move(revision)});
    if (!body.empty()) {
        request.headers.push_back(HttpHeader{"Content-Type", "application/json"});
    }
    if (cache_.secrets) {
        const std::string id = message_id();
        const auto seconds =
            std::chrono::duration_cast<std::chrono::seconds>(clock_.now().time_since_epoch());
        const std::string timestamp = std::to_string(seconds.count());
        const std::size_t path = request.url.find('/', request.url.find("://") + 3);
        const std::string target = request.url.substr(path);
        const std::string what = signed_request(method, target, body);
        const std::string signature = cache_.secrets->sign(id, timestamp, what);
        request.headers.push_back(HttpHeader{"webhook-id", id});
        request.headers.push_back(HttpHeader{"webhook-timestamp", timestamp});
        request.headers.push_back(HttpHeader{"webhook-signature", signature});
    } else if (request.unix_socket.empty()) {
        co_return fail("no-secret", "caches[].secret of " + cache_.name +
                                        " is not set: keel_api is written to with a signature, or "
                                        "on a unix socket");
    }
    request.body = std::move(body);
    const std::string where = cache_.name + " ";
    const Expected<HttpResponse> response = co_await http_.send(std::move(request));
    if (!response) {
        co_return response;
    }
    if (response->status == 412) {
        co_return fail("stale", where + complaint(*response));
    }
    if (response->status == 404 && method == "DELETE") {
        co_return fail("stale", where + "has no such hold any more");
    }
    if (response->status / 100 != 2) {
        co_return fail("refused", where + complaint(*response));
    }
    co_return response;
}

}  // namespace keel
