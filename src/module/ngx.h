// The border to nginx: its headers, and adapters from its strings, pools and configuration to C++.
// Everything that nginx calls is noexcept; what may throw is caught at the callback.
#pragma once

extern "C" {
#include <ngx_channel.h>
#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
}

#include <cstdint>
#include <new>
#include <string_view>
#include <type_traits>

#include "core/time.h"

// Hidden, so that every request is spared a look into the table of global symbols.
extern "C" [[gnu::visibility("hidden")]] ngx_module_t ngx_keel_module;

namespace keel::ngx {

// nginx's empty strings may have no address.
inline std::string_view view(const ngx_str_t& text) noexcept {
    return text.len == 0 ? std::string_view{}
                         : std::string_view{reinterpret_cast<const char*>(text.data), text.len};
}

inline ngx_str_t ngx_text(std::string_view text) noexcept {
    return ngx_str_t{text.size(), reinterpret_cast<u_char*>(const_cast<char*>(text.data()))};
}

// A value-initialised T in the pool, or null. Pools run no destructors.
template <class T>
[[nodiscard]] T* alloc(ngx_pool_t* pool) noexcept {
    static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= 16);
    void* memory = ngx_palloc(pool, sizeof(T));
    return memory == nullptr ? nullptr : new (memory) T{};
}

// A copy of `text` in the pool, ended by a NUL that is not counted; data is null when memory is
// short.
inline ngx_str_t copy(ngx_pool_t* pool, std::string_view text) noexcept {
    ngx_str_t result{text.size(), static_cast<u_char*>(ngx_pnalloc(pool, text.size() + 1))};
    if (result.data != nullptr) {
        if (!text.empty()) ngx_memcpy(result.data, text.data(), text.size());
        result.data[text.size()] = '\0';
    }
    return result;
}

inline char* conf_ok() noexcept {
    return nullptr;
}

inline char* conf_error() noexcept {
    return static_cast<char*>(NGX_CONF_ERROR);
}

// Wall clock of the event loop's current turn.
inline std::int64_t wall_millis() noexcept {
    const ngx_time_t* now = ngx_timeofday();
    return static_cast<std::int64_t>(now->sec) * 1000 + static_cast<std::int64_t>(now->msec);
}

inline Time to_time(std::int64_t millis) noexcept {
    return Time{Millis{millis}};
}

// Lets one line through in each interval, so that a fault that every request meets is told and not
// repeated a thousand times a second. One per process.
class LogGate {
  public:
    constexpr LogGate() = default;

    // Whether a line may be written now.
    [[nodiscard]] bool open() noexcept {
        if (used_ && static_cast<ngx_msec_int_t>(ngx_current_msec - next_) < 0) return false;
        used_ = true;
        next_ = ngx_current_msec + kInterval;
        return true;
    }

  private:
    static constexpr ngx_msec_t kInterval = 10'000;
    ngx_msec_t next_ = 0;
    bool used_ = false;
};

}  // namespace keel::ngx
