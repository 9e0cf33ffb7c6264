#include <openssl/evp.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "keeld/cluster/access.h"

namespace keel {
namespace {

// A finding ends the reading; it becomes an Error at the edge of this file.
struct Wrong {
    std::string where;
    std::string what;
};

std::optional<std::string> decode_base64(std::string text) {
    std::erase_if(text, [](char c) { return c == '\n' || c == '\r' || c == ' '; });
    if (text.size() % 4 != 0) return std::nullopt;
    std::string bytes(text.size() / 4 * 3, '\0');
    const int length = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                                       reinterpret_cast<const unsigned char*>(text.data()),
                                       static_cast<int>(text.size()));
    if (length < 0) return std::nullopt;
    const auto padding = static_cast<std::size_t>(
        std::count(text.end() - std::min<std::ptrdiff_t>(2, std::ssize(text)), text.end(), '='));
    bytes.resize(static_cast<std::size_t>(length) - padding);
    return bytes;
}

bool readable(const std::string& path) {
    return std::ifstream{path}.good() && !std::filesystem::is_directory(path);
}

// One mapping of the file and how people would write its path.
class Section {
  public:
    Section(YAML::Node node, std::string path) : node_(std::move(node)), path_(std::move(path)) {}

    [[nodiscard]] Section section(const char* key) const {
        const YAML::Node value = at(key);
        if (value.IsDefined() && !value.IsNull() && !value.IsMap()) {
            throw Wrong{where(key), "is no mapping"};
        }
        return {value, where(key)};
    }
    [[nodiscard]] bool has(const char* key) const {
        const YAML::Node value = at(key);
        return value.IsDefined() && !value.IsNull();
    }
    [[nodiscard]] std::string text(const char* key) const {
        if (!has(key)) return {};
        const YAML::Node value = at(key);
        if (!value.IsScalar()) throw Wrong{where(key), "is no string"};
        return value.Scalar();
    }
    [[nodiscard]] bool flag(const char* key) const {
        const std::string value = text(key);
        if (value.empty() || value == "false") return false;
        if (value != "true") {
            throw Wrong{where(key), "is \"" + value + "\"; expected true or false"};
        }
        return true;
    }
    [[nodiscard]] std::string base64(const char* key) const {
        const std::string value = text(key);
        std::optional<std::string> bytes = decode_base64(value);
        if (!bytes) throw Wrong{where(key), "is no base64"};
        return std::move(*bytes);
    }
    [[nodiscard]] std::string pem(const char* key) const {
        std::string bytes = base64(key);
        if (!bytes.empty() && bytes.find("-----BEGIN ") == std::string::npos) {
            throw Wrong{where(key), "is base64, but of no PEM text"};
        }
        return bytes;
    }
    // A file name made absolute from `folder`; the file must be there now.
    [[nodiscard]] std::string file(const char* key, const std::filesystem::path& folder) const {
        const std::string value = text(key);
        if (value.empty()) return {};
        const std::string path = (folder / value).lexically_normal().string();
        if (!readable(path)) throw Wrong{where(key), "names " + path + ", which cannot be read"};
        return path;
    }
    [[nodiscard]] std::vector<Section> list(const char* key) const {
        std::vector<Section> sections;
        if (!has(key)) return sections;
        const YAML::Node value = at(key);
        if (!value.IsSequence()) throw Wrong{where(key), "is no list"};
        for (std::size_t i = 0; i < value.size(); ++i) {
            sections.emplace_back(value[i], where(key) + "[" + std::to_string(i) + "]");
        }
        return sections;
    }
    [[nodiscard]] std::string scalar() const {
        if (!node_.IsScalar()) throw Wrong{path_, "is no string"};
        return node_.Scalar();
    }
    [[nodiscard]] std::string where(const char* key) const {
        return path_.empty() ? key : path_ + "." + key;
    }

  private:
    [[nodiscard]] YAML::Node at(const char* key) const {
        if (!node_.IsDefined() || node_.IsNull()) return YAML::Node{};
        if (!node_.IsMap()) throw Wrong{path_, "is no mapping"};
        return node_[key];
    }

    YAML::Node node_;
    std::string path_;
};

// The entry of this name in `clusters`, `users` or `contexts`, and in it the mapping `inner`.
Section entry(const Section& root, const char* list, const char* inner, const std::string& name,
              const std::string& named_by) {
    for (const Section& candidate : root.list(list)) {
        if (candidate.text("name") != name) continue;
        if (!candidate.has(inner)) throw Wrong{candidate.where(inner), "is missing"};
        return candidate.section(inner);
    }
    throw Wrong{named_by, "is \"" + name + "\", but " + list + " has no entry of that name"};
}

void read_cluster(const Section& cluster, const std::filesystem::path& folder,
                  ClusterAccess& access) {
    access.server = cluster.text("server");
    while (access.server.ends_with('/'))
        access.server.pop_back();
    if (!access.server.starts_with("https://") && !access.server.starts_with("http://")) {
        throw Wrong{cluster.where("server"),
                    "is \"" + access.server + "\"; expected https://HOST:PORT"};
    }
    access.tls.ca_pem = cluster.pem("certificate-authority-data");
    if (access.tls.ca_pem.empty()) {
        access.tls.ca_file = cluster.file("certificate-authority", folder);
    }
    access.tls.insecure = cluster.flag("insecure-skip-tls-verify");
    if (access.tls.insecure && (!access.tls.ca_pem.empty() || !access.tls.ca_file.empty())) {
        throw Wrong{cluster.where("insecure-skip-tls-verify"),
                    "is true although a certificate-authority is given; keep one of them"};
    }
    access.tls.server_name = cluster.text("tls-server-name");
    access.proxy = cluster.text("proxy-url");
}

ClusterAccess::Exec read_exec(const Section& exec, const std::filesystem::path& folder) {
    ClusterAccess::Exec plugin;
    plugin.api_version = exec.text("apiVersion");
    if (plugin.api_version != "client.authentication.k8s.io/v1" &&
        plugin.api_version != "client.authentication.k8s.io/v1beta1") {
        throw Wrong{exec.where("apiVersion"),
                    "is \"" + plugin.api_version +
                        "\"; expected client.authentication.k8s.io/v1 or .../v1beta1"};
    }
    plugin.command = exec.text("command");
    if (plugin.command.empty()) throw Wrong{exec.where("command"), "is missing"};
    if (plugin.command.find('/') != std::string::npos) {
        plugin.command = (folder / plugin.command).lexically_normal().string();
    }
    for (const Section& arg : exec.list("args"))
        plugin.args.push_back(arg.scalar());
    for (const Section& variable : exec.list("env")) {
        plugin.env.emplace_back(variable.text("name"), variable.text("value"));
        if (plugin.env.back().first.empty()) throw Wrong{variable.where("name"), "is missing"};
    }
    plugin.install_hint = exec.text("installHint");
    plugin.provide_cluster_info = exec.flag("provideClusterInfo");
    if (exec.text("interactiveMode") == "Always") {
        throw Wrong{exec.where("interactiveMode"),
                    "is Always, but a daemon has no terminal; expected IfAvailable or Never"};
    }
    return plugin;
}

void read_user(const Section& user, const std::filesystem::path& folder, ClusterAccess& access) {
    for (const char* key : {"auth-provider", "as", "as-uid", "as-groups", "as-user-extra"}) {
        if (user.has(key)) {
            throw Wrong{user.where(key),
                        "is not supported; expected a token, tokenFile, client "
                        "certificate or exec plugin of the account itself"};
        }
    }
    access.tls.cert_pem = user.pem("client-certificate-data");
    if (access.tls.cert_pem.empty()) {
        access.tls.cert_file = user.file("client-certificate", folder);
    }
    access.tls.key_pem = user.pem("client-key-data");
    if (access.tls.key_pem.empty()) access.tls.key_file = user.file("client-key", folder);
    const bool certificate = !access.tls.cert_pem.empty() || !access.tls.cert_file.empty();
    const bool key = !access.tls.key_pem.empty() || !access.tls.key_file.empty();
    if (certificate != key) {
        throw Wrong{user.where(certificate ? "client-key" : "client-certificate"),
                    "is missing; a client certificate needs its key and the other way round"};
    }
    access.token = user.text("token");
    access.token_file = user.file("tokenFile", folder);
    access.username = user.text("username");
    access.password = user.text("password");
    if (user.has("exec")) access.exec = read_exec(user.section("exec"), folder);
}

ClusterAccess read(const YAML::Node& document, const std::string& path,
                   const std::string& wanted_context) {
    const Section root{document, ""};
    const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
    const std::string name = wanted_context.empty() ? root.text("current-context") : wanted_context;
    if (name.empty()) {
        throw Wrong{"current-context", "is missing; set it or name a context"};
    }
    const std::string named_by = wanted_context.empty() ? "current-context" : "the wanted context";
    const Section context = entry(root, "contexts", "context", name, named_by);
    ClusterAccess access;
    access.ns = context.text("namespace");
    read_cluster(
        entry(root, "clusters", "cluster", context.text("cluster"), context.where("cluster")),
        folder, access);
    if (context.has("user")) {
        read_user(entry(root, "users", "user", context.text("user"), context.where("user")), folder,
                  access);
    }
    return access;
}

std::optional<std::string> file_text(const std::string& path) {
    std::ifstream file{path};
    if (!file) return std::nullopt;
    return std::string{std::istreambuf_iterator<char>{file}, {}};
}

}  // namespace

Expected<ClusterAccess> load_kubeconfig(const std::string& path, const std::string& context) {
    if (!readable(path)) {
        return fail("kubeconfig", path + ": cannot be read; expected a kubeconfig file");
    }
    try {
        return read(YAML::LoadFile(path), path, context);
    } catch (const Wrong& wrong) {
        return fail("kubeconfig", path + ": " + wrong.where + " " + wrong.what);
    } catch (const YAML::Exception& error) {
        return fail("kubeconfig", path + ":" + std::to_string(error.mark.line + 1) +
                                      ": is no YAML: " + error.msg);
    }
}

Expected<ClusterAccess> in_cluster_access(const std::string& folder) {
    // Read once, at start, before anything could change the environment.
    const char* host = std::getenv("KUBERNETES_SERVICE_HOST");  // NOLINT(concurrency-mt-unsafe)
    const char* port = std::getenv("KUBERNETES_SERVICE_PORT");  // NOLINT(concurrency-mt-unsafe)
    if (host == nullptr || port == nullptr || *host == '\0' || *port == '\0') {
        return fail("kubeconfig",
                    "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no "
                    "pod; name a file in kubernetes.kubeconfig");
    }
    ClusterAccess access;
    const std::string address{host};
    const bool bare_ipv6 = address.find(':') != std::string::npos && address.front() != '[';
    access.server =
        "https://" + (bare_ipv6 ? "[" + address + "]" : address) + ":" + std::string{port};
    access.token_file = folder + "/token";
    access.tls.ca_file = folder + "/ca.crt";
    for (const std::string& file : {access.token_file, access.tls.ca_file}) {
        if (!readable(file)) {
            return fail("kubeconfig", file +
                                          ": cannot be read; the pod needs a service account "
                                          "(automountServiceAccountToken)");
        }
    }
    access.ns = file_text(folder + "/namespace").value_or("");
    while (access.ns.ends_with('\n'))
        access.ns.pop_back();
    return access;
}

}  // namespace keel
