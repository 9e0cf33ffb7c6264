#include "core/manifest_request.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "core/reference.h"

namespace keel {
namespace {

constexpr std::string_view kDockerImage = "application/vnd.docker.distribution.manifest.v2+json";
constexpr std::string_view kDockerList =
    "application/vnd.docker.distribution.manifest.list.v2+json";
constexpr std::string_view kOciImage = "application/vnd.oci.image.manifest.v1+json";
constexpr std::string_view kOciIndex = "application/vnd.oci.image.index.v1+json";
constexpr std::string_view kSchema1 = "application/vnd.docker.distribution.manifest.v1+json";
constexpr std::string_view kSchema1Signed =
    "application/vnd.docker.distribution.manifest.v1+prettyjws";

constexpr bool is_space(char c) noexcept {
    return c == ' ' || c == '\t';
}

constexpr char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

std::string_view trimmed(std::string_view text) noexcept {
    while (!text.empty() && is_space(text.front())) {
        text.remove_prefix(1);
    }
    while (!text.empty() && is_space(text.back())) {
        text.remove_suffix(1);
    }
    return text;
}

// `type` is lower case. Almost every client spells it so: one memcmp decides, and only the rest is
// folded.
bool same_type(std::string_view text, std::string_view type) noexcept {
    if (text.size() != type.size()) {
        return false;
    }
    if (std::memcmp(text.data(), type.data(), type.size()) == 0) {
        return true;
    }
    for (std::size_t i = 0; i < type.size(); ++i) {
        if (lower(text[i]) != type[i]) {
            return false;
        }
    }
    return true;
}

struct ModernType {
    std::string_view name;
    std::uint8_t bit;  // in AcceptedTypes
};

constexpr std::array<ModernType, 4> kModernTypes{{
    {kDockerImage, 0b0001},
    {kDockerList, 0b0010},
    {kOciImage, 0b0100},
    {kOciIndex, 0b1000},
}};

// Takes the type off the front of `line` if it stands there as most clients write it: lower case,
// and then a comma or the end.
template <std::size_t kType>
bool take(std::string_view& line) noexcept {
    constexpr std::string_view kName = kModernTypes[kType].name;
    if (line.size() < kName.size() || std::memcmp(line.data(), kName.data(), kName.size()) != 0 ||
        (line.size() > kName.size() && line[kName.size()] != ',')) {
        return false;
    }
    line.remove_prefix(kName.size());
    return true;
}

// The bit of the type that was taken, 0 where none was.
std::uint8_t take_modern_type(std::string_view& line) noexcept {
    constexpr std::size_t kVendor = std::string_view("application/vnd.").size();
    if (line.size() < kOciIndex.size()) {
        return 0;
    }
    if (line[kVendor] == 'd') {
        return take<0>(line) ? kModernTypes[0].bit : take<1>(line) ? kModernTypes[1].bit : 0;
    }
    return take<3>(line) ? kModernTypes[3].bit : take<2>(line) ? kModernTypes[2].bit : 0;
}

// 0 for every text that is no modern type.
std::uint8_t accept_bit(std::string_view text) noexcept {
    for (const ModernType& type : kModernTypes) {
        if (same_type(text, type.name)) {
            return type.bit;
        }
    }
    return 0;
}

// RFC 9110 token, less '*', which starts an extended parameter (RFC 8187).
constexpr bool is_token_char(char c) noexcept {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) {
        return true;
    }
    return c != '\0' && std::string_view("!#$%&'+-.^_`|~").find(c) != std::string_view::npos;
}

bool is_token(std::string_view text) noexcept {
    for (const char c : text) {
        if (!is_token_char(c)) {
            return false;
        }
    }
    return !text.empty();
}

// What follows the first ';' of an Accept element: nothing, or one name=value. A registry drops an
// element whose parameters it cannot parse or that repeats one (Go's mime.ParseMediaType), and then
// answers as if the type was not named; counting such an element would make a narrow answer look
// comparable. No client needs more than one.
bool is_plain_parameter(std::string_view text) noexcept {
    text = trimmed(text);
    if (text.empty()) {
        return true;
    }
    const std::size_t equals = text.find('=');
    return equals != std::string_view::npos && is_token(text.substr(0, equals)) &&
           is_token(text.substr(equals + 1));
}

// Any digest that the image specification's grammar allows. Whether its algorithm is one that we
// can store is another question; here it only has to be no tag.
bool is_digest_shape(std::string_view text, std::size_t colon) noexcept {
    const std::string_view algorithm = text.substr(0, colon);
    const std::string_view encoded = text.substr(colon + 1);
    if (algorithm.empty() || encoded.empty()) {
        return false;
    }
    for (const char c : algorithm) {
        const bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!alnum && c != '+' && c != '.' && c != '_' && c != '-') {
            return false;
        }
    }
    for (const char c : encoded) {
        const bool alnum =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!alnum && c != '=' && c != '_' && c != '-') {
            return false;
        }
    }
    return true;
}

}  // namespace

std::optional<ManifestPath> split_manifest_path(std::string_view path) noexcept {
    static constexpr std::string_view kPrefix = "/v2/";
    static constexpr std::string_view kInfix = "/manifests";

    // From the right: "manifests", "blobs" and "v2" are legal components of a repository's name.
    const void* const last = path.empty() ? nullptr : memrchr(path.data(), '/', path.size());
    if (last == nullptr || !path.starts_with(kPrefix)) {
        return std::nullopt;
    }
    const auto slash = static_cast<std::size_t>(static_cast<const char*>(last) - path.data());
    std::string_view head = path.substr(0, slash);
    if (!head.ends_with(kInfix) || head.size() <= kPrefix.size() + kInfix.size()) {
        return std::nullopt;
    }
    head.remove_suffix(kInfix.size());
    head.remove_prefix(kPrefix.size());
    return ManifestPath{head, path.substr(slash + 1), false};
}

std::optional<ManifestPath> parse_manifest_path(std::string_view path) noexcept {
    std::optional<ManifestPath> result = split_manifest_path(path);
    if (!result || !is_repository(result->repository)) {
        return std::nullopt;
    }
    if (is_tag_name(result->reference)) {
        return result;
    }
    const std::size_t colon = result->reference.find(':');
    result->by_digest = colon != std::string_view::npos;
    if (!result->by_digest || !is_digest_shape(result->reference, colon)) {
        return std::nullopt;
    }
    return result;
}

void AcceptedTypes::add_line(std::string_view line) noexcept {
    while (!line.empty()) {
        if (is_space(line.front()) || line.front() == ',') {
            line.remove_prefix(1);
            continue;
        }
        if (const std::uint8_t bit = take_modern_type(line); bit != 0) {
            seen_ |= bit;
            continue;
        }
        const std::string_view element = line.substr(0, line.find(','));
        line.remove_prefix(element.size());
        const std::size_t semicolon = std::min(element.find(';'), element.size());
        if (semicolon == element.size() || is_plain_parameter(element.substr(semicolon + 1))) {
            seen_ |= accept_bit(trimmed(element.substr(0, semicolon)));
        }
    }
}

ManifestKind manifest_kind(std::string_view content_type) noexcept {
    // The two that almost every answer has, as almost every registry writes them.
    if (content_type == kOciIndex || content_type == kDockerList) {
        return ManifestKind::index;
    }
    const std::string_view type = trimmed(content_type.substr(0, content_type.find(';')));
    if (same_type(type, kOciIndex) || same_type(type, kDockerList)) {
        return ManifestKind::index;
    }
    if (same_type(type, kOciImage) || same_type(type, kDockerImage)) {
        return ManifestKind::image;
    }
    if (same_type(type, kSchema1Signed) || same_type(type, kSchema1)) {
        return ManifestKind::legacy;
    }
    return ManifestKind::unknown;
}

std::string_view to_string(ManifestKind kind) noexcept {
    switch (kind) {
        case ManifestKind::index:
            return "index";
        case ManifestKind::image:
            return "image";
        case ManifestKind::legacy:
            return "legacy";
        case ManifestKind::unknown:
            break;
    }
    return "unknown";
}

Asker asker(std::string_view user_agent) noexcept {
    if (user_agent.starts_with("containerd/") || user_agent.starts_with("cri-o/")) {
        return Asker::kubelet;
    }
    if (user_agent.starts_with("keeld/")) {
        return Asker::keeld;
    }
    return Asker::other;
}

std::string_view to_string(Asker asker) noexcept {
    switch (asker) {
        case Asker::kubelet:
            return "kubelet";
        case Asker::keeld:
            return "keeld";
        case Asker::other:
            break;
    }
    return "other";
}

}  // namespace keel
