// DIR/holds, DIR/revision and DIR/lock: the truth about holds, followed by every generation of
// nginx that uses the same directory. Plain POSIX, no nginx.
//
//   holds     replaced as a whole by rename, synced; written with the lock held, read without
//   revision  eight bytes, mapped by every process: another value than the last seen means that
//             holds has been replaced
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
    [[nodiscard]] static FileStamp of(int descriptor) noexcept;
    friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

// The word in DIR/revision. A mapping that lives as long as the process.
class RevisionWord {
  public:
    // Makes the file where there is none, and maps it. False when it can neither be made nor read;
    // load() is 0 then. Holds no descriptor.
    bool open(const std::string& directory) noexcept;
    [[nodiscard]] bool is_open() const noexcept { return word_ != nullptr; }
    // The file that is mapped is still the one in the directory.
    [[nodiscard]] bool is_current(const std::string& directory) const noexcept;
    [[nodiscard]] std::uint64_t load() const noexcept {
        return word_ == nullptr ? 0 : __atomic_load_n(word_, __ATOMIC_ACQUIRE);
    }
    // Writer only. False when the disk refuses: others then see the change within a second.
    bool store(const std::string& directory, std::uint64_t revision) noexcept;
    void close() noexcept;

  private:
    std::uint64_t* word_ = nullptr;
    ino_t inode_ = 0;
};

struct HoldRead {
    std::optional<HoldSet> set;  // none: there is no file
    FileStamp stamp;
};

// Errors: "bad-holds" for content that is not to be trusted; "io" when it could not be read.
[[nodiscard]] Expected<HoldRead> read_holds(const std::string& directory);

// Puts the set in the place of the file. Durable when it returns. Errors: "io"; the old file is
// there as it was then.
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
