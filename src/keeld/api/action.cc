#include "keeld/api/action.h"

#include <chrono>
#include <string>
#include <utility>

#include "core/holds.h"
#include "keeld/json.h"

namespace keel {
namespace {

constexpr Millis kShortest = std::chrono::seconds(1);
constexpr Millis kLongest = std::chrono::hours(24 * 3650);

// A member of another type would pass for an absent one, and a rehearsal for the real thing.
Expected<void> check_types(const json_t* root) {
    const json_t* args = json_object_get(root, "args");
    if (args != nullptr && !json_is_object(args) && !json_is_null(args)) {
        return fail("bad-action", "args: expected an object");
    }
    for (const auto& [object, key] : {std::pair{root, "on"}, std::pair{root, "reason"},
                                      std::pair{args, "digest"}, std::pair{args, "for"}}) {
        const json_t* value = json_object_get(object, key);
        if (value != nullptr && !json_is_string(value) && !json_is_null(value)) {
            return fail("bad-action", std::string(key) + ": expected a string");
        }
    }
    for (const auto& [object, key] : {std::pair{root, "dryRun"}, std::pair{args, "force"}}) {
        const json_t* value = json_object_get(object, key);
        if (value != nullptr && !json_is_boolean(value) && !json_is_null(value)) {
            return fail("bad-action", std::string(key) + ": expected true or false");
        }
    }
    return {};
}

Expected<std::string> read_reason(const json_t* root, bool required) {
    const std::string reason(text_of(root, "reason"));
    if (reason.empty() && required) {
        return fail("bad-action", "reason: say why, for those who find the hold later");
    }
    if (!is_hold_reason(reason)) {
        return fail("bad-action", "reason: expected one line of up to " +
                                      std::to_string(kMaxHoldReason) + " bytes");
    }
    return reason;
}

// The digest that is asked for, in the reference or beside it.
Expected<std::optional<Digest>> read_digest(const Reference& reference, const json_t* args) {
    const std::string text(text_of(args, "digest"));
    std::optional<Digest> digest = text.empty() ? reference.digest : Digest::parse(text);
    if (!text.empty() && !digest) {
        return fail("bad-action", "digest: \"" + text + "\" is not sha256:<64 hex digits>");
    }
    if (reference.digest && *digest != *reference.digest) {
        return fail("bad-action", "the reference names another digest than the argument");
    }
    return digest;
}

Expected<Time> read_until(const json_t* args, Time now) {
    const std::string text(text_of(args, "for"));
    if (text.empty()) {
        return Time{};
    }
    const std::optional<Millis> span = parse_duration(text);
    if (!span || *span < kShortest || *span > kLongest) {
        return fail("bad-action",
                    "for: \"" + text + "\" is not a duration of 1s to 3650d, such as 72h");
    }
    return now + *span;
}

Expected<HoldWish> read_wish(const json_t* root, bool hold, Time now) {
    const std::string on(text_of(root, "on"));
    const Expected<Reference> reference = Reference::parse(on);
    if (!reference) {
        return fail("bad-action", "on: " + reference.error().text);
    }
    const std::optional<Tag> tag = reference->tag();
    if (!tag) {
        return fail("bad-action", "on: " + on + " names no tag; expected for example redis:8");
    }
    const json_t* args = json_object_get(root, "args");
    const Expected<std::string> reason = read_reason(root, hold);
    if (!reason) {
        return tl::unexpected<Error>(reason.error());
    }
    HoldWish wish;
    wish.tag = *tag;
    wish.reason = *reason;
    wish.dry_run = json_is_true(json_object_get(root, "dryRun"));
    if (!hold) {
        return wish;
    }
    const Expected<std::optional<Digest>> digest = read_digest(*reference, args);
    if (!digest) {
        return tl::unexpected<Error>(digest.error());
    }
    const Expected<Time> until = read_until(args, now);
    if (!until) {
        return tl::unexpected<Error>(until.error());
    }
    wish.digest = *digest;
    wish.until = *until;
    wish.force = json_is_true(json_object_get(args, "force"));
    return wish;
}

}  // namespace

Expected<Action> decode_action(std::string_view body, Time now) {
    const Json root = parse_json(body);
    const std::string name(text_of(root.get(), "action"));
    if (const Expected<void> typed = check_types(root.get()); !typed) {
        return tl::unexpected<Error>(typed.error());
    }
    Action action;
    action.hold = name == "hold";
    if (!action.hold && name != "release") {
        return fail("bad-action",
                    "action: \"" + name + "\" is not known; expected hold or release");
    }
    Expected<HoldWish> wish = read_wish(root.get(), action.hold, now);
    if (!wish) {
        return tl::unexpected<Error>(wish.error());
    }
    action.wish = std::move(*wish);
    return action;
}

Expected<Order> decode_order(std::string_view body) {
    const Json root = parse_json(body);
    if (const Expected<void> typed = check_types(root.get()); !typed) {
        return tl::unexpected<Error>(typed.error());
    }
    const Expected<std::string> reason = read_reason(root.get(), false);
    if (!reason) {
        return tl::unexpected<Error>(reason.error());
    }
    Order order;
    order.action = text_of(root.get(), "action");
    order.on = text_of(root.get(), "on");
    order.reason = *reason;
    order.dry_run = json_is_true(json_object_get(root.get(), "dryRun"));
    order.args = Json(json_incref(json_object_get(root.get(), "args")));
    return order;
}

}  // namespace keel
