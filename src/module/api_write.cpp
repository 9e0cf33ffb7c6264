// A write is read whole, then its author is found out, then it is done: a current digest at once in
// the tag table, a hold by the helper, which has the disk. The worker posts the wish and looks
// every few milliseconds whether it has been fulfilled; it waits for nothing else meanwhile.

#include "module/api_write.h"

#include <pwd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "core/holds.h"
#include "core/signature.h"
#include "module/answer.h"
#include "module/api_reply.h"
#include "module/conf.h"
#include "module/helper.h"
#include "module/holds.h"

namespace keel::ngx {
namespace {

constexpr ngx_msec_t kDeadline = 5'000;
constexpr ngx_msec_t kLook = 3;
constexpr ngx_uint_t kPreconditionRequired = 428;  // nginx has no name for it
constexpr std::int64_t kRemember =
    2 * std::chrono::duration_cast<Millis>(Secrets::kWindow).count() + 1'000;

// A request that waits for the helper. In its pool.
struct Waiting {
    ngx_http_request_t* request = nullptr;
    Ticket ticket;
    ngx_msec_t deadline = 0;
    Timer timer;
};

// --- who writes ---

bool on_unix_socket(const ngx_http_request_t* r) noexcept {
    // Not the client's address, which other modules may replace by what a header says.
    return r->connection->listening->sockaddr->sa_family == AF_UNIX;
}

// From /etc/passwd alone: other sources of names may ask the network. One user has one name: where
// the file cannot be read there is none.
Expected<std::string> user_name(uid_t uid) {
    const std::unique_ptr<FILE, decltype(&std::fclose)> file{std::fopen("/etc/passwd", "re"),
                                                             std::fclose};
    if (!file) return fail("no-peer", "/etc/passwd cannot be read, so nobody has a name");
    passwd entry{};
    passwd* found = nullptr;
    std::array<char, 4096> buffer;
    while (fgetpwent_r(file.get(), &entry, buffer.data(), buffer.size(), &found) == 0) {
        if (found->pw_uid == uid && is_hold_author(found->pw_name)) return found->pw_name;
    }
    return "uid-" + std::to_string(uid);
}

std::string_view header(ngx_http_request_t* r, std::string_view name) noexcept {
    std::string_view value;
    for_each_header(r->headers_in.headers, [&](const ngx_table_elt_t& line) {
        if (value.empty() && is_header(line, name)) value = view(line.value);
    });
    return value;
}

Expected<std::string> socket_author(ngx_http_request_t* r) {
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (getsockopt(r->connection->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        return fail("no-peer", "the socket does not say whose it is");
    }
    return user_name(peer.uid);
}

Expected<std::string> signature_author(ngx_http_request_t* r, std::string_view body) {
    const ngx_array_t* secrets = location_conf(r)->api_secrets;
    if (secrets == nullptr) {
        return fail("forbidden",
                    "keel_api has no secret=NAME:FILE here: it can be written to on a unix socket "
                    "only");
    }
    const std::string_view id = header(r, "webhook-id");
    const std::string content = signed_request(view(r->method_name), view(r->unparsed_uri), body);
    Error why;
    for (ngx_uint_t i = 0; i < secrets->nelts; ++i) {
        const auto& secret = static_cast<const ApiSecret*>(secrets->elts)[i];
        const Expected<void> fine =
            secret.secrets->verify(id, header(r, "webhook-timestamp"), content,
                                   header(r, "webhook-signature"), to_time(wall_millis()));
        std::string name{view(secret.name)};
        if (fine) return name;
        // The one that signed it and is too old says more than those that did not.
        if (why.code != "clock-skew") why = fine.error();
    }
    return tl::unexpected(why);
}

// The author's name, or why the request is not allowed.
Expected<std::string> author_of(ngx_http_request_t* r, std::string_view body) {
    if (on_unix_socket(r)) return socket_author(r);
    Expected<std::string> author = signature_author(r, body);
    if (!author) return author;
    const std::int64_t now = wall_millis();
    const std::string once = *author + " " + std::string{header(r, "webhook-id")};
    switch (control_of(*main_conf(r)).remember(once, now, now + kRemember)) {
        case Replay::fresh:
            break;
        case Replay::seen:
            return fail("replayed",
                        "a request with this webhook-id was here before; sign each with a new one");
        case Replay::full:
            return fail("too-many", "too many signed requests within ten minutes; wait");
    }
    return author;
}

// --- PUT current ---

Reply confirm(ngx_http_request_t* r, const ApiPath& path, const std::string& author,
              std::string_view body) {
    const Expected<CurrentWrite> write = parse_current_write(body);
    if (!write) return fault(NGX_HTTP_BAD_REQUEST, write.error());
    const std::string tag = path.tag.to_string();
    Table table = table_of(*main_conf(r));
    const Confirmation made =
        table.confirm(path.tag, write->digest, wall_millis(), ngx_current_msec);
    if (made.result == Confirmation::Result::no_tag) {
        return fault(NGX_HTTP_CONFLICT, {"not-pending", tag + " has not been seen here"});
    }
    const std::string digest = write->digest.to_string();
    if (made.result == Confirmation::Result::not_pending) {
        const std::string pending = made.pending.empty() ? "nothing" : made.pending.to_string();
        return fault(NGX_HTTP_CONFLICT,
                     {"not-pending", "for " + tag + " " + pending + " is pending, not " + digest});
    }
    wake_helper();
    const std::string source = write->source.empty() ? "no source" : write->source;
    ngx_log_error(NGX_LOG_NOTICE, r->connection->log, 0,
                  "keel: \"%s\" confirmed \"%s\" at %s by %s", author.c_str(), tag.c_str(),
                  digest.c_str(), source.c_str());
    return {
        NGX_HTTP_OK,
        text_of(checked(json_pack("{s:s,s:s,s:s,s:o}", "tag", tag.c_str(), "digest", digest.c_str(),
                                  "epoch", table.head().epoch.c_str(), "seq", counter(made.seq))))};
}

// --- holds ---

Reply fault_of(const HoldVerdict& verdict) {
    return fault(verdict.status, {verdict.code, verdict.text});
}

// The hold as `GET holds` shows it. Written anew it has its old counters.
Reply written(const MainConf& conf, const HoldVerdict& verdict) {
    Json answer = checked(json_pack("{s:o}", "revision", counter(verdict.revision)));
    if (Expected<Hold> hold = decode_hold_text(verdict.text); hold) {
        const HoldCopy& copy = current_holds(conf);
        const auto found = std::find(copy.keys.begin(), copy.keys.end(), hold_key(*hold));
        Tally tally;
        if (found != copy.keys.end()) {
            const auto index = static_cast<std::size_t>(found - copy.keys.begin());
            tally = control_of(conf).tally(copy.slots[index], copy.keys[index]);
        }
        json_t* object = encode_hold(*hold);
        add_tally(object, tally);
        json_object_set_new(answer.get(), "hold", object);
    }
    return {NGX_HTTP_OK, text_of(std::move(answer))};
}

void withdraw(void* data) noexcept {
    auto& waiting = *static_cast<Waiting*>(data);
    if (waiting.ticket.slot < 0) return;
    waiting.timer.clear();
    (void)control_of(*main_conf(waiting.request)).withdraw(waiting.ticket);
}

// What to answer now; nothing: look again later.
std::optional<Reply> look(Waiting& waiting) {
    const MainConf& conf = *main_conf(waiting.request);
    if (std::optional<HoldVerdict> verdict = control_of(conf).collect(waiting.ticket)) {
        waiting.ticket.slot = -1;
        return verdict->status == NGX_HTTP_OK ? written(conf, *verdict) : fault_of(*verdict);
    }
    if (static_cast<ngx_msec_int_t>(ngx_current_msec - waiting.deadline) < 0) return std::nullopt;
    const bool untouched = control_of(conf).withdraw(waiting.ticket);
    waiting.ticket.slot = -1;
    return fault(
        NGX_HTTP_SERVICE_UNAVAILABLE,
        {"not-written", untouched ? "nginx's helper process did not come to it within 5 s: "
                                    "nothing was changed"
                                  : "the disk took longer than 5 s: read the holds to see "
                                    "whether they changed"});
}

void on_timer(ngx_event_t* event) noexcept {
    auto& waiting = owner<Waiting>(event);
    ngx_http_request_t* r = waiting.request;
    ngx_connection_t* connection = r->connection;
    ngx_http_set_log_request(connection->log, r);
    ngx_int_t rc = NGX_HTTP_INTERNAL_SERVER_ERROR;
    try {
        const std::optional<Reply> reply = look(waiting);
        if (!reply) {
            waiting.timer.set(kLook);
            return;
        }
        rc = send(r, *reply);
    } catch (const std::exception& error) {
        ngx_log_error(NGX_LOG_ERR, connection->log, 0, "keel_api: %s", error.what());
    }
    ngx_http_finalize_request(r, rc);
    ngx_http_run_posted_requests(connection);
}

// Nothing: the answer comes when the helper has fulfilled the wish.
std::optional<Reply> post(ngx_http_request_t* r, const HoldWish& wish) {
    const MainConf& conf = *main_conf(r);
    auto* cleanup = ngx_http_cleanup_add(r, sizeof(Waiting));
    if (cleanup == nullptr) throw std::bad_alloc();
    auto* waiting = new (cleanup->data) Waiting{};
    static_assert(std::is_trivially_destructible_v<Waiting>);
    waiting->request = r;
    waiting->deadline = ngx_current_msec + kDeadline;
    waiting->ticket = control_of(conf).post(wish, waiting->deadline);
    if (waiting->ticket.slot < 0) {
        return fault(NGX_HTTP_SERVICE_UNAVAILABLE,
                     {"busy", "too many writes wait for the disk: nothing was changed"});
    }
    cleanup->handler = withdraw;
    waiting->timer.prepare(waiting, on_timer);
    waiting->timer.event.cancelable = 0;  // a worker that is told to quit ends its requests first
    waiting->timer.set(kLook);
    wake_helper();
    return std::nullopt;
}

Expected<std::uint64_t> expected_revision(ngx_http_request_t* r) {
    if (r->headers_in.if_match == nullptr) {
        return fail("no-revision", "If-Match with the revision that GET holds gave is required");
    }
    const auto revision = parse_revision(view(r->headers_in.if_match->value));
    if (!revision) return fail("bad-revision", "If-Match must be one revision, a decimal number");
    return *revision;
}

// A person who holds an index at the manifest of one platform breaks all others.
bool loses_platforms(Table table, const Tag& tag, const HoldWrite& write) noexcept {
    const Kinds kinds = table.kinds(tag, write.digest);
    const ManifestKind asked = write.kind == ManifestKind::unknown ? kinds.asked : write.kind;
    return kinds.current == ManifestKind::index && asked == ManifestKind::image && !write.force;
}

// Nobody asks for the tag of a registry that has no name here, nor for one of Docker Hub's own
// images without "library/": it was misspelt, most likely.
std::optional<Error> never_asked_for(const MainConf& conf, const Tag& tag) {
    if (tag.registry == "docker.io" && tag.repository.find('/') == std::string::npos) {
        return Error{"bad-tag", "clients ask for docker.io/library/" + tag.repository + ":" +
                                    tag.name + "; write it so"};
    }
    std::string known;
    for (ngx_uint_t i = 0; conf.registries != nullptr && i < conf.registries->nelts; ++i) {
        const std::string_view name = view(static_cast<ngx_str_t*>(conf.registries->elts)[i]);
        if (name == tag.registry) return std::nullopt;
        known.append(known.empty() ? "" : ", ").append(name);
    }
    return Error{"bad-tag", "no keel_registry is called " + tag.registry + " here, there is " +
                                (known.empty() ? "none" : known)};
}

// Fills the wish, or says what is wrong with it.
std::optional<Reply> prepare_hold(ngx_http_request_t* r, const ApiPath& path,
                                  const std::string& author, std::string_view body,
                                  HoldWish& wish) {
    const Expected<HoldWrite> write = parse_hold_write(body);
    if (!write) return fault(NGX_HTTP_BAD_REQUEST, write.error());
    if (!write->owner.empty() && write->owner != author) {
        return fault(NGX_HTTP_FORBIDDEN, {"owner", "the owner of a hold is its author, " + author +
                                                       ", and not " + write->owner});
    }
    const Time now = to_time(wall_millis());
    if (write->until && *write->until <= now) {
        return fault(NGX_HTTP_BAD_REQUEST,
                     {"over", "until lies in the past; it is " + format_time(now) + " here"});
    }
    if (const auto wrong = never_asked_for(*main_conf(r), path.tag)) {
        return fault(NGX_HTTP_BAD_REQUEST, *wrong);
    }
    if (is_signature_tag(path.tag.name)) {
        return fault(NGX_HTTP_BAD_REQUEST,
                     {"bad-tag", "tags of signatures are passed through and cannot be held"});
    }
    if (loses_platforms(table_of(*main_conf(r)), path.tag, *write)) {
        return fault(NGX_HTTP_CONFLICT, {"single-platform",
                                         "the tag answers an index and this digest is of one "
                                         "platform: all others could not pull it; force does it"});
    }
    wish.hold.digest = write->digest;
    wish.hold.author = author;
    wish.hold.owner = author;
    wish.hold.reason = write->reason;
    wish.hold.since = now;
    wish.hold.until = write->until;
    wish.hold.verified = write->verified;
    return std::nullopt;
}

std::optional<Reply> write_hold(ngx_http_request_t* r, const ApiPath& path,
                                const std::string& author, std::string_view body) {
    if (main_conf(r)->state == nullptr) {
        return fault(NGX_HTTP_NOT_IMPLEMENTED,
                     {"no-state", "there are no holds with state=off in keel_zone"});
    }
    if (!has_helper()) {
        return fault(NGX_HTTP_SERVICE_UNAVAILABLE,
                     {"no-helper",
                      "holds need nginx's helper process, which there is none of with "
                      "master_process off"});
    }
    const Expected<std::uint64_t> revision = expected_revision(r);
    if (!revision) {
        return fault(
            revision.error().code == "no-revision" ? kPreconditionRequired : NGX_HTTP_BAD_REQUEST,
            revision.error());
    }
    HoldWish wish;
    wish.if_match = *revision;
    wish.author = author;
    wish.hold.tag = path.tag;
    wish.remove = r->method == NGX_HTTP_DELETE;
    if (!wish.remove) {
        if (std::optional<Reply> wrong = prepare_hold(r, path, author, body, wish)) return wrong;
    }
    return post(r, wish);
}

// --- a request ---

// What a request asks for, and what has come of its body. In the request's pool.
struct Write {
    ApiPath path;
    std::string body;
};

void end_write(void* write) noexcept {
    static_cast<Write*>(write)->~Write();
}

// As answer_write() made it. Not in the module's context, which is that of requests for tags.
Write& write_of(const ngx_http_request_t* r) noexcept {
    const ngx_pool_cleanup_t* cleanup = r->pool->cleanup;
    while (cleanup->handler != end_write)
        cleanup = cleanup->next;
    return *static_cast<Write*>(cleanup->data);
}

// Nothing: later.
std::optional<Reply> reply_to(ngx_http_request_t* r, const Write& write) {
    const Expected<std::string> author = author_of(r, write.body);
    if (!author) return fault(NGX_HTTP_FORBIDDEN, author.error());
    if (write.path.resource == ApiResource::current) {
        return confirm(r, write.path, *author, write.body);
    }
    return write_hold(r, write.path, *author, write.body);
}

enum class BodyState : std::uint8_t { whole, partial, too_large, failed };

// Takes over what nginx has read. It reads on only into what has been taken; where it is at the
// end, others may have read the body before, and it stays theirs. False when it is too much, or
// others have it on the disk, which it comes to by its size.
bool take_body(ngx_http_request_t* r, std::string& body) {
    ngx_http_request_body_t* read = r->request_body;
    for (const ngx_chain_t* link = read == nullptr ? nullptr : read->bufs; link != nullptr;
         link = link->next) {
        ngx_buf_t& buffer = *link->buf;
        if (!ngx_buf_in_memory(&buffer) && ngx_buf_size(&buffer) > 0) return false;
        const auto size = static_cast<std::size_t>(buffer.last - buffer.pos);
        if (body.size() + size > kMaxApiBody) return false;
        body.append(reinterpret_cast<const char*>(buffer.pos), size);
        if (r->reading_body) buffer.pos = buffer.last;
    }
    if (r->reading_body) read->bufs = nullptr;
    return true;
}

// Never more than the limit is kept, and nothing reaches the disk. `rc`: of failed.
BodyState read_body(ngx_http_request_t* r, std::string& body, ngx_int_t& rc) {
    while (true) {
        const bool more = r->request_body != nullptr && r->request_body->bufs != nullptr;
        if (!take_body(r, body)) return BodyState::too_large;
        if (!r->reading_body) return BodyState::whole;
        if (!more && rc == NGX_AGAIN) return BodyState::partial;
        rc = ngx_http_read_unbuffered_request_body(r);
        if (rc >= NGX_HTTP_SPECIAL_RESPONSE) return BodyState::failed;
    }
}

void on_body(ngx_http_request_t* r) noexcept {
    ngx_int_t rc = NGX_OK;
    r->read_event_handler = on_body;
    try {
        Write& write = write_of(r);
        const BodyState state = read_body(r, write.body, rc);
        if (state == BodyState::partial) return;  // nginx calls again
        r->read_event_handler = ngx_http_block_reading;
        if (state != BodyState::failed) {
            const std::optional<Reply> reply =
                state == BodyState::whole ? reply_to(r, write) : body_too_large();
            if (!reply) return;  // on_timer finalizes it
            rc = send(r, *reply);
        }
    } catch (const std::exception& error) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0, "keel_api: %s", error.what());
        rc = NGX_HTTP_INTERNAL_SERVER_ERROR;
    }
    ngx_http_finalize_request(r, rc);
}

}  // namespace

Reply body_too_large() {
    return fault(NGX_HTTP_REQUEST_ENTITY_TOO_LARGE, {"too-large", "a body may have 16384 bytes"});
}

ngx_int_t answer_write(ngx_http_request_t* r, ApiPath path) {
    ngx_pool_cleanup_t* cleanup = ngx_pool_cleanup_add(r->pool, sizeof(Write));
    if (cleanup == nullptr) return NGX_HTTP_INTERNAL_SERVER_ERROR;
    new (cleanup->data) Write{std::move(path), {}};
    cleanup->handler = end_write;
    r->request_body_no_buffering = 1;
    r->request_body_in_file_only = 0;
    const ngx_int_t rc = ngx_http_read_client_request_body(r, on_body);
    return rc >= NGX_HTTP_SPECIAL_RESPONSE ? rc : NGX_DONE;
}

}  // namespace keel::ngx
