// Image references by the Docker grammar (github.com/distribution/reference), and tags.
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <string_view>

#include "core/digest.h"
#include "core/expected.h"

namespace keel {

// A tag in the project's sense: registry + repository + name. "docker.io/library/nginx:1.27".
struct Tag {
    std::string registry;    // host[:port], "docker.io" for Docker Hub, IPv6 hosts in brackets
    std::string repository;  // "library/nginx"
    std::string name;        // "1.27"

    [[nodiscard]] std::string to_string() const;
    // The full form only ("registry/repository:name"), as to_string writes it; nothing is
    // normalised or completed. Errors: "bad-tag" with what is wrong and where.
    [[nodiscard]] static Expected<Tag> parse(std::string_view full);

    friend bool operator==(const Tag&, const Tag&) = default;
    friend auto operator<=>(const Tag&, const Tag&) = default;
};

// An image reference as somebody wrote it, beside what it means. The spelling is never changed
// (invariant V1).
struct Reference {
    std::string spelling;    // byte for byte as given
    std::string registry;    // normalised: "index.docker.io" and absence become "docker.io"
    std::string repository;  // normalised: "nginx" on docker.io becomes "library/nginx"
    std::string name;  // the tag's name; "latest" where neither tag nor digest was written; empty
                       // for name@digest
    bool name_written = false;     // the spelling holds the tag's name
    std::optional<Digest> digest;  // of name@digest and name:tag@digest

    // Errors: "bad-reference" with what is wrong and where. Length limits: registry 255, repository
    // 255, tag 128.
    [[nodiscard]] static Expected<Reference> parse(std::string_view text);

    // The tag it follows; nullopt for name@digest without a tag (reason `no-tag`).
    [[nodiscard]] std::optional<Tag> tag() const;

    // The text that names another tag of the same repository: what stands before the tag is kept
    // byte for byte (invariant V1), a digest is replaced by `pinned` where one stands and added
    // nowhere. The tag that it names already gives the spelling back, but for that digest. nullopt:
    // `to` is no tag's name, or it names no tag itself (name@digest).
    [[nodiscard]] std::optional<std::string> with_tag(std::string_view to,
                                                      const Digest& pinned) const;
};

// Grammar checks of the distribution specification, for the parts on their own. Never throw, never
// allocate. host[:port] as in a reference: labels of letters, digits and '-' joined by '.', or an
// IPv6 address in brackets.
[[nodiscard]] bool is_registry(std::string_view text) noexcept;
[[nodiscard]] bool is_repository(std::string_view text) noexcept;
[[nodiscard]] bool is_tag_name(std::string_view text) noexcept;
// `sha256-<64 hex>` with or without `.sig` `.att` `.sbom`, and the sha512 forms: signatures and
// fallback referrers.
[[nodiscard]] bool is_signature_tag(std::string_view name) noexcept;

}  // namespace keel

template <>
struct std::hash<keel::Tag> {
    std::size_t operator()(const keel::Tag& tag) const noexcept;
};
