#include "core/signature.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <optional>
#include <system_error>

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base64.h"

namespace keel {
namespace {

constexpr std::string_view kSecretPrefix = "whsec_";
constexpr std::string_view kVersion = "v1,";
constexpr std::size_t kMinSecret = 24;
constexpr std::size_t kMaxSecret = 64;
constexpr std::size_t kMaxSecretFile = 65'536;
constexpr std::size_t kMac = 32;
constexpr std::size_t kMacText = 44;  // base64 of kMac bytes, padding included

// "v1,<base64>" of the content by one key; empty if OpenSSL fails, which equals no signature.
std::string signature_by(const std::string& key, const std::string& content) {
    std::array<unsigned char, kMac> mac{};
    unsigned int length = 0;
    const auto* bytes = reinterpret_cast<const unsigned char*>(content.data());
    if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes, content.size(),
             mac.data(), &length) == nullptr ||
        length != kMac) {
        return {};
    }
    std::array<unsigned char, kMacText + 1> text{};
    EVP_EncodeBlock(text.data(), mac.data(), static_cast<int>(mac.size()));
    std::string signature(kVersion);
    signature.append(reinterpret_cast<const char*>(text.data()), kMacText);
    return signature;
}

std::string signed_content(std::string_view id, std::string_view timestamp, std::string_view body) {
    std::string content;
    content.reserve(id.size() + timestamp.size() + body.size() + 2);
    content.append(id).append(1, '.').append(timestamp).append(1, '.').append(body);
    return content;
}

bool equal_in_constant_time(std::string_view one, std::string_view other) {
    return one.size() == other.size() && CRYPTO_memcmp(one.data(), other.data(), one.size()) == 0;
}

// Decimal seconds since 1970, at most the year 9999.
std::optional<Time> parse_timestamp(std::string_view text) noexcept {
    constexpr std::int64_t kLatest = 253'402'300'799;
    std::int64_t seconds = 0;
    const char* end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data(), end, seconds);
    if (error != std::errc{} || stopped != end || text.front() == '-' || seconds > kLatest) {
        return std::nullopt;
    }
    return Time{std::chrono::seconds{seconds}};
}

tl::unexpected<Error> secret_file_error(const std::string& path, const std::string& what) {
    return fail("secret-file", "the secret file " + path + " cannot be used: " + what);
}

std::string reason_of(int error) {
    return std::generic_category().message(error);
}

class Descriptor {
  public:
    explicit Descriptor(int number) noexcept : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) {
            ::close(number_);
        }
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;

    [[nodiscard]] int number() const noexcept { return number_; }

  private:
    int number_;
};

}  // namespace

Expected<Secrets> Secrets::parse(std::string_view file_text) {
    Secrets secrets;
    std::size_t number = 0;
    while (!file_text.empty()) {
        ++number;
        const std::size_t newline = file_text.find('\n');
        std::string_view line = file_text.substr(0, newline);
        file_text.remove_prefix(newline == std::string_view::npos ? file_text.size() : newline + 1);
        line = line.substr(0, line.find_last_not_of(" \t\r\v\f") + 1);
        if (line.empty()) {
            continue;
        }
        const std::string where = "line " + std::to_string(number) + " of the secret file ";
        if (!line.starts_with(kSecretPrefix)) {
            return fail("bad-secret", where + "does not begin with whsec_");
        }
        std::optional<std::string> key = decode_base64(line.substr(kSecretPrefix.size()));
        if (!key) {
            return fail("bad-secret", where + "is not standard base64 with padding after whsec_");
        }
        if (key->size() < kMinSecret || key->size() > kMaxSecret) {
            return fail("bad-secret", where + "holds " + std::to_string(key->size()) +
                                          " bytes, where 24 to 64 are allowed");
        }
        secrets.keys_.push_back(*std::move(key));
    }
    if (secrets.keys_.empty()) {
        return fail("no-secret",
                    "the secret file holds no secret; put one whsec_<base64> on a line of its own");
    }
    return secrets;
}

std::string Secrets::sign(std::string_view id, std::string_view timestamp,
                          std::string_view body) const {
    return keys_.empty() ? std::string()
                         : signature_by(keys_.front(), signed_content(id, timestamp, body));
}

Expected<void> Secrets::verify(std::string_view id, std::string_view timestamp,
                               std::string_view body, std::string_view signatures, Time now) const {
    if (id.empty() || timestamp.empty() || signatures.empty()) {
        return fail("unsigned",
                    "the request is not signed: it needs the headers webhook-id, webhook-timestamp "
                    "and webhook-signature");
    }
    const std::optional<Time> signed_at = parse_timestamp(timestamp);
    if (!signed_at) {
        return fail("bad-signature", "webhook-timestamp is not decimal seconds since 1970");
    }
    const std::string content = signed_content(id, timestamp, body);
    bool matched = false;
    for (const std::string& key : keys_) {
        const std::string expected = signature_by(key, content);
        std::string_view rest = signatures;
        while (!rest.empty()) {
            const std::size_t space = rest.find(' ');
            const std::string_view offered = rest.substr(0, space);
            rest.remove_prefix(space == std::string_view::npos ? rest.size() : space + 1);
            matched |= !expected.empty() && equal_in_constant_time(offered, expected);
        }
    }
    if (!matched) {
        return fail("bad-signature",
                    "none of the signatures is by a secret known here; compare the secret files of "
                    "both sides");
    }
    const Millis behind = now - *signed_at;
    if (behind > kWindow || behind < -kWindow) {
        const auto seconds = std::chrono::round<std::chrono::seconds>(std::chrono::abs(behind));
        return fail("clock-skew",
                    "the request was signed " + std::to_string(seconds.count()) + " s " +
                        (behind.count() > 0 ? "before" : "after") +
                        " this machine's time, where 300 s are allowed; check both clocks");
    }
    return {};
}

std::string sha256_hex(std::string_view text) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::array<unsigned char, EVP_MAX_MD_SIZE> hash{};
    unsigned int size = 0;
    std::string hex;
    if (EVP_Digest(text.data(), text.size(), hash.data(), &size, EVP_sha256(), nullptr) != 1) {
        return hex;
    }
    for (unsigned int i = 0; i < size; ++i) {
        hex.push_back(kDigits[hash[i] >> 4]);
        hex.push_back(kDigits[hash[i] & 15]);
    }
    return hex;
}

std::string signed_request(std::string_view method, std::string_view target,
                           std::string_view body) {
    return std::string(method).append(".").append(target).append(".").append(sha256_hex(body));
}

Expected<std::string> read_secret_file(const std::string& path) {
    // O_NONBLOCK: a FIFO must be refused, not waited for. A symbolic link is followed: mounted
    // Secrets are links.
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (file.number() < 0) {
        return secret_file_error(path, reason_of(errno));
    }
    struct stat status {};
    if (::fstat(file.number(), &status) != 0) {
        return secret_file_error(path, reason_of(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        return secret_file_error(path, "it is not a regular file");
    }
    if ((status.st_mode & (S_IROTH | S_IWOTH)) != 0) {
        return secret_file_error(path, "others may read or write it; run chmod o-rw on it");
    }
    std::string text;
    std::array<char, 4096> buffer;
    for (;;) {
        const ssize_t count = ::read(file.number(), buffer.data(), buffer.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return secret_file_error(path, reason_of(errno));
        }
        if (count == 0) {
            return text;
        }
        text.append(buffer.data(), static_cast<std::size_t>(count));
        if (text.size() > kMaxSecretFile) {
            return secret_file_error(path, "it has more than 64 kB");
        }
    }
}

}  // namespace keel
