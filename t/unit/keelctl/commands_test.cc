// keelctl against the real HTTP server, which answers what keeld would: output, paging, exit codes,
// errors.
#include "keelctl/commands.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "keelctl/json.h"
#include "keeld/api/server.h"

namespace keel::ctl {
namespace {

const std::string kOld = "sha256:" + std::string(64, 'a');
const std::string kNew = "sha256:" + std::string(64, 'b');

std::string entry(int seq) {
    const std::string number = std::to_string(seq);
    return R"({"seq":")" + number + R"(","at":"2026-11-22T11:00:)" + (seq < 10 ? "0" : "") +
           number +
           R"(.000Z","kind":"applied","workload":"Deployment/website/blog","container":"app","tag":null,"from":")" +
           kOld + R"(","to":")" + kNew +
           R"(","rollout":"r1","code":"done","cause":"event cache-a","text":"line )" + number +
           R"("})";
}

const std::string kWorkload =
    R"({"workload":"Deployment/website/blog","uid":"u","enrolled_by":"namespace label",
"verdict":"roll","reason":"digest-moved","sentence":"The tag moved.","next":"awaiting-pacing: later",
"containers":[{"name":"app","init":false,"reference":"redis:8","tag":"docker.io/library/redis:8",
"running":[{"digest":")" +
    kOld + R"(","pods":2,"platform":"linux/amd64","since":"2026-11-22T11:00:00.000Z"}],
"verdict":"roll","reason":"digest-moved","sentence":"It moved.","target":{"name":"8","digest":")" +
    kNew + R"("},"newest":{"name":"8","digest":")" + kNew + R"(","seen":"2026-11-22T11:30:00.000Z"},
"allowed":{"name":"8.2","digest":null,"seen":null},
"list":{"read":null,"names":3,"complete":true,"failure":null,"unordered":{"count":2,"names":["8_x"]}},
"settings":{"policy":{"value":"force","layer":"default","overridden":[{"value":"never","layer":"phase"}]},
"trigger":{"value":"all","layer":"default","overridden":[]},"step":{"value":"next","layer":"workload label","overridden":[]},
"faults":["keel.sh/pollSchedule: no"]},
"freshness":{"confirmed":"2026-11-22T11:59:00.000Z","by":"cache-a","failure":null}}],
"rollout":{"id":"r1","workload":"Deployment/website/blog","state":"waiting","reason":"awaiting-pacing","text":"waits",
"targets":[{"container":"app","tag":"docker.io/library/redis:8","from":")" +
    kOld + R"(","to":")" + kNew +
    R"("}],"created":"2026-11-22T11:59:30.000Z","intended":null,"applied":null,"ended":null,"cause":"event cache-a"},
"gates":[{"gate":"awaiting-pacing","open":false,"until":"2026-11-22T12:30:00.000Z","text":"5 of 5 used"}]})";

const std::string kStatus =
    R"({"mode":"act","version":"0.1.0","ready":true,"leader":{"held":true,"holder":"a_b"},
"caches":[{"name":"cache-a","seq":"7","last_event":"2026-11-22T11:59:00.000Z","problem":null}],
"registries":{"docker.io":{"through":"cache-a","ways":[{"by":"look-up cache-a","requests":"812","pulls":"9",
"postponed":"3","failures":"0","circuit":"closed","rate_limit":{"limit":100,"remaining":20,"window":"6h"},
"waits":{"code":"rate-limited","until":"2026-11-22T12:30:00.000Z","pulls_only":true}}]},"quay.io":{"ways":[]}},
"pacing":{"cluster":"5 per 1h","used":1},"problems":[PROBLEMS]})";

class CommandsTest : public testing::Test {
  protected:
    CommandsTest() {
        std::string pattern = (std::filesystem::temp_directory_path() / "keelctl-XXXXXX").string();
        directory_ = ::mkdtemp(pattern.data());
        socket_ = "unix:" + (directory_ / "keeld.sock").string();
        environment_.server = socket_;
        environment_.now = [] { return *parse_time("2026-11-22T12:00:00Z"); };
        environment_.pause = [] { return false; };
        ApiHandler handler = [this](ApiRequest request) { return handle(std::move(request)); };
        server_ = std::make_unique<Server>(loop_, handler, 1000);
        for (const std::string& address : {socket_, std::string("127.0.0.1:0")}) {
            ListenConfig config;
            config.at = address;
            const auto bound = server_->listen(config);
            EXPECT_TRUE(bound.has_value());
        }
        tcp_ = "http://" + server_->addresses().back();
        thread_ = std::thread([this] { loop_.run(); });
    }
    ~CommandsTest() override {
        loop_.stop();
        thread_.join();
        server_.reset();
        std::error_code ignored;
        std::filesystem::remove_all(directory_, ignored);
    }

    Task<ApiResponse> handle(ApiRequest request) {
        const std::lock_guard<std::mutex> guard(mutex_);
        std::string asked = request.path;
        char separator = '?';
        for (const auto& [name, value] : request.query) {
            asked += separator + name + "=" + value;
            separator = '&';
        }
        asked_.push_back(asked);
        if (request.method == "POST") posted_ = request.body;
        ApiResponse response;
        if (request.path == "/v1/ledger") {
            response.body = ledger(request);
            co_return response;
        }
        const auto found = answers_.find(request.path);
        if (found == answers_.end())
            co_return api_error(404, "not-found", request.path + " is not here");
        response.status = found->second.first;
        response.body = found->second.second;
        co_return response;
    }

    // The ledger, as keeld pages it, with at most three entries a page.
    std::string ledger(const ApiRequest& request) const {
        int before = entries_ + 1;
        int limit = 100;
        const auto number = [&](std::string_view name, int& value) {
            const auto text = request.parameter(name);
            if (text) std::from_chars(text->data(), text->data() + text->size(), value);
        };
        number("after", before);
        number("limit", limit);
        limit = std::min(limit, 3);
        std::string items;
        int seq = before - 1;
        for (; seq > 0 && seq >= before - limit; --seq)
            items += (items.empty() ? "" : ",") + entry(seq);
        const std::string next = seq > 0 ? "\"" + std::to_string(seq + 1) + "\"" : "null";
        return R"({"items":[)" + items + R"(],"next":)" + next + "}";
    }

    void answer(const std::string& path, const std::string& body, int status = 200) {
        const std::lock_guard<std::mutex> guard(mutex_);
        answers_[path] = {status, body};
    }

    int run(std::vector<std::string> words) {
        words.insert(words.begin(), "keelctl");
        std::vector<const char*> pointers;
        for (const std::string& word : words)
            pointers.push_back(word.c_str());
        std::ostringstream out;
        std::ostringstream err;
        const int code =
            ctl::run(static_cast<int>(pointers.size()), pointers.data(), environment_, out, err);
        out_ = out.str();
        err_ = err.str();
        return code;
    }

    [[nodiscard]] bool out_has(const std::string& text) const {
        return out_.find(text) != std::string::npos;
    }
    [[nodiscard]] bool err_has(const std::string& text) const {
        return err_.find(text) != std::string::npos;
    }
    [[nodiscard]] static std::string status(const std::string& problems) {
        std::string text = kStatus;
        return text.replace(text.find("PROBLEMS"), 8, problems);
    }

    Loop loop_;
    std::filesystem::path directory_;
    std::string socket_;
    std::string tcp_;
    std::unique_ptr<Server> server_;
    std::thread thread_;
    std::mutex mutex_;
    std::map<std::string, std::pair<int, std::string>> answers_;
    std::vector<std::string> asked_;
    std::string posted_;  // the last body
    int entries_ = 8;
    Environment environment_;
    std::string out_;
    std::string err_;
};

TEST_F(CommandsTest, StatusIsFineWithoutProblems) {
    answer("/v1/status", status(""));
    EXPECT_EQ(run({"status"}), kFine);
    EXPECT_EQ(err_, "");
    EXPECT_TRUE(out_has("mode        act\n")) << out_;
    EXPECT_TRUE(out_has("ready       yes\n"));
    EXPECT_TRUE(out_has("leader      held yes, holder a_b\n"));
    EXPECT_TRUE(
        out_has("caches      name cache-a, seq 7, last event 2026-11-22 11:59:00Z (1m ago)\n"))
        << out_;
    EXPECT_TRUE(
        out_has("registries  docker.io (look-up cache-a): 812 requests, 9 pulls, 3 postponed; "
                "20 of 100 left per 6h; rate-limited (pulls) until 2026-11-22 12:30:00Z"))
        << out_;
    EXPECT_TRUE(out_has("            quay.io: not asked yet\n"));
    EXPECT_TRUE(out_.ends_with("no problems\n"));
}

TEST_F(CommandsTest, StatusWithProblemsNeedsAttention) {
    answer(
        "/v1/status",
        status(
            R"({"code":"not-leader","text":"held by another","since":"2026-11-22T11:00:00Z","next":"wait"})"));
    EXPECT_EQ(run({"status"}), kAttention);
    EXPECT_TRUE(
        out_.ends_with("1 problem\n"
                       "  not-leader  held by another\n"
                       "    since 2026-11-22 11:00:00Z (1h ago)\n"
                       "    next: wait\n"))
        << out_;
    EXPECT_EQ(run({"-o", "json", "status"}), kAttention);
    EXPECT_TRUE(out_has("\"not-leader\""));
}

TEST_F(CommandsTest, WhyTellsEverythingAboutOneWorkload) {
    answer("/v1/workloads/Deployment/website/blog", kWorkload);
    EXPECT_EQ(run({"why", "Deployment/website/blog"}), kFine);
    EXPECT_EQ(out_,
              "Deployment/website/blog: roll (digest-moved)\n"
              "  because      The tag moved.\n"
              "  next         awaiting-pacing: later\n"
              "  enrolled by  namespace label\n"
              "containers\n"
              "  app: roll (digest-moved)\n"
              "    because    It moved.\n"
              "    reference  redis:8\n"
              "    tag        docker.io/library/redis:8\n"
              "    running    sha256:aaaaaaaaaaaa in 2 pods, as of 2026-11-22 11:00:00Z (1h ago)\n"
              "    target     8 at sha256:bbbbbbbbbbbb\n"
              "    newest     8 at sha256:bbbbbbbbbbbb, seen 2026-11-22 11:30:00Z (30m ago)\n"
              "    allowed    8.2\n"
              "    no order   2 tags: 8_x …\n"
              "    policy     force, from default; overrides never of phase\n"
              "    step       next, from workload label\n"
              "    fault      keel.sh/pollSchedule: no\n"
              "    freshness  confirmed 2026-11-22 11:59:00Z (1m ago) by cache-a\n"
              "rollout r1: waiting (awaiting-pacing)\n"
              "    text     waits\n"
              "    targets  app: sha256:aaaaaaaaaaaa → sha256:bbbbbbbbbbbb\n"
              "    cause    event cache-a\n"
              "    created  2026-11-22 11:59:30Z (30s ago)\n"
              "gates\n"
              "  awaiting-pacing  closed  5 of 5 used; until 2026-11-22 12:30:00Z (in 30m)\n");
    EXPECT_EQ(run({"--wide", "why", "deploy/website/blog"}), kFine);
    EXPECT_TRUE(out_has(kOld + " in 2 pods"));
}

TEST_F(CommandsTest, WhyIsAttentionWhereBlockedOrUnknown) {
    answer(
        "/v1/workloads/StatefulSet/db/main",
        R"({"workload":"StatefulSet/db/main","verdict":"blocked","reason":"stateful","containers":[]})");
    EXPECT_EQ(run({"why", "sts/db/main"}), kAttention);
    EXPECT_TRUE(out_has("StatefulSet/db/main: blocked (stateful)"));
    EXPECT_EQ(run({"why", "CronJob/a/b"}), kAttention);
    EXPECT_EQ(out_, "");
    EXPECT_EQ(err_, "keelctl: /v1/workloads/CronJob/a/b is not here\n");
    EXPECT_EQ(run({"why", "ds/a b/%2f"}), kAttention);
    EXPECT_EQ(asked_.back(), "/v1/workloads/DaemonSet/a b/%2f");  // escaped on its way
}

TEST_F(CommandsTest, JsonIsTheServersOwnObject) {
    answer("/v1/workloads/Deployment/website/blog", kWorkload);
    EXPECT_EQ(run({"-o", "json", "why", "Deployment/website/blog"}), kFine);
    EXPECT_EQ(out_, kWorkload + "\n");
    EXPECT_EQ(run({"why", "Deployment/website/blog", "-o", "json"}), kFine);  // in either place
    EXPECT_EQ(out_, kWorkload + "\n");
}

TEST_F(CommandsTest, WorkloadsPassTheirFiltersOn) {
    answer(
        "/v1/workloads",
        R"({"items":[{"workload":"Deployment/website/blog","uid":"u","enrolled_by":null,"verdict":"blocked",)"
        R"("reason":"pinned","containers":[{"name":"app","reference":"redis:8@sha256:x"}]}],"next":null})");
    EXPECT_EQ(run({"workloads", "-n", "website", "--verdict", "blocked", "--reason", "pinned"}),
              kFine);
    EXPECT_EQ(asked_.back(),
              "/v1/workloads?namespace=website&verdict=blocked&reason=pinned&limit=1000");
    EXPECT_EQ(out_,
              "WORKLOAD                 VERDICT  REASON  ENROLLED BY  IMAGES\n"
              "Deployment/website/blog  blocked  pinned  -            redis:8@sha256:x\n");
    environment_.colours = true;
    EXPECT_EQ(run({"workloads"}), kFine);
    EXPECT_TRUE(out_has("\x1b[31mblocked\x1b[0m  pinned")) << out_;
}

TEST_F(CommandsTest, TagsShowWhatIsNotSettled) {
    answer(
        "/v1/tags",
        R"({"items":[{"tag":"docker.io/library/redis:8","digest":")" + kNew +
            R"(","kind":"index","since":"2026-11-22T11:00:00Z","pending":")" + kOld +
            R"(","confirmed":"2026-11-22T11:59:00Z","confirmed_by":"cache-a","failure":"timeout",)"
            R"("workloads":["a","b"]}],"next":null})");
    EXPECT_EQ(run({"tags"}), kFine);
    EXPECT_EQ(out_,
              "TAG                        DIGEST               KIND   SINCE  CONFIRMED  BY       "
              "WORKLOADS  REMARK\n"
              "docker.io/library/redis:8  sha256:bbbbbbbbbbbb  index  1h     1m         cache-a  2 "
              "         going back "
              "to sha256:aaaaaaaaaaaa, unconfirmed; timeout\n");
}

TEST_F(CommandsTest, RolloutsShowTheirTargets) {
    answer(
        "/v1/rollouts",
        R"({"items":[{"id":"r1","workload":"Deployment/website/blog","state":"done","reason":null,"targets":)"
        R"([{"container":"app","tag":"t","from":")" +
            kOld + R"(","to":")" + kNew + R"("}],"created":"2026-11-22T11:00:00Z"}],"next":null})");
    EXPECT_EQ(run({"rollouts", "deployment/website/blog"}), kFine);
    EXPECT_EQ(asked_.back(), "/v1/rollouts?workload=Deployment/website/blog&limit=50");
    EXPECT_TRUE(out_has(
        "2026-11-22 11:00:00.000Z  1h   r1       Deployment/website/blog  done   -       app: "
        "sha256:aaaaaaaaaaaa → sha256:bbbbbbbbbbbb\n"))
        << out_;
}

TEST_F(CommandsTest, RolloutsShowTheImagesThatTheyWrite) {
    answer(
        "/v1/rollouts",
        R"({"items":[{"id":"r1","workload":"Deployment/website/blog","state":"done","reason":null,"targets":)"
        R"([{"container":"app","tag":"t","from_image":"redis:8.1","image":"redis:8.2","from":")" +
            kOld + R"(","to":")" + kNew + R"("}],"created":"2026-11-22T11:00:00Z"}],"next":null})");
    EXPECT_EQ(run({"rollouts", "deployment/website/blog"}), kFine);
    EXPECT_TRUE(out_has("app: redis:8.1 → redis:8.2 (sha256:aaaaaaaaaaaa → sha256:bbbbbbbbbbbb)\n"))
        << out_;
}

TEST_F(CommandsTest, D7_HistoryFollowsThePagesAndEndsWithTheNewest) {
    EXPECT_EQ(run({"history", "--limit", "0"}), kFine);
    EXPECT_EQ(asked_.size(), 3U);
    std::size_t place = 0;
    for (int seq = 1; seq <= 8; ++seq) {
        const auto found = out_.find("line " + std::to_string(seq) + "\n");
        ASSERT_NE(found, std::string::npos) << seq << out_;
        EXPECT_GT(found, place);
        place = found;
    }
    EXPECT_TRUE(out_has("AT ")) << out_;
    EXPECT_TRUE(out_has("Deployment/website/blog app"));
    EXPECT_EQ(run({"history", "--limit", "4"}), kFine);
    EXPECT_FALSE(out_has("line 4\n"));
    EXPECT_TRUE(out_has("line 5\n"));
}

TEST_F(CommandsTest, JsonListsAreJoined) {
    EXPECT_EQ(run({"history", "--limit", "0", "-o", "json"}), kFine);
    const Json root(json_loads(out_.c_str(), 0, nullptr));
    const json_t* items = json_object_get(root.get(), "items");
    ASSERT_EQ(json_array_size(items), 8U) << out_;
    EXPECT_EQ(text_of(json_array_get(items, 0), "seq"), "8");  // newest first, as the server has it
    EXPECT_TRUE(json_is_null(json_object_get(root.get(), "next")));
    EXPECT_EQ(dump(json_array_get(items, 7)), entry(1));
    EXPECT_EQ(run({"history", "--limit", "4", "-o", "json"}), kFine);
    const Json part(json_loads(out_.c_str(), 0, nullptr));
    EXPECT_EQ(json_array_size(json_object_get(part.get(), "items")), 4U);
    EXPECT_EQ(text_of(part.get(), "next"), "5");  // something was left out
}

TEST_F(CommandsTest, HistoryPassesItsFiltersOn) {
    EXPECT_EQ(run({"history", "deploy/website/blog", "--since", "2h", "--kind", "applied",
                   "--limit", "2"}),
              kFine);
    EXPECT_EQ(asked_.back(),
              "/v1/ledger?kind=applied&workload=Deployment/website/"
              "blog&since=2026-11-22T10:00:00.000Z&limit=2");
    EXPECT_EQ(run({"history", "--since", "2026-11-22T12:00:00+02:00"}), kFine);
    EXPECT_NE(std::find(asked_.begin(), asked_.end(),
                        "/v1/ledger?since=2026-11-22T10:00:00.000Z&limit=50"),
              asked_.end());
    EXPECT_EQ(run({"history", "--since", "yesterday"}), kUnknown);
    EXPECT_TRUE(err_has("--since: \"yesterday\" is neither a time")) << err_;
}

TEST_F(CommandsTest, FollowPrintsEachEntryOnce) {
    entries_ = 2;
    int looks = 0;
    environment_.pause = [&] {
        const std::lock_guard<std::mutex> guard(mutex_);
        entries_ += looks == 1 ? 5 : 0;  // more than a page, after a look that found nothing
        return ++looks < 4;
    };
    EXPECT_EQ(run({"history", "--follow"}), kFine);
    std::size_t place = 0;
    for (int seq = 1; seq <= 7; ++seq) {
        const std::string line = "line " + std::to_string(seq) + "\n";
        const auto found = out_.find(line);
        ASSERT_NE(found, std::string::npos) << out_;
        EXPECT_GT(found, place);
        EXPECT_EQ(out_.find(line, found + 1), std::string::npos) << out_;
        place = found;
    }
    entries_ = 2;
    looks = 3;
    EXPECT_EQ(run({"history", "--follow", "-o", "json"}), kFine);
    EXPECT_EQ(out_, entry(1) + "\n" + entry(2) + "\n");
}

// --- when there is no answer ---

TEST_F(CommandsTest, E2_NoKeeldIsToldWithItsPlace) {
    const std::string missing = "unix:" + (directory_ / "none.sock").string();
    EXPECT_EQ(run({"--server", missing, "status"}), kUnknown);
    EXPECT_EQ(out_, "");
    EXPECT_EQ(err_, "keelctl: no keeld answers at " + missing +
                        ": No such file or directory; is it running? If it listens elsewhere, name "
                        "that with --server "
                        "or KEELD_URL (unix:/PATH or http://HOST:PORT)\n");
    EXPECT_EQ(run({"--server", "http://127.0.0.1:1", "status"}), kUnknown);
    EXPECT_TRUE(err_has("no keeld answers at http://127.0.0.1:1: Connection refused")) << err_;
    EXPECT_EQ(run({"--server", "ftp://x", "status"}), kUnknown);
    EXPECT_TRUE(err_has("\"ftp://x\" is not a server; expected unix:/PATH or http://HOST:PORT"))
        << err_;
}

TEST_F(CommandsTest, TheServerIsFoundInItsOrder) {
    answer("/v1/status", status(""));
    environment_.server = "unix:/nowhere";
    EXPECT_EQ(run({"--server", socket_, "status"}), kFine);
    EXPECT_EQ(run({"--server", socket_.substr(5), "status"}), kFine);
    EXPECT_EQ(run({"status", "--server", tcp_ + "/"}), kFine);
    EXPECT_EQ(run({"status"}), kUnknown);
    EXPECT_TRUE(err_has("unix:/nowhere"));
    environment_.server = "";
    EXPECT_EQ(run({"--server", "", "workloads"}), kUnknown);
    EXPECT_TRUE(err_has("unix:/run/keeld/keeld.sock")) << err_;
}

TEST_F(CommandsTest, AProxyOfTheEnvironmentIsNotForLoopback) {
    answer("/v1/status", status(""));
    ASSERT_EQ(::setenv("http_proxy", "http://127.0.0.1:1", 1), 0);
    EXPECT_EQ(run({"--server", tcp_, "status"}), kFine) << err_;
    EXPECT_EQ(run({"--server", socket_, "status"}), kFine) << err_;
    ::unsetenv("http_proxy");
}

TEST_F(CommandsTest, E2_RefusalsAreTheServersOwnWords) {
    answer("/v1/tags", R"({"error":{"code":"bad-parameter","text":"limit: no\u001b[31m"}})", 400);
    EXPECT_EQ(run({"tags"}), kUnknown);
    EXPECT_EQ(err_, "keelctl: limit: no?[31m\n");
    answer("/v1/tags", "<html>", 200);
    EXPECT_EQ(run({"tags"}), kUnknown);
    EXPECT_TRUE(err_has("what answers at " + socket_ + " is not keeld (status 200 for /v1/tags)"))
        << err_;
    answer("/v1/tags", "{}", 200);
    EXPECT_EQ(run({"tags"}), kUnknown);
    EXPECT_TRUE(err_has("/v1/tags is not a list")) << err_;
    answer("/v1/status", "{}", 200);
    EXPECT_EQ(run({"status"}), kUnknown);
}

TEST_F(CommandsTest, E2_WrongUsageIsTwo) {
    EXPECT_EQ(run({}), kUnknown);
    EXPECT_TRUE(err_has("Usage: keelctl"));
    EXPECT_EQ(run({"nonsense", "x"}), kUnknown);
    EXPECT_TRUE(err_has("\"nonsense\" was not expected here; see \"keelctl --help\"")) << err_;
    EXPECT_EQ(run({"audit", "watchs"}), kUnknown);
    EXPECT_TRUE(err_has("\"watchs\" was not expected here; see \"keelctl audit --help\"")) << err_;
    EXPECT_EQ(run({"audit"}), kUnknown);
    EXPECT_TRUE(err_has("Usage: keelctl audit")) << err_;
    EXPECT_EQ(run({"why"}), kUnknown);
    EXPECT_TRUE(err_has("WORKLOAD is required")) << err_;
    EXPECT_EQ(run({"-o", "xml", "status"}), kUnknown);
    EXPECT_EQ(run({"workloads", "--verdict", "maybe"}), kUnknown);
    EXPECT_TRUE(err_has("maybe not in {roll,current,blocked,ignore}")) << err_;
    EXPECT_EQ(run({"workloads", "--reason", "nonsense"}), kUnknown);
    EXPECT_TRUE(err_has("nonsense is none of newer-tag digest-moved goes-back policy-invalid"))
        << err_;
    for (const std::string word :
         {"blog", "website/blog", "Deployment//blog", "Deployment/website/", "a/b/c/d", "//"}) {
        EXPECT_EQ(run({"why", word}), kUnknown) << word;
        EXPECT_TRUE(err_has("expected KIND/NAMESPACE/NAME")) << err_;
    }
    EXPECT_EQ(run({"why", "Job/a/b"}), kUnknown);
    EXPECT_TRUE(err_has("\"Job\" is not a kind that keeld looks at")) << err_;
    EXPECT_TRUE(asked_.empty());
}

TEST_F(CommandsTest, HelpDocumentsExitCodes) {
    EXPECT_EQ(run({"--help"}), kFine);
    EXPECT_TRUE(out_has("Exit codes:"));
    for (const std::string command :
         {"status", "why", "workloads", "tags", "history", "rollouts"}) {
        EXPECT_TRUE(out_has("\n  " + command + " ")) << command;
    }
    for (const std::string command :
         {"status", "why", "workloads", "tags", "history", "rollouts"}) {
        EXPECT_EQ(run({command, "--help"}), kFine);
        EXPECT_TRUE(out_has("Exit codes:")) << out_;
    }
    EXPECT_EQ(run({"--version"}), kFine);
    EXPECT_EQ(out_, "keelctl " KEEL_VERSION "\n");
}

const std::string kDone =
    R"({"id":"1","results":[{"on":"docker.io/library/redis:8","cache":"cache-a","ok":true,"code":"held","text":"held at sha256:bbb"},)"
    R"({"on":"docker.io/library/redis:8","cache":"cache-b","ok":true,"code":"held","text":"held at sha256:bbb"}]})";

TEST_F(CommandsTest, HoldSendsWhatWasWrittenAndIsFineWhereAllHold) {
    answer("/v1/actions", kDone);
    EXPECT_EQ(run({"hold", "redis:8", "--at", kNew, "--reason", "8.2 \"crashes\"", "--for", "72h",
                   "--force"}),
              kFine);
    EXPECT_EQ(asked_.back(), "/v1/actions");
    EXPECT_EQ(posted_,
              R"({"action":"hold","on":"redis:8","args":{"digest":")" + kNew +
                  R"(","for":"72h","force":true},"reason":"8.2 \"crashes\"","dryRun":false})");
    EXPECT_EQ(out_,
              "ON                         CACHE    RESULT  TEXT\n"
              "docker.io/library/redis:8  cache-a  held    held at sha256:bbb\n"
              "docker.io/library/redis:8  cache-b  held    held at sha256:bbb\n");
    EXPECT_EQ(run({"hold", "redis:8", "--reason", "x", "--dry-run", "-o", "json"}), kFine);
    EXPECT_EQ(
        posted_,
        R"({"action":"hold","on":"redis:8","args":{"force":false},"reason":"x","dryRun":true})");
    EXPECT_EQ(out_, kDone + "\n");
}

TEST_F(CommandsTest, WhatWasNotDoneEverywhereNeedsAttention) {
    std::string partial = kDone;
    partial.replace(partial.rfind("true"), 4, "false");
    answer("/v1/actions", partial);
    EXPECT_EQ(run({"hold", "redis:8", "--reason", "x"}), kAttention);
    EXPECT_TRUE(out_has("cache-b"));
    EXPECT_EQ(run({"release", "redis:8"}), kAttention);
    EXPECT_EQ(posted_,
              R"({"action":"release","on":"redis:8","args":{},"reason":"","dryRun":false})");
    answer("/v1/actions", R"({"id":"1","results":[]})");
    EXPECT_EQ(run({"release", "redis:8"}), kAttention);
    answer("/v1/actions", R"({"error":{"code":"forbidden","text":"not here"}})", 403);
    EXPECT_EQ(run({"release", "redis:8"}), kAttention);
    EXPECT_EQ(err_, "keelctl: not here\n");
    answer("/v1/actions", R"({"error":{"code":"bad-action","text":"on: no"}})", 400);
    EXPECT_EQ(run({"release", "Redis:8"}), kUnknown);
    EXPECT_EQ(run({"hold", "redis:8"}), kUnknown);  // without a reason
    EXPECT_TRUE(err_has("--reason"));
}

TEST_F(CommandsTest, HoldsAreListedCacheByCache) {
    answer(
        "/v1/holds",
        R"({"items":[{"tag":"docker.io/library/redis:8","digest":")" + kOld +
            R"(","author":"alice","owner":"keeld","own":true,"reason":"crashes","since":"2026-11-22T11:00:00.000Z",
"until":"2026-11-22T15:00:00.000Z","newest":")" +
            kNew + R"(","caches":[
{"cache":"cache-a","state":"held","text":"held at","verified":"2026-11-22T11:30:00.000Z"},
{"cache":"cache-b","state":"away","text":"no route","verified":null}]}],"next":null})");
    EXPECT_EQ(run({"holds"}), kFine);
    EXPECT_TRUE(out_has("2026-11-22 15:00:00Z (in 3h)")) << out_;
    EXPECT_TRUE(out_has("cache-a  held   30m       crashes"));
    EXPECT_TRUE(out_has("cache-b  away   -         crashes  no route"));
}

TEST_F(CommandsTest, PhasesAreListedAndMoved) {
    answer("/v1/phases",
           R"({"items":[{"name":"media","state":"active","stage":"soaking","text":"soaks on",
"begun":"2026-11-22T11:00:00.000Z","until":"2026-11-22T15:00:00.000Z","counts":{"newest":3,"workloads":4}},
{"name":"later","state":"waiting","stage":"waiting","text":"begins then","begun":null,"until":null,"counts":null}],
"next":null})");
    EXPECT_EQ(run({"phase", "list"}), kFine);
    EXPECT_TRUE(
        out_has("media  active   soaking  2026-11-22 11:00:00Z (1h ago)  "
                "2026-11-22 15:00:00Z (in 3h)  3 of 4     soaks on"))
        << out_;
    EXPECT_TRUE(out_has("later  waiting  waiting  -"));
    answer(
        "/v1/actions",
        R"({"id":"1","results":[{"on":"media","cache":null,"ok":false,"code":"not-accepted","text":"not yet"}]})");
    EXPECT_EQ(run({"phase", "advance", "media", "--reason", "fine"}), kAttention);
    EXPECT_EQ(
        posted_,
        R"({"action":"phase-advance","on":"media","args":{},"reason":"fine","dryRun":false})");
    EXPECT_EQ(out_, "ON     RESULT        TEXT\nmedia  not-accepted  not yet\n");
    EXPECT_EQ(run({"phase", "pause", "media", "--dry-run"}), kAttention);
    EXPECT_EQ(posted_,
              R"({"action":"phase-pause","on":"media","args":{},"reason":"","dryRun":true})");
    EXPECT_EQ(run({"phase", "resume"}), kUnknown);
}

TEST_F(CommandsTest, AReportIsATableJsonOrMarkdown) {
    const std::string section =
        R"("workloads":9,"followed":6,"newest":5,"on_the_way":1,"unknown":0,"rollouts":5,"failed_rollouts":1,"share":0.625,
"pinned_out":[{"workload":"Deployment/a/x","reason":"target-rejected","text":"it | crashed"}],"failed":[FAILED],"leaked":[],
"apart":[{"workload":"CronJob/a/y","reason":"at-next-run","text":""}],"upstream_to_proven":{"count":5,"p50":"1m","p95":"2h"})";
    const auto report = [&section](const std::string& failed) {
        std::string text = R"({"at":"2026-11-22T12:00:00.000Z","phases":[{)" + section +
                           R"(,"name":"media","state":"active"},{)" + section +
                           R"(,"name":"later","state":"active"}],"plan":{)" + section + "}}";
        for (auto at = text.find("FAILED"); at != std::string::npos; at = text.find("FAILED"))
            text.replace(at, 6, failed);
        return text;
    };
    answer("/v1/report", report(""));
    EXPECT_EQ(run({"report"}), kFine);
    EXPECT_TRUE(out_has("media  active  5 of 9     62 %   1           1       0         0"))
        << out_;
    EXPECT_TRUE(out_has("all    -       5 of 9")) << out_;
    EXPECT_TRUE(out_has("  Deployment/a/x  target-rejected  it | crashed\n"));
    EXPECT_TRUE(out_has("apart  1 at-next-run\n"));
    EXPECT_EQ(run({"report", "--format", "json", "--phase", "media"}), kFine);
    EXPECT_EQ(out_, report("") + "\n");
    EXPECT_EQ(asked_.back(), "/v1/report?phase=media");
    answer("/v1/report",
           report(R"({"workload":"Deployment/a/z","reason":"content","text":"crashes"})"));
    EXPECT_EQ(run({"report", "--format", "markdown"}), kAttention);
    EXPECT_TRUE(out_has("| media | active | 5 of 9 | 62 % | 1 | 1 | 1 | 0 | 1m | 2h |\n")) << out_;
    EXPECT_TRUE(out_has("- Deployment/a/x (target-rejected): it \\| crashed\n")) << out_;
    EXPECT_TRUE(out_has("## Failed and not gone back\n\n- Deployment/a/z (content): crashes\n"));
    EXPECT_EQ(run({"report", "--format", "pdf"}), kUnknown);
}

TEST_F(CommandsTest, WhyShowsTheHoldBesideTheNewest) {
    std::string held = kWorkload;
    held.replace(held.find(R"("settings")"), 0,
                 R"("hold":{"digest":")" + kOld +
                     R"(","author":"alice","reason":"crashes","since":null,
"until":"2026-11-22T15:00:00.000Z","everywhere":true,"caches":"cache-a"},)");
    answer("/v1/workloads/Deployment/website/blog", held);
    EXPECT_EQ(run({"why", "deploy/website/blog"}), kFine);
    EXPECT_TRUE(
        out_has("    held at    sha256:aaaaaaaaaaaa by alice until 2026-11-22 15:00:00Z "
                "(in 3h) (crashes): cache-a\n"))
        << out_;
}

}  // namespace
}  // namespace keel::ctl
