#include "module/helper.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "module/hold_writer.h"
#include "module/publish.h"
#include "module/snapshot.h"

namespace keel::ngx {
namespace {

constexpr HelperPart kParts[] = {
    {start_publishing, publish_news},
    {start_saving, nullptr},
    {start_hold_writer, look_for_wishes},
};

// Nothing depends on nginx calling the manager again.
constexpr ngx_msec_t kManagerPeriod = 3'600'000;
constexpr ngx_msec_t kWatch = 1'000;  // for the master's death

// Made once in the master, inherited by every process it forks over all reloads; -1: nobody
// listens.
int wake_descriptor = -1;

bool wanted(const MainConf& conf) noexcept {
    return conf.companions != nullptr || conf.state != nullptr;
}

void on_wake(ngx_event_t*) noexcept {
    std::uint64_t count = 0;
    // Taken by another helper during a reload: look all the same.
    if (read(wake_descriptor, &count, sizeof(count)) < 0 && ngx_errno != NGX_EAGAIN) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, ngx_errno, "keel: cannot read the wake-up");
    }
    for (const HelperPart& part : kParts) {
        if (part.wake != nullptr) part.wake();
    }
}

Timer watch;  // of this process

// Without a master nobody starts or ends this process: one more helper would run beside each nginx
// that is started later.
void on_watch(ngx_event_t*) noexcept {
    if (getppid() == ngx_parent) {
        watch.set(kWatch);
        return;
    }
    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "keel: the master process %P is gone, the helper goes too: nothing is published "
                  "until nginx is started again",
                  ngx_parent);
    ngx_quit = 1;
}

// nginx calls it when the helper starts and each hour. Its first call is the start: the cache
// loader, a helper too, never gets here.
ngx_msec_t manage(void* data) noexcept {
    auto& conf = *static_cast<MainConf*>(data);
    if (ngx_process != NGX_PROCESS_HELPER || conf.managed) return kManagerPeriod;
    conf.managed = true;
    for (const HelperPart& part : kParts)
        part.start(conf);
    watch.prepare(nullptr, on_watch);
    watch.set(kWatch);
    if (wake_descriptor >= 0 &&
        ngx_add_channel_event(const_cast<ngx_cycle_t*>(ngx_cycle), wake_descriptor, NGX_READ_EVENT,
                              on_wake) != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "keel: changes are published within a second, not at once");
    }
    return kManagerPeriod;
}

}  // namespace

ngx_int_t add_helper(ngx_conf_t* cf, MainConf& conf) noexcept {
    ngx_path_t* path = conf.state;
    // Without a directory of its own any path will do that has no manager yet; the http core always
    // has one.
    auto** paths = static_cast<ngx_path_t**>(cf->cycle->paths.elts);
    for (ngx_uint_t i = 0; path == nullptr && i < cf->cycle->paths.nelts; ++i) {
        if (paths[i]->manager == nullptr && paths[i]->loader == nullptr) path = paths[i];
    }
    if (path == nullptr) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"keel_companion\" in %V:%ui needs state=DIR in \"keel_zone\"",
                      &conf.companion_place.file, conf.companion_place.line);
        return NGX_ERROR;
    }
    path->manager = manage;
    path->data = &conf;
    return NGX_OK;
}

ngx_int_t prepare_helper(ngx_cycle_t* cycle, const MainConf& conf) noexcept {
    if (!wanted(conf)) return NGX_OK;
    const auto* core =
        reinterpret_cast<ngx_core_conf_t*>(ngx_get_conf(cycle->conf_ctx, ngx_core_module));
    if (!core->master) {
        if (conf.companions == nullptr) return NGX_OK;
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "keel_companion: nothing is published with \"master_process off\", there is "
                      "no helper process");
        return NGX_OK;
    }
    if (ngx_test_config || wake_descriptor >= 0) return NGX_OK;
    wake_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (wake_descriptor < 0) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, ngx_errno,
                      "keel: eventfd() failed, changes are published within a second");
    }
    return NGX_OK;
}

void wake_helper() noexcept {
    if (wake_descriptor < 0) return;
    const std::uint64_t one = 1;
    const ssize_t written = write(wake_descriptor, &one, sizeof(one));
    (void)written;  // full means that the helper has not come round yet: it is awake already
}

bool has_helper() noexcept {
    return ngx_process == NGX_PROCESS_WORKER;
}

}  // namespace keel::ngx
