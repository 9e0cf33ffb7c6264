#include "module/hold_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <system_error>

namespace keel::ngx {
namespace {

constexpr int kMaxAside = 9;  // then the last one is replaced

class Descriptor {
  public:
    explicit Descriptor(int number) noexcept : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;

    [[nodiscard]] int number() const noexcept { return number_; }

  private:
    int number_;
};

constexpr int kFlags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;

bool path_of(char (&path)[PATH_MAX], const std::string& directory, const char* name) noexcept {
    return std::snprintf(path, sizeof(path), "%s/%s", directory.c_str(), name) < PATH_MAX;
}

std::string holds_in(const std::string& directory) {
    return directory + "/holds";
}

tl::unexpected<Error> io_error(const std::string& what, const std::string& path, int error,
                               const char* code = "io") {
    return fail(code,
                "cannot " + what + " " + path + ": " + std::generic_category().message(error));
}

FileStamp stamp_of(const struct stat& status) noexcept {
    return {status.st_dev, status.st_ino, status.st_size,
            std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
}

bool write_all(int descriptor, std::string_view text) noexcept {
    while (!text.empty()) {
        const ssize_t written = ::write(descriptor, text.data(), text.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        text.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

}  // namespace

FileStamp FileStamp::of(const std::string& path) noexcept {
    struct stat status {};
    return ::lstat(path.c_str(), &status) == 0 ? stamp_of(status) : FileStamp{};
}

// --- the file ---

Expected<HoldRead> read_holds(const std::string& directory) {
    const std::string path = holds_in(directory);
    const Descriptor file(::open(path.c_str(), O_RDONLY | kFlags));
    if (file.number() < 0 && errno == ENOENT) return HoldRead{};
    if (file.number() < 0 && errno == ELOOP) return fail("bad-holds", "it is a symbolic link");
    if (file.number() < 0) return io_error("open", path, errno);
    struct stat status {};
    if (::fstat(file.number(), &status) != 0) return io_error("look at", path, errno);
    if (!S_ISREG(status.st_mode)) return fail("bad-holds", "it is not a regular file");
    HoldRead result;
    result.stamp = stamp_of(status);
    std::string text;
    std::array<char, 16'384> buffer;
    while (text.size() <= kMaxHoldsText) {
        const ssize_t count = ::read(file.number(), buffer.data(), buffer.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return io_error("read", path, errno);
        if (count == 0) break;
        text.append(buffer.data(), static_cast<std::size_t>(count));
    }
    Expected<HoldSet> set = decode_holds(text);
    if (!set) return tl::unexpected(std::move(set).error());
    result.set = *std::move(set);
    return result;
}

Expected<void> write_holds(const std::string& directory, const HoldSet& set) {
    const std::string text = encode_holds(set);
    if (text.empty()) return fail("io", "no memory for the file of holds");
    const std::string path = holds_in(directory);
    const std::string temporary = path + ".tmp";
    ::unlink(temporary.c_str());
    {
        const Descriptor file(
            ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
        if (file.number() < 0) return io_error("make", temporary, errno);
        if (!write_all(file.number(), text) || ::fsync(file.number()) != 0) {
            const int error = errno;
            ::unlink(temporary.c_str());
            return io_error("write", temporary, error);
        }
    }
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
        const int error = errno;
        ::unlink(temporary.c_str());
        return io_error("replace", path, error);
    }
    const Descriptor folder(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.number() < 0 || ::fsync(folder.number()) != 0) {
        return io_error("make sure of the new file in", directory, errno, "not-durable");
    }
    return {};
}

std::string set_holds_aside(const std::string& directory) {
    for (int i = 1; i <= kMaxAside; ++i) {
        std::string path = holds_in(directory) + ".bad-" + std::to_string(i);
        struct stat status {};
        if (i < kMaxAside && ::lstat(path.c_str(), &status) == 0) continue;
        return ::rename(holds_in(directory).c_str(), path.c_str()) == 0 ? path : std::string();
    }
    return {};
}

// --- the lock ---

HoldLock::HoldLock(const std::string& directory) noexcept {
    char path[PATH_MAX];
    if (!path_of(path, directory, "lock")) {
        error_ = ENAMETOOLONG;
        return;
    }
    descriptor_ = ::open(path, O_RDWR | O_CREAT | kFlags, 0600);
    if (descriptor_ >= 0 && ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) {
        state_ = State::held;
        return;
    }
    error_ = errno;
    if (descriptor_ >= 0 && error_ == EWOULDBLOCK) state_ = State::busy;
}

HoldLock::~HoldLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace keel::ngx
