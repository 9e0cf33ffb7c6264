#include "keeld/api/actions.h"

#include <pwd.h>

#include <array>
#include <cstdio>
#include <memory>
#include <random>
#include <utility>

#include "core/holds.h"

namespace keel {
namespace {

constexpr Millis kShortest = std::chrono::seconds(1);
constexpr Millis kLongest = std::chrono::hours(24 * 3650);

std::string random_id() {
    static std::mt19937_64 engine{std::random_device{}()};
    static constexpr char kHex[] = "0123456789abcdef";
    std::string id;
    for (std::uint64_t bits = engine(), i = 0; i < 16; ++i, bits >>= 4U) {
        id += kHex[bits & 15U];
    }
    return id;
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

Expected<Holds::Wish> read_wish(const json_t* root, bool hold, Time now) {
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
    Holds::Wish wish;
    wish.id = random_id();
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

ApiResponse answer(const Holds::Wish& wish, const std::vector<Holds::Result>& results) {
    const Json root(json_object());
    json_object_set_new(root.get(), "id", json_text(wish.id));
    json_t* list = json_array();
    for (const Holds::Result& result : results) {
        json_t* item = json_object();
        json_object_set_new(item, "on", json_text(wish.tag.to_string()));
        json_object_set_new(item, "cache", json_text_or_null(result.cache));
        json_object_set_new(item, "ok", json_boolean(result.ok));
        json_object_set_new(item, "code", json_text(result.code));
        json_object_set_new(item, "text", json_text(result.text));
        json_array_append_new(list, item);
    }
    json_object_set_new(root.get(), "results", list);
    ApiResponse response;
    response.body = dump_json(root.get());
    return response;
}

}  // namespace

std::string user_name(unsigned uid, const std::string& path) {
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "re"), std::fclose);
    std::array<char, 4096> buffer{};
    passwd entry{};
    passwd* found = nullptr;
    while (file && ::fgetpwent_r(file.get(), &entry, buffer.data(), buffer.size(), &found) == 0) {
        if (found->pw_uid == uid) {
            return found->pw_name;
        }
    }
    return "uid " + std::to_string(uid);
}

Task<ApiResponse> Actions::handle(ApiRequest request) {
    if (!request.local_socket || !request.peer_uid) {
        co_return api_error(403, "forbidden",
                            "actions are taken on unix sockets only, where the kernel says who "
                            "asks; use the one that `listen` in keeld.yaml names");
    }
    const Json root = parse_json(request.body);
    const std::string action(text_of(root.get(), "action"));
    if (action != "hold" && action != "release") {
        co_return api_error(400, "bad-action",
                            "action: \"" + action + "\" is not known; expected hold or release");
    }
    const bool hold = action == "hold";
    Expected<Holds::Wish> wish = read_wish(root.get(), hold, clock_.now());
    if (!wish) {
        co_return api_error(400, wish.error().code, wish.error().text);
    }
    wish->author = user_name(*request.peer_uid);
    Holds::Wish copy = *wish;
    std::vector<Holds::Result> results;
    if (hold) {
        results = co_await holds_.set(std::move(copy));
    } else {
        results = co_await holds_.release(std::move(copy));
    }
    co_return answer(*wish, results);
}

}  // namespace keel
