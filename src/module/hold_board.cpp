#include "module/hold_board.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>

namespace keel::ngx {
namespace {

constexpr std::uint64_t kMagic = 0x6b65656c2d626f31;  // "keel-bo1"; another layout has another
constexpr const char* kName = "keel-holds";
constexpr std::string_view kLink = "/memfd:keel-holds (deleted)";
constexpr int kTries = 8;
// One for each state directory that the configuration has named while this process lives.
constexpr std::size_t kBoards = 8;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

void* map(int descriptor) noexcept {
    void* memory =
        ::mmap(nullptr, sizeof(HoldBoard), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    return memory == MAP_FAILED ? nullptr : memory;
}

// The descriptor stays open, over exec, too: that is how a new binary inherits it.
void* make() noexcept {
    const int descriptor = ::memfd_create(kName, MFD_ALLOW_SEALING);
    if (descriptor < 0) return nullptr;
    void* memory = nullptr;
    if (::ftruncate(descriptor, sizeof(HoldBoard)) == 0 &&
        ::fcntl(descriptor, F_ADD_SEALS, kSeals) == 0) {
        memory = map(descriptor);
    }
    if (memory == nullptr) ::close(descriptor);
    return memory;
}

bool is_board(int descriptor) noexcept {
    struct stat status {};
    return ::fcntl(descriptor, F_GET_SEALS) == kSeals && ::fstat(descriptor, &status) == 0 &&
           status.st_size == static_cast<off_t>(sizeof(HoldBoard));
}

// Calls visit(mapping) for every board that this process has a descriptor of, until it says true.
template <class Visit>
void for_each_inherited(Visit visit) noexcept {
    const std::unique_ptr<DIR, int (*)(DIR*)> folder{::opendir("/proc/self/fd"), ::closedir};
    if (!folder) return;
    while (const dirent* entry = ::readdir(folder.get())) {
        std::array<char, 64> link{};
        const ssize_t size =
            ::readlinkat(::dirfd(folder.get()), entry->d_name, link.data(), link.size());
        if (size < 0 || std::string_view(link.data(), static_cast<std::size_t>(size)) != kLink) {
            continue;
        }
        const int descriptor = std::atoi(entry->d_name);
        void* memory = is_board(descriptor) ? map(descriptor) : nullptr;
        if (memory == nullptr) continue;
        if (visit(static_cast<HoldBoard*>(memory))) return;
        ::munmap(memory, sizeof(HoldBoard));
    }
}

}  // namespace

bool HoldBoard::is_of(std::string_view directory) const noexcept {
    return magic_ == kMagic && directory.size() < sizeof(directory_) &&
           std::memcmp(directory_, directory.data(), directory.size()) == 0 &&
           directory_[directory.size()] == '\0';
}

HoldBoard* HoldBoard::open(const std::string& directory) noexcept {
    static_assert(std::is_standard_layout_v<HoldBoard> &&
                  std::is_trivially_destructible_v<HoldBoard>);
    static std::array<HoldBoard*, kBoards> boards{};
    const auto free = std::find_if(boards.begin(), boards.end(), [&](const HoldBoard* board) {
        return board == nullptr || board->is_of(directory);
    });
    if (free == boards.end() || directory.size() >= sizeof(directory_)) {
        errno = free == boards.end() ? EMFILE : ENAMETOOLONG;
        return nullptr;
    }
    if (*free != nullptr) return *free;
    HoldBoard* board = nullptr;
    for_each_inherited([&](HoldBoard* found) noexcept {
        if (!found->is_of(directory)) return false;
        board = found;
        return true;
    });
    if (board == nullptr) {
        void* memory = make();
        if (memory == nullptr) return nullptr;
        board = static_cast<HoldBoard*>(memory);  // zeros are what it begins with
        std::memcpy(board->directory_, directory.data(), directory.size());
        board->magic_ = kMagic;
    }
    return *free = board;
}

std::optional<Posting> HoldBoard::read() const {
    std::string text;
    std::optional<Posting> latest;
    for (int i = 0; i < kTries; ++i) {
        Posting posting;
        posting.number = number();
        if (posting.number == 0) return std::nullopt;
        const Text& posted = text_[posting.number & 1];
        posting.readable = posted.readable;
        text.assign(posted.bytes, std::min<std::size_t>(posted.size, sizeof(posted.bytes)));
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        const bool last = number() == posting.number;
        Expected<HoldSet> set = decode_holds(text);
        if (!set) continue;
        posting.set = *std::move(set);
        latest = std::move(posting);
        if (last) break;
    }
    return latest;
}

std::uint64_t HoldBoard::post(const HoldSet& set, bool readable) {
    const std::string text = encode_holds(set);
    if (text.empty() || text.size() > kMaxHoldsText) return 0;
    const std::uint64_t next = number() + 1;
    Text& place = text_[next & 1];
    place.size = text.size();
    place.readable = readable;
    std::memcpy(place.bytes, text.data(), text.size());
    __atomic_store_n(&number_, next, __ATOMIC_RELEASE);
    return next;
}

}  // namespace keel::ngx
