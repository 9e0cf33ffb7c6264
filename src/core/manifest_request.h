// What a request to a registry's manifest endpoint asks for. Used on the pull path: nothing here
// allocates or throws.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace keel {

// Views into the path that was parsed.
struct ManifestPath {
    std::string_view repository;
    std::string_view reference;  // a tag's name or a digest
    bool by_digest = false;      // the reference holds a ':'
};

// "/v2/<repository>/manifests/<reference>" of an already decoded and merged path, split from the
// right and no more: neither part need follow its grammar, which costs more to find out than all
// the rest. by_digest is not set. `reference` begins a fixed distance behind `repository`.
[[nodiscard]] std::optional<ManifestPath> split_manifest_path(std::string_view path) noexcept;
// The same with both parts as the distribution specification wants them.
[[nodiscard]] std::optional<ManifestPath> parse_manifest_path(std::string_view path) noexcept;

// The four modern manifest types as a set, gathered over all Accept header lines of one request.
class AcceptedTypes {
  public:
    // One header line. One parameter (";q=0.5") is ignored as registries ignore it; an element with
    // more, or with what is no parameter, does not count, because registries drop such elements.
    // Types compare without regard to case.
    void add_line(std::string_view line) noexcept;
    // Docker manifest and list, OCI manifest and index are all named: only then an observation is
    // comparable.
    [[nodiscard]] bool complete() const noexcept { return seen_ == 0b1111; }

  private:
    std::uint8_t seen_ = 0;
};

enum class ManifestKind : std::uint8_t { unknown, index, image, legacy };
// Of a Content-Type value, parameters ignored. legacy: schema 1 in both spellings.
[[nodiscard]] ManifestKind manifest_kind(std::string_view content_type) noexcept;
// "index", "image", "unknown", "legacy".
[[nodiscard]] std::string_view to_string(ManifestKind kind) noexcept;

// Who asked, by User-Agent. Informs and permits nothing.
enum class Asker : std::uint8_t { other, kubelet, keeld };
// containerd/… and cri-o/… are kubelet, keeld/… is keeld.
[[nodiscard]] Asker asker(std::string_view user_agent) noexcept;
[[nodiscard]] std::string_view to_string(Asker asker) noexcept;

}  // namespace keel
