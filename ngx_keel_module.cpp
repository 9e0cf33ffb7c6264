// ngx_keel_module: watches which digest the registry's answers give for a tag, and tells who wants
// to know. Tables and hooks only; what they do lies in src/module.

#include "module/api.h"
#include "module/conf.h"
#include "module/helper.h"
#include "module/holds.h"
#include "module/ngx.h"
#include "module/observe.h"
#include "module/snapshot.h"
#include "module/state_guard.h"
#include "module/variables.h"
#include "module/verify.h"

namespace keel::ngx {
namespace {

ngx_int_t add_hooks(ngx_conf_t* cf) noexcept;
ngx_int_t header_filter(ngx_http_request_t* r) noexcept;
ngx_int_t body_filter(ngx_http_request_t* r, ngx_chain_t* in) noexcept;
ngx_int_t start(ngx_cycle_t* cycle) noexcept;
ngx_int_t start_process(ngx_cycle_t* cycle) noexcept;
void end_process(ngx_cycle_t* cycle) noexcept;

// nginx's filters are C and throw nothing. Said so, the compiler jumps to them instead of calling.
using HeaderFilter = ngx_int_t (*)(ngx_http_request_t*) noexcept;
using BodyFilter = ngx_int_t (*)(ngx_http_request_t*, ngx_chain_t*) noexcept;
HeaderFilter next_header_filter;
BodyFilter next_body_filter;

constexpr ngx_uint_t kEverywhere = NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF;

ngx_command_t commands[] = {
    {ngx_string("keel_zone"), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE12, set_zone,
     NGX_HTTP_MAIN_CONF_OFFSET, 0, nullptr},
    {ngx_string("keel_cache_name"), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1, set_cache_name,
     NGX_HTTP_MAIN_CONF_OFFSET, 0, nullptr},
    {ngx_string("keel"), kEverywhere | NGX_CONF_FLAG, set_observe, NGX_HTTP_LOC_CONF_OFFSET,
     offsetof(LocationConf, observe), nullptr},
    {ngx_string("keel_registry"), kEverywhere | NGX_CONF_TAKE12, set_registry,
     NGX_HTTP_LOC_CONF_OFFSET, 0, nullptr},
    {ngx_string("keel_verify"), kEverywhere | NGX_CONF_TAKE1, set_verify, NGX_HTTP_LOC_CONF_OFFSET, 0,
     nullptr},
    {ngx_string("keel_hold"), kEverywhere | NGX_CONF_FLAG, set_hold, NGX_HTTP_LOC_CONF_OFFSET,
     offsetof(LocationConf, hold), nullptr},
    {ngx_string("keel_node"), kEverywhere | NGX_CONF_TAKE1, set_node, NGX_HTTP_LOC_CONF_OFFSET, 0,
     nullptr},
    {ngx_string("keel_companion"), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE123, set_companion,
     NGX_HTTP_MAIN_CONF_OFFSET, 0, nullptr},
    {ngx_string("keel_api"), NGX_HTTP_LOC_CONF | NGX_CONF_ANY, set_api, NGX_HTTP_LOC_CONF_OFFSET, 0,
     nullptr},
    ngx_null_command};

ngx_http_module_t context = {
    add_variables,         // preconfiguration
    add_hooks,             // postconfiguration
    create_main_conf,      //
    nullptr,               // init main configuration
    nullptr,               // create server configuration
    nullptr,               // merge server configuration
    create_location_conf,  //
    merge_location_conf    //
};

}  // namespace
}  // namespace keel::ngx

extern "C" {
ngx_module_t ngx_keel_module = {NGX_MODULE_V1,
                                &keel::ngx::context,
                                keel::ngx::commands,
                                NGX_HTTP_MODULE,
                                nullptr,                   // init master
                                keel::ngx::start,          // init module
                                keel::ngx::start_process,  // init process
                                nullptr,                   // init thread
                                nullptr,                   // exit thread
                                keel::ngx::end_process,    // exit process
                                nullptr,                   // exit master
                                NGX_MODULE_V1_PADDING};
}

namespace keel::ngx {
namespace {

// The module touches requests only where `keel on` or `keel_hold on` stands somewhere; elsewhere it
// costs nothing.
ngx_int_t add_hooks(ngx_conf_t* cf) noexcept {
    auto& conf = *static_cast<MainConf*>(ngx_http_conf_get_module_main_conf(cf, ngx_keel_module));
    if (check_conf(cf, conf) != NGX_OK) return NGX_ERROR;
    if (!conf.observes && !conf.holds) return NGX_OK;
    auto* core = static_cast<ngx_http_core_main_conf_t*>(
        ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module));
    auto* handler = static_cast<ngx_http_handler_pt*>(
        ngx_array_push(&core->phases[NGX_HTTP_PREACCESS_PHASE].handlers));
    if (handler == nullptr) return NGX_ERROR;
    *handler = parse_request;
    next_header_filter = reinterpret_cast<HeaderFilter>(ngx_http_top_header_filter);
    ngx_http_top_header_filter = header_filter;
    next_body_filter = reinterpret_cast<BodyFilter>(ngx_http_top_body_filter);
    ngx_http_top_body_filter = body_filter;
    return NGX_OK;
}

// Most of what a cache serves is blobs and manifests by digest: they pass here, in checker and
// filters, with as few instructions as there can be, and the rest is a call of its own.
ngx_int_t phase_checker(ngx_http_request_t* r, ngx_http_phase_handler_t* phase) noexcept {
    if (ends_in_digest(r->uri)) {
        ++r->phase_handler;
        return NGX_AGAIN;
    }
    return ngx_http_core_generic_phase(r, phase);
}

[[gnu::noinline]] ngx_int_t tag_header(ngx_http_request_t* r, TagRequest& request) noexcept {
    observe_answer(r, request);
    return next_header_filter(r);
}

ngx_int_t header_filter(ngx_http_request_t* r) noexcept {
    TagRequest* request = tag_request(r);
    return request == nullptr ? next_header_filter(r) : tag_header(r, *request);
}

[[gnu::noinline]] ngx_int_t tag_body(ngx_http_request_t* r, TagRequest& request,
                                     ngx_chain_t* in) noexcept {
    if (request.hash != nullptr) observe_body(r, request, in);
    return next_body_filter(r, in);
}

ngx_int_t body_filter(ngx_http_request_t* r, ngx_chain_t* in) noexcept {
    TagRequest* request = tag_request_here(r);
    return request == nullptr ? next_body_filter(r, in) : tag_body(r, *request, in);
}

// nginx gives every handler of the phase its own checker, which asks the handler; ours looks first.
void set_checker(ngx_cycle_t* cycle) noexcept {
    auto* core = static_cast<ngx_http_core_main_conf_t*>(
        ngx_http_cycle_get_module_main_conf(cycle, ngx_http_core_module));
    for (auto* phase = core->phase_engine.handlers; phase->checker != nullptr; ++phase) {
        if (phase->handler == parse_request) phase->checker = phase_checker;
    }
}

// Null without an http block.
MainConf* conf_of(ngx_cycle_t* cycle) noexcept {
    if (ngx_get_conf(cycle->conf_ctx, ngx_http_module) == nullptr) return nullptr;
    return static_cast<MainConf*>(ngx_http_cycle_get_module_main_conf(cycle, ngx_keel_module));
}

ngx_int_t start(ngx_cycle_t* cycle) noexcept {
    MainConf* conf = conf_of(cycle);
    if (conf == nullptr) return NGX_OK;
    set_checker(cycle);
    if (!ngx_test_config) open_holds(*conf);
    return prepare_helper(cycle, *conf);
}

// Workers, the helper, the cache loader: each before it does anything else.
ngx_int_t start_process(ngx_cycle_t* cycle) noexcept {
    MainConf* conf = conf_of(cycle);
    if (conf == nullptr) return NGX_OK;
    if (ngx_process != NGX_PROCESS_SINGLE) leave_guard(*conf);
    if (conf->zone != nullptr) restore_table(*conf);
    return NGX_OK;
}

// Workers only.
void end_process(ngx_cycle_t* cycle) noexcept {
    end_hashing();
    const MainConf* conf = conf_of(cycle);
    if (conf != nullptr && conf->zone != nullptr) save_on_exit(*conf);
}

}  // namespace
}  // namespace keel::ngx
