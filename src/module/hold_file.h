// DIR/holds and DIR/lock: the truth about holds, followed by every nginx that uses the directory.
// Plain POSIX, no nginx.
//
//   holds     replaced as a whole by rename, synced; written with the lock held, read without
//   lock      flock: one writer at a time, whoever the writers are
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "core/expected.h"
#include "core/holds.h"

namespace keel::ngx {

// What a file was when it was looked at: a replaced or altered one is another.
struct FileStamp {
    dev_t device = 0;
    ino_t inode = 0;
    off_t size = 0;
    std::int64_t modified = 0;  // nanoseconds

    // Of no file: the default.
    [[nodiscard]] static FileStamp of(const std::string& path) noexcept;
    friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

struct HoldRead {
    std::optional<HoldSet> set;  // none: there is no file
    FileStamp stamp;
};

// Errors: "bad-holds" for content that is not to be trusted; "io" when it could not be read.
[[nodiscard]] Expected<HoldRead> read_holds(const std::string& directory);

// Puts the set in the place of the file. Durable when it returns. Errors: "io": the old file is
// there as it was; "not-durable": the new one is there, and a power cut may bring the old one back.
[[nodiscard]] Expected<void> write_holds(const std::string& directory, const HoldSet& set);

// Renames a file that is not to be trusted to holds.bad-N; its new path, empty when that failed.
[[nodiscard]] std::string set_holds_aside(const std::string& directory);

// DIR/lock, held as long as it lives.
class [[nodiscard]] HoldLock {
  public:
    explicit HoldLock(const std::string& directory) noexcept;
    ~HoldLock();
    HoldLock(const HoldLock&) = delete;
    HoldLock& operator=(const HoldLock&) = delete;

    enum class State : std::uint8_t { held, busy, failed };
    [[nodiscard]] State state() const noexcept { return state_; }
    [[nodiscard]] int error() const noexcept { return error_; }  // errno of failed

  private:
    int descriptor_ = -1;
    int error_ = 0;
    State state_ = State::failed;
};

}  // namespace keel::ngx
