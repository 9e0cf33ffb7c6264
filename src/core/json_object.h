// JSON objects of the formats in core, read and written field by field with jansson. For core's own
// sources and the module; the formats themselves are in event.h and holds.h.
#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <jansson.h>

#include "core/digest.h"
#include "core/expected.h"
#include "core/time.h"

namespace keel::json {

inline constexpr std::size_t kMaxLabel = 255;  // bytes of a label, both written and read

struct JsonRelease {
    void operator()(json_t* value) const noexcept { json_decref(value); }
};
using Json = std::unique_ptr<json_t, JsonRelease>;

constexpr bool is_control(char c) noexcept {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

inline bool has_control(std::string_view text) noexcept {
    for (const char c : text) {
        if (is_control(c)) {
            return true;
        }
    }
    return false;
}

// jansson's messages quote the input.
inline std::string printable(std::string text) {
    for (char& c : text) {
        if (c < ' ' || c > '~') {
            c = '?';
        }
    }
    return text;
}

// --- writing ---

inline Json text_of(std::string_view text) {
    return Json(json_stringn(text.data(), text.size()));
}

inline Json text_of(Time time) {
    return text_of(format_time(time));
}

// null for the empty digest.
inline Json text_of(const Digest& digest) {
    return digest.empty() ? Json(json_null()) : text_of(digest.to_string());
}

inline Json text_of(const std::optional<Digest>& digest) {
    return digest ? text_of(*digest) : Json(json_null());
}

// Builds one object and remembers whether memory was short anywhere on the way.
class ObjectWriter {
  public:
    ObjectWriter() : object_(json_object()), fine_(object_ != nullptr) {}

    void set(const char* key, Json value) {
        fine_ = fine_ && value && json_object_set_new(object_.get(), key, value.release()) == 0;
    }

    // Null when memory was short.
    [[nodiscard]] Json take() { return fine_ ? std::move(object_) : nullptr; }

  private:
    Json object_;
    bool fine_;
};

// Compact text of a document; empty when memory is short.
inline std::string dump(const Json& value) {
    constexpr auto append = [](const char* text, std::size_t size, void* out) {
        static_cast<std::string*>(out)->append(text, size);
        return 0;
    };
    std::string text;
    if (!value || json_dump_callback(value.get(), append, &text, JSON_COMPACT) != 0) {
        return {};
    }
    return text;
}

// --- reading ---

template <class Enum, std::size_t N>
std::optional<Enum> named(const std::array<Enum, N>& values, std::string_view text) noexcept {
    for (const Enum value : values) {
        if (to_string(value) == text) {
            return value;
        }
    }
    return std::nullopt;
}

inline std::optional<std::uint64_t> parse_counter(std::string_view text) noexcept {
    std::uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data(), end, value);
    const bool padded = text.size() > 1 && text.front() == '0';
    return error == std::errc{} && stopped == end && !padded ? std::optional(value) : std::nullopt;
}

// Reads fields by name and keeps the first complaint; after one, what it returns means nothing.
class ObjectReader {
  public:
    // `code` of the errors. `where` goes before the field's name in complaints: "event 3: data.".
    ObjectReader(const json_t* object, std::string where, const char* code)
        : object_(object), where_(std::move(where)), code_(code) {
        if (!json_is_object(object)) {
            const std::string_view thing(where_.data(), where_.find_last_not_of(".: ") + 1);
            error_ = Error{code_, (thing.empty() ? "the object" : std::string(thing)) +
                                      ": expected a JSON object"};
        }
    }

    [[nodiscard]] const std::optional<Error>& error() const noexcept { return error_; }

    void complain(const char* key, std::string_view expected) {
        if (!error_) {
            error_ = Error{code_, where_ + key + ": expected " + std::string(expected)};
        }
    }

    [[nodiscard]] const json_t* find(const char* key) const {
        return json_object_get(object_, key);
    }

    std::string_view text(const char* key) {
        const json_t* value = find(key);
        if (!json_is_string(value)) {
            complain(key, "a string");
            return {};
        }
        return {json_string_value(value), json_string_length(value)};
    }

    std::string label(const char* key, bool may_be_empty) {
        const std::string_view value = text(key);
        if (value.size() > kMaxLabel || has_control(value) || (value.empty() && !may_be_empty)) {
            complain(key, "up to 255 bytes without control characters");
        }
        return std::string(value);
    }

    std::string part(const char* key, bool (*fits)(std::string_view) noexcept) {
        const std::string_view value = text(key);
        if (!fits(value)) {
            complain(key, "the grammar of image references");
        }
        return std::string(value);
    }

    Time moment(const char* key) {
        const std::optional<Time> value = parse_time(text(key));
        if (!value) {
            complain(key, "an RFC 3339 time");
        }
        return value.value_or(Time{});
    }

    Digest digest(const char* key) {
        const std::optional<Digest> value = Digest::parse(text(key));
        if (!value) {
            complain(key, "a sha256 or sha512 digest");
        }
        return value.value_or(Digest{});
    }

    std::optional<Digest> optional_digest(const char* key) {
        const json_t* value = find(key);
        if (value == nullptr || json_is_null(value)) {
            return std::nullopt;
        }
        return digest(key);
    }

    std::uint64_t counter(const char* key) {
        const std::optional<std::uint64_t> value = parse_counter(text(key));
        if (!value) {
            complain(key, "a decimal number below 2^64 in a string");
        }
        return value.value_or(0);
    }

    template <class Enum, std::size_t N>
    Enum one_of(const char* key, const std::array<Enum, N>& values) {
        const std::optional<Enum> value = named(values, text(key));
        if (!value) {
            complain(key, "one of the values of the event format");
        }
        return value.value_or(Enum{});
    }

  private:
    const json_t* object_;
    std::string where_;
    const char* code_;
    std::optional<Error> error_;
};

}  // namespace keel::json
