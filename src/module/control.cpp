#include "module/control.h"

#include <openssl/evp.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "module/conf.h"
#include "module/state_guard.h"

namespace keel::ngx {
namespace {

constexpr std::size_t kTallies = 2 * kMaxHolds;
constexpr std::size_t kMails = 16;
constexpr std::size_t kReplays = 1'024;
constexpr std::size_t kMailText = 6'144;
constexpr std::size_t kZoneSize = 256 * 1024;

struct TallySlot {
    ngx_atomic_t key;  // 0: free
    ngx_atomic_t answers;
    ngx_atomic_t unfetchable;
    ngx_atomic_t ineffective;
    Told told;
};

enum class MailState : std::uint32_t { free, asked, taken, done };

struct Mail {
    MailState state;
    pid_t worker;  // who asks
    pid_t helper;  // who took it
    std::uint64_t number;
    ngx_msec_t deadline;  // on nginx's monotonic clock: then nobody waits any more
    std::uint64_t if_match;
    std::uint64_t revision;
    ngx_uint_t status;
    bool remove;
    char author[kMaxHoldAuthor + 1];
    char code[32];
    std::uint32_t size;
    char text[kMailText];  // the hold, or the tag to lift; then the verdict's text
};

struct Seen {
    std::array<std::uint8_t, 16> id;
    std::int64_t until;
};

struct Layout {
    TallySlot tallies[kTallies];
    Mail mails[kMails];
    Seen replays[kReplays];
    std::uint64_t next_number;
    char problem[256];
};
static_assert(std::is_trivially_copyable_v<Layout> && std::is_standard_layout_v<Layout>);
static_assert(sizeof(Layout) <= kZoneSize - 16 * 4096);

Layout& layout_of(ngx_slab_pool_t* pool) noexcept {
    return *static_cast<Layout*>(pool->data);
}

class [[nodiscard]] Locked {
  public:
    explicit Locked(ngx_slab_pool_t* pool) noexcept : pool_(pool) { ngx_shmtx_lock(&pool->mutex); }
    ~Locked() { ngx_shmtx_unlock(&pool_->mutex); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

  private:
    ngx_slab_pool_t* pool_;
};

template <std::size_t N>
void put_text(char (&to)[N], std::string_view text) noexcept {
    const std::size_t size = std::min(text.size(), N - 1);
    std::memcpy(to, text.data(), size);
    to[size] = '\0';
}

bool over(const Mail& mail) noexcept {
    return static_cast<ngx_msec_int_t>(ngx_current_msec - mail.deadline) >= 0;
}

// The slot while it still belongs to the ticket. Must be called with the lock held.
Mail* find(Layout& layout, Ticket ticket) noexcept {
    if (ticket.slot < 0) return nullptr;
    Mail& mail = layout.mails[ticket.slot];
    return mail.state != MailState::free && mail.number == ticket.number ? &mail : nullptr;
}

bool is_gone(pid_t process) noexcept {
    return process != ngx_pid && kill(process, 0) == -1 && errno == ESRCH;
}

// A helper that died in the middle of a wish leaves it to the next one.
bool abandoned(const Mail& mail) noexcept {
    return mail.state == MailState::taken && is_gone(mail.helper);
}

// Nobody waits for it any more, and nobody works on it.
bool reusable(const Mail& mail) noexcept {
    if (mail.state == MailState::free) return true;
    if (mail.state == MailState::taken && !abandoned(mail)) return false;
    return over(mail) || is_gone(mail.worker);
}

bool waits(const Mail& mail) noexcept {
    return (mail.state == MailState::asked || abandoned(mail)) && !over(mail);
}

ngx_int_t init_control(ngx_shm_zone_t* zone, void* old) noexcept {
    auto* pool = reinterpret_cast<ngx_slab_pool_t*>(zone->shm.addr);
    auto& conf = *static_cast<MainConf*>(std::exchange(zone->data, pool));
    if (!ngx_test_config && !guard_state(conf)) return NGX_ERROR;
    if (old != nullptr || zone->shm.exists) return NGX_OK;
    return Control{pool}.create() ? NGX_OK : NGX_ERROR;
}

}  // namespace

bool Control::create() noexcept {
    pool_->data = ngx_slab_calloc(pool_, sizeof(Layout));
    return pool_->data != nullptr;
}

void Control::touch() noexcept {
    const auto* bytes = static_cast<const volatile char*>(pool_->data);
    for (std::size_t i = 0; i < sizeof(Layout); i += ngx_pagesize)
        (void)bytes[i];
}

// --- tallies ---

int Control::claim(std::uint64_t key, const std::vector<std::uint64_t>& in_use) noexcept {
    const Locked locked{pool_};
    Layout& layout = layout_of(pool_);
    int free = -1;
    int stale = -1;
    for (int i = 0; i < static_cast<int>(kTallies); ++i) {
        const std::uint64_t found = layout.tallies[i].key;
        if (found == key) return i;
        if (free < 0 && found == 0) free = i;
        if (stale < 0 && !std::binary_search(in_use.begin(), in_use.end(), found)) stale = i;
    }
    const int slot = free >= 0 ? free : stale;
    if (slot < 0) return slot;
    layout.tallies[slot] = TallySlot{};
    layout.tallies[slot].key = key;
    return slot;
}

void Control::count(int slot, std::uint64_t key, Count what) noexcept {
    if (slot < 0) return;
    TallySlot& tally = layout_of(pool_).tallies[slot];
    if (tally.key != key) return;
    ngx_atomic_t* counter = what == Count::answer        ? &tally.answers
                            : what == Count::unfetchable ? &tally.unfetchable
                                                         : &tally.ineffective;
    (void)ngx_atomic_fetch_add(counter, 1);
}

Tally Control::tally(int slot, std::uint64_t key) noexcept {
    if (slot < 0) return {};
    const TallySlot& tally = layout_of(pool_).tallies[slot];
    if (tally.key != key) return {};
    return {tally.answers, tally.unfetchable, tally.ineffective};
}

Told Control::told(int slot, std::uint64_t key) noexcept {
    if (slot < 0) return {};
    const TallySlot& tally = layout_of(pool_).tallies[slot];
    return tally.key == key ? tally.told : Told{};
}

void Control::tell(int slot, std::uint64_t key, const Told& told) noexcept {
    if (slot < 0) return;
    TallySlot& tally = layout_of(pool_).tallies[slot];
    if (tally.key == key) tally.told = told;
}

// --- mailbox ---

Ticket Control::post(const HoldWish& wish, ngx_msec_t deadline) {
    const std::string text = wish.remove ? wish.hold.tag.to_string() : encode_hold_text(wish.hold);
    if (text.empty() || text.size() > kMailText || wish.author.size() > kMaxHoldAuthor) return {};
    const Locked locked{pool_};
    Layout& layout = layout_of(pool_);
    for (int i = 0; i < static_cast<int>(kMails); ++i) {
        Mail& mail = layout.mails[i];
        if (!reusable(mail)) continue;
        mail.state = MailState::free;  // who dies in here leaves nothing that could be fulfilled
        ngx_memory_barrier();
        mail.worker = ngx_pid;
        mail.number = ++layout.next_number;
        mail.deadline = deadline;
        mail.if_match = wish.if_match;
        mail.remove = wish.remove;
        put_text(mail.author, wish.author);
        mail.size = static_cast<std::uint32_t>(text.size());
        std::memcpy(mail.text, text.data(), text.size());
        ngx_memory_barrier();
        mail.state = MailState::asked;
        return {i, mail.number};
    }
    return {};
}

std::optional<HoldVerdict> Control::collect(Ticket ticket) {
    HoldVerdict verdict;
    verdict.code.reserve(sizeof(Mail::code));
    verdict.text.reserve(kMailText);
    const Locked locked{pool_};
    Mail* mail = find(layout_of(pool_), ticket);
    if (mail == nullptr || mail->state != MailState::done) return std::nullopt;
    verdict.status = mail->status;
    verdict.revision = mail->revision;
    verdict.code = mail->code;
    verdict.text.assign(mail->text, mail->size);
    mail->state = MailState::free;
    return verdict;
}

bool Control::withdraw(Ticket ticket) noexcept {
    const Locked locked{pool_};
    Mail* mail = find(layout_of(pool_), ticket);
    if (mail == nullptr) return true;
    const bool begun = mail->state != MailState::asked;
    if (!begun || mail->state == MailState::done) mail->state = MailState::free;
    return !begun;
}

std::optional<std::pair<Ticket, HoldWish>> Control::take() {
    std::string text;
    text.reserve(kMailText);
    HoldWish wish;
    wish.author.reserve(kMaxHoldAuthor);
    Ticket ticket;
    {
        const Locked locked{pool_};
        Layout& layout = layout_of(pool_);
        // In the order of asking.
        Mail* first = nullptr;
        for (Mail& mail : layout.mails) {
            if (waits(mail) && (first == nullptr || mail.number < first->number)) first = &mail;
        }
        if (first == nullptr) return std::nullopt;
        ticket = {static_cast<int>(first - layout.mails), first->number,
                  first->state == MailState::taken};
        first->helper = ngx_pid;
        ngx_memory_barrier();
        first->state = MailState::taken;
        wish.remove = first->remove;
        wish.if_match = first->if_match;
        wish.author = first->author;
        text.assign(first->text, first->size);
    }
    if (wish.remove) {
        if (Expected<Tag> tag = Tag::parse(text); tag) wish.hold.tag = *std::move(tag);
    } else if (Expected<Hold> hold = decode_hold_text(text); hold) {
        wish.hold = *std::move(hold);
    }
    return std::pair{ticket, std::move(wish)};
}

bool Control::has_mail() noexcept {
    const Locked locked{pool_};
    const Layout& layout = layout_of(pool_);
    return std::any_of(std::begin(layout.mails), std::end(layout.mails), waits);
}

void Control::finish(Ticket ticket, const HoldVerdict& verdict) noexcept {
    const Locked locked{pool_};
    Mail* mail = find(layout_of(pool_), ticket);
    if (mail == nullptr) return;
    mail->status = verdict.status;
    mail->revision = verdict.revision;
    put_text(mail->code, verdict.code);
    mail->size = static_cast<std::uint32_t>(std::min(verdict.text.size(), kMailText));
    std::memcpy(mail->text, verdict.text.data(), mail->size);
    ngx_memory_barrier();
    mail->state = MailState::done;
}

// --- replays ---

Replay Control::remember(std::string_view id, std::int64_t now, std::int64_t until) noexcept {
    std::array<std::uint8_t, EVP_MAX_MD_SIZE> hash{};
    if (EVP_Digest(id.data(), id.size(), hash.data(), nullptr, EVP_sha256(), nullptr) != 1) {
        return Replay::full;
    }
    Seen seen{{}, until};
    std::memcpy(seen.id.data(), hash.data(), seen.id.size());
    const Locked locked{pool_};
    Seen* free = nullptr;
    for (Seen& slot : layout_of(pool_).replays) {
        if (slot.until < now) {
            free = &slot;
        } else if (slot.id == seen.id) {
            return Replay::seen;
        }
    }
    if (free == nullptr) return Replay::full;
    *free = seen;
    return Replay::fresh;
}

void Control::set_problem(std::string_view text) noexcept {
    const Locked locked{pool_};
    put_text(layout_of(pool_).problem, text);
}

std::string Control::problem() {
    std::string text;
    text.reserve(sizeof(Layout::problem));
    const Locked locked{pool_};
    text = layout_of(pool_).problem;
    return text;
}

std::uint64_t hold_key(const Hold& hold) noexcept {
    std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a
    const auto mix = [&](const void* data, std::size_t size) {
        for (std::size_t i = 0; i < size; ++i) {
            hash = (hash ^ static_cast<const std::uint8_t*>(data)[i]) * 1099511628211ULL;
        }
        hash = hash * 1099511628211ULL;  // a border, as an added NUL
    };
    for (const std::string* part : {&hold.tag.registry, &hold.tag.repository, &hold.tag.name}) {
        mix(part->data(), part->size());
    }
    mix(hold.digest.bytes().data(), hold.digest.bytes().size());
    const std::int64_t since = hold.since.time_since_epoch().count();
    mix(&since, sizeof(since));
    return hash == 0 ? 1 : hash;
}

ngx_shm_zone_t* add_control(ngx_conf_t* cf, MainConf& conf) noexcept {
    ngx_str_t name = ngx_string("ngx_keel_control");
    static char own;  // another tag than the tag table's zone has: that one is looked for by it
    ngx_shm_zone_t* zone = ngx_shared_memory_add(cf, &name, kZoneSize, &own);
    if (zone == nullptr) return nullptr;
    zone->init = init_control;
    zone->data = &conf;
    return zone;
}

}  // namespace keel::ngx
