#include "core/webhook.h"

#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>

#include "core/base64.h"
#include "core/json_object.h"
#include "core/reference.h"

namespace keel {
namespace {

using json::Json;

constexpr std::array<std::string_view, kWebhookSenders> kNames{
    "native", "dockerhub", "quay",  "azure",  "github",     "harbor",
    "jfrog",  "registry",  "gitea", "gitlab", "cloudevents"};

std::string lower_case(std::string_view text) {
    std::string result(text);
    std::ranges::transform(result, result.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    });
    return result;
}

// --- who ---

bool equal(std::string_view one, std::string_view other) {
    return one.size() == other.size() && CRYPTO_memcmp(one.data(), other.data(), one.size()) == 0;
}

// 64 lower-case hex digits; empty when OpenSSL has no memory.
std::string hmac_hex(std::string_view key, std::string_view body) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned size = 0;
    if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
             reinterpret_cast<const unsigned char*>(body.data()), body.size(), bytes.data(),
             &size) == nullptr) {
        return {};
    }
    constexpr std::string_view kHex = "0123456789abcdef";
    std::string text;
    for (unsigned i = 0; i < size; ++i) {
        text += kHex[bytes[i] >> 4U];
        text += kHex[bytes[i] & 15U];
    }
    return text;
}

// What stands behind "Basic " or "Bearer " in the Authorization header, in any case.
std::optional<std::string_view> credentials_of(std::string_view scheme, std::string_view header) {
    if (header.size() <= scheme.size() || header[scheme.size()] != ' ' ||
        lower_case(header.substr(0, scheme.size())) != scheme) {
        return std::nullopt;
    }
    return header.substr(scheme.size() + 1);
}

std::string_view signature_of(WebhookSender sender, const WebhookRequest& request) {
    constexpr std::string_view kPrefix = "sha256=";
    if (sender == WebhookSender::jfrog) {
        return request.header("x-jfrog-event-auth");
    }
    if (const std::string_view bare = request.header("x-gitea-signature");
        sender == WebhookSender::gitea && !bare.empty()) {
        return bare;
    }
    const std::string_view signature = request.header("x-hub-signature-256");
    return signature.starts_with(kPrefix) ? signature.substr(kPrefix.size()) : std::string_view();
}

// What the request shows; compared with each secret, or with what the secret makes of the body.
std::string shown(WebhookSender sender, WebhookAuth auth, const WebhookRequest& request) {
    const std::string_view header = request.header("authorization");
    if (auth == WebhookAuth::hmac) {
        return lower_case(signature_of(sender, request));
    }
    if (auth == WebhookAuth::basic) {
        const auto encoded = credentials_of("basic", header);
        return encoded ? decode_base64(*encoded).value_or("") : "";
    }
    if (const auto token = credentials_of("bearer", header)) {
        return std::string(*token);
    }
    if (sender == WebhookSender::harbor) {
        return std::string(header);
    }
    return std::string(sender == WebhookSender::gitlab ? request.header("x-gitlab-token") : "");
}

// --- reading ---

std::string at(std::string_view where, std::string_view key) {
    return where.empty() ? std::string(key) : std::string(where) + "." + std::string(key);
}

std::string_view text_in(const json_t* object, const char* key) {
    const json_t* value = json_object_get(object, key);
    return json_is_string(value)
               ? std::string_view(json_string_value(value), json_string_length(value))
               : std::string_view();
}

// The host of "https://host:port/path", or of "host/path".
std::string_view host_of(std::string_view url) {
    if (const auto scheme = url.find("://"); scheme != std::string_view::npos) {
        url.remove_prefix(scheme + 3);
    }
    return url.substr(0, url.find('/'));
}

// What is no digest says nothing.
Digest digest_in(const json_t* object) {
    return Digest::parse(text_in(object, "digest")).value_or(Digest{});
}

class Reading {
  public:
    Reading(WebhookSender sender, const WebhookRequest& request)
        : sender_(sender), request_(request) {}

    void read();
    [[nodiscard]] Expected<std::vector<WebhookHint>> take() {
        if (error_) {
            return tl::unexpected(*error_);
        }
        return std::move(hints_);
    }

  private:
    using Object = const json_t*;

    void complain(const std::string& field, std::string_view expected) {
        if (!error_) {
            error_ = Error{"bad-webhook", field + ": expected " + std::string(expected)};
        }
    }
    // Of the members that a request cannot do without.
    Object object(Object parent, const char* key, std::string_view where = {}) {
        const json_t* value = json_object_get(parent, key);
        if (!json_is_object(value)) {
            complain(at(where, key), "a JSON object");
            return nullptr;
        }
        return value;
    }
    Object list(Object parent, const char* key, std::string_view where = {}) {
        const json_t* value = json_object_get(parent, key);
        if (!json_is_array(value)) {
            complain(at(where, key), "a JSON list");
            return nullptr;
        }
        return value;
    }
    std::string_view text(Object parent, const char* key, std::string_view where = {}) {
        const std::string_view value = text_in(parent, key);
        if (value.empty()) {
            complain(at(where, key), "a text that is not empty");
        }
        return value;
    }

    void hint(const std::string& image, std::string_view name, const std::string& image_field,
              const std::string& name_field, const Digest& digest = {});
    void push(WebhookHint one);

    [[nodiscard]] std::optional<std::string> payload();
    void native(Object root, std::string_view where);
    void dockerhub(Object root);
    void quay(Object root);
    void azure(Object root);
    void github(Object root);
    void harbor(Object root);
    void harbor_resources(Object data, std::string_view where);
    void jfrog(Object root);
    void envelope(Object root);
    void gitea(Object root);
    void cloudevents(Object root);
    void cloudevent(std::string_view type, Object data, std::string_view where);

    WebhookSender sender_;
    const WebhookRequest& request_;
    std::vector<WebhookHint> hints_;
    std::optional<Error> error_;
};

void Reading::push(WebhookHint one) {
    if (is_signature_tag(one.name) || std::ranges::find(hints_, one) != hints_.end()) {
        return;
    }
    if (hints_.size() == kMaxWebhookHints) {
        complain("the request", "256 tags at most");
        return;
    }
    hints_.push_back(std::move(one));
}

// `image`: a name with neither tag nor digest.
void Reading::hint(const std::string& image, std::string_view name, const std::string& image_field,
                   const std::string& name_field, const Digest& digest) {
    const Expected<Reference> reference = Reference::parse(image);
    if (!reference || reference->name_written || reference->digest) {
        complain(image_field, "an image's name, without a tag");
        return;
    }
    if (!is_tag_name(name)) {
        complain(name_field, "a tag's name");
        return;
    }
    push({.registry = reference->registry,
          .repository = reference->repository,
          .name = std::string(name),
          .digest = digest});
}

void Reading::native(Object root, std::string_view where) {
    const std::string_view name = text(root, "name", where);
    const std::string_view tag = text(root, "tag", where);
    const std::string_view host = text_in(root, "host");
    if (!error_) {
        const std::string prefix = host.empty() ? std::string() : std::string(host) + "/";
        hint(prefix + std::string(name), tag, at(where, "name"), at(where, "tag"), digest_in(root));
    }
}

void Reading::dockerhub(Object root) {
    Object const repository = object(root, "repository");
    Object const data = object(root, "push_data");
    const std::string_view name = text(repository, "repo_name", "repository");
    const std::string_view tag = text(data, "tag", "push_data");
    if (!error_) {
        hint("docker.io/" + std::string(name), tag, "repository.repo_name", "push_data.tag");
    }
}

void Reading::quay(Object root) {
    const std::string url(text(root, "docker_url"));
    Object const tags = list(root, "updated_tags");
    for (std::size_t i = 0; !error_ && i < json_array_size(tags); ++i) {
        const json_t* tag = json_array_get(tags, i);
        const std::string field = "updated_tags[" + std::to_string(i) + "]";
        hint(url, json_is_string(tag) ? json_string_value(tag) : "", "docker_url", field);
    }
}

void Reading::azure(Object root) {
    const std::string_view action = text_in(root, "action");
    if (!action.empty() && action != "push") {
        return;
    }
    Object const target = object(root, "target");
    Object const request = object(root, "request");
    const std::string_view repository = text(target, "repository", "target");
    const std::string_view host = text(request, "host", "request");
    const std::string_view tag = text_in(target, "tag");
    if (tag.empty() && text_in(target, "digest").empty()) {
        complain("target.tag", "a text that is not empty");
    }
    if (!error_ && !tag.empty()) {
        hint(std::string(host) + "/" + std::string(repository), tag, "target.repository",
             "target.tag", digest_in(target));
    }
}

// `package` where the hook is of a repository or an organisation, `registry_package` of an App.
void Reading::github(Object root) {
    const std::string event(request_.header("x-github-event"));
    if (event.empty()) {
        complain("X-GitHub-Event", "the header");
        return;
    }
    if (event != "package" && event != "registry_package") {
        return;
    }
    const std::string_view action = text_in(root, "action");
    Object const package = object(root, event.c_str());
    std::string_view type = text_in(package, "package_type");
    if (type.empty()) {
        type = text_in(package, "ecosystem");
    }
    const std::string kind = lower_case(type);
    if (error_ || action == "deleted" || (!kind.empty() && kind != "container")) {
        return;
    }
    const std::string_view name = text(package, "name", event);
    std::string_view owner = text_in(package, "namespace");
    if (owner.empty()) {
        owner = text_in(json_object_get(package, "owner"), "login");
    }
    if (owner.empty()) {
        complain(event + ".namespace", "a text that is not empty");
    }
    Object const version = object(package, "package_version", event);
    if (error_) {
        return;
    }
    Object const metadata = json_object_get(version, "container_metadata");
    std::string_view tag = text_in(json_object_get(metadata, "tag"), "name");
    const std::string where = event + ".package_version.";
    std::string field = where + "container_metadata.tag.name";
    if (tag.empty()) {
        tag = text_in(version, "version");
        field = where + "version";
    }
    // A push without a tag has its digest there.
    if (tag.empty() || Digest::parse(tag)) {
        return;
    }
    hint("ghcr.io/" + lower_case(owner) + "/" + lower_case(name), tag, event + ".name", field,
         digest_in(json_object_get(metadata, "tag")));
}

void Reading::harbor(Object root) {
    const std::string_view type = text(root, "type");
    const bool cloud = type == "harbor.artifact.pushed";
    if (error_ || (type != "PUSH_ARTIFACT" && type != "pushImage" && !cloud)) {
        return;
    }
    const char* const key = cloud ? "data" : "event_data";
    harbor_resources(object(root, key), key);
}

void Reading::harbor_resources(Object data, std::string_view where) {
    Object const resources = data != nullptr ? list(data, "resources", where) : nullptr;
    for (std::size_t i = 0; !error_ && i < json_array_size(resources); ++i) {
        const std::string field = at(where, "resources[" + std::to_string(i) + "]");
        const std::string_view url = text(json_array_get(resources, i), "resource_url", field);
        if (error_ || url.find('@') != std::string_view::npos) {
            continue;
        }
        const auto colon = url.rfind(':');
        const bool tagged =
            colon != std::string_view::npos && url.find('/', colon) == std::string_view::npos;
        hint(std::string(tagged ? url.substr(0, colon) : url),
             tagged ? url.substr(colon + 1) : std::string_view(), field + ".resource_url",
             field + ".resource_url", digest_in(json_array_get(resources, i)));
    }
}

// The repository is a part of the path or of the host, as that Artifactory is set up: both.
void Reading::jfrog(Object root) {
    const std::string_view domain = text_in(root, "domain");
    const std::string_view event = text_in(root, "event_type");
    if ((!domain.empty() && domain != "docker") || event == "deleted") {
        return;
    }
    Object const data = object(root, "data");
    const std::string image(text(data, "image_name", "data"));
    const std::string_view tag = text(data, "tag", "data");
    if (error_) {
        return;
    }
    const std::string host(host_of(text_in(root, "jpd_origin")));
    const std::string key(text_in(data, "repo_key"));
    // A remote repository's own cache: nothing was pushed.
    if (key.ends_with("-cache")) {
        return;
    }
    if (host.empty() || key.empty()) {
        hint(image, tag, "data.image_name", "data.tag");
        return;
    }
    hint(host + "/" + key + "/" + image, tag, "data.image_name", "data.tag");
    const std::string below = key + "." + host;
    if (!error_ && is_registry(below)) {
        hint(below + "/" + image, tag, "data.image_name", "data.tag");
    }
}

// Of distribution, which GitLab's registry is, too.
void Reading::envelope(Object root) {
    Object const events = list(root, "events");
    for (std::size_t i = 0; !error_ && i < json_array_size(events); ++i) {
        const json_t* event = json_array_get(events, i);
        const std::string field = "events[" + std::to_string(i) + "]";
        if (!json_is_object(event)) {
            complain(field, "a JSON object");
            return;
        }
        const json_t* target = json_object_get(event, "target");
        const std::string_view tag = text_in(target, "tag");
        if (text_in(event, "action") != "push" || tag.empty()) {
            continue;
        }
        std::string_view host = text_in(json_object_get(event, "request"), "host");
        if (host.empty()) {
            host = host_of(text_in(target, "url"));
        }
        if (host.empty()) {
            complain(field + ".request.host", "a text that is not empty");
        }
        const std::string_view name = text(target, "repository", field + ".target");
        if (!error_) {
            hint(std::string(host) + "/" + std::string(name), tag, field + ".target.repository",
                 field + ".target.tag", digest_in(target));
        }
    }
}

void Reading::gitea(Object root) {
    const std::string_view event = request_.header("x-gitea-event");
    if (!event.empty() && event != "package") {
        return;
    }
    const std::string_view action = text(root, "action");
    if (error_ || action != "created") {
        return;
    }
    Object const package = object(root, "package");
    const std::string_view type = text(package, "type", "package");
    if (error_ || type != "container") {
        return;
    }
    const std::string_view name = text(package, "name", "package");
    const std::string_view version = text(package, "version", "package");
    const std::string_view url = text(package, "html_url", "package");
    const std::string_view owner =
        text(object(package, "owner", "package"), "login", "package.owner");
    if (error_ || Digest::parse(version)) {
        return;
    }
    const std::string path = lower_case(owner) + "/" + lower_case(name);
    hint(std::string(host_of(url)) + "/" + path, version, "package.html_url", "package.version");
    if (!hints_.empty()) {
        hints_.back().any_case = true;
    }
}

// One event of a type that is known, or with data as a native request has it.
void Reading::cloudevent(std::string_view type, Object data, std::string_view where) {
    if (type == "harbor.artifact.pushed") {
        harbor_resources(data, where);
    } else if (type == "zotregistry.image.updated") {
        const std::string repository(text(data, "name", where));
        const std::string_view name = text(data, "reference", where);
        if (error_ || Digest::parse(name)) {
            return;
        }
        if (!is_repository(repository)) {
            complain(at(where, "name"), "a repository");
        } else if (!is_tag_name(name)) {
            complain(at(where, "reference"), "a tag's name");
        } else {
            push({.registry = "", .repository = repository, .name = std::string(name)});
        }
    } else if (type.starts_with("harbor.") || type.starts_with("zotregistry.")) {
        return;
    } else {
        native(data, where);
    }
}

// In all three modes of its HTTP binding.
void Reading::cloudevents(Object root) {
    if (const std::string_view type = request_.header("ce-type"); !type.empty()) {
        cloudevent(type, root, "");
        return;
    }
    const auto one = [this](Object event, const std::string& where) {
        const std::string type(text(event, "type", where));
        text(event, "specversion", where);
        Object const data = error_ ? nullptr : object(event, "data", where);
        if (!error_) {
            cloudevent(type, data, at(where, "data"));
        }
    };
    if (!json_is_array(root)) {
        one(root, "");
        return;
    }
    for (std::size_t i = 0; !error_ && i < json_array_size(root); ++i) {
        one(json_array_get(root, i), "[" + std::to_string(i) + "]");
    }
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// The JSON; GitHub and Gitea can send it as the field `payload` of a form.
std::optional<std::string> Reading::payload() {
    const std::string type = lower_case(request_.header("content-type"));
    constexpr std::string_view kField = "payload=";
    if (!type.starts_with("application/x-www-form-urlencoded") ||
        !request_.body.starts_with(kField)) {
        return std::string(request_.body);
    }
    std::string_view form = request_.body.substr(kField.size());
    form = form.substr(0, form.find('&'));
    std::string result;
    for (std::size_t i = 0; i < form.size(); ++i) {
        if (form[i] != '%') {
            result += form[i] == '+' ? ' ' : form[i];
            continue;
        }
        const int high = i + 2 < form.size() ? hex_digit(form[i + 1]) : -1;
        const int low = i + 2 < form.size() ? hex_digit(form[i + 2]) : -1;
        if (high < 0 || low < 0) {
            return std::nullopt;
        }
        result += static_cast<char>(high * 16 + low);
        i += 2;
    }
    return result;
}

void Reading::read() {
    const std::optional<std::string> body = payload();
    if (!body) {
        complain("payload", "percent-encoded JSON");
        return;
    }
    json_error_t error;
    const Json root(json_loadb(body->data(), body->size(), 0, &error));
    const bool list = sender_ == WebhookSender::cloudevents && json_is_array(root.get());
    if (!root) {
        complain("the body", json::printable("JSON; " + std::string(error.text) + ", line " +
                                             std::to_string(error.line)));
        return;
    }
    if (!json_is_object(root.get()) && !list) {
        complain("the body", "a JSON object");
        return;
    }
    switch (sender_) {
        case WebhookSender::native:
            return native(root.get(), "");
        case WebhookSender::dockerhub:
            return dockerhub(root.get());
        case WebhookSender::quay:
            return quay(root.get());
        case WebhookSender::azure:
            return azure(root.get());
        case WebhookSender::github:
            return github(root.get());
        case WebhookSender::harbor:
            return harbor(root.get());
        case WebhookSender::jfrog:
            return jfrog(root.get());
        case WebhookSender::registry:
        case WebhookSender::gitlab:
            return envelope(root.get());
        case WebhookSender::gitea:
            return gitea(root.get());
        case WebhookSender::cloudevents:
            return cloudevents(root.get());
    }
}

}  // namespace

std::string_view to_string(WebhookSender sender) noexcept {
    return kNames.at(static_cast<std::size_t>(sender));
}

std::optional<WebhookSender> webhook_sender(std::string_view name) noexcept {
    const auto* const found = std::ranges::find(kNames, name);
    return found == kNames.end()
               ? std::nullopt
               : std::optional(static_cast<WebhookSender>(found - kNames.begin()));
}

bool signs(WebhookSender sender) noexcept {
    return sender == WebhookSender::github || sender == WebhookSender::gitea ||
           sender == WebhookSender::jfrog || sender == WebhookSender::native ||
           sender == WebhookSender::cloudevents;
}

std::string_view WebhookRequest::header(std::string_view lower_case_name) const noexcept {
    for (const auto& [name, value] : headers) {
        if (name == lower_case_name) {
            return value;
        }
    }
    return {};
}

Expected<void> authorize_webhook(WebhookSender sender, WebhookAuth auth,
                                 const std::vector<std::string>& secrets,
                                 const WebhookRequest& request) {
    if (auth == WebhookAuth::none) {
        return {};
    }
    const std::string given = shown(sender, auth, request);
    bool known = false;
    for (const std::string& secret : secrets) {
        const std::string wanted =
            auth == WebhookAuth::hmac ? hmac_hex(secret, request.body) : secret;
        known = (!wanted.empty() && equal(given, wanted)) || known;
    }
    if (!known) {
        constexpr std::array<std::string_view, 4> kWords{"nothing", "a user and its password",
                                                         "a bearer token", "a signature"};
        return fail("unauthorized", "expected " +
                                        std::string(kWords.at(static_cast<std::size_t>(auth))) +
                                        " by a secret of this sender");
    }
    return {};
}

Expected<std::vector<WebhookHint>> read_webhook(WebhookSender sender,
                                                const WebhookRequest& request) {
    Reading reading(sender, request);
    reading.read();
    return reading.take();
}

}  // namespace keel
