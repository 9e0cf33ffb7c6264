#include "module/holds.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>

#include "core/manifest_request.h"
#include "module/answer.h"
#include "module/hold_file.h"
#include "module/observe.h"

namespace keel::ngx {
namespace {

constexpr std::string_view kPrefix = "/v2/";
constexpr std::string_view kInfix = "/manifests/";
constexpr ngx_msec_t kAgain = 100;  // until the next look after one that failed

// What this process follows. Children begin with the master's, so that none of them ever knows
// nothing while something is posted.
struct Follower {
    const MainConf* conf = nullptr;
    std::uint64_t seen = 0;  // number of the posting that the copy is of
    HoldCopy copy;
    bool failed = false;
    ngx_msec_t again = 0;  // after a failure, on nginx's monotonic clock
};

// --- the copy ---

Follower& follower() noexcept {
    static Follower own;
    return own;
}

// Nothing is counted of it.
HoldCopy copy_of(Posting posting) {
    HoldCopy copy;
    copy.set = std::move(posting.set);
    copy.readable = posting.readable;
    for (const Hold& hold : copy.set.holds)
        copy.keys.push_back(hold_key(hold));
    copy.slots.assign(copy.keys.size(), -1);
    return copy;
}

void claim_slots(const MainConf& conf, HoldCopy& copy) {
    std::vector<std::uint64_t> in_use = copy.keys;
    std::sort(in_use.begin(), in_use.end());
    Control control = control_of(conf);
    for (std::size_t i = 0; i < copy.keys.size(); ++i)
        copy.slots[i] = control.claim(copy.keys[i], in_use);
}

// False: what was known stays. May throw, and then it does, too.
bool follow(Follower& follower, const MainConf& conf) {
    std::optional<Posting> posting = conf.board->read();
    if (!posting) return conf.board->number() == 0;
    const std::uint64_t number = posting->number;
    HoldCopy copy = copy_of(*std::move(posting));
    claim_slots(conf, copy);
    follower.copy = std::move(copy);
    follower.seen = number;
    follower.conf = &conf;
    return true;
}

bool up_to_date(const Follower& follower, const MainConf& conf) noexcept {
    return follower.conf == &conf && conf.board->number() == follower.seen;
}

bool waits(const Follower& follower) noexcept {
    return follower.failed && static_cast<ngx_msec_int_t>(ngx_current_msec - follower.again) < 0;
}

void note_failure(Follower& follower, const char* why) noexcept {
    static LogGate gate;
    follower.failed = true;
    follower.again = ngx_current_msec + kAgain;
    if (!gate.open()) return;
    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "keel: holds are not up to date, what was known stays in force: %s", why);
}

// Never throws away what is known.
void bring_up_to_date(Follower& follower, const MainConf& conf) noexcept {
    try {
        follower.failed = false;
        if (!follow(follower, conf)) note_failure(follower, "what is posted cannot be read");
    } catch (const std::exception& error) {
        note_failure(follower, error.what());
    }
}

// What workers begin with; see Follower.
void know(const MainConf& conf) {
    if (std::optional<Posting> posting = conf.board->read()) {
        follower().copy = copy_of(*std::move(posting));
    }
}

// --- a request ---

bool holds_here(const LocationConf& conf) noexcept {
    return conf.registry != nullptr && (conf.hold == NGX_CONF_UNSET ? conf.observe : conf.hold);
}

// "/v2/<repository>/manifests/<digest>" in the place of the tag's. Everything that goes upstream is
// made of r->uri once the client's own spelling counts no more.
bool rewrite(ngx_http_request_t* r, const TagRequest& request, HeldRequest& held) noexcept {
    const std::size_t head = kPrefix.size() + request.repository().size() + kInfix.size();
    auto* data = static_cast<u_char*>(ngx_pnalloc(r->pool, head + Digest::kMaxText + 1));
    if (data == nullptr) return false;
    u_char* end = ngx_cpymem(data, kPrefix.data(), kPrefix.size());
    end = ngx_cpymem(end, request.repository().data(), request.repository().size());
    end = ngx_cpymem(end, kInfix.data(), kInfix.size());
    const std::size_t size = held.digest.write(reinterpret_cast<char*>(end));
    held.text = {reinterpret_cast<char*>(end), size};
    end[size] = '\0';
    r->uri = {head + size, data};
    r->valid_unparsed_uri = 0;
    return true;
}

// --- its answer ---

bool is_redirect(ngx_uint_t status) noexcept {
    return status >= NGX_HTTP_SPECIAL_RESPONSE && status < NGX_HTTP_BAD_REQUEST &&
           status != NGX_HTTP_NOT_MODIFIED;
}

// What the answer says about the hold; nothing when it says nothing: what nginx answered by itself,
// a redirect, the challenge of a registry that wants a token, and what was refused for the
// request's own sake.
std::optional<Control::Count> judge(ngx_http_request_t* r, const HeldRequest& held,
                                    const AnswerHeaders& answer) noexcept {
    const ngx_uint_t status = r->headers_out.status;
    if (r->upstream == nullptr || is_redirect(status)) return std::nullopt;
    if (status == NGX_HTTP_NOT_MODIFIED) return Control::Count::answer;
    if (status == NGX_HTTP_OK || status == NGX_HTTP_PARTIAL_CONTENT) {
        if (!answer.has_digest || answer.bad_digest) return std::nullopt;
        return answer.digest == held.digest ? Control::Count::answer : Control::Count::ineffective;
    }
    const bool own_fault =
        status == NGX_HTTP_BAD_REQUEST || status == NGX_HTTP_UNAUTHORIZED ||
        status == NGX_HTTP_NOT_ALLOWED || status == NGX_HTTP_REQUEST_URI_TOO_LARGE ||
        status == NGX_HTTP_RANGE_NOT_SATISFIABLE || status == NGX_HTTP_REQUEST_HEADER_TOO_LARGE ||
        (status == NGX_HTTP_NOT_FOUND && !accepts_all_types(r));
    if (own_fault) return std::nullopt;
    return Control::Count::unfetchable;
}

void tell(ngx_http_request_t* r, const TagRequest& request, Control::Count what) noexcept {
    static LogGate gate;
    if (what == Control::Count::answer || !gate.open()) return;
    const ngx_str_t registry = ngx_text({request.registry, request.registry_size});
    const ngx_str_t repository = ngx_text(request.repository());
    const ngx_str_t name = ngx_text(request.name());
    const ngx_str_t digest = ngx_text(request.hold->text);
    if (what == Control::Count::unfetchable) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "keel: \"%V/%V:%V\" is held at %V, which the upstream answered with %ui: "
                      "clients that have another way to the registry will take it",
                      &registry, &repository, &name, &digest, r->headers_out.status);
    } else {
        ngx_log_error(
            NGX_LOG_WARN, r->connection->log, 0,
            "keel: \"%V/%V:%V\" is held at %V, but the answer is another digest: the hold "
            "is ineffective here (proxy_pass with $request_uri, or a proxy_cache_key "
            "without $uri)",
            &registry, &repository, &name, &digest);
    }
}

// Where holds are answered, the header that names one must be ours or nobody's.
void drop_foreign_header(ngx_http_request_t* r) noexcept {
    for_each_header(r->headers_out.headers, [](ngx_table_elt_t& header) {
        if (is_header(header, kHoldHeader)) header.hash = 0;
    });
}

void add_header(ngx_http_request_t* r, const HeldRequest& held) noexcept {
    auto* header = static_cast<ngx_table_elt_t*>(ngx_list_push(&r->headers_out.headers));
    if (header == nullptr) return;
    *header = ngx_table_elt_t{};
    header->hash = 1;
    header->key = ngx_text(kHoldHeader);
    header->value = ngx_text(held.text);
}

}  // namespace

void open_holds(MainConf& conf) noexcept {
    if (conf.state == nullptr) return;
    try {
        const std::string directory{view(conf.state->name)};
        conf.board = HoldBoard::open(directory);
        if (conf.board == nullptr) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, ngx_errno,
                          "keel: no memory for the holds of \"%s\": none are in force",
                          directory.c_str());
            return;
        }
        if (conf.board->number() == 0) {
            // The helper says what is wrong with a file, and mends it.
            Expected<HoldRead> read = read_holds(directory);
            HoldSet set = read && read->set ? *std::move(read->set) : HoldSet{};
            conf.board->post(set, read.has_value() || read.error().code == "bad-holds");
        }
        know(conf);
    } catch (const std::exception& error) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "keel: holds are not known: %s",
                      error.what());
    }
}

const HoldCopy& current_holds(const MainConf& conf) noexcept {
    static const HoldCopy none;
    if (conf.board == nullptr) return none;
    Follower& own = follower();
    if (!up_to_date(own, conf) && !waits(own)) bring_up_to_date(own, conf);
    return own.copy;
}

void apply_hold(ngx_http_request_t* r, TagRequest& request) noexcept {
    const LocationConf& conf = *location_conf(r);
    if (!holds_here(conf)) return;
    request.hold_sought = true;
    const HoldCopy& copy = current_holds(*main_conf(r));
    if (copy.set.holds.empty()) return;
    const std::string_view registry = registry_name(r, *conf.registry);
    const Hold* hold = copy.set.find(registry, request.repository(), request.name());
    if (hold == nullptr || !hold->applies(to_time(wall_millis()))) return;
    auto* held = alloc<HeldRequest>(r->pool);
    if (held == nullptr) return;
    const auto index = static_cast<std::size_t>(hold - copy.set.holds.data());
    held->digest = hold->digest;
    held->key = copy.keys[index];
    held->slot = copy.slots[index];
    if (!rewrite(r, request, *held)) return;
    request.hold = held;
    request.registry = registry.data();
    request.registry_size = static_cast<std::uint8_t>(registry.size());
    request.change = Change::held;
}

void judge_held_answer(ngx_http_request_t* r, TagRequest& request,
                       const AnswerHeaders& answer) noexcept {
    if (answer.has_hold && (request.hold != nullptr || holds_here(*location_conf(r)))) {
        drop_foreign_header(r);
    }
    if (request.hold == nullptr || r != r->main) return;
    const std::optional<Control::Count> what = judge(r, *request.hold, answer);
    if (what != Control::Count::ineffective) add_header(r, *request.hold);
    if (!what) return;
    control_of(*main_conf(r)).count(request.hold->slot, request.hold->key, *what);
    tell(r, request, *what);
}

}  // namespace keel::ngx
