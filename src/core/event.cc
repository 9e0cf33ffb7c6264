#include "core/event.h"

#include <array>
#include <cstddef>
#include <utility>

#include "core/json_object.h"

namespace keel {
namespace {

using json::dump;
using json::is_control;
using json::Json;
using json::kMaxLabel;
using json::named;
using json::ObjectReader;
using json::ObjectWriter;
using json::printable;
using json::text_of;

constexpr const char* kBadEvent = "bad-event";
constexpr std::string_view kSpecVersion = "1.0";
constexpr std::string_view kTagType = "io.ngx-keel.tag";
constexpr std::string_view kHoldType = "io.ngx-keel.hold";
constexpr std::string_view kSourcePrefix = "/caches/";

// --- writing ---

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

template <class Event>
std::string encode_all(const std::vector<Event>& events) {
    const Json list(json_array());
    for (const Event& event : events) {
        if (!list || json_array_append_new(list.get(), encode(event).release()) != 0) {
            return {};
        }
    }
    return dump(list);
}

// --- reading ---

constexpr std::array kKinds{ManifestKind::unknown, ManifestKind::index, ManifestKind::image,
                            ManifestKind::legacy};
constexpr std::array kAskers{Asker::other, Asker::kubelet, Asker::keeld};
constexpr std::array kChanges{Change::fresh,     Change::changed, Change::same, Change::revert,
                              Change::confirmed, Change::cleared, Change::held};
constexpr std::array kHoldNews{HoldNews::set, HoldNews::lifted, HoldNews::expiring,
                               HoldNews::unfetchable, HoldNews::ineffective};

Expected<std::vector<Sighting>> decode_history(const json_t* list, const std::string& where) {
    if (!json_is_array(list)) {
        return fail("bad-event", where + "history: expected an array");
    }
    std::vector<Sighting> history;
    history.reserve(json_array_size(list));
    for (std::size_t i = 0; i < json_array_size(list); ++i) {
        ObjectReader reader(json_array_get(list, i), where + "history[" + std::to_string(i) + "].",
                            kBadEvent);
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
    ObjectReader reader(object, where, kBadEvent);
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
    ObjectReader reader(object, where, kBadEvent);
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
    ObjectReader reader(object, where, kBadEvent);
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
