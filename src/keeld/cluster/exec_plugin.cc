#include "keeld/cluster/exec_plugin.h"

#include <jansson.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "core/base64.h"
#include "keeld/json.h"
#include "keeld/process.h"

namespace keel {
namespace {

constexpr std::chrono::seconds kDeadline{60};

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

}  // namespace

Task<Expected<ExecCredential>> run_exec_plugin(ClusterAccess access) {
    const std::string what = "credential plugin " + access.exec->command;
    Program program;
    program.command = access.exec->command;
    program.args = access.exec->args;
    program.environment = environment(access);
    program.deadline = kDeadline;
    const Expected<Ended> ended = co_await run_program(std::move(program));
    if (!ended && ended.error().code == "cancelled") {
        co_return fail("cancelled", what + ": cancelled");
    }
    if (!ended) {
        const std::string& hint = access.exec->install_hint;
        co_return fail("credentials", what + " cannot be started: " + ended.error().text +
                                          (hint.empty() ? "" : "; " + hint));
    }
    const std::string said = ended->complaint();
    if (!ended->well()) {
        co_return fail("credentials", what + " " + ended->how(kDeadline) + said);
    }
    Expected<ExecCredential> credential =
        parse_exec_credential(ended->output, access.exec->api_version);
    if (!credential) {
        co_return fail("credentials", what + ": " + credential.error().text + said);
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
