#include "core/base64.h"

#include <openssl/evp.h>

namespace keel {
namespace {

constexpr bool is_base64(char c) noexcept {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '/';
}

}  // namespace

// OpenSSL's decoder forgives white space and stray padding, so the shape is checked first and the
// result encoded again.
std::optional<std::string> decode_base64(std::string_view text) {
    const std::size_t last = text.find_last_not_of('=');
    const std::size_t padding = text.size() - (last == std::string_view::npos ? 0 : last + 1);
    if (text.empty() || text.size() % 4 != 0 || padding > 2) {
        return std::nullopt;
    }
    for (const char c : text.substr(0, text.size() - padding)) {
        if (!is_base64(c)) {
            return std::nullopt;
        }
    }
    std::string bytes(text.size() / 4 * 3, '\0');
    auto* out = reinterpret_cast<unsigned char*>(bytes.data());
    const int length = EVP_DecodeBlock(out, reinterpret_cast<const unsigned char*>(text.data()),
                                       static_cast<int>(text.size()));
    if (length < 0) {
        return std::nullopt;
    }
    bytes.resize(static_cast<std::size_t>(length) - padding);
    if (encode_base64(bytes) != text) {
        return std::nullopt;
    }
    return bytes;
}

std::string encode_base64(std::string_view bytes) {
    std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // EVP_EncodeBlock ends with a NUL
    EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                    reinterpret_cast<const unsigned char*>(bytes.data()),
                    static_cast<int>(bytes.size()));
    text.pop_back();
    return text;
}

}  // namespace keel
