#include "keelctl/pins.h"

#include <memory>
#include <string_view>
#include <vector>

#include "keelctl/json.h"

namespace keel::ctl {
namespace {

struct Name {
    std::string kind;
    std::string ns;
    std::string name;
};

Name name_of(std::string_view workload) {
    const auto first = workload.find('/');
    const auto second = workload.find('/', first + 1);
    if (second == std::string_view::npos) return {std::string(workload), "", ""};
    return {std::string(workload.substr(0, first)),
            std::string(workload.substr(first + 1, second - first - 1)),
            std::string(workload.substr(second + 1))};
}

// In single quotes for a shell; nothing of it comes with one, but who knows.
std::string quoted(const std::string& text) {
    std::string result = "'";
    for (const char c : text) {
        result += c == '\'' ? std::string("'\\''") : std::string(1, c);
    }
    return result + "'";
}

std::string about(const json_t* item, const json_t* pin) {
    return std::string(text_of(item, "workload")) + ", " + std::string(text_of(pin, "container"));
}

// The patch of all pins of one workload; null where there are none.
Json patch_of(const json_t* item) {
    Json pod(json_object());
    const json_t* pins = json_object_get(item, "pins");
    for (std::size_t i = 0; i < json_array_size(pins); ++i) {
        const json_t* pin = json_array_get(pins, i);
        const std::string list(text_of(pin, "list"));
        const std::string pinned(text_of(pin, "pinned"));
        if (pinned.empty()) continue;
        if (json_object_get(pod.get(), list.c_str()) == nullptr) {
            json_object_set_new(pod.get(), list.c_str(), json_array());
        }
        json_array_append_new(
            json_object_get(pod.get(), list.c_str()),
            json_pack("{s:s,s:s}", "name", std::string(text_of(pin, "container")).c_str(), "image",
                      pinned.c_str()));
    }
    if (json_object_size(pod.get()) == 0) return nullptr;
    Json root(json_pack("{s:{s:{s:O}}}", "spec", "template", "spec", pod.get()));
    if (name_of(text_of(item, "workload")).kind != "CronJob") return root;
    return Json(json_pack("{s:{s:O}}", "spec", "jobTemplate", root.get()));
}

}  // namespace

std::string print_pins(const json_t* list, const std::string& format) {
    std::string text;
    const json_t* items = json_object_get(list, "items");
    for (std::size_t i = 0; i < json_array_size(items); ++i) {
        const json_t* item = json_array_get(items, i);
        const json_t* pins = json_object_get(item, "pins");
        for (std::size_t j = 0; j < json_array_size(pins); ++j) {
            const json_t* pin = json_array_get(pins, j);
            const std::string note(text_of(pin, "note"));
            const std::string pinned(text_of(pin, "pinned"));
            if (!note.empty()) text += "# " + about(item, pin) + ": " + note + "\n";
            if (pinned.empty()) continue;
            if (format == "yaml") {
                text += "- workload: " + std::string(text_of(item, "workload")) +
                        "\n  container: " + std::string(text_of(pin, "container")) +
                        "\n  image: \"" + pinned + "\"\n";
            } else if (format == "terraform") {
                text += "# " + about(item, pin) + "\nimage = \"" + pinned + "\"\n";
            }
        }
        if (format != "patch") continue;
        if (const Json patch = patch_of(item)) {
            const Name name = name_of(text_of(item, "workload"));
            text += "kubectl -n " + name.ns + " patch " + name.kind + "/" + name.name +
                    " --type strategic -p " + quoted(dump(patch.get())) + "\n";
        }
    }
    return text;
}

}  // namespace keel::ctl
