#include "keeld/rollout/outcome.h"

#include <algorithm>

namespace keel {
namespace {

struct Look {
    Arrival arrival;
    std::string text;
};

bool pull_failed(const std::string& reason) {
    return reason == "ImagePullBackOff" || reason == "ErrImagePull" ||
           reason == "InvalidImageName" || reason == "ImageInspectError";
}

std::string where(const Pod& pod, const ContainerStatus& status) {
    return "pod " + pod.name + ", container " + status.name;
}

Look without_image(const Pod& pod, const ContainerStatus& status, bool at_deadline) {
    if (!at_deadline) {
        return {Arrival::on_the_way, where(pod, status) + " has not started"};
    }
    if (pod.unschedulable) {
        return {Arrival::unschedulable, "pod " + pod.name + " finds no node"};
    }
    if (pull_failed(status.waiting_reason)) {
        return {Arrival::not_pulled, where(pod, status) + " cannot pull: " + status.waiting_reason};
    }
    return {Arrival::not_pulled,
            where(pod, status) + " had not started by the deadline" +
                (status.waiting_reason.empty() ? "" : ": " + status.waiting_reason)};
}

// An init container is well when it has ended well (then it is ready), or still runs and did not
// fail before.
bool is_well(const ContainerStatus& status) {
    if (!status.init) {
        return status.running && status.ready;
    }
    const bool failed =
        !status.terminated_reason.empty() && status.terminated_reason != "Completed";
    return status.ready || (status.waiting_reason.empty() && !failed);
}

Look on_target(const Pod& pod, const ContainerStatus& status, bool at_deadline) {
    const bool fine = is_well(status);
    if (fine || !at_deadline) {
        return {fine ? Arrival::proven : Arrival::on_the_way, where(pod, status)};
    }
    std::string why = !status.waiting_reason.empty()      ? status.waiting_reason
                      : !status.terminated_reason.empty() ? status.terminated_reason
                                                          : "not ready";
    return {Arrival::crashing, where(pod, status) + " runs the target and is not well: " + why +
                                   ", " + std::to_string(status.restarts) + " restarts"};
}

Look look_at(const Pod& pod, const ContainerStatus& status, const Target& target,
             const std::string& platform,
             const std::function<const Content*(const Digest&)>& content, bool at_deadline) {
    const std::string text = digest_of_image_id(status.image_id);
    if (text.empty()) {
        return without_image(pod, status, at_deadline);
    }
    const std::optional<Digest> reported = Digest::parse(text);
    const Content* wanted = content(target.to);
    const Content* known = reported ? content(*reported) : nullptr;
    SameContent same = SameContent::unknown;
    if (reported && wanted != nullptr) {
        same = compare_content(*reported, known, *wanted, platform);
    } else if (reported && *reported == target.to) {
        same = SameContent::same;
    }
    if (same == SameContent::same) {
        return on_target(pod, status, at_deadline);
    }
    if (text == target.from) {
        return {Arrival::previous, where(pod, status) + " still runs " + text};
    }
    if (same == SameContent::unknown) {
        return {Arrival::cannot_tell,
                where(pod, status) + " runs " + text + ", which cannot be resolved"};
    }
    return {Arrival::later, where(pod, status) + " runs " + text};
}

// The worst look decides; on_the_way gives way to what is already certain.
int weight(Arrival arrival) {
    switch (arrival) {
        case Arrival::proven:
            return 0;
        case Arrival::on_the_way:
            return 1;
        case Arrival::cannot_tell:
            return 2;
        case Arrival::unschedulable:
            return 3;
        case Arrival::not_pulled:
            return 4;
        case Arrival::crashing:
            return 5;
        case Arrival::previous:
            return 6;
        case Arrival::later:
            return 7;
    }
    return 0;
}

}  // namespace

Finding inspect(const std::vector<Pod>& updated, const std::vector<Target>& targets,
                const std::map<std::string, std::string>& platform_of_node,
                const std::function<const Content*(const Digest&)>& content, bool at_deadline) {
    Finding finding;
    finding.pods = static_cast<int>(updated.size());
    if (updated.empty()) {
        finding.text = "no pod of the new revision is there";
        finding.arrival = at_deadline ? Arrival::unschedulable : Arrival::on_the_way;
        return finding;
    }
    finding.arrival = Arrival::proven;
    for (const Pod& pod : updated) {
        const auto node = platform_of_node.find(pod.node);
        const std::string platform = node != platform_of_node.end() ? node->second : std::string();
        bool proven = true;
        for (const ContainerStatus& status : pod.containers) {
            finding.restarts += status.restarts;
        }
        for (const Target& target : targets) {
            const auto status = std::ranges::find_if(
                pod.containers,
                [&target](const ContainerStatus& one) { return one.name == target.container; });
            const ContainerStatus absent{.name = target.container,
                                         .image_id = {},
                                         .waiting_reason = {},
                                         .terminated_reason = {}};
            Look look = look_at(pod, status != pod.containers.end() ? *status : absent, target,
                                platform, content, at_deadline);
            proven = proven && look.arrival == Arrival::proven;
            if (weight(look.arrival) > weight(finding.arrival)) {
                finding.arrival = look.arrival;
                finding.container = target.container;
                finding.text = std::move(look.text);
            }
        }
        finding.proven += proven ? 1 : 0;
    }
    return finding;
}

}  // namespace keel
