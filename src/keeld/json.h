// Small typed access to jansson values, for reading other people's JSON and writing our own.
#pragma once

#include <jansson.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

namespace keel {

// A jansson value that this pointer owns.
struct JsonDelete {
    void operator()(json_t* value) const { json_decref(value); }
};
using Json = std::unique_ptr<json_t, JsonDelete>;

// The text of a string member; empty if it is absent or not a string.
[[nodiscard]] inline std::string_view text_of(const json_t* object, const char* key) {
    const json_t* value = json_object_get(object, key);
    return json_is_string(value)
               ? std::string_view(json_string_value(value), json_string_length(value))
               : std::string_view();
}

[[nodiscard]] inline json_t* json_text(std::string_view text) {
    json_t* value = json_stringn(text.data(), text.size());
    return value != nullptr ? value : json_string("(not UTF-8)");
}

[[nodiscard]] inline json_t* json_text_or_null(std::string_view text) {
    return text.empty() ? json_null() : json_text(text);
}

[[nodiscard]] inline Json parse_json(std::string_view text) {
    return Json(json_loadb(text.data(), text.size(), 0, nullptr));
}

[[nodiscard]] inline std::string dump_json(const json_t* value) {
    char* text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    std::string result = text != nullptr ? text : "";
    free(text);
    return result;
}

}  // namespace keel
