#include "keeld/daemon.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "keeld/api/plan.h"
#include "keeld/json.h"
#include "keeld/spawn.h"

namespace keel {
namespace {

constexpr std::size_t kMaxBody = 256U << 10U;
constexpr auto kUpkeep = std::chrono::seconds(1);
constexpr auto kPrune = std::chrono::hours(1);
constexpr auto kSweep = std::chrono::minutes(1);  // of votes that nothing waits for any more
// The document that remembers the configuration that was taken last.
constexpr const char* kPlanDocument = "plan";
constexpr const char* kConfigKey = "configuration";
constexpr auto kStopGrace = std::chrono::milliseconds(2'000);

std::string host_name() {
    std::array<char, 256> name{};
    return gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : "keeld";
}

// What keeld asks of the API server, beside what it is for; `act` adds what only writing needs.
struct Need {
    ClusterClient::AccessQuestion question;
    bool act = false;
};

std::vector<Need> needs_in(const std::string& ns) {
    std::vector<Need> needs;
    const auto add = [&needs, &ns](const char* group, const char* resource,
                                   std::initializer_list<const char*> verbs, bool act) {
        for (const char* verb : verbs) {
            needs.push_back({{verb, group, resource, ns}, act});
        }
    };
    add("apps", "deployments", {"get", "list", "watch"}, false);
    add("apps", "statefulsets", {"get", "list", "watch"}, false);
    add("apps", "daemonsets", {"get", "list", "watch"}, false);
    add("batch", "cronjobs", {"get", "list", "watch"}, false);
    add("batch", "jobs", {"list"}, false);
    add("apps", "replicasets", {"list"}, false);
    add("apps", "controllerrevisions", {"list"}, false);
    add("", "pods", {"list"}, false);
    add("apps", "deployments", {"patch"}, true);
    add("apps", "statefulsets", {"patch"}, true);
    add("apps", "daemonsets", {"patch"}, true);
    add("batch", "cronjobs", {"patch"}, true);
    // Preflight; pods by dry runs alone.
    add("", "pods", {"create"}, true);
    add("", "persistentvolumeclaims", {"get"}, true);
    add("policy", "poddisruptionbudgets", {"list"}, true);
    return needs;
}

// One line an event: what the ledger keeps is what the log tells.
void log_entry(const Entry& entry) {
    std::string line(to_string(entry.kind));
    const auto add = [&line](const char* name, const std::string& value) {
        if (!value.empty()) {
            line += std::string(" ") + name + value;
        }
    };
    add("", entry.code);
    add("", entry.workload);
    add("container=", entry.container);
    add("tag=", entry.tag);
    add("from=", entry.from);
    add("to=", entry.to);
    add("rollout=", entry.rollout);
    add("cause=", entry.cause.empty() ? "" : "\"" + entry.cause + "\"");
    add("", entry.text.empty() ? "" : "(" + entry.text + ")");
    spdlog::info("{}", line);
}

}  // namespace

Daemon::Daemon(Loop& loop, Config config, std::string clock, bool yes)
    : loop_(loop), config_(std::move(config)), yes_(yes), led_(config_.mode == Mode::act) {
    if (!clock.empty()) {
        outside_ = std::make_unique<OutsideClock>(loop_, std::move(clock));
        outside_->on_move([this] { clock_moved(); });
        outside_->settled_when([this] {
            return stopping_ || !schedule_ ||
                   (schedule_->waiting() == 0 && planner_->settled() && plan_->settled());
        });
    }
}

Daemon::~Daemon() = default;

Expected<ClusterAccess> Daemon::cluster_access() const {
    return config_.kubernetes->kubeconfig.empty()
               ? in_cluster_access()
               : load_kubeconfig(config_.kubernetes->kubeconfig, config_.kubernetes->context);
}

void Daemon::make_components() {
    http_ = std::make_unique<HttpClient>(loop_, "keeld/" KEEL_VERSION);
    tags_ = std::make_unique<Tags>(*ledger_);
    listings_ = std::make_unique<Listings>(*ledger_);
    pushes_ = std::make_unique<Pushes>(*ledger_);
    registry_ = std::make_unique<Registry>(*http_, config_, *ledger_);
    key_sources_ =
        std::make_unique<KeySources>(config_, [this](std::string registry, std::string repository) {
            return workload_keys_->keys(std::move(registry), std::move(repository));
        });
    registry_->authorization().use([this](std::string registry, std::string repository) {
        return key_sources_->keys(std::move(registry), std::move(repository));
    });
    catalogue_ = std::make_unique<Catalogue>([this](const WorkloadKey& key) {
        if (planner_) {
            planner_->reconsider(key);
        }
        if (stamper_) {
            stamper_->look(key);
        }
    });
    observations_ = std::make_unique<Observations>(
        loop_, clock(), *ledger_, *tags_, *registry_,
        [this](const Tag& tag) {
            if (planner_) {
                planner_->reconsider(tag);
            }
        },
        [this](const Tag& tag) {
            if (schedule_) {
                schedule_->hint(tag);
            }
        });
    feed_ =
        std::make_unique<CacheFeed>(loop_, *http_, config_, real_, *ledger_,
                                    [this](const CacheNews& news) { observations_->take(news); });
    holds_ = std::make_unique<Holds>(
        Holds::Parts{loop_, config_, real_, *http_, *ledger_, *registry_, *tags_,
                     [this](Tag tag) { return observations_->look_up(std::move(tag)); },
                     [this](const Tag& tag) {
                         if (planner_) {
                             planner_->reconsider(tag);
                         }
                     }});
    feed_->on_status([this](const std::string& cache, const json_t* status) {
        for (const RegistryNotice& notice : notices_of(status, real_.now())) {
            registry_->budget().note(cache, notice);
        }
    });
    feed_->on_hold([this](const std::string& cache, const HoldEvent&) { holds_->look(cache); });
}

void Daemon::make_cluster_components(ClusterAccess access) {
    cluster_ = std::make_unique<ClusterClient>(loop_, *http_, std::move(access));
    pull_secrets_ = std::make_unique<PullSecrets>(*cluster_);
    workload_keys_ = std::make_unique<WorkloadKeys>(config_, phases_, *catalogue_, *pull_secrets_);
    pods_ = std::make_unique<PodReader>(*cluster_, *catalogue_, clock());
    schedule_ = std::make_unique<Schedule>(Schedule::Parts{
        loop_, config_, clock(), *tags_, *observations_, *listings_,
        [this](const Tag& tag) { return planner_->wishes(tag); },
        [this](Tag tag) { return list_tags(std::move(tag)); },
        [this](const Tag& tag) { planner_->reconsider(tag); },
        config_.caches.empty() ? std::function<Task<void>()>() : [this] { return read_traffic(); },
        Millis{60'000}, Millis{1'000},
        [this](const Tag& tag, const Digest& digest, Time asked) {
            if (const std::string* by = pushes_->confirmed_by(tag, digest, asked)) {
                believe(tag, digest, *by);
            }
            if (pushes_->answered(tag, digest, asked)) {
                planner_->reconsider(tag);
            }
        }});
    planner_ = std::make_unique<Planner>(
        Planner::Parts{loop_, config_, phases_, clock(), *catalogue_, *tags_, *registry_, *pods_,
                       *ledger_, *schedule_, *listings_, *pushes_, rollouts_pointer_,
                       [this](const WorkloadKey& key, const CatalogueEntry* entry,
                              const WorkloadVerdict& verdict) {
                           plan_->judged(key, entry, verdict);
                           if (entry != nullptr) {
                               restores_->judged(key, *entry, verdict);
                           }
                       }});
    plan_ = std::make_unique<Phases>(
        Phases::Parts{loop_, config_, phases_, clock(), *catalogue_, *ledger_,
                      [this] { return config_.mode == Mode::act && lease_->held(); },
                      [this](const WorkloadKey& key) {
                          planner_->reconsider(key);
                          stamper_->look(key);
                      },
                      [this](std::string ns) { return pods_->read_namespace(std::move(ns)); }});
    const auto may_write = [this] { return config_.mode == Mode::act && lease_->held(); };
    stamper_ = std::make_unique<Stamper>(Stamper::Parts{
        loop_, config_, phases_, clock(), *catalogue_, *cluster_, *ledger_, may_write});
    migration_ = std::make_unique<Migration>(
        Migration::Parts{config_, clock(), *catalogue_, *cluster_, *ledger_});
    LeaseOptions lease;
    lease.ns = config_.kubernetes->lease_namespace;
    lease.name = config_.kubernetes->lease_name;
    lease.identity = host_name() + "_" + ledger_->id();
    lease.ledger_id = ledger_->id();
    lease_ = std::make_unique<Lease>(loop_, *cluster_, std::move(lease));
    gates_ = std::make_unique<Gates>(Gates::Parts{config_, clock(), *catalogue_, *ledger_});
    gates_->on_move([this] { rollouts_->wake_waiting(); });
    approvals_ = std::make_unique<Approvals>(Approvals::Parts{clock(), *ledger_});
    approvals_->on_move([this] {
        rollouts_->wake_waiting();
        // What a vote let go may be due from now on.
        for (const auto& [id, one] : approvals_->all()) {
            const Expected<WorkloadKey> key = WorkloadKey::parse(one.workload);
            if (key && one.archived == Time{}) {
                planner_->reconsider(*key);
            }
        }
    });
    rollouts_ = std::make_unique<Rollouts>(
        Rollouts::Parts{loop_, config_, clock(), *catalogue_, *tags_, *registry_, *pods_, *cluster_,
                        *ledger_, *lease_, *gates_, *approvals_,
                        [this](const CatalogueEntry& entry) { return planner_->verdict(entry); },
                        [this](Tag tag) { return what_a_pull_gets(std::move(tag)); },
                        [this](const Tag& tag) { return holds_->known(tag); },
                        [this](const WorkloadKey& key) { planner_->reconsider(key); },
                        [this](const std::string& ns) { return plan_->closed(ns); }});
    rollouts_pointer_ = rollouts_.get();
    restores_ = std::make_unique<Restores>(Restores::Parts{
        loop_, clock(), *catalogue_, *tags_, *pods_, *ledger_, *holds_, *rollouts_, may_write,
        [this](Tag tag) { return observations_->look_up(std::move(tag)); },
        [this](const WorkloadKey& key) { planner_->reconsider(key); }});
}

const Clock& Daemon::clock() const {
    return outside_ ? static_cast<const Clock&>(*outside_) : real_;
}

// Everybody who waits for a moment of the clock looks again.
void Daemon::clock_moved() {
    if (schedule_) {
        schedule_->clock_moved();
        planner_->clock_moved();
    }
    if (plan_) {
        plan_->look();
    }
    if (rollouts_) {
        rollouts_->wake_waiting();
    }
}

Task<Expected<Schedule::Names>> Daemon::list_tags(Tag tag) {
    Expected<TagList> list = co_await registry_->list_tags(std::move(tag));
    const auto told = [](const Error& why) { return why.code + ": " + why.text; };
    if (!list) {
        Error why = list.error();
        why.text = told(why);
        co_return tl::unexpected<Error>(std::move(why));
    }
    std::string stopped = list->complete ? "" : told(list->stopped);
    co_return Schedule::Names{std::move(list->names), list->complete, std::move(stopped)};
}

// The second source: who pushed the tag says at which digest.
void Daemon::believe(const Tag& tag, const Digest& digest, const std::string& source) {
    if (tags_->confirm(tag, digest, clock().now(), source) && planner_) {
        planner_->reconsider(tag);
    }
}

// Who was told that it was taken need not send it again, also when keeld is killed now.
Task<ApiResponse> Daemon::take_webhook(ApiRequest request) {
    ApiResponse response = webhooks_->handle(request);
    if (response.status == 200) {
        if (const Expected<void> kept = co_await ledger_->durable(); !kept) {
            co_return api_error(503, "ledger", kept.error().text);
        }
    }
    co_return response;
}

Task<void> Daemon::read_traffic() {
    const Time asked = SystemClock().now();
    std::function<void(const SeenTag&)> seen = [this](const SeenTag& one) {
        tags_->seen(one.tag, clock().shown_at(one.last_seen), one.no_kubelet_since);
    };
    if (co_await feed_->read_traffic(std::move(seen))) {
        tags_->traffic_read(asked);
    }
}

// For the gate that counts. Look-ups go round holds, so where the tag is held it is the held digest
// that must be there; what it answers upstream does not matter then.
Task<Expected<Answer>> Daemon::what_a_pull_gets(Tag tag) {
    Tag asked = tag;
    const Expected<void> holds = co_await holds_->read_now(std::move(asked));
    if (!holds) {
        co_return tl::unexpected<Error>(holds.error());
    }
    const TagInfo* info = tags_->find(tag);
    if (info != nullptr && info->held) {
        const Digest digest = info->held->digest;
        co_return co_await registry_->look_up_digest(std::move(tag), digest);
    }
    co_return co_await observations_->look_up(std::move(tag));
}

// E2: fails loudly at start, naming every missing permission at once.
Task<std::vector<Error>> Daemon::check_cluster() {
    std::vector<Error> errors;
    std::vector<Need> needs;
    const std::vector<std::string> everywhere{""};
    const std::vector<std::string>& scopes =
        config_.kubernetes->namespaces.empty() ? everywhere : config_.kubernetes->namespaces;
    const bool secrets = std::ranges::any_of(config_.registries, [](const auto& one) {
        return one.second.credentials.kind == CredentialsConfig::Kind::pull_secrets;
    });
    for (const std::string& ns : scopes) {
        std::vector<Need> own = needs_in(ns);
        if (secrets) {
            own.push_back({{"get", "", "secrets", ns}, false});
            own.push_back({{"get", "", "serviceaccounts", ns}, false});
        }
        needs.insert(needs.end(), own.begin(), own.end());
    }
    const std::string lease_ns = config_.kubernetes->lease_namespace;
    for (const char* verb : {"get", "create", "update"}) {
        needs.push_back({{verb, "coordination.k8s.io", "leases", lease_ns}, true});
    }
    for (const std::string& ns : scopes) {  // one by its name, or all of them
        for (const char* verb : {"list", "watch"}) {
            needs.push_back({{verb, "", "namespaces", "", ns}, false});
        }
    }
    for (const Need& need : needs) {
        if (need.act && config_.mode != Mode::act) {
            continue;
        }
        const ClusterClient::AccessQuestion question = need.question;
        const Expected<bool> allowed = co_await cluster_->allowed(question);
        if (!allowed) {
            errors.push_back(
                {"cluster", "kubernetes: the API server cannot be used: " + allowed.error().text});
            co_return errors;
        }
        if (!*allowed) {
            errors.push_back(
                {"permission", "kubernetes: may not " + question.verb + " " + question.resource +
                                   (question.group.empty() ? "" : "." + question.group) +
                                   (question.ns.empty() ? "" : " in namespace " + question.ns) +
                                   (question.name.empty() ? "" : " named " + question.name) +
                                   "; grant it to keeld's account (conf/kubernetes/rbac.yaml)"});
        }
    }
    co_return errors;
}

Task<std::vector<Error>> Daemon::start(bool check_only) {
    std::vector<Error> errors;
    if (outside_) {
        const Expected<void> told = co_await outside_->start();
        if (!told) {
            errors.push_back(told.error());
            co_return errors;
        }
    }
    if (check_only) {  // beside a running keeld, and as another user: the ledger is looked at, not
                       // opened
        const Expected<void> usable = Ledger::check(config_.ledger_path);
        if (!usable) {
            errors.push_back(usable.error());
        }
    }
    const std::string path = check_only ? ":memory:" : config_.ledger_path;
    Expected<std::unique_ptr<Ledger>> ledger = Ledger::open(loop_, path);
    if (!ledger) {
        errors.push_back(ledger.error());
        co_return errors;
    }
    ledger_ = std::move(*ledger);
    ledger_->on_append(log_entry);
    make_components();
    if (config_.kubernetes) {
        Expected<ClusterAccess> access = cluster_access();
        if (!access) {
            errors.push_back(access.error());
            co_return errors;
        }
        make_cluster_components(std::move(*access));
        const std::vector<Error> cluster = co_await check_cluster();
        errors.insert(errors.end(), cluster.begin(), cluster.end());
    }
    if (check_only) {  // a running keeld waits for a cache that is away; somebody who checks wants
                       // to know
        const std::vector<Error> caches = co_await feed_->check();
        errors.insert(errors.end(), caches.begin(), caches.end());
    }
    webhooks_ = std::make_unique<Webhooks>(Webhooks::Parts{
        loop_, config_, clock(), *catalogue_, *pushes_, schedule_.get(), [this] { return ready_; },
        [this](const Tag& tag, const Digest& digest, const std::string& source) {
            believe(tag, digest, source);
        }});
    views_ = std::make_unique<Views>(Views::Parts{config_,
                                                  phases_,
                                                  clock(),
                                                  *ledger_,
                                                  *tags_,
                                                  *registry_,
                                                  *feed_,
                                                  *holds_,
                                                  *catalogue_,
                                                  planner_.get(),
                                                  rollouts_.get(),
                                                  schedule_.get(),
                                                  lease_.get(),
                                                  [this] { return cluster_problems_; },
                                                  [this] { return ready_; },
                                                  [this] { return ledger_lost_; },
                                                  listings_.get(),
                                                  plan_.get(),
                                                  gates_.get(),
                                                  approvals_.get(),
                                                  stamper_.get(),
                                                  restores_.get(),
                                                  migration_.get(),
                                                  [this] { return config_problem_; },
                                                  webhooks_.get()});
    actions_ = std::make_unique<Actions>(*holds_, real_);
    if (gates_) {
        for (const char* action : {"pause", "resume"}) {
            actions_->serve(action,
                            [this](Order order) { return gates_->order(std::move(order)); });
        }
        actions_->serve("approve", [this](Order order) {
            return order.on.starts_with("group/") ? rollouts_->let_group_go(std::move(order))
                                                  : approvals_->order(std::move(order));
        });
        actions_->serve("rollback",
                        [this](Order order) { return rollouts_->rollback(std::move(order)); });
        actions_->serve("retry",
                        [this](Order order) { return rollouts_->retry(std::move(order)); });
        actions_->serve("migrate",
                        [this](Order order) { return migration_->order(std::move(order)); });
        actions_->serve("reject",
                        [this](Order order) { return approvals_->order(std::move(order)); });
    }
    if (plan_) {
        for (const char* action : {"phase-advance", "phase-pause", "phase-resume"}) {
            actions_->serve(action, [this](Order order) { return plan_->order(std::move(order)); });
        }
    }
    router_ =
        std::make_unique<Router>(config_, *views_, *actions_, *feed_, [this] { return ready_; });
    router_->take_webhooks_with(
        [this](ApiRequest request) { return take_webhook(std::move(request)); });
    if (approvals_) {
        approvals_api_ = std::make_unique<ApprovalsApi>(*approvals_, clock());
        router_->vote_with(
            [this](ApiRequest request) { return approvals_api_->handle(std::move(request)); });
    }
    router_->plan_with([this](const ApiRequest& request) { return plan_of(request); });
    if (check_only || !errors.empty()) {
        co_return errors;
    }
    server_ = std::make_unique<Server>(
        loop_, [this](ApiRequest request) { return router_->handle(std::move(request)); },
        kMaxBody);
    for (const ListenConfig& where : config_.listen) {
        const Expected<void> bound = server_->listen(where);
        if (!bound) {
            errors.push_back(bound.error());
        }
    }
    router_->set_addresses(server_->addresses());
    co_return errors;
}

void Daemon::run_background(std::function<void()> give_up) {
    give_up_ = std::move(give_up);
    Entry started;
    started.at = clock().now();
    started.kind = EntryKind::started;
    started.code = config_.mode == Mode::act ? "act" : "observe";
    started.text = "keeld " KEEL_VERSION;
    ledger_->append(std::move(started));
    for (const std::string& address : server_->addresses()) {
        spdlog::info("listening on {}", address);
    }
    keel::spawn(loop_, run_upkeep());
    if (outside_) {
        keel::spawn(loop_, outside_->run());
    }
    for (const CacheConfig& cache : config_.caches) {
        keel::spawn(loop_, feed_->run(cache.name));
        keel::spawn(loop_, holds_->run(cache.name));
    }
    if (!config_.kubernetes) {
        ready_ = true;
        return;
    }
    keel::spawn(loop_, schedule_->run());
    keel::spawn(loop_, planner_->run());
    keel::spawn(loop_, planner_->run_baseline());
    keel::spawn(loop_, plan_->run());
    keel::spawn(loop_, plan_->run_pods());
    keel::spawn(loop_, stamper_->run());
    if (led_) {
        keel::spawn(loop_, lease_->run([this] { lease_changed(); }));
    }
    make_reflectors();
}

void Daemon::make_reflectors() {
    const std::vector<std::string> everywhere{""};
    const std::vector<std::string>& scopes =
        config_.kubernetes->namespaces.empty() ? everywhere : config_.kubernetes->namespaces;
    for (const std::string& ns : scopes) {
        follow_namespaces(ns);
        for (const WorkloadKind kind : kWorkloadKinds) {
            follow_workloads(kind, ns);
        }
    }
}

void Daemon::follow_workloads(WorkloadKind kind, const std::string& ns) {
    const std::string path = collection_path(kind, ns);
    ReflectorHandlers handlers;
    handlers.begin = [this, kind, ns] { catalogue_->begin(kind, ns); };
    handlers.upsert = [this, kind](const json_t* object) {
        Expected<Workload> workload = decode_workload(kind, object, config_.defaults.restart_key);
        if (workload) {
            catalogue_->upsert(std::move(*workload));
        } else {
            spdlog::warn("{}", workload.error().text);
        }
    };
    handlers.remove = [this, kind](const json_t* object) {
        if (const Expected<Workload> gone =
                decode_workload(kind, object, config_.defaults.restart_key)) {
            catalogue_->remove(gone->key);
        }
    };
    handlers.end = [this, kind, ns, path] {
        catalogue_->end(kind, ns);
        listed_.insert(path);
        collection_listed();
    };
    follow(path, "", std::move(handlers));
}

void Daemon::follow_namespaces(const std::string& only) {
    const std::string path = "/api/v1/namespaces";
    const std::string query = only.empty() ? "" : "fieldSelector=metadata.name%3D" + only;
    ReflectorHandlers handlers;
    handlers.begin = [this, only] { catalogue_->begin_namespaces(only); };
    handlers.upsert = [this](const json_t* object) {
        if (Expected<Namespace> ns = decode_namespace(object)) {
            catalogue_->upsert(std::move(*ns));
        }
    };
    handlers.remove = [this](const json_t* object) {
        if (const Expected<Namespace> gone = decode_namespace(object)) {
            catalogue_->remove_namespace(gone->name);
        }
    };
    handlers.end = [this, only, path] {
        catalogue_->end_namespaces(only);
        listed_.insert(path + only);
        collection_listed();
    };
    follow(path, query, std::move(handlers));
}

void Daemon::follow(const std::string& path, const std::string& query, ReflectorHandlers handlers) {
    const std::string name = query.empty() ? path : path + "?" + query;
    handlers.problem = [this, name](const std::string& text) {
        if (text.empty() || stopping_) {
            cluster_problems_.erase(name);
        } else if (cluster_problems_.insert_or_assign(name, text).second) {
            spdlog::warn("{}: {}", name, text);
        }
    };
    reflectors_.push_back(
        std::make_unique<Reflector>(loop_, *cluster_, path, query, std::move(handlers)));
    keel::spawn(loop_, reflectors_.back()->run());
}

// Ready once every collection has been listed; from then on there are verdicts.
void Daemon::collection_listed() {
    if (ready_ || stopping_ || listed_.size() < reflectors_.size() || !may_begin()) {
        return;
    }
    ready_ = true;
    spdlog::info("ready: {} workloads in {} namespaces", catalogue_->workloads().size(),
                 catalogue_->namespaces().size());
    // Before anything new is offered: what is open in the ledger goes on, each rollout waiting for
    // the Lease by itself.
    rollouts_->recover();
    plan_->start();
    planner_->start();
    stamper_->start();
}

// P8: what the configuration changes against the one before it, which the ledger remembers. The
// very first one is free to observe.
bool Daemon::may_begin() {
    const std::vector<DocumentRow> known = ledger_->documents(kPlanDocument);
    const auto before = std::ranges::find(known, kConfigKey, &DocumentRow::key);
    std::optional<Config> old;
    if (before != known.end()) {
        const Json json = parse_json(before->json);
        ConfigResult parsed = parse_config(std::string(text_of(json.get(), "text")), config_.path);
        old = std::move(parsed.config);
        if (!old) {
            spdlog::warn("the configuration before this one is not understood any more: {}",
                         parsed.errors.front().text);
        }
    }
    const bool first = before == known.end() && config_.mode == Mode::observe;
    // Whoever only observed has moved nothing yet: all that is followed begins to move.
    const bool begins = old && old->mode == Mode::observe && config_.mode == Mode::act;
    const ConfigChange change = planner_->change(old && !begins ? &*old : nullptr, config_);
    const std::string refusal = first ? "" : refusal_of(change, config_);
    if (!refusal.empty() && !yes_) {
        spdlog::error("{}: {}", config_.path, refusal);
        stopping_ = true;
        give_up_();
        return false;
    }
    if (!refusal.empty()) {
        spdlog::warn("{}: {} workloads change, over the limit of {}, as --yes says", config_.path,
                     change.changed, config_.cap);
    }
    if (before == known.end() || !old || old->text != config_.text) {
        remember_config();
    }
    return true;
}

// What the next start is compared with.
void Daemon::remember_config() {
    Json json(json_object());
    json_object_set_new(json.get(), "text", json_text(config_.text));
    ledger_->put(DocumentRow{kPlanDocument, kConfigKey, dump_json(json.get())});
}

// POST /v1/plan.
ApiResponse Daemon::plan_of(const ApiRequest& request) const {
    const ConfigResult next = parse_config(request.body, config_.path);
    if (!next.config) {
        std::string all;
        for (const Error& error : next.errors) {
            all += (all.empty() ? "" : "; ") + error.text;
        }
        return api_error(400, "config", all);
    }
    if (!ready_) {
        return api_error(503, "not-ready", "workloads are not listed yet; ask again");
    }
    const ConfigChange change =
        planner_ ? planner_->change(&config_, *next.config) : ConfigChange{};
    return plan_answer(change, *next.config);
}

void Daemon::lease_changed() {
    const bool another =
        !lease_->remembered_ledger().empty() && lease_->remembered_ledger() != ledger_->id();
    if (another && !config_.ledger_loss_observe) {
        lease_->accept_ledger();
    } else if (another && !ledger_lost_) {
        // A ledger that was lost takes with it what was intended and rejected: nothing is written
        // on its ignorance.
        ledger_lost_ = true;
        config_.mode = Mode::observe;
        spdlog::error("the Lease remembers the ledger {}, this one is {}: keeld only observes",
                      lease_->remembered_ledger(), ledger_->id());
    }
    plan_->look();
    rollouts_->wake_waiting();
}

Task<void> Daemon::run_upkeep() {
    Steady::time_point next_prune = Steady::now();
    Steady::time_point next_sweep = next_prune;
    while (!stopping_) {
        if (ledger_->queued() > 0) {
            const Expected<void> done = co_await ledger_->durable();
            (void)done;  // the ledger keeps it, and Views tell of it
        }
        views_->problems();
        // What was read of credentials is kept for its time, and no longer.
        registry_->authorization().expire();
        key_sources_->expire();
        if (pull_secrets_) {
            pull_secrets_->expire();
        }
        if (approvals_ && ready_ && Steady::now() >= next_sweep) {
            next_sweep = Steady::now() + kSweep;
            approvals_->sweep([this](const Approval& one) { return is_over(one); });
        }
        if (Steady::now() >= next_prune) {
            next_prune = Steady::now() + kPrune;
            ledger_->prune(clock().now() - config_.ledger_keep);
        }
        co_await pause_for(loop_, kUpkeep);
    }
}

// Nothing waits for these votes: the workload is gone, another one, at its target, or due for
// another one. What merely cannot be judged now may be due again.
bool Daemon::is_over(const Approval& one) {
    const Expected<WorkloadKey> key = WorkloadKey::parse(one.workload);
    const CatalogueEntry* entry = key ? catalogue_->find(*key) : nullptr;
    if (entry == nullptr || entry->object.uid != one.uid) {
        return true;
    }
    const WorkloadVerdict verdict = planner_->verdict(*entry);
    const std::vector<Target>& targets = verdict.targets.empty() ? verdict.asks : verdict.targets;
    return verdict.verdict == Verdict::current || verdict.verdict == Verdict::ignore ||
           (!targets.empty() && targets_text(targets) != one.targets);
}

void Daemon::reload() {
    ConfigResult fresh = load_config(config_.path);
    if (!fresh.config) {
        for (const Error& error : fresh.errors) {
            spdlog::error("{}", error.text);
        }
        spdlog::error("{}: not taken, the old configuration stays in force", config_.path);
        config_problem_ = fresh.errors.front().text;
        return;
    }
    Config& next = *fresh.config;
    const std::vector<std::string> restart = keep_what_needs_a_restart(next);
    if (ready_ && planner_) {
        const std::string refusal = refusal_of(planner_->change(&config_, next), next);
        if (!refusal.empty()) {
            spdlog::error("{}: {}; the old configuration stays in force", config_.path, refusal);
            config_problem_ = refusal;
            return;
        }
    }
    config_ = std::move(next);
    config_problem_.clear();
    if (ready_ || !planner_) {
        remember_config();
    }
    registry_->authorization().forget();
    if (planner_) {
        for (const auto& [key, entry] : catalogue_->workloads()) {
            planner_->reconsider(key);
        }
        rollouts_->reconfigured();
        plan_->reconfigured();
        stamper_->reconfigured();
    }
    std::string waits;
    for (const std::string& key : restart) {
        waits += (waits.empty() ? "" : ", ") + key;
    }
    spdlog::info("{}: taken ({})", config_.path,
                 waits.empty() ? "all of it" : "but for what needs a restart: " + waits);
}

// What cannot be taken while keeld runs stays as it is in `next`; the keys that were another.
std::vector<std::string> Daemon::keep_what_needs_a_restart(Config& next) const {
    std::vector<std::string> keys;
    const auto keep = [&keys](const char* key, auto& value, const auto& now) {
        if (!(value == now)) {
            keys.emplace_back(key);
            value = now;
        }
    };
    if (next.mode == Mode::act && config_.mode == Mode::observe && (!led_ || ledger_lost_)) {
        keep("mode", next.mode, config_.mode);
    }
    keep("listen", next.listen, config_.listen);
    keep("ledger.path", next.ledger_path, config_.ledger_path);
    keep("kubernetes", next.kubernetes, config_.kubernetes);
    keep("defaults.restartKey", next.defaults.restart_key, config_.defaults.restart_key);
    const bool same = std::ranges::equal(next.caches, config_.caches, [](auto& one, auto& other) {
        return std::tie(one.name, one.api, one.secret, one.lookup, one.ns) ==
               std::tie(other.name, other.api, other.secret, other.lookup, other.ns);
    });
    if (!same) {
        keys.emplace_back("caches");
        // Which may go through caches that are not there yet.
        keys.emplace_back("registries");
        next.registries = config_.registries;
    }
    next.caches = config_.caches;
    return keys;
}

Task<void> Daemon::stop() {
    stopping_ = true;
    co_await server_->shutdown(kStopGrace);
    feed_->stop();
    holds_->stop();
    if (outside_) {
        outside_->stop();
    }
    if (config_.kubernetes) {
        schedule_->stop();
        planner_->stop();
        plan_->stop();
        stamper_->stop();
        rollouts_->stop();
        restores_->stop();
        for (const std::unique_ptr<Reflector>& reflector : reflectors_) {
            reflector->stop();
        }
        if (led_) {
            lease_->stop();
            co_await lease_->release();
        }
    }
    http_->shutdown();
    const Expected<void> flushed = co_await ledger_->durable();
    if (!flushed) {
        spdlog::error("{}", flushed.error().text);
    }
}

}  // namespace keel
