#include "core/api_request.h"

#include <algorithm>
#include <array>

#include "core/holds.h"
#include "core/json_object.h"

namespace keel {
namespace {

using json::Json;
using json::ObjectReader;

constexpr const char* kBadBody = "bad-body";

struct Named {
    std::string_view path;
    ApiResource resource;
};
constexpr std::array kPlain{Named{"status", ApiResource::status}, Named{"tags", ApiResource::tags},
                            Named{"metrics", ApiResource::metrics},
                            Named{"holds", ApiResource::holds}};
constexpr std::array kOfTag{Named{"holds/", ApiResource::hold},
                            Named{"current/", ApiResource::current}};

constexpr std::array kKinds{ManifestKind::index, ManifestKind::image};

int hex_value(char c) noexcept {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    const char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// What is no escape stays as it is.
std::string decoded(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const int high = text[i] == '%' && i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
        const int low = high >= 0 ? hex_value(text[i + 2]) : -1;
        if (low < 0) {
            result.push_back(text[i]);
            continue;
        }
        result.push_back(static_cast<char>(high * 16 + low));
        i += 2;
    }
    return result;
}

std::optional<std::string> argument(std::string_view rest, std::string_view name) {
    while (!rest.empty()) {
        const std::string_view one = rest.substr(0, rest.find('&'));
        rest.remove_prefix(std::min(one.size() + 1, rest.size()));
        const std::size_t equals = one.find('=');
        if (equals != std::string_view::npos && one.substr(0, equals) == name) {
            return decoded(one.substr(equals + 1));
        }
    }
    return std::nullopt;
}

Expected<Json> parse_body(std::string_view body) {
    if (body.size() > kMaxApiBody) {
        return fail("too-large", "the body has more than 16384 bytes");
    }
    json_error_t problem{};
    Json document(json_loadb(body.data(), body.size(), JSON_REJECT_DUPLICATES, &problem));
    if (!document) {
        return fail(kBadBody, "line " + std::to_string(problem.line) + ", column " +
                                  std::to_string(problem.column) + ": " +
                                  json::printable(problem.text));
    }
    return document;
}

bool is_absent(const ObjectReader& reader, const char* key) {
    const json_t* value = reader.find(key);
    return value == nullptr || json_is_null(value);
}

std::optional<Time> optional_moment(ObjectReader& reader, const char* key) {
    return is_absent(reader, key) ? std::nullopt : std::optional(reader.moment(key));
}

bool optional_flag(ObjectReader& reader, const char* key) {
    if (!is_absent(reader, key) && !json_is_boolean(reader.find(key))) {
        reader.complain(key, "true or false");
    }
    return json_is_true(reader.find(key));
}

std::string optional_text(ObjectReader& reader, const char* key) {
    return is_absent(reader, key) ? std::string() : std::string(reader.text(key));
}

}  // namespace

Expected<ApiPath> parse_api_path(std::string_view path) {
    for (const Named& entry : kPlain) {
        if (path == entry.path) {
            return ApiPath{entry.resource, {}};
        }
    }
    for (const Named& entry : kOfTag) {
        if (!path.starts_with(entry.path)) {
            continue;
        }
        Expected<Tag> tag = Tag::parse(path.substr(entry.path.size()));
        if (!tag) {
            return tl::unexpected(std::move(tag).error());
        }
        return ApiPath{entry.resource, *std::move(tag)};
    }
    return fail("not-found",
                "keel_api has status, tags, metrics, holds, holds/TAG and current/TAG");
}

Expected<TagsQuery> parse_tags_query(std::string_view arguments) {
    TagsQuery query;
    if (const auto since = argument(arguments, "since")) {
        const std::optional<std::uint64_t> value = json::parse_counter(*since);
        if (!value) {
            return fail("bad-query", "since must be a decimal number");
        }
        query.since = *value;
    }
    if (const auto limit = argument(arguments, "limit")) {
        const std::optional<std::uint64_t> value = json::parse_counter(*limit);
        if (!value || *value == 0) {
            return fail("bad-query", "limit must be a decimal number from 1");
        }
        query.limit = std::min<std::uint64_t>(*value, kLargestPage);
    }
    if (const auto seen_since = argument(arguments, "seen_since")) {
        query.seen_since = parse_time(*seen_since);
        if (!query.seen_since) {
            return fail("bad-query", "seen_since must be a time such as 2026-11-22T12:00:00Z");
        }
    }
    query.epoch = argument(arguments, "epoch").value_or("");
    if (query.since > 0 && query.epoch.empty()) {
        return fail("bad-query", "since needs the epoch that it belongs to");
    }
    return query;
}

std::optional<std::uint64_t> parse_revision(std::string_view text) noexcept {
    if (text.size() > 2 && text.front() == '"' && text.back() == '"') {
        text = text.substr(1, text.size() - 2);
    }
    return json::parse_counter(text);
}

Expected<HoldWrite> parse_hold_write(std::string_view body) {
    const Expected<Json> document = parse_body(body);
    if (!document) {
        return tl::unexpected(document.error());
    }
    ObjectReader reader(document->get(), "", kBadBody);
    HoldWrite write;
    write.digest = reader.digest("digest");
    write.reason = optional_text(reader, "reason");
    write.owner = optional_text(reader, "owner");
    write.until = optional_moment(reader, "until");
    write.verified = optional_moment(reader, "verified");
    write.force = optional_flag(reader, "force");
    if (!is_absent(reader, "kind")) {
        write.kind = reader.one_of("kind", kKinds);
    }
    if (!is_hold_reason(write.reason)) {
        reader.complain("reason", "up to 1024 bytes without control characters");
    }
    if (!write.owner.empty() && !is_hold_author(write.owner)) {
        reader.complain("owner", "up to 64 printable characters without space");
    }
    if (reader.error()) {
        return tl::unexpected(*reader.error());
    }
    return write;
}

Expected<CurrentWrite> parse_current_write(std::string_view body) {
    const Expected<Json> document = parse_body(body);
    if (!document) {
        return tl::unexpected(document.error());
    }
    ObjectReader reader(document->get(), "", kBadBody);
    CurrentWrite write;
    write.digest = reader.digest("digest");
    write.source = optional_text(reader, "source");
    if (write.source.size() > json::kMaxLabel || json::has_control(write.source)) {
        reader.complain("source", "up to 255 bytes without control characters");
    }
    if (reader.error()) {
        return tl::unexpected(*reader.error());
    }
    return write;
}

}  // namespace keel
