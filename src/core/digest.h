// Content digests as the OCI image specification writes them: `algorithm:encoded`.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace keel {

// A sha256 or sha512 digest as raw bytes. A value; trivially copyable, so it may lie in shared
// memory.
class Digest {
  public:
    enum class Algorithm : std::uint8_t { none, sha256, sha512 };
    static constexpr std::size_t kMaxText = 7 + 128;  // "sha512:" and 128 hex digits

    // Empty: compares equal to other empty ones only, prints as "".
    constexpr Digest() = default;

    // Exactly `sha256:` + 64 or `sha512:` + 128 lower-case hex digits; anything else is nullopt.
    // Never throws.
    [[nodiscard]] static std::optional<Digest> parse(std::string_view text) noexcept;
    // Of raw bytes as bytes() gave them; empty when their number is not the algorithm's. Never
    // throws.
    [[nodiscard]] static Digest from_bytes(Algorithm algorithm,
                                           std::span<const std::uint8_t> bytes) noexcept;

    [[nodiscard]] bool empty() const noexcept { return algorithm_ == Algorithm::none; }
    [[nodiscard]] Algorithm algorithm() const noexcept { return algorithm_; }
    // The raw bytes: 32, 64, or none.
    [[nodiscard]] std::span<const std::uint8_t> bytes() const noexcept;
    [[nodiscard]] std::string to_string() const;
    // Writes the text into `out`, which holds kMaxText bytes; returns the length. For callers that
    // may not allocate.
    std::size_t write(char* out) const noexcept;

    friend bool operator==(const Digest&, const Digest&) noexcept = default;
    friend auto operator<=>(const Digest&, const Digest&) noexcept = default;

  private:
    Algorithm algorithm_ = Algorithm::none;
    std::array<std::uint8_t, 64> bytes_{};
};

}  // namespace keel

template <>
struct std::hash<keel::Digest> {
    std::size_t operator()(const keel::Digest& digest) const noexcept;
};
