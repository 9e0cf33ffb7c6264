#include "core/reference.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

namespace keel {
namespace {

constexpr std::size_t kMaxRegistry = 255;
constexpr std::size_t kMaxRepository = 255;
constexpr std::size_t kMaxTagName = 128;
constexpr std::size_t kIdentifier = 64;  // an image's id, which is no reference

constexpr std::string_view kDockerHub = "docker.io";
constexpr std::string_view kOldDockerHub = "index.docker.io";
constexpr std::string_view kOfficial = "library/";

// What a character may be part of, by one look: repositories and tags are checked on the pull path.
enum Class : std::uint8_t {
    kDigit = 1,
    kUpper = 2,
    kPathAlnum = 4,   // of a repository's component
    kNameChar = 8,    // of a tag's name
    kLabelChar = 16,  // of a host's label
    kHex = 32,
    kAddressChar = 64,  // of an IPv6 address
};

constexpr std::array<std::uint8_t, 256> make_classes() {
    std::array<std::uint8_t, 256> classes{};
    const auto add = [&classes](std::string_view characters, unsigned bits) {
        for (const char c : characters) {
            classes[static_cast<unsigned char>(c)] |= static_cast<std::uint8_t>(bits);
        }
    };
    add("0123456789", kDigit | kPathAlnum | kNameChar | kLabelChar);
    add("abcdefghijklmnopqrstuvwxyz", kPathAlnum | kNameChar | kLabelChar);
    add("ABCDEFGHIJKLMNOPQRSTUVWXYZ", kUpper | kNameChar | kLabelChar);
    add("_.-", kNameChar);
    add("-", kLabelChar);
    add("0123456789abcdef", kHex);
    add("0123456789abcdefABCDEF:", kAddressChar);
    return classes;
}

constexpr std::array<std::uint8_t, 256> kClasses = make_classes();

constexpr bool is(Class wanted, char c) noexcept {
    return (kClasses[static_cast<unsigned char>(c)] & wanted) != 0;
}
constexpr bool is_hex(char c) noexcept {
    return is(kHex, c);
}

template <class Predicate>
bool all_of(std::string_view text, Predicate predicate) noexcept {
    return std::all_of(text.begin(), text.end(), predicate);
}

// Where a text stops following its grammar; kFits when it does not. A text that ends too early
// stops at its end.
constexpr std::size_t kFits = std::string_view::npos;

// alphanumeric runs, joined inside a component by one of . _ __ or any number of -, components
// joined by /
std::size_t repository_stop(std::string_view text) noexcept {
    const char* const begin = text.data();
    const char* const end = begin + text.size();
    const char* at = begin;
    for (;;) {
        const char* const run = at;
        while (at != end && is(kPathAlnum, *at)) {
            ++at;
        }
        if (at == end && at != run) {
            return kFits;
        }
        if (at == run) {
            break;
        }
        if (*at == '/' || *at == '.') {
            ++at;
        } else if (*at == '_') {
            ++at;
            if (at != end && *at == '_') {
                ++at;
            }
        } else if (*at == '-') {
            while (at != end && *at == '-') {
                ++at;
            }
        } else {
            break;
        }
    }
    return static_cast<std::size_t>(at - begin);
}

std::size_t tag_name_stop(std::string_view text) noexcept {
    if (text.empty() || text.front() == '.' || text.front() == '-') {
        return 0;
    }
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (!is(kNameChar, text[at])) {
            return at;
        }
    }
    return kFits;
}

std::size_t port_stop(std::string_view text, std::size_t at) noexcept {
    if (at == text.size()) {
        return kFits;
    }
    if (text[at] != ':') {
        return at;
    }
    const std::size_t first = ++at;
    while (at < text.size() && is(kDigit, text[at])) {
        ++at;
    }
    return at == text.size() && at > first ? kFits : at;
}

std::size_t ipv6_registry_stop(std::string_view text) noexcept {
    std::size_t at = 1;
    while (at < text.size() && is(kAddressChar, text[at])) {
        ++at;
    }
    if (at == 1 || at == text.size() || text[at] != ']') {
        return at;
    }
    return port_stop(text, at + 1);
}

std::size_t registry_stop(std::string_view text) noexcept {
    if (text.starts_with('[')) {
        return ipv6_registry_stop(text);
    }
    std::size_t at = 0;
    for (;;) {
        const std::size_t label = at;
        while (at < text.size() && is(kLabelChar, text[at])) {
            ++at;
        }
        if (at == label || text[label] == '-') {
            return label;
        }
        if (text[at - 1] == '-') {
            return at - 1;
        }
        if (at == text.size() || text[at] != '.') {
            return port_stop(text, at);
        }
        ++at;
    }
}

// A text of somebody else's for an error message: cut, and nothing in it that could act on a
// terminal.
std::string quoted(std::string_view text) {
    constexpr std::size_t kShown = 80;
    std::string result = "\"";
    for (const char c : text.substr(0, kShown)) {
        result += c >= ' ' && c <= '~' ? c : '?';
    }
    result += text.size() > kShown ? "...\"" : "\"";
    return result;
}

// Collects what an error message about `whole` needs.
class Complaint {
  public:
    Complaint(std::string_view code, std::string_view thing, std::string_view whole)
        : code_(code), thing_(thing), whole_(whole) {}

    [[nodiscard]] tl::unexpected<Error> say(std::string_view what) const {
        return fail(std::string(code_), std::string(thing_) + " " + quoted(whole_) +
                                            " cannot be read: " + std::string(what));
    }

    // `part` is a view into the whole, wrong at `stop`.
    [[nodiscard]] tl::unexpected<Error> at(std::string_view part, std::size_t stop,
                                           std::string_view what) const {
        const std::size_t position = static_cast<std::size_t>(part.data() - whole_.data()) + stop;
        std::string text = position < whole_.size()
                               ? "character " + std::to_string(position + 1) + ", "
                               : "it ends too early, ";
        text += what;
        return say(text);
    }

    [[nodiscard]] tl::unexpected<Error> too_long(std::string_view part, std::size_t limit) const {
        return say("its " + std::string(part) + " has more than " + std::to_string(limit) +
                   " characters");
    }

  private:
    std::string_view code_;
    std::string_view thing_;
    std::string_view whole_;
};

// The three checks that Reference and Tag share; nothing where the part is right.
using Objection = std::optional<tl::unexpected<Error>>;

Objection check_registry(std::string_view registry, const Complaint& complaint) {
    if (registry.size() > kMaxRegistry) {
        return complaint.too_long("registry", kMaxRegistry);
    }
    if (const std::size_t stop = registry_stop(registry); stop != kFits) {
        return complaint.at(registry, stop,
                            "where the registry should be host or host:port, an IPv6 address in "
                            "brackets");
    }
    return std::nullopt;
}

Objection check_repository(std::string_view repository, const Complaint& complaint) {
    if (repository.size() > kMaxRepository) {
        return complaint.too_long("repository", kMaxRepository);
    }
    if (const std::size_t stop = repository_stop(repository); stop != kFits) {
        return complaint.at(repository, stop,
                            "where the repository should be lower-case letters and digits, joined "
                            "by one of / . _ __ or by -");
    }
    return std::nullopt;
}

Objection check_tag_name(std::string_view name, const Complaint& complaint) {
    if (const std::size_t stop = tag_name_stop(name); stop != kFits) {
        return complaint.at(name, stop,
                            "where the tag should be letters, digits, _ . or -, the first no . "
                            "and no -");
    }
    if (name.size() > kMaxTagName) {
        return complaint.too_long("tag", kMaxTagName);
    }
    return std::nullopt;
}

// What is left and right of the first `separator`; the right is empty where there is none.
struct Cut {
    std::string_view left;
    std::string_view right;
    bool found = false;
};

Cut cut(std::string_view text, char separator) noexcept {
    const std::size_t at = text.find(separator);
    if (at == std::string_view::npos) {
        return {text, text.substr(text.size()), false};
    }
    return {text.substr(0, at), text.substr(at + 1), true};
}

// Whether what stands before the first slash is a registry and not the first component of a
// repository on Docker Hub: splitDockerDomain of distribution/reference. A repository has no upper
// case, so a word that does is a host.
bool names_registry(std::string_view first) noexcept {
    return first == "localhost" || first.find_first_of(".:") != std::string_view::npos ||
           std::any_of(first.begin(), first.end(), [](char c) { return is(kUpper, c); });
}

}  // namespace

bool is_registry(std::string_view text) noexcept {
    return text.size() <= kMaxRegistry && registry_stop(text) == kFits;
}

bool is_repository(std::string_view text) noexcept {
    return text.size() <= kMaxRepository && repository_stop(text) == kFits;
}

bool is_tag_name(std::string_view text) noexcept {
    return text.size() <= kMaxTagName && tag_name_stop(text) == kFits;
}

bool is_signature_tag(std::string_view name) noexcept {
    const bool is_sha256 = name.starts_with("sha256-");
    if (!is_sha256 && !name.starts_with("sha512-")) {
        return false;
    }
    const std::string_view rest = name.substr(7);
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    const std::string_view suffix = rest.substr(dot);
    if (!suffix.empty() && suffix != ".sig" && suffix != ".att" && suffix != ".sbom") {
        return false;
    }
    // The fallback referrers tag cuts the encoded part to 64, which is all of a sha256.
    const bool fits = dot == 64 || (!is_sha256 && dot == 128);
    return fits && all_of(rest.substr(0, dot), is_hex);
}

std::string Tag::to_string() const {
    std::string text;
    text.reserve(registry.size() + repository.size() + name.size() + 2);
    text.append(registry).append(1, '/').append(repository).append(1, ':').append(name);
    return text;
}

Expected<Tag> Tag::parse(std::string_view full) {
    const Complaint complaint("bad-tag", "the tag", full);
    const Cut host = cut(full, '/');
    if (!host.found) {
        return complaint.say("write it in full, as in docker.io/library/nginx:1.27");
    }
    const Cut rest = cut(host.right, ':');
    if (!rest.found) {
        return complaint.say(
            "it names no tag; write it in full, as in docker.io/library/nginx:1.27");
    }
    if (auto objection = check_registry(host.left, complaint)) {
        return *std::move(objection);
    }
    if (auto objection = check_repository(rest.left, complaint)) {
        return *std::move(objection);
    }
    if (auto objection = check_tag_name(rest.right, complaint)) {
        return *std::move(objection);
    }
    return Tag{std::string(host.left), std::string(rest.left), std::string(rest.right)};
}

Expected<Reference> Reference::parse(std::string_view text) {
    const Complaint complaint("bad-reference", "the image reference", text);
    if (text.empty()) {
        return complaint.say("it is empty");
    }
    if (text.size() == kIdentifier && all_of(text, is_hex)) {
        return complaint.say("64 hex digits are an image's id, not its name");
    }

    std::string_view registry = kDockerHub;
    std::string_view rest = text;
    if (const Cut first = cut(text, '/'); first.found && names_registry(first.left)) {
        if (auto objection = check_registry(first.left, complaint)) {
            return *std::move(objection);
        }
        registry = first.left == kOldDockerHub ? kDockerHub : first.left;
        rest = first.right;
    }
    const Cut by_digest = cut(rest, '@');
    const Cut by_name = cut(by_digest.left, ':');
    const std::string_view repository = by_name.left;

    if (auto objection = check_repository(repository, complaint)) {
        return *std::move(objection);
    }
    Reference result;
    if (by_name.found) {
        if (auto objection = check_tag_name(by_name.right, complaint)) {
            return *std::move(objection);
        }
        result.name = by_name.right;
        result.name_written = true;
    }
    if (by_digest.found) {
        result.digest = Digest::parse(by_digest.right);
        if (!result.digest) {
            return complaint.at(by_digest.right, 0,
                                "where the digest should be sha256: and 64 or sha512: and 128 "
                                "lower-case hex digits");
        }
    } else if (!by_name.found) {
        result.name = "latest";
    }
    result.spelling = text;
    result.registry = registry;
    if (registry == kDockerHub && repository.find('/') == std::string_view::npos) {
        result.repository = kOfficial;
    }
    result.repository += repository;
    if (result.repository.size() > kMaxRepository) {
        return complaint.too_long("repository", kMaxRepository);
    }
    return result;
}

std::optional<Tag> Reference::tag() const {
    if (name.empty()) {
        return std::nullopt;
    }
    return Tag{registry, repository, name};
}

std::optional<std::string> Reference::with_tag(std::string_view to, const Digest& pinned) const {
    if (name.empty() || !is_tag_name(to)) {
        return std::nullopt;
    }
    std::string text = spelling.substr(0, spelling.find('@'));
    if (name_written) {
        text.resize(text.size() - name.size() - 1);
    }
    if (name_written || to != name) {
        text.append(1, ':').append(to);
    }
    if (digest) {
        text.append(1, '@').append(pinned.to_string());
    }
    return text;
}

}  // namespace keel

std::size_t std::hash<keel::Tag>::operator()(const keel::Tag& tag) const noexcept {
    constexpr std::hash<std::string_view> kHashText;
    std::size_t value = 0;
    for (const std::string_view part :
         {std::string_view(tag.registry), std::string_view(tag.repository),
          std::string_view(tag.name)}) {
        // Boost's hash_combine: order counts, and equal parts do not cancel out.
        value ^= kHashText(part) + 0x9e3779b97f4a7c15U + (value << 6) + (value >> 2);
    }
    return value;
}
