// Rollouts from verdict to proof, with everything of keeld that takes part, against an API server
// and a registry that fail at the worst moment: after a write and before its answer, between the
// last look and the write, for ever.
#include "keeld/rollout/rollouts.h"

#include <gtest/gtest.h>

#include <boost/asio/post.hpp>
#include <map>
#include <set>

#include "keeld/catalogue/observations.h"
#include "keeld/json.h"
#include "keeld/policy/schedule.h"
#include "keeld/rollout/planner.h"
#include "unit/keeld/samples.h"
#include "unit/keeld/scripted_peer.h"

namespace keel {
namespace {

using test::at;
using test::digest;
using test::Reply;
using test::ScriptedPeer;

constexpr const char* kKey = "kubectl.kubernetes.io/restartedAt";
constexpr const char* kDeployments = "/apis/apps/v1/namespaces/shop/deployments/";

// Every look at it is a millisecond later, so that no two markers are the same.
class TickingClock final : public Clock {
  public:
    [[nodiscard]] Time now() const override { return time += Millis{1}; }
    mutable Time time = at(0);
};

Reply json(const std::string& body, const std::string& status = "200 OK") {
    return {status, "Content-Type: application/json\r\n", body};
}

Reply refusal(const std::string& status, const std::string& reason) {
    return json(R"({"kind":"Status","reason":")" + reason + R"(","message":"no"})", status);
}

// A Deployment of two pods as the API server has it.
struct Object {
    std::string marker;
    std::string image;  // empty: the tag of its own name
    int version = 1;
    int generation = 1;
    int observed = 1;
    char runs = 'a';        // all of its pods
    bool ready = true;      // they are
    int restarts = 0;       // of each of them
    bool replaces = true;   // its controller replaces the pods when the template changes
    bool pulls = true;      // at every start
    bool complete = false;  // its condition says that all new pods were there, once
    int progress_deadline = 600;
};

class RolloutsTest : public testing::Test {
  protected:
    RolloutsTest() {
        config.mode = Mode::act;
        config.kubernetes.emplace();
        config.pacing.cluster.count = config.pacing.ns.count = config.pacing.concurrent = 0;
        config.defaults.soak = Millis{0};
        CacheConfig& cache = config.caches.emplace_back();
        cache.name = "cache-a";
        cache.lookup["*"] = peer->url("/cache");
        catalogue.upsert(test::enrolled("shop"));
        // Nothing hashes to digests such as these, so that no registry could be believed.
        for (const char hex : {'a', 'b', 'c'}) {
            const Content content{
                digest(hex), ManifestKind::image, {{"linux/amd64", digest(hex), digest(hex)}}};
            ledger->put(ContentRow{digest(hex).to_string(), content.to_json()});
        }
        EXPECT_TRUE(test::await(loop, ledger->durable()));
    }
    ~RolloutsTest() override {
        if (rollouts) {
            schedule->stop();
            planner->stop();
            rollouts->stop();
            lease->stop();
        }
        http.shutdown();
        peer.reset();  // runs the loop; after this nothing does
    }

    // A Deployment that follows the tag of its own name, known to have been at digest a.
    void add(const std::string& name) {
        objects[name];
        answers[name] = 'a';
        tags.observe(tag(name), digest('a'), ManifestKind::image, at(-100), "event cache-a");
        sync(name);
    }
    static Tag tag(const std::string& name) { return {"docker.io", "library/nginx", name}; }
    static Task<Expected<Schedule::Names>> no_list(Tag tag) {
        co_return fail("not-found", tag.repository + " lists no tags");
    }
    // As Daemon gives them.
    Rollouts::Parts parts() {
        return Rollouts::Parts{loop,
                               config,
                               clock,
                               catalogue,
                               tags,
                               registry,
                               *pods,
                               *cluster,
                               *ledger,
                               *lease,
                               *gates,
                               *approvals,
                               [this](const CatalogueEntry& entry) { return verdict(entry); },
                               [this](Tag one) { return observations.look_up(std::move(one)); },
                               [this](const Tag&) { return holds_known; },
                               [this](const WorkloadKey& key) { planner->reconsider(key); },
                               {},
                               steady};
    }
    // As Daemon wires it.
    void start() {
        ClusterAccess access;
        access.server = peer->url();
        cluster = std::make_unique<ClusterClient>(loop, http, access);
        pods = std::make_unique<PodReader>(*cluster, catalogue, clock);
        schedule = std::make_unique<Schedule>(
            Schedule::Parts{loop,
                            config,
                            clock,
                            tags,
                            observations,
                            listings,
                            [this](const Tag& one) { return planner->wishes(one); },
                            no_list,
                            [this](const Tag& one) { planner->reconsider(one); },
                            {}});
        planner = std::make_unique<Planner>(Planner::Parts{loop, config, phases, clock, catalogue,
                                                           tags, registry, *pods, *ledger,
                                                           *schedule, listings, pushes, pointer});
        lease = std::make_unique<Lease>(loop, *cluster,
                                        LeaseOptions{"keel", "keeld", "me", ledger->id()});
        gates = std::make_unique<Gates>(Gates::Parts{config, clock, catalogue, *ledger});
        gates->on_move([this] { rollouts->wake_waiting(); });
        approvals = std::make_unique<Approvals>(Approvals::Parts{clock, *ledger});
        approvals->on_move([this] { rollouts->wake_waiting(); });
        rollouts = std::make_unique<Rollouts>(parts());
        pointer = rollouts.get();
        const auto spawn = [this](Task<void> task) {
            asio::co_spawn(loop, std::move(task), asio::detached);
        };
        spawn(schedule->run());
        spawn(planner->run());
        spawn(planner->run_baseline());
        spawn(lease->run([this] { rollouts->wake_waiting(); }));
        rollouts->recover();
        for (const auto& [name, object] : objects)
            planner->reconsider(key(name));
        planner->start();
    }
    // What keeld makes of it; where a goal is set, that and nothing else is due, while the image is
    // the one that it began with.
    WorkloadVerdict verdict(const CatalogueEntry& entry) {
        WorkloadVerdict result = planner->verdict(entry);
        const std::string& name = entry.object.key.name;
        const auto goal = goals.find(name);
        if (goal == goals.end()) return result;
        result.targets.clear();
        for (std::size_t i = 0; i < entry.references.size(); ++i) {
            const Container& one = entry.object.containers[i];
            if (one.image != "nginx:" + name) continue;
            const Digest& to = tags.find(tag(goal->second))->pulled();
            result.targets.push_back(
                {one.name, tag(goal->second), one.volume ? "" : digest('a').to_string(), to,
                 *entry.references[i]->with_tag(goal->second, to), one.image.str()});
        }
        return result;
    }
    // There is a tag NAME-2 at digest b, and from now on it is what NAME goes to.
    void set_goal(const std::string& name) {
        goals[name] = name + "-2";
        answers[name + "-2"] = 'b';
        tags.observe(tag(name + "-2"), digest('b'), ManifestKind::image, at(-70), "event cache-a");
    }
    void offer_goal(const std::string& name) {
        set_goal(name);
        ASSERT_TRUE(until([&] { return catalogue.find(key(name))->running.usable(); }));
        const CatalogueEntry& entry = *catalogue.find(key(name));
        rollouts->offer(key(name), verdict(entry));
    }
    // The tag is at another digest from now on, and the cache says so.
    void moves(const std::string& name, char hex) {
        answers[name] = hex;
        CacheNews news;
        news.source = "event cache-a";
        news.state.tag = tag(name);
        news.state.digest = digest(hex);
        news.state.kind = ManifestKind::image;
        news.state.change = Change::changed;
        news.state.first_seen = news.state.last_seen = clock.now();
        observations.take(news);
    }
    // The caches hold the tag at the digest from now on.
    void hold(const std::string& name, char hex) {
        Held held;
        held.digest = digest(hex);
        held.author = "alice";
        held.reason = "because";
        held.since = clock.now();
        tags.hold(tag(name), held, clock.now());
        planner->reconsider(tag(name));
    }
    void release(const std::string& name) {
        tags.hold(tag(name), std::nullopt, clock.now());
        planner->reconsider(tag(name));
    }
    [[nodiscard]] std::string reason(const std::string& name) {
        return std::string(to_string(planner->verdict(*catalogue.find(key(name))).reason));
    }
    // Somebody changes whether its pods pull at every start: where they do not, it is blocked.
    void set_pulls(const std::string& name, bool pulls) {
        Object& object = objects[name];
        object.pulls = pulls;
        object.observed = ++object.generation;
        ++object.version;
        sync(name);
    }
    // What a watch would tell of the object.
    void sync(const std::string& name) {
        const Json object = parse_json(body_of(name));
        auto workload = decode_workload(WorkloadKind::deployment, object.get(), kKey);
        ASSERT_TRUE(workload) << workload.error().text;
        catalogue.upsert(std::move(*workload));
    }
    static WorkloadKey key(const std::string& name) {
        return {WorkloadKind::deployment, "shop", name};
    }

    static Order by_alice(const std::string& action, const std::string& on) {
        Order order;
        order.author = "alice";
        order.action = action;
        order.on = on;
        return order;
    }
    [[nodiscard]] bool ordered(const std::string& action, const std::string& on) {
        return test::await(loop, gates->order(by_alice(action, on))).front().ok;
    }
    // Its pods crash on the digest that its tag moves to: the rollout fails on its content.
    void crashes_on(const std::string& name, char hex) {
        config.defaults.deadline = Millis{200};
        add(name);
        objects[name].replaces = false;
        start();
        moves(name, hex);
        ASSERT_TRUE(until([this] { return patches.size() == 1; }));
        objects[name].ready = false;
        objects[name].observed = objects[name].generation;
        objects[name].runs = hex;
        ++objects[name].version;
        sync(name);
        ASSERT_TRUE(until([this] { return ended("failed"); }));
    }
    // Old content again, as after a rollback by hand.
    void goes_back(const std::string& name) {
        objects[name].ready = true;
        objects[name].runs = 'a';
        ++objects[name].version;
        ++objects[name].generation;
        objects[name].observed = objects[name].generation;
        sync(name);
        ASSERT_TRUE(until([&] {
            const CatalogueEntry& entry = *catalogue.find(key(name));
            return entry.running.usable() &&
                   planner->verdict(entry).reason == Reason::target_rejected;
        }));
    }
    OrderResult retried(const std::string& name, bool dry_run = false) {
        Order order = by_alice("retry", key(name).to_string());
        order.dry_run = dry_run;
        return test::await(loop, rollouts->retry(std::move(order))).front();
    }
    [[nodiscard]] bool waits_for(const std::string& name, Gate gate) {
        const auto active = rollouts->active(key(name));
        return active && active->state == "waiting" && active->reason == to_string(gate);
    }

    [[nodiscard]] bool soaks(const std::string& name) {
        const auto active = rollouts->active(key(name));
        return active && active->state == "soaking";
    }

    // --- votes ---
    void wants_votes(int votes) {
        Namespace shop = test::enrolled("shop");
        shop.annotations["keel.sh/approvals"] = std::to_string(votes);
        catalogue.upsert(std::move(shop));
    }
    [[nodiscard]] const Approval* waiting_approval(const std::string& name) const {
        for (const auto& [id, one] : approvals->all()) {
            if (one.archived == Time{} && one.workload == key(name).to_string()) return &one;
        }
        return nullptr;
    }
    [[nodiscard]] std::string asked_for(const std::string& name) const {
        const Approval* one = waiting_approval(name);
        return one != nullptr ? one->digest : "";
    }
    [[nodiscard]] bool voted(const std::string& action, const std::string& on) {
        return test::await(loop, approvals->order(by_alice(action, on))).front().ok;
    }

    // Says what keeld says is wrong where it does not come true.
    testing::AssertionResult until(const std::function<bool()>& done) {
        if (test::run_until(loop, done)) return testing::AssertionSuccess();
        testing::AssertionResult result = testing::AssertionFailure();
        result << "baseline: " << planner->baseline_problem() << "; lease: " << lease->problem();
        for (const auto& [which, entry] : catalogue.workloads())
            result << "; " << which.to_string() << ": " << verdict(entry).sentence;
        for (const RolloutRow& row : rollouts->all_active())
            result << "; " << row.state << " " << row.reason << " " << row.text;
        return result;
    }
    [[nodiscard]] bool ended(const std::string& state, int count = 1) {
        const std::vector<RolloutRow> all = ledger->rollouts("", "", 100);
        return std::ranges::count_if(all, [&](const RolloutRow& row) {
                   return row.state == state && row.ended != Time{};
               }) >= count;
    }
    RolloutRow newest() {
        EXPECT_TRUE(test::await(loop, ledger->durable()));
        const std::vector<RolloutRow> all = ledger->rollouts("", "", 1);
        return all.empty() ? RolloutRow{} : all.front();
    }
    std::string told() {
        EXPECT_TRUE(test::await(loop, ledger->durable()));
        std::string all;
        for (const Entry& entry : ledger->entries({})) {
            if (entry.workload.empty()) continue;
            std::string line(to_string(entry.kind));
            line += all.empty() ? "" : " ";
            all.insert(0, line);
        }
        return all;
    }
    std::vector<Entry> entries(EntryKind kind) {
        EXPECT_TRUE(test::await(loop, ledger->durable()));
        EntryQuery query;
        query.kind = kind;
        return ledger->entries(query);
    }
    // An intent of an earlier run of keeld.
    RolloutRow left_behind(const std::string& name, const std::string& state,
                           const std::string& image = "") {
        RolloutRow row;
        row.id = "earlier";
        row.workload = "Deployment/shop/" + name;
        row.uid = "uid-" + name;
        row.ns = "shop";
        row.state = state;
        Target target{"app", tag(name), digest('a').to_string(), digest('b')};
        if (!image.empty()) {
            target.tag = *Reference::parse(image)->tag();
            target.image = image;
            target.from_image = "nginx:" + name;
        }
        row.targets = targets_to_json({target});
        row.marker_key = kKey;
        row.marker = image.empty() ? "2026-11-22T11:59:00.000Z" : "";
        row.created = row.intended = at(-60);
        ledger->put(row);
        EXPECT_TRUE(test::await(loop, ledger->durable()));
        return row;
    }

    // ---- The peer ----

    Reply answer(const std::string& line, const std::string& request) {
        const std::string method = line.substr(0, line.find(' '));
        const std::string target = line.substr(method.size() + 1);
        const std::string path = target.substr(0, target.find('?'));
        const std::string body = request.substr(request.find("\r\n\r\n") + 4);
        if (path.starts_with("/cache/v2/"))
            return registry_answer(path.substr(path.rfind('/') + 1));
        if (path.find("/leases") != std::string::npos) return lease_answer(method, body);
        if (path == "/api/v1/nodes")
            return json(R"({"metadata":{"resourceVersion":"1"},"items":[]})");
        if (path.starts_with(kDeployments)) {
            const std::string name = path.substr(std::string(kDeployments).size());
            if (!objects.contains(name)) return refusal("404 Not Found", "NotFound");
            if (target.find("dryRun=All") != std::string::npos) return dry_run(name, body);
            if (method == "PATCH") {
                const std::size_t type = request.find("Content-Type: ") + 14;
                types.push_back(request.substr(type, request.find("\r\n", type) - type));
            }
            return method == "PATCH" ? patch(name, body) : json(body_of(name));
        }
        return list(path, target);
    }
    Reply registry_answer(const std::string& reference) {
        Reply reply;
        reply.until = std::exchange(hold_registry, nullptr);
        if (silent.contains(reference)) {
            reply.status = "503 Service Unavailable";
            return reply;
        }
        const bool by_digest = reference.starts_with("sha256:");
        if (!by_digest && on_look_up) on_look_up(reference);
        const char hex = by_digest ? reference[7] : answers.at(reference);
        reply.headers =
            "Content-Type: application/vnd.oci.image.manifest.v1+json\r\nDocker-Content-Digest: " +
            digest(hex).to_string() + "\r\n";
        reply.body = R"({"config":{"digest":")" + digest(hex).to_string() + "\"}}";
        return reply;
    }
    Reply lease_answer(const std::string& method, const std::string& body) {
        if (method == "GET") {
            return lease_body.empty() ? refusal("404 Not Found", "NotFound") : json(lease_body);
        }
        const Json root = parse_json(body);
        json_object_set_new(json_object_get(root.get(), "metadata"), "resourceVersion",
                            json_text(std::to_string(++lease_version)));
        lease_body = dump_json(root.get());
        return json(lease_body);
    }
    Reply list(const std::string& path, const std::string& target) {
        std::string items;
        for (const auto& [name, object] : objects) {
            const bool selected = target.find("labelSelector=app%3D" + name) != std::string::npos ||
                                  target.find("labelSelector") == std::string::npos;
            if (!selected) continue;
            const std::string set = "rs-" + name + "-" + std::to_string(object.generation);
            const std::string old = "rs-" + name + "-" + std::to_string(object.observed);
            if (path.ends_with("/replicasets")) {
                for (const int revision : std::set<int>{object.observed, object.generation}) {
                    const std::string number = std::to_string(revision);
                    add_item(items,
                             R"({"metadata":{"name":"rs-)" + name + "-" + number +
                                 R"(","namespace":"shop","uid":"rs-)" + name + "-" + number +
                                 R"(","annotations":{"deployment.kubernetes.io/revision":")" +
                                 number + R"("},)" + owner("Deployment", "uid-" + name) + "}}");
                }
            } else if (path.ends_with("/pods")) {
                ++pod_looks;
                for (const char* number : {"1", "2"}) {
                    add_item(
                        items,
                        R"({"metadata":{"name":")" + name + "-" + number +
                            R"(","namespace":"shop","uid":")" + name + number + R"(",)" +
                            owner("ReplicaSet", old) +
                            R"(},"spec":{"nodeName":"n"},"status":{"phase":"Running","conditions":[)" +
                            R"({"type":"Ready","status":")" + (object.ready ? "True" : "False") +
                            R"("}],"containerStatuses":[)" + R"({"name":"app","imageID":"x/y@)" +
                            digest(object.runs).to_string() + R"(","restartCount":)" +
                            std::to_string(object.restarts) + R"(,"ready":)" +
                            (object.ready ? "true" : "false") + R"(,"state":{"running":{}}}]}})");
                }
            }
        }
        return json(R"({"metadata":{"resourceVersion":"1"},"items":[)" + items + "]}");
    }
    static void add_item(std::string& items, const std::string& item) {
        items += (items.empty() ? "" : ",") + item;
    }
    static std::string owner(const std::string& kind, const std::string& uid) {
        return R"("ownerReferences":[{"apiVersion":"apps/v1","kind":")" + kind +
               R"(","name":"x","uid":")" + uid + R"(","controller":true}])";
    }
    std::string body_of(const std::string& name) {
        const Object& one = objects.at(name);
        const std::string number = std::to_string(one.generation);
        const int updated = one.observed == one.generation && one.ready ? 2 : 0;
        const std::string count = std::to_string(updated);
        return R"({"metadata":{"name":")" + name + R"(","namespace":"shop","uid":"uid-)" + name +
               R"(","resourceVersion":")" + std::to_string(one.version) + R"(","generation":)" +
               number + R"(},"spec":{"replicas":2,"progressDeadlineSeconds":)" +
               std::to_string(one.progress_deadline) + R"(,"selector":{"matchLabels":{"app":")" +
               name + R"("}},"template":{"metadata":{"annotations":{")" + kKey + R"(":")" +
               one.marker + R"("}},"spec":{)" + (volume.empty() ? "" : volume + ",") +
               R"("containers":[{"name":"app","image":")" + image_of(name) +
               R"(","imagePullPolicy":")" + (one.pulls ? "Always" : "IfNotPresent") +
               R"("}]}}},"status":{"observedGeneration":)" + std::to_string(one.observed) +
               R"(,"replicas":2,"updatedReplicas":2,"readyReplicas":)" + count +
               R"(,"availableReplicas":)" + count +
               (one.complete ? R"(,"conditions":[{"type":"Progressing","status":"True",)"
                               R"("reason":"NewReplicaSetAvailable"}])"
                             : "") +
               "}}";
    }
    std::string image_of(const std::string& name) {
        return objects.at(name).image.empty() ? "nginx:" + name : objects.at(name).image;
    }
    Reply patch(const std::string& name, const std::string& body) {
        patches.push_back(body);
        const std::optional<Reply> before = before_patch ? before_patch(name) : std::nullopt;
        if (before) return *before;
        Reply answer = write(name, body);
        if (answer.status != "200 OK") return answer;
        if (objects.at(name).replaces) {
            asio::post(loop, [this, name] { replace_pods(name); });
        }
        const std::optional<Reply> after = after_patch ? after_patch(name) : std::nullopt;
        return after.value_or(answer);
    }
    Reply dry_run(const std::string& name, const std::string& body) {
        ++dry_runs;
        if (on_dry_run) {
            if (const std::optional<Reply> reply = on_dry_run(name)) return *reply;
        }
        const Object before = objects.at(name);
        const std::string volume_before = volume;
        Reply answer = write(name, body);
        objects.at(name) = before;
        volume = volume_before;
        return answer;
    }
    Reply write(const std::string& name, const std::string& body) {
        Object& object = objects.at(name);
        const Json root = parse_json(body);
        const json_t* metadata = json_object_get(root.get(), "metadata");
        const std::string_view version = text_of(metadata, "resourceVersion");
        if (!version.empty() && version != std::to_string(object.version)) {
            return refusal("409 Conflict", "Conflict");
        }
        const json_t* inner = json_object_get(json_object_get(root.get(), "spec"), "template");
        const json_t* containers = json_object_get(json_object_get(inner, "spec"), "containers");
        if (containers != nullptr) {
            object.image = text_of(json_array_get(containers, 0), "image");
        } else if (json_object_get(inner, "metadata") != nullptr) {
            object.marker =
                text_of(json_object_get(json_object_get(inner, "metadata"), "annotations"), kKey);
        }
        const json_t* volumes = json_object_get(json_object_get(inner, "spec"), "volumes");
        if (volumes != nullptr) {
            volume = R"("volumes":)" + dump_json(volumes);
        }
        ++object.version;
        ++object.generation;
        return json(body_of(name));
    }
    void replace_pods(const std::string& name) {
        Object& object = objects.at(name);
        object.observed = object.generation;
        const std::string pulled = image_of(name).substr(std::string("nginx:").size());
        const TagInfo* info = tags.find(tag(pulled));
        object.runs = info->held ? info->held->digest.to_string()[7] : answers.at(pulled);
        ++object.version;
        sync(name);
    }

    Loop loop;
    HttpClient http{loop, "keeld/test"};
    TickingClock clock;
    Config config;
    PhaseStates phases;
    test::ScratchDirectory directory;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop, directory.file("ledger.db"));
    Tags tags{*ledger};
    Listings listings{*ledger};
    Pushes pushes{*ledger};
    Registry registry{http, config, *ledger};
    std::unique_ptr<Planner> planner;
    Rollouts* pointer = nullptr;
    Catalogue catalogue{[this](const WorkloadKey& one) {
        if (planner) planner->reconsider(one);
    }};
    Observations observations{loop,
                              clock,
                              *ledger,
                              tags,
                              registry,
                              [this](const Tag& one) {
                                  if (planner) planner->reconsider(one);
                              },
                              [this](const Tag& one) {
                                  if (schedule) schedule->hint(one);
                              }};
    std::map<std::string, Object> objects;
    std::map<std::string, char> answers;                 // what a pull of the tag gets
    bool holds_known = true;                             // the caches' holds were read
    std::map<std::string, std::string> goals;            // the tags that NAMEs go to
    std::string volume;                                  // of every template, as JSON
    std::set<std::string> silent;                        // tags that the cache does not answer for
    std::function<void(const std::string&)> on_look_up;  // before it is answered
    Signal* hold_registry = nullptr;  // the next answer of the cache waits for it
    Signal answered{loop};
    std::string lease_body;
    int lease_version = 0;
    std::vector<std::string> patches;
    std::vector<std::string> types;  // beside them
    int dry_runs = 0;
    std::function<std::optional<Reply>(const std::string&)> on_dry_run;
    std::function<std::optional<Reply>(const std::string&)> before_patch;
    std::function<std::optional<Reply>(const std::string&)> after_patch;
    std::unique_ptr<ScriptedPeer> peer = std::make_unique<ScriptedPeer>(
        loop, [this](const std::string& line, const std::string& request) {
            return answer(line, request);
        });
    std::unique_ptr<ClusterClient> cluster;
    std::unique_ptr<PodReader> pods;
    std::unique_ptr<Schedule> schedule;
    std::unique_ptr<Lease> lease;
    std::unique_ptr<Gates> gates;
    std::unique_ptr<Approvals> approvals;
    std::size_t pod_looks = 0;
    Steady::duration steady{};  // one look is enough, but where a test says otherwise
    std::unique_ptr<Rollouts> rollouts;
};

TEST_F(RolloutsTest, R1_FromAMoveToProof) {
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(told(), "decided intended applied verified outcome");
    ASSERT_EQ(patches.size(), 1U);
    const RolloutRow row = newest();
    EXPECT_EQ(row.reason, "proven");
    // O6, P5, V1: this very object in this very state, one annotation, nothing else.
    EXPECT_EQ(patches[0],
              R"({"metadata":{"uid":"uid-web","resourceVersion":"1"},"spec":{"template":{)"
              R"("metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":")" +
                  row.marker + "\"}}}}}");
    EXPECT_EQ(row.marker, format_time(row.intended));
    EXPECT_TRUE(rollouts->all_active().empty());
}

TEST_F(RolloutsTest, R2_WhatADryRunRefusesIsNotWritten) {
    add("web");
    bool refuses = true;
    on_dry_run = [&](const std::string&) {
        return refuses ? std::optional(refusal("403 Forbidden", "Forbidden")) : std::nullopt;
    };
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return waits_for("web", Gate::preflight); }));
    const auto gates = rollouts->gates(key("web"), planner->verdict(*catalogue.find(key("web"))));
    ASSERT_EQ(gates.size(), 1U);
    EXPECT_TRUE(gates[0].text.starts_with("dry-run-refused: ")) << gates[0].text;
    EXPECT_TRUE(gates[0].until);
    EXPECT_EQ(dry_runs, 1);
    EXPECT_TRUE(patches.empty());
    EXPECT_EQ(told(), "decided refused");
    // The workload changes: it is asked again, and N1, not told again.
    ++objects["web"].generation;
    objects["web"].observed = objects["web"].generation;
    ++objects["web"].version;
    sync("web");
    rollouts->notify(key("web"));
    ASSERT_TRUE(until([this] { return dry_runs == 2 && waits_for("web", Gate::preflight); }));
    EXPECT_EQ(told(), "decided refused");
    // By itself when its time has come.
    refuses = false;
    clock.time += Millis{600'000};
    rollouts->notify(key("web"));
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(patches.size(), 1U);
}

TEST_F(RolloutsTest, O4_WhatAdmissionRewritesIsNotWritten) {
    add("web");
    on_dry_run = [this](const std::string& name) { return json(body_of(name)); };
    start();
    offer_goal("web");
    ASSERT_TRUE(until([this] { return waits_for("web", Gate::preflight); }));
    const std::string text = rollouts->active(key("web"))->text;
    EXPECT_TRUE(text.starts_with("write-without-effect: ")) << text;
    EXPECT_NE(text.find("nginx:web-2 becomes nginx:web"), std::string::npos) << text;
    EXPECT_TRUE(patches.empty());
}

TEST_F(RolloutsTest, R2_O6_ADryRunIsOfAnyStateAndTheWriteOfTheKnownOne) {
    add("web");
    start();
    ASSERT_TRUE(until([this] { return catalogue.find(key("web"))->running.usable(); }));
    ++objects["web"].version;  // and no watch tells
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(dry_runs, 1);
    ASSERT_EQ(patches.size(), 2U) << "the first was a conflict";
    EXPECT_NE(patches[0].find("\"resourceVersion\":\"1\""), std::string::npos) << patches[0];
}

TEST_F(RolloutsTest, D7_AnAppliedPatchWhoseAnswerWasLostIsNotWrittenTwice) {
    for (const Reply& lost : {refusal("500 Internal Server Error", "InternalError"),
                              refusal("504 Gateway Timeout", "ServerTimeout"),
                              Reply{"502 Bad Gateway", "", "<html>"}}) {
        SCOPED_TRACE(lost.status);
        const std::string name = "web" + std::to_string(objects.size());
        add(name);
        after_patch = [lost](const std::string&) { return lost; };
        if (!rollouts) start();
        const std::size_t before = patches.size();
        moves(name, 'b');
        const int count = static_cast<int>(objects.size());
        ASSERT_TRUE(until([&] { return ended("done", count); }));
        EXPECT_EQ(patches.size(), before + 1);
    }
}

TEST_F(RolloutsTest, O6_AConflictIsJudgedAgainAndWrittenWithTheSameBytes) {
    add("web");
    int times = 0;
    before_patch = [&](const std::string& name) -> std::optional<Reply> {
        if (++times == 1) ++objects.at(name).version;  // somebody else wrote just now
        return std::nullopt;
    };
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    ASSERT_EQ(patches.size(), 2U);
    EXPECT_NE(patches[1].find(newest().marker), std::string::npos);
    EXPECT_EQ(ledger->rollouts("", "", 10).size(), 1U);
}

TEST_F(RolloutsTest, P3_AVetoInTheLastMomentIsObeyed) {
    add("web");
    start();
    ASSERT_TRUE(until([this] { return catalogue.find(key("web"))->running.usable(); }));
    moves("web", 'b');
    // The content of b is read first, then the gate that counts asks what a pull gets.
    ASSERT_TRUE(until([this] { return registry.known_content(digest('b')) != nullptr; }));
    hold_registry = &answered;
    ASSERT_TRUE(until([this] { return hold_registry == nullptr; }));
    Namespace ns = test::enrolled("shop");
    ns.annotations["keel.sh/policy"] = "never";
    catalogue.upsert(ns);
    answered.notify();
    ASSERT_TRUE(until([this] { return rollouts->all_active().empty(); }));
    EXPECT_TRUE(patches.empty());
    EXPECT_TRUE(newest().id.empty()) << "nothing was intended";
}

TEST_F(RolloutsTest, AStopInTheLastMomentLeavesNothingIntended) {
    add("web");
    start();
    ASSERT_TRUE(until([this] { return catalogue.find(key("web"))->running.usable(); }));
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return registry.known_content(digest('b')) != nullptr; }));
    hold_registry = &answered;
    ASSERT_TRUE(until([this] { return hold_registry == nullptr; }));
    rollouts->stop();
    http.shutdown();
    for (int i = 0; i < 100; ++i) {
        loop.restart();
        loop.poll();
    }
    EXPECT_TRUE(newest().id.empty());
    EXPECT_TRUE(patches.empty());
    answered.notify();
}

TEST_F(RolloutsTest, P7_AnIntentThatWasWrittenIsFoundAndProven) {
    add("web");
    const RolloutRow row = left_behind("web", "intended");
    Object& object = objects["web"];
    object.marker = row.marker;
    object.generation = object.observed = object.version = 2;
    object.runs = answers["web"] = 'b';
    tags.observe(tag("web"), digest('b'), ManifestKind::image, at(-70), "event cache-a");
    sync("web");
    start();
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_TRUE(patches.empty());
    EXPECT_EQ(newest().id, "earlier");
}

TEST_F(RolloutsTest, P7_AnIntentThatWasNotWrittenIsWrittenWithTheSameBytesOnce) {
    add("web");
    const RolloutRow row = left_behind("web", "intended");
    tags.observe(tag("web"), digest('b'), ManifestKind::image, at(-70), "event cache-a");
    answers["web"] = 'b';
    start();
    ASSERT_TRUE(until([this] { return ended("done"); }));
    ASSERT_EQ(patches.size(), 1U);
    EXPECT_NE(patches[0].find(row.marker), std::string::npos);
    EXPECT_EQ(ledger->rollouts("", "", 10).size(), 1U) << "and nothing else was begun beside it";
}

TEST_F(RolloutsTest, P7_AnIntentWhoseTargetMovedMeanwhileIsNotWritten) {
    add("web");
    left_behind("web", "intended");
    tags.observe(tag("web"), digest('b'), ManifestKind::image, at(-70), "event cache-a");
    answers["web"] = 'c';  // nobody heard of it: keeld was away
    start();
    ASSERT_TRUE(until([this] { return ended("superseded") && ended("done"); }));
    ASSERT_EQ(patches.size(), 1U);
    EXPECT_EQ(objects["web"].runs, 'c');
    EXPECT_NE(newest().id, "earlier");
}

// Somebody switched to observe while keeld was away: what it had written is told all the same, and
// nothing else is.
TEST_F(RolloutsTest, P7_InObserveAnIntentIsFoundButNeverWritten) {
    config.mode = Mode::observe;
    for (const char* name : {"api", "web"}) {
        add(name);
        tags.observe(tag(name), digest('b'), ManifestKind::image, at(-70), "event cache-a");
        answers[name] = 'b';
    }
    const RolloutRow written = left_behind("api", "intended");
    RolloutRow other = left_behind("web", "intended");
    other.id = "other";
    ledger->put(other);
    ledger->put(written);
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    Object& object = objects["api"];
    object.marker = written.marker;
    object.generation = object.observed = object.version = 2;
    object.runs = 'b';
    sync("api");
    start();
    ASSERT_TRUE(until([this] { return ended("done") && ended("superseded"); }));
    EXPECT_EQ(newest().reason, "observe-only");
    EXPECT_TRUE(patches.empty());
}

TEST_F(RolloutsTest, R5_AnIntentThatCannotBeAskedAboutKeepsNoPlace) {
    config.pacing.concurrent = 1;
    add("api");
    add("web");
    left_behind("api", "intended");
    tags.observe(tag("api"), digest('b'), ManifestKind::image, at(-70), "event cache-a");
    answers["api"] = 'b';
    silent = {"api"};
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("superseded") && ended("done"); }));
    EXPECT_EQ(objects["web"].runs, 'b');
    EXPECT_EQ(patches.size(), 1U);
    // Once the registry answers it is rolled out as any other.
    silent.clear();
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
    EXPECT_EQ(patches.size(), 2U);
}

TEST_F(RolloutsTest, TagsAtTheSameDigestAllHearOfIt) {
    for (const char* name : {"one", "two", "three"})
        add(name);
    start();
    for (const char* name : {"one", "two", "three"})
        moves(name, 'b');
    ASSERT_TRUE(until([this] { return ended("done", 3); }));
    EXPECT_EQ(patches.size(), 3U);
}

TEST_F(RolloutsTest, P7_ARolloutUnderWayGoesOnBesideWhatIsOffered) {
    add("web");
    RolloutRow row = left_behind("web", "verifying");
    row.applied = at(-50);
    row.generation = 2;
    row.deadline = at(600);
    ledger->put(row);
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    Object& object = objects["web"];
    object.marker = row.marker;
    object.generation = object.version = 2;  // its pods are still the old ones
    answers["web"] = 'b';
    tags.observe(tag("web"), digest('b'), ManifestKind::image, at(-70), "event cache-a");
    sync("web");
    start();
    ASSERT_TRUE(until([this] { return catalogue.find(key("web"))->running.known; }));
    planner->reconsider(key("web"));
    ASSERT_TRUE(until([this] { return lease->held(); }));
    EXPECT_EQ(rollouts->all_active().size(), 1U);
    replace_pods("web");
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_TRUE(patches.empty()) << "it was restarted already";
}

TEST(Targets, WhatTheImageFieldIsToHoldSurvivesTheLedger) {
    const Target digest_only{"app", test::tag(), "sha256:0", digest('b')};
    const Target retagged{"app", test::tag(), "sha256:0", digest('b'), "web:1.2", "web:1.1"};
    const auto read = targets_from_json(targets_to_json({digest_only, retagged}));
    ASSERT_EQ(read.size(), 2U);
    EXPECT_EQ(read[0], digest_only);
    EXPECT_EQ(read[0].image + read[0].from_image, "");
    EXPECT_EQ(read[1].image, "web:1.2");
    EXPECT_EQ(read[1].from_image, "web:1.1");
}

TEST_F(RolloutsTest, P7_ARolloutToAHeldDigestIsNotGivenUpBeforeTheHoldsAreRead) {
    add("web");
    RolloutRow row = left_behind("web", "verifying");
    row.applied = at(-50);
    row.generation = 2;
    row.deadline = at(600);
    ledger->put(row);
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    Object& object = objects["web"];
    object.marker = row.marker;
    object.generation = object.version = 2;
    answers["web"] = 'c';  // newer than what is held
    tags.observe(tag("web"), digest('c'), ManifestKind::image, at(-70), "event cache-a");
    sync("web");
    holds_known = false;
    start();
    ASSERT_TRUE(until([this] { return lease->held(); }));
    planner->reconsider(key("web"));
    ASSERT_TRUE(until([this] { return catalogue.find(key("web"))->running.known; }));
    EXPECT_EQ(rollouts->all_active().size(), 1U);
    hold("web", 'b');
    holds_known = true;
    answers["web"] = 'b';
    replace_pods("web");
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_TRUE(patches.empty());
}

TEST_F(RolloutsTest, P7_ARolloutThatTheTagHasLeftIsGivenUpOnceTheHoldsAreRead) {
    add("web");
    RolloutRow row = left_behind("web", "verifying");
    row.applied = at(-50);
    row.generation = 2;
    row.deadline = at(600);
    ledger->put(row);
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    objects["web"].marker = row.marker;
    objects["web"].generation = objects["web"].version = 2;
    answers["web"] = 'c';
    tags.observe(tag("web"), digest('c'), ManifestKind::image, at(-70), "event cache-a");
    sync("web");
    holds_known = false;
    start();
    ASSERT_TRUE(until([this] { return lease->held(); }));
    EXPECT_EQ(rollouts->all_active().size(), 1U);
    holds_known = true;
    ASSERT_TRUE(until([this] { return ended("superseded"); }));
}

// ---- Tag changes ----

TEST_F(RolloutsTest, V1_O6_P5_ATagChangeWritesTheImageByNameAndNothingElse) {
    add("web");
    start();
    EXPECT_FALSE(rollouts->wrote("uid-web", "app", "nginx:web-2"));
    offer_goal("web");
    ASSERT_TRUE(until([this] { return ended("done"); }));
    ASSERT_EQ(patches.size(), 1U);
    EXPECT_EQ(patches[0], R"({"metadata":{"uid":"uid-web","resourceVersion":"1"},"spec":{)"
                          R"("template":{"spec":{"containers":[{"name":"app","image":)"
                          R"("nginx:web-2"}]}}}})");
    EXPECT_EQ(types[0], "application/strategic-merge-patch+json");
    EXPECT_EQ(told(), "intended applied verified outcome");
    const RolloutRow row = newest();
    EXPECT_EQ(row.reason, "proven");
    EXPECT_EQ(row.marker + row.old_marker, "") << "the new template restarts by itself";
    const std::vector<Target> targets = targets_from_json(row.targets);
    EXPECT_EQ(targets.at(0).from_image, "nginx:web");
    EXPECT_EQ(targets.at(0).tag, tag("web-2"));
    EXPECT_EQ(objects["web"].runs, 'b');
    EXPECT_TRUE(rollouts->wrote("uid-web", "app", "nginx:web-2"));
    EXPECT_FALSE(rollouts->wrote("uid-web", "app", "nginx:web"));
    EXPECT_FALSE(rollouts->wrote("uid-web", "side", "nginx:web-2"));
    EXPECT_FALSE(rollouts->wrote("uid-other", "app", "nginx:web-2"));
    for (const Entry& entry : entries(EntryKind::intended)) {
        EXPECT_EQ(entry.code, "image");
        EXPECT_EQ(entry.text, "app: nginx:web → nginx:web-2");
        EXPECT_EQ(entry.tag, "docker.io/library/nginx:web-2");
    }
}

TEST_F(RolloutsTest, P5_ImageVolumesAreWrittenByNameAndNeverCalledProven) {
    volume =
        R"("volumes":[{"name":"app","image":{"reference":"nginx:web","pullPolicy":"Always"}}])";
    add("web");
    start();
    offer_goal("web");
    ASSERT_TRUE(until([this] { return ended("done"); }));
    ASSERT_EQ(patches.size(), 1U);
    EXPECT_NE(patches[0].find(R"("template":{"spec":{"containers":[{"name":"app","image":)"
                              R"("nginx:web-2"}],"volumes":[{"name":"app","image":{"reference":)"
                              R"("nginx:web-2"}}]}})"),
              std::string::npos)
        << patches[0];
    const RolloutRow row = newest();
    EXPECT_EQ(row.reason, "unproven");
    EXPECT_NE(row.text.find("of volume/app is not in their status"), std::string::npos) << row.text;
    const std::vector<Entry> verified = entries(EntryKind::verified);
    ASSERT_EQ(verified.size(), 1U);
    EXPECT_EQ(verified[0].container, "app");
}

TEST_F(RolloutsTest, D7_AnAppliedImageWhoseAnswerWasLostIsNotWrittenTwice) {
    add("web");
    after_patch = [](const std::string&) {
        return refusal("500 Internal Server Error", "InternalError");
    };
    start();
    offer_goal("web");
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(patches.size(), 1U);
    EXPECT_TRUE(rollouts->wrote("uid-web", "app", "nginx:web-2"));
}

// Between the last look and the write somebody chose another image: that one stands.
TEST_F(RolloutsTest, V2_O6_AnImageThatSomebodyWroteMeanwhileStands) {
    add("web");
    before_patch = [&](const std::string& name) -> std::optional<Reply> {
        objects.at(name).image = "nginx:web-9";
        ++objects.at(name).version;
        return std::nullopt;  // 409
    };
    start();
    offer_goal("web");
    ASSERT_TRUE(until([this] { return ended("superseded"); }));
    EXPECT_EQ(newest().reason, "not-due");
    EXPECT_EQ(patches.size(), 1U);
    EXPECT_EQ(objects["web"].image, "nginx:web-9");
    EXPECT_FALSE(rollouts->wrote("uid-web", "app", "nginx:web-2"));
}

// The same, told by the watch just after the gates: the newest state is never written over
// unjudged.
TEST_F(RolloutsTest, V2_O6_AnImageThatTheWatchToldOfMeanwhileStands) {
    add("web");
    start();
    set_goal("web");
    ASSERT_TRUE(until([this] { return catalogue.find(key("web"))->running.usable(); }));
    ledger->on_append([this](const Entry& entry) {
        if (entry.kind != EntryKind::intended) return;
        objects["web"].image = "nginx:web-9";
        ++objects["web"].version;
        asio::post(loop, [this] { sync("web"); });
    });
    rollouts->offer(key("web"), verdict(*catalogue.find(key("web"))));
    ASSERT_TRUE(until([this] { return ended("superseded"); }));
    EXPECT_EQ(newest().reason, "not-due");
    EXPECT_EQ(objects["web"].image, "nginx:web-9");
    EXPECT_LE(patches.size(), 1U) << "at most one, that the API server refused";
}

TEST_F(RolloutsTest, P7_AnImageThatWasIntendedAndWrittenIsFoundAndProven) {
    add("web");
    left_behind("web", "intended", "nginx:web-2");
    set_goal("web");
    Object& object = objects["web"];
    object.image = "nginx:web-2";
    object.generation = object.observed = object.version = 2;
    object.runs = 'b';
    sync("web");
    start();
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_TRUE(patches.empty());
    EXPECT_EQ(newest().id, "earlier");
    EXPECT_TRUE(rollouts->wrote("uid-web", "app", "nginx:web-2"));
}

TEST_F(RolloutsTest, P7_AnImageThatWasIntendedAndNotWrittenIsWrittenOnceWithTheSameBytes) {
    add("web");
    left_behind("web", "intended", "nginx:web-2");
    set_goal("web");
    start();
    ASSERT_TRUE(until([this] { return ended("done"); }));
    ASSERT_EQ(patches.size(), 1U);
    EXPECT_EQ(objects["web"].image, "nginx:web-2");
    EXPECT_EQ(ledger->rollouts("", "", 10).size(), 1U) << "and nothing else was begun beside it";
    EXPECT_EQ(newest().id, "earlier");
}

TEST_F(RolloutsTest, P7_AnIntendedImageIsNotWrittenOverAnother) {
    add("web");
    left_behind("web", "intended", "nginx:web-2");
    set_goal("web");
    objects["web"].image = "nginx:web-9";  // by somebody, while keeld was away
    ++objects["web"].version;
    answers["web-9"] = 'a';
    sync("web");
    start();
    ASSERT_TRUE(until([this] { return ended("superseded"); }));
    EXPECT_EQ(newest().reason, "not-due");
    EXPECT_TRUE(patches.empty());
}

TEST_F(RolloutsTest, P7_AnIntendedImageWhoseTagMovedMeanwhileIsNotWritten) {
    add("web");
    left_behind("web", "intended", "nginx:web-2");
    set_goal("web");
    answers["web-2"] = 'c';  // nobody heard of it: keeld was away
    start();
    ASSERT_TRUE(until([this] { return ended("superseded"); }));
    EXPECT_EQ(newest().reason, "not-due");
    EXPECT_TRUE(patches.empty());
}

// The gate that counts asks for the goal, and for nothing that is replaced by it.
TEST_F(RolloutsTest, R1_AGoalThatMovedJustBeforeTheWriteGoesThroughTheGatesAgain) {
    add("web");
    start();
    set_goal("web");
    bool moved = false;
    on_look_up = [&](const std::string& name) {
        if (name == "web-2" && !std::exchange(moved, true)) answers["web-2"] = 'c';
    };
    ASSERT_TRUE(until([this] { return catalogue.find(key("web"))->running.usable(); }));
    rollouts->offer(key("web"), verdict(*catalogue.find(key("web"))));
    ASSERT_TRUE(until([this] { return ended("done"); }));
    ASSERT_EQ(patches.size(), 1U);
    EXPECT_EQ(objects["web"].runs, 'c');
    EXPECT_EQ(targets_from_json(newest().targets).at(0).to, digest('c'));
    const std::string asked = "HEAD /cache/v2/library/nginx/manifests/";
    EXPECT_GE(std::ranges::count_if(
                  peer->asked,
                  [&](const std::string& line) { return line.starts_with(asked + "web-2"); }),
              2);
}

TEST_F(RolloutsTest, R4_AGoalThatMovesAfterTheWriteSupersedes) {
    add("web");
    objects["web"].replaces = false;
    start();
    offer_goal("web");
    ASSERT_TRUE(until([this] { return patches.size() == 1; }));
    moves("web-2", 'c');
    ASSERT_TRUE(until([this] { return ended("superseded"); }));
    EXPECT_TRUE(ledger->rejected().empty());
}

TEST_F(RolloutsTest, R4_ATagThatFailsHereIsRejectedWithItsDigest) {
    config.defaults.deadline = Millis{200};
    add("web");
    objects["web"].replaces = false;
    start();
    offer_goal("web");
    ASSERT_TRUE(until([this] { return patches.size() == 1; }));
    Object& object = objects["web"];
    object.ready = false;
    object.observed = object.generation;
    object.runs = 'b';
    ++object.version;
    sync("web");
    ASSERT_TRUE(until([this] { return ended("failed"); }));
    EXPECT_EQ(newest().reason, "content");
    EXPECT_NE(rollouts->rejected("uid-web", {"app", tag("web-2"), "", digest('b')}), nullptr);
    EXPECT_EQ(rollouts->rejected("uid-web", {"app", tag("web"), "", digest('b')}), nullptr);
    EXPECT_EQ(rollouts->rejected("uid-web", {"app", tag("web-2"), "", digest('c')}), nullptr);
    EXPECT_EQ(patches.size(), 1U);
}

// Set back by somebody after it was proven: told with what keeld had written, and when.
TEST_F(RolloutsTest, O5_WhatSomebodySetBackIsNotWrittenAgain) {
    add("web");
    start();
    offer_goal("web");
    ASSERT_TRUE(until([this] { return ended("done"); }));
    const Target target{"app", tag("web-2"), "", digest('b')};
    const std::string* why = rollouts->stalled("uid-web", target);
    ASSERT_NE(why, nullptr);
    EXPECT_TRUE(why->starts_with("rollout " + newest().id +
                                 " wrote app: nginx:web → nginx:web-2 at 2026-11-22T"))
        << *why;
    // Nor after another rollout, or another start of keeld.
    goals.clear();
    moves("web-2", 'c');
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
    Target again = target;
    again.image = "nginx:web-2";
    EXPECT_EQ(rollouts->stalled("uid-web", target), nullptr);
    EXPECT_NE(rollouts->stalled("uid-web", again), nullptr);
    EXPECT_EQ(rollouts->stalled("uid-other", again), nullptr);
}

// Pods that somebody's change is about to replace do not tell what the workload lacks.
TEST_F(RolloutsTest, R6_SomebodyElsesRolloutIsWaitedFor) {
    add("web");
    start();
    ASSERT_TRUE(until([this] { return catalogue.find(key("web"))->running.usable(); }));
    Object& object = objects["web"];
    object.generation = object.version = 2;  // restarted by hand; no new pod yet
    sync("web");
    moves("web", 'b');
    ASSERT_TRUE(until([this] {
        const auto active = rollouts->active(key("web"));
        return active && active->reason == "under-way";
    }));
    EXPECT_TRUE(patches.empty());
    replace_pods("web");  // they pull what the tag answers now
    ASSERT_TRUE(until([this] { return rollouts->all_active().empty(); }));
    EXPECT_TRUE(patches.empty());
    EXPECT_EQ(reason("web"), "up-to-date");
}

TEST_F(RolloutsTest, R4_WhatCrashesOnTheTargetIsNotTriedAgain) {
    crashes_on("web", 'b');
    EXPECT_EQ(newest().reason, "content");
    const Target target{"app", tag("web"), "", digest('b')};
    EXPECT_NE(rollouts->rejected("uid-web", target), nullptr);
    EXPECT_EQ(ledger->rejected().size(), 1U);
    // Old content again (a rollback by hand): the bad one is not rolled out a second time.
    goes_back("web");
    EXPECT_EQ(patches.size(), 1U);
    // The next one is.
    objects["web"].replaces = true;
    moves("web", 'c');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(patches.size(), 2U);
    EXPECT_EQ(retried("web").code, "nothing-failed");
}

// A restart of an unchanged tag: a hold brings a pull to the old content, and the rest is a rollout
// that waits for nothing but a pause.
TEST_F(RolloutsTest, S1_WhatFailedGoesBackOnceAndPastItsGates) {
    config.breaker.failures = 1;
    crashes_on("web", 'b');
    const std::string failed = newest().id;
    const std::optional<Rollouts::Way> way = rollouts->way_of("uid-web");
    ASSERT_TRUE(way);
    EXPECT_EQ(way->rollout, failed);
    ASSERT_EQ(way->targets.size(), 1U);
    EXPECT_EQ(way->targets[0].to, digest('a'));
    EXPECT_EQ(way->targets[0].from, digest('b').to_string());
    EXPECT_FALSE(rollouts->way_of("uid-other"));

    ASSERT_TRUE(ordered("pause", key("web").to_string()));
    rollouts->go_back("uid-web", *way);
    EXPECT_TRUE(rollouts->is_going_back("uid-web"));
    ASSERT_NE(rollouts->way_back("uid-web", "app"), nullptr);
    EXPECT_EQ(rollouts->way_back("uid-web", "side"), nullptr);
    hold("web", 'a');
    objects["web"].ready = true;
    objects["web"].replaces = true;
    ASSERT_TRUE(until([this] { return waits_for("web", Gate::paused); }));
    EXPECT_TRUE(gates->breaker().opened != Time{});
    EXPECT_EQ(patches.size(), 1U);
    ASSERT_TRUE(ordered("resume", key("web").to_string()));
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(patches.size(), 2U);
    EXPECT_EQ(newest().cause, "restore of rollout " + failed);
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    const std::vector<RolloutRow> rows = ledger->rollouts(key("web").to_string(), "", 2);
    ASSERT_EQ(rows.size(), 2U);
    EXPECT_EQ(rows[1].state, "rolled-back");
    EXPECT_NE(rows[1].text.find("brought it back"), std::string::npos);
    EXPECT_FALSE(rollouts->is_going_back("uid-web"));
    EXPECT_FALSE(rollouts->way_of("uid-web")) << "once";
    EXPECT_NE(rollouts->rejected("uid-web", {"app", tag("web"), "", digest('b')}), nullptr);
    EXPECT_TRUE(rollouts->proved("uid-web", tag("web"), digest('a')));
    EXPECT_FALSE(rollouts->proved("uid-web", tag("web"), digest('b')));
    const Gates again(Gates::Parts{config, clock, catalogue, *ledger});
    EXPECT_EQ(gates->breaker().failures, 1);
    EXPECT_EQ(again.breaker().failures, 1)
        << "brought back or not, it failed; what went back does not count";
}

// The cause was something else, and a person says so: it is due again, over a restart too.
TEST_F(RolloutsTest, R4_WhatFailedIsTriedAgainOnOrder) {
    crashes_on("web", 'b');
    goes_back("web");
    objects["web"].replaces = true;
    EXPECT_EQ(retried("web", true).code, "would-retry");
    const Target target{"app", tag("web"), "", digest('b')};
    EXPECT_NE(rollouts->rejected("uid-web", target), nullptr);
    const OrderResult result = retried("web");
    ASSERT_TRUE(result.ok) << result.text;
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(patches.size(), 2U);
    ASSERT_EQ(ledger->rejected().size(), 1U) << "the history stays";
    const Rollouts again(parts());
    EXPECT_EQ(again.rejected("uid-web", target), nullptr);
    EXPECT_EQ(retried("nobody").code, "unknown-workload");
}

TEST_F(RolloutsTest, R4_ATagThatMovesAgainSupersedes) {
    add("web");
    objects["web"].replaces = false;
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return patches.size() == 1; }));
    objects["web"].replaces = true;
    moves("web", 'c');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_TRUE(ended("superseded"));
    EXPECT_EQ(patches.size(), 2U);
    EXPECT_EQ(objects["web"].runs, 'c');
    EXPECT_TRUE(ledger->rejected().empty());
}

TEST_F(RolloutsTest, R5_OneAnHourIsOneAnHour) {
    config.pacing.cluster.count = 1;
    add("api");
    add("web");
    start();
    moves("api", 'b');
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    ASSERT_TRUE(until([this] {
        const std::vector<RolloutRow> active = rollouts->all_active();
        return active.size() == 1 && active[0].state == "waiting" &&
               active[0].reason == to_string(Gate::awaiting_pacing);
    }));
    EXPECT_EQ(patches.size(), 1U);
    clock.time += std::chrono::hours(1);
    rollouts->wake_waiting();
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
    EXPECT_EQ(patches.size(), 2U);
}

TEST_F(RolloutsTest, R5_TheHourOfAnEarlierRunCounts) {
    config.pacing.cluster.count = 1;
    add("web");
    add("gone");
    RolloutRow row = left_behind("gone", "done");
    row.applied = row.ended = at(-30);
    ledger->put(row);
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] {
        const std::vector<RolloutRow> active = rollouts->all_active();
        return active.size() == 1 && active[0].reason == to_string(Gate::awaiting_pacing);
    }));
    EXPECT_TRUE(patches.empty());
}

// One registry that does not answer keeps the workloads of others waiting no longer than its own.
TEST_F(RolloutsTest, R5_AWorkloadThatCannotBeAskedAboutKeepsNoPlace) {
    config.pacing.concurrent = 1;
    add("api");
    add("web");
    start();
    silent = {"api"};
    moves("api", 'b');
    ASSERT_TRUE(until([this] {
        const auto active = rollouts->active(key("api"));
        return active && active->reason == to_string(Reason::target_not_pullable);
    }));
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(newest().workload, "Deployment/shop/web");
    EXPECT_EQ(patches.size(), 1U);
}

TEST_F(RolloutsTest, ARefusedPatchCostsNoPlaceAndIsNotForced) {
    config.pacing.cluster.count = 1;
    add("api");
    add("web");
    before_patch = [](const std::string& name) -> std::optional<Reply> {
        if (name == "api") return refusal("422 Unprocessable Entity", "Invalid");
        return std::nullopt;
    };
    start();
    moves("api", 'b');
    ASSERT_TRUE(until([this] { return ended("failed"); }));
    EXPECT_EQ(newest().reason, "refused");
    EXPECT_EQ(rollouts->pacing().used(clock.now()), 0);
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(patches.size(), 2U) << "the refused one waits before it tries again";
}

// ---- The plan's gates ----

TEST_F(RolloutsTest, R6_APauseKeepsBackWhatItNamesUntilSomebodyResumes) {
    for (const std::string& on :
         {std::string("cluster"), std::string("namespace/shop"), std::string("deploy/shop/web")}) {
        SCOPED_TRACE(on);
        const std::string name = "web" + std::to_string(objects.size());
        const std::string scope = on.starts_with("deploy") ? "deploy/shop/" + name : on;
        add(name);
        if (!rollouts) start();
        ASSERT_TRUE(until([&] { return catalogue.find(key(name))->running.usable(); }));
        ASSERT_TRUE(ordered("pause", scope));
        const std::size_t before = patches.size();
        const int done = static_cast<int>(before);
        moves(name, 'b');
        ASSERT_TRUE(until([&] { return waits_for(name, Gate::paused); }));
        EXPECT_NE(rollouts->active(key(name))->text.find("alice"), std::string::npos);
        // A restart opens nothing.
        EXPECT_EQ(Gates(Gates::Parts{config, clock, catalogue, *ledger}).closed(key(name)).size(),
                  1U);
        EXPECT_EQ(patches.size(), before);
        EXPECT_FALSE(ordered("pause", scope)) << "it is paused";
        ASSERT_TRUE(ordered("resume", scope));
        ASSERT_TRUE(until([&] { return ended("done", done + 1); }));
        EXPECT_FALSE(ordered("resume", scope)) << "it is not";
    }
    EXPECT_EQ(entries(EntryKind::ordered).size(), 6U);
    EXPECT_FALSE(ordered("pause", "shop"));
}

TEST_F(RolloutsTest, P6_AVoteReleasesTheDigestThatItIsForAndNoNewerOne) {
    wants_votes(1);
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return asked_for("web") == digest('b').to_string(); }));
    const std::string older = approvals->all().begin()->first;
    moves("web", 'c');
    ASSERT_TRUE(until([this] { return asked_for("web") == digest('c').to_string(); }));
    EXPECT_FALSE(voted("approve", older)) << "nothing waits for it any more";
    EXPECT_FALSE(voted("approve", key("web").to_string())) << "names no target";
    EXPECT_TRUE(waits_for("web", Gate::awaiting_approval));
    EXPECT_TRUE(patches.empty());
    ASSERT_TRUE(voted("approve", waiting_approval("web")->identifier));
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_EQ(objects["web"].runs, 'c');
    EXPECT_EQ(waiting_approval("web"), nullptr) << "it is used";
}

// Votes came in time; what was approved moves on between them and the write.
TEST_F(RolloutsTest, P6_WhatMovedOnAtTheLastMomentWaitsAgain) {
    wants_votes(1);
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return asked_for("web") == digest('b').to_string(); }));
    ASSERT_TRUE(ordered("pause", "cluster"));
    ASSERT_TRUE(voted("approve", waiting_approval("web")->id));
    answers["web"] = 'c';  // known to nobody before the gate that counts
    ASSERT_TRUE(ordered("resume", "cluster"));
    ASSERT_TRUE(until([this] { return asked_for("web") == digest('c').to_string(); }));
    EXPECT_TRUE(patches.empty());
}

TEST_F(RolloutsTest, P6_ARejectionStandsUntilItIsTakenBack) {
    wants_votes(1);
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return waits_for("web", Gate::awaiting_approval); }));
    ASSERT_TRUE(voted("reject", waiting_approval("web")->id));
    ASSERT_TRUE(until([this] { return waits_for("web", Gate::approval_rejected); }));
    EXPECT_FALSE(voted("approve", waiting_approval("web")->id));
    Order undo = by_alice("reject", waiting_approval("web")->id);
    undo.args = Json(json_pack("{s:b}", "undo", 1));
    ASSERT_TRUE(test::await(loop, approvals->order(std::move(undo))).front().ok);
    ASSERT_TRUE(until([this] { return waits_for("web", Gate::awaiting_approval); }));
    EXPECT_TRUE(patches.empty());
    ASSERT_TRUE(voted("approve", waiting_approval("web")->id));
    ASSERT_TRUE(until([this] { return ended("done"); }));
}

// A Deployment that was complete for a moment never exceeds its own deadline, and nobody may have
// seen that moment.
TEST_F(RolloutsTest, R4_WhatCrashesAfterItsFirstMomentFailsWithinItsDeadline) {
    add("web");
    objects["web"].replaces = false;
    objects["web"].progress_deadline = 1;
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return patches.size() == 1; }));
    objects["web"].ready = false;
    objects["web"].complete = true;
    objects["web"].observed = objects["web"].generation;
    objects["web"].runs = 'b';
    ++objects["web"].version;
    sync("web");
    ASSERT_TRUE(until([this] { return ended("failed"); }));
    EXPECT_EQ(newest().reason, "content");
}

// What crashes at once is ready for a moment, and so for one look.
TEST_F(RolloutsTest, R3_ReadyForAMomentProvesNothing) {
    steady = std::chrono::milliseconds(700);
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] {
        const auto active = rollouts->active(key("web"));
        return active && active->state == "verifying" && objects["web"].runs == 'b';
    }));
    const Steady::time_point seen = Steady::now();
    for (int crashes = 0; crashes < 2; ++crashes) {
        const std::size_t looks = pod_looks;
        objects["web"].ready = true;
        ASSERT_TRUE(until([&] { return pod_looks > looks; }));
        EXPECT_FALSE(ended("done"));
        objects["web"].ready = false;
        ASSERT_TRUE(until([&] { return pod_looks > looks + 2; }));
        EXPECT_FALSE(ended("done"));
    }
    objects["web"].ready = true;
    ASSERT_TRUE(until([this] { return ended("done"); }));
    EXPECT_GE(Steady::now() - seen, steady);
}

// --- soak ---

TEST_F(RolloutsTest, R3_NewPodsHaveToStayWellForTheSoakAndKeepNoPlaceMeanwhile) {
    config.defaults.soak = std::chrono::seconds{10};
    config.pacing.concurrent = 1;
    for (const char* name : {"api", "web"})
        add(name);
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return soaks("web"); }));
    moves("api", 'b');
    ASSERT_TRUE(until([this] { return soaks("api"); }));
    const std::size_t looks = pod_looks;
    ASSERT_TRUE(until([&] { return pod_looks > looks + 1; }));
    EXPECT_FALSE(ended("done"));
    clock.time += std::chrono::seconds{10};
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
    EXPECT_EQ(newest().text, "2 new pods stayed well for 10s");
    EXPECT_EQ(newest().reason, "proven");
    EXPECT_TRUE(ledger->documents("soak").empty());
}

TEST_F(RolloutsTest, R3_R4_RestartsDuringTheSoakRejectTheTarget) {
    config.defaults.soak = std::chrono::seconds{10};
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return soaks("web"); }));
    const std::size_t looks = pod_looks;
    ASSERT_TRUE(until([&] { return pod_looks > looks; }));
    objects["web"].restarts = 1;
    ASSERT_TRUE(until([this] { return ended("failed"); }));
    EXPECT_EQ(newest().reason, "content");
    EXPECT_EQ(newest().text,
              "pod web-2, container app: 2 restarts of the new pods while they soaked");
    EXPECT_EQ(reason("web"), "target-rejected");
    EXPECT_EQ(patches.size(), 1U);
    ASSERT_EQ(ledger->rejected().size(), 1U);
    EXPECT_EQ(ledger->rejected()[0].digest, digest('b').to_string());
}

TEST_F(RolloutsTest, R4_ATagThatGoesBackDuringTheSoakIsRecalled) {
    config.defaults.soak = std::chrono::minutes{10};
    config.defaults.reverts = Reverts::never;
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return soaks("web"); }));
    moves("web", 'a');
    EXPECT_TRUE(soaks("web")) << "a cache answers so when its upstream fails";
    tags.confirm(tag("web"), digest('a'), clock.now(), "upstream");
    planner->reconsider(tag("web"));
    ASSERT_TRUE(until([this] { return ended("recalled"); }));
    EXPECT_EQ(newest().reason, "tag-went-back");
    EXPECT_EQ(patches.size(), 1U);
    EXPECT_EQ(rollouts->metrics().recalled, 1U);
}

TEST_F(RolloutsTest, R4_ATagThatMovesOnDuringTheSoakSupersedes) {
    config.defaults.soak = std::chrono::minutes{10};
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return soaks("web"); }));
    moves("web", 'c');
    ASSERT_TRUE(until([this] { return ended("superseded") && soaks("web"); }));
    EXPECT_EQ(objects["web"].runs, 'c');
    EXPECT_EQ(patches.size(), 2U);
}

// R1, R3: pods that stay well under somebody else's image prove nothing of the target.
TEST_F(RolloutsTest, R3_AnImageThatSomebodyWritesDuringTheSoakSupersedes) {
    config.defaults.soak = std::chrono::minutes{10};
    add("web");
    add("api");
    start();
    offer_goal("web");
    ASSERT_TRUE(until([this] { return soaks("web"); }));
    Object& web = objects["web"];
    web.image = "nginx:web-9";
    web.generation = web.observed = ++web.version;
    sync("web");
    ASSERT_TRUE(until([this] { return ended("superseded"); }));
    EXPECT_EQ(newest().reason, "image-changed");
    EXPECT_EQ(patches.size(), 1U);

    moves("api", 'b');  // a restart alone, of a tag that is another one meanwhile
    ASSERT_TRUE(until([this] { return soaks("api"); }));
    Object& api = objects["api"];
    api.image = "nginx:other";
    api.generation = api.observed = ++api.version;
    sync("api");
    ASSERT_TRUE(until([this] { return ended("superseded", 2); }));
    EXPECT_EQ(newest().reason, "image-changed");
}

TEST_F(RolloutsTest, P7_ASoakGoesOnAfterARestartOfKeeld) {
    add("web");
    RolloutRow row = left_behind("web", "soaking");
    row.applied = at(-50);
    row.deadline = at(3600);
    row.reason = "proven";
    ledger->put(row);
    Soak soak;
    soak.begun = at(-50);
    soak.pods = {{"web1", {}}, {"web2", {}}};
    ledger->put(DocumentRow{"soak", row.id, soak.to_json()});
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    objects["web"].runs = answers["web"] = 'b';
    tags.observe(tag("web"), digest('b'), ManifestKind::image, at(-70), "event cache-a");
    objects["web"].restarts = 1;  // while keeld was away
    start();
    ASSERT_TRUE(until([this] { return ended("failed"); }));
    EXPECT_EQ(newest().reason, "content");
    EXPECT_TRUE(patches.empty());
}

TEST_F(RolloutsTest, R6_AWindowIsWaitedForAndItsOpeningIsTold) {
    add("web");
    WindowConfig& window = config.windows.emplace_back();
    window.name = "nights";
    const auto now = std::chrono::floor<std::chrono::minutes>(
        clock.time - std::chrono::floor<std::chrono::days>(clock.time));
    window.from = (now + std::chrono::minutes{30}) % std::chrono::minutes{24 * 60};
    window.to = (now + std::chrono::minutes{60}) % std::chrono::minutes{24 * 60};
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return waits_for("web", Gate::awaiting_window); }));
    const std::vector<ClosedGate> closed =
        rollouts->gates(key("web"), planner->verdict(*catalogue.find(key("web"))));
    ASSERT_EQ(closed.size(), 1U);
    ASSERT_TRUE(closed[0].until.has_value());
    EXPECT_TRUE(patches.empty());
    clock.time = *closed[0].until;
    rollouts->wake_waiting();
    ASSERT_TRUE(until([this] { return ended("done"); }));
}

TEST_F(RolloutsTest, R5_TheBreakerOpensOnFailuresOfTheContentUntilSomebodyClosesIt) {
    config.breaker.failures = 2;
    config.defaults.deadline = Millis{200};
    for (const char* name : {"api", "db", "web"})
        add(name);
    start();
    int failures = 0;
    for (const char* name : {"api", "db"}) {
        EXPECT_EQ(gates->breaker().opened, Time{});
        objects[name].replaces = false;
        moves(name, 'b');
        ++failures;
        ASSERT_TRUE(until([&] { return patches.size() == static_cast<std::size_t>(failures); }));
        objects[name].ready = false;
        objects[name].observed = objects[name].generation;
        objects[name].runs = 'b';
        ++objects[name].version;
        sync(name);
        ASSERT_TRUE(until([&] { return ended("failed", failures); }));
    }
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return waits_for("web", Gate::breaker_open); }));
    EXPECT_NE(gates->breaker().text.find("Deployment/shop/api"), std::string::npos);
    EXPECT_TRUE(test::await(loop, ledger->durable()));
    EXPECT_NE(Gates(Gates::Parts{config, clock, catalogue, *ledger}).breaker().opened, Time{})
        << "after a restart, too";
    EXPECT_EQ(entries(EntryKind::planned).size(), 1U);
    ASSERT_TRUE(ordered("resume", "cluster"));
    EXPECT_EQ(gates->breaker().failures, 0);
    EXPECT_EQ(Gates(Gates::Parts{config, clock, catalogue, *ledger}).breaker().failures, 0);
    ASSERT_TRUE(until([this] { return ended("done"); }));
}

TEST_F(RolloutsTest, R5_AShareOfTheNewestOpensTheBreakerToo) {
    config.breaker = {.failures = 100, .of = 4, .share = 0.5};
    add("web");
    Gates one(Gates::Parts{config, clock, catalogue, *ledger});
    const auto end = [&one](const char* state, const char* reason) {
        RolloutRow row;
        row.state = state;
        row.reason = reason;
        row.ended = at(1);
        row.workload = "Deployment/shop/web";
        one.ended(row);
    };
    end("failed", "content");
    end("failed", "stalled");  // says nothing of the content
    end("superseded", "not-due");
    end("done", "proven");
    end("failed", "content");
    EXPECT_EQ(one.breaker().opened, Time{}) << "three of four are known";
    end("failed", "content");
    EXPECT_NE(one.breaker().opened, Time{});
}

TEST_F(RolloutsTest, R5_PlacesGoByPriorityThenByAge) {
    config.pacing.concurrent = 1;
    config.priorities = {{{"*/shop/web"}, 10}, {{"*/shop/*"}, 1}, {{"*/shop/api"}, -5}};
    for (const char* name : {"api", "db", "web"})
        add(name);
    start();
    for (const char* name : {"api", "db", "web"}) {
        ASSERT_TRUE(until([&] { return catalogue.find(key(name))->running.usable(); }));
    }
    ASSERT_TRUE(ordered("pause", "cluster"));
    for (const char* name : {"api", "db", "web"})
        moves(name, 'b');
    ASSERT_TRUE(until([this] {
        return waits_for("api", Gate::paused) && waits_for("db", Gate::paused) &&
               waits_for("web", Gate::paused);
    }));
    ASSERT_TRUE(ordered("resume", "cluster"));
    ASSERT_TRUE(until([this] { return ended("done", 3); }));
    std::vector<std::string> order;
    for (const RolloutRow& row : ledger->rollouts("", "", 10))
        order.push_back(row.workload);
    EXPECT_EQ(gates->priority(key("api")), 1) << "the highest that matches";
    EXPECT_EQ(order.back(), "Deployment/shop/web");
}

TEST_F(RolloutsTest, R7_AGroupStartsAsOneAndCountsAsOneOfThoseUnderWay) {
    config.pacing.concurrent = 1;
    config.groups = {{"pair", {"Deployment/shop/api", "Deployment/shop/web"}}};
    for (const char* name : {"api", "web", "other"})
        add(name);
    start();
    for (const char* name : {"api", "web"}) {
        ASSERT_TRUE(until([&] { return catalogue.find(key(name))->running.usable(); }));
    }
    ASSERT_TRUE(ordered("pause", "deploy/shop/web"));
    moves("api", 'b');
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return waits_for("api", Gate::awaiting_group); }));
    EXPECT_NE(rollouts->active(key("api"))->text.find("Deployment/shop/web"), std::string::npos);
    moves("other", 'b');
    ASSERT_TRUE(until([this] { return ended("done"); })) << "who is not of the group goes";
    EXPECT_EQ(patches.size(), 1U);
    ASSERT_TRUE(ordered("resume", "deploy/shop/web"));
    ASSERT_TRUE(until([this] { return ended("done", 3); }));
    const std::vector<RolloutRow> rows = ledger->rollouts("", "", 10);
    ASSERT_EQ(rows.size(), 3U);
    EXPECT_EQ(rows[0].intended, rows[1].intended) << "both took their places in one moment";
}

TEST_F(RolloutsTest, R7_AMemberThatCannotBePulledKeepsTheOtherBack) {
    config.groups = {{"pair", {"Deployment/shop/*"}}};
    add("api");
    add("web");
    start();
    for (const char* name : {"api", "web"}) {
        ASSERT_TRUE(until([&] { return catalogue.find(key(name))->running.usable(); }));
    }
    silent = {"api"};
    moves("web", 'b');
    moves("api", 'b');
    ASSERT_TRUE(until([this] {
        const auto web = rollouts->active(key("web"));
        return web && web->text == "another one of its group could not start";
    }));
    EXPECT_TRUE(patches.empty());
    ASSERT_TRUE(until([this] { return rollouts->pacing().used(clock.now()) == 0; }));
    EXPECT_TRUE(newest().id.empty()) << "nothing was intended";
}

TEST_F(RolloutsTest, R7_AMemberThatIsBlockedAfterTheDecisionKeepsAllFromBeingWritten) {
    config.groups = {{"pair", {"Deployment/shop/*"}}};
    add("api");
    add("web");
    start();
    for (const char* name : {"api", "web"}) {
        ASSERT_TRUE(until([&] { return catalogue.find(key(name))->running.usable(); }));
    }
    ASSERT_TRUE(ordered("pause", "cluster"));
    moves("api", 'b');
    moves("web", 'b');
    ASSERT_TRUE(
        until([this] { return waits_for("api", Gate::paused) && waits_for("web", Gate::paused); }));
    std::string first;
    on_look_up = [&](const std::string& name) {
        first = first.empty() ? name : first;
        hold_registry = first == name ? &answered : hold_registry;  // the other one's answer waits
    };
    ASSERT_TRUE(ordered("resume", "cluster"));
    ASSERT_TRUE(until([&] { return !first.empty() && hold_registry == nullptr; }));
    const std::string other = first == "api" ? "web" : "api";
    ASSERT_TRUE(until([&] {
        const auto active = rollouts->active(key(first));
        return active && active->state == "preflight";
    }));
    set_pulls(first, false);
    answered.notify();
    ASSERT_TRUE(until([&] { return waits_for(other, Gate::awaiting_group); }));
    EXPECT_TRUE(patches.empty());
    EXPECT_EQ(rollouts->pacing().used(clock.now()), 0) << "what was not written costs no place";
    EXPECT_TRUE(rollouts->parted().empty());
    on_look_up = nullptr;
    set_pulls(first, true);
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
    EXPECT_EQ(patches.size(), 2U);
}

TEST_F(RolloutsTest, R7_AMemberThatIsBlockedWhileTheIntentsAreWrittenKeepsAllFromBeingWritten) {
    config.groups = {{"pair", {"Deployment/shop/*"}}};
    add("api");
    add("web");
    start();
    for (const char* name : {"api", "web"}) {
        ASSERT_TRUE(until([&] { return catalogue.find(key(name))->running.usable(); }));
    }
    moves("api", 'b');
    moves("web", 'b');
    const auto is_intended = [this](const char* name) {
        const auto active = rollouts->active(key(name));
        return active && active->state == "intended";
    };
    ASSERT_TRUE(until([&] { return is_intended("api") || is_intended("web"); }));
    ASSERT_TRUE(patches.empty());
    set_pulls("web", false);
    ASSERT_TRUE(until([this] { return waits_for("api", Gate::awaiting_group); }));
    EXPECT_TRUE(patches.empty());
    ASSERT_TRUE(until([this] { return ended("superseded", 2); }));
    EXPECT_EQ(newest().reason, to_string(Gate::awaiting_group));
    EXPECT_EQ(rollouts->pacing().used(clock.now()), 0);
}

TEST_F(RolloutsTest, R7_AMemberThatFailsAfterOthersWereWrittenIsToldUntilItFollows) {
    config.groups = {{"pair", {"Deployment/shop/*"}}};
    add("api");
    add("web");
    std::string refused;
    before_patch = [&, count = 0](const std::string& name) mutable -> std::optional<Reply> {
        if (++count != 2) return std::nullopt;
        refused = name;
        return refusal("422 Unprocessable Entity", "Invalid");
    };
    start();
    for (const char* name : {"api", "web"}) {
        ASSERT_TRUE(until([&] { return catalogue.find(key(name))->running.usable(); }));
    }
    moves("api", 'b');
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done") && ended("failed"); }));
    ASSERT_EQ(rollouts->parted().size(), 1U);
    EXPECT_EQ(rollouts->parted().begin()->first, key(refused));
    const std::string written = refused == "api" ? "web" : "api";
    EXPECT_NE(
        rollouts->parted().begin()->second.find("Deployment/shop/" + written + " was written"),
        std::string::npos);
    const std::vector<RolloutRow> rows = ledger->rollouts("Deployment/shop/" + refused, "", 1);
    ASSERT_EQ(rows.size(), 1U);
    EXPECT_EQ(rows.front().reason, "group-parted");
    const CatalogueEntry& entry = *catalogue.find(key(refused));
    const std::vector<ClosedGate> closed = rollouts->gates(key(refused), verdict(entry));
    ASSERT_FALSE(closed.empty());
    EXPECT_NE(closed.front().text.find("its group is parted"), std::string::npos);
    const Rollouts after_restart(parts());
    EXPECT_EQ(after_restart.parted().size(), 1U);
    clock.time += std::chrono::minutes(1);
    rollouts->wake_waiting();
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
    EXPECT_TRUE(rollouts->parted().empty());
}

// The other one would be two steps ahead of it.
TEST_F(RolloutsTest, R7_AMemberThatWasRefusedGoesFirstAndAloneWhileItIsRefused) {
    config.groups = {{"pair", {"Deployment/shop/*"}}};
    add("api");
    add("web");
    std::vector<std::string> tried;
    std::string refused;
    before_patch = [&](const std::string& name) -> std::optional<Reply> {
        tried.push_back(name);
        if (tried.size() == 2) refused = name;
        if (name != refused) return std::nullopt;
        return refusal("422 Unprocessable Entity", "Invalid");
    };
    start();
    for (const char* name : {"api", "web"}) {
        ASSERT_TRUE(until([&] { return catalogue.find(key(name))->running.usable(); }));
    }
    moves("api", 'b');
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done") && ended("failed"); }));
    ASSERT_EQ(rollouts->parted().size(), 1U);
    moves("api", 'c');
    moves("web", 'c');
    for (int times = 2; times < 4; ++times) {
        tried.assign(2, "");
        clock.time += std::chrono::hours(1);
        rollouts->wake_waiting();
        ASSERT_TRUE(until([&] { return ended("failed", times); }));
        ASSERT_TRUE(until([&] { return rollouts->all_active().size() == 2; }));
        EXPECT_EQ(tried, (std::vector<std::string>{"", "", refused}));
        const std::vector<RolloutRow> rows = ledger->rollouts("Deployment/shop/" + refused, "", 1);
        EXPECT_EQ(rows.front().reason, "group-parted") << "a restart still knows";
    }
    const std::string other = refused == "api" ? "web" : "api";
    const std::string first = std::exchange(refused, "");
    tried.assign(2, "");
    clock.time += std::chrono::hours(1);
    rollouts->wake_waiting();
    ASSERT_TRUE(until([this] { return ended("done", 3); }));
    EXPECT_EQ(tried, (std::vector<std::string>{"", "", first, other}));
    EXPECT_TRUE(rollouts->parted().empty());
}

TEST_F(RolloutsTest, R7_AnIntentOfAGroupIsNotWrittenAfterARestartWhileAnotherMemberIsBlocked) {
    config.groups = {{"pair", {"Deployment/shop/*"}}};
    add("api");
    add("web");
    set_pulls("api", false);
    for (const char* name : {"api", "web"}) {
        answers[name] = 'b';
        tags.observe(tag(name), digest('b'), ManifestKind::image, at(-70), "event cache-a");
    }
    left_behind("web", "intended");
    start();
    ASSERT_TRUE(until([this] { return ended("superseded"); }));
    EXPECT_EQ(newest().reason, to_string(Gate::awaiting_group));
    ASSERT_TRUE(until([this] { return waits_for("web", Gate::awaiting_group); }));
    EXPECT_TRUE(patches.empty());
    set_pulls("api", true);
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
}

TEST_F(RolloutsTest, R7_AGroupLargerThanALimitWaitsForAnException) {
    config.pacing.cluster.count = 1;
    config.groups = {{"pair", {"Deployment/shop/*"}}};
    add("api");
    add("web");
    start();
    moves("api", 'b');
    moves("web", 'b');
    ASSERT_TRUE(until([this] {
        return waits_for("api", Gate::group_exceeds_pacing) &&
               waits_for("web", Gate::group_exceeds_pacing);
    }));
    EXPECT_TRUE(patches.empty());
    const std::vector<OrderResult> results =
        test::await(loop, rollouts->let_group_go(by_alice("approve", "group/pair")));
    ASSERT_TRUE(results.front().ok) << results.front().text;
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
    EXPECT_EQ(rollouts->pacing().used(clock.now()), 2) << "what it took is counted";
}

TEST_F(RolloutsTest, NothingIsWrittenInObserve) {
    config.mode = Mode::observe;
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] {
        const CatalogueEntry& entry = *catalogue.find(key("web"));
        return planner->verdict(entry).verdict == Verdict::roll;
    }));
    const WorkloadVerdict verdict = planner->verdict(*catalogue.find(key("web")));
    const std::vector<ClosedGate> gates = rollouts->gates(key("web"), verdict);
    ASSERT_EQ(gates.size(), 1U);
    EXPECT_EQ(gates[0].gate, Gate::observe_only);
    EXPECT_EQ(told(), "decided");
    EXPECT_TRUE(rollouts->all_active().empty());
    EXPECT_TRUE(patches.empty());
}

TEST_F(RolloutsTest, R1_TheSameContentIsNoRestart) {
    add("web");
    start();
    // b is another manifest of the same image.
    ASSERT_TRUE(until([this] { return catalogue.find(key("web"))->running.usable(); }));
    Content same{digest('b'), ManifestKind::image, {{"linux/amd64", digest('b'), digest('a')}}};
    ledger->put(ContentRow{digest('b').to_string(), same.to_json()});
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    moves("web", 'b');
    ASSERT_TRUE(until([this] {
        const CatalogueEntry& entry = *catalogue.find(key("web"));
        return planner->verdict(entry).reason == Reason::same_content;
    }));
    EXPECT_TRUE(patches.empty());
    EXPECT_TRUE(rollouts->all_active().empty());
}

// A rollout is never proven against what a hold keeps from the nodes.
TEST_F(RolloutsTest, R1_AHoldDuringARolloutSupersedesIt) {
    add("web");
    objects["web"].replaces = false;
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return patches.size() == 1; }));
    hold("web", 'a');
    replace_pods("web");
    ASSERT_TRUE(until([this] { return ended("superseded"); }));
    ASSERT_TRUE(until([this] { return reason("web") == "held"; })) << reason("web");
    EXPECT_FALSE(ended("done"));
    EXPECT_EQ(patches.size(), 1U);
    EXPECT_TRUE(ledger->rejected().empty());
}

TEST_F(RolloutsTest, V2_BackToAHeldDigestOnlyAsRevertsSays) {
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    hold("web", 'a');
    ASSERT_TRUE(until([this] {
        const auto active = rollouts->active(key("web"));
        return active && active->reason == to_string(Gate::awaiting_approval);
    }));
    EXPECT_EQ(patches.size(), 1U);
    config.defaults.reverts = Reverts::follow;
    planner->reconsider(key("web"));
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
    EXPECT_EQ(objects["web"].runs, 'a');
    EXPECT_EQ(newest().cause, "hold by alice");
    release("web");
    ASSERT_TRUE(until([this] { return ended("done", 3); }));
    EXPECT_EQ(objects["web"].runs, 'b');
}

// What was rolled out before a hold took the pods away from it is due again after it.
TEST_F(RolloutsTest, AReleasedTagIsFollowedAgain) {
    add("web");
    start();
    moves("web", 'b');
    ASSERT_TRUE(until([this] { return ended("done"); }));
    hold("web", 'a');
    Object& object = objects["web"];  // somebody restarts it by hand
    ++object.generation;
    replace_pods("web");
    ASSERT_TRUE(until([this] { return reason("web") == "held"; })) << reason("web");
    EXPECT_EQ(patches.size(), 1U);
    release("web");
    ASSERT_TRUE(until([this] { return ended("done", 2); }));
    EXPECT_EQ(objects["web"].runs, 'b');
    EXPECT_EQ(patches.size(), 2U);
}

}  // namespace
}  // namespace keel
