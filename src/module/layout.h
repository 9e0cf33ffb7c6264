// How the tag table lies in shared memory, all of it below nginx's slab pool, so that the lock of a
// dead process is released by the master:
//
//   ngx_slab_pool_t   mutex, free pages; data ─┐
//   Header  ◄──────────────────────────────────┘
//     epoch, seq, counters, companions' cursors, registries
//     by_key ──► tree by hash of the key, equal hashes ordered by the key's bytes
//     by_seq ──► tree by seq, the outbox: what is after a companion's cursor is what it lacks.
//                A change moves the entry to the right end. A tree and not a list, because
//                pages and cursors start anywhere in it.
//     lru    ──► queue, most recently seen first; room is made at its tail
//   Entry
//     by_key | by_seq | lru | times | indices into the history | node
//     kHistory digests of `width` bytes each
//     registry NUL repository NUL name
//
// An entry with sha256 digests and a key of up to 120 bytes lies in slab class 512.
//
// `busy` is set while trees, queue and slab are being changed. Who takes the lock and finds it set
// knows that its setter died there, and starts with an empty table and a new epoch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "core/digest.h"
#include "core/event.h"
#include "core/manifest_request.h"
#include "module/ngx.h"
#include "module/table.h"

namespace keel::ngx {

inline constexpr std::uint64_t kMagic = 0x6b65656c2d7a6f6e;  // "keel-zon"
inline constexpr std::uint32_t kLayout = 4;
inline constexpr std::size_t kMaxKey = kMaxRegistry + 1 + kMaxRepository + 1 + kMaxName;
inline constexpr std::size_t kNarrow = 32;  // bytes of a sha256 digest
inline constexpr std::size_t kWide = 64;    // of sha512
inline constexpr std::uint64_t kUnsaved = UINT64_MAX;

struct Times {
    std::int64_t first_seen;
    std::int64_t last_seen;
};

struct Entry {
    ngx_rbtree_node_t by_key;
    ngx_rbtree_node_t by_seq;
    ngx_queue_t lru;
    std::int64_t changed_at;        // of the last event, milliseconds since 1970
    ngx_msec_t changed_monotonic;   // the same moment on nginx's monotonic clock
    ngx_msec_t touched;             // when it was last moved in the LRU queue, on that clock
    std::int64_t no_kubelet_since;  // when a kubelet last asked, or else when the entry was made
    Times seen[kHistory];
    Digest::Algorithm algorithm[kHistory];
    ManifestKind kind[kHistory];
    std::uint8_t width;  // kNarrow or kWide
    std::uint8_t count;  // digests in the history
    std::int8_t current;
    std::int8_t previous;  // -1: none
    std::int8_t pending;   // -1: none
    Change change;
    Asker asked_by;
    std::uint8_t registry_size;
    std::uint8_t repository_size;
    std::uint8_t name_size;
    std::uint8_t node_size;
    char node[kMaxNode];

    [[nodiscard]] std::uint8_t* digests() noexcept {
        return reinterpret_cast<std::uint8_t*>(this + 1);
    }
    [[nodiscard]] const std::uint8_t* digests() const noexcept {
        return reinterpret_cast<const std::uint8_t*>(this + 1);
    }
    [[nodiscard]] const char* key() const noexcept {
        return reinterpret_cast<const char*>(digests() + kHistory * width);
    }
    [[nodiscard]] std::size_t key_size() const noexcept {
        return std::size_t{registry_size} + 1 + repository_size + 1 + name_size;
    }
    [[nodiscard]] std::size_t size() const noexcept {
        return sizeof(Entry) + kHistory * width + key_size();
    }
};

inline constexpr std::size_t kMaxEntry = sizeof(Entry) + kHistory * kWide + kMaxKey;
static_assert(std::is_trivially_copyable_v<Entry> && std::is_standard_layout_v<Entry>);
static_assert(sizeof(Entry) + kHistory * kNarrow + 70 <= 512, "tags-per-mb: slab class 512");

// Where the zone stands with its snapshot.
enum class LoadState : std::uint8_t {
    fresh,    // nobody has looked for a snapshot
    again,    // a process died inside a change: what the snapshot has is wanted back
    loading,  // `loader` is at it
    done
};

struct Header {
    std::uint64_t magic;
    std::uint32_t layout;
    volatile ngx_uint_t busy;
    char epoch[kEpochText];
    std::uint64_t seq;
    std::uint64_t tags;
    ngx_rbtree_t by_key;
    ngx_rbtree_node_t by_key_sentinel;
    ngx_rbtree_t by_seq;
    ngx_rbtree_node_t by_seq_sentinel;
    ngx_queue_t lru;
    CompanionState companions[kMaxCompanions];
    RegistryState registries[kMaxRegistries];
    LoadState load;
    std::uint32_t load_attempts;  // of processes that did not live to tell how it went
    ngx_pid_t loader;
    ngx_pid_t saver;                // the helper that writes snapshots; 0: none
    std::uint64_t generation;       // later than that of every zone that was there before
    std::uint64_t saved_seq;        // what the last snapshot had; kUnsaved: there is none
    std::uint64_t saved_sightings;  // the same of the observations counted
    ngx_uint_t saved_to;            // hash of the directory that it lies in
    SnapshotState snapshot;
    ngx_atomic_t counters[kCounters];
};
static_assert(std::is_trivially_copyable_v<Header> && std::is_standard_layout_v<Header>);

// registry NUL repository NUL name, in one piece: hashed and compared as bytes. The hash takes
// eight of them at a time, the last with zeros: one is made for every answer that passes the cache.
class Key {
  public:
    Key(std::string_view registry, std::string_view repository, std::string_view name) noexcept {
        append(registry);
        bytes_[size_++] = '\0';
        append(repository);
        bytes_[size_++] = '\0';
        append(name);
        std::memset(bytes_ + size_, 0, kWord);
        hash_ = hash_words();
    }
    [[nodiscard]] std::string_view bytes() const noexcept { return {bytes_, size_}; }
    [[nodiscard]] ngx_rbtree_key_t hash() const noexcept { return hash_; }

  private:
    static constexpr std::size_t kWord = sizeof(std::uint64_t);

    [[nodiscard]] ngx_rbtree_key_t hash_words() const noexcept {
        std::uint64_t hash = size_;
        for (std::size_t i = 0; i < size_; i += kWord) {
            std::uint64_t word = 0;
            std::memcpy(&word, bytes_ + i, kWord);
            hash = (hash ^ word) * 0x9e3779b97f4a7c15;  // the golden ratio's fraction, odd
            hash ^= hash >> 32;                         // what is multiplied only moves up
        }
        return static_cast<ngx_rbtree_key_t>(hash);
    }
    void append(std::string_view text) noexcept {
        std::memcpy(bytes_ + size_, text.data(), text.size());
        size_ += text.size();
    }

    char bytes_[kMaxKey + kWord];
    std::size_t size_ = 0;
    ngx_rbtree_key_t hash_ = 0;
};

inline Header* header_of(ngx_slab_pool_t* pool) noexcept {
    return static_cast<Header*>(pool->data);
}

inline Entry* entry_by_key(ngx_rbtree_node_t* node) noexcept {
    return reinterpret_cast<Entry*>(reinterpret_cast<char*>(node) - offsetof(Entry, by_key));
}

inline Entry* entry_by_seq(ngx_rbtree_node_t* node) noexcept {
    return reinterpret_cast<Entry*>(reinterpret_cast<char*>(node) - offsetof(Entry, by_seq));
}

inline Entry* entry_by_lru(ngx_queue_t* link) noexcept {
    return reinterpret_cast<Entry*>(reinterpret_cast<char*>(link) - offsetof(Entry, lru));
}

inline int compare_keys(std::string_view a, const Entry& b) noexcept {
    return a.compare(std::string_view{b.key(), b.key_size()});
}

}  // namespace keel::ngx
