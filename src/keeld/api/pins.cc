#include "keeld/api/pins.h"

#include <algorithm>
#include <set>
#include <utility>

namespace keel {
namespace {

// What most pods run; null: it is not known.
const RunningImage* most_run(const CatalogueEntry& entry, const Container& container) {
    const RunningImage* most = nullptr;
    for (const RunningImage& image : entry.running.images) {
        if (image.container == container.name && image.init == container.init &&
            !image.digest.empty() && (most == nullptr || image.pods > most->pods)) {
            most = &image;
        }
    }
    return most;
}

// The tag's own digest where it is the same content, else what the pods report.
std::string digest_to_pin(const RunningImage& runs, const Tag* tag, const Tags& tags,
                          const std::function<const Content*(const Digest&)>& content) {
    const std::optional<Digest> reported = Digest::parse(runs.digest);
    const TagInfo* info = tag != nullptr ? tags.find(*tag) : nullptr;
    const Content* whole = info != nullptr ? content(info->pulled()) : nullptr;
    const bool same =
        reported && whole != nullptr &&
        compare_content(*reported, content(*reported), *whole, runs.platform) == SameContent::same;
    return same ? info->pulled().to_string() : runs.digest.str();
}

std::string note_on(const CatalogueEntry& entry, const Container& container,
                    const RunningImage* runs) {
    if (container.volume) {
        return "what a pod has of an image volume is not in its status";
    }
    if (runs == nullptr) {
        return entry.running.known ? "none of its pods runs it" : "its pods were not read";
    }
    std::set<std::string> others;
    for (const RunningImage& image : entry.running.images) {
        if (image.container == container.name && image.init == container.init &&
            image.digest != runs->digest && !image.digest.empty()) {
            others.insert(image.digest.str());
        }
    }
    return others.empty() ? "" : "other pods run " + std::to_string(others.size()) + " more";
}

}  // namespace

std::vector<Pin> pins_of(const CatalogueEntry& entry, const Tags& tags,
                         const std::function<const Content*(const Digest&)>& content) {
    std::vector<Pin> pins;
    for (std::size_t i = 0; i < entry.object.containers.size(); ++i) {
        const Container& container = entry.object.containers[i];
        const RunningImage* runs = container.volume ? nullptr : most_run(entry, container);
        Pin pin;
        pin.container = container.own_name();
        pin.list = container.volume ? "volumes" : container.init ? "initContainers" : "containers";
        pin.image = container.image;
        pin.note = note_on(entry, container, runs);
        if (runs != nullptr) {
            const Expected<Reference>& reference = entry.references[i];
            const std::optional<Tag> tag = reference ? reference->tag() : std::nullopt;
            pin.pods = runs->pods;
            const std::string& image = container.image.str();
            pin.pinned = image.substr(0, image.find('@')) + "@" +
                         digest_to_pin(*runs, tag ? &*tag : nullptr, tags, content);
        }
        pins.push_back(std::move(pin));
    }
    return pins;
}

}  // namespace keel
