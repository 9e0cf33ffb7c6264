// State, not messages: what a companion lacks is everything in the table after its cursor. The
// helper sends it in order of seq, the current state of each tag, and moves the cursor when the
// companion says that it has the batch.
//
// One loop, nginx's own, in the helper process: libcurl's sockets as connections, two timers.
// Nothing here blocks, so that stop and reload never wait for a companion.

#include "module/publish.h"

#include <dlfcn.h>
#include <openssl/evp.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/event.h"
#include "core/signature.h"
#include "module/helper.h"
#include "module/publisher.h"

namespace keel::ngx {

namespace {

constexpr ngx_msec_t kScan = 1'000;          // looks for what a lost wake-up left behind
constexpr ngx_msec_t kFirstBackOff = 1'000;  // after a failure
constexpr ngx_msec_t kLongestBackOff = 60'000;
constexpr std::size_t kMaxHoldEvents = 64;  // kept for a companion; more are lost

// One companion as the helper sees it.
struct Receiver {
    std::string url;
    std::optional<Secrets> secrets;
    int slot = -1;
    std::size_t limit = kMaxBatchEvents;  // events in the next batch; halved by 413
    ngx_msec_t back_off = 0;              // 0: the last batch arrived
    ngx_msec_t not_before = 0;            // on nginx's clock, when back_off is not 0
    bool in_flight = false;
    std::string sent_epoch;
    std::uint64_t sent_seq = 0;
    std::size_t sent_events = 0;
    std::deque<HoldEvent> holds;  // not sent yet
    bool sent_holds = false;      // the batch in flight is of the first sent_events of them
    LogGate log_gate;
};

struct FreeDigest {
    void operator()(EVP_MD_CTX* context) const noexcept { EVP_MD_CTX_free(context); }
};

// New whenever the content is, and the same when the same is sent again.
std::string message_id(std::string_view body) {
    std::uint8_t hash[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (EVP_Digest(body.data(), body.size(), hash, &size, EVP_sha256(), nullptr) != 1)
        throw std::bad_alloc();
    char hex[32];
    ngx_hex_dump(reinterpret_cast<u_char*>(hex), hash, sizeof(hex) / 2);
    return "msg_" + std::string(hex, sizeof(hex));
}

// The full delay or down to half of it, so that many caches do not come back at one moment.
ngx_msec_t with_jitter(ngx_msec_t delay) noexcept {
    return delay / 2 + static_cast<ngx_msec_t>(ngx_random()) % (delay / 2 + 1);
}

}  // namespace

struct Publishing {
    Publishing(MainConf& conf_, const PublisherApi& api_)
        : conf(conf_), table(table_of(conf_)), api(api_) {}

    MainConf& conf;
    Table table;
    const PublisherApi& api;
    void* publisher = nullptr;
    std::vector<Receiver> receivers;
    std::unordered_map<int, ngx_connection_t*> sockets;
    Timer scan;  // the next look at the table
    Timer curl;  // what libcurl waits for
};

namespace {

// --- a batch ---

// Takes the tags after the cursor, encoded within the limits; the number taken.
std::size_t take_batch(Publishing& publishing, Receiver& receiver, std::string& body) {
    const Cursor cursor = publishing.table.cursor(receiver.slot);
    Head head;
    std::vector<TagRecord> records;
    if (!publishing.table.read(cursor.epoch, cursor.acked, receiver.limit, head, records)) return 0;
    if (records.empty()) {
        // What was new has been evicted since.
        publishing.table.skip_to(receiver.slot, receiver.url, head.epoch, head.seq);
        return 0;
    }
    receiver.sent_epoch = cursor.epoch;

    const std::string source = "/caches/" + std::string{view(publishing.conf.cache_name)};
    std::vector<TagEvent> events;
    events.reserve(records.size());
    for (TagRecord& record : records) {
        std::string id = record.state.epoch + "-" + std::to_string(record.state.seq);
        record.state.history.clear();
        events.push_back({std::move(id), source, record.changed, std::move(record.state)});
    }
    body = encode_batch(events);
    while (body.size() > kMaxBatchBytes && events.size() > 1) {
        const std::size_t fits = events.size() * kMaxBatchBytes / body.size();
        events.resize(std::clamp<std::size_t>(fits, 1, events.size() - 1));
        body = encode_batch(events);
    }
    if (body.empty()) throw std::bad_alloc();
    receiver.sent_seq = events.back().data.seq;
    return events.size();
}

void back_off(Receiver& receiver, ngx_msec_t at_least) noexcept {
    receiver.back_off = std::clamp(receiver.back_off * 2, kFirstBackOff, kLongestBackOff);
    receiver.not_before =
        ngx_current_msec + with_jitter(std::clamp(std::max(receiver.back_off, at_least),
                                                  kFirstBackOff, kLongestBackOff));
}

void failed(Publishing& publishing, Receiver& receiver, const std::string& why, long retry_after) {
    publishing.table.report_failure(receiver.slot, receiver.url, why);
    back_off(receiver, static_cast<ngx_msec_t>(std::clamp(retry_after, 0L, 60L)) * 1000);
    if (!receiver.log_gate.open()) return;
    ngx_log_error(
        NGX_LOG_ERR, ngx_cycle->log, 0,
        "keel_companion \"%s\" did not take a batch: %s; nothing is lost, trying again in %M ms",
        receiver.url.c_str(), why.c_str(), receiver.not_before - ngx_current_msec);
}

// Tags first: what is told of holds is a hint.
void send(Publishing& publishing, std::size_t index) {
    Receiver& receiver = publishing.receivers[index];
    std::string body;
    receiver.sent_events =
        publishing.table.has_news(receiver.slot) ? take_batch(publishing, receiver, body) : 0;
    receiver.sent_holds = receiver.sent_events == 0 && !receiver.holds.empty();
    if (receiver.sent_holds) {
        receiver.sent_events = receiver.holds.size();
        body = encode_hold_batch({receiver.holds.begin(), receiver.holds.end()});
        if (body.empty()) throw std::bad_alloc();
    }
    if (receiver.sent_events == 0) return;
    const std::string id = message_id(body);
    const std::string timestamp = std::to_string(ngx_time());
    std::vector<std::string> lines{"Content-Type: application/cloudevents-batch+json",
                                   "webhook-id: " + id, "webhook-timestamp: " + timestamp};
    if (receiver.secrets) {
        lines.push_back("webhook-signature: " + receiver.secrets->sign(id, timestamp, body));
    }
    std::vector<const char*> headers;
    for (const std::string& line : lines)
        headers.push_back(line.c_str());
    const PublisherPost post{body.data(), body.size(), headers.data(), headers.size()};
    if (publishing.api.post(publishing.publisher, index, post)) {
        receiver.in_flight = true;
    } else {
        failed(publishing, receiver, "libcurl could not begin a request", 0);
    }
}

bool due(const Receiver& receiver) noexcept {
    return receiver.back_off == 0 ||
           static_cast<ngx_msec_int_t>(ngx_current_msec - receiver.not_before) >= 0;
}

// Gives every idle companion what it lacks, and says when to look again.
void look(Publishing& publishing) noexcept {
    ngx_msec_t next = kScan;
    for (std::size_t i = 0; i < publishing.receivers.size(); ++i) {
        Receiver& receiver = publishing.receivers[i];
        if (receiver.in_flight) continue;
        try {
            const bool news = !receiver.holds.empty() || publishing.table.has_news(receiver.slot);
            if (news && due(receiver)) send(publishing, i);
        } catch (const std::exception& error) {
            back_off(receiver, 0);
            if (receiver.log_gate.open()) {
                ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "keel_companion \"%s\": %s",
                              receiver.url.c_str(), error.what());
            }
        }
        if (!due(receiver)) next = std::min(next, receiver.not_before - ngx_current_msec);
    }
    publishing.scan.set(std::max<ngx_msec_t>(next, 1));
}

void forget_sent_holds(Receiver& receiver) noexcept {
    const std::size_t sent = std::min(receiver.sent_events, receiver.holds.size());
    receiver.holds.erase(receiver.holds.begin(),
                         receiver.holds.begin() + static_cast<std::ptrdiff_t>(sent));
}

void arrived(Publishing& publishing, Receiver& receiver) noexcept {
    const std::uint64_t seq = receiver.sent_holds ? 0 : receiver.sent_seq;
    publishing.table.acknowledge(receiver.slot, receiver.url, receiver.sent_epoch, seq,
                                 receiver.sent_events, wall_millis());
    if (receiver.sent_holds) forget_sent_holds(receiver);
    if (receiver.back_off > 0) {
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0, "keel_companion \"%s\" takes events again",
                      receiver.url.c_str());
    }
    receiver.back_off = 0;
    receiver.limit = std::min(receiver.limit * 2, kMaxBatchEvents);
}

// The companion answered, and will not answer another time otherwise: it does not know these
// events. They must not keep back those of tags.
bool never_takes_holds(const Receiver& receiver, const PublisherAnswer& answer) noexcept {
    return receiver.sent_holds && answer.status >= 400 && answer.status < 500 &&
           answer.status != 401 && answer.status != 403 && answer.status != 408 &&
           answer.status != 429;
}

std::string explain(const PublisherAnswer& answer) {
    if (answer.error != nullptr) return answer.error;
    std::string text = "it answered " + std::to_string(answer.status);
    if (answer.status == 401 || answer.status == 403)
        text += " (is the secret file the same on both sides?)";
    if (answer.status == 413) text += " (the batch was too large for it)";
    return text;
}

// --- what the publisher calls ---

void on_answer(void* data, std::size_t target, const PublisherAnswer& answer) noexcept {
    auto& publishing = *static_cast<Publishing*>(data);
    Receiver& receiver = publishing.receivers[target];
    receiver.in_flight = false;
    try {
        if (answer.status >= 200 && answer.status < 300) {
            arrived(publishing, receiver);
        } else if (never_takes_holds(receiver, answer)) {
            publishing.table.report_failure(receiver.slot, receiver.url, explain(answer));
            forget_sent_holds(receiver);
        } else if (answer.status == 413 && receiver.sent_events > 1) {
            receiver.limit = receiver.sent_events / 2;
            publishing.table.report_failure(receiver.slot, receiver.url, explain(answer));
        } else {
            failed(publishing, receiver, explain(answer), answer.retry_after);
        }
    } catch (const std::exception&) {
        back_off(receiver, 0);
    }
    look(publishing);
}

void on_timer_wish(void* data, long milliseconds) noexcept {
    auto& publishing = *static_cast<Publishing*>(data);
    if (milliseconds < 0) {
        publishing.curl.clear();
    } else {
        publishing.curl.set(static_cast<ngx_msec_t>(milliseconds));
    }
}

void on_socket_event(ngx_event_t* event) noexcept {
    auto* connection = static_cast<ngx_connection_t*>(event->data);
    auto& publishing = *static_cast<Publishing*>(connection->data);
    publishing.api.ready(publishing.publisher, connection->fd,
                         event->write ? kPublisherWrites : kPublisherReads);
}

// libcurl reads what it likes and not until the end: level-triggered, unlike nginx's own sockets.
void set_interest(ngx_event_t* event, ngx_int_t kind, bool wanted) noexcept {
    if (wanted && !event->active) {
        if (ngx_add_event(event, kind, NGX_LEVEL_EVENT) != NGX_OK) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "keel: cannot watch a socket");
        }
    } else if (!wanted && event->active) {
        (void)ngx_del_event(event, kind, 0);
    }
}

void forget_socket(Publishing& publishing, int fd) noexcept {
    const auto found = publishing.sockets.find(fd);
    if (found == publishing.sockets.end()) return;
    ngx_connection_t* connection = found->second;
    publishing.sockets.erase(found);
    set_interest(connection->read, NGX_READ_EVENT, false);
    set_interest(connection->write, NGX_WRITE_EVENT, false);
    // Braces: it is a macro of several statements.
    if (connection->read->posted) {
        ngx_delete_posted_event(connection->read);
    }
    if (connection->write->posted) {
        ngx_delete_posted_event(connection->write);
    }
    ngx_free_connection(connection);
    connection->fd = static_cast<ngx_socket_t>(-1);  // libcurl closes it
}

void on_socket_wish(void* data, int fd, unsigned wants) noexcept {
    auto& publishing = *static_cast<Publishing*>(data);
    if (wants == 0) {
        forget_socket(publishing, fd);
        return;
    }
    ngx_connection_t* connection = nullptr;
    try {
        ngx_connection_t*& slot = publishing.sockets[fd];
        if (slot == nullptr) {
            slot = ngx_get_connection(fd, ngx_cycle->log);
            if (slot == nullptr) {
                publishing.sockets.erase(fd);
                return;
            }
            slot->data = &publishing;
            slot->read->handler = on_socket_event;
            slot->write->handler = on_socket_event;
            slot->read->log = ngx_cycle->log;
            slot->write->log = ngx_cycle->log;
        }
        connection = slot;
    } catch (const std::exception&) {
        return;  // libcurl's time-out ends the transfer, and it is sent again
    }
    set_interest(connection->read, NGX_READ_EVENT, wants & kPublisherReads);
    set_interest(connection->write, NGX_WRITE_EVENT, wants & kPublisherWrites);
}

// --- what nginx calls ---

void on_curl_timer(ngx_event_t* event) noexcept {
    auto& publishing = owner<Publishing>(event);
    publishing.api.expired(publishing.publisher);
}

void on_scan(ngx_event_t* event) noexcept {
    look(owner<Publishing>(event));
}

// Of this process.
Publishing* running = nullptr;

// Throws std::runtime_error saying why it cannot be used.
const PublisherApi& load_publisher(const MainConf& conf) {
    const char* path = reinterpret_cast<char*>(conf.publisher.data);
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const auto entry = library == nullptr
                           ? nullptr
                           : reinterpret_cast<PublisherEntry>(dlsym(library, kPublisherSymbol));
    if (entry == nullptr) throw std::runtime_error(dlerror());
    const PublisherApi* api = entry();
    if (api->abi != kPublisherAbi) {
        throw std::runtime_error(std::string{path} + " is of another version than the module");
    }
    return *api;
}

std::vector<std::string> urls_of(const MainConf& conf) {
    std::vector<std::string> urls;
    for (ngx_uint_t i = 0; i < conf.companions->nelts; ++i) {
        urls.emplace_back(view(static_cast<Companion*>(conf.companions->elts)[i].url));
    }
    return urls;
}

void fill_receivers(Publishing& publishing) {
    const auto* companions = static_cast<Companion*>(publishing.conf.companions->elts);
    const std::vector<std::string> urls = urls_of(publishing.conf);
    for (std::size_t i = 0; i < urls.size(); ++i) {
        Receiver receiver;
        receiver.url = urls[i];
        receiver.slot = publishing.table.claim(urls[i], urls);
        if (receiver.slot < 0)
            throw std::runtime_error("the zone has no cursor left for " + urls[i]);
        if (companions[i].secret.data != nullptr) {
            Expected<Secrets> secrets = Secrets::parse(view(companions[i].secret));
            if (!secrets) throw std::runtime_error(secrets.error().text);
            receiver.secrets = std::move(*secrets);
        }
        publishing.receivers.push_back(std::move(receiver));
    }
}

bool open_publisher(Publishing& publishing) {
    const auto* companions = static_cast<Companion*>(publishing.conf.companions->elts);
    std::vector<PublisherTarget> targets;
    for (std::size_t i = 0; i < publishing.receivers.size(); ++i) {
        const auto text = [](const ngx_str_t& s) {
            return s.len == 0 ? nullptr : reinterpret_cast<const char*>(s.data);
        };
        targets.push_back(
            {text(companions[i].target), text(companions[i].socket), text(companions[i].ca)});
    }
    const PublisherHost host{&publishing, on_socket_wish, on_timer_wish, on_answer};
    publishing.publisher = publishing.api.open(host, targets.data(), targets.size());
    return publishing.publisher != nullptr;
}

void start(MainConf& conf) {
    auto publishing = std::make_unique<Publishing>(conf, load_publisher(conf));
    fill_receivers(*publishing);
    publishing->scan.prepare(publishing.get(), on_scan);
    publishing->curl.prepare(publishing.get(), on_curl_timer);
    if (!open_publisher(*publishing)) throw std::runtime_error("libcurl does not start");
    running = publishing.release();  // lives as long as the process, which leaves by exit()
    look(*running);
}

// Nothing will be published until the next reload: the log says so once, and keel_api for each
// companion.
void tell_all(const MainConf& conf, const char* why) noexcept {
    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "keel: nothing is published: %s", why);
    try {
        Table table = table_of(conf);
        const std::vector<std::string> urls = urls_of(conf);
        for (const std::string& url : urls) {
            const int slot = table.claim(url, urls);
            if (slot >= 0) table.report_failure(slot, url, why);
        }
    } catch (const std::exception&) {
        return;  // the log has it
    }
}

}  // namespace

void start_publishing(MainConf& conf) noexcept {
    if (conf.companions == nullptr) return;
    try {
        start(conf);
    } catch (const std::exception& error) {
        tell_all(conf, error.what());
    }
}

void publish_news() noexcept {
    if (running != nullptr) look(*running);
}

void publish_hold(HoldEvent event) noexcept {
    static std::uint64_t number = 0;
    if (running == nullptr) return;
    try {
        event.id = running->table.head().epoch + "-hold-" + std::to_string(wall_millis()) + "-" +
                   std::to_string(++number);
        event.source = "/caches/" + std::string{view(running->conf.cache_name)};
        for (Receiver& receiver : running->receivers) {
            // What is in flight is at the front, and stays there until it has been answered.
            if (receiver.holds.size() < kMaxHoldEvents) receiver.holds.push_back(event);
        }
    } catch (const std::exception&) {
        return;  // a hint that is lost
    }
    look(*running);
}

}  // namespace keel::ngx
