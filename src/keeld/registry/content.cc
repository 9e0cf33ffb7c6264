#include "keeld/registry/content.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "keeld/json.h"

namespace keel {
namespace {

std::string platform_text(const json_t* platform) {
    std::string text(text_of(platform, "os"));
    text += '/';
    text += text_of(platform, "architecture");
    const std::string_view variant = text_of(platform, "variant");
    // arm64/v8 is what plain arm64 means; nodes do not report variants.
    if (!variant.empty() && !(text == "linux/arm64" && variant == "v8")) {
        text += '/';
        text += variant;
    }
    return text;
}

Expected<Content> from_index(Content content, const json_t* root) {
    const json_t* manifests = json_object_get(root, "manifests");
    if (!json_is_array(manifests)) {
        return fail("bad-manifest",
                    "index " + content.digest.to_string() + ": manifests is not an array");
    }
    std::size_t at = 0;
    json_t* item = nullptr;
    json_array_foreach(manifests, at, item) {
        const auto digest = Digest::parse(text_of(item, "digest"));
        if (!digest) {
            return fail("bad-manifest", "index " + content.digest.to_string() + ": manifests[" +
                                            std::to_string(at) + "].digest is not a digest");
        }
        const json_t* platform = json_object_get(item, "platform");
        const std::string name = platform_text(platform);
        if (platform == nullptr || name.starts_with("unknown/")) {
            continue;
        }
        content.platforms.push_back(PlatformContent{name, *digest, Digest{}});
    }
    return content;
}

bool same_part(const Digest& one, const PlatformContent& other) {
    return one == other.manifest || (!other.config.empty() && one == other.config);
}

// What a pull of `known` gives on the platform of `wanted`, against it.
SameContent compare_part(const Content* known, const PlatformContent& wanted,
                         std::string_view platform) {
    const std::vector<const PlatformContent*> has =
        known != nullptr ? known->entries_for(platform) : std::vector<const PlatformContent*>();
    if (has.size() != 1) {
        return SameContent::unknown;
    }
    if (has.front()->manifest == wanted.manifest) {
        return SameContent::same;
    }
    if (has.front()->config.empty() || wanted.config.empty()) {
        return SameContent::unknown;
    }
    return has.front()->config == wanted.config ? SameContent::same : SameContent::different;
}

}  // namespace

Digest digest_of(Digest::Algorithm algorithm, std::string_view bytes) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> hash{};
    unsigned size = 0;
    EVP_Digest(bytes.data(), bytes.size(), hash.data(), &size,
               algorithm == Digest::Algorithm::sha512 ? EVP_sha512() : EVP_sha256(), nullptr);
    return Digest::from_bytes(algorithm, {hash.data(), size});
}

Expected<Time> created_of(std::string_view config) {
    const Json root = parse_json(config);
    if (!json_is_object(root.get())) {
        return fail("bad-config", "an image's config is not a JSON object");
    }
    return std::max(parse_time(text_of(root.get(), "created")).value_or(Time{}), Time{});
}

std::string platform_of(std::string_view config) {
    const Json root = parse_json(config);
    const bool says =
        !text_of(root.get(), "os").empty() && !text_of(root.get(), "architecture").empty();
    return says ? platform_text(root.get()) : std::string();
}

Expected<Content> Content::from_manifest(const Digest& digest, std::string_view content_type,
                                         std::string_view body) {
    Content content;
    content.digest = digest;
    content.kind = manifest_kind(content_type);
    const Json root = parse_json(body);
    if (!json_is_object(root.get())) {
        return fail("bad-manifest", "manifest " + digest.to_string() + " is not a JSON object");
    }
    if (content.kind == ManifestKind::index) {
        return from_index(std::move(content), root.get());
    }
    if (content.kind != ManifestKind::image) {
        return fail("bad-manifest", "manifest " + digest.to_string() + " has the type " +
                                        std::string(content_type));
    }
    const auto config = Digest::parse(text_of(json_object_get(root.get(), "config"), "digest"));
    if (!config) {
        return fail("bad-manifest",
                    "manifest " + digest.to_string() + ": config.digest is not a digest");
    }
    content.platforms.push_back(PlatformContent{"", digest, *config});
    return content;
}

std::string Content::to_json() const {
    const Json root(json_object());
    json_object_set_new(root.get(), "digest", json_text(digest.to_string()));
    json_object_set_new(root.get(), "kind", json_text(to_string(kind)));
    json_t* list = json_array();
    for (const PlatformContent& entry : platforms) {
        json_t* item = json_object();
        // "" is what was written before the platform was read: null says that the config does not
        // say.
        json_object_set_new(
            item, "platform",
            entry.platform.empty() && entry.created ? json_null() : json_text(entry.platform));
        json_object_set_new(item, "manifest", json_text(entry.manifest.to_string()));
        json_object_set_new(item, "config", json_text(entry.config.to_string()));
        if (entry.created) {
            json_object_set_new(item, "created", json_text(format_time(*entry.created)));
        }
        json_array_append_new(list, item);
    }
    json_object_set_new(root.get(), "platforms", list);
    return dump_json(root.get());
}

Expected<Content> Content::from_json(std::string_view json) {
    const Json root = parse_json(json);
    const auto digest = Digest::parse(text_of(root.get(), "digest"));
    if (!digest) {
        return fail("bad-content", "a stored content record has no digest");
    }
    Content content;
    content.digest = *digest;
    content.kind =
        text_of(root.get(), "kind") == "index" ? ManifestKind::index : ManifestKind::image;
    std::size_t at = 0;
    json_t* item = nullptr;
    json_array_foreach(json_object_get(root.get(), "platforms"), at, item) {
        const std::string platform(text_of(item, "platform"));
        const bool was_read = !platform.empty() || json_is_null(json_object_get(item, "platform"));
        content.platforms.push_back(
            PlatformContent{platform, Digest::parse(text_of(item, "manifest")).value_or(Digest{}),
                            Digest::parse(text_of(item, "config")).value_or(Digest{}),
                            was_read ? parse_time(text_of(item, "created")) : std::nullopt});
    }
    return content;
}

bool Content::tells_platform() const {
    return std::ranges::all_of(platforms, [](const PlatformContent& entry) {
        return !entry.platform.empty() || entry.created;
    });
}

std::vector<const PlatformContent*> Content::entries_for(std::string_view platform) const {
    std::vector<const PlatformContent*> own;
    std::vector<const PlatformContent*> unnamed;
    std::vector<const PlatformContent*> variants;
    for (const PlatformContent& entry : platforms) {
        const std::string_view name = entry.platform;
        const bool variant = name.size() > platform.size() && name.starts_with(platform) &&
                             name[platform.size()] == '/';
        if (platform.empty() || name == platform) {
            own.push_back(&entry);
        } else if (name.empty()) {
            unnamed.push_back(&entry);
        } else if (variant) {
            variants.push_back(&entry);
        }
    }
    return !own.empty() ? own : !unnamed.empty() ? unnamed : variants;
}

SameContent compare_content(const Digest& reported, const Content* known, const Content& target,
                            std::string_view platform) {
    if (reported == target.digest) {
        return SameContent::same;
    }
    // Where the platform does not single out one entry, only what holds for all of them is certain;
    // but what runs tells its platform itself where it is the very image of one entry.
    bool all_same = true;
    bool all_different = true;
    const std::vector<const PlatformContent*> entries = target.entries_for(platform);
    for (const PlatformContent* wanted : entries) {
        const SameContent one =
            compare_part(known, *wanted, wanted->platform.empty() ? platform : wanted->platform);
        if (same_part(reported, *wanted) ||
            (one == SameContent::same && known->kind == ManifestKind::image)) {
            return SameContent::same;
        }
        all_same = all_same && one == SameContent::same;
        all_different = all_different && one == SameContent::different;
    }
    if (entries.empty() || all_same == all_different) {
        return SameContent::unknown;
    }
    return all_same ? SameContent::same : SameContent::different;
}

}  // namespace keel
