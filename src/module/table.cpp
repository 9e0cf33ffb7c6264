#include "module/table.h"

#include <signal.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "core/snapshot.h"
#include "module/layout.h"

namespace keel::ngx {

const std::array<CounterName, kCounters> kCounterNames = {{
    {"keel_observations_total", R"(change="new")", "Answers about tags that counted"},
    {"keel_observations_total", R"(change="changed")", nullptr},
    {"keel_observations_total", R"(change="same")", nullptr},
    {"keel_observations_total", R"(change="revert")", nullptr},
    {"keel_observations_total", R"(change="cleared")", nullptr},
    {"keel_uncounted_total", R"(reason="status")", "Answers about tags that did not count"},
    {"keel_uncounted_total", R"(reason="range")", nullptr},
    {"keel_uncounted_total", R"(reason="cached")", nullptr},
    {"keel_uncounted_total", R"(reason="no-upstream")", nullptr},
    {"keel_uncounted_total", R"(reason="narrow-accept")", nullptr},
    {"keel_uncounted_total", R"(reason="legacy")", nullptr},
    {"keel_uncounted_total", R"(reason="unknown-type")", nullptr},
    {"keel_uncounted_total", R"(reason="no-digest")", nullptr},
    {"keel_uncounted_total", R"(reason="bad-digest")", nullptr},
    {"keel_uncounted_total", R"(reason="digest-mismatch")", nullptr},
    {"keel_uncounted_total", R"(reason="cut-off")", nullptr},
    {"keel_uncounted_total", R"(reason="unconfirmed")", nullptr},
    {"keel_uncounted_total", R"(reason="unnamed-registry")", nullptr},
    {"keel_uncounted_total", R"(reason="overtaken")", nullptr},
    {"keel_evicted_total", "", "Tags that made room for newer ones"},
    {"keel_evicted_unsent_total", "", "Evicted before every companion had them"},
    {"keel_dropped_total", "", "Observations that found no room in the zone"},
    {"keel_resets_total", "", "Zone emptied after a process died inside a change"},
    {"keel_hashed_bodies_total", "", "Manifests hashed to their end"},
    {"keel_published_batches_total", "", "Batches acknowledged by companions"},
    {"keel_published_events_total", "", "Events acknowledged by companions"},
    {"keel_publish_failures_total", "", "Batches that were not acknowledged"},
    {"keel_confirmed_total", "", "Pending digests that keel_api made current"},
    {"keel_restored_total", "", "Tags that came from a snapshot or from the zone before"},
    {"keel_left_out_total", "", "Tags of a snapshot that found no room in the zone"},
    {"keel_snapshot_writes_total", "", "Snapshots written"},
    {"keel_snapshot_failures_total", "", "Snapshots that could not be written"},
    {"keel_snapshot_set_aside_total", "", "Files that were no good as a snapshot"},
}};

namespace {

constexpr std::size_t kSlice = 32;       // entries copied under one hold of the lock
constexpr std::size_t kIndexSlice = 64;  // entries looked at under one
constexpr int kMaxEvictions = 16;        // for one insertion
constexpr int kCleanSearch = 4;          // entries looked at for one that everybody has

void insert_by_key(ngx_rbtree_node_t* at, ngx_rbtree_node_t* node,
                   ngx_rbtree_node_t* sentinel) noexcept {
    const Entry* entry = entry_by_key(node);
    const std::string_view key{entry->key(), entry->key_size()};
    ngx_rbtree_node_t** place;
    for (;;) {
        const bool left =
            node->key != at->key ? node->key < at->key : compare_keys(key, *entry_by_key(at)) < 0;
        place = left ? &at->left : &at->right;
        if (*place == sentinel) break;
        at = *place;
    }
    *place = node;
    node->parent = at;
    node->left = sentinel;
    node->right = sentinel;
    ngx_rbt_red(node);
}

void new_epoch(Header& header) noexcept {
    std::array<std::uint8_t, kEpochText / 2> random{};
    // 16 bytes come at once or, before the kernel has any randomness, not at all; the clock then
    // keeps epochs apart.
    if (getrandom(random.data(), random.size(), GRND_NONBLOCK) !=
        static_cast<ssize_t>(random.size())) {
        const std::int64_t now = wall_millis();
        std::memcpy(random.data(), &now, sizeof(now));
    }
    ngx_hex_dump(reinterpret_cast<u_char*>(header.epoch), random.data(), random.size());
}

void make_empty(Header& header) noexcept {
    header.seq = 0;
    header.tags = 0;
    ngx_rbtree_init(&header.by_key, &header.by_key_sentinel, insert_by_key);
    ngx_rbtree_init(&header.by_seq, &header.by_seq_sentinel, ngx_rbtree_insert_value);
    ngx_queue_init(&header.lru);
    for (CompanionState& companion : header.companions)
        companion.acked = 0;
    new_epoch(header);
}

// Marks the table as half changed for as long as it lives.
class [[nodiscard]] Mutation {
  public:
    explicit Mutation(Header& header) noexcept : header_(header) {
        header_.busy = 1;
        ngx_memory_barrier();
    }
    ~Mutation() {
        ngx_memory_barrier();
        header_.busy = 0;
    }
    Mutation(const Mutation&) = delete;
    Mutation& operator=(const Mutation&) = delete;

  private:
    Header& header_;
};

// Somebody died in the middle of a change: trees, queue and slab may be anything. What stays is the
// header itself, which the fresh slab pool hands out again at the same place, being its first
// allocation. Must be called with the lock held.
void recover(ngx_slab_pool_t* pool) noexcept {
    Header* old = header_of(pool);
    ngx_slab_init(pool);
    pool->log_nomem = 0;
    auto* header = static_cast<Header*>(ngx_slab_alloc_locked(pool, sizeof(Header)));
    if (header != old) {
        if (header == nullptr) header = old;
        pool->data = header;
    }
    make_empty(*header);
    header->load = header->load == LoadState::fresh ? LoadState::fresh : LoadState::again;
    header->saved_seq = kUnsaved;
    ngx_memory_barrier();
    header->busy = 0;
    (void)ngx_atomic_fetch_add(&header->counters[static_cast<std::size_t>(Counter::resets)], 1);
    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "keel: a process died while it changed the tag table; it starts again with epoch "
                  "%*s",
                  kEpochText, header->epoch);
}

// Holds the zone's lock.
class [[nodiscard]] Locked {
  public:
    explicit Locked(ngx_slab_pool_t* pool) noexcept : pool_(pool) {
        ngx_shmtx_lock(&pool_->mutex);
        if (header_of(pool_)->busy) recover(pool_);
    }
    ~Locked() { ngx_shmtx_unlock(&pool_->mutex); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

    [[nodiscard]] Header& header() const noexcept { return *header_of(pool_); }
    [[nodiscard]] ngx_slab_pool_t* pool() const noexcept { return pool_; }

  private:
    ngx_slab_pool_t* pool_;
};

void add(Header& header, Counter counter, std::uint64_t n = 1) noexcept {
    (void)ngx_atomic_fetch_add(&header.counters[static_cast<std::size_t>(counter)], n);
}

// --- entries; everything here must be called with the lock held ---

Entry* find(Header& header, const Key& key) noexcept {
    ngx_rbtree_node_t* node = header.by_key.root;
    while (node != &header.by_key_sentinel) {
        if (key.hash() != node->key) {
            node = key.hash() < node->key ? node->left : node->right;
            continue;
        }
        Entry* entry = entry_by_key(node);
        const int order = compare_keys(key.bytes(), *entry);
        if (order == 0) return entry;
        node = order < 0 ? node->left : node->right;
    }
    return nullptr;
}

// The first entry with seq > since, or null.
Entry* first_after(Header& header, std::uint64_t since) noexcept {
    ngx_rbtree_node_t* node = header.by_seq.root;
    ngx_rbtree_node_t* best = nullptr;
    while (node != &header.by_seq_sentinel) {
        if (node->key > since) {
            best = node;
            node = node->left;
        } else {
            node = node->right;
        }
    }
    return best == nullptr ? nullptr : entry_by_seq(best);
}

bool sent_to_all(const Header& header, const Entry& entry) noexcept {
    return std::all_of(std::begin(header.companions), std::end(header.companions),
                       [&](const CompanionState& companion) {
                           return !companion.used || companion.acked >= entry.by_seq.key;
                       });
}

void remove(Locked& locked, Entry* entry) noexcept {
    Header& header = locked.header();
    ngx_rbtree_delete(&header.by_key, &entry->by_key);
    ngx_rbtree_delete(&header.by_seq, &entry->by_seq);
    ngx_queue_remove(&entry->lru);
    ngx_slab_free_locked(locked.pool(), entry);
    --header.tags;
}

// Frees the entry that was seen longest ago, one that every companion has if the last few hold one.
bool evict_one(Locked& locked) noexcept {
    Header& header = locked.header();
    if (ngx_queue_empty(&header.lru)) return false;
    Entry* victim = entry_by_lru(ngx_queue_last(&header.lru));
    ngx_queue_t* link = ngx_queue_last(&header.lru);
    for (int i = 0; i < kCleanSearch && link != ngx_queue_sentinel(&header.lru); ++i) {
        if (sent_to_all(header, *entry_by_lru(link))) {
            victim = entry_by_lru(link);
            break;
        }
        link = ngx_queue_prev(link);
    }
    add(header, Counter::evicted);
    if (!sent_to_all(header, *victim)) add(header, Counter::evicted_unsent);
    remove(locked, victim);
    return true;
}

Entry* allocate(Locked& locked, std::size_t size) noexcept {
    for (int i = 0; i <= kMaxEvictions; ++i) {
        void* memory = ngx_slab_alloc_locked(locked.pool(), size);
        if (memory != nullptr) return static_cast<Entry*>(memory);
        if (!evict_one(locked)) break;
    }
    return nullptr;
}

void link_by_trees(Header& header, Entry* entry, ngx_rbtree_key_t hash,
                   std::uint64_t seq) noexcept {
    entry->by_key.key = hash;
    entry->by_seq.key = seq;
    ngx_rbtree_insert(&header.by_key, &entry->by_key);
    ngx_rbtree_insert(&header.by_seq, &entry->by_seq);
    ++header.tags;
}

void link_entry(Header& header, Entry* entry, ngx_rbtree_key_t hash, std::uint64_t seq) noexcept {
    link_by_trees(header, entry, hash, seq);
    ngx_queue_insert_head(&header.lru, &entry->lru);
}

Entry* insert(Locked& locked, const Key& key, const Observation& seen, std::uint64_t seq) noexcept {
    const std::size_t width = seen.digest->bytes().size() > kNarrow ? kWide : kNarrow;
    Entry* entry = allocate(locked, sizeof(Entry) + kHistory * width + key.bytes().size());
    if (entry == nullptr) return nullptr;
    std::memset(static_cast<void*>(entry), 0, sizeof(Entry));
    entry->width = static_cast<std::uint8_t>(width);
    entry->current = -1;
    entry->previous = -1;
    entry->pending = -1;
    entry->touched = seen.monotonic;
    entry->no_kubelet_since = seen.now;
    entry->registry_size = static_cast<std::uint8_t>(seen.registry.size());
    entry->repository_size = static_cast<std::uint8_t>(seen.repository.size());
    entry->name_size = static_cast<std::uint8_t>(seen.name.size());
    std::memcpy(const_cast<char*>(entry->key()), key.bytes().data(), key.bytes().size());
    link_entry(locked.header(), entry, key.hash(), seq);
    return entry;
}

// Moves the entry into room for sha512 digests; null, and the entry is gone, when there is none.
Entry* widen(Locked& locked, Entry* narrow) noexcept {
    alignas(Entry) std::array<char, kMaxEntry> copy;
    std::memcpy(copy.data(), narrow, narrow->size());
    const Entry& old = *reinterpret_cast<const Entry*>(copy.data());
    remove(locked, narrow);
    Entry* entry = allocate(locked, sizeof(Entry) + kHistory * kWide + old.key_size());
    if (entry == nullptr) return nullptr;
    std::memcpy(static_cast<void*>(entry), &old, sizeof(Entry));
    entry->width = kWide;
    std::memset(entry->digests(), 0, kHistory * kWide);
    for (std::size_t i = 0; i < old.count; ++i) {
        std::memcpy(entry->digests() + i * kWide, old.digests() + i * old.width, old.width);
    }
    std::memcpy(const_cast<char*>(entry->key()), old.key(), old.key_size());
    link_entry(locked.header(), entry, old.by_key.key, old.by_seq.key);
    return entry;
}

// Index of the digest in the history, or -1.
int find_digest(const Entry& entry, const Digest& digest) noexcept {
    const auto bytes = digest.bytes();
    for (int i = 0; i < entry.count; ++i) {
        if (entry.algorithm[i] == digest.algorithm() &&
            std::memcmp(entry.digests() + static_cast<std::size_t>(i) * entry.width, bytes.data(),
                        bytes.size()) == 0) {
            return i;
        }
    }
    return -1;
}

Digest digest_at(const Entry& entry, int index) noexcept {
    if (index < 0) return {};
    const std::size_t size = entry.algorithm[index] == Digest::Algorithm::sha512 ? kWide : kNarrow;
    return Digest::from_bytes(
        entry.algorithm[index],
        {entry.digests() + static_cast<std::size_t>(index) * entry.width, size});
}

// A place for one more digest: a free one, else that of the digest seen longest ago which is
// neither current nor previous nor pending. kHistory > 3, so there is always one.
int place_for_digest(Entry& entry) noexcept {
    static_assert(kHistory > 3);
    if (entry.count < kHistory) return entry.count++;
    int oldest = -1;
    for (int i = 0; i < static_cast<int>(kHistory); ++i) {
        if (i == entry.current || i == entry.previous || i == entry.pending) continue;
        if (oldest < 0 || entry.seen[i].last_seen < entry.seen[oldest].last_seen) oldest = i;
    }
    return oldest;
}

void set_current(Entry& entry, const Observation& seen) noexcept {
    const int place = place_for_digest(entry);
    const auto bytes = seen.digest->bytes();
    std::memcpy(entry.digests() + static_cast<std::size_t>(place) * entry.width, bytes.data(),
                bytes.size());
    entry.algorithm[place] = seen.digest->algorithm();
    entry.kind[place] = seen.kind;
    entry.seen[place] = {seen.now, seen.now};
    entry.previous = entry.current;
    entry.current = static_cast<std::int8_t>(place);
    entry.pending = -1;
}

void put_masked(char* to, std::string_view text) noexcept {
    // From the network, and goes into JSON: what is not plain ASCII is masked.
    std::transform(text.begin(), text.end(), to,
                   [](char c) { return c > 0x20 && c < 0x7f ? c : '?'; });
}

// Gives the entry the next seq, so that every companion lacks it again.
void queue_event(Header& header, Entry& entry, Change change, const Observation& seen) noexcept {
    entry.change = change;
    entry.changed_at = seen.now;
    entry.changed_monotonic = seen.monotonic;
    entry.asked_by = seen.asked_by;
    const std::size_t size = std::min(seen.node.size(), kMaxNode);
    entry.node_size = static_cast<std::uint8_t>(size);
    put_masked(entry.node, seen.node.substr(0, size));
    ngx_rbtree_delete(&header.by_seq, &entry.by_seq);
    entry.by_seq.key = ++header.seq;
    ngx_rbtree_insert(&header.by_seq, &entry.by_seq);
}

// Moves the entry to the head of the LRU queue, at most once a second.
void touch(Header& header, Entry& entry, ngx_msec_t now) noexcept {
    if (now - entry.touched < 1000) return;
    const Mutation mutation{header};
    entry.touched = now;
    ngx_queue_remove(&entry.lru);
    ngx_queue_insert_head(&header.lru, &entry.lru);
}

bool began_before_last_change(const Entry& entry, const Observation& seen) noexcept {
    return static_cast<ngx_msec_int_t>(seen.started - entry.changed_monotonic) < 0;
}

Outcome first_sight(Locked& locked, const Key& key, const Observation& seen) noexcept {
    Header& header = locked.header();
    const Mutation mutation{header};
    const std::uint64_t before = header.tags;
    Entry* entry = insert(locked, key, seen, header.seq);
    if (entry == nullptr) {
        add(header, Counter::dropped);
        return {Change::none, {}, false, true};
    }
    set_current(*entry, seen);
    queue_event(header, *entry, Change::fresh, seen);
    add(header, Counter::fresh);
    return {Change::fresh, {}, true, header.tags <= before};
}

Outcome same_digest(Header& header, Entry& entry, const Observation& seen) noexcept {
    touch(header, entry, seen.monotonic);
    entry.seen[entry.current].last_seen = seen.now;
    if (entry.pending < 0 || began_before_last_change(entry, seen)) {
        add(header, Counter::same);
        return {Change::same, {}, false};
    }
    const Mutation mutation{header};
    entry.pending = -1;
    queue_event(header, entry, Change::cleared, seen);
    add(header, Counter::cleared);
    return {Change::same, {}, true};
}

Outcome older_digest(Header& header, Entry& entry, int index, const Observation& seen) noexcept {
    // Its answer was made before the one that moved the tag, and only arrived later.
    if (began_before_last_change(entry, seen)) {
        add(header, Counter::overtaken);
        return {};
    }
    touch(header, entry, seen.monotonic);
    entry.seen[index].last_seen = seen.now;
    const Digest current = digest_at(entry, entry.current);
    add(header, Counter::revert);
    if (entry.pending == index) return {Change::revert, current, false};
    const Mutation mutation{header};
    entry.pending = static_cast<std::int8_t>(index);
    queue_event(header, entry, Change::revert, seen);
    return {Change::revert, current, true};
}

Outcome new_digest(Locked& locked, Entry* entry, const Observation& seen) noexcept {
    Header& header = locked.header();
    // Which of the two is newer is not known; the next answer tells.
    if (began_before_last_change(*entry, seen)) {
        add(header, Counter::overtaken);
        return {};
    }
    const Digest before = digest_at(*entry, entry->current);
    touch(header, *entry, seen.monotonic);
    const Mutation mutation{header};
    if (seen.digest->bytes().size() > entry->width) entry = widen(locked, entry);
    if (entry == nullptr) {
        add(header, Counter::dropped);
        return {Change::none, {}, false, true};
    }
    set_current(*entry, seen);
    queue_event(header, *entry, Change::changed, seen);
    add(header, Counter::changed);
    return {Change::changed, before, true};
}

template <std::size_t N>
void put_text(char (&to)[N], std::string_view text) noexcept {
    const std::size_t size = std::min(text.size(), N - 1);
    std::memcpy(to, text.data(), size);
    to[size] = '\0';
}

void keep(RegistryState& slot, const Rates& rates, std::int64_t now) noexcept {
    if (rates.retry_at != 0) slot.retry_at = rates.retry_at;
    if (!rates.limit && !rates.remaining && rates.source.empty()) return;
    const auto count = [](const std::optional<RateLimit>& rate) {
        return rate ? static_cast<std::int64_t>(rate->count) : -1;
    };
    const std::string_view source = rates.source.substr(0, kMaxSource);
    slot.rates_at = now;
    slot.rate_limit = count(rates.limit);
    slot.rate_remaining = count(rates.remaining);
    slot.rate_window = rates.limit ? rates.limit->window : 0;
    if (rates.remaining && slot.rate_window == 0) slot.rate_window = rates.remaining->window;
    put_masked(slot.rate_source, source);
    slot.rate_source[source.size()] = '\0';
}

// Keeps what the registry's answers looked like; a registry beyond the last slot is not kept.
void note(Header& header, std::string_view registry, unsigned status, bool counted,
          std::int64_t now, const Rates* rates) noexcept {
    for (RegistryState& slot : header.registries) {
        if (slot.name[0] == '\0') put_text(slot.name, registry);
        if (std::memcmp(slot.name, registry.data(), registry.size()) != 0 ||
            slot.name[registry.size()] != '\0') {
            continue;
        }
        slot.last_answer = now;
        slot.last_status = status;
        if (rates != nullptr) keep(slot, *rates, now);
        if (counted) ++slot.observed;
        if (status == 200 || status == 304) return;
        slot.last_error = status;
        slot.last_error_at = now;
        if (status == 401 || status == 403) ++slot.unauthorized;
        if (status == 404) ++slot.not_found;
        if (status == 429) ++slot.throttled;
        if (status >= 500) ++slot.failed;
        return;
    }
}

// An entry as it was under the lock, to be read at leisure.
struct Record {
    alignas(Entry) std::array<char, kMaxEntry> bytes;

    [[nodiscard]] const Entry& entry() const noexcept {
        return *reinterpret_cast<const Entry*>(bytes.data());
    }
};

TagRecord record_of(const Entry& entry, const std::string& epoch) {
    TagRecord record;
    TagState& state = record.state;
    const char* key = entry.key();
    state.tag.registry.assign(key, entry.registry_size);
    key += entry.registry_size + 1;
    state.tag.repository.assign(key, entry.repository_size);
    key += entry.repository_size + 1;
    state.tag.name.assign(key, entry.name_size);
    state.digest = digest_at(entry, entry.current);
    state.kind = entry.kind[entry.current];
    state.change = entry.change;
    if (entry.previous >= 0) state.previous = digest_at(entry, entry.previous);
    if (entry.pending >= 0) state.pending = digest_at(entry, entry.pending);
    state.epoch = epoch;
    state.seq = entry.by_seq.key;
    record.changed = to_time(entry.changed_at);
    record.no_kubelet_since = to_time(entry.no_kubelet_since);
    state.first_seen = to_time(entry.seen[entry.current].first_seen);
    state.last_seen = to_time(entry.seen[entry.current].last_seen);
    state.asked_by = entry.asked_by;
    state.node.assign(entry.node, entry.node_size);
    for (int i = 0; i < entry.count; ++i) {
        state.history.push_back({digest_at(entry, i), to_time(entry.seen[i].first_seen),
                                 to_time(entry.seen[i].last_seen), entry.kind[i]});
    }
    std::sort(state.history.begin(), state.history.end(),
              [](const Sighting& a, const Sighting& b) { return a.first_seen < b.first_seen; });
    return record;
}

// --- snapshots ---

// Which of a tag's digests an entry has room for: all of them, or else current, previous and
// pending, then those seen last. `place` are indices into the tag's history; their number.
std::size_t choose_digests(const TagState& tag, std::array<std::size_t, kHistory>& place) noexcept {
    std::array<std::size_t, kMaxSnapshotHistory> order{};
    const std::size_t size = std::min(tag.history.size(), order.size());
    for (std::size_t i = 0; i < size; ++i)
        order[i] = i;
    const auto needed = [&](std::size_t i) {
        const Digest& digest = tag.history[i].digest;
        return digest == tag.digest || digest == tag.previous || digest == tag.pending;
    };
    if (size > kHistory) {
        std::sort(order.begin(), order.begin() + size, [&](std::size_t a, std::size_t b) {
            if (needed(a) != needed(b)) return needed(a);
            return tag.history[a].last_seen > tag.history[b].last_seen;
        });
    }
    const std::size_t count = std::min(size, kHistory);
    std::copy_n(order.begin(), count, place.begin());
    return count;
}

std::int64_t millis(Time time) noexcept {
    return time.time_since_epoch().count();
}

// Everything but key, links and digests' width.
void fill_entry(Entry& entry, const TagRecord& tag) noexcept {
    const TagState& state = tag.state;
    std::array<std::size_t, kHistory> place{};
    entry.count = static_cast<std::uint8_t>(choose_digests(state, place));
    for (std::size_t i = 0; i < entry.count; ++i) {
        const Sighting& sighting = state.history[place[i]];
        const auto bytes = sighting.digest.bytes();
        entry.algorithm[i] = sighting.digest.algorithm();
        entry.kind[i] = sighting.kind;
        entry.seen[i] = {millis(sighting.first_seen), millis(sighting.last_seen)};
        std::memcpy(entry.digests() + i * entry.width, bytes.data(), bytes.size());
    }
    const auto index = [&](const std::optional<Digest>& digest) {
        return static_cast<std::int8_t>(digest ? find_digest(entry, *digest) : -1);
    };
    entry.current = index(state.digest);
    entry.previous = index(state.previous);
    entry.pending = index(state.pending);
    entry.change = state.change;
    entry.asked_by = state.asked_by;
    entry.changed_at = millis(tag.changed);
    // A snapshot does not tell: who asked while nobody looked is not known.
    entry.no_kubelet_since =
        tag.no_kubelet_since == Time{} ? wall_millis() : millis(tag.no_kubelet_since);
    // On the clock of this machine's present run: no request that is under way began before it.
    entry.changed_monotonic = ngx_current_msec;
    entry.touched = ngx_current_msec;
    entry.node_size = static_cast<std::uint8_t>(std::min(state.node.size(), kMaxNode));
    std::memcpy(entry.node, state.node.data(), entry.node_size);
}

bool is_wide(const TagState& tag) noexcept {
    return std::any_of(tag.history.begin(), tag.history.end(), [](const Sighting& sighting) {
        return sighting.digest.bytes().size() > kNarrow;
    });
}

std::int64_t last_seen(const Entry& entry) noexcept {
    std::int64_t latest = 0;
    for (int i = 0; i < entry.count; ++i)
        latest = std::max(latest, entry.seen[i].last_seen);
    return latest;
}

// Observations that a snapshot would show.
std::uint64_t sightings(const Header& header) noexcept {
    std::uint64_t sum = 0;
    for (const Counter counter :
         {Counter::fresh, Counter::changed, Counter::same, Counter::revert, Counter::cleared})
        sum += header.counters[static_cast<std::size_t>(counter)];
    return sum;
}

bool alive(ngx_pid_t process) noexcept {
    return process > 0 && (kill(process, 0) == 0 || ngx_errno != ESRCH);
}

bool is_epoch(const Header& header, std::string_view epoch) noexcept {
    return epoch == std::string_view{header.epoch, kEpochText};
}

// What was there before is in the epoch that ends here: every companion reads the table again.
void end_epoch(Header& header) noexcept {
    new_epoch(header);
    for (CompanionState& companion : header.companions)
        companion.acked = 0;
}

ngx_uint_t hash_of(std::string_view text) noexcept {
    return ngx_murmur_hash2(reinterpret_cast<u_char*>(const_cast<char*>(text.data())), text.size());
}

void move_cursor(const Header& header, CompanionState& companion, std::string_view epoch,
                 std::uint64_t seq) noexcept {
    if (!is_epoch(header, epoch)) return;
    companion.acked = std::max(companion.acked, seq);
}

}  // namespace

// --- the life of a zone ---

bool Table::create() noexcept {
    auto* header = static_cast<Header*>(ngx_slab_calloc(pool_, sizeof(Header)));
    if (header == nullptr) return false;
    header->magic = kMagic;
    header->layout = kLayout;
    make_empty(*header);
    header->generation = static_cast<std::uint64_t>(wall_millis());
    header->saved_seq = kUnsaved;
    pool_->data = header;
    pool_->log_nomem = 0;
    return true;
}

// --- the pull path ---

Outcome Table::observe(const Observation& seen) noexcept {
    const Key key{seen.registry, seen.repository, seen.name};
    Locked locked{pool_};
    Header& header = locked.header();
    Entry* entry = find(header, key);
    if (entry == nullptr && (!is_repository(seen.repository) || !is_tag_name(seen.name))) {
        return {Change::none, {}, false, false, true};
    }
    const int index = entry == nullptr ? -1 : find_digest(*entry, *seen.digest);
    const bool same = entry != nullptr && index == entry->current;
    const bool counts = same || !seen.only_confirms;
    note(header, seen.registry, seen.status, counts, seen.now, seen.rates);
    if (!counts) {
        add(header, Counter::unconfirmed);
        return {};
    }
    if (entry == nullptr) return first_sight(locked, key, seen);
    if (seen.asked_by == Asker::kubelet) entry->no_kubelet_since = seen.now;
    if (same) return same_digest(header, *entry, seen);
    if (index >= 0) return older_digest(header, *entry, index, seen);
    return new_digest(locked, entry, seen);
}

Confirmation Table::confirm(const Tag& tag, const Digest& digest, std::int64_t now,
                            ngx_msec_t monotonic) noexcept {
    const Key key{tag.registry, tag.repository, tag.name};
    const Locked locked{pool_};
    Header& header = locked.header();
    Entry* entry = find(header, key);
    if (entry == nullptr) return {};
    const Digest pending = digest_at(*entry, entry->pending);
    if (pending.empty() || pending != digest) {
        return {Confirmation::Result::not_pending, 0, pending};
    }
    const Mutation mutation{header};
    entry->previous = entry->current;
    entry->current = entry->pending;
    entry->pending = -1;
    Observation by;
    by.node = {entry->node, entry->node_size};
    by.asked_by = entry->asked_by;
    by.now = now;
    by.monotonic = monotonic;
    queue_event(header, *entry, Change::confirmed, by);
    add(header, Counter::confirmed);
    return {Confirmation::Result::done, header.seq, {}};
}

Kinds Table::kinds(const Tag& tag, const Digest& digest) noexcept {
    const Key key{tag.registry, tag.repository, tag.name};
    const Locked locked{pool_};
    const Entry* entry = find(locked.header(), key);
    if (entry == nullptr) return {};
    const int index = find_digest(*entry, digest);
    return {entry->kind[entry->current], index < 0 ? ManifestKind::unknown : entry->kind[index]};
}

void Table::count(Counter counter) noexcept {
    add(*header_of(pool_), counter);
}

void Table::note_answer(std::string_view registry, unsigned status, std::int64_t now,
                        const Rates* rates) noexcept {
    const Locked locked{pool_};
    note(locked.header(), registry, status, false, now, rates);
}

// --- readers ---

Head Table::head() {
    Head result;
    result.epoch.resize(kEpochText);
    const Locked locked{pool_};
    const Header& header = locked.header();
    std::memcpy(result.epoch.data(), header.epoch, kEpochText);
    result.seq = header.seq;
    result.tags = header.tags;
    return result;
}

ZoneUse Table::use() noexcept {
    const Locked locked{pool_};
    const auto size = static_cast<std::size_t>(pool_->end - reinterpret_cast<u_char*>(pool_));
    return {size, size - pool_->pfree * ngx_pagesize};
}

std::array<std::uint64_t, kCounters> Table::counters() noexcept {
    std::array<std::uint64_t, kCounters> result{};
    const Header& header = *header_of(pool_);
    std::copy(std::begin(header.counters), std::end(header.counters), result.begin());
    return result;
}

std::vector<RegistryState> Table::registries() {
    std::vector<RegistryState> result(kMaxRegistries);
    std::size_t used = 0;
    {
        const Locked locked{pool_};
        for (const RegistryState& slot : locked.header().registries) {
            if (slot.name[0] != '\0') result[used++] = slot;
        }
    }
    result.resize(used);
    return result;
}

bool Table::read(std::string_view epoch, std::uint64_t since, std::size_t limit, Head& head,
                 std::vector<TagRecord>& tags) {
    std::vector<Record> slice(std::min(kSlice, limit));
    tags.clear();
    tags.reserve(limit);
    std::string expected{epoch};
    head.epoch.resize(kEpochText);
    for (;;) {
        const std::size_t want = std::min(kSlice, limit - tags.size());
        std::size_t got = 0;
        {
            const Locked locked{pool_};
            Header& header = locked.header();
            std::memcpy(head.epoch.data(), header.epoch, kEpochText);
            head.seq = header.seq;
            head.tags = header.tags;
            if (expected.empty()) expected = head.epoch;
            Entry* entry = expected == head.epoch ? first_after(header, since) : nullptr;
            while (got < want && entry != nullptr) {
                std::memcpy(slice[got++].bytes.data(), entry, entry->size());
                ngx_rbtree_node_t* next = ngx_rbtree_next(&header.by_seq, &entry->by_seq);
                entry = next == nullptr ? nullptr : entry_by_seq(next);
            }
        }
        if (expected != head.epoch) {
            tags.clear();
            return false;
        }
        for (std::size_t i = 0; i < got; ++i) {
            tags.push_back(record_of(slice[i].entry(), head.epoch));
            since = tags.back().state.seq;
        }
        if (got < want || tags.size() == limit) return true;
    }
}

// --- snapshots ---

Table::Load Table::claim_load(ngx_pid_t self, unsigned& attempts) noexcept {
    const Locked locked{pool_};
    Header& header = locked.header();
    // Observed before anybody was to load: state=DIR came with a reload.
    if (header.load == LoadState::fresh && header.seq > 0) header.load = LoadState::done;
    if (header.load == LoadState::done) return Load::done;
    if (header.load == LoadState::loading && header.loader != self && alive(header.loader))
        return Load::other;
    header.load = LoadState::loading;
    header.loader = self;
    attempts = header.load_attempts++;
    return Load::mine;
}

SnapshotMark Table::begin_restore(std::uint64_t seqs) {
    SnapshotMark mark;
    mark.epoch.resize(kEpochText);
    const Locked locked{pool_};
    Header& header = locked.header();
    std::memcpy(mark.epoch.data(), header.epoch, kEpochText);
    mark.seq = header.seq;
    header.seq += seqs;
    return mark;
}

bool Table::restore(const SnapshotMark& mark, const TagRecord& tag) noexcept {
    const Tag& name = tag.state.tag;
    if (name.registry.size() > kMaxRegistry || name.repository.size() > kMaxRepository ||
        name.name.size() > kMaxName)
        return false;
    const Key key{name.registry, name.repository, name.name};
    const std::uint64_t seq = mark.seq + tag.state.seq;
    Locked locked{pool_};
    Header& header = locked.header();
    if (!is_epoch(header, mark.epoch)) return false;
    const Entry* next = first_after(header, seq - 1);
    if (find(header, key) != nullptr || (next != nullptr && next->by_seq.key == seq)) return false;
    const Mutation mutation{header};
    const std::size_t width = is_wide(tag.state) ? kWide : kNarrow;
    auto* entry = static_cast<Entry*>(
        ngx_slab_alloc_locked(pool_, sizeof(Entry) + kHistory * width + key.bytes().size()));
    if (entry == nullptr) {
        add(header, Counter::left_out);
        return false;
    }
    std::memset(static_cast<void*>(entry), 0, sizeof(Entry) + kHistory * width);
    entry->width = static_cast<std::uint8_t>(width);
    entry->registry_size = static_cast<std::uint8_t>(name.registry.size());
    entry->repository_size = static_cast<std::uint8_t>(name.repository.size());
    entry->name_size = static_cast<std::uint8_t>(name.name.size());
    std::memcpy(const_cast<char*>(entry->key()), key.bytes().data(), key.bytes().size());
    fill_entry(*entry, tag);
    link_by_trees(header, entry, key.hash(), seq);
    ngx_queue_insert_tail(&header.lru, &entry->lru);
    add(header, Counter::restored);
    return true;
}

bool Table::finish_load(const SnapshotMark& mark, std::uint64_t restored,
                        std::uint64_t generation) noexcept {
    const Locked locked{pool_};
    Header& header = locked.header();
    if (!is_epoch(header, mark.epoch)) return false;
    header.load = LoadState::done;
    header.load_attempts = 0;
    header.generation = std::max(header.generation, generation + 1);
    header.snapshot.restored = restored;
    if (header.tags > 0) end_epoch(header);
    return true;
}

void Table::give_up_load() noexcept {
    const Locked locked{pool_};
    locked.header().load = LoadState::done;
}

std::uint64_t Table::carry_over(Table from) {
    Header& header = *header_of(pool_);
    std::vector<Sight> order;
    SnapshotMark there;
    {
        const Locked locked{from.pool_};
        const Header& old = locked.header();
        header.generation = std::max(header.generation, old.generation + 1);
        std::copy(std::begin(old.counters), std::end(old.counters), std::begin(header.counters));
        std::copy(std::begin(old.registries), std::end(old.registries),
                  std::begin(header.registries));
        std::copy(std::begin(old.companions), std::end(old.companions),
                  std::begin(header.companions));
        header.snapshot = old.snapshot;
        header.load = old.load == LoadState::loading ? LoadState::again : old.load;
    }
    end_epoch(header);
    there = from.begin_save();
    std::vector<TagRecord> tags;
    std::uint64_t carried = 0;
    const SnapshotMark here = begin_restore(0);
    const auto take = [&] {
        for (const TagRecord& tag : tags) {
            carried += restore(here, tag) ? 1 : 0;
            header.seq = std::max(header.seq, tag.state.seq);
        }
    };
    if (!from.index(there, order)) return carried;
    for (std::size_t i = 0; i < order.size(); i += kSlice) {
        const std::size_t size = std::min(kSlice, order.size() - i);
        if (!from.fetch(there, {order.data() + i, size}, tags)) return carried;
        take();
    }
    // What has moved meanwhile.
    Head head;
    while (from.read(there.epoch, there.seq, kSlice, head, tags) && !tags.empty()) {
        take();
        there.seq = tags.back().state.seq;
    }
    return carried;
}

void Table::set_saver(ngx_pid_t helper) noexcept {
    const Locked locked{pool_};
    locked.header().saver = helper;
}

ngx_pid_t Table::saver() noexcept {
    ngx_pid_t saver = 0;
    {
        const Locked locked{pool_};
        saver = locked.header().saver;
    }
    return alive(saver) ? saver : 0;
}

bool Table::clear_saver(ngx_pid_t helper) noexcept {
    const Locked locked{pool_};
    if (locked.header().saver != helper) return false;
    locked.header().saver = 0;
    return true;
}

Table::Unsaved Table::unsaved(std::string_view directory) noexcept {
    const Locked locked{pool_};
    const Header& header = locked.header();
    if (header.load != LoadState::done) return {false, false, true};
    const bool none = header.saved_seq == kUnsaved || header.saved_to != hash_of(directory);
    return {none || header.saved_seq != header.seq,
            none || header.saved_sightings != sightings(header), false};
}

SnapshotMark Table::begin_save() {
    SnapshotMark mark;
    mark.epoch.resize(kEpochText);
    const Locked locked{pool_};
    const Header& header = locked.header();
    std::memcpy(mark.epoch.data(), header.epoch, kEpochText);
    mark.generation = header.generation;
    mark.seq = header.seq;
    mark.sightings = sightings(header);
    return mark;
}

bool Table::index(const SnapshotMark& mark, std::vector<Sight>& tags) {
    std::array<Sight, kIndexSlice> slice;
    std::uint64_t since = 0;
    tags.clear();
    for (;;) {
        std::size_t got = 0;
        {
            const Locked locked{pool_};
            Header& header = locked.header();
            if (!is_epoch(header, mark.epoch)) return false;
            Entry* entry = first_after(header, since);
            while (got < slice.size() && entry != nullptr && entry->by_seq.key <= mark.seq) {
                slice[got++] = {last_seen(*entry), entry->by_seq.key};
                ngx_rbtree_node_t* next = ngx_rbtree_next(&header.by_seq, &entry->by_seq);
                entry = next == nullptr ? nullptr : entry_by_seq(next);
            }
        }
        tags.insert(tags.end(), slice.begin(), slice.begin() + got);
        if (got < slice.size()) break;
        since = tags.back().seq;
    }
    std::sort(tags.begin(), tags.end(), [](const Sight& a, const Sight& b) {
        return a.last_seen != b.last_seen ? a.last_seen > b.last_seen : a.seq > b.seq;
    });
    return true;
}

bool Table::fetch(const SnapshotMark& mark, std::span<const Sight> wanted,
                  std::vector<TagRecord>& tags) {
    std::vector<Record> slice(wanted.size());
    std::size_t got = 0;
    tags.clear();
    {
        const Locked locked{pool_};
        Header& header = locked.header();
        if (!is_epoch(header, mark.epoch)) return false;
        for (const Sight& sight : wanted) {
            const Entry* entry = first_after(header, sight.seq - 1);
            if (entry == nullptr || entry->by_seq.key != sight.seq) continue;
            std::memcpy(slice[got++].bytes.data(), entry, entry->size());
        }
    }
    for (std::size_t i = 0; i < got; ++i)
        tags.push_back(record_of(slice[i].entry(), mark.epoch));
    return true;
}

void Table::finish_save(const SnapshotMark& mark, std::string_view directory,
                        std::int64_t now) noexcept {
    const Locked locked{pool_};
    Header& header = locked.header();
    add(header, Counter::saves);
    header.snapshot.written = now;
    header.snapshot.error[0] = '\0';
    if (!is_epoch(header, mark.epoch)) return;
    header.saved_seq = mark.seq;
    header.saved_sightings = mark.sightings;
    header.saved_to = hash_of(directory);
}

void Table::report_save_failure(std::string_view error) noexcept {
    const Locked locked{pool_};
    add(locked.header(), Counter::save_failures);
    put_text(locked.header().snapshot.error, error);
}

void Table::set_generation(std::uint64_t generation) noexcept {
    const Locked locked{pool_};
    locked.header().generation = generation;
}

SnapshotState Table::snapshot() noexcept {
    const Locked locked{pool_};
    return locked.header().snapshot;
}

// --- companions' cursors ---

int Table::claim(std::string_view url, const std::vector<std::string>& configured) noexcept {
    const Locked locked{pool_};
    auto& slots = locked.header().companions;
    int free = -1;
    for (int i = 0; i < static_cast<int>(kMaxCompanions); ++i) {
        if (slots[i].used && url == slots[i].url) return i;
        const bool foreign =
            std::none_of(configured.begin(), configured.end(),
                         [&](const std::string& text) { return text == slots[i].url; });
        if (free < 0 && (!slots[i].used || foreign)) free = i;
    }
    if (free < 0) return free;
    slots[free] = CompanionState{};
    put_text(slots[free].url, url);
    slots[free].used = true;
    return free;
}

bool Table::has_news(int slot) noexcept {
    const Locked locked{pool_};
    return locked.header().seq > locked.header().companions[slot].acked;
}

Cursor Table::cursor(int slot) {
    Cursor result;
    result.epoch.resize(kEpochText);
    const Locked locked{pool_};
    const Header& header = locked.header();
    std::memcpy(result.epoch.data(), header.epoch, kEpochText);
    result.acked = header.companions[slot].acked;
    return result;
}

void Table::acknowledge(int slot, std::string_view url, std::string_view epoch, std::uint64_t seq,
                        std::size_t events, std::int64_t now) noexcept {
    const Locked locked{pool_};
    Header& header = locked.header();
    add(header, Counter::batches);
    add(header, Counter::events, events);
    CompanionState& companion = header.companions[slot];
    if (url != companion.url) return;
    companion.last_success = now;
    companion.error[0] = '\0';
    move_cursor(header, companion, epoch, seq);
}

void Table::skip_to(int slot, std::string_view url, std::string_view epoch,
                    std::uint64_t seq) noexcept {
    const Locked locked{pool_};
    CompanionState& companion = locked.header().companions[slot];
    if (url == companion.url) move_cursor(locked.header(), companion, epoch, seq);
}

void Table::report_failure(int slot, std::string_view url, std::string_view error) noexcept {
    const Locked locked{pool_};
    add(locked.header(), Counter::publish_failures);
    CompanionState& companion = locked.header().companions[slot];
    if (url != companion.url) return;
    ++companion.failures;
    put_text(companion.error, error);
}

CompanionState Table::companion(std::string_view url) noexcept {
    const Locked locked{pool_};
    for (const CompanionState& slot : locked.header().companions) {
        if (slot.used && url == slot.url) return slot;
    }
    return {};
}

}  // namespace keel::ngx
