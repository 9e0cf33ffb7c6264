#include "module/api.h"

#include <algorithm>
#include <exception>
#include <string>
#include <vector>

#include "core/api_request.h"
#include "core/event.h"
#include "module/api_reply.h"
#include "module/api_write.h"
#include "module/conf.h"
#include "module/holds.h"
#include "module/table.h"

namespace keel::ngx {
namespace {

constexpr ngx_uint_t kGone = 410;  // nginx has no name for it

json_t* size(std::uint64_t value) {
    return json_integer(static_cast<json_int_t>(value));
}

json_t* moment(std::int64_t millis) {
    return millis == 0 ? json_null() : json_string(format_time(to_time(millis)).c_str());
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

// Of one hold of this process's copy.
Tally tally_of(const MainConf& conf, const HoldCopy& copy, std::size_t index) {
    return control_of(conf).tally(copy.slots[index], copy.keys[index]);
}

// Holds that are over are none, also before the helper has lifted them.
json_t* holds_of(const MainConf& conf) {
    const HoldCopy& copy = current_holds(conf);
    const Time now = to_time(wall_millis());
    std::size_t count = 0;
    std::size_t unfetchable = 0;
    std::size_t ineffective = 0;
    for (std::size_t i = 0; i < copy.set.holds.size(); ++i) {
        if (!copy.set.holds[i].applies(now)) continue;
        const Tally tally = tally_of(conf, copy, i);
        ++count;
        if (tally.unfetchable > 0) ++unfetchable;
        if (tally.ineffective > 0) ++ineffective;
    }
    const std::string problem = control_of(conf).problem();
    return json_pack("{s:o,s:o,s:o,s:o,s:o}", "revision", counter(copy.set.revision), "count",
                     size(count), "unfetchable", size(unfetchable), "ineffective",
                     size(ineffective), "problem",
                     problem.empty() ? json_null() : json_string(problem.c_str()));
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
    return {
        NGX_HTTP_OK,
        text_of(checked(json_pack("{s:o,s:s,s:s,s:o,s:s,s:o,s:o,s:o,s:o,s:o}", "cache",
                                  name.empty() ? json_null() : json_string(name.c_str()), "version",
                                  KEEL_VERSION, "nginx", NGINX_VERSION, "zone", zone, "epoch",
                                  head.epoch.c_str(), "seq", counter(head.seq), "companions",
                                  companions_of(table, conf), "holds", holds_of(conf), "snapshot",
                                  snapshot_of(table, conf), "registries", registries_of(table))))};
}

// --- tags ---

json_t* only_seen(const TagRecord& record) {
    const TagState& state = record.state;
    return json_pack("{s:s,s:s,s:s,s:o}", "tag", state.tag.to_string().c_str(), "last_seen",
                     format_time(state.last_seen).c_str(), "no_kubelet_since",
                     format_time(record.no_kubelet_since).c_str(), "seq", counter(state.seq));
}

Reply tags(ngx_http_request_t* r, const MainConf& conf) {
    const Expected<TagsQuery> asked = parse_tags_query(view(r->args));
    if (!asked) return fault(NGX_HTTP_BAD_REQUEST, asked.error());
    Head head;
    std::vector<TagRecord> records;
    if (!table_of(conf).read(asked->epoch, asked->since, asked->limit, head, records)) {
        return fault(kGone, {"gone", "that epoch is over, this one is " + head.epoch +
                                         ": read from since=0"});
    }
    json_t* list = json_array();
    Json page = checked(json_pack("{s:s,s:o,s:o}", "epoch", head.epoch.c_str(), "seq",
                                  counter(head.seq), "tags", list));
    for (const TagRecord& record : records) {
        const TagState& state = record.state;
        if (asked->seen_since && state.last_seen < *asked->seen_since) continue;
        json_t* entry = asked->seen_since ? only_seen(record) : encode_tag_state(state, true);
        if (json_array_append_new(list, entry) != 0) throw std::bad_alloc();
    }
    const bool more = records.size() == asked->limit && records.back().state.seq < head.seq;
    json_object_set_new(page.get(), "next", more ? counter(records.back().state.seq) : json_null());
    return {NGX_HTTP_OK, text_of(std::move(page))};
}

// --- holds ---

Reply holds(const MainConf& conf) {
    const HoldCopy& copy = current_holds(conf);
    // Nothing known is not the same as nothing held.
    if (!copy.readable && copy.set.holds.empty()) {
        return fault(
            NGX_HTTP_SERVICE_UNAVAILABLE,
            {"unreadable", "the file of holds could not be read: " + control_of(conf).problem()});
    }
    const Time now = to_time(wall_millis());
    json_t* list = json_array();
    Json page =
        checked(json_pack("{s:o,s:o}", "revision", counter(copy.set.revision), "holds", list));
    for (std::size_t i = 0; i < copy.set.holds.size(); ++i) {
        const Hold& hold = copy.set.holds[i];
        if (!hold.applies(now)) continue;
        json_t* entry = encode_hold(hold);
        add_tally(entry, tally_of(conf, copy, i));
        if (json_array_append_new(list, entry) != 0) throw std::bad_alloc();
    }
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

void hold_metrics(std::string& out, const MainConf& conf) {
    const HoldCopy& copy = current_holds(conf);
    const Time now = to_time(wall_millis());
    const auto each = [&](const char* name, const char* help, std::uint64_t Tally::*which) {
        metric(out, name, help, "counter");
        for (std::size_t i = 0; i < copy.set.holds.size(); ++i) {
            if (!copy.set.holds[i].applies(now)) continue;
            sample(out, name, "tag=\"" + copy.set.holds[i].tag.to_string() + "\"",
                   tally_of(conf, copy, i).*which);
        }
    };
    metric(out, "keel_holds", "Tags that are held", "gauge");
    sample(out, "keel_holds", "",
           static_cast<std::uint64_t>(
               std::count_if(copy.set.holds.begin(), copy.set.holds.end(),
                             [&](const Hold& hold) { return hold.applies(now); })));
    metric(out, "keel_holds_revision", "Revision of the file of holds", "gauge");
    sample(out, "keel_holds_revision", "", copy.set.revision);
    each("keel_hold_answers_total", "Answers from a hold", &Tally::answers);
    each("keel_hold_unfetchable_total", "Requests for a held tag that got no manifest",
         &Tally::unfetchable);
    each("keel_hold_ineffective_total", "Answers for a held tag with another digest",
         &Tally::ineffective);
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
    hold_metrics(out, conf);
    if (conf.companions == nullptr) return {NGX_HTTP_OK, out, "text/plain; version=0.0.4"};
    metric(out, "keel_companion_behind", "Sequence numbers that the companion lacks", "gauge");
    for (ngx_uint_t i = 0; i < conf.companions->nelts; ++i) {
        const std::string_view url = view(static_cast<Companion*>(conf.companions->elts)[i].url);
        const CompanionState state = table.companion(url);
        sample(out, "keel_companion_behind", "url=\"" + std::string{url} + "\"",
               head.seq - std::min(head.seq, state.acked));  // read one after the other
    }
    return {NGX_HTTP_OK, out, "text/plain; version=0.0.4"};
}

// --- a request ---

// What follows the location's prefix.
std::string_view path_of(ngx_http_request_t* r) noexcept {
    const std::string_view uri = view(r->uri);
    const std::size_t prefix = location_conf(r)->api_prefix;
    // A rewrite may have led away from the location's own name.
    std::string_view path = uri.size() < prefix ? std::string_view{} : uri.substr(prefix);
    if (path.empty() || uri[prefix - 1] == '/') return path;
    // "location /keel", and /keel/status or /keelstatus.
    return path.starts_with('/') ? path.substr(1) : std::string_view{};
}

Reply read(ngx_http_request_t* r, const Expected<ApiPath>& path) {
    const MainConf& conf = *main_conf(r);
    if (!path) {
        return fault(path.error().code == "not-found" ? NGX_HTTP_NOT_FOUND : NGX_HTTP_BAD_REQUEST,
                     path.error());
    }
    if (path->resource == ApiResource::hold) {
        return fault(NGX_HTTP_NOT_ALLOWED, {"not-allowed", "a hold is written: PUT or DELETE"});
    }
    if (path->resource == ApiResource::current) {
        return fault(NGX_HTTP_NOT_ALLOWED, {"not-allowed", "a digest is confirmed by PUT"});
    }
    if (!(r->method & (NGX_HTTP_GET | NGX_HTTP_HEAD))) {
        return fault(NGX_HTTP_NOT_ALLOWED, {"not-allowed", "this is for reading: GET or HEAD"});
    }
    switch (path->resource) {
        case ApiResource::status:
            return status(conf);
        case ApiResource::tags:
            return tags(r, conf);
        case ApiResource::metrics:
            return metrics(conf);
        case ApiResource::holds:
            return holds(conf);
        default:
            return fault(NGX_HTTP_NOT_FOUND, {"not-found", "there is nothing here"});
    }
}

// Says so at once, as nginx does with its own limit.
ngx_int_t refuse_body(ngx_http_request_t* r) {
    r->expect_tested = 1;
    r->keepalive = 0;
    (void)ngx_http_discard_request_body(r);
    return send(r, body_too_large());
}

bool is_write(ngx_http_request_t* r, const ApiPath& path) noexcept {
    return (path.resource == ApiResource::hold && (r->method & (NGX_HTTP_PUT | NGX_HTTP_DELETE))) ||
           (path.resource == ApiResource::current && (r->method & NGX_HTTP_PUT));
}

}  // namespace

ngx_int_t answer_api(ngx_http_request_t* r) noexcept {
    try {
        if (r->headers_in.content_length_n > off_t{kMaxApiBody}) return refuse_body(r);
        Expected<ApiPath> path = parse_api_path(path_of(r));
        if (path && is_write(r, *path)) return answer_write(r, *std::move(path));
        const ngx_int_t rc = ngx_http_discard_request_body(r);
        return rc == NGX_OK ? send(r, read(r, path)) : rc;
    } catch (const std::exception& error) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0, "keel_api: %s", error.what());
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
}

}  // namespace keel::ngx
