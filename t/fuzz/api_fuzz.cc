// What anybody can send to keel_api: path, query, If-Match and bodies.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/api_request.h"
#include "core/holds.h"
#include "fuzz/require.h"

namespace keel {
namespace {

void check_error(const Error& error) {
    REQUIRE(!error.code.empty());
    REQUIRE(error.text.size() < 800);
    for (const char c : error.text) {
        REQUIRE(c >= ' ' && c <= '~');
    }
}

void check_path(std::string_view text) {
    const auto path = parse_api_path(text);
    if (!path) {
        check_error(path.error());
        return;
    }
    const bool of_tag =
        path->resource == ApiResource::hold || path->resource == ApiResource::current;
    REQUIRE(of_tag == text.ends_with("/" + path->tag.to_string()));
    REQUIRE(!of_tag || Tag::parse(path->tag.to_string()) == path->tag);
}

void check_query(std::string_view text) {
    const auto query = parse_tags_query(text);
    if (!query) {
        check_error(query.error());
        return;
    }
    REQUIRE(query->limit >= 1 && query->limit <= kLargestPage);
    REQUIRE(query->since == 0 || !query->epoch.empty());
    REQUIRE(query->epoch.size() <= text.size());
}

void check_bodies(std::string_view text) {
    if (const auto write = parse_hold_write(text)) {
        REQUIRE(!write->digest.empty());
        REQUIRE(is_hold_reason(write->reason));
        REQUIRE(write->owner.empty() || is_hold_author(write->owner));
    } else {
        check_error(write.error());
    }
    if (const auto write = parse_current_write(text)) {
        REQUIRE(!write->digest.empty());
    } else {
        check_error(write.error());
    }
}

}  // namespace
}  // namespace keel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    keel::check_path(text);
    keel::check_query(text);
    keel::check_bodies(text);
    if (const auto revision = keel::parse_revision(text)) {
        REQUIRE(text.find(std::to_string(*revision)) <= 1);
    }
    return 0;
}
