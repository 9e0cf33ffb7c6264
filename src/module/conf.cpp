#include "module/conf.h"

#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>
#include <sys/un.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <exception>
#include <span>
#include <string>

#include "core/api_request.h"
#include "core/holds.h"
#include "core/reference.h"
#include "core/signature.h"
#include "module/api.h"
#include "module/control.h"
#include "module/helper.h"
#include "module/zone.h"

namespace keel::ngx {
namespace {

constexpr std::string_view kEventsPath = "/v1/events";
constexpr std::string_view kPublisherFile = "ngx_keel_publisher.so";
constexpr std::string_view kDefaultState = "keel";  // below the prefix
constexpr std::size_t kMaxCacheName = 64;

std::string_view argument(ngx_conf_t* cf, ngx_uint_t index) noexcept {
    return view(static_cast<ngx_str_t*>(cf->args->elts)[index]);
}

// "name=" and what follows it.
bool option(std::string_view text, std::string_view name, std::string_view& value) noexcept {
    if (!text.starts_with(name) || text.size() <= name.size() || text[name.size()] != '=')
        return false;
    value = text.substr(name.size() + 1);
    return true;
}

Place place(ngx_conf_t* cf) noexcept {
    if (cf->conf_file == nullptr) return {ngx_string("command line"), 0};
    return {cf->conf_file->file.name, cf->conf_file->line};
}

bool word(std::string_view text, std::string_view extra) noexcept {
    for (const char c : text) {
        const bool plain =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && extra.find(c) == std::string_view::npos) return false;
    }
    return !text.empty();
}

char* missing(ngx_conf_t* cf, const char* directive, const Place& at, const char* needs) noexcept {
    ngx_log_error(NGX_LOG_EMERG, cf->log, 0, "\"%s\" in %V:%ui needs %s", directive, &at.file,
                  at.line, needs);
    return conf_error();
}

// --- keel_companion ---

struct UrlParts {
    std::string_view scheme;
    std::string_view authority;
    std::string_view path;  // with query
};

bool split_url(std::string_view url, UrlParts& parts) noexcept {
    const std::size_t colon = url.find("://");
    if (colon == std::string_view::npos) return false;
    parts.scheme = url.substr(0, colon);
    const std::string_view rest = url.substr(colon + 3);
    const std::size_t slash = rest.find_first_of("/?");
    parts.authority = rest.substr(0, slash);
    parts.path = slash == std::string_view::npos ? std::string_view{} : rest.substr(slash);
    return true;
}

// "unix:/run/keeld.sock" or "unix:/run/keeld.sock:/v1/events".
const char* parse_unix(ngx_pool_t* pool, std::string_view url, Companion& companion) noexcept {
    std::string_view path = url.substr(5);
    std::string_view uri = kEventsPath;
    if (const std::size_t colon = path.find(':'); colon != std::string_view::npos) {
        uri = path.substr(colon + 1);
        path = path.substr(0, colon);
    }
    if (!path.starts_with('/') || path.size() >= sizeof(sockaddr_un{}.sun_path)) {
        return "needs an absolute socket path of at most 107 bytes after \"unix:\"";
    }
    if (!uri.starts_with('/')) return "needs a path that begins with \"/\" after the socket's";
    companion.socket = copy(pool, path);
    const std::string_view host = "http://localhost";
    companion.target.len = host.size() + uri.size();
    companion.target.data = static_cast<u_char*>(ngx_pnalloc(pool, companion.target.len + 1));
    if (companion.target.data == nullptr) return "found no memory";
    u_char* end = ngx_cpymem(companion.target.data, host.data(), host.size());
    *ngx_cpymem(end, uri.data(), uri.size()) = '\0';
    return nullptr;
}

// HOST or [IPv6 address], with :PORT or without. Whether the host can be reached is seen when it is
// asked.
bool is_authority(std::string_view text) noexcept {
    std::string_view rest;
    if (text.starts_with('[')) {
        const std::size_t close = text.find(']');
        if (close == std::string_view::npos || close == 1) return false;
        rest = text.substr(close + 1);
    } else {
        const std::size_t colon = text.find(':');
        if (colon == 0) return false;
        rest = colon == std::string_view::npos ? std::string_view{} : text.substr(colon);
    }
    if (rest.empty()) return true;
    if (!rest.starts_with(':')) return false;
    const std::string_view port = rest.substr(1);
    const ngx_str_t digits = ngx_text(port);
    const ngx_int_t number = ngx_atoi(digits.data, digits.len);
    return number >= 1 && number <= 65535;
}

const char* parse_http(ngx_pool_t* pool, std::string_view url, Companion& companion) noexcept {
    UrlParts parts;
    if (!split_url(url, parts) || (parts.scheme != "http" && parts.scheme != "https")) {
        return "must be an http:// or https:// URL or \"unix:\" and a socket's path";
    }
    if (parts.authority.empty()) return "has no host";
    if (parts.authority.find('@') != std::string_view::npos) {
        return "must not hold a user name or password; use secret=FILE";
    }
    if (url.find('#') != std::string_view::npos) return "must not hold a fragment";
    if (parts.authority.find('$') != std::string_view::npos) return "has a variable for a host";
    for (const char c : url) {
        if (static_cast<unsigned char>(c) <= ' ' || c == '\x7f') return "must not hold white space";
    }
    if (!is_authority(parts.authority))
        return "has no host with a port of 1 to 65535, or without one";
    const std::string_view path = parts.path.empty() ? kEventsPath : std::string_view{""};
    companion.target.len = url.size() + path.size();
    companion.target.data = static_cast<u_char*>(ngx_pnalloc(pool, companion.target.len + 1));
    if (companion.target.data == nullptr) return "found no memory";
    u_char* end = ngx_cpymem(companion.target.data, url.data(), url.size());
    *ngx_cpymem(end, path.data(), path.size()) = '\0';
    return nullptr;
}

// The text of a secret file as it was checked. Logs what is wrong.
bool read_secret(ngx_conf_t* cf, const char* directive, std::string_view file, std::string& text) {
    ngx_str_t path = copy(cf->pool, file);
    if (path.data == nullptr || ngx_conf_full_name(cf->cycle, &path, 1) != NGX_OK) return false;
    Expected<std::string> read = read_secret_file(std::string{view(path)});
    if (!read) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%s\": %s", directive,
                           read.error().text.c_str());
        return false;
    }
    if (const Expected<Secrets> secrets = Secrets::parse(*read); !secrets) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%s\": secret file \"%V\": %s", directive, &path,
                           secrets.error().text.c_str());
        return false;
    }
    text = *std::move(read);
    return true;
}

char* read_secret(ngx_conf_t* cf, std::string_view file, Companion& companion) noexcept {
    try {
        std::string text;
        if (!read_secret(cf, "keel_companion", file, text)) return conf_error();
        companion.secret = copy(cf->pool, text);
    } catch (const std::exception& error) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"keel_companion\": %s", error.what());
        return conf_error();
    }
    return companion.secret.data == nullptr ? conf_error() : conf_ok();
}

// --- keel_api ---

void end_secrets(void* secrets) noexcept {
    static_cast<Secrets*>(secrets)->~Secrets();
}

// "NAME:FILE".
char* add_api_secret(ngx_conf_t* cf, LocationConf& location, std::string_view value) noexcept {
    const std::size_t colon = value.find(':');
    const std::string_view name = value.substr(0, colon);
    if (colon == std::string_view::npos || colon + 1 == value.size() || !word(name, "._-") ||
        name.size() > kMaxHoldAuthor) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "secret= of \"keel_api\" needs NAME:FILE, a name of up to %uz letters, "
                           "digits and \"._-\"",
                           kMaxHoldAuthor);
        return conf_error();
    }
    if (location.api_secrets == nullptr) {
        location.api_secrets = ngx_array_create(cf->pool, 2, sizeof(ApiSecret));
        if (location.api_secrets == nullptr) return conf_error();
    }
    for (ngx_uint_t i = 0; i < location.api_secrets->nelts; ++i) {
        if (view(static_cast<ApiSecret*>(location.api_secrets->elts)[i].name) != name) continue;
        const ngx_str_t shown = ngx_text(name);
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "secret=%V:... of \"keel_api\" is there twice",
                           &shown);
        return conf_error();
    }
    auto* cleanup = ngx_pool_cleanup_add(cf->pool, sizeof(Secrets));
    auto* secret = static_cast<ApiSecret*>(ngx_array_push(location.api_secrets));
    if (cleanup == nullptr || secret == nullptr) return conf_error();
    try {
        std::string text;
        if (!read_secret(cf, "keel_api", value.substr(colon + 1), text)) return conf_error();
        secret->secrets = new (cleanup->data) Secrets(*Secrets::parse(text));
    } catch (const std::exception& error) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"keel_api\": %s", error.what());
        return conf_error();
    }
    cleanup->handler = end_secrets;
    secret->name = ngx_text(name);
    return conf_ok();
}

// Directives such as proxy_pass take over a location that has a handler, without a word.
bool answers_api(ngx_conf_t* cf) noexcept {
    const auto* core = static_cast<ngx_http_core_loc_conf_t*>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));
    return core->handler == answer_api;
}

// keel_api refuses what is larger than its limit by itself, in its own words; a smaller limit is
// nginx's.
void bound_api_bodies(ngx_conf_t* cf) noexcept {
    auto* core = static_cast<ngx_http_core_loc_conf_t*>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));
    constexpr off_t kLargest = kMaxApiBody;
    if (core->client_max_body_size > kLargest) core->client_max_body_size = 0;
}

char* read_ca(ngx_conf_t* cf, std::string_view file, Companion& companion) noexcept {
    companion.ca = copy(cf->pool, file);
    if (companion.ca.data == nullptr || ngx_conf_full_name(cf->cycle, &companion.ca, 1) != NGX_OK) {
        return conf_error();
    }
    if (access(reinterpret_cast<char*>(companion.ca.data), R_OK) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, "\"keel_companion\": cannot read ca=%V",
                           &companion.ca);
        return conf_error();
    }
    X509_STORE* store = X509_STORE_new();
    const char* path = reinterpret_cast<char*>(companion.ca.data);
    const bool good = store != nullptr && X509_STORE_load_locations(store, path, nullptr) == 1;
    X509_STORE_free(store);
    ERR_clear_error();
    if (!good) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"keel_companion\": ca=%V holds no certificate in PEM form",
                           &companion.ca);
        return conf_error();
    }
    return conf_ok();
}

// False: there is no memory.
bool add_once(ngx_array_t& names, std::string_view name) noexcept {
    const std::span known(static_cast<ngx_str_t*>(names.elts), names.nelts);
    if (std::ranges::any_of(known, [&](const ngx_str_t& one) { return view(one) == name; })) {
        return true;
    }
    auto* slot = static_cast<ngx_str_t*>(ngx_array_push(&names));
    if (slot == nullptr) return false;
    *slot = ngx_text(name);
    return true;
}

// The publisher lies beside the module, whatever path that was loaded by.
char* find_publisher(ngx_conf_t* cf, MainConf& conf) noexcept {
    Dl_info module{};
    char path[PATH_MAX + 64];
    if (dladdr(&ngx_keel_module, &module) == 0 || module.dli_fname == nullptr ||
        realpath(module.dli_fname, path) == nullptr) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"keel_companion\": cannot tell where the module was loaded from");
        return conf_error();
    }
    const std::string_view whole{path};
    const std::size_t directory = whole.rfind('/') + 1;
    ngx_memcpy(path + directory, kPublisherFile.data(), kPublisherFile.size());
    conf.publisher = copy(cf->pool, {path, directory + kPublisherFile.size()});
    if (conf.publisher.data == nullptr) return conf_error();
    if (access(reinterpret_cast<char*>(conf.publisher.data), R_OK) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "\"keel_companion\" needs \"%V\", which belongs beside the module",
                           &conf.publisher);
        return conf_error();
    }
    return conf_ok();
}

}  // namespace

// --- directives ---

char* set_zone(ngx_conf_t* cf, ngx_command_t*, void* conf) noexcept {
    auto& main = *static_cast<MainConf*>(conf);
    if (main.zone != nullptr) return const_cast<char*>("is duplicate");
    main.zone_place = place(cf);
    std::string_view zone;
    std::string_view state;
    for (ngx_uint_t i = 1; i < cf->args->nelts; ++i) {
        const std::string_view text = argument(cf, i);
        std::string_view value;
        std::string_view* wanted = option(text, "zone", value)    ? &zone
                                   : option(text, "state", value) ? &state
                                                                  : nullptr;
        if (wanted != nullptr && wanted->empty() && !value.empty()) {
            *wanted = value;
            continue;
        }
        const ngx_str_t shown = ngx_text(text);
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" of \"keel_zone\": zone=NAME:SIZE and "
                           "state=DIR|off are known, once each",
                           &shown);
        return conf_error();
    }
    const std::size_t colon = zone.find(':');
    if (colon == std::string_view::npos || colon == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"keel_zone\" needs zone=NAME:SIZE");
        return conf_error();
    }
    if (state.data() == nullptr) state = kDefaultState;
    if (state != "off" && set_state_directory(cf, main, state) != conf_ok()) return conf_error();
    main.control = add_control(cf, main);
    if (main.control == nullptr) return conf_error();
    return add_zone(cf, main, zone.substr(0, colon), zone.substr(colon + 1));
}

char* set_cache_name(ngx_conf_t* cf, ngx_command_t*, void* conf) noexcept {
    auto& main = *static_cast<MainConf*>(conf);
    if (main.cache_name.data != nullptr) return const_cast<char*>("is duplicate");
    const std::string_view name = argument(cf, 1);
    if (!word(name, "._-") || name.size() > kMaxCacheName) {
        const ngx_str_t shown = ngx_text(name);
        ngx_conf_log_error(
            NGX_LOG_EMERG, cf, 0,
            "invalid name \"%V\" in \"keel_cache_name\": up to %uz letters, digits and \"._-\"",
            &shown, kMaxCacheName);
        return conf_error();
    }
    main.cache_name = ngx_text(name);
    return conf_ok();
}

char* set_observe(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept {
    char* result = ngx_conf_set_flag_slot(cf, cmd, conf);
    if (result != conf_ok()) return result;
    auto& location = *static_cast<LocationConf*>(conf);
    if (location.observe == 0) return conf_ok();
    auto& main = *static_cast<MainConf*>(ngx_http_conf_get_module_main_conf(cf, ngx_keel_module));
    location.observe_here = (cf->cmd_type & NGX_HTTP_LOC_CONF) != 0;
    location.observe_place = place(cf);
    if (!main.observes) main.observe_place = place(cf);
    main.observes = true;
    return conf_ok();
}

char* set_hold(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept {
    char* result = ngx_conf_set_flag_slot(cf, cmd, conf);
    if (result != conf_ok()) return result;
    auto& location = *static_cast<LocationConf*>(conf);
    if (location.hold == 0) return conf_ok();
    auto& main = *static_cast<MainConf*>(ngx_http_conf_get_module_main_conf(cf, ngx_keel_module));
    location.hold_here = (cf->cmd_type & NGX_HTTP_LOC_CONF) != 0;
    location.hold_place = place(cf);
    if (!main.holds) main.hold_place = place(cf);
    main.holds = true;
    return conf_ok();
}

char* set_verify(ngx_conf_t* cf, ngx_command_t*, void* conf) noexcept {
    auto& location = *static_cast<LocationConf*>(conf);
    if (location.verify != NGX_CONF_UNSET_UINT) return const_cast<char*>("is duplicate");
    const std::string_view text = argument(cf, 1);
    if (text == "off") {
        location.verify = ngx_uint_t(Verify::off);
    } else if (text == "missing") {
        location.verify = ngx_uint_t(Verify::missing);
    } else if (text == "on") {
        location.verify = ngx_uint_t(Verify::on);
    } else {
        const ngx_str_t shown = ngx_text(text);
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"keel_verify\" directive, it must be "
                           "\"off\", \"missing\" or \"on\"",
                           &shown);
        return conf_error();
    }
    return conf_ok();
}

char* set_registry(ngx_conf_t* cf, ngx_command_t*, void* conf) noexcept {
    auto& location = *static_cast<LocationConf*>(conf);
    if (location.registry != nullptr && location.registry != NGX_CONF_UNSET_PTR) {
        return const_cast<char*>("is duplicate");
    }
    auto* registry = alloc<RegistryName>(cf->pool);
    if (registry == nullptr) return conf_error();
    auto* args = static_cast<ngx_str_t*>(cf->args->elts);
    const ngx_str_t shown = args[1];
    ngx_http_compile_complex_value_t compile{};
    compile.cf = cf;
    compile.value = &args[1];
    compile.complex_value = &registry->value;
    if (ngx_http_compile_complex_value(&compile) != NGX_OK) return conf_error();
    registry->fixed = registry->value.lengths == nullptr;

    std::string_view names;
    if (cf->args->nelts == 3 && !option(argument(cf, 2), "names", names)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" of \"keel_registry\": names=A,B is known",
                           &args[2]);
        return conf_error();
    }
    if (registry->fixed != names.empty()) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           registry->fixed
                               ? "names= in \"keel_registry %V\" is only for a value with variables"
                               : "\"keel_registry %V\" depends on the request and needs names=A,B: "
                                 "the registries to observe",
                           &shown);
        return conf_error();
    }
    if (!registry->fixed) registry->names = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
    if (!registry->fixed && registry->names == nullptr) return conf_error();
    auto& main = *static_cast<MainConf*>(ngx_http_conf_get_module_main_conf(cf, ngx_keel_module));
    if (main.registries == nullptr) {
        main.registries = ngx_array_create(cf->pool, 8, sizeof(ngx_str_t));
    }
    if (main.registries == nullptr) return conf_error();
    std::string_view rest = registry->fixed ? view(shown) : names;
    for (;;) {
        const std::size_t comma = registry->fixed ? std::string_view::npos : rest.find(',');
        const std::string_view name = rest.substr(0, comma);
        if (!is_registry(name) ||
            name.find_first_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ") != std::string_view::npos) {
            const ngx_str_t bad = ngx_text(name);
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" in \"keel_registry\" is no registry: a host name in lower "
                               "case, with :PORT where it has one",
                               &bad);
            return conf_error();
        }
        if (name == "index.docker.io" || name == "registry-1.docker.io") {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "Docker Hub's name in \"keel_registry\" is docker.io");
            return conf_error();
        }
        if (!add_once(*main.registries, name)) return conf_error();
        if (registry->fixed) break;
        auto* slot = static_cast<ngx_str_t*>(ngx_array_push(registry->names));
        if (slot == nullptr) return conf_error();
        *slot = ngx_text(name);
        if (comma == std::string_view::npos) break;
        rest = rest.substr(comma + 1);
    }
    location.registry = registry;
    return conf_ok();
}

char* set_node(ngx_conf_t* cf, ngx_command_t*, void* conf) noexcept {
    auto& location = *static_cast<LocationConf*>(conf);
    if (location.node != NGX_CONF_UNSET_PTR) return const_cast<char*>("is duplicate");
    location.node = alloc<ngx_http_complex_value_t>(cf->pool);
    if (location.node == nullptr) return conf_error();
    ngx_http_compile_complex_value_t compile{};
    compile.cf = cf;
    compile.value = &static_cast<ngx_str_t*>(cf->args->elts)[1];
    compile.complex_value = location.node;
    return ngx_http_compile_complex_value(&compile) == NGX_OK ? conf_ok() : conf_error();
}

char* set_companion(ngx_conf_t* cf, ngx_command_t*, void* conf) noexcept {
    auto& main = *static_cast<MainConf*>(conf);
    if (main.companions == nullptr) {
        main.companion_place = place(cf);
        main.companions = ngx_array_create(cf->pool, 2, sizeof(Companion));
        if (main.companions == nullptr || find_publisher(cf, main) != conf_ok())
            return conf_error();
    }
    const std::string_view url = argument(cf, 1);
    if (main.companions->nelts == kMaxCompanions) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "at most %uz \"keel_companion\" are possible",
                           kMaxCompanions);
        return conf_error();
    }
    for (ngx_uint_t i = 0; i < main.companions->nelts; ++i) {
        if (view(static_cast<Companion*>(main.companions->elts)[i].url) == url) {
            return const_cast<char*>("is duplicate: this URL is there already");
        }
    }
    auto* companion = static_cast<Companion*>(ngx_array_push(main.companions));
    if (companion == nullptr) return conf_error();
    *companion = Companion{};
    companion->url = ngx_text(url);
    const char* wrong = url.size() >= sizeof(CompanionState{}.url) ? "is longer than 255 bytes"
                        : url.starts_with("unix:") ? parse_unix(cf->pool, url, *companion)
                                                   : parse_http(cf->pool, url, *companion);
    if (wrong != nullptr) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" in \"keel_companion\" %s", &companion->url,
                           wrong);
        return conf_error();
    }
    for (ngx_uint_t i = 2; i < cf->args->nelts; ++i) {
        std::string_view value;
        const std::string_view text = argument(cf, i);
        if (option(text, "secret", value) && !value.empty() && companion->secret.data == nullptr) {
            if (read_secret(cf, value, *companion) != conf_ok()) return conf_error();
        } else if (option(text, "ca", value) && !value.empty() && companion->ca.data == nullptr) {
            if (read_ca(cf, value, *companion) != conf_ok()) return conf_error();
        } else {
            const ngx_str_t shown = ngx_text(text);
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" of \"keel_companion\": secret=FILE and "
                               "ca=FILE are known, once each",
                               &shown);
            return conf_error();
        }
    }
    if (companion->ca.data != nullptr && !url.starts_with("https://")) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "ca= of \"keel_companion %V\" is for https:// only", &companion->url);
        return conf_error();
    }
    if (companion->secret.data == nullptr) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "\"keel_companion %V\" has no secret=FILE: its events are not signed, "
                           "keeld will refuse them",
                           &companion->url);
    }
    return conf_ok();
}

char* set_api(ngx_conf_t* cf, ngx_command_t*, void* conf) noexcept {
    auto& location = *static_cast<LocationConf*>(conf);
    auto* core = static_cast<ngx_http_core_loc_conf_t*>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));
    bool prefix = !core->noname && !core->named && !core->exact_match;
#if (NGX_PCRE)
    prefix = prefix && core->regex == nullptr;
#endif
    if (!prefix) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"keel_api\" needs a prefix location such as \"location /keel/\"");
        return conf_error();
    }
    if (core->handler != nullptr) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"keel_api\" and another handler of this location exclude each other");
        return conf_error();
    }
    auto& main = *static_cast<MainConf*>(ngx_http_conf_get_module_main_conf(cf, ngx_keel_module));
    if (main.api_place.file.data == nullptr) main.api_place = place(cf);
    for (ngx_uint_t i = 1; i < cf->args->nelts; ++i) {
        std::string_view value;
        const std::string_view text = argument(cf, i);
        if (!option(text, "secret", value)) {
            const ngx_str_t shown = ngx_text(text);
            ngx_conf_log_error(
                NGX_LOG_EMERG, cf, 0,
                "invalid parameter \"%V\" of \"keel_api\": secret=NAME:FILE is known", &shown);
            return conf_error();
        }
        if (add_api_secret(cf, location, value) != conf_ok()) return conf_error();
    }
    location.api_prefix = core->name.len;
    location.api_place = place(cf);
    core->handler = answer_api;
    return conf_ok();
}

// --- creation, merging, checks ---

void* create_main_conf(ngx_conf_t* cf) noexcept {
    auto* conf = alloc<MainConf>(cf->pool);
    if (conf == nullptr) return nullptr;
    conf->cycle = cf->cycle;
    conf->guard = -1;
    return conf;
}

void* create_location_conf(ngx_conf_t* cf) noexcept {
    auto* conf = alloc<LocationConf>(cf->pool);
    if (conf == nullptr) return nullptr;
    conf->observe = NGX_CONF_UNSET;
    conf->hold = NGX_CONF_UNSET;
    conf->verify = NGX_CONF_UNSET_UINT;
    conf->registry = static_cast<RegistryName*>(NGX_CONF_UNSET_PTR);
    conf->node = static_cast<ngx_http_complex_value_t*>(NGX_CONF_UNSET_PTR);
    return conf;
}

char* merge_location_conf(ngx_conf_t* cf, void* parent, void* child) noexcept {
    const auto& outer = *static_cast<LocationConf*>(parent);
    auto& inner = *static_cast<LocationConf*>(child);
    ngx_conf_merge_value(inner.observe, outer.observe, 0);
    if (inner.hold == NGX_CONF_UNSET) inner.hold = outer.hold;
    ngx_conf_merge_uint_value(inner.verify, outer.verify, ngx_uint_t(Verify::missing));
    if (inner.registry == NGX_CONF_UNSET_PTR) {
        inner.registry = outer.registry == NGX_CONF_UNSET_PTR ? nullptr : outer.registry;
    }
    if (inner.node == NGX_CONF_UNSET_PTR) {
        inner.node = outer.node == NGX_CONF_UNSET_PTR ? nullptr : outer.node;
    }
    if (inner.observe_here && inner.registry == nullptr) {
        return missing(cf, "keel on", inner.observe_place,
                       "\"keel_registry\" in the same location or around it");
    }
    if (inner.hold_here && inner.registry == nullptr) {
        return missing(cf, "keel_hold on", inner.hold_place,
                       "\"keel_registry\" in the same location or around it");
    }
    if (inner.api_prefix > 0 && !answers_api(cf)) {
        return missing(cf, "keel_api", inner.api_place,
                       "its location for itself: another handler stands there, too");
    }
    if (inner.api_prefix > 0) bound_api_bodies(cf);
    return conf_ok();
}

ngx_int_t check_conf(ngx_conf_t* cf, MainConf& conf) noexcept {
    if (conf.zone == nullptr) {
        const char* needs = "\"keel_zone\" in the http block";
        if (conf.observes) missing(cf, "keel on", conf.observe_place, needs);
        if (conf.holds) missing(cf, "keel_hold on", conf.hold_place, needs);
        if (conf.companions != nullptr) missing(cf, "keel_companion", conf.companion_place, needs);
        if (conf.api_place.file.data != nullptr) missing(cf, "keel_api", conf.api_place, needs);
        const bool needed = conf.observes || conf.holds || conf.companions != nullptr ||
                            conf.api_place.file.data != nullptr;
        return needed ? NGX_ERROR : NGX_OK;
    }
    if (conf.observes && conf.registries == nullptr) {
        missing(cf, "keel on", conf.observe_place,
                "\"keel_registry\": what the cache's upstream is called");
        return NGX_ERROR;
    }
    if (conf.holds && (conf.registries == nullptr || conf.state == nullptr)) {
        missing(cf, "keel_hold on", conf.hold_place,
                conf.state == nullptr ? "a state directory: \"keel_zone\" says state=off"
                                      : "\"keel_registry\": what the cache's upstream is called");
        return NGX_ERROR;
    }
    if (conf.companions != nullptr && conf.cache_name.data == nullptr) {
        missing(cf, "keel_companion", conf.companion_place, "\"keel_cache_name\"");
        return NGX_ERROR;
    }
    return conf.companions != nullptr || conf.state != nullptr ? add_helper(cf, conf) : NGX_OK;
}

}  // namespace keel::ngx
