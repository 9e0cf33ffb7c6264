#include "keelctl/commands.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <optional>
#include <ostream>
#include <string_view>
#include <utility>
#include <vector>

#include "core/verdict_words.h"
#include "keelctl/client.h"
#include "keelctl/pins.h"
#include "keelctl/policy_try.h"
#include "keelctl/report.h"
#include "keelctl/show.h"

namespace keel::ctl {
namespace {

constexpr std::size_t kHistoryLines = 50;
constexpr std::size_t kRolloutLines = 50;

constexpr const char* kAbout =
    "Asks keeld what it sees, what it decided and why, and tells it to hold and release tags and "
    "to "
    "move the phases of its plan.";

constexpr const char* kFooter = R"(Exit codes:
  0  fine
  1  something needs attention: status has problems, why says blocked or does not know the workload,
     hold or release was refused or did not reach every cache, audit watches found one that cannot fire
  2  could not tell: keeld is not reachable or refused the question, or the command line is wrong

Where keeld is, the first of:
  --server, the environment variable KEELD_URL, unix:/run/keeld/keeld.sock

Output:
  Tables are for people and may change. "-o json" prints keeld's own objects: one object for status and why,
  {"items": [...], "next": ...} for lists, all pages joined ("next" is null when nothing was left out):
  workloads by name, all others newest first;
  one object a line with --follow. Times are UTC. Colours appear on a terminal only, and not when NO_COLOR is set.

Examples:
  keelctl status                                  is everything all right? (exit 1 if not)
  keelctl why Deployment/website/blog             what holds for it, and what happens next
  keelctl workloads --verdict blocked             everything that waits for somebody
  keelctl hold redis:8-alpine --reason "8.2 crashes here" --for 72h
  keelctl history Deployment/website/blog --since 24h
  keelctl history --follow --kind applied         every restart as it happens
  keelctl -o json tags | jq -r '.items[].tag'     for scripts
  KEELD_URL=http://127.0.0.1:9095 keelctl status  a keeld that listens elsewhere

"keelctl COMMAND --help" tells more about each command.)";

constexpr const char* kWhyFooter =
    R"(WORKLOAD is KIND/NAMESPACE/NAME; kinds are Deployment (deploy), StatefulSet (sts), DaemonSet (ds) and CronJob (cj).

Verdicts:
  roll     it goes to the target shown; gates say what it still waits for
  current  nothing that its policy allows is newer
  blocked  something newer exists or may exist, and the sentence says why it is not taken
  ignore   not enrolled, vetoed, or without a tag to follow

Exit codes: 0 roll, current or ignore; 1 blocked, or keeld knows no such workload; 2 could not tell.

Example:
  keelctl why deploy/website/blog)";

constexpr const char* kStatusFooter =
    R"(Exit codes: 0 no problems; 1 at least one problem, each with what is done about it; 2 could not tell.

Example:
  keelctl status || echo "keeld needs attention")";

constexpr const char* kListFooter =
    "Exit codes: 0 answered, also with an empty list; 2 could not tell.";

constexpr const char* kHistoryFooter =
    R"(Lines are in the order in which things happened, the newest last. Kinds:
  observed, received   what a cache, a look-up or an event told of a tag
  decided, refused     what follows from it, or does not
  intended, applied    a rollout that is about to be written, and that was
  verified, outcome    what the new pods run, and how the rollout ended
  held, released       holds: wanted, placed in a cache, lifted, expired
  started              keeld itself

Exit codes: 0 answered; 2 could not tell (also when keeld goes away during --follow).

Examples:
  keelctl history --since 2026-11-22T12:00:00Z
  keelctl history StatefulSet/db/main --kind refused --limit 0)";

constexpr const char* kTryFooter =
    R"(POLICY is force, patch, minor, major, all, never, glob:PATTERN or regexp:PATTERN; it counts as set on the workload
itself. REFERENCE is the image as the workload has it, TAG each tag that its registry lists. Nothing is asked, neither
keeld nor a registry: what a digest would do, an image's platforms and its age are not looked at.

--batch reads tab-separated rows on standard input under the heading "policy match_pre_release current tags" (tags
separated by commas) and prints them with the columns verdict, reason and selected ("-": none) added.

Exit codes: 0 for any verdict; 2 wrong usage, or a row that cannot be read.

Examples:
  keelctl policy try minor redis:8.0.6-alpine 8.2.1 8.2.1-alpine 9.0.0-alpine
  keelctl policy try 'glob:pg16-*' tensorchord/pgvecto-rs:pg16-v0.1.2 pg16-v0.3.0 pg17-v0.3.0
  keelctl policy try --batch < cases.tsv)";

constexpr const char* kHoldFooter =
    R"(A held tag is answered by the caches with one digest, whatever it is upstream: pulls get that digest until the hold is
released or ends. Nothing is restarted by it; workloads that run another digest follow as their policy allows.

TAG is any spelling of a reference: redis:8, library/redis:8, docker.io/library/redis:8.

Before the hold is set keeld gets the whole image through every cache (index, all platforms, configs, layers), and looks again
every 6 hours. A cache where something is missing does not get the hold; where that is so everywhere, nothing is held. The
digest of one platform's image is refused for a tag that answers an index. --force sets the hold all the same, at once, marked
as not verified.

A cache that is away gets the hold within 30 s of its return. What others hold is never changed. A hold reaches no node whose
hosts.toml falls back to the upstream registry, and cannot bring back what upstream deleted and the cache has dropped.

Exit codes: 0 held in every cache; 1 refused, or held in some caches only; 2 could not tell, or the command line is wrong.

Examples:
  keelctl hold redis:8-alpine --reason "8.2 crashes here" --for 72h
  keelctl hold ghcr.io/acme/app:main --at sha256:0123… --reason "back to last week")";

constexpr const char* kReleaseFooter =
    R"(Lifts the hold that was set here, in every cache; one that is away, when it is back. What somebody else holds stays.

Exit codes: 0 released in every cache; 1 not held, held by somebody else, or some caches are away; 2 could not tell.

Example:
  keelctl release redis:8-alpine --reason "fixed upstream")";

constexpr const char* kHoldsFooter =
    R"(One line for each hold and cache. States:
  held         the cache answers with that digest
  pending, checking, lifting   on its way; checking: the image is being looked at
  incomplete   a part of the image is not to be had through this cache, so it is not held there
  away         the cache cannot be reached; it follows when it is back
  refused      the cache did not take it
  foreign      set by somebody else, who alone lifts it
keelctl status exits with 1 while one of this keeld's holds is not as it should be.

Exit codes: 0 answered, also with an empty list; 2 could not tell.)";

constexpr const char* kWatchesFooter =
    R"(A watch is a tag that a container of an enrolled workload refers to. One that cannot fire never restarts anything,
whatever happens to its tag; each is listed with the reason and what mends it:
  reference-invalid   the image field cannot be read
  setting-invalid     an annotation or label says what does not exist: a policy, a schedule, …
  no-receiver         keel.sh/trigger waits for webhooks, and keeld.yaml names no sender of any
  no-path             neither a cache nor a direct address of the registry is configured
  no-credential       the registry wants to know who asks, and there is no usable credential
  denied              the credentials that there are were refused; each is named with its reason
  not-found           the registry does not have the tag, or the cache cannot get it
  tag-gone            the registry had the tag and has it no more, or its list lacks it
  never-answered      no check of the tag has ever succeeded
  stale               no successful check in three intervals of its schedule
  list-unreadable     the policy needs the list of tags, and it cannot be read
  held                the tag is held at a digest, so nothing newer is pulled
  bypassed            a container that must pull at every start started over an hour after the last kubelet asked any
                      cache for its tag: the node went past the caches
  abandoned           the tag stands still for 30 days, while others of its repository moved three times or more; of
                      those that are in use here, and where the policy takes no other name
Two more appear with --all only: fine, and waiting (its first answer is under way).
The metric keeld_watches{state="…"} counts the same.

Exit codes: 0 every watch can fire; 1 at least one cannot; 2 could not tell.

Examples:
  keelctl audit watches
  keelctl -o json audit watches | jq -r '.items[] | select(.state == "denied") | .sentence')";

constexpr const char* kPauseFooter =
    R"(WHAT is cluster (the default), namespace/NAME or KIND/NAMESPACE/NAME. Nothing new starts there; what has begun goes on and is
proven. keeld keeps it over restarts, until somebody resumes. What waits stays visible: keelctl why, keelctl plan.

resume cluster also closes the breaker, which opens by itself when rollouts fail on their content (keeld.yaml, breaker).
Pacing goes on counting what started before: nothing rushes.

Exit codes: 0 done; 1 refused (it is so already); 2 could not tell, or the command line is wrong.

Examples:
  keelctl pause --reason "node upgrade"
  keelctl pause namespace/website
  keelctl resume Deployment/website/blog)";

constexpr const char* kApproveFooter =
    R"(WHAT is
  KIND/NAMESPACE/NAME  a workload: what it waits for now, which the answer names
  an id or identifier  as keelctl approvals shows them: this very target and no other
  group/NAME           a group that is larger than pacing allows: it starts at once, with what it is due for now, and
                       once; what it takes is counted
Votes are asked for where keel.sh/approvals, or `approvals` of a phase's settings, is above 0, and where a tag went back
and `reverts` is ask. A vote is that of the user who runs keelctl, and counts once. It is for the digests that were asked
for: where a newer one comes before the rollout, that one is asked for anew.

One rejection is enough, and stands until the target changes or somebody takes it back (reject --undo), which forgets all
votes. What got too few votes before its deadline (keel.sh/approvalDeadline, 24 hours by default) waits until somebody
approves it, which begins it anew with that vote.

Exit codes: 0 done; 1 refused (it does not wait for this, or it was voted on already); 2 could not tell, or the command
line is wrong.

Examples:
  keelctl approve Deployment/shop/cart --reason "release day"
  keelctl reject Deployment/shop/cart --reason "wait for the fix of 1.28.1"
  keelctl approve group/immich)";

constexpr const char* kApprovalsFooter =
    R"(The newest first. FOR is KIND/NAMESPACE/NAME:TAG@DIGEST; with --all also those that nothing waits for any more.

Exit codes: 0 nothing waits for votes; 1 something does; 2 could not tell.

Examples:
  keelctl approvals
  keelctl approvals Deployment/shop/cart --all -o json)";

constexpr const char* kMigrateFooter =
    R"(Lists the keel.sh/* and keel.observer/* keys on workloads and namespaces that an earlier Kyverno policy wrote, and what
holds without them; for a namespace's, what holds then for a workload that says nothing of its own. With --apply keeld
removes the annotations of workloads among them, each only while nobody has changed the workload since keeld saw it; that
restarts nothing. Labels, and what stands on pod templates, are listed and left: others may select by the ones, and taking
the others away would restart pods. keeld has no right to write namespaces: --commands prints the lines that do.

Which are Kyverno's: those that nobody but its field managers wrote (metadata.managedFields; kyverno, kyverno-* and
background-controller, or what --manager names). Its admission webhook leaves no name of its own: such a key counts as
written by whoever sent the request, kubectl or Terraform. Name the policy's values to find these, too; a person's key with
just this value is found with them, so look before you apply. Delete the policy first, or it comes back.

Exit codes: 0 nothing is left, or all is removed; 1 something is left, or was refused; 2 could not tell.

Examples:
  keelctl migrate kyverno --value keel.sh/policy=patch --value keel.sh/trigger=poll
  keelctl migrate kyverno --commands              # kubectl lines that remove it
  keelctl migrate kyverno --apply --reason "the policy is gone")";

constexpr const char* kPinsFooter =
    R"(What every followed workload runs now, as image fields with the digest. With it everything stays as it is without keeld:
  yaml       a list of workload, container and image
  patch      kubectl lines, one for each workload; they restart its pods, onto the content that they run
  terraform  image arguments, each below a comment that says whose
Where what runs is one platform's part of what the tag answers, the digest is the whole's, so that pods go to any node.
What is not known is left out, with a comment.

keelctl freeze stops all rollouts first, so that nothing moves meanwhile; keelctl resume goes on, under pacing.

Exit codes: 0 answered; 2 could not tell.

Example:
  keelctl freeze --reason "moving away" && keelctl pins --format patch > pins.sh)";

constexpr const char* kRollbackFooter =
    R"(What keeld's newest rollout of the workload brought is rejected there, and the workload goes back to what it ran before:
to the old image, or, where the tag stayed, behind a hold at the old digest, because a restart alone would pull the new one
again. It waits for no window, no vote and no place, only for a pause; it is proven like any rollout. The hold is lifted when
the tag moves on; what is newer then is rolled out as ever.

A rollout that soaks or has ended can be taken back. Where the hold would take others back that run the new content and are
well, nothing is held and keelctl status says so (restore-stuck): decide with keelctl hold. Data that the new content wrote
stays as it is: ask yourself whether the old one can read it.

Exit codes: 0 on its way; 1 refused (nothing-to-undo, under-way, no-way-back); 2 could not tell, or the command line is wrong.

Examples:
  keelctl rollback Deployment/shop/cart --reason "orders are lost" --dry-run
  keelctl rollback Deployment/shop/cart --reason "orders are lost"
  keelctl retry Deployment/shop/cart              # it was not the build: the same one again)";

constexpr const char* kRetryFooter =
    R"(A target that failed on its content is not rolled out to that workload again (target-rejected), nor one that did not
arrive (rollout-stalled). When the cause was something else and is mended, this forgets it: the same target is due again, as
gates and pacing allow, and proven anew.

Exit codes: 0 done; 1 refused (nothing failed there); 2 could not tell, or the command line is wrong.

Example:
  keelctl retry Deployment/shop/cart --reason "the database was down")";

constexpr const char* kPhaseFooter =
    R"(A phase is a set of namespaces in keeld.yaml. One is active at a time; its workloads are followed whatever the labels of
their namespaces, those of phases that have not begun are left alone. It is
  rolling    until everything that was due since it began is proven on its target
  soaking    for its time; a late rollout, a crash loop or too many held back for good begin that again
  accepted   where its `advance` is approval: keelctl phase advance completes it
  completed  and the next one begins; it goes on being followed
One that waits may be paused as well: then the plan stops before it.

Exit codes: 0 answered, or done; 1 refused (advance: what is missing is told); 2 could not tell.

Examples:
  keelctl phase list
  keelctl phase pause media --reason "holiday")";

constexpr const char* kPlanFooter =
    R"(What waits to start, in the order in which places go to it, with the gate that is closed. EARLIEST is an estimate from
pacing and from what the gates tell; "-" where only a person, or something that is not known, opens one.

With --config: what another keeld.yaml would change if keeld took it, by name and count. keeld judges every workload
under both; nothing is applied, and files that the new one names need not be there yet.
  enrolled   followed from then on
  rolled     due for a restart or another image that was not due before; windows, pacing and other gates still hold
  released   not followed any more
Those that are not enrolled yet have not been looked at: whether they are due is known once they are.

Exit codes: 0 fine; 1 more than cap.workloads of the new one would change, so that keeld refuses it; 2 could not tell,
or there are mistakes in it.

Examples:
  keelctl plan
  keelctl plan --config keeld-new.yaml)";

constexpr const char* kReportFooter =
    R"(Of the workloads of every phase that has begun: how many run the newest that they may, as a share of those that can be
restarted; who is pinned out (a hold, a pin, a rejected target) and why; whose rollout failed and what runs is not well yet;
how long it took from the first sight of a digest to the proof that pods run it; and, apart, who waits for nothing.

Exit codes: 0 no failed rollout stands; 1 at least one does, or there is no such phase; 2 could not tell.

Example:
  keelctl report --format markdown > plan.md)";

struct Options {
    bool all = false;
    std::string config;
    std::string tag;
    std::string at;
    std::string why;
    std::string span;
    bool force = false;
    bool dry_run = false;
    bool undo = false;
    bool apply = false;
    bool commands = false;
    std::vector<std::string> managers;
    std::vector<std::string> values;
    std::string server;
    std::string output = "table";
    std::string format;
    bool wide = false;
    std::string workload;
    std::string ns;
    std::string verdict;
    std::string reason;
    std::size_t limit = 0;
    std::string since;
    std::string kind;
    bool follow = false;
};

// "deploy/website/blog" in the API's spelling. Errors: "usage".
Expected<std::string> workload_name(const std::string& text) {
    struct Kind {
        std::string_view name;
        std::array<std::string_view, 3> words;
    };
    constexpr std::array<Kind, 4> kKinds{{
        {"Deployment", {"deployment", "deployments", "deploy"}},
        {"StatefulSet", {"statefulset", "statefulsets", "sts"}},
        {"DaemonSet", {"daemonset", "daemonsets", "ds"}},
        {"CronJob", {"cronjob", "cronjobs", "cj"}},
    }};
    const auto first = text.find('/');
    const auto second = first == std::string::npos ? first : text.find('/', first + 1);
    const bool whole = second != std::string::npos && first > 0 && second > first + 1 &&
                       second + 1 < text.size() && text.find('/', second + 1) == std::string::npos;
    if (!whole) {
        return fail("usage", "\"" + text +
                                 "\" is not a workload; expected KIND/NAMESPACE/NAME, for example "
                                 "Deployment/website/blog");
    }
    std::string kind = text.substr(0, first);
    std::transform(kind.begin(), kind.end(), kind.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    for (const Kind& each : kKinds) {
        if (std::find(each.words.begin(), each.words.end(), kind) != each.words.end()) {
            return std::string(each.name) + text.substr(first);
        }
    }
    return fail(
        "usage",
        "\"" + text.substr(0, first) +
            "\" is not a kind that keeld looks at; expected Deployment, StatefulSet, DaemonSet "
            "or CronJob");
}

// A time, or how long ago. Errors: "usage".
Expected<Time> since_time(const std::string& text, Time now) {
    if (const auto time = parse_time(text)) return *time;
    if (const auto ago = parse_duration(text)) return now - *ago;
    return fail("usage", "--since: \"" + text +
                             "\" is neither a time such as 2026-11-22T12:00:00Z nor a duration "
                             "such as 90s, 2h or 7d");
}

class Session {
  public:
    Session(Client client, const Options& options, const Environment& environment,
            std::ostream& out, std::ostream& err)
        : client_(std::move(client)),
          options_(options),
          environment_(environment),
          out_(out),
          err_(err) {}

    int status();
    int why();
    int workloads();
    int tags();
    int rollouts();
    int history();
    int hold();
    int release();
    int holds();
    int watches();
    int phases();
    int report();
    int approve();
    int reject();
    int approvals();
    int pause();
    int resume();
    int migrate();
    int retry();
    int rollback();
    int pins();
    int freeze();
    int phase_advance();
    int phase_pause();
    int phase_resume();
    int plan();

  private:
    using Show = std::string (*)(const json_t*, const Style&);

    [[nodiscard]] bool json() const {
        return options_.output == "json" || options_.format == "json";
    }
    [[nodiscard]] Style style() const {
        return {.paint = Painter(environment_.colours),
                .wide = options_.wide,
                .now = environment_.now()};
    }
    int failed(const Error& error);
    int act(const char* action, Json args) { return act(action, options_.tag, std::move(args)); }
    int act(const char* action, std::string_view on, Json args);
    int vote(const char* action);
    Expected<Json> list_approvals(const std::string& workload, bool archived);
    void print(const Answer& answer, Show show);
    int list(const std::string& path, const Query& query, Show show);
    int follow(Query query);
    void print_lines(const json_t* list, bool with_header);

    Client client_;
    const Options& options_;
    const Environment& environment_;
    std::ostream& out_;
    std::ostream& err_;
};

int Session::failed(const Error& error) {
    err_ << "keelctl: " << printable(error.text) << "\n";
    return kUnknown;
}

void Session::print(const Answer& answer, Show show) {
    if (!json()) {
        out_ << show(answer.root.get(), style());
        return;
    }
    out_ << answer.body;
    if (!answer.body.ends_with('\n')) out_ << "\n";
}

int Session::status() {
    const auto answer = client_.get("/v1/status", {});
    if (!answer) return failed(answer.error());
    print(*answer, show_status);
    const json_t* problems = json_object_get(answer->root.get(), "problems");
    if (!json_is_array(problems))
        return failed(
            Error{"bad-answer", "keeld's status does not say whether there are problems"});
    return json_array_size(problems) == 0 ? kFine : kAttention;
}

int Session::why() {
    const auto name = workload_name(options_.workload);
    if (!name) return failed(name.error());
    std::string path = "/v1/workloads";
    for (std::size_t from = 0; from != std::string::npos;) {
        const auto to = name->find('/', from);
        path += "/" + Client::escape(name->substr(from, to == std::string::npos ? to : to - from));
        from = to == std::string::npos ? to : to + 1;
    }
    const auto answer = client_.get(path, {});
    if (!answer) {
        failed(answer.error());
        return answer.error().code == "not-found" ? kAttention : kUnknown;
    }
    print(*answer, show_workload);
    return text_of(answer->root.get(), "verdict") == "blocked" ? kAttention : kFine;
}

int Session::list(const std::string& path, const Query& query, Show show) {
    const auto answer = client_.list(path, query, options_.limit);
    if (!answer) return failed(answer.error());
    print(*answer, show);
    return kFine;
}

int Session::workloads() {
    return list(
        "/v1/workloads",
        {{"namespace", options_.ns}, {"verdict", options_.verdict}, {"reason", options_.reason}},
        show_workloads);
}

int Session::tags() {
    return list("/v1/tags", {}, show_tags);
}

int Session::watches() {
    const Query query{{"all", options_.all ? "true" : ""}};
    const auto answer = client_.list("/v1/audit/watches", query, 0);
    if (!answer) return failed(answer.error());
    print(*answer, show_watches);
    const json_t* items = json_object_get(answer->root.get(), "items");
    for (std::size_t i = 0; i < json_array_size(items); ++i) {
        if (!json_is_true(json_object_get(json_array_get(items, i), "can_fire"))) return kAttention;
    }
    return kFine;
}

int Session::rollouts() {
    std::string workload;
    if (!options_.workload.empty()) {
        const auto name = workload_name(options_.workload);
        if (!name) return failed(name.error());
        workload = *name;
    }
    return list("/v1/rollouts", {{"workload", workload}}, show_rollouts);
}

int Session::history() {
    Query query{{"kind", options_.kind}};
    if (!options_.workload.empty()) {
        const auto name = workload_name(options_.workload);
        if (!name) return failed(name.error());
        query.emplace_back("workload", *name);
    }
    if (!options_.since.empty()) {
        const auto since = since_time(options_.since, environment_.now());
        if (!since) return failed(since.error());
        query.emplace_back("since", format_time(*since));
    }
    if (options_.follow) return follow(std::move(query));
    return list("/v1/ledger", query,
                [](const json_t* items, const Style& style) { return show_history(items, style); });
}

int Session::hold() {
    Json args(json_object());
    const auto set = [&args](const char* key, const std::string& text) {
        if (!text.empty()) json_object_set_new(args.get(), key, json_string(text.c_str()));
    };
    set("digest", options_.at);
    set("for", options_.span);
    json_object_set_new(args.get(), "force", json_boolean(options_.force));
    return act("hold", std::move(args));
}

int Session::release() {
    return act("release", Json(json_object()));
}

int Session::plan() {
    if (options_.config.empty()) return list("/v1/plan", {}, show_pending);
    std::ifstream file(options_.config, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    if (!file || text.empty()) {
        return failed(Error{"usage", options_.config + " cannot be read, or is empty"});
    }
    const auto answer = client_.post("/v1/plan", text);
    if (!answer) return failed(answer.error());
    print(*answer, show_change);
    return json_is_string(json_object_get(answer->root.get(), "refused")) ? kAttention : kFine;
}

int Session::holds() {
    return list("/v1/holds", {}, show_holds);
}

int Session::phases() {
    return list("/v1/phases", {}, show_phases);
}

int Session::report() {
    const auto answer = client_.get("/v1/report", {{"phase", options_.tag}});
    if (!answer) {
        failed(answer.error());
        return answer.error().code == "not-found" ? kAttention : kUnknown;
    }
    print(*answer, options_.format == "markdown" ? markdown_report : show_report);
    const json_t* plan = json_object_get(answer->root.get(), "plan");
    return json_array_size(json_object_get(plan, "failed")) == 0 ? kFine : kAttention;
}

// The newest first. Empty workload: of all.
Expected<Json> Session::list_approvals(const std::string& workload, bool archived) {
    const auto answer = client_.get("/v1/approvals", {});
    if (!answer) return tl::unexpected<Error>(answer.error());
    Json list(json_array());
    std::size_t at = 0;
    json_t* item = nullptr;
    json_array_foreach(answer->root.get(), at, item) {
        const bool wanted = workload.empty() || text_of(item, "workload") == workload;
        if (wanted && (archived || !json_is_true(json_object_get(item, "archived")))) {
            json_array_append(list.get(), item);
        }
    }
    return list;
}

int Session::approvals() {
    std::string workload;
    if (!options_.workload.empty()) {
        const auto name = workload_name(options_.workload);
        if (!name) return failed(name.error());
        workload = *name;
    }
    const Expected<Json> list = list_approvals(workload, options_.all);
    if (!list) return failed(list.error());
    const Json page(json_pack("{s:O}", "items", list->get()));
    if (json()) {
        out_ << dump(list->get()) << "\n";
    } else {
        out_ << show_approvals(page.get(), style());
    }
    for (std::size_t i = 0; i < json_array_size(list->get()); ++i) {
        const json_t* item = json_array_get(list->get(), i);
        const bool open = !json_is_true(json_object_get(item, "archived"));
        if (open && text_of(item, "state") == "pending") return kAttention;
    }
    return kFine;
}

// A workload's name stands for what it waits for now; keeld takes votes for a target only.
int Session::vote(const char* action) {
    Json args(json_object());
    if (options_.undo) json_object_set_new(args.get(), "undo", json_true());
    const auto workload = workload_name(options_.tag);
    if (!workload || options_.tag.find(':') != std::string::npos) {
        return act(action, std::move(args));
    }
    const Expected<Json> list = list_approvals(*workload, false);
    if (!list) return failed(list.error());
    if (json_array_size(list->get()) == 0) {
        err_ << "keelctl: " << printable(*workload)
             << " waits for no vote; keelctl why tells what it waits for\n";
        return kAttention;
    }
    return act(action, text_of(json_array_get(list->get(), 0), "id"), std::move(args));
}

int Session::approve() {
    return vote("approve");
}

int Session::reject() {
    return vote("reject");
}

int Session::migrate() {
    Json args(json_pack("{s:[],s:{}}", "managers", "values"));
    Query query;
    for (const std::string& manager : options_.managers) {
        json_array_append_new(json_object_get(args.get(), "managers"),
                              json_string(manager.c_str()));
        query.emplace_back("manager", manager);
    }
    for (const std::string& value : options_.values) {
        const auto equals = value.find('=');
        if (equals == std::string::npos || equals == 0) {
            return failed(Error{"usage", "--value: \"" + value + "\" is not KEY=VALUE"});
        }
        json_object_set_new(json_object_get(args.get(), "values"), value.substr(0, equals).c_str(),
                            json_string(value.substr(equals + 1).c_str()));
        query.emplace_back("value", value);
    }
    if (options_.apply) return act("migrate", "cluster", std::move(args));
    const auto answer = client_.list("/v1/migrate/kyverno", query, 0);
    if (!answer) return failed(answer.error());
    const json_t* items = json_object_get(answer->root.get(), "items");
    if (!options_.commands) {
        print(*answer, show_leftovers);
        return json_array_size(items) == 0 ? kFine : kAttention;
    }
    for (std::size_t i = 0; i < json_array_size(items); ++i) {
        const json_t* item = json_array_get(items, i);
        if (!json_is_true(json_object_get(item, "removable"))) continue;
        const std::string on(text_of(item, "on"));
        const auto first = on.find('/');
        const auto second = on.find('/', first + 1);
        out_ << "kubectl ";
        if (second == std::string::npos) {
            out_ << "annotate " << on;
        } else {
            out_ << "-n " << on.substr(first + 1, second - first - 1) << " annotate "
                 << on.substr(0, first) << on.substr(second);
        }
        out_ << " " << text_of(item, "key") << "-\n";
    }
    return json_array_size(items) == 0 ? kFine : kAttention;
}

int Session::pins() {
    const auto answer = client_.list("/v1/pins", {{"namespace", options_.ns}}, 0);
    if (!answer) return failed(answer.error());
    if (options_.format.empty() || json()) {
        print(*answer, show_pins);
    } else {
        out_ << print_pins(answer->root.get(), options_.format);
    }
    return kFine;
}

int Session::freeze() {
    return act("pause", "cluster", Json(json_object()));
}

int Session::retry() {
    const auto workload = workload_name(options_.workload);
    if (!workload) return failed(workload.error());
    return act("retry", *workload, Json(json_object()));
}

int Session::rollback() {
    const auto workload = workload_name(options_.workload);
    if (!workload) return failed(workload.error());
    return act("rollback", *workload, Json(json_object()));
}

int Session::pause() {
    return act("pause", Json(json_object()));
}

int Session::resume() {
    return act("resume", Json(json_object()));
}

int Session::phase_advance() {
    return act("phase-advance", Json(json_object()));
}

int Session::phase_pause() {
    return act("phase-pause", Json(json_object()));
}

int Session::phase_resume() {
    return act("phase-resume", Json(json_object()));
}

// Fine only if it was done everywhere.
int Session::act(const char* action, std::string_view on, Json args) {
    const Json body(json_pack("{s:s,s:s%,s:O,s:s,s:b}", "action", action, "on", on.data(),
                              on.size(), "args", args.get(), "reason", options_.why.c_str(),
                              "dryRun", options_.dry_run ? 1 : 0));
    if (!body) return failed(Error{"usage", "the command line is not UTF-8"});
    const auto answer = client_.post("/v1/actions", dump(body.get()));
    if (!answer) {
        failed(answer.error());
        return answer.error().code == "forbidden" ? kAttention : kUnknown;
    }
    print(*answer, show_results);
    const json_t* results = json_object_get(answer->root.get(), "results");
    bool all = json_array_size(results) > 0;
    for (std::size_t i = 0; i < json_array_size(results); ++i) {
        all = all && json_is_true(json_object_get(json_array_get(results, i), "ok"));
    }
    return all ? kFine : kAttention;
}

// What was there first, then what comes: the entries with a higher number than the last one
// printed.
int Session::follow(Query query) {
    std::uint64_t last = 0;
    bool first = true;
    do {
        const auto answer = client_.list("/v1/ledger", query, first ? options_.limit : 0);
        if (!answer) return failed(answer.error());
        const json_t* items = json_object_get(answer->root.get(), "items");
        const Json fresh(json_pack("{s:[]}", "items"));
        std::string newest;
        for (std::size_t i = 0; i < json_array_size(items); ++i) {
            json_t* item = json_array_get(items, i);
            const std::string_view text = text_of(item, "seq");
            std::uint64_t seq = 0;
            std::from_chars(text.data(), text.data() + text.size(), seq);
            if (seq <= last) break;
            json_array_append(json_object_get(fresh.get(), "items"), item);
        }
        const json_t* head = json_array_get(items, 0);
        const std::string_view seq = text_of(head, "seq");
        std::from_chars(seq.data(), seq.data() + seq.size(), last);
        print_lines(fresh.get(), first);
        // From now on only what can be new is asked for; the newest entry's own time stays in,
        // since others may share it.
        if (const std::string_view at = text_of(head, "at"); !at.empty()) {
            std::erase_if(query, [](const auto& each) { return each.first == "since"; });
            query.emplace_back("since", std::string(at));
        }
        first = false;
    } while (environment_.pause());
    return kFine;
}

void Session::print_lines(const json_t* list, bool with_header) {
    const json_t* items = json_object_get(list, "items");
    if (!json()) {
        out_ << show_history(list, style(), with_header);
    } else {
        for (std::size_t i = json_array_size(items); i > 0; --i)
            out_ << dump(json_array_get(items, i - 1)) << "\n";
    }
    out_.flush();
}

// "keelctl audit watches", as far as it was understood.
std::string command_line(const CLI::App& app) {
    std::string text = app.get_name();
    for (const CLI::App* sub : app.get_subcommands())
        text += " " + command_line(*sub);
    return text;
}

std::string server_of(const Options& options, const Environment& environment) {
    if (!options.server.empty()) return options.server;
    return environment.server.empty() ? std::string(kDefaultServer) : environment.server;
}

}  // namespace

int run(int argc, const char* const* argv, const Environment& environment, std::ostream& out,
        std::ostream& err) {
    Options options;
    int (Session::*command)() = nullptr;

    CLI::App app(kAbout, "keelctl");
    app.footer(kFooter);
    app.fallthrough();
    app.require_subcommand(0, 1);
    app.set_version_flag("--version", "keelctl " KEEL_VERSION);
    app.add_option("--server", options.server,
                   "where keeld listens: unix:/PATH or http://HOST:PORT")
        ->type_name("URL");
    app.add_option("-o,--output", options.output, "table for people, json for programs")
        ->check(CLI::IsMember({"table", "json"}).description(""))
        ->type_name("table|json")
        ->capture_default_str();
    app.add_flag("--wide", options.wide, "digests in full");

    const auto add = [&](const char* name, const char* about, const char* footer,
                         int (Session::*action)()) {
        CLI::App* sub = app.add_subcommand(name, about);
        sub->footer(footer);
        sub->callback([&command, action] { command = action; });
        return sub;
    };
    const auto add_limit = [&](CLI::App* sub, std::size_t otherwise) {
        // The default depends on the command, so it is set when that is known.
        auto* limit = sub->add_option("--limit", options.limit,
                                      "the newest so many; 0: all (default " +
                                          std::to_string(otherwise) + ")")
                          ->type_name("N");
        sub->preparse_callback([&options, otherwise](std::size_t) { options.limit = otherwise; });
        return limit;
    };

    add("status", "mode, caches, cluster, pacing, and what is wrong", kStatusFooter,
        &Session::status);
    CLI::App* why = add("why", "the verdict on one workload, its reasons and what happens next",
                        kWhyFooter, &Session::why);
    why->add_option("WORKLOAD", options.workload, "KIND/NAMESPACE/NAME")->required();
    CLI::App* workloads =
        add("workloads", "every workload with its verdict", kListFooter, &Session::workloads);
    workloads->add_option("-n,--namespace", options.ns, "only of this namespace")
        ->type_name("NAME");
    workloads->add_option("--verdict", options.verdict, "only with this verdict")
        ->check(CLI::IsMember({"roll", "current", "blocked", "ignore"}))
        ->type_name("");
    workloads->add_option("--reason", options.reason, "only with this reason code")
        ->check([](const std::string& text) -> std::string {
            if (parse_reason(text)) return "";
            return printable(text) + " is none of " + known_reasons();
        })
        ->type_name("CODE");
    add("tags", "every tag in use: its digest, since when, and who confirmed it when", kListFooter,
        &Session::tags);
    CLI::App* history = add("history", "the ledger: observed, decided, intended, applied, verified",
                            kHistoryFooter, &Session::history);
    history->add_option("WORKLOAD", options.workload, "only of this one: KIND/NAMESPACE/NAME");
    add_limit(history, kHistoryLines);
    history
        ->add_option("--since", options.since, "only later ones: a time, or a duration such as 2h")
        ->type_name("TIME");
    history->add_option("--kind", options.kind, "only of this kind (listed below)")
        ->type_name("KIND");
    history->add_flag("-f,--follow", options.follow, "go on with what comes, until interrupted");
    CLI::App* rollouts = add("rollouts", "rollouts, open and ended, the newest first", kListFooter,
                             &Session::rollouts);
    rollouts->add_option("WORKLOAD", options.workload, "only of this one: KIND/NAMESPACE/NAME");
    add_limit(rollouts, kRolloutLines);

    CLI::App* hold =
        add("hold", "freeze a tag at a digest in every cache", kHoldFooter, &Session::hold);
    hold->add_option("TAG", options.tag, "a reference such as redis:8")->required();
    hold->add_option("--at", options.at, "the digest; default: what the tag answers now")
        ->type_name("DIGEST");
    hold->add_option("--reason", options.why, "why, for those who find it later")
        ->required()
        ->type_name("TEXT");
    hold->add_option("--for", options.span,
                     "how long, such as 90m, 72h or 30d; default: until it is released")
        ->type_name("TIME");
    hold->add_flag("--force", options.force, "without looking whether the image is complete");
    CLI::App* release =
        add("release", "lift a hold in every cache", kReleaseFooter, &Session::release);
    release->add_option("TAG", options.tag, "a reference such as redis:8")->required();
    release->add_option("--reason", options.why, "why, for the history")->type_name("TEXT");
    for (CLI::App* sub : {hold, release}) {
        sub->add_flag("--dry-run", options.dry_run, "only say what would be done");
    }
    add("holds", "every hold in every cache, those of others too", kHoldsFooter, &Session::holds);
    CLI::App* plan = add("plan", "what waits to start; or what another configuration would change",
                         kPlanFooter, &Session::plan);
    plan->add_option("--config", options.config, "the keeld.yaml to try")->type_name("FILE");
    CLI::App* audit = app.add_subcommand("audit", "what is wrong without anybody noticing");
    audit->require_subcommand(0, 1)->footer("");
    CLI::App* watches =
        audit->add_subcommand("watches", "every tag that is followed and can never move anything");
    watches->footer(kWatchesFooter);
    watches->add_flag("--all", options.all, "also those that can");
    watches->callback([&command] { command = &Session::watches; });
    for (CLI::App* sub :
         {add("pause", "nothing new starts: in the cluster, a namespace or a workload",
              kPauseFooter, &Session::pause),
          add("resume", "it goes on, as gates and pacing allow", kPauseFooter, &Session::resume)}) {
        sub->preparse_callback([&options](std::size_t) { options.tag = "cluster"; });
        sub->add_option("WHAT", options.tag, "cluster, namespace/NAME or KIND/NAMESPACE/NAME");
        sub->add_option("--reason", options.why, "why, for the history")->type_name("TEXT");
        sub->add_flag("--dry-run", options.dry_run, "only say what would be done");
    }
    CLI::App* approvals =
        add("approvals", "what waits for votes", kApprovalsFooter, &Session::approvals);
    approvals->add_option("WORKLOAD", options.workload, "only of this one");
    approvals->add_flag("--all", options.all, "also what nothing waits for any more");
    CLI::App* approve = add("approve", "a vote for a rollout, or a group's start at once",
                            kApproveFooter, &Session::approve);
    CLI::App* reject =
        add("reject", "a rollout does not go to this target", kApproveFooter, &Session::reject);
    for (CLI::App* sub : {approve, reject}) {
        sub->add_option("WHAT", options.tag, "a workload, an id, an identifier, or group/NAME")
            ->required();
        sub->add_option("--reason", options.why, "why, for the history")->type_name("TEXT");
        sub->add_flag("--dry-run", options.dry_run, "only say what would be done");
    }
    reject->add_flag("--undo", options.undo, "forget a rejection and all votes: it is asked anew");
    CLI::App* phase = app.add_subcommand("phase", "the phases of the plan");
    phase->require_subcommand(1);
    phase->footer(kPhaseFooter);
    const auto add_phase = [&](const char* name, const char* about, int (Session::*action)()) {
        CLI::App* sub = phase->add_subcommand(name, about);
        sub->footer(kPhaseFooter);
        sub->callback([&command, action] { command = action; });
        return sub;
    };
    add_phase("list", "every phase: its state, what it waits for", &Session::phases);
    CLI::App* moves[] = {
        add_phase("advance", "complete one that is accepted; the next one begins",
                  &Session::phase_advance),
        add_phase("pause", "nothing new starts there, and it does not end", &Session::phase_pause),
        add_phase("resume", "it goes on where it was paused", &Session::phase_resume)};
    for (CLI::App* sub : moves) {
        sub->add_option("PHASE", options.tag, "its name in keeld.yaml")->required();
        sub->add_option("--reason", options.why, "why, for the history")->type_name("TEXT");
        sub->add_flag("--dry-run", options.dry_run, "only say what would be done");
    }
    CLI::App* freeze =
        add("freeze", "nothing new starts in the whole cluster, at once; keelctl resume ends it",
            kPauseFooter, &Session::freeze);
    freeze->add_option("--reason", options.why, "why, for the history")->type_name("TEXT");
    freeze->add_flag("--dry-run", options.dry_run, "only say what would be done");
    CLI::App* pins = add("pins", "what every workload runs, as image fields to apply", kPinsFooter,
                         &Session::pins);
    pins->add_option("-n,--namespace", options.ns, "only of this namespace");
    pins->add_option("--format", options.format, "default: a table")
        ->check(CLI::IsMember({"yaml", "patch", "terraform"}).description(""))
        ->type_name("yaml|patch|terraform");
    CLI::App* rollback =
        add("rollback", "a workload goes back to what it ran before keeld's newest rollout",
            kRollbackFooter, &Session::rollback);
    rollback->add_option("WORKLOAD", options.workload, "KIND/NAMESPACE/NAME")->required();
    rollback->add_option("--reason", options.why, "why, for the history")->type_name("TEXT");
    rollback->add_flag("--dry-run", options.dry_run, "only say what would be done");
    CLI::App* retry =
        add("retry", "a target that failed may be rolled out again", kRetryFooter, &Session::retry);
    retry->add_option("WORKLOAD", options.workload, "KIND/NAMESPACE/NAME")->required();
    retry->add_option("--reason", options.why, "why, for the history")->type_name("TEXT");
    retry->add_flag("--dry-run", options.dry_run, "only say what would be done");
    CLI::App* migrate = app.add_subcommand("migrate", "away from what stood there before");
    migrate->require_subcommand(1);
    migrate->footer("");
    CLI::App* kyverno =
        migrate->add_subcommand("kyverno", "what a Kyverno policy stamped: listed, or removed");
    kyverno->footer(kMigrateFooter);
    kyverno->callback([&command] { command = &Session::migrate; });
    kyverno->add_option("--manager", options.managers, "a field manager, or a glob")
        ->type_name("NAME");
    kyverno->add_option("--value", options.values, "also this key with just this value")
        ->type_name("KEY=VALUE");
    auto* commands =
        kyverno->add_flag("--commands", options.commands, "kubectl lines that remove it");
    kyverno->add_flag("--apply", options.apply, "remove it")->excludes(commands);
    kyverno->add_option("--reason", options.why, "why, for the history")->type_name("TEXT");
    kyverno->add_flag("--dry-run", options.dry_run, "with --apply: only say what would be done");
    CLI::App* report = add("report", "what the phases have come to, each and all together",
                           kReportFooter, &Session::report);
    report->add_option("--phase", options.tag, "only this one")->type_name("NAME");
    report->add_option("--format", options.format, "table, json, or markdown for a page")
        ->check(CLI::IsMember({"table", "json", "markdown"}).description(""))
        ->type_name("table|json|markdown");
    CLI::App* policy = app.add_subcommand("policy", "what a policy means");
    policy->require_subcommand(0, 1)->footer("");
    CLI::App* attempt = policy->add_subcommand(
        "try", "which tag a policy would choose, and why; answered without keeld");
    PolicyTrial trial;
    bool batch = false;
    attempt->footer(kTryFooter);
    auto* rows = attempt->add_flag("--batch", batch, "many cases, from standard input");
    attempt->add_option("POLICY", trial.policy)->excludes(rows);
    attempt->add_option("REFERENCE", trial.reference)->excludes(rows);
    attempt->add_option("TAG", trial.tags)->excludes(rows);
    attempt
        ->add_option("--match-prerelease", trial.match_pre_release,
                     "whether pre-releases and counters must stay as they are")
        ->type_name("true|false")
        ->capture_default_str();
    attempt->add_option("--step", trial.step, "highest; next skips no first number")
        ->check(CLI::IsMember({"highest", "next"}).description(""))
        ->type_name("highest|next")
        ->capture_default_str();

    try {
        app.parse(argc, argv);
    } catch (const CLI::ExtrasError&) {
        err << "keelctl: \"" << printable(app.remaining(true).front())
            << "\" was not expected here; see \"" << command_line(app) << " --help\"\n";
        return kUnknown;
    } catch (const CLI::ParseError& error) {
        return app.exit(error, out, err) == 0 ? kFine : kUnknown;
    }
    if (attempt->parsed()) {
        if (batch) return try_policies(*environment.in, out, err);
        if (trial.reference.empty()) {
            err << "keelctl: policy try needs POLICY and REFERENCE, or --batch\n";
            return kUnknown;
        }
        trial.json = options.output == "json";
        return try_policy(trial, out, err);
    }
    if (command == nullptr) {
        const CLI::App* begun = audit->parsed() ? audit : policy->parsed() ? policy : nullptr;
        err << (begun == nullptr ? app.help() : begun->help("keelctl"));
        return kUnknown;
    }
    auto client = Client::open(server_of(options, environment));
    if (!client) {
        err << "keelctl: " << printable(client.error().text) << "\n";
        return kUnknown;
    }
    Session session(std::move(*client), options, environment, out, err);
    return (session.*command)();
}

}  // namespace keel::ctl
