// One pass does all there is to do. It takes the lock only when something is to be written, the
// file is another than the last time, or another was posted: another generation of nginx may have a
// writer of its own, and the lock makes one order of both.

#include "module/hold_writer.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/event.h"
#include "module/control.h"
#include "module/helper.h"
#include "module/hold_file.h"
#include "module/publish.h"

namespace keel::ngx {
namespace {

constexpr ngx_msec_t kPass = 1'000;
constexpr ngx_msec_t kBusy = 20;  // until the next try when somebody else has the lock
constexpr std::chrono::hours kAnnounce{24};
constexpr const char* kUnreadable =
    "the file of holds cannot be read, so nothing is written over it; the log says why";
// How much worse a count gets before companions are told again: at the first, the second, the
// fourth and so on.
constexpr std::uint64_t kGrowth = 2;

struct Writer {
    explicit Writer(const MainConf& conf)
        : directory(view(conf.state->name)), control(control_of(conf)), board(*conf.board) {
        if (std::optional<Posting> posting = board.read()) set = std::move(posting->set);
    }

    std::string directory;
    Control control;
    HoldBoard& board;
    HoldSet set;               // as it lies on the disk, or as it was last known
    FileStamp stamp;           // of that file
    std::uint64_t posted = 0;  // number of the posting that has the set
    bool read = false;
    Timer timer;
    LogGate gate;
};

Writer* running = nullptr;  // of this process, which leaves by exit()

Time now() noexcept {
    return to_time(wall_millis());
}

void complain(Writer& writer, const std::string& text) {
    writer.control.set_problem(text);
    if (!writer.gate.open()) return;
    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "keel: holds: %s", text.c_str());
}

// Lets every process know the set; nothing to do where another generation's helper has. The lock
// must be held, but where nobody can have it.
void post(Writer& writer, bool readable) {
    const std::optional<Posting> there = writer.board.read();
    const bool same = there && there->readable == readable && there->set == writer.set;
    writer.posted = same ? there->number : writer.board.post(writer.set, readable);
}

// The disk has it, and does not promise to have it after a power cut.
bool is_there(const Expected<void>& written) {
    return !written && written.error().code == "not-durable";
}

// Puts the set on the disk and lets every process know it. The lock must be held.
Expected<void> write(Writer& writer, HoldSet set) {
    set.revision = std::max(set.revision, writer.set.revision) + 1;
    Expected<void> done = write_holds(writer.directory, set);
    if (!done) complain(writer, done.error().text);
    if (!done && !is_there(done)) return done;
    if (done) writer.control.set_problem("");
    writer.set = std::move(set);
    writer.read = true;
    writer.stamp = FileStamp::of(writer.directory + "/holds");
    post(writer, true);
    return done;
}

// A file that is not to be trusted goes out of the way; what it should have said is written again
// if this process still knows it. The lock must be held.
void replace_bad_file(Writer& writer, const Error& why) {
    const std::string aside = set_holds_aside(writer.directory);
    if (aside.empty()) {
        complain(writer, "the file cannot be used and cannot be set aside: " + why.text);
        return;
    }
    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "keel: the file of holds was set aside as \"%s\": %s; %uz holds are in force",
                  aside.c_str(), why.text.c_str(), writer.set.holds.size());
    const std::size_t known = writer.set.holds.size();
    // Nobody knows how far the file was: no revision that somebody has read may come again.
    if (writer.set.revision == 0) {
        writer.set.revision = static_cast<std::uint64_t>(wall_millis() / 1000);
    }
    if (write(writer, writer.set)) {
        writer.control.set_problem("set aside as " + aside + ": " + why.text + "; " +
                                   std::to_string(known) + " holds were known and stay");
    }
}

// What a look at the file found.
enum class Look : std::uint8_t { fine, unreadable };

bool is_fine(const Writer& writer) noexcept {
    return writer.read && writer.posted == writer.board.number() &&
           FileStamp::of(writer.directory + "/holds") == writer.stamp;
}

// What it says is not known, so what was known stays, and nothing may be written over it.
Look give_up(Writer& writer, const std::string& why) {
    writer.read = false;
    complain(writer, why);
    post(writer, false);
    return Look::unreadable;
}

// Takes over what the file says now. `may_write`: the lock is held; else nobody can have it.
Look refresh(Writer& writer, bool may_write) {
    if (is_fine(writer)) return Look::fine;
    Expected<HoldRead> read = read_holds(writer.directory);
    if (!read && (!may_write || read.error().code != "bad-holds")) {
        return give_up(writer, read.error().text);
    }
    if (!read) {
        writer.read = false;
        replace_bad_file(writer, read.error());
        return writer.read ? Look::fine : give_up(writer, writer.control.problem());
    }
    // A file that is gone was taken away by somebody who wants no holds.
    if (!writer.read || read->stamp != writer.stamp) writer.control.set_problem("");
    writer.set = read->set ? *std::move(read->set) : HoldSet{writer.set.revision, {}};
    writer.stamp = read->stamp;
    writer.read = true;
    post(writer, true);
    return Look::fine;
}

// --- telling ---

void tell(Writer& writer, const Hold& hold, HoldNews news) {
    HoldEvent event;
    event.time = now();
    event.tag = hold.tag;
    event.digest = hold.digest;
    event.news = news;
    event.revision = writer.set.revision;
    publish_hold(std::move(event));
}

// Told at the first, and then whenever it has doubled.
bool has_grown(std::uint64_t count, std::uint64_t told) noexcept {
    return count > 0 && (told == 0 || count >= told * kGrowth);
}

void tell_of(Writer& writer, const Hold& hold, int slot, std::uint64_t key) {
    const Tally tally = writer.control.tally(slot, key);
    Told told = writer.control.told(slot, key);
    const Told before = told;
    if (has_grown(tally.unfetchable, told.unfetchable)) {
        told.unfetchable = tally.unfetchable;
        tell(writer, hold, HoldNews::unfetchable);
    }
    if (has_grown(tally.ineffective, told.ineffective)) {
        told.ineffective = tally.ineffective;
        tell(writer, hold, HoldNews::ineffective);
    }
    if (!told.expiring && hold.until && *hold.until <= now() + kAnnounce) {
        told.expiring = true;
        tell(writer, hold, HoldNews::expiring);
        const std::string tag = hold.tag.to_string();
        const std::string until = format_time(*hold.until);
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0, "keel: the hold of \"%s\" ends at %s",
                      tag.c_str(), until.c_str());
    }
    if (told != before) writer.control.tell(slot, key, told);
}

void tell_all(Writer& writer) {
    std::vector<std::uint64_t> keys;
    for (const Hold& hold : writer.set.holds)
        keys.push_back(hold_key(hold));
    std::vector<std::uint64_t> in_use = keys;
    std::sort(in_use.begin(), in_use.end());
    for (std::size_t i = 0; i < keys.size(); ++i) {
        tell_of(writer, writer.set.holds[i], writer.control.claim(keys[i], in_use), keys[i]);
    }
}

// --- expiry; the lock must be held where something is lifted ---

bool has_expired(const Writer& writer) {
    const Time at = now();
    return std::any_of(writer.set.holds.begin(), writer.set.holds.end(),
                       [&](const Hold& hold) { return !hold.applies(at); });
}

void lift_expired(Writer& writer) {
    HoldSet left{writer.set.revision, {}};
    std::vector<Hold> over;
    const Time at = now();
    for (const Hold& hold : writer.set.holds)
        (hold.applies(at) ? left.holds : over).push_back(hold);
    if (over.empty()) return;
    if (const auto done = write(writer, std::move(left)); !done && !is_there(done)) return;
    for (const Hold& hold : over) {
        tell(writer, hold, HoldNews::lifted);
        const std::string tag = hold.tag.to_string();
        ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0, "keel: the hold of \"%s\" is over",
                      tag.c_str());
    }
}

// --- wishes; the lock must be held ---

HoldVerdict refused(const Writer& writer, ngx_uint_t status, const char* code, std::string text) {
    return {status, writer.set.revision, code, std::move(text)};
}

// What a helper had written before it died is not refused to the worker that still waits.
bool is_done(const Writer& writer, const HoldWish& wish) {
    if (writer.set.revision != wish.if_match + 1) return false;
    const Hold* found = writer.set.find(wish.hold.tag);
    if (wish.remove || found == nullptr) return wish.remove && found == nullptr;
    Hold wanted = wish.hold;
    wanted.since = found->since;
    return *found == wanted;
}

HoldVerdict done(const Writer& writer, const HoldWish& wish) {
    const Hold* hold = wish.remove ? nullptr : writer.set.find(wish.hold.tag);
    return {NGX_HTTP_OK, writer.set.revision, "", hold == nullptr ? "" : encode_hold_text(*hold)};
}

void log_write(const HoldWish& wish, const Hold& hold, std::uint64_t revision) {
    const std::string tag = hold.tag.to_string();
    const std::string digest = hold.digest.to_string();
    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0, "keel: \"%s\" %s \"%s\" %s %s, revision %uL",
                  wish.author.c_str(), wish.remove ? "lifted the hold of" : "holds", tag.c_str(),
                  wish.remove ? "from" : "at", digest.c_str(), revision);
}

HoldVerdict fulfil(Writer& writer, const HoldWish& wish, bool again) {
    if (wish.hold.tag.name.empty()) {
        return refused(writer, NGX_HTTP_INTERNAL_SERVER_ERROR, "internal", "the wish was lost");
    }
    if (wish.if_match != writer.set.revision) {
        if (again && is_done(writer, wish)) return done(writer, wish);
        return refused(writer, NGX_HTTP_PRECONDITION_FAILED, "revision",
                       "the holds are at revision " + std::to_string(writer.set.revision) +
                           ", If-Match says " + std::to_string(wish.if_match) +
                           ": read them again");
    }
    const Hold* there = writer.set.find(wish.hold.tag);
    if (there != nullptr && there->owner != wish.author) {
        return refused(
            writer, NGX_HTTP_FORBIDDEN, "owner",
            "this hold belongs to " + there->owner + ", and " + wish.author + " may not change it");
    }
    if (wish.remove && there == nullptr) {
        return refused(writer, NGX_HTTP_NOT_FOUND, "not-found",
                       wish.hold.tag.to_string() + " is not held");
    }
    HoldSet next = writer.set;
    Hold hold = wish.remove ? *there : wish.hold;
    // The same hold written again keeps its age and its counters.
    if (!wish.remove && there != nullptr && there->digest == hold.digest) hold.since = there->since;
    if (wish.remove) {
        next.remove(hold.tag);
    } else if (!next.put(hold)) {
        return refused(writer, NGX_HTTP_CONFLICT, "too-many-holds",
                       "there are 256 holds, which is the most; lift one first");
    }
    const Expected<void> written = write(writer, std::move(next));
    if (is_there(written)) {
        log_write(wish, hold, writer.set.revision);
        tell(writer, hold, wish.remove ? HoldNews::lifted : HoldNews::set);
        return refused(writer, NGX_HTTP_INSUFFICIENT_STORAGE, "not-durable",
                       written.error().text + ": it is in force, and may be lost by a power cut");
    }
    if (!written) {
        return refused(writer, NGX_HTTP_INSUFFICIENT_STORAGE, "not-written", written.error().text);
    }
    log_write(wish, hold, writer.set.revision);
    tell(writer, hold, wish.remove ? HoldNews::lifted : HoldNews::set);
    return done(writer, wish);
}

void fulfil_all(Writer& writer) {
    while (auto mail = writer.control.take()) {
        const auto& [ticket, wish] = *mail;
        try {
            writer.control.finish(ticket, fulfil(writer, wish, ticket.again));
        } catch (const std::exception& error) {
            writer.control.finish(
                ticket, refused(writer, NGX_HTTP_INTERNAL_SERVER_ERROR, "internal", error.what()));
        }
    }
}

// The delay until the next pass.
ngx_msec_t refuse_all(Writer& writer, const std::string& why) {
    while (auto mail = writer.control.take()) {
        writer.control.finish(mail->first,
                              refused(writer, NGX_HTTP_INSUFFICIENT_STORAGE, "not-written", why));
    }
    return kPass;
}

// --- a pass ---

// The delay until the next one.
ngx_msec_t pass(Writer& writer) {
    if (is_fine(writer) && !has_expired(writer) && !writer.control.has_mail()) {
        tell_all(writer);
        return kPass;
    }
    const HoldLock lock(writer.directory);
    if (lock.state() == HoldLock::State::busy) return kBusy;
    if (lock.state() == HoldLock::State::failed) {
        const std::string why =
            "cannot lock " + writer.directory + "/lock: " + std::strerror(lock.error());
        const bool fine = refresh(writer, false) == Look::fine;
        if (fine && !has_expired(writer) && !writer.control.has_mail()) {
            tell_all(writer);
            return kPass;
        }
        complain(writer, why);
        return refuse_all(writer, why);
    }
    if (refresh(writer, true) == Look::unreadable) return refuse_all(writer, kUnreadable);
    lift_expired(writer);
    fulfil_all(writer);
    tell_all(writer);
    return kPass;
}

void run() noexcept {
    ngx_msec_t next = kPass;
    try {
        next = pass(*running);
    } catch (const std::exception& error) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "keel: holds: %s", error.what());
    }
    running->timer.set(next);
}

void on_timer(ngx_event_t*) noexcept {
    run();
}

}  // namespace

void start_hold_writer(MainConf& conf) noexcept {
    if (conf.board == nullptr) return;
    try {
        running = new Writer(conf);
    } catch (const std::exception& error) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "keel: holds cannot be written: %s",
                      error.what());
        return;
    }
    running->control.touch();
    running->timer.prepare(running, on_timer);
    run();
}

void look_for_wishes() noexcept {
    if (running != nullptr && running->control.has_mail()) run();
}

}  // namespace keel::ngx
