// The Kubernetes client, the reflector and the Lease against a real API server. test_client.py
// starts one and runs each of these tests on it, with
//   KEEL_TEST_KUBECONFIG   of an administrator
//   KEEL_TEST_CERTIFICATE  a kubeconfig with a client certificate in files
//   KEEL_TEST_CONTROL      a unix socket: "restart", "stop" or "start" and a line feed is answered
//   by "ok" when done
#include <gtest/gtest.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/read_until.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>

#include "keeld/cluster/client.h"
#include "keeld/cluster/lease.h"
#include "keeld/cluster/objects.h"
#include "keeld/cluster/reflector.h"
#include "keeld/json.h"
#include "unit/keeld/peer.h"

namespace keel {
namespace {

using test::await;
using test::kDeadline;
using test::run_until;

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    if (value == nullptr)
        throw std::runtime_error(std::string{name} + " is not set: run test_client.py");
    return value;
}

std::string unique(const std::string& stem) {
    static std::mt19937_64 random{std::random_device{}()};
    return stem + "-" + std::to_string(random() % 1'000'000'000);
}

ClusterAccess admin() {
    Expected<ClusterAccess> access = load_kubeconfig(environment("KEEL_TEST_KUBECONFIG"));
    if (!access) throw std::runtime_error(access.error().text);
    return std::move(*access);
}

// Tells the one who started the API server to do something with it, while the loop goes on.
Task<std::string> control(std::string command) {
    const auto executor = co_await asio::this_coro::executor;
    asio::local::stream_protocol::socket socket{executor};
    const asio::local::stream_protocol::endpoint where{environment("KEEL_TEST_CONTROL")};
    co_await socket.async_connect(where, asio::use_awaitable);
    command += "\n";
    const auto bytes = asio::buffer(command);
    co_await asio::async_write(socket, bytes, asio::use_awaitable);
    std::string answer;
    auto into = asio::dynamic_buffer(answer);
    co_await asio::async_read_until(socket, into, '\n', asio::use_awaitable);
    co_return answer;
}

std::string deployment(const std::string& ns, const std::string& name) {
    return R"({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":")" + name +
           R"(","namespace":")" + ns +
           R"("},"spec":{"replicas":0,"selector":{"matchLabels":{"app":"a"}},"template":{"metadata":)"
           R"({"labels":{"app":"a"}},"spec":{"initContainers":[{"name":"i","image":"init:1"}],)"
           R"("containers":[{"name":"c","image":"docker.io/library/x:latest"}]}}}})";
}

class ClusterLive : public testing::Test {
  protected:
    ClusterLive() {
        std::string pattern = std::filesystem::temp_directory_path() / "keel-live-XXXXXX";
        folder = mkdtemp(pattern.data());
        create("/api/v1/namespaces",
               R"({"apiVersion":"v1","kind":"Namespace","metadata":{"name":")" + ns + "\"}}");
    }
    ~ClusterLive() override {
        http.shutdown();
        std::filesystem::remove_all(folder);
    }

    std::string collection() const { return collection_path(WorkloadKind::deployment, ns); }
    void create(const std::string& path, const std::string& body) {
        const auto made = await(loop, cluster.create(path, body));
        ASSERT_TRUE(made) << made.error().text;
    }
    // A merge patch of the pod template's annotations; with a resourceVersion in it where one is
    // given.
    Expected<Json> touch(const std::string& name, const std::string& value,
                         const std::string& version = {}) {
        return await(loop, cluster.patch(collection() + "/" + name, "application/merge-patch+json",
                                         patch_body(value, version)));
    }
    static std::string patch_body(const std::string& value, const std::string& version = {}) {
        return R"({"metadata":{)" +
               (version.empty() ? "" : R"("resourceVersion":")" + version + "\"") +
               R"(},"spec":{"template":{"metadata":{"annotations":{"t":")" + value + "\"}}}}}";
    }
    static Workload workload(const json_t* object) {
        const auto decoded = decode_workload(WorkloadKind::deployment, object, "t");
        EXPECT_TRUE(decoded) << decoded.error().text;
        return decoded.value_or(Workload{});
    }
    Expected<std::string> list(ClusterClient::ListOptions options,
                               std::function<void(const json_t*)> each) {
        return await(loop, cluster.list(std::move(options), std::move(each), [] {}));
    }

    std::string ns = unique("live");
    std::string folder;
    Loop loop;
    HttpClient http{loop, "keeld/test"};
    ClusterClient cluster{loop, http, admin()};
};

int open_sockets() {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator{"/proc/self/fd"}) {
        std::error_code gone;
        const auto target = std::filesystem::read_symlink(entry.path(), gone);
        if (target.string().starts_with("socket:")) ++count;
    }
    return count;
}

Task<void> create_some(ClusterClient* cluster, std::string ns, int from, int to, int* left) {
    for (int i = from; i < to; ++i) {
        std::string path = collection_path(WorkloadKind::deployment, ns);
        std::string body = deployment(ns, "d" + std::to_string(i));
        const auto made = co_await cluster->create(std::move(path), std::move(body));
        EXPECT_TRUE(made) << made.error().text;
        --*left;
    }
}

TEST_F(ClusterLive, E1_AThousandDeploymentsInPagesOverOneConnection) {
    constexpr int kCount = 1000;
    constexpr int kAtOnce = 25;
    int left = kCount;
    const int before = open_sockets();  // one connection is there: it made the namespace
    for (int i = 0; i < kAtOnce; ++i) {
        asio::co_spawn(
            loop,
            create_some(&cluster, ns, i * kCount / kAtOnce, (i + 1) * kCount / kAtOnce, &left),
            asio::detached);
    }
    ASSERT_TRUE(run_until(
        loop, [&] { return left == 0; }, std::chrono::seconds{120}));
    EXPECT_EQ(open_sockets(), before) << "25 at once are streams of one connection";
    std::set<std::string> names;
    ClusterClient::ListOptions options;
    options.path = collection();
    const auto version =
        list(options, [&](const json_t* item) { names.insert(workload(item).key.name); });
    ASSERT_TRUE(version) << version.error().text;
    EXPECT_EQ(names.size(), 1000U);
    int metadata = 0;
    options.metadata_only = true;
    options.page = 250;
    ASSERT_TRUE(list(options, [&](const json_t* item) {
        EXPECT_EQ(json_object_get(item, "spec"), nullptr);
        EXPECT_TRUE(decode_identity(item));
        ++metadata;
    }));
    EXPECT_EQ(metadata, 1000);
}

TEST_F(ClusterLive, ReadsWhatTheServerMakesOfADeployment) {
    create(collection(), deployment(ns, "web"));
    const auto got = await(loop, cluster.get(collection() + "/web"));
    ASSERT_TRUE(got) << got.error().text;
    const Workload web = workload(got->get());
    EXPECT_EQ(web.key.to_string(), "Deployment/" + ns + "/web");
    EXPECT_EQ(web.key.path(), collection() + "/web");
    ASSERT_EQ(web.containers.size(), 2U);
    EXPECT_TRUE(web.containers[0].init);
    EXPECT_EQ(web.containers[0].pull, PullPolicy::if_not_present);
    EXPECT_EQ(web.containers[1].image, "docker.io/library/x:latest");
    EXPECT_EQ(web.containers[1].pull, PullPolicy::always);
    EXPECT_EQ(web.replicas, 0);
    EXPECT_EQ(web.progress_deadline, 600);
    EXPECT_EQ(web.selector, "app=a");
    EXPECT_FALSE(web.uid.empty());
}

TEST_F(ClusterLive, O6_AStaleResourceVersionIsAConflictAndChangesNothing) {
    create(collection(), deployment(ns, "web"));
    const auto first = await(loop, cluster.get(collection() + "/web"));
    ASSERT_TRUE(first);
    const Workload old = workload(first->get());
    const auto good = touch("web", "one", old.resource_version);
    ASSERT_TRUE(good) << good.error().text;
    const auto stale = touch("web", "two", old.resource_version);
    ASSERT_FALSE(stale);
    EXPECT_EQ(stale.error().code, "conflict") << stale.error().text;
    const auto now = await(loop, cluster.get(collection() + "/web"));
    ASSERT_TRUE(now);
    EXPECT_EQ(workload(now->get()).marker, "one");
    EXPECT_EQ(workload(now->get()).generation, old.generation + 1);
}

TEST_F(ClusterLive, ErrorsOfTheServerHaveCodes) {
    EXPECT_EQ(await(loop, cluster.get(collection() + "/none")).error().code, "not-found");
    create(collection(), deployment(ns, "web"));
    EXPECT_EQ(await(loop, cluster.create(collection(), deployment(ns, "web"))).error().code,
              "already-exists");
    EXPECT_EQ(await(loop, cluster.create(collection(), deployment(ns, "NotAName"))).error().code,
              "invalid");
    ClusterAccess stranger = admin();
    stranger.token = "nobody";
    ClusterClient other{loop, http, stranger};
    EXPECT_EQ(await(loop, other.get(collection())).error().code, "unauthorized");
}

TEST_F(ClusterLive, E2_TellsWhatItMayDo) {
    EXPECT_EQ(await(loop, cluster.allowed({"patch", "apps", "deployments", ns})), true);
    ClusterAccess limited = admin();
    limited.token = environment("KEEL_TEST_LIMITED_TOKEN");
    ClusterClient other{loop, http, limited};
    EXPECT_EQ(await(loop, other.allowed({"patch", "apps", "deployments", ns})), false);
    const auto refused = await(loop, other.get(collection()));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, "forbidden");
    EXPECT_NE(refused.error().text.find("deployments"), std::string::npos) << refused.error().text;
}

TEST_F(ClusterLive, TheServerIsKnownByItsCertificate) {
    ClusterAccess named = admin();
    named.tls.server_name = "kubernetes.default.svc";
    ClusterClient by_name{loop, http, named};
    const auto right = await(loop, by_name.get("/version"));
    EXPECT_TRUE(right) << right.error().text;
    named.tls.server_name = "elsewhere.invalid";
    ClusterClient elsewhere{loop, http, named};
    const auto wrong = await(loop, elsewhere.get("/version"));
    ASSERT_FALSE(wrong);
    EXPECT_EQ(wrong.error().code, "tls") << wrong.error().text;

    ClusterAccess distrustful = admin();
    distrustful.tls.ca_file.clear();
    distrustful.tls.ca_pem.clear();
    ClusterClient no_ca{loop, http, distrustful};
    EXPECT_EQ(await(loop, no_ca.get("/version")).error().code, "tls");
    distrustful.tls.insecure = true;
    ClusterClient insecure{loop, http, distrustful};
    EXPECT_TRUE(await(loop, insecure.get("/version")));
}

// --- credentials
// -----------------------------------------------------------------------------------

std::string who_am_i(Loop& loop, ClusterClient& cluster) {
    const auto review =
        await(loop, cluster.create("/apis/authentication.k8s.io/v1/selfsubjectreviews",
                                   R"({"apiVersion":"authentication.k8s.io/v1",)"
                                   R"("kind":"SelfSubjectReview"})"));
    if (!review) return review.error().code + ": " + review.error().text;
    const json_t* user = json_object_get(json_object_get(review->get(), "status"), "userInfo");
    return std::string{text_of(user, "username")};
}

TEST_F(ClusterLive, ATokenFileMayRotate) {
    ClusterAccess access = admin();
    access.token_file = folder + "/token";
    std::ofstream{access.token_file} << "expired\n";
    ClusterClient rotating{loop, http, access};
    EXPECT_EQ(who_am_i(loop, rotating).substr(0, 12), "unauthorized");
    std::ofstream{access.token_file} << access.token << "\n";
    EXPECT_EQ(who_am_i(loop, rotating), "admin") << "read again because the old one was refused";
}

TEST_F(ClusterLive, AClientCertificateIsEnough) {
    const auto access = load_kubeconfig(environment("KEEL_TEST_CERTIFICATE"));
    ASSERT_TRUE(access) << access.error().text;
    EXPECT_TRUE(access->token.empty());
    ClusterClient by_files{loop, http, *access};
    EXPECT_EQ(who_am_i(loop, by_files), "certified");
    // The same as texts, which is what *-data in a kubeconfig gives.
    ClusterAccess texts = *access;
    for (const auto& [file, text] : {std::pair{&texts.tls.cert_file, &texts.tls.cert_pem},
                                     std::pair{&texts.tls.key_file, &texts.tls.key_pem},
                                     std::pair{&texts.tls.ca_file, &texts.tls.ca_pem}}) {
        std::ifstream stream{*file};
        text->assign(std::istreambuf_iterator<char>{stream}, {});
        file->clear();
    }
    HttpClient fresh{loop, "keeld/test"};
    ClusterClient by_texts{loop, fresh, texts};
    EXPECT_EQ(who_am_i(loop, by_texts), "certified");
    // The two do not share a connection, on which the server would take one for the other.
    EXPECT_EQ(who_am_i(loop, cluster), "admin");
}

TEST_F(ClusterLive, AnExecPluginIsAskedAgainAfter401) {
    ClusterAccess access = admin();
    const std::string plugin = folder + "/plugin";
    // The first credential is refused, the second one is good.
    std::ofstream{plugin}
        << "#!/bin/sh\necho run >> " << folder << "/runs\n"
        << "if [ $(wc -l < " << folder
        << "/runs) = 1 ]; then token=stale; else token=" << access.token << "; fi\n"
        << R"(echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",)"
        << R"("status":{"token":"'$token'"}}')"
        << "\n";
    chmod(plugin.c_str(), 0755);
    access.token.clear();
    access.exec.emplace();
    access.exec->api_version = "client.authentication.k8s.io/v1";
    access.exec->command = plugin;
    ClusterClient by_plugin{loop, http, access};
    EXPECT_EQ(who_am_i(loop, by_plugin), "admin");
    EXPECT_EQ(who_am_i(loop, by_plugin), "admin");
    std::ifstream runs{folder + "/runs"};
    EXPECT_EQ((std::string{std::istreambuf_iterator<char>{runs}, {}}), "run\nrun\n");
}

// --- watch and reflector
// -----------------------------------------------------------------------------

// A picture of the Deployments of one namespace, and what was told on the way.
struct Picture {
    std::map<std::string, std::string> markers;  // by name
    std::map<std::string, std::string> fresh;    // while listing
    bool listing = false;
    int listings = 0;
    std::vector<std::string> problems;

    ReflectorHandlers handlers() {
        ReflectorHandlers handlers;
        handlers.begin = [this] {
            listing = true;
            fresh.clear();
        };
        handlers.upsert = [this](const json_t* object) {
            const auto decoded = decode_workload(WorkloadKind::deployment, object, "t");
            ASSERT_TRUE(decoded) << decoded.error().text;
            (listing ? fresh : markers)[decoded->key.name] = decoded->marker;
        };
        handlers.remove = [this](const json_t* object) {
            markers.erase(std::string{text_of(json_object_get(object, "metadata"), "name")});
        };
        handlers.end = [this] {
            listing = false;
            ++listings;
            markers.swap(fresh);
        };
        handlers.problem = [this](const std::string& text) { problems.push_back(text); };
        return handlers;
    }
};

TEST_F(ClusterLive, AReflectorSeesWhatChanges) {
    create(collection(), deployment(ns, "a"));
    Picture picture;
    Reflector reflector{loop, cluster, collection(), "", picture.handlers()};
    asio::co_spawn(loop, reflector.run(), asio::detached);
    ASSERT_TRUE(run_until(loop, [&] { return reflector.synced(); }));
    EXPECT_EQ(picture.markers.size(), 1U);
    create(collection(), deployment(ns, "b"));
    ASSERT_TRUE(touch("b", "changed"));
    EXPECT_TRUE(run_until(loop, [&] { return picture.markers["b"] == "changed"; }));
    ClusterClient::Call remove;
    remove.method = "DELETE";
    remove.path = collection() + "/a";
    ASSERT_TRUE(await(loop, cluster.call(remove)));
    EXPECT_TRUE(run_until(loop, [&] { return picture.markers.count("a") == 0; }));
    EXPECT_EQ(picture.listings, 1);
    EXPECT_TRUE(picture.problems.empty());
    reflector.stop();
}

TEST_F(ClusterLive, P7_NothingIsLostOverARestartOfTheApiServer) {
    for (const char* name : {"a", "b", "c"})
        create(collection(), deployment(ns, name));
    Picture picture;
    Reflector reflector{loop, cluster, collection(), "", picture.handlers()};
    asio::co_spawn(loop, reflector.run(), asio::detached);
    ASSERT_TRUE(run_until(loop, [&] { return reflector.synced(); }));

    ASSERT_TRUE(touch("a", "before"));
    ASSERT_EQ(await(loop, control("stop")), "ok\n");
    ASSERT_TRUE(run_until(loop, [&] { return !picture.problems.empty(); }));
    EXPECT_NE(picture.problems.back(), "");
    EXPECT_EQ(touch("b", "lost").error().code, "unreachable");
    ASSERT_EQ(await(loop, control("start")), "ok\n");
    ASSERT_TRUE(touch("b", "after"));
    ClusterClient::Call remove;
    remove.method = "DELETE";
    remove.path = collection() + "/c";
    ASSERT_TRUE(await(loop, cluster.call(remove)));

    const std::map<std::string, std::string> wanted{{"a", "before"}, {"b", "after"}};
    EXPECT_TRUE(run_until(
        loop, [&] { return !picture.listing && picture.markers == wanted; },
        std::chrono::seconds{60}));
    EXPECT_TRUE(run_until(loop, [&] { return picture.problems.back().empty(); }));
    reflector.stop();
}

TEST_F(ClusterLive, P7_AVersionThatTheServerHasForgottenIsListedAnew) {
    create(collection(), deployment(ns, "a"));
    Picture picture;
    Reflector reflector{loop, cluster, collection(), "", picture.handlers()};
    asio::co_spawn(loop, reflector.run(), asio::detached);
    ASSERT_TRUE(run_until(loop, [&] { return reflector.synced(); }));
    // What is watched stays as it is, the rest moves on; a server that has just started knows only
    // what came then.
    for (int i = 0; i < 5; ++i) {
        create("/api/v1/namespaces/" + ns + "/configmaps",
               R"({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m)" +
                   std::to_string(i) + "\"}}");
    }
    ASSERT_EQ(await(loop, control("restart")), "ok\n");
    ASSERT_TRUE(touch("a", "after"));
    EXPECT_TRUE(run_until(
        loop, [&] { return !picture.listing && picture.markers["a"] == "after"; },
        std::chrono::seconds{60}));
    EXPECT_EQ(picture.listings, 2);
    reflector.stop();
}

// --- a network that forgets connections
// --------------------------------------------------------------

// Passes bytes on to the API server until it is told to forget the connections that it has: those
// stay open and acknowledged, but nothing passes any more, as with a load balancer that lost its
// table.
struct Forwarder {
    Loop& loop;
    asio::ip::tcp::endpoint to;
    asio::ip::tcp::acceptor acceptor{loop, {asio::ip::address_v4::loopback(), 0}};
    int accepted = 0;
    int forgotten = 0;  // connections before this number

    static Task<void> pump(Forwarder* self, int number, std::shared_ptr<asio::ip::tcp::socket> from,
                           std::shared_ptr<asio::ip::tcp::socket> into) {
        std::array<char, 16384> block{};
        for (;;) {
            const auto space = asio::buffer(block);
            const auto [error, size] =
                co_await from->async_read_some(space, asio::as_tuple(asio::use_awaitable));
            if (error) break;
            if (number < self->forgotten) continue;
            const auto bytes = asio::buffer(block.data(), size);
            co_await asio::async_write(*into, bytes, asio::as_tuple(asio::use_awaitable));
        }
        into->close();
    }
    static Task<void> accept(Forwarder* self) {
        for (;;) {
            auto [error, socket] =
                co_await self->acceptor.async_accept(asio::as_tuple(asio::use_awaitable));
            if (error) co_return;
            auto here = std::make_shared<asio::ip::tcp::socket>(std::move(socket));
            auto there = std::make_shared<asio::ip::tcp::socket>(self->loop);
            const asio::ip::tcp::endpoint target = self->to;
            co_await there->async_connect(target, asio::as_tuple(asio::use_awaitable));
            const int number = self->accepted++;
            asio::co_spawn(self->loop, pump(self, number, here, there), asio::detached);
            asio::co_spawn(self->loop, pump(self, number, there, here), asio::detached);
        }
    }
};

TEST_F(ClusterLive, AConnectionThatNobodyAnswersOnIsReplacedForEverybody) {
    ClusterAccess access = admin();
    const auto port =
        static_cast<unsigned short>(std::stoi(access.server.substr(access.server.rfind(':') + 1)));
    Forwarder forwarder{loop, {asio::ip::address_v4::loopback(), port}};
    asio::co_spawn(loop, Forwarder::accept(&forwarder), asio::detached);
    access.server =
        "https://127.0.0.1:" + std::to_string(forwarder.acceptor.local_endpoint().port());
    HttpClient own{loop, "keeld/test"};
    ClusterClient through{loop, own, access};
    create(collection(), deployment(ns, "a"));
    Picture picture;
    Reflector reflector{loop, through, collection(), "", picture.handlers()};
    asio::co_spawn(loop, reflector.run(), asio::detached);
    ASSERT_TRUE(run_until(loop, [&] { return reflector.synced(); }));
    ASSERT_TRUE(await(loop, through.get("/version")));
    EXPECT_EQ(forwarder.accepted, 1) << "one connection carries the watch and the rest";

    forwarder.forgotten = forwarder.accepted;
    ClusterClient::Call version;
    version.path = "/version";
    version.timeout = std::chrono::seconds{6};
    const auto dead = await(loop, through.call(version));
    ASSERT_FALSE(dead);
    EXPECT_EQ(dead.error().code, "timeout");
    const auto again = await(loop, through.call(version));
    EXPECT_TRUE(again) << again.error().text;
    ASSERT_TRUE(touch("a", "after"));
    EXPECT_TRUE(run_until(loop, [&] { return picture.markers["a"] == "after"; }))
        << "the watch that lay on the dead connection goes on elsewhere";
    EXPECT_EQ(forwarder.accepted, 2);
    reflector.stop();
    own.shutdown();
    forwarder.acceptor.close();
}

// --- the Lease
// ---------------------------------------------------------------------------------------

class LeaseLive : public ClusterLive {
  protected:
    LeaseOptions options(const std::string& identity, const std::string& ledger) {
        LeaseOptions options;
        options.ns = ns;
        options.name = "keeld";
        options.identity = identity;
        options.ledger_id = ledger;
        options.duration = std::chrono::seconds{5};
        options.renew = std::chrono::seconds{1};
        return options;
    }
    // One holder that can die (no release) or retire.
    struct Holder {
        Holder(LeaseLive& test, const LeaseOptions& options)
            : loop(test.loop), client(test.loop, http, admin()), lease(test.loop, client, options) {
            asio::co_spawn(loop, lease.run([this] { ++changes; }),
                           [this](const std::exception_ptr& thrown) {
                               EXPECT_FALSE(thrown);
                               ended = true;
                           });
        }
        ~Holder() { die(); }
        void die() {
            lease.stop();
            EXPECT_TRUE(run_until(loop, [this] { return ended; }));
        }
        bool wait_until_held(std::chrono::milliseconds deadline = kDeadline) {
            return run_until(
                loop, [this] { return lease.held(); }, deadline);
        }

        Loop& loop;
        HttpClient http{loop, "keeld/test"};
        ClusterClient client;
        Lease lease;
        int changes = 0;
        bool ended = false;
    };
    Json spec() {
        const auto got = await(
            loop, cluster.get("/apis/coordination.k8s.io/v1/namespaces/" + ns + "/leases/keeld"));
        EXPECT_TRUE(got) << got.error().text;
        return Json{json_incref(json_object_get(got->get(), "spec"))};
    }
};

TEST_F(LeaseLive, IsCreatedRenewedAndGivenBack) {
    Holder holder{*this, options("one", "L1")};
    ASSERT_TRUE(holder.wait_until_held());
    EXPECT_EQ(holder.lease.remembered_ledger(), "");
    EXPECT_EQ(holder.lease.holder(), "one");
    EXPECT_EQ(holder.lease.problem(), "");
    EXPECT_EQ(holder.changes, 1);
    const Json first = spec();
    EXPECT_EQ(text_of(first.get(), "holderIdentity"), "one");
    EXPECT_TRUE(run_until(loop, [&] {
        return text_of(spec().get(), "renewTime") != text_of(first.get(), "renewTime");
    }));
    EXPECT_EQ(text_of(spec().get(), "acquireTime"), text_of(first.get(), "acquireTime"));
    EXPECT_EQ(holder.changes, 1);

    holder.lease.stop();
    await(loop, holder.lease.release());
    EXPECT_FALSE(holder.lease.held());
    EXPECT_EQ(holder.changes, 2);
    EXPECT_EQ(text_of(spec().get(), "holderIdentity"), "");

    Holder next{*this, options("two", "L1")};
    ASSERT_TRUE(next.wait_until_held(std::chrono::seconds{3})) << "a free Lease is taken at once";
    EXPECT_EQ(next.lease.remembered_ledger(), "L1");
    EXPECT_EQ(json_integer_value(json_object_get(spec().get(), "leaseTransitions")), 1);
}

TEST_F(LeaseLive, ALiveHolderIsWaitedForAndADeadOneReplaced) {
    Holder first{*this, options("one", "L1")};
    ASSERT_TRUE(first.wait_until_held());
    Holder second{*this, options("two", "L2")};
    ASSERT_TRUE(run_until(loop, [&] { return second.lease.known(); }));
    // As long as the first one renews, for longer than the duration, nothing changes hands.
    const auto begun = Steady::now();
    run_until(loop, [&] {
        return second.lease.held() || Steady::now() - begun > std::chrono::seconds{7};
    });
    EXPECT_FALSE(second.lease.held());
    EXPECT_TRUE(first.lease.held());
    EXPECT_EQ(second.lease.holder(), "one");
    EXPECT_EQ(second.lease.problem(), "");

    first.die();
    const auto died = Steady::now();
    ASSERT_TRUE(second.wait_until_held());
    EXPECT_FALSE(first.lease.held()) << "there are never two";
    EXPECT_GE(Steady::now() - died, std::chrono::seconds{4});  // since the last renewal: 5 s
    EXPECT_EQ(second.lease.remembered_ledger(), "L1");
    EXPECT_EQ(json_integer_value(json_object_get(spec().get(), "leaseTransitions")), 1);
}

TEST_F(LeaseLive, ARestartOverTheSameLedgerGoesOnAtOnce) {
    std::string acquired;
    {
        Holder first{*this, options("host_L1", "L1")};
        ASSERT_TRUE(first.wait_until_held());
        acquired = text_of(spec().get(), "acquireTime");
    }
    Holder again{*this, options("host_L1", "L1")};
    ASSERT_TRUE(again.wait_until_held(std::chrono::seconds{3}));
    EXPECT_EQ(again.lease.remembered_ledger(), "L1");
    EXPECT_EQ(text_of(spec().get(), "acquireTime"), acquired);
    EXPECT_EQ(json_integer_value(json_object_get(spec().get(), "leaseTransitions")), 0);
}

TEST_F(LeaseLive, ALostLedgerIsRememberedUntilAnotherIsAccepted) {
    {
        Holder first{*this, options("host_L1", "L1")};
        ASSERT_TRUE(first.wait_until_held());
        first.lease.stop();
        await(loop, first.lease.release());
    }
    for (int restart = 0; restart < 2; ++restart) {
        Holder other{*this, options("host_L2", "L2")};
        ASSERT_TRUE(other.wait_until_held(std::chrono::seconds{3}));
        EXPECT_EQ(other.lease.remembered_ledger(), "L1");
    }
    {
        Holder other{*this, options("host_L2", "L2")};
        ASSERT_TRUE(other.wait_until_held(std::chrono::seconds{3}));
        other.lease.accept_ledger();
        const Json before = spec();
        ASSERT_TRUE(run_until(loop, [&] {
            return text_of(spec().get(), "renewTime") != text_of(before.get(), "renewTime");
        }));
    }
    Holder last{*this, options("host_L2", "L2")};
    ASSERT_TRUE(last.wait_until_held(std::chrono::seconds{3}));
    EXPECT_EQ(last.lease.remembered_ledger(), "L2");
}

TEST_F(LeaseLive, NotHeldAnyMoreWhenTheRenewDeadlinePasses) {
    Holder holder{*this, options("one", "L1")};
    ASSERT_TRUE(holder.wait_until_held());
    ASSERT_EQ(await(loop, control("stop")), "ok\n");
    const int before = holder.changes;
    EXPECT_TRUE(run_until(loop, [&] { return holder.changes > before; }));
    EXPECT_FALSE(holder.lease.held());
    EXPECT_TRUE(run_until(loop, [&] { return !holder.lease.problem().empty(); }));
    EXPECT_NE(holder.lease.problem().find("Lease " + ns + "/keeld"), std::string::npos)
        << holder.lease.problem();
    ASSERT_EQ(await(loop, control("start")), "ok\n");
    EXPECT_TRUE(holder.wait_until_held());
    EXPECT_TRUE(run_until(loop, [&] { return holder.lease.problem().empty(); }));
}

TEST_F(LeaseLive, MissingRightsAndNamespacesAreToldByName) {
    LeaseOptions nowhere = options("one", "L1");
    nowhere.ns = "no-such-namespace";
    Holder holder{*this, nowhere};
    ASSERT_TRUE(run_until(loop, [&] { return !holder.lease.problem().empty(); }));
    EXPECT_NE(holder.lease.problem().find("no-such-namespace"), std::string::npos)
        << holder.lease.problem();
    EXPECT_FALSE(holder.lease.held());
}

}  // namespace
}  // namespace keel
