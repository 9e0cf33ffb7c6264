// Everything that core reads from a line of text by others: references, tags, digests, the path and
// the headers of a manifest request, times and durations.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/digest.h"
#include "core/manifest_request.h"
#include "core/reference.h"
#include "core/time.h"
#include "fuzz/require.h"

namespace keel {
namespace {

void check_error(const Error& error) {
    for (const char c : error.text) {
        REQUIRE(c >= ' ' && c <= '~');
    }
    REQUIRE(error.text.size() < 400);
}

void check_reference(std::string_view text) {
    const auto reference = Reference::parse(text);
    if (!reference) {
        check_error(reference.error());
        return;
    }
    REQUIRE(reference->spelling == text);
    REQUIRE(is_registry(reference->registry));
    REQUIRE(is_repository(reference->repository));
    REQUIRE(reference->registry != "index.docker.io");
    REQUIRE(reference->registry != "docker.io" ||
            reference->repository.find('/') != std::string::npos);
    REQUIRE(reference->name.empty() || is_tag_name(reference->name));
    REQUIRE(!reference->name.empty() || reference->digest);
    REQUIRE(reference->name_written || reference->name.empty() || reference->name == "latest");

    // What it means, written in full, means the same.
    std::string full = reference->registry + "/" + reference->repository;
    if (const auto tag = reference->tag()) {
        REQUIRE(Tag::parse(tag->to_string()) == *tag);
        full += ":" + reference->name;
    }
    if (reference->digest) {
        full += "@" + reference->digest->to_string();
    }
    const auto again = Reference::parse(full);
    REQUIRE(again);
    REQUIRE(again->registry == reference->registry);
    REQUIRE(again->repository == reference->repository);
    REQUIRE(again->name == reference->name);
    REQUIRE(again->digest == reference->digest);

    // And a pull of it is seen as what it is.
    const std::string wanted = reference->digest ? reference->digest->to_string() : reference->name;
    const std::string request = "/v2/" + reference->repository + "/manifests/" + wanted;
    const auto path = parse_manifest_path(request);
    REQUIRE(path);
    REQUIRE(path->repository == reference->repository);
    REQUIRE(path->reference == wanted);
    REQUIRE(path->by_digest == reference->digest.has_value());
}

void check_tag(std::string_view text) {
    const auto tag = Tag::parse(text);
    if (!tag) {
        check_error(tag.error());
        return;
    }
    REQUIRE(tag->to_string() == text);
}

void check_request(std::string_view text) {
    if (const auto path = parse_manifest_path(text)) {
        REQUIRE(is_repository(path->repository));
        REQUIRE(path->by_digest || is_tag_name(path->reference));
        REQUIRE("/v2/" + std::string(path->repository) + "/manifests/" +
                    std::string(path->reference) ==
                text);
    }
    AcceptedTypes whole;
    whole.add_line(text);
    AcceptedTypes twice = whole;
    twice.add_line(text);
    REQUIRE(whole.complete() == twice.complete());
    // One line is the same as its elements, each on a line of its own.
    AcceptedTypes parts;
    std::string_view rest = text;
    while (!rest.empty()) {
        const std::string_view element = rest.substr(0, rest.find(','));
        parts.add_line(element);
        rest.remove_prefix(std::min(element.size() + 1, rest.size()));
    }
    REQUIRE(whole.complete() == parts.complete());
    REQUIRE(!to_string(manifest_kind(text)).empty());
    REQUIRE(!to_string(asker(text)).empty());
}

void check_values(std::string_view text) {
    if (const auto digest = Digest::parse(text)) {
        REQUIRE(digest->to_string() == text);
    }
    if (const auto time = parse_time(text); time && *time >= Time{}) {
        REQUIRE(parse_time(format_time(*time)) == time);
    }
    if (const auto duration = parse_duration(text)) {
        REQUIRE(parse_duration(format_duration(*duration)) == duration);
    }
    REQUIRE(!is_signature_tag(text) || text.size() >= 71);
}

}  // namespace
}  // namespace keel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    keel::check_reference(text);
    keel::check_tag(text);
    keel::check_request(text);
    keel::check_values(text);
    return 0;
}
