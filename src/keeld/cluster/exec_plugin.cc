#include "keeld/cluster/exec_plugin.h"

#include <fcntl.h>
#include <jansson.h>
#include <openssl/evp.h>
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
#include <fstream>
#include <iterator>

#include "keeld/json.h"

namespace keel {
namespace {

using Descriptor = asio::posix::stream_descriptor;

constexpr std::chrono::seconds kDeadline{60};
constexpr std::size_t kMaxOutput = 1U << 20U;
constexpr std::size_t kMaxShown = 500;  // of standard error, in an error's text

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

std::string encode_base64(const std::string& bytes) {
    std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
    const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                       reinterpret_cast<const unsigned char*>(bytes.data()),
                                       static_cast<int>(bytes.size()));
    text.resize(static_cast<std::size_t>(length));
    return text;
}

std::string file_text(const std::string& path) {
    std::ifstream file{path};
    return {std::istreambuf_iterator<char>{file}, {}};
}

void set(const Json& object, const char* key, const std::string& value) {
    if (!value.empty()) json_object_set_new(object.get(), key, json_string(value.c_str()));
}

// KUBERNETES_EXEC_INFO, as client-go's ExecCredential for its plugins.
std::string exec_info(const ClusterAccess& access) {
    Json spec{json_pack("{s:b}", "interactive", 0)};
    if (access.exec->provide_cluster_info) {
        const Json cluster{json_object()};
        set(cluster, "server", access.server);
        set(cluster, "tls-server-name", access.tls.server_name);
        const std::string ca =
            access.tls.ca_file.empty() ? access.tls.ca_pem : file_text(access.tls.ca_file);
        if (!ca.empty()) set(cluster, "certificate-authority-data", encode_base64(ca));
        if (access.tls.insecure) {
            json_object_set_new(cluster.get(), "insecure-skip-tls-verify", json_true());
        }
        set(cluster, "proxy-url", access.proxy);
        json_object_set_new(cluster.get(), "config", json_null());
        json_object_set(spec.get(), "cluster", cluster.get());
    }
    const Json info{json_pack("{s:s, s:s, s:O}", "kind", "ExecCredential", "apiVersion",
                              access.exec->api_version.c_str(), "spec", spec.get())};
    return dump_json(info.get());
}

std::vector<std::string> environment(const ClusterAccess& access) {
    std::vector<std::pair<std::string, std::string>> own = access.exec->env;
    own.emplace_back("KUBERNETES_EXEC_INFO", exec_info(access));
    std::vector<std::string> lines;
    for (char** line = environ; *line != nullptr; ++line) {
        const std::string_view name{*line, std::strcspn(*line, "=")};
        const bool replaced = std::any_of(own.begin(), own.end(),
                                          [&](const auto& pair) { return pair.first == name; });
        if (!replaced) lines.emplace_back(*line);
    }
    for (const auto& [name, value] : own)
        lines.push_back(name + "=" + value);
    return lines;
}

std::vector<char*> pointers(std::vector<std::string>& lines) {
    std::vector<char*> list;
    list.reserve(lines.size() + 1);
    for (std::string& line : lines)
        list.push_back(line.data());
    list.push_back(nullptr);
    return list;
}

// Starts the plugin with its output and errors going to the two descriptors; zero or an errno.
int spawn(const ClusterAccess& access, int output, int errors, pid_t& pid) {
    FileActions files;
    posix_spawn_file_actions_addopen(&files.actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
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
    std::vector<std::string> args = access.exec->args;
    args.insert(args.begin(), access.exec->command);
    std::vector<std::string> env = environment(access);
    return posix_spawnp(&pid, access.exec->command.c_str(), &files.actions, &how.attributes,
                        pointers(args).data(), pointers(env).data());
}

// A plugin under way.
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
        output.cancel();  // somebody who left the group may still hold them
        errors.cancel();
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

Expected<RunPtr> start(const ClusterAccess& access, const asio::any_io_executor& executor,
                       const std::string& what) {
    auto run = std::make_shared<Run>(executor);
    const int output = open_pipe(run->output);
    const int errors = open_pipe(run->errors);
    pid_t pid = -1;
    int problem = output < 0 || errors < 0 ? errno : spawn(access, output, errors, pid);
    if (output >= 0) close(output);
    if (errors >= 0) close(errors);
    if (problem == 0) {
        run->child.adopt(pid);
        const int pidfd = pidfd_open(pid, 0);
        if (pidfd >= 0) {
            run->ended.assign(pidfd);
            return run;
        }
        problem = errno;
    }
    const std::string& hint = access.exec->install_hint;
    return fail("credentials", what + " cannot be started: " + std::strerror(problem) +
                                   (hint.empty() ? "" : "; " + hint));
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

std::string how_it_ended(int status) {
    if (WIFEXITED(status)) return "exit code " + std::to_string(WEXITSTATUS(status));
    return "signal " + std::to_string(WTERMSIG(status));
}

std::string shown(std::string errors) {
    while (errors.ends_with('\n'))
        errors.pop_back();
    if (errors.size() > kMaxShown) errors = "…" + errors.substr(errors.size() - kMaxShown);
    return errors.empty() ? errors : ": " + errors;
}

}  // namespace

Task<Expected<ExecCredential>> run_exec_plugin(ClusterAccess access) {
    using namespace asio::experimental::awaitable_operators;
    const std::string what = "credential plugin " + access.exec->command;
    const auto executor = co_await asio::this_coro::executor;
    const Expected<RunPtr> started = start(access, executor, what);
    if (!started) co_return tl::unexpected<Error>(started.error());
    const RunPtr run = *started;
    run->deadline.expires_after(kDeadline);
    run->deadline.async_wait(
        [weak = std::weak_ptr<Run>{run}](const boost::system::error_code& error) {
            if (const RunPtr late = weak.lock(); late != nullptr && !error) late->time_is_up();
        });
    auto reading = read_all(run->output, run->printed) && read_all(run->errors, run->said);
    co_await std::move(reading);
    const auto [error] =
        co_await run->ended.async_wait(Descriptor::wait_read, asio::as_tuple(asio::use_awaitable));
    run->deadline.cancel();
    if (error) co_return fail("cancelled", what + ": cancelled");
    const int status = run->child.reap();
    if (run->late)
        co_return fail("credentials", what + " did not end within 60 s" + shown(run->said));
    if (status != 0) {
        co_return fail("credentials", what + " failed, " + how_it_ended(status) + shown(run->said));
    }
    Expected<ExecCredential> credential =
        parse_exec_credential(run->printed, access.exec->api_version);
    if (!credential) {
        co_return fail("credentials", what + ": " + credential.error().text + shown(run->said));
    }
    co_return credential;
}

Expected<ExecCredential> parse_exec_credential(const std::string& output,
                                               const std::string& api_version) {
    const Json root = parse_json(output);
    if (root == nullptr || text_of(root.get(), "kind") != "ExecCredential") {
        return fail("credentials", "standard output is no ExecCredential");
    }
    if (text_of(root.get(), "apiVersion") != api_version) {
        return fail("credentials", "apiVersion is \"" +
                                       std::string{text_of(root.get(), "apiVersion")} +
                                       "\", but the kubeconfig asks for " + api_version);
    }
    const json_t* status = json_object_get(root.get(), "status");
    ExecCredential credential;
    credential.token = text_of(status, "token");
    credential.cert_pem = text_of(status, "clientCertificateData");
    credential.key_pem = text_of(status, "clientKeyData");
    if (credential.cert_pem.empty() != credential.key_pem.empty()) {
        return fail("credentials",
                    "status has one of clientCertificateData and clientKeyData; "
                    "expected both or none");
    }
    if (credential.token.empty() && credential.cert_pem.empty()) {
        return fail("credentials", "status has neither token nor clientCertificateData");
    }
    if (const std::string_view text = text_of(status, "expirationTimestamp"); !text.empty()) {
        credential.expires = parse_time(text);
        if (!credential.expires) {
            return fail("credentials",
                        "status.expirationTimestamp \"" + std::string{text} + "\" is no time");
        }
    }
    return credential;
}

}  // namespace keel
