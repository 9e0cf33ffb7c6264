#include "keeld/cluster/objects.h"

#include <jansson.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <limits>
#include <utility>

#include "core/digest.h"

namespace keel {
namespace {

struct KindNames {
    WorkloadKind kind;
    std::string_view name;      // of the API
    std::string_view resource;  // in paths
    std::string_view group;     // path of the API group
    std::string_view singular;
    std::string_view brief;
};

constexpr std::array<KindNames, 4> kKinds{{
    {WorkloadKind::deployment, "Deployment", "deployments", "/apis/apps/v1", "deployment",
     "deploy"},
    {WorkloadKind::stateful_set, "StatefulSet", "statefulsets", "/apis/apps/v1", "statefulset",
     "sts"},
    {WorkloadKind::daemon_set, "DaemonSet", "daemonsets", "/apis/apps/v1", "daemonset", "ds"},
    {WorkloadKind::cron_job, "CronJob", "cronjobs", "/apis/batch/v1", "cronjob", "cj"},
}};

const KindNames& names_of(WorkloadKind kind) {
    return kKinds[static_cast<std::size_t>(kind)];
}

bool is_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
}

// A DNS-1123 subdomain, which is what names and namespaces are. It goes into a path unescaped.
bool is_dns_name(std::string_view text) {
    return !text.empty() && text.size() <= 253 &&
           std::all_of(text.begin(), text.end(), is_name_char) && text.front() != '.' &&
           text.front() != '-' && text.back() != '.' && text.back() != '-';
}

// Reads fields and remembers the first one of a wrong type; absent and null fields are defaults,
// as everywhere in the Kubernetes API.
class Fields {
  public:
    const json_t* object(const json_t* parent, const char* key) {
        return typed(parent, key, JSON_OBJECT, "an object");
    }
    const json_t* array(const json_t* parent, const char* key) {
        return typed(parent, key, JSON_ARRAY, "a list");
    }
    std::string string(const json_t* parent, const char* key) {
        const json_t* value = typed(parent, key, JSON_STRING, "a string");
        return value == nullptr ? std::string{}
                                : std::string{json_string_value(value), json_string_length(value)};
    }
    std::int64_t integer(const json_t* parent, const char* key, std::int64_t absent) {
        const json_t* value = typed(parent, key, JSON_INTEGER, "an integer");
        return value == nullptr ? absent : json_integer_value(value);
    }
    int count(const json_t* parent, const char* key, int absent) {
        const std::int64_t value = integer(parent, key, absent);
        if (value < 0 || value > std::numeric_limits<int>::max()) {
            wrong(key, "a count");
            return absent;
        }
        return static_cast<int>(value);
    }
    bool boolean(const json_t* parent, const char* key) {
        const json_t* value = json_object_get(parent, key);
        if (value != nullptr && !json_is_boolean(value) && !json_is_null(value)) {
            wrong(key, "true or false");
        }
        return json_is_true(value);
    }
    void wrong(const char* key, const char* expected) {
        if (problem_.empty()) problem_ = std::string{"field "} + key + " is not " + expected;
    }
    [[nodiscard]] const std::string& problem() const { return problem_; }

  private:
    const json_t* typed(const json_t* parent, const char* key, json_type type,
                        const char* expected) {
        const json_t* value = json_object_get(parent, key);
        if (value == nullptr || json_is_null(value)) return nullptr;
        if (json_typeof(value) == type) return value;
        wrong(key, expected);
        return nullptr;
    }

    std::string problem_;
};

// Every element of a list of objects; null for the list means an empty one.
template <class Each>
void for_each_object(Fields& fields, const json_t* list, const char* key, Each each) {
    const std::size_t size = json_array_size(list);
    for (std::size_t i = 0; i < size; ++i) {
        const json_t* element = json_array_get(list, i);
        if (json_is_object(element)) {
            each(element);
        } else {
            fields.wrong(key, "a list of objects");
        }
    }
}

template <class Each>
void for_each_string(Fields& fields, const json_t* object, const char* key, Each each) {
    // jansson iterates constant objects through a non-constant pointer; nothing is changed.
    auto* map = const_cast<json_t*>(object);
    for (void* at = json_object_iter(map); at != nullptr; at = json_object_iter_next(map, at)) {
        const json_t* value = json_object_iter_value(at);
        if (json_is_string(value)) {
            each(std::string_view{json_object_iter_key(at)},
                 std::string_view{json_string_value(value), json_string_length(value)});
        } else {
            fields.wrong(key, "a map of strings");
        }
    }
}

KeelKeys keel_keys(Fields& fields, const json_t* metadata, const char* key) {
    KeelKeys kept;
    for_each_string(fields, fields.object(metadata, key), key,
                    [&](std::string_view name, std::string_view value) {
                        if (is_keel_key(name)) kept.emplace(name, value);
                    });
    return kept;
}

// The members of a fieldsV1 below this path; null: none.
const json_t* fields_below(const json_t* fields, std::initializer_list<const char*> path) {
    for (const char* key : path) {
        fields = json_object_get(fields, key);
    }
    return fields;
}

void note_writer(std::vector<KeyWriters>& writers, const json_t* metadata, KeyPlace annotation,
                 KeyPlace label, const std::string& manager) {
    for (const auto& [member, place] :
         {std::pair{"f:annotations", annotation}, std::pair{"f:labels", label}}) {
        auto* map = const_cast<json_t*>(json_object_get(metadata, member));
        for (void* at = json_object_iter(map); at != nullptr; at = json_object_iter_next(map, at)) {
            std::string_view key{json_object_iter_key(at)};
            if (!key.starts_with("f:") || !is_keel_key(key.substr(2))) continue;
            key.remove_prefix(2);
            auto known = std::ranges::find_if(writers, [&, where = place](const KeyWriters& one) {
                return one.place == where && one.key == key;
            });
            if (known == writers.end()) {
                known = writers.insert(known, {place, std::string{key}, {}});
            }
            if (std::ranges::find(known->managers, manager) == known->managers.end()) {
                known->managers.push_back(manager);
            }
        }
    }
}

// Who wrote our keys of the object, and of its pod template.
std::vector<KeyWriters> writers_of(Fields& fields, const json_t* metadata) {
    std::vector<KeyWriters> writers;
    const char* key = "managedFields";
    for_each_object(fields, fields.array(metadata, key), key, [&](const json_t* entry) {
        const std::string manager = fields.string(entry, "manager");
        const json_t* owned = fields.object(entry, "fieldsV1");
        const json_t* spec = json_object_get(owned, "f:spec");
        note_writer(writers, json_object_get(owned, "f:metadata"), KeyPlace::annotation,
                    KeyPlace::label, manager);
        for (const json_t* pods :
             {fields_below(spec, {"f:template", "f:metadata"}),
              fields_below(spec, {"f:jobTemplate", "f:spec", "f:template", "f:metadata"})}) {
            note_writer(writers, pods, KeyPlace::template_annotation, KeyPlace::template_label,
                        manager);
        }
    });
    writers.shrink_to_fit();
    return writers;
}

// Who wrote the image of which container. fieldsV1 names the items of a list by their keys:
// k:{"name":"app"}.
void note_image_managers(Fields& fields, const json_t* metadata,
                         std::vector<Container>& containers) {
    const char* key = "managedFields";
    for_each_object(fields, fields.array(metadata, key), key, [&](const json_t* entry) {
        const json_t* spec = json_object_get(fields.object(entry, "fieldsV1"), "f:spec");
        const json_t* pods[] = {
            fields_below(spec, {"f:template", "f:spec"}),
            fields_below(spec, {"f:jobTemplate", "f:spec", "f:template", "f:spec"})};
        for (Container& one : containers) {
            const char* list = one.volume ? "f:volumes"
                               : one.init ? "f:initContainers"
                                          : "f:containers";
            const std::string item = R"(k:{"name":")" + std::string{one.own_name()} + "\"}";
            for (const json_t* pod : pods) {
                const json_t* owned = fields_below(pod, {list, item.c_str()});
                if (one.volume ? fields_below(owned, {"f:image", "f:reference"}) != nullptr
                               : json_object_get(owned, "f:image") != nullptr) {
                    one.image_managers.push_back(fields.string(entry, "manager"));
                }
            }
        }
    });
}

std::optional<Owner> controller_of(Fields& fields, const json_t* metadata) {
    std::optional<Owner> owner;
    const char* key = "ownerReferences";
    for_each_object(fields, fields.array(metadata, key), key, [&](const json_t* reference) {
        if (!fields.boolean(reference, "controller")) return;
        owner = Owner{fields.string(reference, "apiVersion"), fields.string(reference, "kind"),
                      fields.string(reference, "name"), fields.string(reference, "uid")};
    });
    return owner;
}

constexpr std::string_view kVolume = "volume/";

PullPolicy pull_policy(Fields& fields, const json_t* object, const char* key) {
    const std::string text = fields.string(object, key);
    if (text == "IfNotPresent") return PullPolicy::if_not_present;
    if (text == "Never") return PullPolicy::never;
    return PullPolicy::always;
}

void append_containers(Fields& fields, const json_t* pod_spec, const char* key, bool init,
                       std::vector<Container>& out) {
    for_each_object(fields, fields.array(pod_spec, key), key, [&](const json_t* container) {
        out.push_back({fields.string(container, "name"), fields.string(container, "image"),
                       pull_policy(fields, container, "imagePullPolicy"), init});
    });
}

// A rule about other labels says nothing of platforms: nullopt.
std::optional<NodeRule> node_rule(std::string_view label, bool in) {
    const bool os = label == "kubernetes.io/os" || label == "beta.kubernetes.io/os";
    if (!os && label != "kubernetes.io/arch" && label != "beta.kubernetes.io/arch") {
        return std::nullopt;
    }
    return NodeRule{os, in, {}};
}

// Every node has both labels, and neither is a number: Exists is always true, and what is neither
// In nor NotIn never.
std::optional<NodeRule> node_rule(Fields& fields, const json_t* expression) {
    const std::string how = fields.string(expression, "operator");
    auto rule = node_rule(fields.string(expression, "key"), how != "NotIn" && how != "Exists");
    if (rule && (how == "In" || how == "NotIn")) {
        const json_t* values = fields.array(expression, "values");
        for (std::size_t i = 0; i < json_array_size(values); ++i) {
            const char* value = json_string_value(json_array_get(values, i));
            if (value != nullptr) rule->values.emplace_back(value);
        }
    }
    return rule;
}

// Terms are alternatives; nodeSelector holds beside each of them.
std::vector<std::vector<NodeRule>> node_terms(Fields& fields, const json_t* pod_spec) {
    std::vector<NodeRule> always;
    const char* selector = "nodeSelector";
    for_each_string(fields, fields.object(pod_spec, selector), selector,
                    [&](std::string_view label, std::string_view value) {
                        if (auto rule = node_rule(label, true)) {
                            rule->values.emplace_back(value);
                            always.push_back(std::move(*rule));
                        }
                    });
    std::vector<std::vector<NodeRule>> all;
    const json_t* affinity = fields.object(fields.object(pod_spec, "affinity"), "nodeAffinity");
    const json_t* required =
        fields.object(affinity, "requiredDuringSchedulingIgnoredDuringExecution");
    const char* terms = "nodeSelectorTerms";
    for_each_object(fields, fields.array(required, terms), terms, [&](const json_t* term) {
        const char* expressions = "matchExpressions";
        const json_t* list = fields.array(term, expressions);
        if (json_array_size(list) + json_array_size(fields.array(term, "matchFields")) == 0) {
            return;  // matches no node
        }
        std::vector<NodeRule>& rules = all.emplace_back(always);
        for_each_object(fields, list, expressions, [&](const json_t* expression) {
            if (auto rule = node_rule(fields, expression)) rules.push_back(std::move(*rule));
        });
    });
    if (all.empty() && !always.empty()) all.push_back(std::move(always));
    return all;
}

// Volumes that are images; one whose reference somebody else fills in later is none yet.
void append_image_volumes(Fields& fields, const json_t* pod_spec, std::vector<Container>& out) {
    const char* key = "volumes";
    for_each_object(fields, fields.array(pod_spec, key), key, [&](const json_t* volume) {
        const json_t* image = fields.object(volume, "image");
        std::string reference = fields.string(image, "reference");
        if (!reference.empty()) {
            out.push_back({std::string{kVolume} + fields.string(volume, "name"),
                           std::move(reference), pull_policy(fields, image, "pullPolicy"), false,
                           true});
        }
    });
}

std::string selector_text(Fields& fields, const json_t* selector) {
    std::string text;
    const auto add = [&](const std::string& term) {
        if (!text.empty()) text += ',';
        text += term;
    };
    for_each_string(fields, fields.object(selector, "matchLabels"), "matchLabels",
                    [&](std::string_view key, std::string_view value) {
                        add(std::string{key} + "=" + std::string{value});
                    });
    const char* list = "matchExpressions";
    for_each_object(fields, fields.array(selector, list), list, [&](const json_t* expression) {
        const std::string key = fields.string(expression, "key");
        const std::string op = fields.string(expression, "operator");
        std::string values;
        const json_t* list_of_values = fields.array(expression, "values");
        for (std::size_t i = 0; i < json_array_size(list_of_values); ++i) {
            const json_t* value = json_array_get(list_of_values, i);
            if (!json_is_string(value)) fields.wrong("values", "a list of strings");
            if (i > 0) values += ',';
            if (json_is_string(value)) values += json_string_value(value);
        }
        if (op == "In") {
            add(key + " in (" + values + ")");
        } else if (op == "NotIn") {
            add(key + " notin (" + values + ")");
        } else if (op == "Exists") {
            add(key);
        } else if (op == "DoesNotExist") {
            add("!" + key);
        } else {
            fields.wrong("operator", "In, NotIn, Exists or DoesNotExist");
        }
    });
    return text;
}

bool has_condition(Fields& fields, const json_t* status, std::string_view type,
                   std::string_view value, std::string_view reason) {
    bool found = false;
    const char* key = "conditions";
    for_each_object(fields, fields.array(status, key), key, [&](const json_t* condition) {
        found = found || (fields.string(condition, "type") == type &&
                          fields.string(condition, "status") == value &&
                          (reason.empty() || fields.string(condition, "reason") == reason));
    });
    return found;
}

Time time_of(Fields& fields, const json_t* object, const char* key) {
    return parse_time(fields.string(object, key)).value_or(Time{});
}

Time last_transition(Fields& fields, const json_t* status, std::string_view type) {
    Time since;
    const char* key = "conditions";
    for_each_object(fields, fields.array(status, key), key, [&](const json_t* condition) {
        if (fields.string(condition, "type") == type) {
            since = time_of(fields, condition, "lastTransitionTime");
        }
    });
    return since;
}

void read_deployment(Fields& fields, const json_t* metadata, const json_t* spec,
                     const json_t* status, Workload& workload) {
    workload.replicas = fields.count(spec, "replicas", 1);
    workload.updated = fields.count(status, "updatedReplicas", 0);
    workload.ready = fields.count(status, "readyReplicas", 0);
    workload.available = fields.count(status, "availableReplicas", 0);
    workload.current = fields.count(status, "replicas", 0);
    workload.paused = fields.boolean(spec, "paused");
    workload.progress_deadline = fields.count(spec, "progressDeadlineSeconds", 600);
    workload.deadline_exceeded =
        has_condition(fields, status, "Progressing", "False", "ProgressDeadlineExceeded");
    workload.was_complete =
        has_condition(fields, status, "Progressing", "True", "NewReplicaSetAvailable");
    workload.revision =
        fields.string(fields.object(metadata, "annotations"), "deployment.kubernetes.io/revision");
}

void read_stateful_set(Fields& fields, const json_t* spec, const json_t* status,
                       Workload& workload) {
    const json_t* strategy = fields.object(spec, "updateStrategy");
    workload.replicas = fields.count(spec, "replicas", 1);
    workload.updated = fields.count(status, "updatedReplicas", 0);
    workload.ready = fields.count(status, "readyReplicas", 0);
    workload.available = fields.count(status, "availableReplicas", 0);
    workload.current = fields.count(status, "replicas", 0);
    workload.on_delete = fields.string(strategy, "type") == "OnDelete";
    workload.partitioned =
        fields.count(fields.object(strategy, "rollingUpdate"), "partition", 0) > 0;
    workload.revision = fields.string(status, "updateRevision");
}

void read_daemon_set(Fields& fields, const json_t* spec, const json_t* status, Workload& workload) {
    workload.replicas = fields.count(status, "desiredNumberScheduled", 0);
    workload.updated = fields.count(status, "updatedNumberScheduled", 0);
    workload.ready = fields.count(status, "numberReady", 0);
    workload.available = fields.count(status, "numberAvailable", 0);
    workload.current = fields.count(status, "currentNumberScheduled", 0);
    workload.on_delete = fields.string(fields.object(spec, "updateStrategy"), "type") == "OnDelete";
}

// What kind of object it was, for an error's text.
std::string describe(const json_t* object, std::string_view kind) {
    const json_t* metadata = json_object_get(object, "metadata");
    const char* ns = json_string_value(json_object_get(metadata, "namespace"));
    const char* name = json_string_value(json_object_get(metadata, "name"));
    std::string text{kind};
    if (ns != nullptr) text += std::string{"/"} + ns;
    return text + "/" + (name != nullptr ? name : "(no name)");
}

// The value, unless something was wrong with the object it was read from.
template <class T>
Expected<T> checked(const Fields& fields, const json_t* object, std::string_view kind, T value,
                    const std::string& name) {
    if (!json_is_object(object)) {
        return fail("bad-object", "a " + std::string{kind} + " from the API server is no object");
    }
    if (!fields.problem().empty()) {
        return fail("bad-object", describe(object, kind) + ": " + fields.problem());
    }
    if (name.empty()) return fail("bad-object", describe(object, kind) + ": it has no name");
    return value;
}

void append_statuses(Fields& fields, const json_t* status, const char* key, bool init,
                     std::vector<ContainerStatus>& out) {
    for_each_object(fields, fields.array(status, key), key, [&](const json_t* container) {
        const json_t* state = fields.object(container, "state");
        const json_t* terminated = fields.object(state, "terminated");
        if (terminated == nullptr) {
            terminated = fields.object(fields.object(container, "lastState"), "terminated");
        }
        ContainerStatus told;
        told.name = fields.string(container, "name");
        told.image_id = fields.string(container, "imageID");
        told.restarts = fields.count(container, "restartCount", 0);
        told.ready = fields.boolean(container, "ready");
        const json_t* running = fields.object(state, "running");
        told.running = running != nullptr;
        told.started = time_of(fields, running, "startedAt");
        told.init = init;
        told.waiting_reason = fields.string(fields.object(state, "waiting"), "reason");
        told.terminated_reason = fields.string(terminated, "reason");
        told.terminated_at = time_of(fields, terminated, "finishedAt");
        out.push_back(std::move(told));
    });
}

// The template's hash as controllers write it. ControllerRevisions of StatefulSets carry it under a
// key of their own.
std::string revision_hash(Fields& fields, const json_t* metadata) {
    const json_t* labels = fields.object(metadata, "labels");
    for (const char* key :
         {"pod-template-hash", "controller-revision-hash", "controller.kubernetes.io/hash"}) {
        std::string hash = fields.string(labels, key);
        if (!hash.empty()) return hash;
    }
    return {};
}

// imageID without the transports that older runtimes put in front.
std::string_view without_transport(std::string_view image_id) {
    const std::size_t scheme = image_id.find("://");
    return scheme == std::string_view::npos ? image_id : image_id.substr(scheme + 3);
}

}  // namespace

std::string_view to_string(WorkloadKind kind) {
    return names_of(kind).name;
}

std::optional<WorkloadKind> parse_kind(std::string_view text) {
    std::string lower{text};
    std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    for (const KindNames& names : kKinds) {
        if (lower == names.singular || lower == names.resource || lower == names.brief) {
            return names.kind;
        }
    }
    return std::nullopt;
}

std::string collection_path(WorkloadKind kind, std::string_view ns) {
    const KindNames& names = names_of(kind);
    std::string path{names.group};
    if (!ns.empty()) path.append("/namespaces/").append(ns);
    return path.append("/").append(names.resource);
}

std::string WorkloadKey::to_string() const {
    return std::string{keel::to_string(kind)} + "/" + ns + "/" + name;
}

std::string WorkloadKey::path() const {
    return collection_path(kind, ns) + "/" + name;
}

Expected<WorkloadKey> WorkloadKey::parse(std::string_view text) {
    const std::size_t first = text.find('/');
    const std::size_t second = first == std::string_view::npos ? first : text.find('/', first + 1);
    if (second == std::string_view::npos) {
        return fail("bad-workload", "\"" + std::string{text} +
                                        "\" is no workload; expected KIND/NAMESPACE/NAME, for "
                                        "example Deployment/shop/web");
    }
    const std::optional<WorkloadKind> kind = parse_kind(text.substr(0, first));
    if (!kind) {
        return fail("bad-workload", "\"" + std::string{text.substr(0, first)} +
                                        "\" is no kind of workload; expected Deployment, "
                                        "StatefulSet, DaemonSet or CronJob");
    }
    const std::string_view ns = text.substr(first + 1, second - first - 1);
    const std::string_view name = text.substr(second + 1);
    if (!is_dns_name(ns) || !is_dns_name(name)) {
        return fail("bad-workload",
                    "\"" + std::string{text} + "\" holds a name that Kubernetes does not allow");
    }
    return WorkloadKey{*kind, std::string{ns}, std::string{name}};
}

bool is_volume_name(std::string_view name) {
    return name.starts_with(kVolume);
}

std::string_view Container::own_name() const {
    return std::string_view{name}.substr(volume ? kVolume.size() : 0);
}

const Container* Workload::find_container(std::string_view wanted) const {
    const auto found = std::ranges::find(containers, wanted, &Container::name);
    return found != containers.end() ? &*found : nullptr;
}

bool Workload::runs_on(std::string_view platform) const {
    if (platform.empty() || node_terms.empty()) return true;
    const std::string_view os = platform.substr(0, platform.find('/'));
    std::string_view architecture = platform.substr(std::min(os.size() + 1, platform.size()));
    architecture = architecture.substr(0, architecture.find('/'));
    return std::ranges::any_of(node_terms, [&](const std::vector<NodeRule>& rules) {
        return std::ranges::all_of(rules, [&](const NodeRule& rule) {
            const std::string_view has = rule.os ? os : architecture;
            return rule.in == (std::ranges::find(rule.values, has) != rule.values.end());
        });
    });
}

bool Workload::rolled_out() const {
    if (key.kind == WorkloadKind::cron_job) return true;
    return observed_generation >= generation && updated >= replicas && available >= replicas &&
           (key.kind == WorkloadKind::daemon_set || current <= updated);
}

Expected<Workload> decode_workload(WorkloadKind kind, const json_t* object,
                                   std::string_view marker_key) {
    Fields fields;
    const json_t* metadata = fields.object(object, "metadata");
    const json_t* spec = fields.object(object, "spec");
    const json_t* status = fields.object(object, "status");
    Workload workload;
    workload.key = {kind, fields.string(metadata, "namespace"), fields.string(metadata, "name")};
    workload.uid = fields.string(metadata, "uid");
    workload.resource_version = fields.string(metadata, "resourceVersion");
    workload.generation = fields.integer(metadata, "generation", 0);
    workload.observed_generation = fields.integer(status, "observedGeneration", 0);
    workload.annotations = keel_keys(fields, metadata, "annotations");
    workload.labels = keel_keys(fields, metadata, "labels");
    if (std::optional<Owner> controller = controller_of(fields, metadata)) {
        workload.controller = std::make_shared<const Owner>(std::move(*controller));
    }
    workload.writers = writers_of(fields, metadata);
    workload.managed_by =
        fields.string(fields.object(metadata, "labels"), "app.kubernetes.io/managed-by");

    const json_t* pod_template = fields.object(spec, "template");
    if (kind == WorkloadKind::cron_job) {
        const json_t* job_spec = fields.object(fields.object(spec, "jobTemplate"), "spec");
        pod_template = fields.object(job_spec, "template");
        workload.paused = fields.boolean(spec, "suspend");
    } else {
        workload.selector = selector_text(fields, fields.object(spec, "selector"));
    }
    const json_t* template_metadata = fields.object(pod_template, "metadata");
    workload.template_annotations = keel_keys(fields, template_metadata, "annotations");
    workload.template_labels = keel_keys(fields, template_metadata, "labels");
    if (!marker_key.empty()) {
        const std::string key{marker_key};
        workload.marker =
            fields.string(fields.object(template_metadata, "annotations"), key.c_str());
    }
    const json_t* pod_spec = fields.object(pod_template, "spec");
    append_containers(fields, pod_spec, "initContainers", true, workload.containers);
    append_containers(fields, pod_spec, "containers", false, workload.containers);
    append_image_volumes(fields, pod_spec, workload.containers);
    note_image_managers(fields, metadata, workload.containers);
    workload.service_account = fields.string(pod_spec, "serviceAccountName");
    workload.node_terms = node_terms(fields, pod_spec);
    const char* secrets = "imagePullSecrets";
    for_each_object(fields, fields.array(pod_spec, secrets), secrets, [&](const json_t* secret) {
        workload.pull_secrets.push_back(fields.string(secret, "name"));
    });

    switch (kind) {
        case WorkloadKind::deployment:
            read_deployment(fields, metadata, spec, status, workload);
            break;
        case WorkloadKind::stateful_set:
            read_stateful_set(fields, spec, status, workload);
            break;
        case WorkloadKind::daemon_set:
            read_daemon_set(fields, spec, status, workload);
            break;
        case WorkloadKind::cron_job:
            break;
    }
    const std::string name = workload.key.name;
    return checked(fields, object, to_string(kind), std::move(workload), name);
}

Expected<Namespace> decode_namespace(const json_t* object) {
    Fields fields;
    const json_t* metadata = fields.object(object, "metadata");
    Namespace ns;
    ns.name = fields.string(metadata, "name");
    ns.uid = fields.string(metadata, "uid");
    ns.terminating = fields.string(fields.object(object, "status"), "phase") == "Terminating";
    for_each_string(
        fields, fields.object(metadata, "labels"), "labels",
        [&](std::string_view key, std::string_view value) { ns.labels.emplace(key, value); });
    ns.annotations = keel_keys(fields, metadata, "annotations");
    ns.writers = writers_of(fields, metadata);
    const std::string name = ns.name;
    return checked(fields, object, "Namespace", std::move(ns), name);
}

Expected<Pod> decode_pod(const json_t* object) {
    Fields fields;
    const json_t* metadata = fields.object(object, "metadata");
    const json_t* status = fields.object(object, "status");
    Pod pod;
    pod.ns = fields.string(metadata, "namespace");
    pod.name = fields.string(metadata, "name");
    pod.uid = fields.string(metadata, "uid");
    pod.node = fields.string(fields.object(object, "spec"), "nodeName");
    pod.phase = fields.string(status, "phase");
    pod.revision_hash = revision_hash(fields, metadata);
    pod.controller = controller_of(fields, metadata);
    pod.terminating = !fields.string(metadata, "deletionTimestamp").empty();
    pod.ready = has_condition(fields, status, "Ready", "True", {});
    pod.started = time_of(fields, status, "startTime");
    pod.ready_since = last_transition(fields, status, "Ready");
    pod.unschedulable = has_condition(fields, status, "PodScheduled", "False", "Unschedulable");
    append_statuses(fields, status, "initContainerStatuses", true, pod.containers);
    append_statuses(fields, status, "containerStatuses", false, pod.containers);
    const std::string name = pod.name;
    return checked(fields, object, "Pod", std::move(pod), name);
}

Expected<Identity> decode_identity(const json_t* object) {
    Fields fields;
    const json_t* metadata = fields.object(object, "metadata");
    Identity identity;
    identity.ns = fields.string(metadata, "namespace");
    identity.name = fields.string(metadata, "name");
    identity.uid = fields.string(metadata, "uid");
    identity.hash = revision_hash(fields, metadata);
    identity.revision =
        fields.string(fields.object(metadata, "annotations"), "deployment.kubernetes.io/revision");
    if (identity.revision.empty() && json_object_get(object, "revision") != nullptr) {
        identity.revision = std::to_string(fields.integer(object, "revision", 0));
    }
    identity.controller = controller_of(fields, metadata);
    const char* kind = json_string_value(json_object_get(object, "kind"));
    const std::string name = identity.name;
    return checked(fields, object, kind != nullptr ? kind : "object", std::move(identity), name);
}

std::string selector_text(const json_t* selector) {
    Fields fields;
    return selector_text(fields, selector);
}

std::string digest_of_image_id(std::string_view image_id) {
    const std::string_view rest = without_transport(image_id);
    const std::size_t at = rest.rfind('@');
    const std::string_view digest = at == std::string_view::npos ? rest : rest.substr(at + 1);
    return Digest::parse(digest) ? std::string{digest} : std::string{};
}

std::string repository_of_image_id(std::string_view image_id) {
    const std::string_view rest = without_transport(image_id);
    const std::size_t at = rest.rfind('@');
    return at == std::string_view::npos ? std::string{} : std::string{rest.substr(0, at)};
}

bool is_keel_key(std::string_view key) {
    return key.starts_with("keel.sh/") || key.starts_with("keel.observer/");
}

}  // namespace keel
