#include "keeld/api/actions.h"

#include <pwd.h>

#include <array>
#include <cstdio>
#include <memory>
#include <utility>

#include "keeld/api/action.h"
#include "keeld/random_id.h"

namespace keel {
namespace {

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
    const Expected<Action> action = decode_action(request.body, clock_.now());
    if (!action) {
        co_return api_error(400, action.error().code, action.error().text);
    }
    Holds::Wish wish = action->wish;
    wish.id = random_id();
    wish.author = user_name(*request.peer_uid);
    Holds::Wish copy = wish;
    std::vector<Holds::Result> results;
    if (action->hold) {
        results = co_await holds_.set(std::move(copy));
    } else {
        results = co_await holds_.release(std::move(copy));
    }
    co_return answer(wish, results);
}

}  // namespace keel
