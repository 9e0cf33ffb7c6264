// The few ways in which keelctl looks at the server's JSON. Absent, null and of another type are
// all the same: empty.
#pragma once

#include <jansson.h>

#include <memory>
#include <string>
#include <string_view>

namespace keel::ctl {

struct JsonRelease {
    void operator()(json_t* value) const { json_decref(value); }
};
using Json = std::unique_ptr<json_t, JsonRelease>;

[[nodiscard]] inline std::string_view text_of(const json_t* value) {
    if (!json_is_string(value)) return {};
    return {json_string_value(value), json_string_length(value)};
}

[[nodiscard]] inline std::string_view text_of(const json_t* object, const char* key) {
    return text_of(json_object_get(object, key));
}

// Compact, members in the order in which they came.
[[nodiscard]] std::string dump(const json_t* value);

}  // namespace keel::ctl
