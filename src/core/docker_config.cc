#include "core/docker_config.h"

#include <jansson.h>

#include <algorithm>
#include <array>
#include <memory>

#include "core/base64.h"
#include "core/glob.h"

namespace keel {
namespace {

constexpr std::string_view kHub = "docker.io";
constexpr std::string_view kHubKey = "index.docker.io";  // what `docker login` writes for the Hub
constexpr std::string_view kHubAddress = "https://index.docker.io/v1/";
constexpr std::string_view kTokenUser = "<token>";  // of a helper: the secret is an identity token

struct FreeJson {
    void operator()(json_t* value) const noexcept { json_decref(value); }
};
using Json = std::unique_ptr<json_t, FreeJson>;

std::string member(const json_t* object, const char* name) {
    const json_t* value = json_object_get(object, name);
    return json_is_string(value) ? std::string{json_string_value(value), json_string_length(value)}
                                 : std::string{};
}

struct Place {
    std::string host;
    std::string path;
};

// "https://index.docker.io/v1/", "ghcr.io/team", "*.example.com:5000".
Place place_of(std::string_view key) {
    if (const auto scheme = key.find("://"); scheme != key.npos) key.remove_prefix(scheme + 3);
    const std::size_t slash = std::min(key.find('/'), key.size());
    std::string_view path = key.substr(slash);
    for (const std::string_view version : {"/v1/", "/v2/"}) {
        if (path.starts_with(version)) path.remove_prefix(version.size() - 1);
    }
    while (path.starts_with('/'))
        path.remove_prefix(1);
    return {std::string{key.substr(0, slash)}, std::string{path}};
}

// Splits at the first `at`; the second part is empty when there is none.
std::pair<std::string_view, std::string_view> cut(std::string_view text, char at) {
    const std::size_t end = std::min(text.find(at), text.size());
    return {text.substr(0, end), end == text.size() ? std::string_view{} : text.substr(end + 1)};
}

// Each part between dots against its counterpart; a port must be the same.
bool fits_host(std::string_view pattern, std::string_view host) {
    if (pattern == host) return true;
    if (host == kHub && pattern == kHubKey) return true;
    auto [names, port] = cut(pattern, ':');
    auto [host_names, host_port] = cut(host, ':');
    if (port != host_port) return false;
    if (std::ranges::count(names, '.') != std::ranges::count(host_names, '.')) return false;
    while (!names.empty() || !host_names.empty()) {
        const auto [name, rest] = cut(names, '.');
        const auto [host_name, host_rest] = cut(host_names, '.');
        if (!matches_glob(name, host_name)) return false;
        names = rest;
        host_names = host_rest;
    }
    return true;
}

Expected<Credential> credential_of(const std::string& key, const json_t* entry) {
    Credential credential{member(entry, "username"), member(entry, "password"),
                          member(entry, "identitytoken"), member(entry, "registrytoken")};
    std::string auth = member(entry, "auth");
    while (auth.ends_with('\n') || auth.ends_with('\r') || auth.ends_with(' '))
        auth.pop_back();
    if (auth.empty()) return credential;
    const auto decoded = decode_base64(auth);
    const std::size_t colon = decoded ? decoded->find(':') : std::string::npos;
    if (colon == std::string::npos) {
        return tl::unexpected(Error{"credentials-invalid",
                                    "the auth of \"" + key + "\" is not base64 of USER:PASSWORD"});
    }
    credential.username = decoded->substr(0, colon);
    credential.password = decoded->substr(colon + 1);
    while (credential.password.ends_with('\0'))
        credential.password.pop_back();
    return credential;
}

}  // namespace

Expected<DockerConfig> DockerConfig::parse(std::string_view json) {
    const Json root{json_loadb(json.data(), json.size(), JSON_REJECT_DUPLICATES, nullptr)};
    if (!json_is_object(root.get())) {
        return fail("credentials-invalid", "not a JSON object");
    }
    DockerConfig config;
    json_t* auths = json_object_get(root.get(), "auths");
    json_t* helpers = json_object_get(root.get(), "credHelpers");
    config.store_ = member(root.get(), "credsStore");
    // The older format has the registries at the top.
    const bool old = auths == nullptr && helpers == nullptr && config.store_.empty();
    if (auths != nullptr && !json_is_object(auths)) {
        return fail("credentials-invalid", "\"auths\" is not an object");
    }
    const char* key = nullptr;
    json_t* value = nullptr;
    json_object_foreach(old ? root.get() : auths, key, value) {
        if (!json_is_object(value)) continue;
        auto credential = credential_of(key, value);
        if (!credential) return tl::unexpected(credential.error());
        if (credential->empty()) continue;  // a helper keeps it, and leaves the name here
        Place place = place_of(key);
        config.entries_.push_back(
            {std::move(place.host), std::move(place.path), std::move(*credential)});
    }
    std::ranges::stable_sort(config.entries_, std::greater{},
                             [](const Entry& entry) { return entry.path.size(); });
    json_object_foreach(helpers, key, value) {
        if (json_is_string(value)) {
            config.helpers_.push_back({place_of(key).host, json_string_value(value)});
        }
    }
    return config;
}

std::vector<Credential> DockerConfig::find(std::string_view registry,
                                           std::string_view repository) const {
    std::vector<Credential> found;
    for (const Entry& entry : entries_) {
        if (!repository.starts_with(entry.path) || !fits_host(entry.host, registry)) continue;
        if (std::ranges::find(found, entry.credential) == found.end()) {
            found.push_back(entry.credential);
        }
    }
    return found;
}

std::optional<std::string> DockerConfig::helper(std::string_view registry) const {
    for (const Helper& helper : helpers_) {
        if (fits_host(helper.host, registry)) return helper.suffix;
    }
    return store_.empty() ? std::nullopt : std::optional{store_};
}

std::string helper_question(std::string_view registry) {
    return std::string{registry == kHub ? kHubAddress : registry};
}

Expected<Credential> helper_answer(std::string_view json) {
    const Json root{json_loadb(json.data(), json.size(), 0, nullptr)};
    const std::string user = member(root.get(), "Username");
    const std::string secret = member(root.get(), "Secret");
    if (!json_is_object(root.get()) || secret.empty()) {
        return fail("credentials-invalid", "the helper's answer has no Secret");
    }
    if (user == kTokenUser) return Credential{"", "", secret, ""};
    return Credential{user, secret, "", ""};
}

}  // namespace keel
