#include "keeld/registry/key_sources.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string_view>
#include <system_error>
#include <utility>

#include "keeld/process.h"

namespace keel {
namespace {

constexpr std::chrono::seconds kDeadline{30};
constexpr std::chrono::minutes kKept{1};
constexpr std::size_t kMaxShown = 200;
constexpr std::size_t kMaxFile = 1U << 20U;

// What reaches a helper of keeld's environment: a name, or the beginning of names.
constexpr std::string_view kPassed[] = {
    "PATH",       "HOME",        "TMPDIR",         "LANG",         "LC_*",
    "TZ",         "SSL_CERT_*",  "HTTP_PROXY",     "HTTPS_PROXY",  "NO_PROXY",
    "http_proxy", "https_proxy", "no_proxy",       "AWS_*",        "AZURE_*",
    "GOOGLE_*",   "CLOUDSDK_*",  "GCE_METADATA_*", "DOCKER_CONFIG"};

bool is_passed(std::string_view name) {
    return std::ranges::any_of(kPassed, [name](std::string_view one) {
        return one.ends_with('*') ? name.starts_with(one.substr(0, one.size() - 1)) : name == one;
    });
}

std::vector<std::string> clean_environment() {
    std::vector<std::string> lines;
    for (char** line = environ; *line != nullptr; ++line) {
        const std::string_view text(*line);
        if (is_passed(text.substr(0, text.find('=')))) lines.emplace_back(text);
    }
    return lines;
}

// Helpers tell what is wrong on standard output. What might be an answer is not shown.
std::string first_line(const std::string& output) {
    const std::string line = output.substr(0, std::min(output.find('\n'), kMaxShown));
    return line.empty() || line.find_first_of("{\"") != line.npos ? "" : ": " + line;
}

// Another one for other content; empty if the file cannot be seen.
std::string version_of(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return {};
    return std::to_string(status.st_dev) + " " + std::to_string(status.st_ino) + " " +
           std::to_string(status.st_size) + " " + std::to_string(status.st_mtim.tv_sec) + "." +
           std::to_string(status.st_mtim.tv_nsec);
}

}  // namespace

Task<Expected<Credential>> ask_helper(std::string name, std::string registry) {
    const std::string what = "docker-credential-" + name;
    Program program;
    program.command = what;
    program.args.emplace_back("get");
    program.environment = clean_environment();
    program.input = helper_question(registry);
    program.deadline = kDeadline;
    const Expected<Ended> ended = co_await run_program(std::move(program));
    if (!ended) {
        const bool started = ended.error().code != "not-started";
        co_return fail("credentials",
                       what + (started ? ": " : " cannot be started: ") + ended.error().text);
    }
    if (!ended->well()) {
        co_return fail("credentials", what + " " + ended->how(kDeadline) +
                                          first_line(ended->output) + ended->complaint());
    }
    const Expected<Credential> credential = helper_answer(ended->output);
    if (!credential) {
        co_return fail("credentials", what + ": " + credential.error().text);
    }
    co_return *credential;
}

KeySources::KeySources(const Config& config, Keys pull_secrets)
    : config_(config), pull_secrets_(std::move(pull_secrets)) {}

void KeySources::expire(Steady::time_point now) {
    std::erase_if(asked_, [now](const auto& one) { return one.second.until <= now; });
    std::erase_if(files_, [now](const auto& one) { return one.second.used + kKept <= now; });
}

const KeySources::File& KeySources::read(const std::string& path) {
    File& file = files_[path];
    file.used = Steady::now();
    const std::string version = version_of(path);
    if (!version.empty() && version == file.version) {
        return file;
    }
    file.config = nullptr;
    file.version = version;
    file.failure = "it cannot be read";
    std::ifstream stream(path);
    if (!stream) {
        file.failure += ": " + std::generic_category().message(errno);
        return file;
    }
    std::string text(kMaxFile + 1, '\0');
    stream.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(stream.gcount()));
    Expected<DockerConfig> parsed = DockerConfig::parse(text);
    if (text.size() > kMaxFile) {
        file.failure = "it is larger than a megabyte";
    } else if (!parsed) {
        file.failure = "it is no config.json: " + parsed.error().text;
    } else {
        file.failure.clear();
        file.config = std::make_shared<const DockerConfig>(std::move(*parsed));
    }
    return file;
}

Task<Key> KeySources::helper(std::string name, std::string registry, std::string where) {
    const std::string id = name + " " + registry;
    const auto known = asked_.find(id);
    if (known != asked_.end() && known->second.until > Steady::now()) {
        Key key = known->second.key;
        key.name = where;
        co_return key;
    }
    const Expected<Credential> credential = co_await ask_helper(name, registry);
    Key key;
    key.name = where;
    if (credential) {
        key.credential = *credential;
    } else {
        key.failure = credential.error().text;
    }
    asked_.insert_or_assign(id, Asked{key, Steady::now() + kKept});
    co_return key;
}

Task<std::vector<Key>> KeySources::keys(std::string registry, std::string repository) {
    using Kind = CredentialsConfig::Kind;
    std::vector<Key> keys;
    const auto found = config_.registries.find(registry);
    const CredentialsConfig from =
        found != config_.registries.end() ? found->second.credentials : CredentialsConfig{};
    if (from.kind == Kind::pull_secrets) {
        if (pull_secrets_) {
            keys = co_await pull_secrets_(registry, repository);
        }
    } else if (from.kind == Kind::helper) {
        std::string where = "helper " + from.helper;
        keys.push_back(co_await helper(from.helper, registry, std::move(where)));
    } else if (from.kind == Kind::config) {
        const File& file = read(from.config);
        const std::shared_ptr<const DockerConfig> config = file.config;
        if (config == nullptr) {
            keys.push_back(Key{from.config, {}, file.failure});
            co_return keys;
        }
        if (const auto name = config->helper(registry)) {
            const std::string program = *name;
            std::string where = from.config + " (helper " + program + ")";
            keys.push_back(co_await helper(program, registry, std::move(where)));
        }
        for (const Credential& credential : config->find(registry, repository)) {
            keys.push_back(Key{from.config, credential, {}});
        }
        if (keys.empty()) {
            keys.push_back(Key{from.config, {}, "it has nothing for " + registry});
        }
    }
    co_return keys;
}

}  // namespace keel
