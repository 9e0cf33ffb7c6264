// Writing: a snapshot is taken in steps of a few milliseconds between the helper's other work, into
// a temporary file that is synced and then renamed. Whoever writes or sets aside holds a lock of
// the directory (flock). The head says which segment of shared memory it comes from, by a number
// that grows: one that finds a later one's snapshot in its place, and that one's nginx alive, was
// replaced (by a binary upgrade, by a reload that resized the zone) and writes none any more.
//
// nginx gives no sign when it goes as a whole: helper and workers learn it one by one, the helper
// by exit() without a hook. So the one who writes, the saver, takes its name off the zone when it
// goes, and then looks for changes; a worker that goes looks for changes when there is no saver.
// Whatever the order, one of them sees the last change.

#include "module/snapshot.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/snapshot.h"
#include "module/helper.h"
#include "module/table.h"

namespace keel::ngx {
namespace {

constexpr char kFile[] = "snapshot";
constexpr char kTemporary[] = "snapshot.new";
constexpr ngx_msec_t kLook = 1'000;
constexpr ngx_msec_t kAfterEvents = 2'000;      // at least between two snapshots
constexpr ngx_msec_t kAfterSightings = 60'000;  // when nothing but times has changed
constexpr ngx_msec_t kLongestBackOff = 60'000;
constexpr ngx_msec_t kShare = 20;     // writing takes at most one part of that many of the time
constexpr ngx_msec_t kStepPause = 1;  // between two steps
constexpr std::size_t kSlice = 16;    // tags taken under one hold of the lock
constexpr std::size_t kStep = 512;    // tags taken in one step
constexpr ngx_msec_t kOnTerm = 700;   // nginx kills what is left about a second after SIGTERM
constexpr ngx_msec_t kOnQuit = 3'000;
constexpr ngx_msec_t kWait = 10'000;  // for the process that loads
constexpr unsigned kMostAttempts = 2;
constexpr int kMostSetAside = 99;

ngx_msec_t monotonic() noexcept {
    ngx_time_update();
    return ngx_current_msec;
}

void pause() noexcept {
    ngx_msleep(2);
}

// --- the directory ---

struct Descriptor {
    int fd = -1;

    Descriptor() = default;
    explicit Descriptor(int descriptor) noexcept : fd(descriptor) {}
    Descriptor(Descriptor&& other) noexcept : fd(std::exchange(other.fd, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        std::swap(fd, other.fd);
        return *this;
    }
    ~Descriptor() {
        if (fd >= 0) close(fd);
    }
    explicit operator bool() const noexcept { return fd >= 0; }
};

tl::unexpected<Error> os_error(const std::string& what) {
    return fail("disk", what + ": " + std::strerror(errno));
}

std::string path_of(const MainConf& conf, const char* file) {
    return std::string{view(conf.state->name)} + "/" + file;
}

Expected<Descriptor> open_directory(const MainConf& conf) {
    const std::string path{view(conf.state->name)};
    Descriptor directory{open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (!directory) return os_error("cannot open \"" + path + "\"");
    return directory;
}

// Until the descriptor is closed. False when somebody else has it.
bool lock(const Descriptor& directory) noexcept {
    return flock(directory.fd, LOCK_EX | LOCK_NB) == 0;
}

// A file of ours, or anything that lies in its place. Nothing there: an empty optional.
Expected<std::optional<Descriptor>> open_snapshot(const MainConf& conf,
                                                  const Descriptor& directory) {
    Descriptor file{openat(directory.fd, kFile, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
    if (!file && errno == ENOENT) return std::optional<Descriptor>{};
    if (!file && errno == ELOOP) return fail("foreign", "it is a symbolic link");
    if (!file) return os_error("cannot open \"" + path_of(conf, kFile) + "\"");
    struct stat info {};
    if (fstat(file.fd, &info) != 0) return os_error("cannot look at it");
    if (!S_ISREG(info.st_mode)) return fail("foreign", "it is no regular file");
    return std::optional<Descriptor>{std::move(file)};
}

// Moves what is no good out of the way, where somebody can look at it.
void set_aside(const MainConf& conf, const Descriptor& directory, const Error& why) {
    table_of(conf).count(Counter::set_aside);
    std::string to;
    int number = 0;
    do {
        to = std::string{kFile} + ".bad-" + std::to_string(++number);
    } while (number < kMostSetAside &&
             faccessat(directory.fd, to.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0);
    const int moved = renameat(directory.fd, kFile, directory.fd, to.c_str());
    const int error = errno;
    const std::string path = path_of(conf, kFile);
    if (moved == 0) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "keel: \"%s\" is no snapshot that can be used: %s. It lies in \"%s\" now, to "
                      "be looked at or deleted; nothing was taken from it",
                      path.c_str(), why.text.c_str(), path_of(conf, to.c_str()).c_str());
    } else {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, error,
                      "keel: \"%s\" is no snapshot that can be used: %s. Nothing was taken from "
                      "it, and it cannot be moved to \"%s\": do so by hand",
                      path.c_str(), why.text.c_str(), path_of(conf, to.c_str()).c_str());
    }
}

// --- whose snapshot it is ---

// Field 22 of /proc/PID/stat, counted from behind the name, which may hold anything; 0: unknown.
std::uint64_t started(ngx_pid_t process) {
    const std::string path = "/proc/" + std::to_string(process) + "/stat";
    const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    char text[1024];
    const ssize_t size = file ? read(file.fd, text, sizeof(text)) : -1;
    if (size <= 0) return 0;
    std::string_view rest{text, static_cast<std::size_t>(size)};
    rest.remove_prefix(std::min(rest.rfind(')') + 2, rest.size()));
    for (int field = 3; field < 22; ++field)
        rest.remove_prefix(std::min(rest.find(' '), rest.size() - 1) + 1);
    std::uint64_t value = 0;
    std::from_chars(rest.data(), rest.data() + rest.size(), value);
    return value;
}

ngx_pid_t master() noexcept {
    return ngx_process == NGX_PROCESS_SINGLE ? ngx_pid : ngx_parent;
}

bool runs(const SnapshotOrigin& origin) {
    const auto process = static_cast<ngx_pid_t>(origin.process);
    if (process <= 0 || (kill(process, 0) != 0 && errno == ESRCH)) return false;
    const std::uint64_t known = started(process);
    return known == 0 || origin.process_started == 0 || known == origin.process_started;
}

// --- writing ---

// One snapshot on its way to the disk.
class Save {
  public:
    enum class State { going, done, superseded };

    Save(const MainConf& conf, Descriptor directory) noexcept
        : conf_(conf), table_(table_of(conf)), directory_(std::move(directory)) {}
    ~Save() {
        if (file_) unlinkat(directory_.fd, kTemporary, 0);
    }
    Save(const Save&) = delete;
    Save& operator=(const Save&) = delete;

    // The directory is locked by the caller. May throw std::bad_alloc.
    [[nodiscard]] Expected<State> step() {
        if (!file_) return begin();
        std::vector<TagRecord> tags;
        for (std::size_t taken = 0; taken < kStep; taken += kSlice) {
            const Expected<bool> more = take(tags);
            if (!more) return tl::unexpected<Error>(more.error());
            if (!*more) return finish();
        }
        return State::going;
    }

  private:
    Expected<State> begin() {
        const Expected<bool> ours = may_write();
        if (!ours) return tl::unexpected<Error>(ours.error());
        if (!*ours) return State::superseded;
        // Left by a writer that was killed: nobody else is here.
        (void)unlinkat(directory_.fd, kTemporary, 0);
        file_ = Descriptor{openat(directory_.fd, kTemporary,
                                  O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)};
        if (!file_) return os_error("cannot make \"" + path_of(conf_, kTemporary) + "\"");
        mark_ = table_.begin_save();
        SnapshotHead head;
        head.origin.generation = mark_.generation;
        head.origin.process = static_cast<std::uint32_t>(master());
        head.origin.process_started = started(master());
        head.epoch = mark_.epoch;
        head.seq = mark_.seq;
        head.written = to_time(wall_millis());
        encoder_ = std::make_unique<SnapshotEncoder>(head);
        if (!table_.index(mark_, order_)) return moved_on();
        since_ = mark_.seq;
        return State::going;
    }

    // Whether there is no later one's snapshot. One whose nginx is gone (an upgrade that was taken
    // back) is overtaken.
    Expected<bool> may_write() {
        const Expected<std::optional<Descriptor>> file = open_snapshot(conf_, directory_);
        if (!file && file.error().code != "foreign") return tl::unexpected<Error>(file.error());
        if (file && !*file) return true;
        char bytes[kSnapshotOrigin];
        const ssize_t size = file ? read((**file).fd, bytes, sizeof(bytes)) : 0;
        if (size < 0) return os_error("cannot read \"" + path_of(conf_, kFile) + "\"");
        const Expected<SnapshotOrigin> origin =
            file ? decode_snapshot_origin({bytes, static_cast<std::size_t>(size)})
                 : tl::unexpected<Error>(file.error());
        if (!origin) {
            set_aside(conf_, directory_, origin.error());
            return true;
        }
        if (origin->generation <= table_.begin_save().generation) return true;
        if (runs(*origin)) return false;
        table_.set_generation(origin->generation + 1);
        return true;
    }

    // The next few tags: those of the index, then what has changed since it was made. False when
    // there are none.
    Expected<bool> take(std::vector<TagRecord>& tags) {
        if (next_ < order_.size()) {
            const std::size_t size = std::min(kSlice, order_.size() - next_);
            if (!table_.fetch(mark_, {order_.data() + next_, size}, tags)) return moved_on();
            next_ += size;
        } else {
            Head head;
            if (!table_.read(mark_.epoch, since_, kSlice, head, tags)) return moved_on();
            if (tags.empty()) return false;
            since_ = tags.back().state.seq;
        }
        for (const TagRecord& tag : tags)
            encoder_->add(tag);
        if (encoder_->pending() < kChunk) return true;
        const Expected<void> written = flush();
        if (!written) return tl::unexpected<Error>(written.error());
        return true;
    }

    Expected<void> flush() {
        const std::string bytes = encoder_->take();
        for (std::size_t done = 0; done < bytes.size();) {
            const ssize_t n = write(file_.fd, bytes.data() + done, bytes.size() - done);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return os_error("cannot write \"" + path_of(conf_, kTemporary) + "\"");
            done += static_cast<std::size_t>(n);
        }
        return {};
    }

    Expected<State> finish() {
        encoder_->finish();
        const Expected<void> written = flush();
        if (!written) return tl::unexpected<Error>(written.error());
        if (fsync(file_.fd) != 0)
            return os_error("cannot sync \"" + path_of(conf_, kTemporary) + "\"");
        if (renameat(directory_.fd, kTemporary, directory_.fd, kFile) != 0)
            return os_error("cannot rename to \"" + path_of(conf_, kFile) + "\"");
        file_ = Descriptor{};
        if (fsync(directory_.fd) != 0)
            return os_error("cannot sync \"" + std::string{view(conf_.state->name)} + "\"");
        table_.finish_save(mark_, view(conf_.state->name), wall_millis());
        return State::done;
    }

    static tl::unexpected<Error> moved_on() {
        return fail("epoch", "the table was reset while it was written");
    }

    static constexpr std::size_t kChunk = 65'536;

    const MainConf& conf_;
    Table table_;
    Descriptor directory_;
    Descriptor file_;  // the temporary one, as long as there is one
    SnapshotMark mark_;
    std::unique_ptr<SnapshotEncoder> encoder_;
    std::vector<Sight> order_;
    std::size_t next_ = 0;     // of order_
    std::uint64_t since_ = 0;  // what is later was not taken
};

void tell_failure(const MainConf& conf, const Error& error) noexcept {
    static LogGate gate;
    table_of(conf).report_save_failure(error.text);
    if (!gate.open()) return;
    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "keel: no snapshot is written: %s; pulls and events go on, a restart would begin "
                  "with the last one",
                  error.text.c_str());
}

// --- loading ---

// Reads the whole file, from its beginning; `use` gets each tag.
template <class Use>
Expected<SnapshotHead> read_through(const Descriptor& file, Use use) {
    if (lseek(file.fd, 0, SEEK_SET) < 0) return os_error("cannot read it");
    SnapshotDecoder decoder{[&](char* to, std::size_t size) -> Expected<std::size_t> {
        const ssize_t n = read(file.fd, to, size);
        if (n < 0) return os_error("cannot read it");
        return static_cast<std::size_t>(n);
    }};
    const Expected<SnapshotHead> head = decoder.head();
    for (bool more = head.has_value(); more;) {
        const Expected<std::optional<TagRecord>> tag = decoder.next();
        if (!tag) return tl::unexpected<Error>(tag.error());
        more = tag->has_value();
        if (more) use(**tag);
    }
    return head;
}

// What has happened to a load.
struct Loaded {
    SnapshotMark mark;
    std::uint64_t tags = 0;
    std::uint64_t found = 0;
    std::uint64_t generation = 0;
};

Expected<Loaded> load(Table table, const Descriptor& file) {
    Loaded loaded;
    std::uint64_t last = 0;
    // Once to see that all of it is right, and then to take it.
    const Expected<SnapshotHead> head = read_through(file, [&](const TagRecord& tag) {
        last = std::max(last, tag.state.seq);
        ++loaded.found;
    });
    if (!head) return tl::unexpected<Error>(head.error());
    loaded.generation = head->origin.generation;
    loaded.mark = table.begin_restore(last);
    const Expected<SnapshotHead> again = read_through(file, [&](const TagRecord& tag) {
        loaded.tags += table.restore(loaded.mark, tag) ? 1 : 0;
    });
    if (!again) return tl::unexpected<Error>(again.error());
    return loaded;
}

bool is_for_setting_aside(const Error& error) noexcept {
    return error.code != "disk";
}

void tell_load(const MainConf& conf, const Loaded& loaded) {
    if (loaded.found == 0) return;
    const std::string path = path_of(conf, kFile);
    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                  "keel: %uL of %uL tags taken from \"%s\", with a new epoch", loaded.tags,
                  loaded.found, path.c_str());
}

// Loads what there is. Whatever is wrong is told; the result then is that of an empty file.
Loaded load_snapshot(const MainConf& conf, unsigned attempts) {
    Table table = table_of(conf);
    const Expected<Descriptor> directory = open_directory(conf);
    Expected<Loaded> loaded = Loaded{};
    if (!directory) {
        loaded = tl::unexpected<Error>(directory.error());
    } else {
        // Another nginx may be writing it, which takes a moment.
        const ngx_msec_t since = monotonic();
        while (!lock(*directory) && monotonic() - since < kOnTerm)
            pause();
        const Expected<std::optional<Descriptor>> file = open_snapshot(conf, *directory);
        if (!file) {
            loaded = tl::unexpected<Error>(file.error());
        } else if (*file && attempts >= kMostAttempts) {
            loaded = fail("deadly", "the processes that read it died");
        } else if (*file) {
            loaded = load(table, **file);
        }
    }
    if (loaded && loaded->mark.epoch.empty()) loaded->mark = table.begin_restore(0);
    if (loaded) {
        tell_load(conf, *loaded);
        return *loaded;
    }
    if (directory && is_for_setting_aside(loaded.error())) {
        set_aside(conf, *directory, loaded.error());
    } else {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "keel: the tag table begins empty: %s in \"%V\"", loaded.error().text.c_str(),
                      &conf.state->name);
    }
    Loaded nothing;
    nothing.mark = table.begin_restore(0);
    return nothing;
}

// --- the helper's part ---

struct Saving {
    explicit Saving(MainConf& conf_) : conf(conf_), table(table_of(conf_)) {}

    MainConf& conf;
    Table table;
    Timer timer;
    std::unique_ptr<Save> save;
    ngx_msec_t begun = 0;
    ngx_msec_t last = 0;      // when the last one ended
    ngx_msec_t interval = 0;  // at least until the next
    ngx_msec_t back_off = 0;  // 0: the last one was written
    bool told = false;        // that another one's snapshot is in place
};

Saving* running = nullptr;  // of this process

bool since(ngx_msec_t then, ngx_msec_t interval) noexcept {
    return static_cast<ngx_msec_int_t>(ngx_current_msec - (then + interval)) >= 0;
}

void ended(Saving& saving, ngx_msec_t at_least) noexcept {
    saving.save.reset();
    ngx_time_update();
    saving.last = ngx_current_msec;
    saving.interval = std::max(at_least, (saving.last - saving.begun) * kShare);
}

void failed(Saving& saving, const Error& error) noexcept {
    tell_failure(saving.conf, error);
    saving.back_off = std::clamp(saving.back_off * 2, kAfterEvents, kLongestBackOff);
    ended(saving, saving.back_off);
}

void go_on(Saving& saving) {
    const Expected<Save::State> state = saving.save->step();
    if (!state) {
        failed(saving, state.error());
    } else if (*state == Save::State::done) {
        if (saving.back_off > 0) {
            ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0, "keel: snapshots are written again");
        }
        saving.back_off = 0;
        saving.told = false;
        ended(saving, kAfterEvents);
    } else if (*state == Save::State::superseded) {
        if (!std::exchange(saving.told, true)) {
            ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0,
                          "keel: another nginx, begun later, writes \"%V/%s\": this one does not",
                          &saving.conf.state->name, kFile);
        }
        ended(saving, kAfterEvents);
    }
}

void look(Saving& saving) {
    if (saving.save) {
        go_on(saving);
        return;
    }
    const std::string_view directory = view(saving.conf.state->name);
    const Table::Unsaved unsaved = saving.table.unsaved(directory);
    if (unsaved.load_first) {
        restore_table(saving.conf);
        return;
    }
    const bool due =
        (unsaved.events && since(saving.last, saving.interval)) ||
        (unsaved.sightings && since(saving.last, std::max(saving.interval, kAfterSightings)));
    if (!due) return;
    saving.begun = ngx_current_msec;
    Expected<Descriptor> opened = open_directory(saving.conf);
    if (!opened) {
        failed(saving, opened.error());
    } else if (lock(*opened)) {
        saving.save = std::make_unique<Save>(saving.conf, std::move(*opened));
    }
}

void on_timer(ngx_event_t* event) noexcept {
    auto& saving = owner<Saving>(event);
    try {
        look(saving);
    } catch (const std::exception& error) {
        failed(saving, Error{"memory", error.what()});
    }
    saving.timer.set(saving.save ? kStepPause : kLook);
}

void leave() noexcept {
    if (running == nullptr) return;
    running->save.reset();
    if (running->table.clear_saver(ngx_pid)) save_on_exit(running->conf);
}

// --- the end ---

// Writes one snapshot without pause, if there is anything to write and time for it.
void save_now(const MainConf& conf) {
    const ngx_msec_t begun = monotonic();
    const ngx_msec_t most = ngx_terminate ? kOnTerm : kOnQuit;
    const auto late = [=] { return monotonic() - begun > most; };
    Table table = table_of(conf);
    Expected<Descriptor> directory = open_directory(conf);
    if (!directory) {
        tell_failure(conf, directory.error());
        return;
    }
    // Another process that goes is at it, perhaps with all that there is.
    while (!lock(*directory)) {
        if (late()) return;
        pause();
    }
    const Table::Unsaved unsaved = table.unsaved(view(conf.state->name));
    if (!unsaved.events && !unsaved.sightings) return;
    Save save{conf, std::move(*directory)};
    for (;;) {
        const Expected<Save::State> state = save.step();
        if (!state) tell_failure(conf, state.error());
        if (!state || *state != Save::State::going) return;
        if (late()) {
            tell_failure(conf, Error{"late", "there is no time left for it"});
            return;
        }
    }
}

}  // namespace

void restore_table(const MainConf& conf) noexcept {
    if (conf.state == nullptr) return;
    Table table = table_of(conf);
    const ngx_msec_t begun = monotonic();
    try {
        for (;;) {
            unsigned attempts = 0;
            const Table::Load load = table.claim_load(ngx_pid, attempts);
            if (load == Table::Load::done) return;
            if (load == Table::Load::mine) {
                const Loaded loaded = load_snapshot(conf, attempts);
                if (table.finish_load(loaded.mark, loaded.tags, loaded.generation)) return;
            } else if (monotonic() - begun > kWait) {
                ngx_log_error(NGX_LOG_WARN, ngx_cycle->log, 0,
                              "keel: another process still loads the snapshot; not waiting longer");
                return;
            } else {
                pause();
            }
        }
    } catch (const std::exception& error) {
        table.give_up_load();
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0, "keel: cannot load the snapshot: %s",
                      error.what());
    }
}

void start_saving(MainConf& conf) noexcept {
    if (conf.state == nullptr) return;
    running = new (std::nothrow) Saving{conf};  // lives as long as the process
    if (running == nullptr || std::atexit(leave) != 0) {
        tell_failure(conf, Error{"memory", "there is no memory"});
        return;
    }
    running->table.set_saver(ngx_pid);
    running->last = ngx_current_msec;
    running->timer.prepare(running, on_timer);
    running->timer.set(kStepPause);
}

void save_on_exit(const MainConf& conf) noexcept {
    if (conf.state == nullptr || ngx_process == NGX_PROCESS_SIGNALLER) return;
    try {
        if (table_of(conf).saver() == 0) save_now(conf);
    } catch (const std::exception& error) {
        tell_failure(conf, Error{"memory", error.what()});
    }
}

}  // namespace keel::ngx
