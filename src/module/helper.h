// The helper: the process that nginx forks for paths with a manager, shown as "cache manager
// process". What may wait for a companion or for the disk runs there, so that no pull waits for it.
// Workers only wake it.
#pragma once

#include "module/conf.h"
#include "module/ngx.h"

namespace keel::ngx {

// One job of the helper. The jobs stand in helper.cpp.
struct HelperPart {
    // Once, when the helper comes up. A part that is not configured does nothing; one that cannot
    // start says so itself and leaves the others alone.
    void (*start)(MainConf& conf) noexcept;
    // Somebody called wake_helper(). Looks whether that was for this part, and never blocks. May be
    // null.
    void (*wake)() noexcept;
};

// Gives a path of the configuration a manager, which makes nginx run the helper. Called once, with
// companions or a state directory.
ngx_int_t add_helper(ngx_conf_t* cf, MainConf& conf) noexcept;

// In the master, once per configuration: makes the descriptor that wakes the helper, or says why
// nothing is published.
ngx_int_t prepare_helper(ngx_cycle_t* cycle, const MainConf& conf) noexcept;

// There is something to do. A hint: parts look for themselves anyway, within a second. Any process,
// never blocks.
void wake_helper() noexcept;

// Whether this nginx runs a helper: not with master_process off.
[[nodiscard]] bool has_helper() noexcept;

// What an nginx event needs when it belongs to no socket: its debug log wants a descriptor's
// number. For parts; owner() in the handler is what prepare() was given.
struct Timer {
    ngx_connection_t ident{};
    ngx_event_t event{};

    void prepare(void* data, ngx_event_handler_pt handler) noexcept {
        ident.fd = static_cast<ngx_socket_t>(-1);
        ident.data = data;
        event.data = &ident;
        event.handler = handler;
        event.log = ngx_cycle->log;
        event.cancelable = 1;
    }
    void set(ngx_msec_t delay) noexcept {
        if (event.timer_set)
            ngx_del_timer(&event);  // nginx keeps an old timer that is near the new one
        ngx_add_timer(&event, delay);
    }
    void clear() noexcept {
        if (event.timer_set) ngx_del_timer(&event);
    }
};

template <class T>
T& owner(ngx_event_t* event) noexcept {
    return *static_cast<T*>(static_cast<ngx_connection_t*>(event->data)->data);
}

}  // namespace keel::ngx
