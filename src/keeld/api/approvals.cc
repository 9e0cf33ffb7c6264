#include "keeld/api/approvals.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/holds.h"
#include "core/reference.h"
#include "keeld/api/actions.h"
#include "keeld/random_id.h"

namespace keel {
namespace {

void set(json_t* object, const char* key, std::string_view text) {
    json_object_set_new(object, key, json_text(text));
}

json_t* event_of(const Approval& approval) {
    json_t* repository = json_object();
    if (const Expected<Tag> tag = Tag::parse(approval.tag)) {
        set(repository, "host", tag->registry);
        set(repository, "name", tag->registry + "/" + tag->repository);
        set(repository, "tag", tag->name);
    }
    set(repository, "digest", approval.digest);
    json_t* event = json_object();
    json_object_set_new(event, "repository", repository);
    set(event, "createdAt", format_time(approval.created));
    set(event, "triggerName", "keeld");
    return event;
}

// Keel's fields, then our own.
json_t* approval_object(const Approval& approval, Time now) {
    json_t* item = json_object();
    set(item, "id", approval.id);
    json_object_set_new(item, "archived", json_boolean(approval.archived != Time{}));
    set(item, "provider", "kubernetes");
    set(item, "identifier", approval.identifier);
    json_object_set_new(item, "event", event_of(approval));
    set(item, "message", approval.why);
    set(item, "currentVersion", approval.current);
    set(item, "newVersion", approval.wanted);
    set(item, "digest", approval.digest);
    json_object_set_new(item, "votesRequired", json_integer(approval.needed));
    json_object_set_new(item, "votesReceived",
                        json_integer(static_cast<json_int_t>(approval.voters.size())));
    json_t* voters = json_object();
    for (const auto& [name, at] : approval.voters) {
        json_object_set_new(voters, name.c_str(), json_text(format_time(at)));
    }
    json_object_set_new(item, "voters", voters);
    json_object_set_new(item, "rejected", json_boolean(!approval.rejected_by.empty()));
    set(item, "deadline", format_time(approval.deadline));
    set(item, "createdAt", format_time(approval.created));
    set(item, "updatedAt", format_time(approval.updated));
    set(item, "workload", approval.workload);
    set(item, "state", to_string(approval.state(now)));
    set(item, "targets", approval.targets);
    json_object_set_new(item, "rejectedBy", json_text_or_null(approval.rejected_by));
    json_object_set_new(item, "reason", json_text_or_null(approval.reason));
    return item;
}

ApiResponse answer(Json root) {
    ApiResponse response;
    response.body = dump_json(root.get());
    return response;
}

int status_of(const std::string& code) {
    return code == "unknown-approval" ? 404
           : code == "bad-action"     ? 400
           : code == "ledger"         ? 503
                                      : 409;
}

// Errors: "bad-action".
Expected<Order> decode_vote(const json_t* root) {
    for (const char* key : {"id", "identifier", "action", "reason"}) {
        const json_t* value = json_object_get(root, key);
        if (value != nullptr && !json_is_string(value) && !json_is_null(value)) {
            return fail("bad-action", std::string(key) + ": expected a string");
        }
    }
    Order order;
    order.on = text_of(root, text_of(root, "id").empty() ? "identifier" : "id");
    if (order.on.empty()) {
        return fail("bad-action",
                    "expected an object with \"id\" or \"identifier\", as GET "
                    "/v1/approvals has them");
    }
    order.reason = text_of(root, "reason");
    if (!is_hold_reason(order.reason)) {
        return fail("bad-action", "reason: expected one line of up to " +
                                      std::to_string(kMaxHoldReason) + " bytes");
    }
    const std::string action(text_of(root, "action"));
    order.action = action.empty() ? "approve" : action;
    order.args = Json(json_object());
    if (action == "delete" || action == "archive") {
        order.action = "reject";
        json_object_set_new(order.args.get(), action == "delete" ? "undo" : "archive", json_true());
    } else if (order.action != "approve" && order.action != "reject") {
        return fail("bad-action",
                    "action: \"" + action + "\" is none of approve, reject, delete and archive");
    }
    return order;
}

}  // namespace

Task<ApiResponse> ApprovalsApi::handle(ApiRequest request) {
    if (request.method == "GET") {
        co_return list();
    }
    if (request.method != "POST" && request.method != "PUT") {
        co_return api_error(405, "method", "GET, POST or PUT approvals");
    }
    if (!request.local_socket || !request.peer_uid) {
        co_return not_on_a_unix_socket();
    }
    if (request.method == "PUT") {
        co_return co_await demand(std::move(request));
    }
    co_return co_await vote(std::move(request));
}

ApiResponse ApprovalsApi::list() const {
    std::vector<const Approval*> newest_first;
    for (const auto& [id, one] : approvals_.all()) {
        newest_first.push_back(&one);
    }
    std::ranges::stable_sort(newest_first, std::ranges::greater{}, &Approval::created);
    Json root(json_array());
    for (const Approval* one : newest_first) {
        json_array_append_new(root.get(), approval_object(*one, clock_.now()));
    }
    return answer(std::move(root));
}

Task<ApiResponse> ApprovalsApi::vote(ApiRequest request) {
    const Json root = parse_json(request.body);
    Expected<Order> order = decode_vote(root.get());
    if (!order) {
        co_return api_error(400, order.error().code, order.error().text);
    }
    order->id = random_id();
    order->author = user_name(*request.peer_uid);
    const std::string author = order->author;
    const Approval* about = approvals_.named(order->on);
    const std::string id = about != nullptr ? about->id : "";
    const std::vector<OrderResult> results = co_await approvals_.order(std::move(*order));
    const OrderResult& result = results.front();
    if (!result.ok) {
        co_return api_error(status_of(result.code), result.code, result.on + ": " + result.text);
    }
    const Approval* after = approvals_.find(id);
    if (after == nullptr) {
        co_return answer(Json(json_null()));
    }
    Json item(approval_object(*after, clock_.now()));
    const std::string_view claimed = text_of(root.get(), "voter");
    if (!claimed.empty()) {
        set(item.get(), "note",
            "\"voter\" is ignored: the vote is that of " + author + ", who sent it");
    }
    co_return answer(std::move(item));
}

Task<ApiResponse> ApprovalsApi::demand(ApiRequest request) {
    const Json root = parse_json(request.body);
    const std::string provider(text_of(root.get(), "provider"));
    if (provider != "kubernetes") {
        co_return api_error(400, "bad-action",
                            "provider: \"" + provider + "\" is not known; expected kubernetes");
    }
    Order order;
    order.id = random_id();
    order.author = user_name(*request.peer_uid);
    order.action = "demand";
    order.on = text_of(root.get(), "identifier");
    order.args = Json(json_object());
    json_object_set(order.args.get(), "votes", json_object_get(root.get(), "votesRequired"));
    const std::vector<OrderResult> results = co_await approvals_.demand(std::move(order));
    const OrderResult& result = results.front();
    if (!result.ok) {
        co_return api_error(status_of(result.code), result.code, result.text);
    }
    const Json done(json_pack("{s:s,s:s}", "status", "updated", "note",
                              "what the workload's settings demand holds as well"));
    ApiResponse response;
    response.body = dump_json(done.get());
    co_return response;
}

}  // namespace keel
