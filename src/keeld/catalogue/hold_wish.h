// What somebody wants of a tag's hold.
#pragma once

#include <optional>
#include <string>

#include "core/digest.h"
#include "core/reference.h"
#include "core/time.h"

namespace keel {

struct HoldWish {
    std::string id;  // of the action
    Tag tag;
    std::optional<Digest> digest;  // nullopt: what the tag answers now
    std::string author;
    std::string reason;
    Time until;          // epoch: until it is lifted
    bool force = false;  // without looking whether the digest is complete
    bool dry_run = false;
};

}  // namespace keel
