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

ApiResponse answer(const std::string& id, const std::vector<OrderResult>& results) {
    const Json root(json_object());
    json_object_set_new(root.get(), "id", json_text(id));
    json_t* list = json_array();
    for (const OrderResult& result : results) {
        json_t* item = json_object();
        json_object_set_new(item, "on", json_text(result.on));
        json_object_set_new(item, "cache", json_null());
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

ApiResponse not_on_a_unix_socket() {
    return api_error(403, "forbidden",
                     "actions are taken on unix sockets only, where the kernel says who asks; use "
                     "the one that `listen` in keeld.yaml names");
}

void Actions::serve(std::string action, OrderHandler handler) {
    handlers_[std::move(action)] = std::move(handler);
}

Task<ApiResponse> Actions::handle(ApiRequest request) {
    if (!request.local_socket || !request.peer_uid) {
        co_return not_on_a_unix_socket();
    }
    const Json root = parse_json(request.body);
    const std::string name(text_of(root.get(), "action"));
    if (const auto found = handlers_.find(name); found != handlers_.end()) {
        Expected<Order> order = decode_order(request.body);
        if (!order) {
            co_return api_error(400, order.error().code, order.error().text);
        }
        order->id = random_id();
        order->author = user_name(*request.peer_uid);
        const std::string id = order->id;
        const OrderHandler handler = found->second;
        const std::vector<OrderResult> results = co_await handler(std::move(*order));
        co_return answer(id, results);
    }
    const Expected<Action> action = decode_action(request.body, clock_.now());
    if (!action) {
        std::string text = action.error().text;
        for (const auto& [known, handler] : handlers_) {
            text += name == "hold" || name == "release" ? "" : ", " + known;
        }
        co_return api_error(400, action.error().code, text);
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
