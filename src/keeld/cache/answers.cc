#include "keeld/cache/answers.h"

#include <charconv>
#include <utility>

#include "core/holds.h"
#include "core/json_object.h"
#include "keeld/json.h"

namespace keel {
namespace {

// So many bytes of what cannot be read are told.
constexpr std::size_t kTold = 300;

// A counter: decimal in a string, or a JSON integer; 0 where it is neither.
std::uint64_t number_of(const json_t* object, const char* key) {
    const json_t* value = json_object_get(object, key);
    if (json_is_integer(value) && json_integer_value(value) > 0) {
        return static_cast<std::uint64_t>(json_integer_value(value));
    }
    const std::string_view text = text_of(object, key);
    std::uint64_t number = 0;
    std::from_chars(text.data(), text.data() + text.size(), number);
    return number;
}

std::optional<std::uint64_t> next_of(const json_t* page) {
    const json_t* next = json_object_get(page, "next");
    return next == nullptr || json_is_null(next) ? std::nullopt
                                                 : std::optional(number_of(page, "next"));
}

Expected<CacheHold> read_hold(const json_t* item) {
    Expected<Hold> told = decode_hold(item);
    if (!told) {
        return fail("bad-answer", told.error().text);
    }
    CacheHold hold;
    hold.tag = std::move(told->tag);
    hold.digest = told->digest;
    hold.author = std::move(told->author);
    hold.owner = std::move(told->owner);
    hold.reason = std::move(told->reason);
    hold.since = told->since;
    hold.until = told->until.value_or(Time{});
    hold.verified = told->verified.value_or(Time{});
    hold.answers = number_of(item, "answers");
    hold.unfetchable = number_of(item, "unfetchable");
    hold.ineffective = number_of(item, "ineffective");
    return hold;
}

// What both pages of tags have in common. `read` puts one entry on the page, or says why not.
template <class Page, class Read>
Expected<Page> read_page(const json_t* root, const Read& read) {
    const json_t* list = json_object_get(root, "tags");
    if (!json_is_array(list)) {
        return fail("bad-answer", "tags is not an array");
    }
    Page page;
    page.epoch = text_of(root, "epoch");
    page.next = next_of(root);
    std::size_t at = 0;
    json_t* item = nullptr;
    json_array_foreach(list, at, item) {
        const Expected<void> done = read(page, item);
        if (!done) {
            UnreadableEntry entry;
            entry.tag = json::printable(std::string(text_of(item, "tag").substr(0, kTold)));
            entry.text = done.error().text;
            page.unreadable.push_back(std::move(entry));
        }
    }
    return page;
}

}  // namespace

Expected<CacheHolds> decode_cache_holds(std::string_view body) {
    const Json root = parse_json(body);
    const json_t* list = json_object_get(root.get(), "holds");
    if (!json_is_array(list)) {
        return fail("bad-answer", "holds is not an array");
    }
    CacheHolds all;
    all.revision = std::to_string(number_of(root.get(), "revision"));
    std::size_t at = 0;
    json_t* item = nullptr;
    json_array_foreach(list, at, item) {
        Expected<CacheHold> hold = read_hold(item);
        if (!hold) {
            return tl::unexpected<Error>(hold.error());
        }
        all.holds.push_back(std::move(*hold));
    }
    return all;
}

Expected<TagPage> decode_tag_page(std::string_view body) {
    const Json root = parse_json(body);
    Expected<TagPage> page = read_page<TagPage>(root.get(), [](TagPage& into, const json_t* item) {
        Expected<TagState> state = decode_tag_state(item);
        if (!state) {
            return Expected<void>(tl::unexpected<Error>(state.error()));
        }
        state->epoch = into.epoch;
        into.tags.push_back(std::move(*state));
        return Expected<void>{};
    });
    if (page) {
        page->seq = number_of(root.get(), "seq");
    }
    return page;
}

Expected<SeenPage> decode_seen_page(std::string_view body) {
    const Json root = parse_json(body);
    return read_page<SeenPage>(root.get(), [](SeenPage& page, const json_t* item) {
        Expected<Tag> tag = Tag::parse(text_of(item, "tag"));
        if (!tag) {
            return Expected<void>(tl::unexpected<Error>(tag.error()));
        }
        const std::optional<Time> last = parse_time(text_of(item, "last_seen"));
        if (!last) {
            return Expected<void>(fail("bad-event", "last_seen: not a time"));
        }
        const Time kubelet = parse_time(text_of(item, "no_kubelet_since")).value_or(Time{});
        page.seen.push_back(SeenTag{std::move(*tag), *last, kubelet});
        return Expected<void>{};
    });
}

}  // namespace keel
