#include "core/digest.h"

#include <cstring>

namespace keel {
namespace {

constexpr std::size_t kPrefix = 7;  // of "sha256:" and "sha512:" alike
constexpr std::string_view kSha256 = "sha256:";
constexpr std::string_view kSha512 = "sha512:";
constexpr std::size_t kSha256Bytes = 32;
constexpr std::size_t kSha512Bytes = 64;

constexpr std::uint8_t kNotHex = 0xff;

// The value of each lower-case hex digit. Upper case is not hex here: the image specification
// forbids it, and two spellings of one digest would be two keys for other readers.
constexpr std::array<std::uint8_t, 256> make_hex_values() {
    std::array<std::uint8_t, 256> values{};
    values.fill(kNotHex);
    for (std::uint8_t digit = 0; digit < 16; ++digit) {
        values[static_cast<unsigned char>("0123456789abcdef"[digit])] = digit;
    }
    return values;
}

constexpr std::array<std::uint8_t, 256> kHexValues = make_hex_values();

// Decodes 2 * count digits; whether all of them were hex.
bool decode_hex(const char* text, std::uint8_t* out, std::size_t count) noexcept {
    std::uint8_t seen = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint8_t high = kHexValues[static_cast<unsigned char>(text[2 * i])];
        const std::uint8_t low = kHexValues[static_cast<unsigned char>(text[2 * i + 1])];
        seen |= high | low;
        out[i] = static_cast<std::uint8_t>(high << 4 | low);
    }
    return seen < 16;
}

}  // namespace

std::optional<Digest> Digest::parse(std::string_view text) noexcept {
    std::size_t count = 0;
    Digest digest;
    if (text.size() == kPrefix + 2 * kSha256Bytes && text.starts_with(kSha256)) {
        digest.algorithm_ = Algorithm::sha256;
        count = kSha256Bytes;
    } else if (text.size() == kPrefix + 2 * kSha512Bytes && text.starts_with(kSha512)) {
        digest.algorithm_ = Algorithm::sha512;
        count = kSha512Bytes;
    } else {
        return std::nullopt;
    }
    if (!decode_hex(text.data() + kPrefix, digest.bytes_.data(), count)) {
        return std::nullopt;
    }
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
