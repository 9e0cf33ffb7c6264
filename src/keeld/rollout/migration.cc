#include "keeld/rollout/migration.h"

#include <string>
#include <utility>

namespace keel {
namespace {

constexpr const char* kKyverno[] = {"kyverno", "kyverno-*", "background-controller"};

// As a JSON pointer has it.
std::string pointer_of(const std::string& key) {
    std::string text = "/metadata/annotations/";
    for (const char c : key) {
        text += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
    }
    return text;
}

std::string removal_patch(const Workload& workload, const std::vector<Leftover>& keys) {
    const Json patch(json_array());
    const auto add = [&patch](const char* what, const std::string& path, const std::string* value) {
        json_t* step = json_pack("{s:s,s:s}", "op", what, "path", path.c_str());
        if (value != nullptr) {
            json_object_set_new(step, "value", json_text(*value));
        }
        json_array_append_new(patch.get(), step);
    };
    add("test", "/metadata/uid", &workload.uid);
    // Whoever writes the same value meanwhile owns it, too.
    add("test", "/metadata/resourceVersion", &workload.resource_version);
    for (const Leftover& one : keys) {
        if (one.removable) {
            add("test", pointer_of(one.key), &one.value);
            add("remove", pointer_of(one.key), nullptr);
        }
    }
    return dump_json(patch.get());
}

std::string text_of(const std::vector<Leftover>& keys) {
    std::string text;
    for (const Leftover& one : keys) {
        if (one.removable) {
            text += (text.empty() ? "" : ", ") + one.key + ": " + one.value + ", then " + one.then;
        }
    }
    return text;
}

OrderResult left_on_namespace(const Migration::Found& found) {
    const std::string text = text_of(found.keys);
    if (text.empty()) {
        return {found.on, true, "left", "labels are not touched"};
    }
    return {found.on, false, "namespace",
            "not removed: " + text +
                "; keeld has no right to write namespaces, keelctl migrate kyverno --commands "
                "prints the line that does"};
}

std::vector<OrderResult> one_result(OrderResult result) {
    std::vector<OrderResult> results;
    results.push_back(std::move(result));
    return results;
}

}  // namespace

Expected<LeftoverRule> leftover_rule(const json_t* args) {
    LeftoverRule rule;
    const json_t* managers = json_object_get(args, "managers");
    const json_t* values = json_object_get(args, "values");
    if ((managers != nullptr && !json_is_array(managers)) ||
        (values != nullptr && !json_is_object(values))) {
        return fail("bad-action", "expected managers: [GLOB, …] and values: {KEY: VALUE, …}");
    }
    std::size_t at = 0;
    const json_t* item = nullptr;
    json_array_foreach(managers, at, item) {
        if (!json_is_string(item) || json_string_length(item) == 0) {
            return fail("bad-action", "managers: expected names of field managers, or globs");
        }
        rule.managers.emplace_back(json_string_value(item));
    }
    if (rule.managers.empty()) {
        rule.managers.assign(std::begin(kKyverno), std::end(kKyverno));
    }
    auto* map = const_cast<json_t*>(values);
    for (void* step = json_object_iter(map); step != nullptr;
         step = json_object_iter_next(map, step)) {
        const json_t* value = json_object_iter_value(step);
        if (!json_is_string(value)) {
            return fail("bad-action", "values: expected texts by key");
        }
        rule.values[json_object_iter_key(step)] = json_string_value(value);
    }
    return rule;
}

std::vector<Migration::Found> Migration::find(const LeftoverRule& rule) const {
    std::vector<Found> all;
    for (const auto& [name, ns] : parts_.catalogue.namespaces()) {
        std::vector<Leftover> keys = leftovers_of(ns, parts_.config, rule);
        if (!keys.empty()) {
            all.push_back({"Namespace/" + name, std::nullopt, std::move(keys)});
        }
    }
    for (const auto& [key, entry] : parts_.catalogue.workloads()) {
        std::vector<Leftover> keys = leftovers_of(
            entry.object, parts_.catalogue.find_namespace(key.ns), parts_.config, rule);
        if (!keys.empty()) {
            all.push_back({key.to_string(), key, std::move(keys)});
        }
    }
    return all;
}

Task<std::vector<OrderResult>> Migration::order(Order order) {
    const Expected<LeftoverRule> rule = leftover_rule(order.args.get());
    if (!rule) {
        co_return one_result({order.on, false, rule.error().code, rule.error().text});
    }
    const bool all = order.on == "cluster";
    const Expected<WorkloadKey> only = WorkloadKey::parse(order.on);
    if (!all && !only) {
        co_return one_result(
            {order.on, false, "bad-action", "on: expected cluster, or " + only.error().text});
    }
    if (parts_.config.mode != Mode::act && !order.dry_run) {
        co_return one_result({order.on, false, "observe-only",
                              "mode is observe: keeld writes nothing; keelctl migrate kyverno "
                              "--commands prints what does the same by kubectl"});
    }
    std::vector<OrderResult> results;
    for (Found& found : find(*rule)) {
        if (!all && found.workload != *only) {
            continue;
        }
        if (!found.workload) {
            results.push_back(left_on_namespace(found));
            continue;
        }
        Order copy;
        copy.author = order.author;
        copy.reason = order.reason;
        copy.dry_run = order.dry_run;
        OrderResult result =
            co_await remove(*found.workload, std::move(found.keys), std::move(copy));
        results.push_back(std::move(result));
    }
    if (results.empty()) {
        co_return one_result({order.on, true, "nothing-found", "no such key is left there"});
    }
    const Expected<void> kept = co_await parts_.ledger.durable();
    if (!kept) {
        results.push_back({order.on, false, "ledger",
                           "it is done, and the history is not on disk yet: " + kept.error().text});
    }
    co_return results;
}

Task<OrderResult> Migration::remove(WorkloadKey workload, std::vector<Leftover> keys, Order order) {
    const std::string name = workload.to_string();
    const std::string text = text_of(keys);
    const CatalogueEntry* entry = parts_.catalogue.find(workload);
    if (entry == nullptr) {
        co_return OrderResult{name, true, "gone", "the workload is gone"};
    }
    const std::string uid = entry->object.uid;
    if (text.empty()) {
        co_return OrderResult{name, true, "left",
                              "labels and what stands on the pod template are not touched"};
    }
    if (order.dry_run) {
        co_return OrderResult{name, true, "would-remove", text};
    }
    const std::string path = workload.path() + "?fieldManager=keeld";
    const std::string type = "application/json-patch+json";
    const std::string body = removal_patch(entry->object, keys);
    const Expected<Json> answer = co_await parts_.cluster.patch(path, type, body);
    if (!answer) {
        co_return OrderResult{
            name, false, answer.error().code,
            "not removed, or somebody changed it meanwhile: " + answer.error().text};
    }
    Entry told;
    told.at = parts_.clock.now();
    told.kind = EntryKind::ordered;
    told.code = "migrated";
    told.workload = name;
    told.uid = uid;
    told.cause = order.author;
    told.text = "removed " + text + (order.reason.empty() ? "" : " (" + order.reason + ")");
    parts_.ledger.append(std::move(told));
    co_return OrderResult{name, true, "removed", text};
}

}  // namespace keel
