// What a client and a registry send about a manifest, as the module reads it on the pull path: the
// path, Accept, Content-Type, User-Agent, the digest, the ETag and the lines about rate limits. The
// first byte chooses which; the other fuzz targets read references, times and events.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/digest.h"
#include "core/etag.h"
#include "core/manifest_request.h"
#include "core/rate_limit.h"
#include "core/reference.h"
#include "fuzz/require.h"

namespace keel {
namespace {

bool within(std::string_view part, std::string_view whole) {
    return part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size();
}

void check_path(std::string_view text) {
    const auto split = split_manifest_path(text);
    const auto path = parse_manifest_path(text);
    if (split) {
        REQUIRE("/v2/" + std::string(split->repository) + "/manifests/" +
                    std::string(split->reference) ==
                text);
        REQUIRE(path.has_value() == (is_repository(split->repository) &&
                                     (is_tag_name(split->reference) || (path && path->by_digest))));
    }
    if (!path) {
        return;
    }
    REQUIRE(split && split->repository == path->repository && split->reference == path->reference);
    REQUIRE(within(path->repository, text));
    REQUIRE(within(path->reference, text));
    REQUIRE(is_repository(path->repository));
    REQUIRE(path->repository.size() <= 255);
    REQUIRE(path->by_digest == (path->reference.find(':') != std::string_view::npos));
    REQUIRE(path->by_digest || is_tag_name(path->reference));
    // The name is found behind the repository, at a fixed distance.
    REQUIRE(path->reference.data() == path->repository.data() + path->repository.size() +
                                          std::string_view("/manifests/").size());
    REQUIRE("/v2/" + std::string(path->repository) + "/manifests/" + std::string(path->reference) ==
            text);
    // A path that goes on is another one.
    REQUIRE(!parse_manifest_path(std::string(text) + "/"));
}

void check_accept(std::string_view text) {
    AcceptedTypes whole;
    whole.add_line(text);
    // One line is the same as its elements in any order, each on a line of its own.
    AcceptedTypes parts;
    std::string backwards;
    std::string_view rest = text;
    while (!rest.empty()) {
        const std::string_view element = rest.substr(0, rest.find(','));
        parts.add_line(element);
        backwards.insert(0, std::string(element) + ",");
        rest.remove_prefix(std::min(element.size() + 1, rest.size()));
    }
    REQUIRE(whole.complete() == parts.complete());
    AcceptedTypes reversed;
    reversed.add_line(backwards);
    REQUIRE(whole.complete() == reversed.complete());
    // More of it never makes it less.
    whole.add_line("text/html");
    REQUIRE(whole.complete() == parts.complete());
}

void check_type(std::string_view text) {
    const ManifestKind kind = manifest_kind(text);
    REQUIRE(!to_string(kind).empty());
    if (text.find(';') == std::string_view::npos) {
        REQUIRE(manifest_kind(std::string(text) + "; charset=utf-8") == kind);
        REQUIRE(manifest_kind(" " + std::string(text) + "\t") == kind);
    }
    if (kind == ManifestKind::index || kind == ManifestKind::image) {
        AcceptedTypes accepted;
        accepted.add_line(text);
        REQUIRE(!accepted.complete());  // one type is never all four
    }
}

void check_agent(std::string_view text) {
    const Asker who = asker(text);
    REQUIRE(!to_string(who).empty());
    REQUIRE(who == Asker::other || text.find('/') != std::string_view::npos);
}

void check_digest(std::string_view text) {
    const auto digest = Digest::parse(text);
    if (!digest) {
        return;
    }
    REQUIRE(digest->to_string() == text);
    REQUIRE(Digest::from_bytes(digest->algorithm(), digest->bytes()) == *digest);
}

void check_etag(std::string_view text) {
    const std::string_view bare = bare_etag(text);
    REQUIRE(within(bare, text));
    REQUIRE(bare.size() + 4 >= text.size());
    if (text.find('"') == std::string_view::npos && !text.empty()) {
        const std::string quoted = '"' + std::string(text) + '"';
        REQUIRE(bare_etag(quoted) == text);
        REQUIRE(bare_etag("W/" + quoted) == text);
    }
    if (const auto digest = Digest::parse(bare)) REQUIRE(digest->to_string() == bare);
}

void check_rates(std::string_view text) {
    if (const auto limit = parse_rate_limit(text)) {
        REQUIRE(limit->count <= kMaxRateCount);
        REQUIRE(limit->window <= 366U * 24 * 60 * 60);
        REQUIRE(parse_rate_limit(std::to_string(limit->count) +
                                 ";w=" + std::to_string(limit->window)) == limit);
    }
    if (const auto seconds = parse_retry_seconds(text)) {
        REQUIRE(*seconds <= 366U * 24 * 60 * 60);
        REQUIRE(parse_retry_seconds(std::to_string(*seconds)) == seconds);
    }
}

}  // namespace
}  // namespace keel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    // libFuzzer's buffer ends with it, so that a read behind its end is seen.
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    switch (data[0]) {
        case 'P':
            keel::check_path(text);
            break;
        case 'A':
            keel::check_accept(text);
            break;
        case 'T':
            keel::check_type(text);
            break;
        case 'U':
            keel::check_agent(text);
            break;
        case 'D':
            keel::check_digest(text);
            break;
        case 'E':
            keel::check_etag(text);
            break;
        case 'R':
            keel::check_rates(text);
            break;
        default:
            break;
    }
    return 0;
}
