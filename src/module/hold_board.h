// The holds as nginx's helper last read them: a piece of memory that all processes of an nginx
// share, over reloads and, being inherited, over a binary upgrade. Workers read it and never touch
// the disk. Plain POSIX, no nginx.
//
//   text[2]   the file of holds, in turn: the one with the number's last bit is posted
//   number    of postings; another than the last seen means that there is something to read
//
// The memory is sealed: nobody can cut it short under those who have it mapped. Who posts has
// DIR/lock; who reads notices by the number, and by the text's checksum, what was written
// meanwhile.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/holds.h"

namespace keel::ngx {

struct Posting {
    std::uint64_t number = 0;
    bool readable = false;  // false: the file could not be read, this is what was known before
    HoldSet set;
};

class HoldBoard {
  public:
    // That of the state directory: one that this process has already, or was given by the nginx
    // that started it, or a new one. Null when there is no memory, with errno. Master only.
    [[nodiscard]] static HoldBoard* open(const std::string& directory) noexcept;

    // 0: nothing has been posted. One load; any process.
    [[nodiscard]] std::uint64_t number() const noexcept {
        return __atomic_load_n(&number_, __ATOMIC_ACQUIRE);
    }
    // The last posting; where others post all the time, one that was the last while this reads.
    // Nothing when nothing was posted, or no text there has its checksum, however often it is read.
    // May throw std::bad_alloc.
    [[nodiscard]] std::optional<Posting> read() const;
    // Its number; 0, and nothing is posted, when memory is short.
    std::uint64_t post(const HoldSet& set, bool readable);

  private:
    HoldBoard() = default;
    [[nodiscard]] bool is_of(std::string_view directory) const noexcept;

    struct Text {
        std::uint64_t size;
        bool readable;
        char bytes[kMaxHoldsText];
    };

    std::uint64_t magic_;
    char directory_[PATH_MAX];
    std::uint64_t number_;
    Text text_[2];
};

}  // namespace keel::ngx
