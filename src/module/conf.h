// What the directives say. Immutable once nginx has read its configuration.
#pragma once

#include <string_view>

#include "core/signature.h"
#include "module/control.h"
#include "module/hold_board.h"
#include "module/ngx.h"
#include "module/table.h"

namespace keel::ngx {

// Where a directive stands, for messages that can only be given when everything has been read.
struct Place {
    ngx_str_t file;
    ngx_uint_t line;
};

// One `keel_companion`.
struct Companion {
    ngx_str_t url;     // as shown: without secrets
    ngx_str_t target;  // what libcurl is asked for; with `unix:` a http://localhost/... URL
    ngx_str_t socket;  // path of the unix socket, or empty
    ngx_str_t ca;      // PEM file, or empty
    ngx_str_t secret;  // the text of the secret file, or empty
};

// One `secret=NAME:FILE` of keel_api.
struct ApiSecret {
    ngx_str_t name;  // the author of what it signs
    const Secrets* secrets;
};

// `keel_registry`.
struct RegistryName {
    ngx_http_complex_value_t value;
    bool fixed;          // no variables in it
    ngx_array_t* names;  // of ngx_str_t; null when fixed
};

struct MainConf {
    ngx_shm_zone_t* zone;
    ngx_shm_zone_t* control;  // there where zone is: see control.h
    ngx_path_t* state;        // null: no directory
    ngx_cycle_t* cycle;       // that this is of
    int guard;                // descriptor: see state_guard.h; -1: none
    HoldBoard* board;         // null: no holds; there is none without a directory
    ngx_str_t cache_name;
    ngx_array_t* companions;  // of Companion, or null
    ngx_str_t publisher;      // path of the shared object with libcurl, empty without companions
    bool observes;            // `keel on` stands somewhere
    bool holds;               // `keel_hold on` stands somewhere
    ngx_array_t* registries;  // of ngx_str_t: all that `keel_registry` names, or null
    Place zone_place;
    Place observe_place;
    Place hold_place;
    Place companion_place;
    Place api_place;
    bool managed;  // the helper has come up; of that process only
};

// `keel_verify`: which manifest bodies are hashed.
enum class Verify : ngx_uint_t { off, missing, on };

struct LocationConf {
    ngx_flag_t observe;
    ngx_uint_t verify;  // of Verify
    RegistryName* registry;
    ngx_http_complex_value_t* node;
    ngx_flag_t hold;    // unset: as observe is
    bool observe_here;  // `keel on` is written in this very location
    bool hold_here;     // `keel_hold on` is
    Place observe_place;
    Place hold_place;
    Place api_place;
    std::size_t api_prefix;    // bytes of the location's name before what keel_api answers
    ngx_array_t* api_secrets;  // of ApiSecret, or null
};

inline MainConf* main_conf(ngx_http_request_t* r) noexcept {
    return static_cast<MainConf*>(ngx_http_get_module_main_conf(r, ngx_keel_module));
}

inline LocationConf* location_conf(ngx_http_request_t* r) noexcept {
    return static_cast<LocationConf*>(ngx_http_get_module_loc_conf(r, ngx_keel_module));
}

// Only where a zone is configured.
inline Table table_of(const MainConf& conf) noexcept {
    return Table{reinterpret_cast<ngx_slab_pool_t*>(conf.zone->shm.addr)};
}

inline Control control_of(const MainConf& conf) noexcept {
    return Control{reinterpret_cast<ngx_slab_pool_t*>(conf.control->shm.addr)};
}

void* create_main_conf(ngx_conf_t* cf) noexcept;
void* create_location_conf(ngx_conf_t* cf) noexcept;
char* merge_location_conf(ngx_conf_t* cf, void* parent, void* child) noexcept;
// After everything has been read: what only then can be known to be missing.
ngx_int_t check_conf(ngx_conf_t* cf, MainConf& conf) noexcept;

// Directive handlers.
char* set_zone(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept;
char* set_cache_name(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept;
char* set_observe(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept;
char* set_hold(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept;
char* set_registry(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept;
char* set_verify(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept;
char* set_node(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept;
char* set_companion(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept;
char* set_api(ngx_conf_t* cf, ngx_command_t* cmd, void* conf) noexcept;

}  // namespace keel::ngx
