#include "module/api.h"

#include <jansson.h>

#include <charconv>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/event.h"
#include "module/conf.h"
#include "module/table.h"

namespace keel::ngx {
namespace {

constexpr ngx_uint_t kGone = 410;  // nginx has no name for it
constexpr std::size_t kDefaultPage = 100;
constexpr std::size_t kLargestPage = 500;  // a page is made in one go: about 3 ms of a worker

struct FreeJson {
    void operator()(json_t* value) const noexcept { json_decref(value); }
};
using Json = std::unique_ptr<json_t, FreeJson>;

struct Reply {
    ngx_uint_t status = NGX_HTTP_OK;
    std::string body;
    const char* type = "application/json";
};

// `value` may be null when memory was short; the caller then has no reply.
std::string text_of(Json value) {
    std::unique_ptr<char, decltype(&std::free)> text{
        value ? json_dumps(value.get(), JSON_COMPACT) : nullptr, std::free};
    if (!text) throw std::bad_alloc();
    return text.get();
}

Json checked(json_t* value) {
    if (value == nullptr) throw std::bad_alloc();
    return Json{value};
}

json_t* counter(std::uint64_t value) {
    return json_string(std::to_string(value).c_str());
}

json_t* size(std::uint64_t value) {
    return json_integer(static_cast<json_int_t>(value));
}

json_t* moment(std::int64_t millis) {
    return millis == 0 ? json_null() : json_string(format_time(to_time(millis)).c_str());
}

Reply fault(ngx_uint_t status, const char* code, const std::string& text) {
    return {
        status,
        text_of(checked(json_pack("{s:{s:s,s:s}}", "error", "code", code, "text", text.c_str())))};
}

// --- status ---

json_t* companions_of(Table table, const MainConf& conf) {
    json_t* list = json_array();
    const ngx_uint_t count = conf.companions == nullptr ? 0 : conf.companions->nelts;
    for (ngx_uint_t i = 0; i < count; ++i) {
        const std::string url{view(static_cast<Companion*>(conf.companions->elts)[i].url)};
        const CompanionState state = table.companion(url);
        json_array_append_new(
            list, json_pack("{s:s,s:o,s:o,s:o,s:o}", "url", url.c_str(), "acked",
                            counter(state.acked), "last_success", moment(state.last_success),
                            "failures", counter(state.failures), "error",
                            state.error[0] == '\0' ? json_null() : json_string(state.error)));
    }
    return list;
}

json_t* requests(std::int64_t count) {
    return count < 0 ? json_null() : json_integer(static_cast<json_int_t>(count));
}

json_t* rates_of(const RegistryState& state) {
    if (state.rates_at == 0) return json_null();
    return json_pack("{s:o,s:o,s:o,s:o,s:o}", "limit", requests(state.rate_limit), "remaining",
                     requests(state.rate_remaining), "window",
                     state.rate_window == 0 ? json_null() : size(state.rate_window), "source",
                     state.rate_source[0] == '\0' ? json_null() : json_string(state.rate_source),
                     "at", moment(state.rates_at));
}

json_t* last_error_of(const RegistryState& state) {
    if (state.last_error == 0) return json_null();
    return json_pack("{s:o,s:o}", "status", size(state.last_error), "at",
                     moment(state.last_error_at));
}

json_t* snapshot_of(Table table, const MainConf& conf) {
    if (conf.state == nullptr) return json_null();
    const SnapshotState state = table.snapshot();
    const auto counters = table.counters();
    return json_pack("{s:o,s:o,s:o,s:o}", "written", moment(state.written), "restored",
                     counter(state.restored), "failures",
                     counter(counters[static_cast<std::size_t>(Counter::save_failures)]), "error",
                     state.error[0] == '\0' ? json_null() : json_string(state.error));
}

json_t* registries_of(Table table) {
    json_t* all = json_object();
    for (const RegistryState& state : table.registries()) {
        json_object_set_new(
            all, state.name,
            json_pack("{s:o,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "last_answer",
                      moment(state.last_answer), "last_status",
                      static_cast<json_int_t>(state.last_status), "observed",
                      counter(state.observed), "unauthorized", counter(state.unauthorized),
                      "not_found", counter(state.not_found), "throttled", counter(state.throttled),
                      "failed", counter(state.failed), "last_error", last_error_of(state),
                      "rate_limit", rates_of(state), "retry_at", moment(state.retry_at)));
    }
    return all;
}

Reply status(const MainConf& conf) {
    Table table = table_of(conf);
    const Head head = table.head();
    const ZoneUse use = table.use();
    const auto counters = table.counters();
    json_t* zone = json_pack("{s:o,s:o,s:o,s:o}", "size", size(use.size), "used", size(use.used),
                             "tags", size(head.tags), "evicted",
                             counter(counters[static_cast<std::size_t>(Counter::evicted)]));
    const std::string name{view(conf.cache_name)};
    return {NGX_HTTP_OK,
            text_of(checked(json_pack(
                "{s:o,s:s,s:s,s:o,s:s,s:o,s:o,s:{s:s,s:i,s:i},s:o,s:o}", "cache",
                name.empty() ? json_null() : json_string(name.c_str()), "version", KEEL_VERSION,
                "nginx", NGINX_VERSION, "zone", zone, "epoch", head.epoch.c_str(), "seq",
                counter(head.seq), "companions", companions_of(table, conf), "holds", "revision",
                "0", "count", 0, "ineffective", 0, "snapshot", snapshot_of(table, conf),
                "registries", registries_of(table))))};
}

// --- tags ---

std::optional<std::string_view> query(ngx_http_request_t* r, std::string_view name) {
    ngx_str_t value;
    if (ngx_http_arg(r, reinterpret_cast<u_char*>(const_cast<char*>(name.data())), name.size(),
                     &value) != NGX_OK) {
        return std::nullopt;
    }
    return view(value);
}

bool number(std::string_view text, std::uint64_t& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size() && !text.empty();
}

struct TagsQuery {
    std::uint64_t since = 0;
    std::string epoch;
    std::size_t limit = kDefaultPage;
    std::optional<Time> seen_since;
};

std::string decoded(std::string_view text) {
    std::string result(text.size(), '\0');
    auto* from = reinterpret_cast<u_char*>(const_cast<char*>(text.data()));
    auto* to = reinterpret_cast<u_char*>(result.data());
    const auto* begin = to;
    ngx_unescape_uri(&to, &from, text.size(), 0);
    result.resize(static_cast<std::size_t>(to - begin));
    return result;
}

// What is wrong with it, or nothing.
const char* parse_query(ngx_http_request_t* r, TagsQuery& asked) {
    if (const auto since = query(r, "since"); since && !number(*since, asked.since)) {
        return "since must be a decimal number";
    }
    if (const auto epoch = query(r, "epoch")) asked.epoch = *epoch;
    std::uint64_t limit = kDefaultPage;
    if (const auto text = query(r, "limit"); text && (!number(*text, limit) || limit == 0)) {
        return "limit must be a decimal number from 1";
    }
    asked.limit = std::min<std::uint64_t>(limit, kLargestPage);
    if (const auto text = query(r, "seen_since")) {
        asked.seen_since = parse_time(decoded(*text));
        if (!asked.seen_since) return "seen_since must be a time such as 2026-11-22T12:00:00Z";
    }
    if (asked.since > 0 && asked.epoch.empty()) return "since needs the epoch that it belongs to";
    return nullptr;
}

json_t* only_seen(const TagState& state) {
    return json_pack("{s:s,s:s,s:o}", "tag", state.tag.to_string().c_str(), "last_seen",
                     format_time(state.last_seen).c_str(), "seq", counter(state.seq));
}

Reply tags(ngx_http_request_t* r, const MainConf& conf) {
    TagsQuery asked;
    if (const char* wrong = parse_query(r, asked))
        return fault(NGX_HTTP_BAD_REQUEST, "bad-query", wrong);
    Head head;
    std::vector<TagRecord> records;
    if (!table_of(conf).read(asked.epoch, asked.since, asked.limit, head, records)) {
        return fault(kGone, "gone",
                     "that epoch is over, this one is " + head.epoch + ": read from since=0");
    }
    json_t* list = json_array();
    Json page = checked(json_pack("{s:s,s:o,s:o}", "epoch", head.epoch.c_str(), "seq",
                                  counter(head.seq), "tags", list));
    for (const TagRecord& record : records) {
        const TagState& state = record.state;
        if (asked.seen_since && state.last_seen < *asked.seen_since) continue;
        json_t* entry = asked.seen_since ? only_seen(state) : encode_tag_state(state, true);
        if (json_array_append_new(list, entry) != 0) throw std::bad_alloc();
    }
    const bool more = records.size() == asked.limit && records.back().state.seq < head.seq;
    json_object_set_new(page.get(), "next", more ? counter(records.back().state.seq) : json_null());
    return {NGX_HTTP_OK, text_of(std::move(page))};
}

// --- metrics ---

void metric(std::string& out, const char* name, const char* help, const char* type) {
    out.append("# HELP ").append(name).append(" ").append(help).append("\n# TYPE ");
    out.append(name).append(" ").append(type).append("\n");
}

void sample(std::string& out, const char* name, const std::string& labels, std::uint64_t value) {
    out.append(name);
    if (!labels.empty()) out.append("{").append(labels).append("}");
    out.append(" ").append(std::to_string(value)).append("\n");
}

// One metric for each registry that has it.
template <class Value>
void registry_metric(std::string& out, const std::vector<RegistryState>& registries,
                     const char* name, const char* help, const char* type, Value value) {
    bool first = true;
    for (const RegistryState& state : registries) {
        const std::int64_t number = value(state);
        if (number < 0) continue;
        if (first) metric(out, name, help, type);
        first = false;
        sample(out, name, "registry=\"" + std::string{state.name} + "\"",
               static_cast<std::uint64_t>(number));
    }
}

void registry_metrics(std::string& out, Table table) {
    const std::vector<RegistryState> registries = table.registries();
    const auto failed = [](const RegistryState& state) {
        return static_cast<std::int64_t>(state.unauthorized + state.not_found + state.throttled +
                                         state.failed);
    };
    registry_metric(out, registries, "keel_registry_errors_total",
                    "Answers of 401, 403, 404, 429 and 5xx", "counter", failed);
    registry_metric(out, registries, "keel_registry_throttled_total", "Answers of 429", "counter",
                    [](const RegistryState& state) { return std::int64_t(state.throttled); });
    registry_metric(
        out, registries, "keel_registry_rate_limit", "Requests by RateLimit-Limit", "gauge",
        [](const RegistryState& state) { return state.rates_at == 0 ? -1 : state.rate_limit; });
    registry_metric(
        out, registries, "keel_registry_rate_remaining", "Requests left by RateLimit-Remaining",
        "gauge",
        [](const RegistryState& state) { return state.rates_at == 0 ? -1 : state.rate_remaining; });
    registry_metric(out, registries, "keel_registry_retry_at_seconds",
                    "When the last Retry-After ends, in seconds since 1970", "gauge",
                    [](const RegistryState& state) {
                        return state.retry_at == 0 ? -1 : state.retry_at / 1000;
                    });
}

Reply metrics(const MainConf& conf) {
    Table table = table_of(conf);
    const Head head = table.head();
    const ZoneUse use = table.use();
    std::string out;
    const auto counters = table.counters();
    for (std::size_t i = 0; i < kCounters; ++i) {
        const CounterName& name = kCounterNames[i];
        if (name.help != nullptr) metric(out, name.metric, name.help, "counter");
        sample(out, name.metric, name.labels, counters[i]);
    }
    metric(out, "keel_tags", "Tags in the table", "gauge");
    sample(out, "keel_tags", "", head.tags);
    metric(out, "keel_zone_size_bytes", "Size of the zone", "gauge");
    sample(out, "keel_zone_size_bytes", "", use.size);
    metric(out, "keel_zone_used_bytes", "Pages of the zone in use", "gauge");
    sample(out, "keel_zone_used_bytes", "", use.used);
    registry_metrics(out, table);
    if (conf.state != nullptr) {
        metric(out, "keel_snapshot_written_seconds", "When the last snapshot was written, 0: never",
               "gauge");
        sample(out, "keel_snapshot_written_seconds", "",
               static_cast<std::uint64_t>(table.snapshot().written / 1000));
    }
    if (conf.companions == nullptr) return {NGX_HTTP_OK, out, "text/plain; version=0.0.4"};
    metric(out, "keel_companion_behind", "Sequence numbers that the companion lacks", "gauge");
    for (ngx_uint_t i = 0; i < conf.companions->nelts; ++i) {
        const std::string_view url = view(static_cast<Companion*>(conf.companions->elts)[i].url);
        const CompanionState state = table.companion(url);
        sample(out, "keel_companion_behind", "url=\"" + std::string{url} + "\"",
               head.seq - state.acked);
    }
    return {NGX_HTTP_OK, out, "text/plain; version=0.0.4"};
}

// --- a request ---

Reply reply_to(ngx_http_request_t* r) {
    const MainConf& conf = *main_conf(r);
    if (!(r->method & (NGX_HTTP_GET | NGX_HTTP_HEAD))) {
        return fault(NGX_HTTP_NOT_ALLOWED, "not-allowed", "keel_api is for reading: GET or HEAD");
    }
    const std::string_view uri = view(r->uri);
    const std::size_t prefix = location_conf(r)->api_prefix;
    std::string_view path = uri.size() < prefix ? std::string_view{} : uri.substr(prefix);
    if (path.empty()) {
        // A rewrite has led away from the location's own name.
    } else if (uri[prefix - 1] != '/' && path.starts_with('/')) {
        path.remove_prefix(1);
    } else if (uri[prefix - 1] != '/') {
        path = {};  // "location /keel" and a request for /keelstatus
    }
    if (path == "status") return status(conf);
    if (path == "tags") return tags(r, conf);
    if (path == "metrics") return metrics(conf);
    return fault(NGX_HTTP_NOT_FOUND, "not-found", "keel_api has status, tags and metrics");
}

ngx_int_t send(ngx_http_request_t* r, const Reply& reply) noexcept {
    r->headers_out.status = reply.status;
    r->headers_out.content_length_n = static_cast<off_t>(reply.body.size());
    r->headers_out.content_type = ngx_text(reply.type);
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = nullptr;
    ngx_buf_t* buffer = ngx_create_temp_buf(r->pool, reply.body.size() + 1);
    if (buffer == nullptr) return NGX_HTTP_INTERNAL_SERVER_ERROR;
    buffer->last = ngx_cpymem(buffer->last, reply.body.data(), reply.body.size());
    buffer->last_buf = r == r->main;
    buffer->last_in_chain = 1;
    const ngx_int_t rc = ngx_http_send_header(r);
    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) return rc;
    ngx_chain_t out{buffer, nullptr};
    return ngx_http_output_filter(r, &out);
}

}  // namespace

ngx_int_t answer_api(ngx_http_request_t* r) noexcept {
    const ngx_int_t rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) return rc;
    try {
        return send(r, reply_to(r));
    } catch (const std::exception& error) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0, "keel_api: %s", error.what());
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}

}  // namespace keel::ngx
