#include "module/state_guard.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>

namespace keel::ngx {
namespace {

constexpr const char* kFile = "nginx.lock";
constexpr int kFirst = 3;  // after the standard streams
constexpr long kMostDescriptors = 65'536;

bool same(const struct stat& one, const struct stat& other) noexcept {
    return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

bool lock(int descriptor) noexcept {
    return ::flock(descriptor, LOCK_EX | LOCK_NB) == 0;
}

// A descriptor of the lock that this process has already. When it starts that is the one from the
// nginx that started it; later it belongs to the configuration before, and this is a further one.
// Each descriptor is asked, for /proc may not be there. -1: there is none.
int own_lock(int fresh, bool starts) noexcept {
    struct stat wanted {};
    if (::fstat(fresh, &wanted) != 0) return -1;
    const long last = std::min(::sysconf(_SC_OPEN_MAX), kMostDescriptors);
    for (int other = kFirst; other < last; ++other) {
        struct stat status {};
        if (other == fresh || ::fstat(other, &status) != 0 || !same(status, wanted)) continue;
        if (lock(other)) return starts ? other : ::dup(other);
    }
    return -1;
}

void close_guard(void* data) noexcept {
    leave_guard(*static_cast<MainConf*>(data));
}

bool cannot_tell(const MainConf& conf, int error) noexcept {
    ngx_log_error(NGX_LOG_WARN, conf.cycle->log, error,
                  "keel_zone: cannot lock \"%V/%s\", so another nginx that uses this directory "
                  "would go unnoticed",
                  &conf.state->name, kFile);
    return true;
}

}  // namespace

bool guard_state(MainConf& conf) noexcept {
    if (conf.state == nullptr) return true;
    ngx_pool_cleanup_t* cleanup = ngx_pool_cleanup_add(conf.cycle->pool, 0);
    if (cleanup == nullptr) return false;
    char path[PATH_MAX];
    const int size = std::snprintf(path, sizeof(path), "%s/%s",
                                   reinterpret_cast<char*>(conf.state->name.data), kFile);
    if (size >= PATH_MAX) return cannot_tell(conf, ENAMETOOLONG);
    // Without O_CLOEXEC, for the next binary.
    int descriptor = ::open(path, O_RDONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (descriptor < 0) return cannot_tell(conf, errno);
    if (!lock(descriptor)) {
        const int error = errno;
        const bool starts = ngx_is_init_cycle(conf.cycle->old_cycle);
        const int own = error == EWOULDBLOCK ? own_lock(descriptor, starts) : -1;
        ::close(descriptor);
        if (error != EWOULDBLOCK) return cannot_tell(conf, error);
        if (own < 0) {
            ngx_log_error(NGX_LOG_EMERG, conf.cycle->log, 0,
                          "\"keel_zone\" in %V:%ui: the state directory \"%V\" is in use by "
                          "another nginx: stop that one, or give each a state=DIR of its own",
                          &conf.zone_place.file, conf.zone_place.line, &conf.state->name);
            return false;
        }
        descriptor = own;
    }
    conf.guard = descriptor;
    cleanup->handler = close_guard;
    cleanup->data = &conf;
    return true;
}

void leave_guard(MainConf& conf) noexcept {
    if (conf.guard >= 0) ::close(conf.guard);
    conf.guard = -1;
}

}  // namespace keel::ngx
