#include "module/observe.h"

#include <array>
#include <cstring>

#include "core/etag.h"
#include "core/manifest_request.h"
#include "core/reference.h"
#include "module/answer.h"
#include "module/helper.h"
#include "module/holds.h"
#include "module/verify.h"

namespace keel::ngx {
namespace {

static_assert(kMaxRepository <= UINT8_MAX && kMaxName <= UINT8_MAX && kMaxRegistry <= UINT8_MAX &&
              Digest::kMaxText <= UINT8_MAX);

// Does nothing: its address marks the pool cleanup whose data is the TagRequest.
void marker(void*) noexcept {}

bool keeps_slashes(ngx_http_request_t* r) noexcept {
    const auto* core = static_cast<ngx_http_core_srv_conf_t*>(
        ngx_http_get_module_srv_conf(r, ngx_http_core_module));
    return !core->merge_slashes;
}

// With merge_slashes off: many a server behind this one merges them all the same.
std::string_view with_merged_slashes(ngx_http_request_t* r) noexcept {
    const std::string_view path = view(r->uri);
    if (path.find("//") == std::string_view::npos) return path;
    auto* merged = static_cast<char*>(ngx_pnalloc(r->pool, path.size()));
    if (merged == nullptr) return path;
    std::size_t size = 0;
    for (const char c : path) {
        if (c != '/' || size == 0 || merged[size - 1] != '/') merged[size++] = c;
    }
    return {merged, size};
}

// --- is it an observation? ---

// The main request's answer, or nginx refreshing its cache in the background for it; not what
// mirror and auth_request ask.
bool answers_client(ngx_http_request_t* r) noexcept {
    return r == r->main || (r->background && r->loc_conf == r->main->loc_conf);
}

// After error_page and X-Accel-Redirect r->upstream may still be what was asked before, while nginx
// makes up an answer of its own or gives the old one another status.
bool comes_from_upstream(const ngx_http_request_t* r) noexcept {
    const ngx_http_upstream_t* upstream = r->upstream;
    if (upstream == nullptr) return false;
    const ngx_uint_t said = upstream->headers_in.status_n;
    const ngx_uint_t status = r->headers_out.status;
    const bool status_is_its_own =
        said == status || (said == NGX_HTTP_OK && status == NGX_HTTP_NOT_MODIFIED);
    const bool led_elsewhere =
        upstream->headers_in.x_accel_redirect != nullptr &&
        !(upstream->conf->ignore_headers & NGX_HTTP_UPSTREAM_IGN_XA_REDIRECT);
    return status_is_its_own && !led_elsewhere;
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

std::string_view node_name(ngx_http_request_t* r, const LocationConf& conf) noexcept {
    ngx_str_t value;
    if (conf.node == nullptr || ngx_http_complex_value(r, conf.node, &value) != NGX_OK) {
        return view(r->connection->addr_text);
    }
    return view(value);
}

// --- the decision, one row of the table after the other ---

// What the answer is made of, as far as one of its rows has looked.
struct Answer {
    AnswerHeaders headers;
    ManifestKind kind = ManifestKind::unknown;
    bool only_confirms = false;
};

// Why the answer does not count, whatever its digest; nothing when it may.
std::optional<Counter> judge(ngx_http_request_t* r, Answer& answer) noexcept {
    const ngx_uint_t status = r->headers_out.status;
    if (status != NGX_HTTP_OK && status != NGX_HTTP_NOT_MODIFIED) return Counter::not_ok;
    if (r->headers_in.range != nullptr) return Counter::ranged;
    if (!comes_from_upstream(r)) return Counter::no_upstream;
    if (comes_from_cache(r)) return Counter::from_cache;
    if (!accepts_all_types(r)) return Counter::narrow_accept;
    answer.kind = manifest_kind(view(r->headers_out.content_type));
    if (answer.kind == ManifestKind::legacy) return Counter::legacy;
    // A 304 has no type, so it may be of any kind: it may say that nothing changed, and no more.
    answer.only_confirms = status == NGX_HTTP_NOT_MODIFIED;
    if (answer.kind == ManifestKind::unknown && !answer.only_confirms) return Counter::unknown_type;
    if (answer.headers.bad_digest) return Counter::bad_digest;
    return std::nullopt;
}

// A registry that sends no digest may still name it in the ETag, and its 304 answers to the one
// that the client has: either can tell that nothing changed, and nothing else.
const ngx_table_elt_t* evidence(ngx_http_request_t* r) noexcept {
    if (r->headers_out.status == NGX_HTTP_NOT_MODIFIED &&
        r->upstream->headers_in.status_n == NGX_HTTP_NOT_MODIFIED) {
        return r->headers_in.if_none_match;
    }
    return r->headers_out.etag;
}

bool take_evidence(ngx_http_request_t* r, Answer& answer) noexcept {
    const ngx_table_elt_t* line = evidence(r);
    if (line == nullptr || line->hash == 0) return false;
    answer.headers.digest_text = bare_etag(view(line->value));
    answer.headers.digest = Digest::parse(answer.headers.digest_text).value_or(Digest{});
    answer.only_confirms = true;
    return !answer.headers.digest.empty();
}

// Whether the whole body that the digest is of will pass the body filter, and its end be told from
// its loss. A connection that is just closed may be either.
bool can_be_hashed(ngx_http_request_t* r, bool bounded) noexcept {
    const ngx_table_elt_t* encoding = r->headers_out.content_encoding;
    return r == r->main && r->method == NGX_HTTP_GET && r->headers_out.status == NGX_HTTP_OK &&
           !r->header_only && (encoding == nullptr || encoding->hash == 0) && bounded;
}

// True when the body filter will see to the rest.
bool start_hash(ngx_http_request_t* r, TagRequest& request, const Answer& answer,
                Verify verify) noexcept {
    if (verify == Verify::off || (verify == Verify::missing && answer.headers.has_digest)) {
        return false;
    }
    const auto& upstream = r->upstream->headers_in;
    if (!can_be_hashed(r, upstream.content_length_n >= 0 || upstream.chunked)) return false;
    request.hash = BodyHash::start(r, table_of(*main_conf(r)),
                                   {answer.headers.digest_text, answer.headers.digest, answer.kind,
                                    r->headers_out.content_length_n});
    return request.hash != nullptr;
}

// What is worth a line of the log: a registry that lies, one that nobody named, a zone that is
// full. That a client asks narrowly is not.
const char* worth_telling(Counter reason) noexcept {
    switch (reason) {
        case Counter::unnamed:
            return "does not count: its registry is not among names= of keel_registry";
        case Counter::bad_digest:
            return "does not count: its Docker-Content-Digest is malformed or given twice";
        case Counter::mismatch:
            return "does not count: its Docker-Content-Digest is not the digest of its body";
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
    const ngx_str_t repository = ngx_text(request.repository());
    const ngx_str_t name = ngx_text(request.name());
    ngx_log_error(NGX_LOG_WARN, r->connection->log, 0, "keel: the answer for \"%V:%V\" %s",
                  &repository, &name, text);
}

bool names_tag(TagRequest& request) noexcept {
    request.no_tag = !is_repository(request.repository()) || !is_tag_name(request.name());
    return !request.no_tag;
}

void refuse(ngx_http_request_t* r, Counter reason, const TagRequest& request) noexcept {
    table_of(*main_conf(r)).count(reason);
    tell(r, reason, request);
}

// What the log variables show of it.
void keep_outcome(ngx_http_request_t* r, TagRequest& request, const Outcome& outcome,
                  std::string_view digest_text) noexcept {
    request.change = outcome.change;
    if (outcome.change == Change::none) return;
    request.digest = digest_text.data();
    request.digest_size = static_cast<std::uint8_t>(digest_text.size());
    if (outcome.previous.empty()) return;
    auto* previous = alloc<Digest>(r->pool);
    if (previous != nullptr) *previous = outcome.previous;
    request.previous = previous;
}

void record(ngx_http_request_t* r, TagRequest& request, const Answer& answer,
            const Rates* rates) noexcept {
    Observation seen;
    seen.registry = {request.registry, request.registry_size};
    seen.repository = request.repository();
    seen.name = request.name();
    seen.digest = &answer.headers.digest;
    seen.kind = answer.kind;
    seen.node = node_name(r, *location_conf(r));
    if (r->headers_in.user_agent != nullptr) {
        seen.asked_by = asker(view(r->headers_in.user_agent->value));
    }
    seen.now = wall_millis();
    seen.started = request.started;
    seen.monotonic = ngx_current_msec;
    seen.status = static_cast<unsigned>(r->headers_out.status);
    seen.only_confirms = answer.only_confirms;
    seen.rates = rates;
    const Outcome outcome = table_of(*main_conf(r)).observe(seen);
    request.no_tag = outcome.no_tag;
    keep_outcome(r, request, outcome, answer.headers.digest_text);
    if (outcome.full) {
        tell(r, outcome.change != Change::none ? Counter::evicted : Counter::dropped, request);
    }
    if (outcome.queued) wake_helper();
}

// `try_files` and `error_page` may lead from a location that has no part in holds to one that
// answers them. Only while the path is still what the client asked for.
void look_again(ngx_http_request_t* r, TagRequest& request) noexcept {
    if (request.hold_sought) return;
    const std::optional<ManifestPath> path = split_manifest_path(view(r->uri));
    if (path && path->repository == request.repository() && path->reference == request.name()) {
        apply_hold(r, request);
    }
}

}  // namespace

bool accepts_all_types(ngx_http_request_t* r) noexcept {
    static KnownAccept known;
#if (NGX_HTTP_HEADERS)
    // The first of its lines.
    const ngx_table_elt_t* first = r->headers_in.accept;
    if (first == nullptr) return false;
    if (known.is(view(first->value))) return true;
#endif
    AcceptedTypes accepted;
    for_each_header(r->headers_in.headers, [&](const ngx_table_elt_t& header) {
        if (accepted.complete() || !is_header(header, "Accept")) return;
        const std::string_view line = view(header.value);
        AcceptedTypes alone;
        alone.add_line(line);
        if (alone.complete()) known.set(line);
        accepted.add_line(line);
    });
    return accepted.complete();
}

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

// --- the life of a request ---

TagRequest* find_marker(ngx_http_request_t* main) noexcept {
    for (ngx_pool_cleanup_t* cleanup = main->pool->cleanup; cleanup != nullptr;
         cleanup = cleanup->next) {
        if (cleanup->handler == marker) return static_cast<TagRequest*>(cleanup->data);
    }
    return nullptr;
}

ngx_int_t parse_request(ngx_http_request_t* r) noexcept {
    if (r != r->main || !(r->method & (NGX_HTTP_GET | NGX_HTTP_HEAD))) return NGX_DECLINED;
    // The first look counts. `rewrite`, and `error_page` before any handler, make a request
    // internal that nobody has looked at.
    if (TagRequest* seen = r->internal ? find_marker(r) : nullptr) {
        look_again(r, *seen);
        return NGX_DECLINED;
    }
    const std::optional<ManifestPath> path =
        split_manifest_path(keeps_slashes(r) ? with_merged_slashes(r) : view(r->uri));
    if (!path || is_signature_tag(path->reference)) return NGX_DECLINED;
    if (path->repository.size() > kMaxRepository || path->reference.size() > kMaxName)
        return NGX_DECLINED;
    ngx_pool_cleanup_t* cleanup = ngx_pool_cleanup_add(r->pool, sizeof(TagRequest));
    if (cleanup == nullptr) return NGX_DECLINED;  // a pull goes on without being observed
    cleanup->handler = marker;
    auto* request = new (cleanup->data) TagRequest{};
    static_assert(std::is_trivially_destructible_v<TagRequest> && alignof(TagRequest) <= 8);
    request->path = path->repository.data();
    request->repository_size = static_cast<std::uint8_t>(path->repository.size());
    request->name_size = static_cast<std::uint8_t>(path->reference.size());
    request->started = ngx_current_msec;
    ngx_http_set_ctx(r, request, ngx_keel_module);
    apply_hold(r, *request);
    return NGX_DECLINED;
}

void observe_answer(ngx_http_request_t* r, TagRequest& request) noexcept {
    Answer answer;
    answer.headers = read_headers(r);
    judge_held_answer(r, request, answer.headers);
    if (request.hold != nullptr || !answers_client(r)) return;
    const LocationConf& conf = *location_conf(r);
    if (!conf.observe || conf.registry == nullptr) return;
    const std::string_view registry = registry_name(r, *conf.registry);
    if (registry.empty()) {
        if (names_tag(request)) refuse(r, Counter::unnamed, request);
        return;
    }
    request.registry = registry.data();
    request.registry_size = static_cast<std::uint8_t>(registry.size());

    request.hash = nullptr;  // of an answer that was replaced by this one

    Rates rates;
    if (answer.headers.has_rates) rates = read_rates(r, wall_millis());
    const Rates* said = answer.headers.has_rates ? &rates : nullptr;
    std::optional<Counter> reason = judge(r, answer);
    const bool at_once = answer.headers.has_digest && Verify{conf.verify} != Verify::on;
    if (!reason && at_once) return record(r, request, answer, said);
    if (!names_tag(request)) return;
    if (!reason && !start_hash(r, request, answer, Verify{conf.verify})) {
        if (answer.headers.has_digest || take_evidence(r, answer)) {
            return record(r, request, answer, said);
        }
        reason = Counter::no_digest;
    }
    if (request.hash != nullptr) ngx_http_set_ctx(r, &request, ngx_keel_module);
    if (reason) refuse(r, *reason, request);
    const bool asked =
        r->upstream != nullptr && reason != Counter::no_upstream && reason != Counter::from_cache;
    if (asked) {
        table_of(*main_conf(r))
            .note_answer(registry, static_cast<unsigned>(r->headers_out.status), wall_millis(),
                         said);
    }
}

void observe_body(ngx_http_request_t* r, TagRequest& request, const ngx_chain_t* in) noexcept {
    if (!request.hash->add(in)) return;
    const BodyHash& hash = *request.hash;
    const Digest digest = request.hash->finish();
    request.hash = nullptr;
    if (digest.empty() || r->headers_out.status != NGX_HTTP_OK) {
        return refuse(r, Counter::cut, request);
    }
    table_of(*main_conf(r)).count(Counter::hashed);
    Answer answer;
    answer.kind = hash.answer().kind;
    answer.headers.digest = digest;
    answer.headers.digest_text = hash.answer().digest_text;
    if (answer.headers.digest_text.empty()) {
        auto* text = static_cast<char*>(ngx_pnalloc(r->pool, Digest::kMaxText));
        if (text != nullptr) answer.headers.digest_text = {text, digest.write(text)};
    } else if (digest != hash.answer().digest) {
        return refuse(r, Counter::mismatch, request);
    }
    record(r, request, answer, nullptr);
}

}  // namespace keel::ngx
