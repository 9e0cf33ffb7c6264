#include "core/digest.h"

#include <algorithm>
#include <cstring>

namespace keel {
namespace {

constexpr std::size_t kPrefix = 7;  // of "sha256:" and "sha512:" alike
constexpr std::string_view kSha256 = "sha256:";
constexpr std::string_view kSha512 = "sha512:";
constexpr std::size_t kSha256Bytes = 32;
constexpr std::size_t kSha512Bytes = 64;

// Decodes 2 * kBytes digits; whether all of them were lower-case hex. Upper case is not: the image
// specification forbids it, and two spellings of one digest would be two keys for other readers.
// Branchless and in two loops of constant length, so that the compiler vectorises it: this runs for
// every manifest answer that passes the cache.
template <std::size_t kBytes>
bool decode_hex(const char* text, std::uint8_t* out) noexcept {
    std::array<std::uint8_t, 2 * kBytes> nibbles;
    std::uint8_t wrong = 0;
    for (std::size_t i = 0; i < 2 * kBytes; ++i) {
        const auto c = static_cast<std::uint8_t>(text[i]);
        const auto digit = static_cast<std::uint8_t>(c - '0');
        const auto letter = static_cast<std::uint8_t>(c - 'a');
        const auto value = static_cast<std::uint8_t>(digit < 10 ? digit : letter + 10);
        wrong |= static_cast<std::uint8_t>(digit < 10 || letter < 6 ? 0 : 1);
        nibbles[i] = value;
    }
    for (std::size_t i = 0; i < kBytes; ++i) {
        out[i] = static_cast<std::uint8_t>(nibbles[2 * i] << 4 | nibbles[2 * i + 1]);
    }
    return wrong == 0;
}

}  // namespace

std::optional<Digest> Digest::parse(std::string_view text) noexcept {
    std::optional<Digest> digest;
    if (text.size() == kPrefix + 2 * kSha256Bytes && text.starts_with(kSha256)) {
        digest.emplace();
        digest->algorithm_ = Algorithm::sha256;
        if (!decode_hex<kSha256Bytes>(text.data() + kPrefix, digest->bytes_.data())) {
            digest.reset();
        }
    } else if (text.size() == kPrefix + 2 * kSha512Bytes && text.starts_with(kSha512)) {
        digest.emplace();
        digest->algorithm_ = Algorithm::sha512;
        if (!decode_hex<kSha512Bytes>(text.data() + kPrefix, digest->bytes_.data())) {
            digest.reset();
        }
    }
    return digest;
}

Digest Digest::from_bytes(Algorithm algorithm, std::span<const std::uint8_t> bytes) noexcept {
    Digest digest;
    digest.algorithm_ = algorithm;
    if (digest.bytes().size() != bytes.size()) {
        return {};
    }
    std::copy(bytes.begin(), bytes.end(), digest.bytes_.begin());
    return digest;
}

std::span<const std::uint8_t> Digest::bytes() const noexcept {
    switch (algorithm_) {
        case Algorithm::sha256:
            return {bytes_.data(), kSha256Bytes};
        case Algorithm::sha512:
            return {bytes_.data(), kSha512Bytes};
        case Algorithm::none:
            break;
    }
    return {};
}

std::size_t Digest::write(char* out) const noexcept {
    if (empty()) {
        return 0;
    }
    static constexpr char kDigits[] = "0123456789abcdef";
    const std::string_view prefix = algorithm_ == Algorithm::sha256 ? kSha256 : kSha512;
    std::memcpy(out, prefix.data(), kPrefix);
    char* next = out + kPrefix;
    for (const std::uint8_t byte : bytes()) {
        *next++ = kDigits[byte >> 4];
        *next++ = kDigits[byte & 15];
    }
    return static_cast<std::size_t>(next - out);
}

std::string Digest::to_string() const {
    std::array<char, kMaxText> text;
    return {text.data(), write(text.data())};
}

}  // namespace keel

std::size_t std::hash<keel::Digest>::operator()(const keel::Digest& digest) const noexcept {
    const auto bytes = digest.bytes();
    const std::string_view view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return std::hash<std::string_view>{}(view);
}
