#include "keeld/registry/manifest_parts.h"

#include <optional>
#include <utility>

#include "keeld/json.h"

namespace keel {
namespace {

bool is_attestation(const json_t* descriptor) {
    const json_t* platform = json_object_get(descriptor, "platform");
    return text_of(platform, "os") == "unknown" || text_of(platform, "architecture") == "unknown";
}

bool is_elsewhere(const json_t* descriptor) {
    return json_array_size(json_object_get(descriptor, "urls")) > 0;
}

std::optional<ManifestPart> part_of(const json_t* descriptor) {
    const std::optional<Digest> digest = Digest::parse(text_of(descriptor, "digest"));
    if (!digest) {
        return std::nullopt;
    }
    const json_t* size = json_object_get(descriptor, "size");
    const std::int64_t bytes = json_is_integer(size) ? json_integer_value(size) : kAnySize;
    return ManifestPart{*digest, bytes};
}

tl::unexpected<Error> no_digest(const std::string& where) {
    return fail("incomplete", where + ".digest is not a digest");
}

// Those of an array; an array that is not there has none.
Expected<std::vector<ManifestPart>> parts_in(const json_t* root, const char* key,
                                             bool (*left_out)(const json_t*)) {
    std::vector<ManifestPart> parts;
    std::size_t at = 0;
    json_t* item = nullptr;
    json_array_foreach(json_object_get(root, key), at, item) {
        if (left_out(item)) {
            continue;
        }
        const std::optional<ManifestPart> part = part_of(item);
        if (!part) {
            return no_digest(std::string(key) + "[" + std::to_string(at) + "]");
        }
        parts.push_back(*part);
    }
    return parts;
}

}  // namespace

Expected<ManifestParts> parts_of_manifest(ManifestKind kind, std::string_view body) {
    const Json root = parse_json(body);
    const bool index = kind == ManifestKind::index;
    if (index && !json_is_array(json_object_get(root.get(), "manifests"))) {
        return fail("incomplete", "manifests is not an array");
    }
    auto listed = index ? parts_in(root.get(), "manifests", is_attestation)
                        : parts_in(root.get(), "layers", is_elsewhere);
    if (!listed) {
        return tl::unexpected<Error>(listed.error());
    }
    ManifestParts parts;
    if (index) {
        parts.manifests = std::move(*listed);
        return parts;
    }
    const std::optional<ManifestPart> config = part_of(json_object_get(root.get(), "config"));
    if (!config) {
        return no_digest("config");
    }
    parts.blobs.push_back(*config);
    parts.blobs.insert(parts.blobs.end(), listed->begin(), listed->end());
    return parts;
}

}  // namespace keel
