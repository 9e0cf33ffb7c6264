#include "module/observe.h"

#include <array>
#include <cstring>

#include "core/manifest_request.h"
#include "core/reference.h"
#include "module/helper.h"

namespace keel::ngx {
namespace {

constexpr std::string_view kDigestHeader = "Docker-Content-Digest";

// Does nothing: its address marks the pool cleanup whose data is the TagRequest.
void marker(void*) noexcept {}

// Almost everybody spells a header as its specification does: one memcmp decides.
bool is_header(const ngx_table_elt_t& header, std::string_view name) noexcept {
    if (header.key.len != name.size() || header.hash == 0) return false;
    return std::memcmp(header.key.data, name.data(), name.size()) == 0 ||
           ngx_strncasecmp(header.key.data,
                           reinterpret_cast<u_char*>(const_cast<char*>(name.data())),
                           name.size()) == 0;
}

// Calls visit(header) for every header line; both before and after nginx 1.23 the list holds them
// all.
template <class Visit>
void for_each_header(ngx_list_t& headers, Visit visit) noexcept {
    for (ngx_list_part_t* part = &headers.part; part != nullptr; part = part->next) {
        auto* lines = static_cast<ngx_table_elt_t*>(part->elts);
        for (ngx_uint_t i = 0; i < part->nelts; ++i)
            visit(lines[i]);
    }
}

// Blobs and manifests by digest, most of what a cache serves, are told by one byte: a ':' before 64
// or 128 characters is in no repository and in no tag.
bool ends_in_digest(std::string_view path) noexcept {
    constexpr std::size_t kSha256 = 65;
    constexpr std::size_t kSha512 = 129;
    return (path.size() > kSha256 && path[path.size() - kSha256] == ':') ||
           (path.size() > kSha512 && path[path.size() - kSha512] == ':');
}

// --- is it an observation? ---

// The main request's answer, or nginx refreshing its cache in the background for it; not what
// mirror and auth_request ask.
bool answers_client(ngx_http_request_t* r) noexcept {
    return r == r->main || (r->background && r->loc_conf == r->main->loc_conf);
}

bool comes_from_cache(const ngx_http_request_t* r) noexcept {
#if (NGX_HTTP_CACHE)
    switch (r->upstream->cache_status) {
        case NGX_HTTP_CACHE_STALE:
        case NGX_HTTP_CACHE_UPDATING:
        case NGX_HTTP_CACHE_HIT:
            return true;
        default:
            break;
    }
#endif
    return false;
}

// A cluster's nodes all send the same Accept line: the last one that was complete is recognised by
// a memcmp. Of this process; a line is either this one or it is parsed.
struct KnownAccept {
    std::array<char, 512> line;
    std::size_t size = 0;

    [[nodiscard]] bool is(std::string_view text) const noexcept {
        return size != 0 && text.size() == size && std::memcmp(line.data(), text.data(), size) == 0;
    }
    void set(std::string_view text) noexcept {
        if (text.size() > line.size()) return;
        std::memcpy(line.data(), text.data(), text.size());
        size = text.size();
    }
};

bool accepts_all_types(ngx_http_request_t* r) noexcept {
    static KnownAccept known;
    AcceptedTypes accepted;
    bool complete = false;
    for_each_header(r->headers_in.headers, [&](const ngx_table_elt_t& header) {
        if (complete || !is_header(header, "Accept")) return;
        const std::string_view line = view(header.value);
        if (known.is(line)) {
            complete = true;
            return;
        }
        AcceptedTypes alone;
        alone.add_line(line);
        if (alone.complete()) known.set(line);
        accepted.add_line(line);
        complete = accepted.complete();
    });
    return complete;
}

struct AnswerDigest {
    Digest digest;
    std::string_view text;
    bool present = false;
    bool bad = false;  // malformed, or two that differ
};

AnswerDigest answer_digest(ngx_http_request_t* r) noexcept {
    AnswerDigest result;
    for_each_header(r->headers_out.headers, [&](const ngx_table_elt_t& header) {
        if (!is_header(header, kDigestHeader)) return;
        const std::optional<Digest> digest = Digest::parse(view(header.value));
        if (!digest || (result.present && *digest != result.digest)) result.bad = true;
        if (digest) {
            result.digest = *digest;
            result.text = view(header.value);
        }
        result.present = true;
    });
    return result;
}

// --- the registry's name ---

// Go's clients escape the colon of a port in ?ns=.
std::string_view unescaped(ngx_http_request_t* r, ngx_str_t text) noexcept {
    if (ngx_strlchr(text.data, text.data + text.len, '%') == nullptr) return view(text);
    auto* begin = static_cast<u_char*>(ngx_pnalloc(r->pool, text.len));
    if (begin == nullptr) return {};
    u_char* from = text.data;
    u_char* to = begin;
    ngx_unescape_uri(&to, &from, text.len, 0);
    return {reinterpret_cast<char*>(begin), static_cast<std::size_t>(to - begin)};
}

// Empty when the request names none of the configured ones.
std::string_view registry_name(ngx_http_request_t* r, RegistryName& registry) noexcept {
    if (registry.fixed) return view(registry.value.value);
    ngx_str_t value;
    if (ngx_http_complex_value(r, &registry.value, &value) != NGX_OK) return {};
    const std::string_view asked = unescaped(r, value);
    const auto* names = static_cast<ngx_str_t*>(registry.names->elts);
    for (ngx_uint_t i = 0; i < registry.names->nelts; ++i) {
        if (view(names[i]) == asked) return view(names[i]);
    }
    return {};
}

std::string_view node_name(ngx_http_request_t* r, const LocationConf& conf) noexcept {
    ngx_str_t value;
    if (conf.node == nullptr || ngx_http_complex_value(r, conf.node, &value) != NGX_OK) {
        return view(r->connection->addr_text);
    }
    return view(value);
}

// --- the decision, one row of the table after the other ---

// Why the answer does not count; nothing when it does, and `seen` is filled.
std::optional<Counter> judge(ngx_http_request_t* r, Observation& seen,
                             std::string_view& digest_text) noexcept {
    const ngx_uint_t status = r->headers_out.status;
    if (status != NGX_HTTP_OK && status != NGX_HTTP_NOT_MODIFIED) return Counter::not_ok;
    if (r->headers_in.range != nullptr) return Counter::ranged;
    if (r->upstream == nullptr) return Counter::no_upstream;
    if (comes_from_cache(r)) return Counter::from_cache;
    if (!accepts_all_types(r)) return Counter::narrow_accept;
    seen.kind = manifest_kind(view(r->headers_out.content_type));
    if (seen.kind == ManifestKind::legacy) return Counter::legacy;
    // A 304 has no type, so it may be of any kind: it may say that nothing changed, and no more.
    seen.only_confirms = status == NGX_HTTP_NOT_MODIFIED;
    if (seen.kind == ManifestKind::unknown && !seen.only_confirms) return Counter::unknown_type;
    const AnswerDigest answer = answer_digest(r);
    if (answer.bad) return Counter::bad_digest;
    if (!answer.present) return Counter::no_digest;
    seen.digest = answer.digest;
    digest_text = answer.text;
    return std::nullopt;
}

// What is worth a line of the log: a registry that lies, one that nobody named, a zone that is
// full. That a client asks narrowly is not.
const char* worth_telling(Counter reason) noexcept {
    switch (reason) {
        case Counter::unnamed:
            return "does not count: its registry is not among names= of keel_registry";
        case Counter::bad_digest:
            return "does not count: its Docker-Content-Digest is malformed or given twice";
        case Counter::evicted:
            return "pushed another tag out of the table: keel_zone is full";
        case Counter::dropped:
            return "is not remembered: keel_zone is full";
        default:
            return nullptr;
    }
}

void tell(ngx_http_request_t* r, Counter reason, const TagRequest& request) noexcept {
    static LogGate gate;
    const char* text = worth_telling(reason);
    if (text == nullptr || !gate.open()) return;
    const ngx_str_t repository = ngx_text(request.repository);
    const ngx_str_t name = ngx_text(request.name);
    ngx_log_error(NGX_LOG_WARN, r->connection->log, 0, "keel: the answer for \"%V:%V\" %s",
                  &repository, &name, text);
}

}  // namespace

// --- the life of a request ---

TagRequest* tag_request(ngx_http_request_t* r) noexcept {
    ngx_http_request_t* main = r->main;
    auto* context = static_cast<TagRequest*>(ngx_http_get_module_ctx(main, ngx_keel_module));
    if (context != nullptr || !(main->internal || main->filter_finalize)) return context;
    for (ngx_pool_cleanup_t* cleanup = main->pool->cleanup; cleanup != nullptr;
         cleanup = cleanup->next) {
        if (cleanup->handler == marker) return static_cast<TagRequest*>(cleanup->data);
    }
    return nullptr;
}

ngx_int_t parse_request(ngx_http_request_t* r) noexcept {
    if (r != r->main || r->internal || !(r->method & (NGX_HTTP_GET | NGX_HTTP_HEAD)))
        return NGX_DECLINED;
    if (ends_in_digest(view(r->uri))) return NGX_DECLINED;
    const std::optional<ManifestPath> path = parse_manifest_path(view(r->uri));
    if (!path || path->by_digest || is_signature_tag(path->reference)) return NGX_DECLINED;
    if (path->repository.size() > kMaxRepository || path->reference.size() > kMaxName)
        return NGX_DECLINED;
    ngx_pool_cleanup_t* cleanup = ngx_pool_cleanup_add(r->pool, sizeof(TagRequest));
    if (cleanup == nullptr) return NGX_DECLINED;  // a pull goes on without being observed
    cleanup->handler = marker;
    auto* request = new (cleanup->data) TagRequest{};
    static_assert(std::is_trivially_destructible_v<TagRequest> && alignof(TagRequest) <= 8);
    request->repository = path->repository;
    request->name = path->reference;
    request->started = ngx_current_msec;
    ngx_http_set_ctx(r, request, ngx_keel_module);
    return NGX_DECLINED;
}

void observe_answer(ngx_http_request_t* r) noexcept {
    TagRequest* request = tag_request(r);
    if (request == nullptr || !answers_client(r)) return;
    const LocationConf& conf = *location_conf(r);
    if (!conf.observe || conf.registry == nullptr) return;
    Table table = table_of(*main_conf(r));
    Observation seen;
    seen.registry = registry_name(r, *conf.registry);
    if (seen.registry.empty()) {
        table.count(Counter::unnamed);
        tell(r, Counter::unnamed, *request);
        return;
    }
    request->registry = seen.registry;
    seen.now = wall_millis();
    seen.status = static_cast<unsigned>(r->headers_out.status);
    std::string_view digest_text;
    if (const std::optional<Counter> reason = judge(r, seen, digest_text)) {
        table.count(*reason);
        tell(r, *reason, *request);
        const bool answered = *reason == Counter::not_ok && r->upstream != nullptr;
        if (answered) table.note_answer(seen.registry, seen.status, seen.now);
        return;
    }
    seen.repository = request->repository;
    seen.name = request->name;
    seen.node = node_name(r, conf);
    if (r->headers_in.user_agent != nullptr) {
        seen.asked_by = asker(view(r->headers_in.user_agent->value));
    }
    seen.started = request->started;
    seen.monotonic = ngx_current_msec;
    request->outcome = table.observe(seen);
    const bool counted = request->outcome.change != Change::none;
    if (counted) request->digest = digest_text;
    if (request->outcome.full) tell(r, counted ? Counter::evicted : Counter::dropped, *request);
    if (request->outcome.queued) wake_helper();
}

}  // namespace keel::ngx
