#include "keeld/process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {  // glibc 2.36 forgets to say so itself
#include <sys/pidfd.h>
}

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <memory>
#include <utility>

namespace keel {
namespace {

using Descriptor = asio::posix::stream_descriptor;

constexpr std::size_t kMaxOutput = 1U << 20U;
constexpr std::size_t kMaxInput = 4096;  // what a pipe surely takes at once
constexpr std::size_t kMaxShown = 500;   // of standard error, in an error's text

// A child process. Dies, with its group, with this object.
class Child {
  public:
    Child() = default;
    ~Child() {
        if (pid_ <= 0) return;
        kill_group();
        waitpid(pid_, nullptr, 0);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    void adopt(pid_t pid) { pid_ = pid; }
    void kill_group() const {
        if (pid_ > 0) kill(-pid_, SIGKILL);
    }
    // The wait status; to be called when the process has ended.
    int reap() {
        int status = 0;
        waitpid(std::exchange(pid_, -1), &status, 0);
        return status;
    }

  private:
    pid_t pid_ = -1;
};

struct FileActions {
    posix_spawn_file_actions_t actions;
    FileActions() { posix_spawn_file_actions_init(&actions); }
    ~FileActions() { posix_spawn_file_actions_destroy(&actions); }
    FileActions(const FileActions&) = delete;
    FileActions& operator=(const FileActions&) = delete;
};

struct Attributes {
    posix_spawnattr_t attributes;
    Attributes() { posix_spawnattr_init(&attributes); }
    ~Attributes() { posix_spawnattr_destroy(&attributes); }
    Attributes(const Attributes&) = delete;
    Attributes& operator=(const Attributes&) = delete;
};

std::vector<char*> pointers(std::vector<std::string>& lines) {
    std::vector<char*> list;
    list.reserve(lines.size() + 1);
    for (std::string& line : lines)
        list.push_back(line.data());
    list.push_back(nullptr);
    return list;
}

// Starts the program with its standard input, output and errors at these descriptors (input: -1 for
// nothing to read); zero or an errno.
int spawn(Program& program, int input, int output, int errors, pid_t& pid) {
    FileActions files;
    if (input < 0) {
        posix_spawn_file_actions_addopen(&files.actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    } else {
        posix_spawn_file_actions_adddup2(&files.actions, input, STDIN_FILENO);
    }
    posix_spawn_file_actions_adddup2(&files.actions, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files.actions, errors, STDERR_FILENO);
    posix_spawn_file_actions_addclosefrom_np(&files.actions, 3);
    Attributes how;
    sigset_t all;
    sigset_t none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawnattr_setsigdefault(&how.attributes, &all);
    posix_spawnattr_setsigmask(&how.attributes, &none);
    posix_spawnattr_setpgroup(&how.attributes, 0);
    posix_spawnattr_setflags(
        &how.attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    program.args.insert(program.args.begin(), program.command);
    return posix_spawnp(&pid, program.command.c_str(), &files.actions, &how.attributes,
                        pointers(program.args).data(), pointers(program.environment).data());
}

// A program under way.
struct Run {
    explicit Run(const asio::any_io_executor& executor)
        : output(executor), errors(executor), ended(executor), deadline(executor) {}

    Child child;
    Descriptor output;
    Descriptor errors;
    Descriptor ended;  // its pidfd
    asio::steady_timer deadline;
    std::string printed;
    std::string said;
    bool late = false;

    void time_is_up() {
        late = true;
        child.kill_group();
        // Somebody who left the group may still hold them, and write without end.
        boost::system::error_code ignored;
        output.close(ignored);
        errors.close(ignored);
    }
};
using RunPtr = std::shared_ptr<Run>;

// A pipe whose end for us is `ours`; returns the other end, or -1.
int open_pipe(Descriptor& ours) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return -1;
    ours.assign(ends[0]);
    return ends[1];
}

// A pipe that holds `text` and nothing more, to be read; -1 with errno set if there is none.
int filled_pipe(const std::string& text) {
    std::array<int, 2> ends{};
    if (text.size() > kMaxInput) {
        errno = E2BIG;
        return -1;
    }
    if (pipe2(ends.data(), O_CLOEXEC) != 0) return -1;
    const bool written =
        write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    close(ends[1]);
    if (written) return ends[0];
    close(ends[0]);
    return -1;
}

Expected<RunPtr> start(Program& program, const asio::any_io_executor& executor) {
    auto run = std::make_shared<Run>(executor);
    const bool asked = !program.input.empty();
    const int input = asked ? filled_pipe(program.input) : -1;
    const int output = open_pipe(run->output);
    const int errors = open_pipe(run->errors);
    pid_t pid = -1;
    const bool ready = output >= 0 && errors >= 0 && (!asked || input >= 0);
    int problem = ready ? spawn(program, input, output, errors, pid) : errno;
    for (const int end : {input, output, errors}) {
        if (end >= 0) close(end);
    }
    if (problem == 0) {
        run->child.adopt(pid);
        const int pidfd = pidfd_open(pid, 0);
        if (pidfd >= 0) {
            run->ended.assign(pidfd);
            return run;
        }
        problem = errno;
    }
    return fail("not-started", std::strerror(problem));
}

Task<void> read_all(Descriptor& from, std::string& into) {
    std::array<char, 4096> block{};
    for (;;) {
        const auto buffer = asio::buffer(block);
        const auto [error, size] =
            co_await from.async_read_some(buffer, asio::as_tuple(asio::use_awaitable));
        if (error) co_return;
        if (into.size() < kMaxOutput) into.append(block.data(), size);
    }
}

}  // namespace

std::string Ended::how(std::chrono::seconds deadline) const {
    if (late) return "did not end within " + std::to_string(deadline.count()) + " s";
    if (WIFEXITED(status)) return "failed, exit code " + std::to_string(WEXITSTATUS(status));
    return "failed, signal " + std::to_string(WTERMSIG(status));
}

std::string Ended::complaint() const {
    std::string text = errors;
    while (text.ends_with('\n'))
        text.pop_back();
    if (text.size() > kMaxShown) text = "…" + text.substr(text.size() - kMaxShown);
    return text.empty() ? text : ": " + text;
}

Task<Expected<Ended>> run_program(Program program) {
    using namespace asio::experimental::awaitable_operators;
    const auto executor = co_await asio::this_coro::executor;
    const Expected<RunPtr> started = start(program, executor);
    if (!started) co_return tl::unexpected<Error>(started.error());
    const RunPtr run = *started;
    run->deadline.expires_after(program.deadline);
    run->deadline.async_wait(
        [weak = std::weak_ptr<Run>{run}](const boost::system::error_code& error) {
            if (const RunPtr late = weak.lock(); late != nullptr && !error) late->time_is_up();
        });
    auto reading = read_all(run->output, run->printed) && read_all(run->errors, run->said);
    co_await std::move(reading);
    const auto [error] =
        co_await run->ended.async_wait(Descriptor::wait_read, asio::as_tuple(asio::use_awaitable));
    run->deadline.cancel();
    if (error) co_return fail("cancelled", "cancelled");
    Ended ended;
    ended.status = run->child.reap();
    ended.late = run->late;
    ended.output = std::move(run->printed);
    ended.errors = std::move(run->said);
    co_return ended;
}

}  // namespace keel
