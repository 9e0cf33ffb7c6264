#include "keeld/rollout/soak.h"

#include <algorithm>
#include <chrono>

#include "keeld/json.h"

namespace keel {
namespace {

constexpr int kMostFlaps = 3;
constexpr Millis kUnready{60'000};

using Hours = std::chrono::duration<double, std::ratio<3600>>;

// The first container of the pod that was rolled and for which `is` holds; null: none.
template <class Is>
const ContainerStatus* rolled(const Pod& pod, const std::vector<Target>& targets, Is is) {
    const auto found = std::ranges::find_if(pod.containers, [&](const ContainerStatus& status) {
        return !status.init &&
               std::ranges::find(targets, status.name, &Target::container) != targets.end() &&
               is(status);
    });
    return found != pod.containers.end() ? &*found : nullptr;
}

int restarts_of(const Pod& pod, const std::vector<Target>& targets) {
    int restarts = 0;
    (void)rolled(pod, targets, [&restarts](const ContainerStatus& status) {
        restarts += status.restarts;
        return false;
    });
    return restarts;
}

std::string where(const Pod& pod, const ContainerStatus& status) {
    return "pod " + pod.name + ", container " + status.name;
}

// What one look alone says.
std::optional<Unwell> at_sight(const Soak& soak, const Pod& pod, const std::vector<Target>& targets,
                               Time now) {
    const ContainerStatus* bad = rolled(pod, targets, [&soak](const ContainerStatus& status) {
        return status.terminated_reason == "OOMKilled" && status.terminated_at >= soak.begun;
    });
    if (bad != nullptr) {
        return Unwell{bad->name, where(pod, *bad) + " was killed for its memory while it soaked"};
    }
    bad = rolled(pod, targets, [](const ContainerStatus& status) {
        return status.waiting_reason == "CrashLoopBackOff";
    });
    if (bad != nullptr) {
        return Unwell{bad->name, where(pod, *bad) + " crashes again and again while it soaks"};
    }
    bad = rolled(pod, targets, [](const ContainerStatus& status) { return !status.ready; });
    if (bad != nullptr && !pod.ready && now - std::max(pod.ready_since, soak.begun) >= kUnready) {
        return Unwell{bad->name, where(pod, *bad) + " is not ready for more than a minute"};
    }
    return std::nullopt;
}

}  // namespace

std::string Soak::to_json() const {
    const Json list(json_object());
    for (const auto& [uid, seen] : pods) {
        json_object_set_new(list.get(), uid.c_str(),
                            json_pack("{s:i,s:i,s:b}", "restarts", seen.restarts, "flaps",
                                      seen.flaps, "ready", seen.ready ? 1 : 0));
    }
    const Json json(json_pack("{s:f,s:s,s:O}", "usual", usual, "begun", format_time(begun).c_str(),
                              "pods", list.get()));
    return dump_json(json.get());
}

Soak Soak::from_json(const std::string& text) {
    Soak soak;
    const Json json = parse_json(text);
    soak.usual = json_number_value(json_object_get(json.get(), "usual"));
    soak.begun = parse_time(text_of(json.get(), "begun")).value_or(Time{});
    const char* uid = nullptr;
    json_t* one = nullptr;
    json_object_foreach(json_object_get(json.get(), "pods"), uid, one) {
        soak.pods[uid] =
            Seen{static_cast<int>(json_integer_value(json_object_get(one, "restarts"))),
                 static_cast<int>(json_integer_value(json_object_get(one, "flaps"))),
                 json_is_true(json_object_get(one, "ready"))};
    }
    return soak;
}

double restarts_an_hour(const Running& running) {
    const double hours = Hours(running.lived).count();
    return running.known && hours > 0 ? running.restarts / hours * running.pods : 0;
}

std::optional<Unwell> look(Soak& soak, const std::vector<Pod>& updated,
                           const std::vector<Target>& targets, Time now) {
    int restarts = 0;
    const Pod* restless = nullptr;
    for (const Pod& pod : updated) {
        const int all = restarts_of(pod, targets);
        const auto [at, first] = soak.pods.try_emplace(pod.uid, Soak::Seen{all, 0, pod.ready});
        Soak::Seen& seen = at->second;
        seen.flaps += seen.ready && !pod.ready ? 1 : 0;
        seen.ready = pod.ready;
        restarts += all - seen.restarts;
        if (all > seen.restarts) {
            restless = &pod;
        }
        if (std::optional<Unwell> unwell = at_sight(soak, pod, targets, now)) {
            return unwell;
        }
        if (seen.flaps > kMostFlaps) {
            return Unwell{"", "pod " + pod.name + " became unready " + std::to_string(seen.flaps) +
                                  " times while it soaked"};
        }
    }
    const double usual = soak.usual * Hours(now - soak.begun).count();
    if (restless != nullptr && restarts > 1 && restarts > 2 * usual) {
        const ContainerStatus* one = rolled(
            *restless, targets, [](const ContainerStatus& status) { return status.restarts > 0; });
        return Unwell{one->name, where(*restless, *one) + ": " + std::to_string(restarts) +
                                     " restarts of the new pods while they soaked"};
    }
    return std::nullopt;
}

}  // namespace keel
