#include "module/zone.h"

#include <algorithm>
#include <exception>

namespace keel::ngx {
namespace {

constexpr std::size_t kMinPages = 16;

// The segment that the running configuration has, under whatever name: there is one keel_zone at
// most. Null when nginx is just starting. It stays mapped until the new configuration is in force.
ngx_slab_pool_t* predecessor(const ngx_cycle_t& old) noexcept {
    for (const ngx_list_part_t* part = &old.shared_memory.part; part != nullptr;
         part = part->next) {
        auto* zones = static_cast<ngx_shm_zone_t*>(part->elts);
        for (ngx_uint_t i = 0; i < part->nelts; ++i) {
            if (zones[i].tag == &ngx_keel_module && zones[i].shm.addr != nullptr)
                return reinterpret_cast<ngx_slab_pool_t*>(zones[i].shm.addr);
        }
    }
    return nullptr;
}

void carry_over(const ngx_shm_zone_t* zone, Table table, ngx_slab_pool_t* before) noexcept {
    try {
        Table old{before};
        const std::uint64_t tags = old.head().tags;
        const std::uint64_t carried = table.carry_over(old);
        ngx_log_error(NGX_LOG_NOTICE, zone->shm.log, 0,
                      "keel_zone \"%V\": %uL of %uL tags taken over from the zone before it, with "
                      "a new epoch",
                      &zone->shm.name, carried, tags);
    } catch (const std::exception& error) {
        ngx_log_error(NGX_LOG_ERR, zone->shm.log, 0,
                      "keel_zone \"%V\": not all tags are taken over from the zone before it: %s",
                      &zone->shm.name, error.what());
    }
}

// nginx calls it in the master, at start, at each reload and under -t. A zone of the same name and
// size lives on. One that was resized or renamed is another one to nginx: it takes over what the
// old one has, under a new epoch, which tells every companion to read again. `noreuse` must stay
// unset: nginx would free the segment in use at the next reload.
ngx_int_t init_zone(ngx_shm_zone_t* zone, void* old) noexcept {
    auto* pool = reinterpret_cast<ngx_slab_pool_t*>(zone->shm.addr);
    if (old != nullptr) {
        zone->data = old;
        return NGX_OK;
    }
    auto* before = static_cast<ngx_slab_pool_t*>(zone->data);
    zone->data = pool;
    if (zone->shm.exists) return NGX_OK;
    Table table{pool};
    if (table.create()) {
        if (before != nullptr) carry_over(zone, table, before);
        return NGX_OK;
    }
    ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0, "keel_zone \"%V\" is too small",
                  &zone->shm.name);
    return NGX_ERROR;
}

// nginx makes the directory itself, and not those above it; its own message for that names no
// directive.
bool has_parent(const ngx_str_t& directory) noexcept {
    char parent[NGX_MAX_PATH];
    const std::string_view path = view(directory);
    const std::string_view above = path.substr(0, std::max<std::size_t>(path.rfind('/'), 1));
    if (above.size() >= sizeof(parent)) return false;
    *ngx_cpymem(parent, above.data(), above.size()) = '\0';
    ngx_file_info_t found;
    return ngx_file_info(parent, &found) == 0 && ngx_is_dir(&found);
}

}  // namespace

char* add_zone(ngx_conf_t* cf, MainConf& conf, std::string_view name,
               std::string_view size) noexcept {
    ngx_str_t size_text = ngx_text(size);
    const ssize_t bytes = ngx_parse_size(&size_text);
    if (bytes == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid size \"%V\" in \"keel_zone\"",
                           &size_text);
        return conf_error();
    }
    const std::size_t least = kMinPages * ngx_pagesize;
    ngx_str_t zone_name = ngx_text(name);
    if (static_cast<std::size_t>(bytes) < least) {
        ngx_conf_log_error(
            NGX_LOG_EMERG, cf, 0,
            "keel_zone \"%V\" is too small: %uzk is the least, 1m keeps about 2000 tags",
            &zone_name, least / 1024);
        return conf_error();
    }
    conf.zone =
        ngx_shared_memory_add(cf, &zone_name, static_cast<std::size_t>(bytes), &ngx_keel_module);
    if (conf.zone == nullptr) return conf_error();
    conf.zone->init = init_zone;
    conf.zone->data = predecessor(*cf->cycle->old_cycle);
    return conf_ok();
}

char* set_state_directory(ngx_conf_t* cf, MainConf& conf, std::string_view directory) noexcept {
    conf.state = alloc<ngx_path_t>(cf->pool);
    if (conf.state == nullptr) return conf_error();
    conf.state->name = copy(cf->pool, directory);
    if (conf.state->name.data == nullptr) return conf_error();
    if (conf.state->name.len > 1 && conf.state->name.data[conf.state->name.len - 1] == '/') {
        conf.state->name.data[--conf.state->name.len] = '\0';
    }
    if (ngx_conf_full_name(cf->cycle, &conf.state->name, 0) != NGX_OK) return conf_error();
    ngx_file_info_t found;
    if (ngx_file_info(conf.state->name.data, &found) == 0 && !ngx_is_dir(&found)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "state=%V of \"keel_zone\" is no directory",
                           &conf.state->name);
        return conf_error();
    }
    if (!has_parent(conf.state->name)) {
        ngx_conf_log_error(
            NGX_LOG_EMERG, cf, 0,
            "state=%V of \"keel_zone\" cannot be made: there is no directory above it",
            &conf.state->name);
        return conf_error();
    }
    conf.state->conf_file = cf->conf_file->file.name.data;
    conf.state->line = cf->conf_file->line;
    return ngx_add_path(cf, &conf.state) == NGX_OK ? conf_ok() : conf_error();
}

}  // namespace keel::ngx
