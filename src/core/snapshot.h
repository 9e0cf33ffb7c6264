// The tag table as a file: doc/snapshot.md has the format. Encodes and decodes piece by piece, so
// that neither side holds a whole table in memory; knows no file, no clock and no nginx.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/event.h"
#include "core/expected.h"

struct evp_md_ctx_st;  // OpenSSL

namespace keel {

inline constexpr std::uint32_t kSnapshotVersion = 1;
// The part of the head that is the same in every version.
inline constexpr std::size_t kSnapshotOrigin = 40;
inline constexpr std::size_t kSnapshotHead = 88;
inline constexpr std::size_t kMaxSnapshotRecord = 4096;  // bytes of one tag
inline constexpr std::size_t kMaxSnapshotHistory = 16;   // digests of one tag

// Whose snapshot it is, readable in every version of the format.
struct SnapshotOrigin {
    std::uint32_t version = kSnapshotVersion;
    std::uint64_t generation = 0;       // of the zone; one that was made later has a larger one
    std::uint32_t process = 0;          // the master's id
    std::uint64_t process_started = 0;  // clock ticks since the machine started, to know it again
};

struct SnapshotHead {
    SnapshotOrigin origin;
    std::string epoch;      // of the zone, 32 bytes
    std::uint64_t seq = 0;  // the zone's when the first tag was taken
    Time written;           // the same moment
};

// One tag as the file has it, without its size. The state's epoch is the head's; first_seen and
// last_seen are those of the current digest. Throws std::bad_alloc.
[[nodiscard]] std::string encode_snapshot_tag(const TagRecord& tag);
// Errors: "damaged" with what is wrong.
[[nodiscard]] Expected<TagRecord> decode_snapshot_tag(std::string_view bytes);

// From the first kSnapshotOrigin bytes of a file, or more. Errors: "foreign", "torn". Says nothing
// about the rest.
[[nodiscard]] Expected<SnapshotOrigin> decode_snapshot_origin(std::string_view bytes);

// A running SHA-256.
class Sha256 {
  public:
    static constexpr std::size_t kSize = 32;

    // Throws std::bad_alloc.
    Sha256();
    void add(std::string_view bytes);
    // Of all that was added; nothing may be added after it.
    [[nodiscard]] std::string take();

  private:
    struct Free {
        void operator()(evp_md_ctx_st* context) const noexcept;
    };
    std::unique_ptr<evp_md_ctx_st, Free> context_;
};

// Functions throw std::bad_alloc and nothing else.
class SnapshotEncoder {
  public:
    explicit SnapshotEncoder(const SnapshotHead& head);
    void add(const TagRecord& tag);
    // After the last tag.
    void finish();

    // What was encoded and not taken yet.
    [[nodiscard]] std::size_t pending() const noexcept { return out_.size(); }
    [[nodiscard]] std::string take();

  private:
    void append(std::string_view bytes);

    std::string out_;
    Sha256 sum_;
    std::uint64_t count_ = 0;
};

// Reads a snapshot from its beginning to its end. What it gives before the end is not proven yet:
// read it through once before anything in it is believed.
class SnapshotDecoder {
  public:
    // Puts up to `size` bytes into `to`; their number, 0 at the end of the file.
    using Source = std::function<Expected<std::size_t>(char* to, std::size_t size)>;

    explicit SnapshotDecoder(Source source);

    // First, once. Errors: "foreign" (no snapshot), "newer" (of a later version), "torn" (it ends
    // too early), "damaged", and those of the source.
    [[nodiscard]] Expected<SnapshotHead> head();
    // The next tag; nullopt at the end, when number and checksum are right and nothing follows.
    [[nodiscard]] Expected<std::optional<TagRecord>> next();

    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }  // tags so far

  private:
    [[nodiscard]] Expected<std::string_view> bytes(std::size_t size);
    [[nodiscard]] Expected<void> end();

    Source source_;
    std::string buffer_;
    std::size_t begin_ = 0;  // of what was not read yet
    std::size_t end_ = 0;
    Sha256 sum_;
    std::string epoch_;
    std::uint64_t count_ = 0;
};

}  // namespace keel
