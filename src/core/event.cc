#include "core/event.h"

#include <array>
#include <charconv>
#include <cstddef>
#include <memory>
#include <utility>

#include <jansson.h>

namespace keel {
namespace {

constexpr std::string_view kSpecVersion = "1.0";
constexpr std::string_view kTagType = "io.ngx-keel.tag";
constexpr std::string_view kHoldType = "io.ngx-keel.hold";
constexpr std::string_view kSourcePrefix = "/caches/";
constexpr std::size_t kMaxLabel =
    255;  // bytes of id, source, epoch and node, both written and read

struct JsonRelease {
    void operator()(json_t* value) const noexcept { json_decref(value); }
};
using Json = std::unique_ptr<json_t, JsonRelease>;

constexpr bool is_control(char c) noexcept {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

bool has_control(std::string_view text) noexcept {
    for (const char c : text) {
        if (is_control(c)) {
            return true;
        }
    }
    return false;
}

// jansson's messages quote the input.
std::string printable(std::string text) {
    for (char& c : text) {
        if (c < ' ' || c > '~') {
            c = '?';
        }
    }
    return text;
}

// --- writing
// ---------------------------------------------------------------------------------------------------------

// A label that came from outside (`keel_node` may be a request header) as every reader of ours
// accepts it: cut, no control characters, and plain ASCII where it was not UTF-8.
Json label(std::string_view text) {
    std::string clean(text.substr(0, kMaxLabel));
    for (char& c : clean) {
        if (is_control(c)) {
            c = '?';
        }
    }
    if (Json value(json_stringn(clean.data(), clean.size())); value) {
        return value;
    }
    for (char& c : clean) {
        if (static_cast<unsigned char>(c) >= 0x80) {
            c = '?';
        }
    }
    return Json(json_stringn(clean.data(), clean.size()));
}

Json text_of(std::string_view text) {
    return Json(json_stringn(text.data(), text.size()));
}

Json text_of(Time time) {
    return text_of(format_time(time));
}

// null for the empty digest.
Json text_of(const Digest& digest) {
    return digest.empty() ? Json(json_null()) : text_of(digest.to_string());
}

Json text_of(const std::optional<Digest>& digest) {
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

Json encode_history(const std::vector<Sighting>& history) {
    Json list(json_array());
    for (const Sighting& sighting : history) {
        ObjectWriter entry;
        entry.set("digest", text_of(sighting.digest));
        entry.set("first_seen", text_of(sighting.first_seen));
        entry.set("last_seen", text_of(sighting.last_seen));
        if (!list || json_array_append_new(list.get(), entry.take().release()) != 0) {
            return nullptr;
        }
    }
    return list;
}

Json encode_state(const TagState& state, bool with_history) {
    ObjectWriter object;
    object.set("tag", text_of(state.tag.to_string()));
    object.set("registry", text_of(state.tag.registry));
    object.set("repository", text_of(state.tag.repository));
    object.set("name", text_of(state.tag.name));
    object.set("digest", text_of(state.digest));
    object.set("kind", text_of(to_string(state.kind)));
    object.set("change", text_of(to_string(state.change)));
    object.set("previous", text_of(state.previous));
    object.set("pending", text_of(state.pending));
    object.set("epoch", label(state.epoch));
    object.set("seq", text_of(std::to_string(state.seq)));
    object.set("first_seen", text_of(state.first_seen));
    object.set("last_seen", text_of(state.last_seen));
    object.set("asked_by", text_of(to_string(state.asked_by)));
    object.set("node", label(state.node));
    if (with_history) {
        object.set("history", encode_history(state.history));
    }
    return object.take();
}

// What all events have beside their data. `Event`: TagEvent or HoldEvent.
template <class Event>
Json encode_event(const Event& event, std::string_view type, const Tag& tag, Json data) {
    ObjectWriter object;
    object.set("specversion", text_of(kSpecVersion));
    object.set("type", text_of(type));
    object.set("source", label(event.source));
    object.set("id", label(event.id));
    object.set("time", text_of(event.time));
    object.set("subject", text_of(tag.to_string()));
    object.set("datacontenttype", text_of("application/json"));
    object.set("data", std::move(data));
    return object.take();
}

Json encode(const TagEvent& event) {
    return encode_event(event, kTagType, event.data.tag, encode_state(event.data, false));
}

Json encode(const HoldEvent& event) {
    ObjectWriter data;
    data.set("tag", text_of(event.tag.to_string()));
    data.set("digest", text_of(event.digest));
    data.set("event", text_of(to_string(event.news)));
    data.set("revision", text_of(std::to_string(event.revision)));
    return encode_event(event, kHoldType, event.tag, data.take());
}

int append_text(const char* text, std::size_t size, void* out) {
    static_cast<std::string*>(out)->append(text, size);
    return 0;
}

template <class Event>
std::string encode_all(const std::vector<Event>& events) {
    const Json list(json_array());
    for (const Event& event : events) {
        if (!list || json_array_append_new(list.get(), encode(event).release()) != 0) {
            return {};
        }
    }
    std::string body;
    if (!list || json_dump_callback(list.get(), append_text, &body, JSON_COMPACT) != 0) {
        return {};
    }
    return body;
}

// --- reading
// ---------------------------------------------------------------------------------------------------------

template <class Enum, std::size_t N>
std::optional<Enum> named(const std::array<Enum, N>& values, std::string_view text) noexcept {
    for (const Enum value : values) {
        if (to_string(value) == text) {
            return value;
        }
    }
    return std::nullopt;
}

constexpr std::array kKinds{ManifestKind::unknown, ManifestKind::index, ManifestKind::image,
                            ManifestKind::legacy};
constexpr std::array kAskers{Asker::other, Asker::kubelet, Asker::keeld};
constexpr std::array kChanges{Change::fresh,     Change::changed, Change::same, Change::revert,
                              Change::confirmed, Change::cleared, Change::held};
constexpr std::array kHoldNews{HoldNews::set, HoldNews::lifted, HoldNews::expiring,
                               HoldNews::unfetchable, HoldNews::ineffective};

std::optional<std::uint64_t> parse_counter(std::string_view text) noexcept {
    std::uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data(), end, value);
    const bool padded = text.size() > 1 && text.front() == '0';
    return error == std::errc{} && stopped == end && !padded ? std::optional(value) : std::nullopt;
}

// Reads fields by name and keeps the first complaint; after one, what it returns means nothing.
class ObjectReader {
  public:
    // `where` goes before the field's name in complaints: "event 3: data.".
    ObjectReader(const json_t* object, std::string where)
        : object_(object), where_(std::move(where)) {
        if (!json_is_object(object)) {
            const std::string_view thing(where_.data(), where_.find_last_not_of(".: ") + 1);
            error_ = Error{"bad-event", (thing.empty() ? "the state" : std::string(thing)) +
                                            ": expected a JSON object"};
        }
    }

    [[nodiscard]] const std::optional<Error>& error() const noexcept { return error_; }

    void complain(const char* key, std::string_view expected) {
        if (!error_) {
            error_ = Error{"bad-event", where_ + key + ": expected " + std::string(expected)};
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
    std::optional<Error> error_;
};

Expected<std::vector<Sighting>> decode_history(const json_t* list, const std::string& where) {
    if (!json_is_array(list)) {
        return fail("bad-event", where + "history: expected an array");
    }
    std::vector<Sighting> history;
    history.reserve(json_array_size(list));
    for (std::size_t i = 0; i < json_array_size(list); ++i) {
        ObjectReader reader(json_array_get(list, i), where + "history[" + std::to_string(i) + "].");
        Sighting sighting;
        sighting.digest = reader.digest("digest");
        sighting.first_seen = reader.moment("first_seen");
        sighting.last_seen = reader.moment("last_seen");
        if (reader.error()) {
            return tl::unexpected(*reader.error());
        }
        history.push_back(sighting);
    }
    return history;
}

Expected<TagState> decode_state(const json_t* object, const std::string& where) {
    ObjectReader reader(object, where);
    TagState state;
    state.tag.registry = reader.part("registry", is_registry);
    state.tag.repository = reader.part("repository", is_repository);
    state.tag.name = reader.part("name", is_tag_name);
    if (reader.text("tag") != state.tag.to_string()) {
        reader.complain("tag", "registry/repository:name, as the three say");
    }
    state.digest = reader.digest("digest");
    state.kind = reader.one_of("kind", kKinds);
    if (const std::string_view change = reader.text("change"); !change.empty()) {
        state.change = reader.one_of("change", kChanges);
    }
    state.previous = reader.optional_digest("previous");
    state.pending = reader.optional_digest("pending");
    state.epoch = reader.label("epoch", false);
    state.seq = reader.counter("seq");
    state.first_seen = reader.moment("first_seen");
    state.last_seen = reader.moment("last_seen");
    state.asked_by = reader.one_of("asked_by", kAskers);
    state.node = reader.label("node", true);
    if (reader.error()) {
        return tl::unexpected(*reader.error());
    }
    if (const json_t* list = reader.find("history"); list != nullptr) {
        Expected<std::vector<Sighting>> history = decode_history(list, where);
        if (!history) {
            return tl::unexpected(std::move(history).error());
        }
        state.history = *std::move(history);
    }
    return state;
}

Expected<void> decode_hold(const json_t* object, const std::string& where, HoldEvent& event) {
    ObjectReader reader(object, where);
    Expected<Tag> tag = Tag::parse(reader.text("tag"));
    if (!tag) {
        reader.complain("tag", "registry/repository:name");
    }
    event.digest = reader.digest("digest");
    event.news = reader.one_of("event", kHoldNews);
    event.revision = reader.counter("revision");
    if (reader.error()) {
        return tl::unexpected(*reader.error());
    }
    event.tag = *std::move(tag);
    return {};
}

// One event into its place in the batch; one of another type is none of ours to judge.
Expected<void> decode_event(const json_t* object, std::size_t index, Batch& batch) {
    const std::string where = "event " + std::to_string(index) + ": ";
    ObjectReader reader(object, where);
    if (reader.text("specversion") != kSpecVersion) {
        reader.complain("specversion", "\"1.0\"");
    }
    const std::string_view type = reader.text("type");
    if (!reader.error() && type != kTagType && type != kHoldType) {
        ++batch.skipped;
        return {};
    }
    const std::string id = reader.label("id", false);
    const std::string source = reader.label("source", false);
    if (!source.starts_with(kSourcePrefix) || source.size() == kSourcePrefix.size()) {
        reader.complain("source", "\"/caches/<name>\"");
    }
    const Time time = reader.moment("time");
    if (reader.error()) {
        return tl::unexpected(*reader.error());
    }
    Tag about;
    if (type == kHoldType) {
        HoldEvent event{id, source, time, {}, {}, {}, 0};
        Expected<void> read = decode_hold(reader.find("data"), where + "data.", event);
        if (!read) {
            return read;
        }
        about = event.tag;
        batch.holds.push_back(std::move(event));
    } else {
        Expected<TagState> data = decode_state(reader.find("data"), where + "data.");
        if (!data) {
            return tl::unexpected(std::move(data).error());
        }
        about = data->tag;
        batch.events.push_back(TagEvent{id, source, time, *std::move(data)});
    }
    if (reader.find("subject") != nullptr && reader.text("subject") != about.to_string()) {
        reader.complain("subject", "the tag of its data");
        return tl::unexpected(*reader.error());
    }
    return {};
}

}  // namespace

std::string_view to_string(Change change) noexcept {
    switch (change) {
        case Change::fresh:
            return "new";
        case Change::changed:
            return "changed";
        case Change::same:
            return "same";
        case Change::revert:
            return "revert";
        case Change::confirmed:
            return "confirmed";
        case Change::cleared:
            return "cleared";
        case Change::held:
            return "held";
        case Change::none:
            break;
    }
    return "";
}

std::string_view to_string(HoldNews news) noexcept {
    switch (news) {
        case HoldNews::set:
            return "set";
        case HoldNews::lifted:
            return "lifted";
        case HoldNews::expiring:
            return "expiring";
        case HoldNews::unfetchable:
            return "unfetchable";
        case HoldNews::ineffective:
            return "ineffective";
    }
    return "";
}

std::optional<Change> parse_change(std::string_view text) noexcept {
    return named(kChanges, text);
}

json_t* encode_tag_state(const TagState& state, bool with_history) {
    return encode_state(state, with_history).release();
}

Expected<TagState> decode_tag_state(const json_t* object) {
    return decode_state(object, "");
}

std::string encode_batch(const std::vector<TagEvent>& events) {
    return encode_all(events);
}

std::string encode_hold_batch(const std::vector<HoldEvent>& events) {
    return encode_all(events);
}

Expected<Batch> decode_batch(std::string_view body) {
    if (body.size() > kMaxBatchBytes) {
        return fail("too-large", "the batch has " + std::to_string(body.size()) +
                                     " bytes, where 65536 are allowed; send fewer events at once");
    }
    // A key that is there twice would mean one thing to us and another to the next reader.
    json_error_t problem{};
    const Json list(json_loadb(body.data(), body.size(), JSON_REJECT_DUPLICATES, &problem));
    if (!list) {
        return fail("bad-json", "line " + std::to_string(problem.line) + ", column " +
                                    std::to_string(problem.column) + ": " +
                                    printable(problem.text));
    }
    if (!json_is_array(list.get())) {
        return fail("bad-event", "the batch: expected a JSON array of events");
    }
    const std::size_t count = json_array_size(list.get());
    if (count > kMaxBatchEvents) {
        return fail("too-large", "the batch has " + std::to_string(count) +
                                     " events, where 100 are allowed; send fewer at once");
    }
    Batch batch;
    batch.events.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
        Expected<void> event = decode_event(json_array_get(list.get(), i), i, batch);
        if (!event) {
            return tl::unexpected(std::move(event).error());
        }
    }
    return batch;
}

}  // namespace keel
