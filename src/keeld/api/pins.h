// The retreat: what every workload runs now, as image fields that pull just that.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "keeld/catalogue/catalogue.h"
#include "keeld/catalogue/tags.h"
#include "keeld/registry/content.h"

namespace keel {

struct Pin {
    std::string container;  // as the pod spec calls it
    std::string list;       // "containers", "initContainers" or "volumes"
    std::string image;      // the image field as it is
    std::string pinned;     // with the digest that runs; empty: it is not known
    int pods = 0;           // that run it
    std::string note;       // what to know before it is used; or empty
};

// In the order of the workload's containers. Where what runs is one platform's part of what the tag
// answers, the whole of it is named, so that pods go to any node. `content` as Knowledge has it.
[[nodiscard]] std::vector<Pin> pins_of(const CatalogueEntry& entry, const Tags& tags,
                                       const std::function<const Content*(const Digest&)>& content);

}  // namespace keel
