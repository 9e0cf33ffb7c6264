// keeld: decides, restarts, proves. Flags, signals and exit codes; everything else is the Daemon's.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include <boost/asio/signal_set.hpp>

#include <csignal>
#include <iostream>

#include "keeld/daemon.h"
#include "keeld/log_format.h"
#include "keeld/spawn.h"

namespace keel {
namespace {

constexpr int kFine = 0;
constexpr int kBroken = 1;
constexpr int kUnusable = 2;

struct Options {
    std::string config = "/etc/keeld/keeld.yaml";
    std::string log = "text";
    std::string level = "info";
    std::string clock;
    bool check = false;
    bool yes = false;
};

void set_up_log(const Options& options) {
    auto logger = spdlog::stderr_logger_st("keeld");
    logger->set_level(spdlog::level::from_str(options.level));
    logger->set_formatter(log_format(options.log == "json"));
    spdlog::set_default_logger(logger);
}

int complain(const std::vector<Error>& errors) {
    for (const Error& error : errors) {
        std::cerr << "keeld: " << error.text << '\n';
    }
    return errors.empty() ? kFine : kUnusable;
}

Task<void> handle_signals(Loop& loop, Daemon& daemon) {
    asio::signal_set signals(loop, SIGTERM, SIGINT, SIGHUP);
    constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
    for (;;) {
        const auto [error, number] = co_await signals.async_wait(kToken);
        if (error || number != SIGHUP) {
            break;
        }
        daemon.reload();
    }
    spdlog::info("stopping");
    co_await daemon.stop();
    loop.stop();
}

Task<void> run(Loop& loop, Daemon& daemon, bool check, int& status) {
    const std::vector<Error> errors = co_await daemon.start(check);
    status = complain(errors);
    if (check && errors.empty()) {
        std::cout << "keeld: configuration, ledger, cluster, permissions and caches are fine\n";
    }
    if (check || !errors.empty()) {
        loop.stop();
        co_return;
    }
    daemon.run_background([&status] {
        status = kUnusable;
        std::raise(SIGTERM);
    });
    co_await handle_signals(loop, daemon);
}

int main(int argc, char** argv) {
    CLI::App app{
        "keeld restarts the Kubernetes workloads whose image tags moved, paced and gated, and "
        "proves that the new\n"
        "pods run the new content. Without an explicit `mode: act` it only observes.",
        "keeld"};
    Options options;
    app.add_option("--config", options.config, "Configuration file")->capture_default_str();
    app.add_option("--log", options.log, "Log format on standard error")
        ->check(CLI::IsMember({"text", "json"}))
        ->capture_default_str();
    app.add_option("--log-level", options.level, "Least level logged")
        ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
        ->capture_default_str();
    app.add_option(
           "--clock", options.clock,
           "For tests: unix:PATH of a socket on which somebody writes times (RFC 3339), one "
           "a line;\nschedules, pacing and ages read that clock, which stands between two "
           "lines. Each line is\nwritten back once what was due by then has been asked for. "
           "Deadlines, leases,\nsignatures, holds and network time-outs stay on the real clock")
        ->check([](const std::string& where) {
            return where.starts_with("unix:/") ? "" : "expected unix:/PATH";
        });
    app.add_flag("--check", options.check,
                 "Read configuration, secrets, ledger, reach the cluster and the caches, check "
                 "permissions; then exit");
    app.add_flag("--yes", options.yes,
                 "Start although the configuration changes more workloads than cap.workloads, this "
                 "once");
    app.set_version_flag("--version", "keeld " KEEL_VERSION);
    app.footer(
        "Signals: SIGTERM and SIGINT end cleanly within 10 s, SIGHUP reads the configuration "
        "again.\n"
        "Exit codes: 0 fine, 1 ended by an error of its own, 2 wrong usage, configuration, ledger, "
        "cluster or permissions.\n"
        "keelctl looks in.");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ExtrasError&) {
        std::cerr << "keeld: \"" << app.remaining().front()
                  << "\" was not expected; the configuration is named with --config FILE, for all "
                     "else see \"keeld --help\"\n";
        return kUnusable;
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? kFine : kUnusable;
    }
    set_up_log(options);
    ConfigResult config = load_config(options.config);
    if (!config.config) {
        return complain(config.errors);
    }
    std::signal(SIGPIPE, SIG_IGN);
    Loop loop(1);
    int status = kFine;
    {
        Daemon daemon(loop, std::move(*config.config),
                      options.clock.empty() ? "" : options.clock.substr(5), options.yes);
        keel::spawn(loop, run(loop, daemon, options.check, status));
        try {
            loop.run();
        } catch (const std::exception& error) {
            spdlog::critical("keeld cannot go on: {}", error.what());
            status = kBroken;
        }
    }
    return status;
}

}  // namespace
}  // namespace keel

int main(int argc, char** argv) {
    return keel::main(argc, argv);
}
