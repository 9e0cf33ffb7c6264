// kubeconfig files, service accounts and credentials that change.
#include "keeld/cluster/access.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "keeld/cluster/credentials.h"
#include "keeld/cluster/exec_plugin.h"
#include "unit/keeld/peer.h"

namespace keel {
namespace {

using test::await;
using test::run_until;

constexpr char kPem[] =
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";  // not looked into here
constexpr char kPemBase64[] =
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

class ClusterAccessTest : public testing::Test {
  protected:
    ClusterAccessTest() {
        std::string pattern = std::filesystem::temp_directory_path() / "keel-access-XXXXXX";
        folder = mkdtemp(pattern.data());
    }
    ~ClusterAccessTest() override { std::filesystem::remove_all(folder); }

    std::string write(const std::string& name, const std::string& text) {
        std::ofstream{folder + "/" + name} << text;
        return folder + "/" + name;
    }
    // A kubeconfig with these lines in its cluster and its user.
    std::string kubeconfig(const std::string& cluster, const std::string& user) {
        return write("config",
                     "apiVersion: v1\nkind: Config\ncurrent-context: here\n"
                     "contexts:\n- {name: there, context: {cluster: far, user: nobody}}\n"
                     "- {name: here, context: {cluster: c, user: u, namespace: shop}}\n"
                     "clusters:\n- {name: far, cluster: {server: 'https://far:6443/'}}\n"
                     "- name: c\n  cluster:\n    server: https://127.0.0.1:6443\n" +
                         cluster +
                         "users:\n- {name: nobody, user: {token: n}}\n- name: u\n  user:\n    "
                         "x-unknown: 1\n" +
                         user);
    }
    Error error_of(const std::string& path, const std::string& context = {}) {
        const auto access = load_kubeconfig(path, context);
        EXPECT_FALSE(access);
        return access ? Error{} : access.error();
    }

    std::string folder;
};

TEST_F(ClusterAccessTest, FilesAreRelativeToTheKubeconfig) {
    write("ca.crt", kPem);
    write("tls.crt", kPem);
    write("tls.key", kPem);
    write("token", "t\n");
    const auto access = load_kubeconfig(
        kubeconfig("    certificate-authority: ca.crt\n    tls-server-name: api.lan\n"
                   "    proxy-url: http://proxy:3128\n",
                   "    client-certificate: tls.crt\n    client-key: ./tls.key\n"
                   "    tokenFile: token\n    token: weaker\n"));
    ASSERT_TRUE(access) << access.error().text;
    EXPECT_EQ(access->server, "https://127.0.0.1:6443");
    EXPECT_EQ(access->ns, "shop");
    EXPECT_EQ(access->tls.ca_file, folder + "/ca.crt");
    EXPECT_EQ(access->tls.cert_file, folder + "/tls.crt");
    EXPECT_EQ(access->tls.key_file, folder + "/tls.key");
    EXPECT_EQ(access->tls.server_name, "api.lan");
    EXPECT_FALSE(access->tls.insecure);
    EXPECT_EQ(access->token_file, folder + "/token");
    EXPECT_EQ(access->proxy, "http://proxy:3128");
}

TEST_F(ClusterAccessTest, DataIsStrongerThanFiles) {
    const std::string data{kPemBase64};
    const auto access = load_kubeconfig(kubeconfig(
        "    certificate-authority: missing\n    certificate-authority-data: " + data + "\n",
        "    client-certificate-data: " + data + "\n    client-key-data: " + data +
            "\n    username: admin\n    password: 'p:w'\n"));
    ASSERT_TRUE(access) << access.error().text;
    EXPECT_EQ(access->tls.ca_pem, kPem);
    EXPECT_EQ(access->tls.cert_pem, kPem);
    EXPECT_EQ(access->tls.key_pem, kPem);
    EXPECT_EQ(access->username, "admin");
    EXPECT_EQ(access->password, "p:w");
}

TEST_F(ClusterAccessTest, OtherContextsAndInsecure) {
    const std::string path = kubeconfig("    insecure-skip-tls-verify: true\n", "");
    EXPECT_TRUE(load_kubeconfig(path)->tls.insecure);
    const auto there = load_kubeconfig(path, "there");
    ASSERT_TRUE(there) << there.error().text;
    EXPECT_EQ(there->server, "https://far:6443");
    EXPECT_EQ(there->token, "n");
    EXPECT_EQ(there->ns, "");
}

TEST_F(ClusterAccessTest, ExecPlugins) {
    const auto access = load_kubeconfig(kubeconfig("", R"(    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: ./bin/login
      args: [get-token, --cluster, x]
      env: [{name: PROFILE, value: prod}]
      installHint: apt install login
      provideClusterInfo: true
      interactiveMode: IfAvailable
)"));
    ASSERT_TRUE(access) << access.error().text;
    ASSERT_TRUE(access->exec);
    EXPECT_EQ(access->exec->command, folder + "/bin/login");
    EXPECT_EQ(access->exec->args, (std::vector<std::string>{"get-token", "--cluster", "x"}));
    EXPECT_EQ(access->exec->env.at(0), (std::pair<std::string, std::string>{"PROFILE", "prod"}));
    EXPECT_TRUE(access->exec->provide_cluster_info);
}

TEST_F(ClusterAccessTest, E2_MistakesNameFileAndKey) {
    struct Case {
        std::string cluster;
        std::string user;
        std::string expected;
    };
    for (const Case& c : {
             Case{"    certificate-authority: none.crt\n", "",
                  "clusters[1].cluster.certificate-authority names " + folder + "/none.crt"},
             Case{"    certificate-authority-data: '%%%'\n", "",
                  "clusters[1].cluster.certificate-authority-data is no base64"},
             Case{"    certificate-authority-data: aGVsbG8=\n", "", "but of no PEM text"},
             Case{"    insecure-skip-tls-verify: maybe\n", "", "expected true or false"},
             Case{std::string{
                      "    insecure-skip-tls-verify: true\n    certificate-authority-data: "} +
                      kPemBase64 + "\n",
                  "", "keep one of them"},
             Case{"", "    tokenFile: nowhere\n", "users[1].user.tokenFile names"},
             Case{"", "    token: [a]\n", "users[1].user.token is no string"},
             Case{"", std::string{"    client-certificate-data: "} + kPemBase64 + "\n",
                  "users[1].user.client-key is missing"},
             Case{"", "    auth-provider: {name: gcp}\n",
                  "users[1].user.auth-provider is not supported"},
             Case{"", "    as: root\n", "users[1].user.as is not supported"},
             Case{"", "    exec: {apiVersion: client.authentication.k8s.io/v1alpha1, command: x}\n",
                  "users[1].user.exec.apiVersion"},
             Case{"", "    exec: {apiVersion: client.authentication.k8s.io/v1}\n",
                  "users[1].user.exec.command is missing"},
             Case{"",
                  "    exec: {apiVersion: client.authentication.k8s.io/v1, command: x, "
                  "interactiveMode: "
                  "Always}\n",
                  "a daemon has no terminal"},
         }) {
        const std::string path = kubeconfig(c.cluster, c.user);
        const Error error = error_of(path);
        EXPECT_EQ(error.code, "kubeconfig");
        EXPECT_TRUE(error.text.starts_with(path)) << error.text;
        EXPECT_NE(error.text.find(c.expected), std::string::npos) << error.text;
    }
    EXPECT_NE(error_of(kubeconfig("", ""), "elsewhere").text.find("\"elsewhere\""),
              std::string::npos);
    EXPECT_NE(error_of(folder + "/none").text.find("cannot be read"), std::string::npos);
    EXPECT_NE(error_of(folder).text.find("cannot be read"), std::string::npos);
    EXPECT_NE(error_of(write("b", "a: [\n")).text.find("is no YAML"), std::string::npos);
    EXPECT_NE(error_of(write("e", "")).text.find("current-context"), std::string::npos);
    EXPECT_NE(error_of(write("l", "- a\n")).text.find("is no mapping"), std::string::npos);
    EXPECT_NE(
        error_of(write("s", "current-context: a\ncontexts: {}\n")).text.find("contexts is no list"),
        std::string::npos);
    EXPECT_NE(error_of(write("h",
                             "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\n"
                             "clusters: [{name: c, cluster: {server: 'tcp://x'}}]\n"))
                  .text.find("clusters[0].cluster.server"),
              std::string::npos);
}

TEST_F(ClusterAccessTest, ServiceAccountOfAPod) {
    unsetenv("KUBERNETES_SERVICE_HOST");
    const auto none = in_cluster_access(folder);
    ASSERT_FALSE(none);
    EXPECT_NE(none.error().text.find("kubernetes.kubeconfig"), std::string::npos);

    setenv("KUBERNETES_SERVICE_HOST", "fd00::1", 1);
    setenv("KUBERNETES_SERVICE_PORT", "443", 1);
    const auto no_files = in_cluster_access(folder);
    ASSERT_FALSE(no_files);
    EXPECT_NE(no_files.error().text.find(folder + "/token"), std::string::npos);

    write("token", "t");
    write("ca.crt", kPem);
    write("namespace", "keel\n");
    const auto access = in_cluster_access(folder);
    ASSERT_TRUE(access) << access.error().text;
    EXPECT_EQ(access->server, "https://[fd00::1]:443");
    EXPECT_EQ(access->token_file, folder + "/token");
    EXPECT_EQ(access->tls.ca_file, folder + "/ca.crt");
    EXPECT_EQ(access->ns, "keel");
    unsetenv("KUBERNETES_SERVICE_HOST");
    unsetenv("KUBERNETES_SERVICE_PORT");
}

TEST_F(ClusterAccessTest, ATokenFileIsReadAgainWhenItsTokenIsRefused) {
    Loop loop;
    ClusterAccess access;
    access.token_file = write("token", "first\n");
    access.tls.ca_file = write("ca.crt", kPem);
    auto credentials = std::make_shared<Credentials>(loop, access);
    const auto first = await(loop, Credentials::get(credentials));
    ASSERT_TRUE(first) << first.error().text;
    EXPECT_EQ(first->authorization, "Bearer first");
    EXPECT_EQ(first->tls->ca_pem, kPem);
    EXPECT_EQ(first->tls->ca_file, "");
    EXPECT_FALSE(credentials->refused(*first)) << "there is no other one to try";
    EXPECT_EQ(*await(loop, Credentials::get(credentials)), *first);

    write("token", "second");
    EXPECT_EQ(await(loop, Credentials::get(credentials))->authorization, "Bearer first");
    EXPECT_TRUE(credentials->refused(*first));
    EXPECT_EQ(await(loop, Credentials::get(credentials))->authorization, "Bearer second");
    EXPECT_TRUE(credentials->refused(*first)) << "somebody else has refreshed it meanwhile";

    std::filesystem::remove(access.token_file);
    const auto second = await(loop, Credentials::get(credentials));
    EXPECT_FALSE(credentials->refused(*second)) << "away for a moment: the last one stays";
    EXPECT_EQ(await(loop, Credentials::get(credentials))->authorization, "Bearer second");
}

TEST_F(ClusterAccessTest, UnreadableFilesAndBasicAuthentication) {
    Loop loop;
    ClusterAccess access;
    access.token_file = folder + "/none";
    const auto missing = await(loop, Credentials::get(std::make_shared<Credentials>(loop, access)));
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, "credentials");
    EXPECT_NE(missing.error().text.find(folder + "/none"), std::string::npos);
    access.token_file.clear();
    access.username = "Aladdin";
    access.password = "open sesame";
    EXPECT_EQ(
        await(loop, Credentials::get(std::make_shared<Credentials>(loop, access)))->authorization,
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");  // RFC 7617
}

class ExecPluginTest : public ClusterAccessTest {
  protected:
    // A plugin of this shell text.
    ClusterAccess plugin(const std::string& script) {
        const std::string path = write("plugin", "#!/bin/sh\n" + script);
        chmod(path.c_str(), 0755);
        ClusterAccess access;
        access.server = "https://api:6443";
        access.exec.emplace();
        access.exec->api_version = "client.authentication.k8s.io/v1";
        access.exec->command = path;
        return access;
    }
    static std::string credential(const std::string& status) {
        return R"(echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{)" +
               status + "}}'\n";
    }
    int runs() {
        std::ifstream file{folder + "/runs"};
        int count = 0;
        for (std::string line; std::getline(file, line);)
            ++count;
        return count;
    }

    Loop loop;
};

TEST_F(ExecPluginTest, GetsArgumentsEnvironmentAndClusterButNoDescriptors) {
    ClusterAccess access = plugin(
        "echo \"$1 $PROFILE\" > " + folder + "/seen\n" + "echo \"$KUBERNETES_EXEC_INFO\" > " +
        folder + "/info\n" + "ls /proc/self/fd | wc -l > " + folder + "/fds\ncat\n" +
        credential(R"("token":"t","expirationTimestamp":"2030-01-01T00:00:00Z")"));
    access.exec->args = {"one"};
    access.exec->env = {{"PROFILE", "prod"}};
    access.exec->provide_cluster_info = true;
    access.tls.ca_pem = kPem;
    const auto got = await(loop, run_exec_plugin(access));
    ASSERT_TRUE(got) << got.error().text;
    EXPECT_EQ(got->token, "t");
    EXPECT_EQ(got->expires, parse_time("2030-01-01T00:00:00Z"));
    const auto text = [&](const std::string& name) {
        std::ifstream file{folder + "/" + name};
        return std::string{std::istreambuf_iterator<char>{file}, {}};
    };
    EXPECT_EQ(text("seen"), "one prod\n");
    EXPECT_EQ(
        text("info"),
        R"({"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":)"
        R"({"interactive":false,"cluster":{"server":"https://api:6443","certificate-authority-data":")" +
            std::string{kPemBase64} + "\",\"config\":null}}}\n");
    EXPECT_EQ(text("fds"), "4\n");  // the three, and the folder itself
}

TEST_F(ExecPluginTest, FailuresSayWhatThePluginSaid) {
    auto got = await(loop, run_exec_plugin(plugin("echo no session >&2; exit 3\n")));
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code, "credentials");
    EXPECT_NE(got.error().text.find("exit code 3: no session"), std::string::npos)
        << got.error().text;
    got = await(loop, run_exec_plugin(plugin("kill -9 $$\n")));
    EXPECT_NE(got.error().text.find("signal 9"), std::string::npos) << got.error().text;
    got = await(loop, run_exec_plugin(plugin("echo hello\n")));
    EXPECT_NE(got.error().text.find("no ExecCredential"), std::string::npos) << got.error().text;
    ClusterAccess absent = plugin("");
    absent.exec->command = "no-such-plugin-anywhere";
    absent.exec->install_hint = "install it";
    got = await(loop, run_exec_plugin(absent));
    EXPECT_NE(got.error().text.find("No such file"), std::string::npos) << got.error().text;
    EXPECT_NE(got.error().text.find("install it"), std::string::npos) << got.error().text;
}

TEST_F(ExecPluginTest, OutputIsChecked) {
    const std::string v1 = "client.authentication.k8s.io/v1";
    const auto status = [&](const std::string& members) {
        return parse_exec_credential(
            R"({"apiVersion":")" + v1 + R"(","kind":"ExecCredential","status":{)" + members + "}}",
            v1);
    };
    EXPECT_TRUE(status(R"("token":"t")"));
    EXPECT_TRUE(status(R"("clientCertificateData":"c","clientKeyData":"k")"));
    EXPECT_FALSE(status(R"("clientCertificateData":"c")"));
    EXPECT_FALSE(status(""));
    EXPECT_FALSE(status(R"("token":"t","expirationTimestamp":"soon")"));
    EXPECT_FALSE(parse_exec_credential("", v1));
    EXPECT_FALSE(parse_exec_credential(
        R"({"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","status":{"token":"t"}})",
        v1));
}

TEST_F(ExecPluginTest, RunsOnceForAllWhoWaitAndAgainAfterExpiryOrRefusal) {
    const std::string count = "echo run >> " + folder + "/runs\n";
    auto credentials = std::make_shared<Credentials>(
        loop,
        plugin(count + credential(R"("token":"t","expirationTimestamp":"2999-01-01T00:00:00Z")")));
    int ended = 0;
    for (int i = 0; i < 5; ++i) {
        asio::co_spawn(loop, Credentials::get(credentials),
                       [&](const std::exception_ptr&, const Expected<ClusterCredential>& got) {
                           EXPECT_TRUE(got);
                           EXPECT_EQ(got->authorization, "Bearer t");
                           ++ended;
                       });
    }
    ASSERT_TRUE(run_until(loop, [&] { return ended == 5; }));
    EXPECT_EQ(runs(), 1);
    const ClusterCredential used = *await(loop, Credentials::get(credentials));
    EXPECT_EQ(runs(), 1);
    EXPECT_TRUE(credentials->refused(used));
    ASSERT_TRUE(await(loop, Credentials::get(credentials)));
    EXPECT_EQ(runs(), 2);

    auto expiring = std::make_shared<Credentials>(
        loop,
        plugin(count + credential(R"("token":"t","expirationTimestamp":"2020-01-01T00:00:00Z")")));
    ASSERT_TRUE(await(loop, Credentials::get(expiring)));
    ASSERT_TRUE(await(loop, Credentials::get(expiring)));
    EXPECT_EQ(runs(), 4);
}

TEST_F(ExecPluginTest, OneFailureIsToldToAllWhoWait) {
    auto credentials = std::make_shared<Credentials>(
        loop, plugin("echo run >> " + folder + "/runs\necho nope >&2\nexit 1\n"));
    int failed = 0;
    for (int i = 0; i < 5; ++i) {
        asio::co_spawn(loop, Credentials::get(credentials),
                       [&](const std::exception_ptr&, const Expected<ClusterCredential>& got) {
                           EXPECT_FALSE(got);
                           ++failed;
                       });
    }
    ASSERT_TRUE(run_until(loop, [&] { return failed == 5; }));
    EXPECT_EQ(runs(), 1);
}

TEST_F(ExecPluginTest, DiesWithItsLoop) {
    const ClusterAccess access = plugin("echo $$ > " + folder + "/pid.new\nmv " + folder +
                                        "/pid.new " + folder + "/pid\nsleep 600 &\nwait\n");
    auto own = std::make_unique<Loop>();
    asio::co_spawn(*own, run_exec_plugin(access), asio::detached);
    ASSERT_TRUE(run_until(*own, [&] { return std::filesystem::exists(folder + "/pid"); }));
    pid_t pid = 0;
    std::ifstream{folder + "/pid"} >> pid;
    ASSERT_GT(pid, 0);
    EXPECT_EQ(kill(-pid, 0), 0);
    own.reset();
    // The group's leader was reaped; what it had started is the kernel's to bury.
    EXPECT_TRUE(run_until(loop, [&] { return kill(pid, 0) != 0; }));
}

}  // namespace
}  // namespace keel
