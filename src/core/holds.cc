#include "core/holds.h"

#include <algorithm>
#include <tuple>

#include "core/json_object.h"
#include "core/signature.h"

namespace keel {
namespace {

using json::Json;
using json::ObjectReader;
using json::ObjectWriter;
using json::text_of;

constexpr std::string_view kFirstWords = "ngx-keel-holds 1 ";
constexpr const char* kBadHolds = "bad-holds";
constexpr std::size_t kHashText = 64;

Json text_of(const std::optional<Time>& time) {
    return time ? json::text_of(*time) : Json(json_null());
}

std::optional<Time> optional_moment(ObjectReader& reader, const char* key) {
    const json_t* value = reader.find(key);
    if (value == nullptr || json_is_null(value)) {
        return std::nullopt;
    }
    return reader.moment(key);
}

std::string author(ObjectReader& reader, const char* key) {
    std::string value(reader.text(key));
    if (!is_hold_author(value)) {
        reader.complain(key, "up to 64 printable characters without space");
    }
    return value;
}

Expected<Hold> read_hold(const json_t* object, const std::string& where) {
    ObjectReader reader(object, where, kBadHolds);
    Hold hold;
    if (Expected<Tag> tag = Tag::parse(reader.text("tag")); tag) {
        hold.tag = *std::move(tag);
    } else {
        reader.complain("tag", "registry/repository:name");
    }
    hold.digest = reader.digest("digest");
    hold.author = author(reader, "author");
    hold.owner = author(reader, "owner");
    hold.reason = reader.text("reason");
    if (!is_hold_reason(hold.reason)) {
        reader.complain("reason", "up to 1024 bytes without control characters");
    }
    hold.since = reader.moment("since");
    hold.until = optional_moment(reader, "until");
    hold.verified = optional_moment(reader, "verified");
    if (reader.error()) {
        return tl::unexpected(*reader.error());
    }
    return hold;
}

Expected<Json> parse_json(std::string_view text) {
    json_error_t problem{};
    Json document(json_loadb(text.data(), text.size(), JSON_REJECT_DUPLICATES, &problem));
    if (!document) {
        return fail(kBadHolds, "line " + std::to_string(problem.line) + ", column " +
                                   std::to_string(problem.column) + ": " +
                                   json::printable(problem.text));
    }
    return document;
}

Expected<HoldSet> read_set(const json_t* object) {
    ObjectReader reader(object, "", kBadHolds);
    HoldSet set;
    set.revision = reader.counter("revision");
    const json_t* list = reader.find("holds");
    if (!json_is_array(list) || json_array_size(list) > kMaxHolds) {
        reader.complain("holds", "an array of at most 256");
    }
    if (reader.error()) {
        return tl::unexpected(*reader.error());
    }
    for (std::size_t i = 0; i < json_array_size(list); ++i) {
        Expected<Hold> hold =
            read_hold(json_array_get(list, i), "holds[" + std::to_string(i) + "].");
        if (!hold) {
            return tl::unexpected(std::move(hold).error());
        }
        if (!set.holds.empty() && !(set.holds.back().tag < hold->tag)) {
            return fail(kBadHolds, "the holds are not in the order of their tags");
        }
        set.holds.push_back(*std::move(hold));
    }
    return set;
}

auto place_of(auto& holds, const Tag& tag) {
    return std::lower_bound(holds.begin(), holds.end(), tag,
                            [](const Hold& hold, const Tag& key) { return hold.tag < key; });
}

}  // namespace

const Hold* HoldSet::find(std::string_view registry, std::string_view repository,
                          std::string_view name) const noexcept {
    const auto key = [](const Hold& hold) {
        return std::tuple<std::string_view, std::string_view, std::string_view>(
            hold.tag.registry, hold.tag.repository, hold.tag.name);
    };
    const std::tuple wanted(registry, repository, name);
    const auto found =
        std::lower_bound(holds.begin(), holds.end(), wanted,
                         [&](const Hold& hold, const auto& tag) { return key(hold) < tag; });
    return found != holds.end() && key(*found) == wanted ? &*found : nullptr;
}

bool HoldSet::put(Hold hold) {
    const auto at = place_of(holds, hold.tag);
    if (at != holds.end() && at->tag == hold.tag) {
        *at = std::move(hold);
        return true;
    }
    if (holds.size() >= kMaxHolds) {
        return false;
    }
    holds.insert(at, std::move(hold));
    return true;
}

bool HoldSet::remove(const Tag& tag) {
    const auto at = place_of(holds, tag);
    if (at == holds.end() || at->tag != tag) {
        return false;
    }
    holds.erase(at);
    return true;
}

bool is_hold_author(std::string_view text) noexcept {
    return !text.empty() && text.size() <= kMaxHoldAuthor &&
           std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c <= '~'; });
}

bool is_hold_reason(std::string_view text) {
    return text.size() <= kMaxHoldReason && !json::has_control(text) && text_of(text) != nullptr;
}

json_t* encode_hold(const Hold& hold) {
    ObjectWriter object;
    object.set("tag", text_of(hold.tag.to_string()));
    object.set("digest", text_of(hold.digest));
    object.set("author", text_of(hold.author));
    object.set("owner", text_of(hold.owner));
    object.set("reason", text_of(hold.reason));
    object.set("since", text_of(hold.since));
    object.set("until", text_of(hold.until));
    object.set("verified", text_of(hold.verified));
    return object.take().release();
}

Expected<Hold> decode_hold(const json_t* object) {
    return read_hold(object, "");
}

std::string encode_hold_text(const Hold& hold) {
    return json::dump(Json(encode_hold(hold)));
}

Expected<Hold> decode_hold_text(std::string_view text) {
    const Expected<Json> document = parse_json(text);
    return document ? read_hold(document->get(), "") : tl::unexpected(document.error());
}

std::string encode_holds(const HoldSet& set) {
    const std::string revision = std::to_string(set.revision);
    Json list(json_array());
    for (const Hold& hold : set.holds) {
        if (!list || json_array_append_new(list.get(), encode_hold(hold)) != 0) {
            return {};
        }
    }
    ObjectWriter object;
    object.set("revision", text_of(revision));
    object.set("holds", std::move(list));
    const std::string body = json::dump(object.take());
    const std::string hash = body.empty() ? std::string() : sha256_hex(body);
    return hash.empty() ? std::string()
                        : std::string(kFirstWords) + revision + " " + hash + "\n" + body;
}

Expected<HoldSet> decode_holds(std::string_view text) {
    if (text.size() > kMaxHoldsText) {
        return fail(kBadHolds, "it is larger than any file of holds");
    }
    const std::size_t newline = text.find('\n');
    std::string_view line = text.substr(0, newline);
    if (newline == std::string_view::npos || !line.starts_with(kFirstWords)) {
        return fail(kBadHolds, "it does not begin as a file of holds of version 1 does");
    }
    line.remove_prefix(kFirstWords.size());
    const std::size_t space = std::min(line.find(' '), line.size());
    const std::string_view body = text.substr(newline + 1);
    const std::string_view hash = line.substr(std::min(space + 1, line.size()));
    if (hash.size() != kHashText || hash != sha256_hex(body)) {
        return fail(kBadHolds, "its content is not what its checksum says: torn or altered");
    }
    const Expected<Json> document = parse_json(body);
    if (!document) {
        return tl::unexpected(document.error());
    }
    Expected<HoldSet> set = read_set(document->get());
    if (set && std::to_string(set->revision) != line.substr(0, space)) {
        return fail(kBadHolds, "its first line and its content name different revisions");
    }
    return set;
}

}  // namespace keel
