#include "keeld/api/plan.h"

#include <utility>

#include "keeld/json.h"

namespace keel {
namespace {

json_t* count_of(std::size_t size) {
    return json_integer(static_cast<json_int_t>(size));
}

}  // namespace

ApiResponse plan_answer(const ConfigChange& change, const Config& next) {
    const Json root(json_object());
    const Json counts(json_object());
    const std::pair<const char*, const std::vector<WorkloadKey>&> parts[] = {
        {"enrolled", change.enrolled},
        {"rolled", change.rolled},
        {"released", change.released},
        {"unknown", change.unknown}};
    for (const auto& [name, keys] : parts) {
        json_t* list = json_array();
        for (const WorkloadKey& key : keys) {
            json_array_append_new(list, json_text(key.to_string()));
        }
        json_object_set_new(root.get(), name, list);
        json_object_set_new(counts.get(), name, count_of(keys.size()));
    }
    json_object_set_new(counts.get(), "changed", count_of(change.changed));
    json_object_set(root.get(), "counts", counts.get());
    json_object_set_new(root.get(), "cap", json_integer(next.cap));
    const std::string refusal = refusal_of(change, next);
    json_object_set_new(root.get(), "refused", refusal.empty() ? json_null() : json_text(refusal));
    ApiResponse response;
    response.body = dump_json(root.get()) + "\n";
    return response;
}

}  // namespace keel
