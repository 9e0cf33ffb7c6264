// observe-cost: what Table::observe() takes when all workers of an nginx record answers at once,
// each about tags that the table knows. The module's own table, in a zone of a real nginx, with its
// lock.
//
//   keel_bench zone=NAME:SIZE tags=N times=N;      in the http block
//
// Each worker waits at its start for all the others, records, and writes a line to the error log.

#include <algorithm>
#include <array>
#include <ctime>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "module/table.h"

namespace keel::ngx {
namespace {

struct BenchConf {
    ngx_shm_zone_t* zone;
    ngx_int_t tags;
    ngx_int_t times;
};

constexpr std::string_view kRegistry = "docker.io";
constexpr std::string_view kRepository = "library/some-application-of-ours-with-a-name";

// Behind the table, at the zone's end: how many workers are there.
ngx_atomic_t* arrived(const BenchConf& conf) noexcept {
    return reinterpret_cast<ngx_atomic_t*>(conf.zone->shm.addr + conf.zone->shm.size) - 1;
}

ngx_int_t init_zone(ngx_shm_zone_t* zone, void*) noexcept {
    auto* pool = reinterpret_cast<ngx_slab_pool_t*>(zone->shm.addr);
    pool->end -= ngx_pagesize;
    zone->data = pool;
    return Table{pool}.create() ? NGX_OK : NGX_ERROR;
}

std::int64_t nanoseconds() noexcept {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void measure(const BenchConf& conf, ngx_int_t workers) {
    Table table{reinterpret_cast<ngx_slab_pool_t*>(conf.zone->shm.addr)};
    std::vector<std::string> names;
    for (ngx_int_t i = 0; i < conf.tags; ++i)
        names.push_back("build-" + std::to_string(i));
    std::array<std::uint8_t, 32> bytes{};
    const Digest digest = Digest::from_bytes(Digest::Algorithm::sha256, bytes);
    Observation seen;
    seen.registry = kRegistry;
    seen.repository = kRepository;
    seen.digest = &digest;
    seen.kind = ManifestKind::index;
    seen.node = "192.0.2.7";
    std::vector<std::int64_t> took;
    took.reserve(static_cast<std::size_t>(conf.times));
    const auto record = [&](ngx_int_t number) noexcept {
        seen.name = names[static_cast<std::size_t>(number % conf.tags)];
        seen.now = wall_millis();
        seen.started = ngx_current_msec;
        seen.monotonic = ngx_current_msec;
        return table.observe(seen).change;
    };
    for (ngx_int_t i = 0; i < conf.tags; ++i)
        (void)record(i);
    (void)ngx_atomic_fetch_add(arrived(conf), 1);
    while (*static_cast<volatile ngx_atomic_t*>(arrived(conf)) <
           static_cast<ngx_atomic_uint_t>(workers))
        ngx_sched_yield();
    const std::int64_t begin = nanoseconds();
    std::int64_t before = begin;
    ngx_int_t same = 0;
    for (ngx_int_t i = 0; i < conf.times; ++i) {
        same += record(i * 7) == Change::same ? 1 : 0;
        const std::int64_t now = nanoseconds();
        took.push_back(now - before);
        before = now;
    }
    const std::int64_t all = before - begin;
    std::sort(took.begin(), took.end());
    if (same != conf.times) throw std::runtime_error("not every answer was the same");
    ngx_log_error(NGX_LOG_NOTICE, ngx_cycle->log, 0, "keel_bench: median %L p99 %L all %L",
                  took[took.size() / 2], took[took.size() * 99 / 100], all);
}

ngx_int_t start_worker(ngx_cycle_t* cycle) noexcept;
char* set_bench(ngx_conf_t* cf, ngx_command_t* command, void* data) noexcept;
void* create_conf(ngx_conf_t* cf) noexcept {
    return alloc<BenchConf>(cf->pool);
}

ngx_command_t commands[] = {{ngx_string("keel_bench"), NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE3,
                             set_bench, NGX_HTTP_MAIN_CONF_OFFSET, 0, nullptr},
                            ngx_null_command};

ngx_http_module_t context = {nullptr, nullptr, create_conf, nullptr,
                             nullptr, nullptr, nullptr,     nullptr};

}  // namespace
}  // namespace keel::ngx

extern "C" {
extern ngx_module_t ngx_keel_bench_module;
ngx_module_t ngx_keel_bench_module = {NGX_MODULE_V1,
                                      &keel::ngx::context,
                                      keel::ngx::commands,
                                      NGX_HTTP_MODULE,
                                      nullptr,
                                      nullptr,
                                      keel::ngx::start_worker,
                                      nullptr,
                                      nullptr,
                                      nullptr,
                                      nullptr,
                                      NGX_MODULE_V1_PADDING};
}

namespace keel::ngx {
namespace {

ngx_int_t start_worker(ngx_cycle_t* cycle) noexcept {
    if (ngx_process != NGX_PROCESS_WORKER) return NGX_OK;
    const auto* conf =
        static_cast<BenchConf*>(ngx_http_cycle_get_module_main_conf(cycle, ngx_keel_bench_module));
    const auto* core =
        reinterpret_cast<ngx_core_conf_t*>(ngx_get_conf(cycle->conf_ctx, ngx_core_module));
    try {
        measure(*conf, core->worker_processes);
    } catch (const std::exception& error) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0, "keel_bench: %s", error.what());
    }
    return NGX_OK;
}

char* set_bench(ngx_conf_t* cf, ngx_command_t*, void* data) noexcept {
    auto& conf = *static_cast<BenchConf*>(data);
    auto* args = static_cast<ngx_str_t*>(cf->args->elts);
    const std::string_view zone = view(args[1]).substr(sizeof("zone=") - 1);
    const std::size_t colon = zone.find(':');
    ngx_str_t name = ngx_text(zone.substr(0, colon));
    ngx_str_t size = ngx_text(zone.substr(colon + 1));
    conf.tags = ngx_atoi(args[2].data + 5, args[2].len - 5);
    conf.times = ngx_atoi(args[3].data + 6, args[3].len - 6);
    const ssize_t bytes = ngx_parse_size(&size);
    if (colon == std::string_view::npos || bytes <= 0 || conf.tags <= 0 || conf.times <= 0) {
        return const_cast<char*>("needs zone=NAME:SIZE tags=N times=N");
    }
    conf.zone =
        ngx_shared_memory_add(cf, &name, static_cast<std::size_t>(bytes), &ngx_keel_bench_module);
    if (conf.zone == nullptr) return conf_error();
    conf.zone->init = init_zone;
    return conf_ok();
}

}  // namespace
}  // namespace keel::ngx
