// The ledger over the real SQLite: what is durable survives a SIGKILL, what is not stays queued,
// one keeld at a time.
#include "keeld/ledger/ledger.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "keeld/ledger/schema.h"

namespace keel {
namespace {

constexpr std::chrono::seconds kDeadline{20};

Time at(std::int64_t seconds) {
    return Time(std::chrono::seconds(seconds));
}

Entry entry(const std::string& text, Time when = at(1'700'000'000)) {
    Entry result;
    result.at = when;
    result.kind = EntryKind::decided;
    result.workload = "Deployment/website/blog";
    result.uid = "uid-1";
    result.container = "app";
    result.tag = "docker.io/library/redis:8-alpine";
    result.from = "sha256:aa";
    result.to = "sha256:bb";
    result.rollout = "r1";
    result.code = "digest-moved";
    result.cause = "event cache-a";
    result.text = text;
    return result;
}

RolloutRow rollout(const std::string& id, const std::string& state, Time intended = {},
                   Time ended = {}) {
    RolloutRow row;
    row.id = id;
    row.workload = "Deployment/website/blog";
    row.uid = "uid-1";
    row.ns = "website";
    row.state = state;
    row.targets = "[]";
    row.created = at(1'700'000'000);
    row.intended = intended;
    row.ended = ended;
    return row;
}

TagRow tag_row() {
    TagRow row;
    row.tag = "t";
    row.current = "sha256:aa";
    row.since = at(10);
    return row;
}

RejectedRow rejected_row() {
    RejectedRow row;
    row.uid = "u";
    row.tag = "t";
    row.digest = "d";
    return row;
}

class LedgerTest : public testing::Test {
  protected:
    LedgerTest() {
        std::string pattern = (std::filesystem::temp_directory_path() / "ledger-XXXXXX").string();
        directory_ = ::mkdtemp(pattern.data());
        path_ = directory_ / "ledger.db";
    }
    ~LedgerTest() override {
        std::error_code ignored;
        std::filesystem::remove_all(directory_, ignored);
    }

    std::unique_ptr<Ledger> open() {
        auto ledger = Ledger::open(loop_, path_.string());
        EXPECT_TRUE(ledger.has_value()) << ledger.error().text;
        return ledger ? std::move(*ledger) : nullptr;
    }

    // The error that open() gives.
    std::string refusal(const std::string& path) {
        auto ledger = Ledger::open(loop_, path);
        EXPECT_FALSE(ledger.has_value());
        if (ledger) return "opened";
        EXPECT_EQ(ledger.error().code, "ledger");
        return ledger.error().text;
    }

    // Starts a durable() and returns where its result will be.
    std::shared_ptr<std::optional<Expected<void>>> start(Ledger& ledger) {
        auto result = std::make_shared<std::optional<Expected<void>>>();
        asio::co_spawn(loop_, wait(ledger, result), asio::detached);
        return result;
    }

    // Runs the loop until `done`, which must happen within kDeadline.
    template <class Condition>
    void run_until(Condition done) {
        const auto end = std::chrono::steady_clock::now() + kDeadline;
        loop_.restart();
        while (!done() && std::chrono::steady_clock::now() < end) {
            loop_.restart();
            loop_.run_one_for(std::chrono::milliseconds(100));
        }
        ASSERT_TRUE(done()) << "not within the deadline";
    }

    Expected<void> durable(Ledger& ledger) {
        auto result = start(ledger);
        run_until([&] { return result->has_value(); });
        return result->has_value() ? **result : fail("test", "no answer");
    }

    // What another program reads from the file meanwhile.
    std::string read(const std::string& sql) {
        sqlite3* other = nullptr;
        std::string text = "(not opened)";
        if (sqlite3_open_v2(path_.c_str(), &other, SQLITE_OPEN_READONLY, nullptr) == SQLITE_OK) {
            sqlite3_stmt* statement = nullptr;
            if (sqlite3_prepare_v2(other, sql.c_str(), -1, &statement, nullptr) == SQLITE_OK &&
                sqlite3_step(statement) == SQLITE_ROW) {
                text = reinterpret_cast<const char*>(sqlite3_column_text(statement, 0));
            } else {
                text = sqlite3_errmsg(other);
            }
            sqlite3_finalize(statement);
        }
        sqlite3_close(other);
        return text;
    }

    void write(const std::string& sql) {
        sqlite3* other = nullptr;
        ASSERT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
        char* message = nullptr;
        EXPECT_EQ(sqlite3_exec(other, sql.c_str(), nullptr, nullptr, &message), SQLITE_OK)
            << (message == nullptr ? "" : message);
        sqlite3_free(message);
        sqlite3_close(other);
    }

    Loop loop_;
    std::filesystem::path directory_;
    std::filesystem::path path_;

  private:
    static Task<void> wait(Ledger& ledger, std::shared_ptr<std::optional<Expected<void>>> result) {
        auto done = co_await ledger.durable();
        result->emplace(std::move(done));
    }
};

TEST_F(LedgerTest, KindsHaveOneNameEach) {
    for (int i = 0; i <= static_cast<int>(EntryKind::released); ++i) {
        const auto kind = static_cast<EntryKind>(i);
        EXPECT_EQ(parse_entry_kind(to_string(kind)), kind);
    }
    EXPECT_EQ(to_string(EntryKind::intended), "intended");
    EXPECT_EQ(parse_entry_kind("Observed"), std::nullopt);
    EXPECT_EQ(parse_entry_kind(""), std::nullopt);
}

TEST_F(LedgerTest, MakesItsDatabaseOnce) {
    std::string id;
    {
        const auto ledger = open();
        ASSERT_NE(ledger, nullptr);
        EXPECT_TRUE(ledger->created());
        EXPECT_EQ(ledger->id().size(), 32U);
        id = ledger->id();
    }
    const auto again = open();
    ASSERT_NE(again, nullptr);
    EXPECT_FALSE(again->created());
    EXPECT_EQ(again->id(), id);
    EXPECT_EQ(read("PRAGMA journal_mode"), "wal");
}

TEST_F(LedgerTest, D7_EverythingComesBackAsItWasWritten) {
    {
        const auto ledger = open();
        ASSERT_NE(ledger, nullptr);
        ledger->append(entry("The tag \"moved\"; it's ünusual.\n"));
        ledger->put(SightingRow{"t", "sha256:aa", at(1), at(2), "event cache-a", true, false});
        ledger->put(
            TagRow{"t", "sha256:aa", "index", at(3), "sha256:bb", at(4), at(5), "cache-a", at(6)});
        ledger->put(CursorRow{"cache-a", "e1", 18446744073709551615U});
        ledger->put(ContentRow{"sha256:aa", "{}"});
        RolloutRow row = rollout("r1", "rolling", at(10));
        row.reason = "reason";
        row.text = "text";
        row.marker_key = "key";
        row.marker = "marker";
        row.old_marker = "old";
        row.cause = "cause";
        row.generation = 7;
        row.attempt = 2;
        row.applied = at(11);
        row.deadline = at(12);
        ledger->put(row);
        ledger->put(RejectedRow{"uid-1", "w", "t", "sha256:cc", "r0", at(6), "crashed"});
        ASSERT_TRUE(durable(*ledger));
        EXPECT_EQ(ledger->queued(), 0U);
    }
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);

    const auto entries = ledger->entries({});
    ASSERT_EQ(entries.size(), 1U);
    const Entry wanted = entry("The tag \"moved\"; it's ünusual.\n");
    EXPECT_EQ(entries[0].seq, 1U);
    EXPECT_EQ(entries[0].at, wanted.at);
    EXPECT_EQ(entries[0].kind, wanted.kind);
    EXPECT_EQ(entries[0].workload, wanted.workload);
    EXPECT_EQ(entries[0].uid, wanted.uid);
    EXPECT_EQ(entries[0].container, wanted.container);
    EXPECT_EQ(entries[0].tag, wanted.tag);
    EXPECT_EQ(entries[0].from, wanted.from);
    EXPECT_EQ(entries[0].to, wanted.to);
    EXPECT_EQ(entries[0].rollout, wanted.rollout);
    EXPECT_EQ(entries[0].code, wanted.code);
    EXPECT_EQ(entries[0].cause, wanted.cause);
    EXPECT_EQ(entries[0].text, wanted.text);

    const auto sightings = ledger->sightings();
    ASSERT_EQ(sightings.size(), 1U);
    EXPECT_EQ(sightings[0].tag, "t");
    EXPECT_EQ(sightings[0].digest, "sha256:aa");
    EXPECT_EQ(sightings[0].first_seen, at(1));
    EXPECT_EQ(sightings[0].last_seen, at(2));
    EXPECT_EQ(sightings[0].source, "event cache-a");
    EXPECT_TRUE(sightings[0].first);
    EXPECT_FALSE(sightings[0].confirmed);

    const auto tags = ledger->tags();
    ASSERT_EQ(tags.size(), 1U);
    EXPECT_EQ(tags[0].current, "sha256:aa");
    EXPECT_EQ(tags[0].kind, "index");
    EXPECT_EQ(tags[0].since, at(3));
    EXPECT_EQ(tags[0].pending, "sha256:bb");
    EXPECT_EQ(tags[0].pending_since, at(4));
    EXPECT_EQ(tags[0].confirmed_at, at(5));
    EXPECT_EQ(tags[0].confirmed_by, "cache-a");
    EXPECT_EQ(tags[0].held_at, at(6));

    const auto cursors = ledger->cursors();
    ASSERT_EQ(cursors.size(), 1U);
    EXPECT_EQ(cursors[0].epoch, "e1");
    EXPECT_EQ(cursors[0].seq, 18446744073709551615U);

    ASSERT_TRUE(ledger->content("sha256:aa").has_value());
    EXPECT_EQ(ledger->content("sha256:aa")->json, "{}");
    EXPECT_FALSE(ledger->content("sha256:bb").has_value());

    const auto rollouts = ledger->open_rollouts();
    ASSERT_EQ(rollouts.size(), 1U);
    const RolloutRow& row = rollouts[0];
    EXPECT_EQ(row.id + row.workload + row.uid + row.ns + row.state + row.reason + row.text,
              "r1Deployment/website/bloguid-1websiterollingreasontext");
    EXPECT_EQ(row.targets + row.marker_key + row.marker + row.old_marker + row.cause,
              "[]keymarkeroldcause");
    EXPECT_EQ(row.generation, 7);
    EXPECT_EQ(row.attempt, 2);
    EXPECT_EQ(row.created, at(1'700'000'000));
    EXPECT_EQ(row.intended, at(10));
    EXPECT_EQ(row.applied, at(11));
    EXPECT_EQ(row.deadline, at(12));
    EXPECT_EQ(row.ended, Time());

    const auto rejected = ledger->rejected();
    ASSERT_EQ(rejected.size(), 1U);
    EXPECT_EQ(rejected[0].uid + rejected[0].workload + rejected[0].tag + rejected[0].digest,
              "uid-1wtsha256:cc");
    EXPECT_EQ(rejected[0].rollout, "r0");
    EXPECT_EQ(rejected[0].at, at(6));
    EXPECT_EQ(rejected[0].text, "crashed");
}

TEST_F(LedgerTest, ReadsSeeCommittedRowsOnly) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ledger->put(tag_row());
    EXPECT_TRUE(ledger->tags().empty());
    EXPECT_EQ(ledger->queued(), 1U);
    ASSERT_TRUE(durable(*ledger));
    EXPECT_EQ(ledger->tags().size(), 1U);
}

TEST_F(LedgerTest, OneCommitServesEveryWaiterOfATurn) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    std::vector<std::shared_ptr<std::optional<Expected<void>>>> waiters;
    for (int i = 0; i < 50; ++i) {
        ledger->append(entry(std::to_string(i)));
        waiters.push_back(start(*ledger));
    }
    run_until([&] { return waiters.front()->has_value(); });
    EXPECT_EQ(read("SELECT count(*) FROM entries"), "50");  // with the first waiter all are there
    run_until([&] { return waiters.back()->has_value(); });
    for (const auto& waiter : waiters)
        EXPECT_TRUE((**waiter).has_value());
    EXPECT_EQ(ledger->entries({}).front().text, "49");
}

TEST_F(LedgerTest, WhatNobodyWaitsForIsWrittenToo) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ledger->append(entry("alone"));
    run_until([&] { return ledger->queued() == 0; });
    EXPECT_EQ(read("SELECT text FROM entries"), "alone");
}

TEST_F(LedgerTest, ALaterStateRowReplacesAnEarlierOne) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    for (int i = 1; i <= 100; ++i)
        ledger->put(CursorRow{"cache-a", "e", static_cast<std::uint64_t>(i)});
    EXPECT_EQ(ledger->queued(), 1U);
    ledger->put(rejected_row());
    ledger->erase_rejected("u", "t", "d");
    ASSERT_TRUE(durable(*ledger));
    EXPECT_EQ(ledger->cursors().at(0).seq, 100U);
    EXPECT_TRUE(ledger->rejected().empty());

    ledger->put(rejected_row());
    ASSERT_TRUE(durable(*ledger));
    EXPECT_EQ(ledger->rejected().size(), 1U);
    ledger->erase_rejected("u", "t", "d");
    ASSERT_TRUE(durable(*ledger));
    EXPECT_TRUE(ledger->rejected().empty());
}

TEST_F(LedgerTest, D7_TheLogIsReadInPagesAndByFilters) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    for (int i = 1; i <= 25; ++i) {
        Entry one = entry(std::to_string(i), at(1000 + i));
        if (i % 5 == 0) one.workload = "StatefulSet/db/pg";
        if (i % 2 == 0) one.kind = EntryKind::observed;
        ledger->append(one);
    }
    ASSERT_TRUE(durable(*ledger));

    EntryQuery query;
    query.limit = 10;
    auto page = ledger->entries(query);
    ASSERT_EQ(page.size(), 10U);
    EXPECT_EQ(page.front().text, "25");
    EXPECT_EQ(page.back().text, "16");
    query.after = page.back().seq;
    page = ledger->entries(query);
    EXPECT_EQ(page.front().text, "15");

    query = {};
    query.workload = "StatefulSet/db/pg";
    page = ledger->entries(query);
    ASSERT_EQ(page.size(), 5U);
    EXPECT_EQ(page.back().text, "5");
    query.kind = EntryKind::observed;
    page = ledger->entries(query);
    ASSERT_EQ(page.size(), 2U);
    EXPECT_EQ(page.front().text, "20");
    query = {};
    query.since = at(1020);
    EXPECT_EQ(ledger->entries(query).size(), 6U);
    query.limit = 0;
    EXPECT_EQ(ledger->entries(query).size(), 1U);  // at least one
}

TEST_F(LedgerTest, RolloutsKeepTheirOrderWhileTheyChange) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    for (int i = 1; i <= 5; ++i)
        ledger->put(rollout("r" + std::to_string(i), "waiting"));
    RolloutRow other = rollout("x", "waiting");
    other.workload = "Deployment/website/shop";
    ledger->put(other);
    ASSERT_TRUE(durable(*ledger));
    ledger->put(rollout("r2", "done", at(100), at(200)));
    ASSERT_TRUE(durable(*ledger));

    auto rows = ledger->rollouts("", "", 3);
    ASSERT_EQ(rows.size(), 3U);
    EXPECT_EQ(rows[0].id + rows[1].id + rows[2].id, "xr5r4");
    rows = ledger->rollouts("", "r4", 100);
    ASSERT_EQ(rows.size(), 3U);
    EXPECT_EQ(rows[0].id + rows[1].id + rows[2].id, "r3r2r1");
    EXPECT_EQ(rows[1].state, "done");
    EXPECT_EQ(ledger->rollouts("Deployment/website/shop", "", 100).size(), 1U);
    EXPECT_EQ(ledger->rollouts("Deployment/website/none", "", 100).size(), 0U);
    EXPECT_EQ(ledger->open_rollouts().size(), 5U);
    EXPECT_EQ(ledger->open_rollouts().front().id, "r1");
}

TEST_F(LedgerTest, R5_PacingCountsIntendedRolloutsOnly) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ledger->put(rollout("waits", "waiting"));
    ledger->put(rollout("old", "done", at(100), at(150)));
    ledger->put(rollout("edge", "done", at(200), at(250)));
    ledger->put(rollout("ended", "failed", at(300), at(350)));
    ledger->put(rollout("open", "rolling", at(400)));
    ASSERT_TRUE(durable(*ledger));
    const auto counted = ledger->intended_since(at(200));
    ASSERT_EQ(counted.size(), 2U);
    EXPECT_EQ(counted[0].first, at(300));
    EXPECT_EQ(counted[1].first, at(400));
    EXPECT_EQ(counted[1].second, "website");
}

TEST_F(LedgerTest, PruneTakesTheOldAndLeavesTheOpen) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    constexpr int kOld = 12'000;  // more than one pass deletes
    for (int i = 0; i < kOld; ++i)
        ledger->append(entry("old", at(10)));
    ledger->append(entry("young", at(1000)));
    ledger->put(rollout("ended", "done", at(10), at(20)));
    ledger->put(rollout("open", "rolling", at(10)));
    ledger->put(tag_row());
    ASSERT_TRUE(durable(*ledger));
    ledger->prune(at(500));
    run_until([&] { return ledger->queued() == 0; });
    const auto left = ledger->entries({});
    ASSERT_EQ(left.size(), 1U);
    EXPECT_EQ(left[0].text, "young");
    EXPECT_EQ(left[0].seq, kOld + 1U);
    ASSERT_EQ(ledger->rollouts("", "", 10).size(), 1U);
    EXPECT_EQ(ledger->rollouts("", "", 10)[0].id, "open");
    EXPECT_EQ(ledger->tags().size(), 1U);
}

TEST_F(LedgerTest, SequenceNumbersAreNeverUsedAgain) {
    {
        const auto ledger = open();
        ASSERT_NE(ledger, nullptr);
        ledger->append(entry("a", at(10)));
        ASSERT_TRUE(durable(*ledger));
        ledger->prune(at(500));
        ASSERT_TRUE(durable(*ledger));
    }
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ledger->append(entry("b"));
    ASSERT_TRUE(durable(*ledger));
    EXPECT_EQ(ledger->entries({}).at(0).seq, 2U);
}

// --- a process that dies ---

// Queues "durable", waits for it, queues "queued", tells the parent, and is killed there.
[[noreturn]] void live_until_killed(const std::string& path, int told) {
    Loop loop;
    auto ledger = Ledger::open(loop, path);
    if (!ledger) ::_exit(3);
    (*ledger)->append(entry("durable"));
    (*ledger)->put(rollout("r1", "rolling", at(10)));
    auto work = [](Ledger& book, int pipe) -> Task<void> {
        const auto done = co_await book.durable();
        if (!done) ::_exit(4);
        book.append(entry("queued"));
        book.put(rollout("r2", "rolling", at(20)));
        if (::write(pipe, "x", 1) != 1) ::_exit(5);
        for (;;)
            ::pause();
    };
    asio::co_spawn(loop, work(**ledger, told), asio::detached);
    loop.run();
    ::_exit(6);
}

TEST_F(LedgerTest, D7_SigkillKeepsWhatWasDurable) {
    int told[2];
    ASSERT_EQ(::pipe(told), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        ::close(told[0]);
        live_until_killed(path_.string(), told[1]);
    }
    ::close(told[1]);
    pollfd wait{.fd = told[0], .events = POLLIN, .revents = 0};
    ASSERT_EQ(::poll(&wait, 1, 20'000), 1);
    char byte = 0;
    ASSERT_EQ(::read(told[0], &byte, 1), 1);
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ::close(told[0]);
    ASSERT_TRUE(WIFSIGNALED(status));

    const auto ledger = open();  // the lock died with its owner
    ASSERT_NE(ledger, nullptr);
    EXPECT_FALSE(ledger->created());
    const auto entries = ledger->entries({});
    ASSERT_EQ(entries.size(), 1U);
    EXPECT_EQ(entries[0].text, "durable");
    ASSERT_EQ(ledger->open_rollouts().size(), 1U);
    EXPECT_EQ(ledger->open_rollouts()[0].id, "r1");
}

// --- disks that do not play along ---

// Files of this process may not grow over `bytes` while it lives; a write that would gives EFBIG,
// which SQLite reports as it reports a full disk.
class FileSizeLimit {
  public:
    explicit FileSizeLimit(rlim_t bytes) {
        previous_handler_ = ::signal(SIGXFSZ, SIG_IGN);
        ::getrlimit(RLIMIT_FSIZE, &previous_);
        rlimit limit = previous_;
        limit.rlim_cur = bytes;
        ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    ~FileSizeLimit() {
        ::setrlimit(RLIMIT_FSIZE, &previous_);
        ::signal(SIGXFSZ, previous_handler_);
    }
    FileSizeLimit(const FileSizeLimit&) = delete;
    FileSizeLimit& operator=(const FileSizeLimit&) = delete;

  private:
    rlimit previous_{};
    void (*previous_handler_)(int) = SIG_DFL;
};

TEST_F(LedgerTest, D7_AFullDiskDelaysAndLosesNothing) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ledger->append(entry("before"));
    ASSERT_TRUE(durable(*ledger));
    std::shared_ptr<std::optional<Expected<void>>> second;
    {
        const auto size = std::filesystem::file_size(path_.string() + "-wal");
        const FileSizeLimit full(size + 100);
        ledger->append(entry(std::string(50'000, 'x')));
        ledger->append(entry("after"));
        const auto refused = durable(*ledger);
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, "ledger");
        EXPECT_NE(refused.error().text.find(path_.string()), std::string::npos);
        EXPECT_NE(refused.error().text.find("2 changes"), std::string::npos)
            << refused.error().text;
        EXPECT_EQ(ledger->problem(), refused.error().text);
        EXPECT_EQ(ledger->queued(), 2U);
        EXPECT_EQ(ledger->entries({}).size(), 1U);
        // Asked again, it is tried again.
        EXPECT_FALSE(durable(*ledger));
        EXPECT_EQ(ledger->queued(), 2U);
    }
    // Room again: the retry of each second writes it, nobody has to ask.
    run_until([&] { return ledger->queued() == 0; });
    EXPECT_EQ(ledger->problem(), "");
    const auto entries = ledger->entries({});
    ASSERT_EQ(entries.size(), 3U);
    EXPECT_EQ(entries[0].text, "after");
    EXPECT_EQ(entries[1].text.size(), 50'000U);
    EXPECT_EQ(entries[0].seq, 3U);
}

TEST_F(LedgerTest, AnotherWriterDelaysOnly) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    sqlite3* other = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
    ledger->append(entry("late"));
    const auto refused = durable(*ledger);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().text.find("locked"), std::string::npos) << refused.error().text;
    ASSERT_EQ(sqlite3_exec(other, "ROLLBACK", nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(other);
    EXPECT_TRUE(durable(*ledger));
    EXPECT_EQ(ledger->entries({}).size(), 1U);
}

TEST_F(LedgerTest, ACancelledWaiterLeavesTheOthersAlone) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ledger->append(entry("one"));
    asio::cancellation_signal signal;
    auto cancelled = std::make_shared<std::optional<Expected<void>>>();
    bool ended = false;
    auto wait = [](Ledger& book,
                   std::shared_ptr<std::optional<Expected<void>>> result) -> Task<void> {
        auto done = co_await book.durable();
        result->emplace(std::move(done));
    };
    asio::co_spawn(
        loop_, wait(*ledger, cancelled),
        asio::bind_cancellation_slot(signal.slot(), [&](std::exception_ptr) { ended = true; }));
    auto other = start(*ledger);
    loop_.restart();
    loop_.run_one();  // the first waits now
    signal.emit(asio::cancellation_type::terminal);
    run_until([&] { return ended && other->has_value(); });
    EXPECT_TRUE((**other).has_value());
    EXPECT_EQ(ledger->entries({}).size(), 1U);
}

// --- files that are not ours ---

TEST_F(LedgerTest, E2_ASecondKeeldIsRefusedByName) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    const std::string text = refusal(path_.string());
    EXPECT_NE(text.find("used by another keeld"), std::string::npos) << text;
    EXPECT_NE(text.find("process " + std::to_string(::getpid())), std::string::npos) << text;
    std::filesystem::create_symlink(path_, directory_ / "other-name.db");
    EXPECT_NE(refusal((directory_ / "other-name.db").string()).find("used by another"),
              std::string::npos);
    // It still works, and others may read it meanwhile.
    ledger->append(entry("on"));
    ASSERT_TRUE(durable(*ledger));
    EXPECT_EQ(read("SELECT at || ' ' || text FROM history"), "2023-11-14T22:13:20.000Z on");
}

TEST_F(LedgerTest, E2_APlaceThatCannotBeWrittenIsNamed) {
    const std::string missing = (directory_ / "no/such/ledger.db").string();
    const std::string text = refusal(missing);
    EXPECT_NE(text.find("not writable"), std::string::npos) << text;
    EXPECT_NE(text.find((directory_ / "no/such").string() + " must exist"), std::string::npos)
        << text;
    EXPECT_NE(refusal(directory_.string()).find("cannot be opened"), std::string::npos);
}

TEST_F(LedgerTest, E2_ADamagedFileIsRefusedAndLeftAlone) {
    const std::string garbage(8192, 'g');
    std::ofstream(path_) << garbage;
    const std::string text = refusal(path_.string());
    EXPECT_NE(text.find("not a database"), std::string::npos) << text;
    EXPECT_NE(text.find("restore it"), std::string::npos) << text;
    std::ifstream file(path_);
    const std::string still((std::istreambuf_iterator<char>(file)), {});
    EXPECT_EQ(still, garbage);
}

TEST_F(LedgerTest, E2_DamageInsideTheStateTablesIsFoundAtStart) {
    {
        const auto ledger = open();
        ASSERT_NE(ledger, nullptr);
        for (int i = 0; i < 2000; ++i)
            ledger->put(rollout("r" + std::to_string(i), "rolling", at(10)));
        ASSERT_TRUE(durable(*ledger));
    }
    write("PRAGMA wal_checkpoint(TRUNCATE)");
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    const auto size = static_cast<std::streamoff>(std::filesystem::file_size(path_));
    for (std::streamoff page = 40 * 4096; page < size; page += 4096) {
        file.seekp(page);
        file << std::string(512, '\xff');
    }
    file.close();
    const std::string text = refusal(path_.string());
    EXPECT_NE(text.find("cannot be used"), std::string::npos) << text;
}

TEST_F(LedgerTest, E2_DamageFoundWhileReadingStopsEverything) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    for (int i = 0; i < 5000; ++i)
        ledger->append(entry(std::string(400, 'x')));
    ASSERT_TRUE(durable(*ledger));
    write("PRAGMA wal_checkpoint(TRUNCATE)");
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    const auto size = static_cast<std::streamoff>(std::filesystem::file_size(path_));
    for (std::streamoff page = 60 * 4096; page < size; page += 4096) {
        file.seekp(page);
        file << std::string(512, '\xff');
    }
    file.close();
    EntryQuery query;
    query.limit = 1000;
    std::optional<std::uint64_t> after;
    for (int page = 0; page < 6 && ledger->problem().empty(); ++page) {
        const auto entries = ledger->entries(query);
        if (entries.empty()) break;
        query.after = entries.back().seq;
    }
    EXPECT_NE(ledger->problem().find("cannot be read"), std::string::npos) << ledger->problem();
    ledger->append(entry("more"));
    EXPECT_FALSE(durable(*ledger));
}

TEST_F(LedgerTest, E2_ANewerSchemaIsRefusedAndLeftAlone) {
    ASSERT_NE(open(), nullptr);
    write("UPDATE meta SET value = '99' WHERE key = 'schema'");
    const std::string text = refusal(path_.string());
    EXPECT_NE(text.find("newer than this keeld (schema 99"), std::string::npos) << text;
    EXPECT_EQ(read("SELECT value FROM meta WHERE key = 'schema'"), "99");
}

TEST_F(LedgerTest, D7_HoldsComeBackAsTheyWereWritten) {
    const HoldRow hold{"t",   "sha256:aa", "id-1", "alice", "why \"so\"",
                       at(1), at(2),       true,   at(3),   "bob"};
    {
        const auto ledger = open();
        ASSERT_NE(ledger, nullptr);
        HoldRow before = hold;
        before.digest = "sha256:00";
        ledger->put(before);
        ledger->put(hold);
        ledger->put(PlacedRow{"cache-a", "t", "sha256:aa", "keeld", at(4), "why", at(6)});
        ledger->put(PlacedRow{"cache-b", "t", "sha256:aa", "", at(5), "", {}});
        ledger->put(PlacedRow{"cache-c", "t", "sha256:aa", "", at(5), "", {}});
        ASSERT_TRUE(durable(*ledger));
        ledger->erase_placed("cache-c", "t");
        ASSERT_TRUE(durable(*ledger));
    }
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    const auto holds = ledger->holds();
    ASSERT_EQ(holds.size(), 1U);
    EXPECT_EQ(holds[0].tag + holds[0].digest + holds[0].id + holds[0].author,
              "tsha256:aaid-1alice");
    EXPECT_EQ(holds[0].reason + holds[0].lifted_by, "why \"so\"bob");
    EXPECT_EQ(holds[0].since, at(1));
    EXPECT_EQ(holds[0].until, at(2));
    EXPECT_TRUE(holds[0].forced);
    EXPECT_EQ(holds[0].lifted, at(3));
    const auto placed = ledger->placed();
    ASSERT_EQ(placed.size(), 2U);
    EXPECT_EQ(placed[0].cache + placed[0].tag + placed[0].digest + placed[0].owner,
              "cache-atsha256:aakeeld");
    EXPECT_EQ(placed[0].verified, at(4));
    EXPECT_EQ(placed[0].reason, "why");
    EXPECT_EQ(placed[0].until, at(6));
    EXPECT_EQ(placed[1].until, Time{});
    // One that is still to be lifted somewhere outlives its age.
    ledger->prune(at(100));
    ASSERT_TRUE(durable(*ledger));
    EXPECT_EQ(ledger->holds().size(), 1U);
    ledger->erase_placed("cache-a", "t");
    ledger->erase_placed("cache-b", "t");
    ledger->prune(at(100));
    ASSERT_TRUE(durable(*ledger));
    EXPECT_TRUE(ledger->holds().empty());
}

TEST_F(LedgerTest, AnOlderLedgerIsBroughtUpToDate) {
    {
        const auto ledger = open();
        ASSERT_NE(ledger, nullptr);
        ledger->put(TagRow{"t", "sha256:aa", "index", at(3), "", {}, at(5), "cache-a", {}});
        ASSERT_TRUE(durable(*ledger));
    }
    write(
        "DROP TABLE holds; DROP TABLE placed; ALTER TABLE tags DROP COLUMN held_at; "
        "DROP TABLE listings; DROP TABLE listed; DROP TABLE documents; "
        "UPDATE meta SET value = '1' WHERE key = 'schema'");
    EXPECT_TRUE(Ledger::check(path_.string()));
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ASSERT_EQ(ledger->tags().size(), 1U);
    EXPECT_EQ(ledger->tags()[0].current, "sha256:aa");
    EXPECT_EQ(ledger->tags()[0].held_at, Time{});
    EXPECT_TRUE(ledger->holds().empty());
    EXPECT_EQ(read("SELECT value FROM meta WHERE key = 'schema'"), std::to_string(kLedgerSchema));
}

TEST_F(LedgerTest, AnOlderLedgerKnowsItsHoldsByWhatWasWanted) {
    {
        const auto ledger = open();
        ASSERT_NE(ledger, nullptr);
        ledger->put(HoldRow{"t", "sha256:aa", "id", "alice", "why", at(1), at(2), false, {}, ""});
        ledger->put(PlacedRow{"cache-a", "t", "sha256:aa", "", at(4), "", {}});
        ASSERT_TRUE(durable(*ledger));
    }
    write(
        "ALTER TABLE placed DROP COLUMN reason; ALTER TABLE placed DROP COLUMN until; "
        "DROP TABLE listings; DROP TABLE listed; DROP TABLE documents; "
        "UPDATE meta SET value = '2' WHERE key = 'schema'");
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ASSERT_EQ(ledger->placed().size(), 1U);
    EXPECT_EQ(ledger->placed()[0].reason, "why");
    EXPECT_EQ(ledger->placed()[0].until, at(2));
}

TEST_F(LedgerTest, ListsOfTagsAreKeptAndWhatTheyLackForLongIsNot) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ledger->put(ListingRow{"docker.io", "library/redis", 7, at(9), true});
    ledger->put(ListedRow{"docker.io", "library/redis", "8", 2, {}});
    ledger->put(ListedRow{"docker.io", "library/redis", "7", 1, {}});
    ASSERT_TRUE(durable(*ledger));
    ledger->put(ListedRow{"docker.io", "library/redis", "7", 1, at(8)});
    ASSERT_TRUE(durable(*ledger));
    ASSERT_EQ(ledger->listings().size(), 1U);
    EXPECT_EQ(ledger->listings()[0].number, 7U);
    EXPECT_EQ(ledger->listings()[0].at, at(9));
    EXPECT_TRUE(ledger->listings()[0].complete);
    ASSERT_EQ(ledger->listed().size(), 2U);
    EXPECT_EQ(ledger->listed()[0].name, "7");
    EXPECT_EQ(ledger->listed()[0].gone, at(8));
    EXPECT_EQ(ledger->listed()[1].first, 2U);
    ledger->prune(at(100));
    ASSERT_TRUE(durable(*ledger));
    ASSERT_EQ(ledger->listed().size(), 1U);
    EXPECT_EQ(ledger->listed()[0].name, "8");
}

TEST_F(LedgerTest, DocumentsAreKeptByKindAndKeyUntilTheyAreErased) {
    auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    ledger->put(DocumentRow{"pause", "namespace/shop", "{}"});
    ledger->put(DocumentRow{"pause", "cluster", R"({"by":"one"})"});
    ledger->put(DocumentRow{"phase", "cluster", R"({"state":"active"})"});
    ASSERT_TRUE(durable(*ledger));
    ledger->put(DocumentRow{"pause", "cluster", R"({"by":"two"})"});
    ledger->erase_document("pause", "namespace/shop");
    ASSERT_TRUE(durable(*ledger));
    ledger.reset();
    ledger = open();
    ASSERT_NE(ledger, nullptr);
    const std::vector<DocumentRow> pauses = ledger->documents("pause");
    ASSERT_EQ(pauses.size(), 1U);
    EXPECT_EQ(pauses[0].key, "cluster");
    EXPECT_EQ(pauses[0].json, R"({"by":"two"})");
    EXPECT_EQ(ledger->documents("phase").size(), 1U);
    EXPECT_TRUE(ledger->documents("approval").empty());
}

TEST_F(LedgerTest, E2_AnotherProgramsDatabaseIsRefusedAndLeftAlone) {
    write("CREATE TABLE recipes (name TEXT)");
    const std::string text = refusal(path_.string());
    EXPECT_NE(text.find("another program's database"), std::string::npos) << text;
    EXPECT_EQ(read("SELECT group_concat(name) FROM sqlite_master"), "recipes");
    EXPECT_EQ(read("PRAGMA journal_mode"), "delete");
}

TEST_F(LedgerTest, E2_CheckChangesNothing) {
    EXPECT_TRUE(Ledger::check(path_.string()));
    EXPECT_TRUE(std::filesystem::is_empty(directory_));
    const auto missing = Ledger::check((directory_ / "no/ledger.db").string());
    ASSERT_FALSE(missing);
    EXPECT_NE(missing.error().text.find((directory_ / "no").string() + " must exist"),
              std::string::npos);
    {
        const auto ledger = open();
        ASSERT_NE(ledger, nullptr);
        EXPECT_TRUE(Ledger::check(path_.string()));  // also while it is used
        ledger->append(entry("on"));
        EXPECT_TRUE(durable(*ledger));
    }
    write("UPDATE meta SET value = '99' WHERE key = 'schema'");
    const auto newer = Ledger::check(path_.string());
    ASSERT_FALSE(newer);
    EXPECT_NE(newer.error().text.find("newer than this keeld"), std::string::npos);
    std::ofstream(path_) << std::string(8192, 'g');
    const auto garbage = Ledger::check(path_.string());
    ASSERT_FALSE(garbage);
    EXPECT_NE(garbage.error().text.find("not a database"), std::string::npos);
}

TEST_F(LedgerTest, MemoryLedgerNeedsNoFile) {
    auto ledger = Ledger::open(loop_, ":memory:");
    ASSERT_TRUE(ledger.has_value()) << ledger.error().text;
    (*ledger)->append(entry("here"));
    EXPECT_TRUE(durable(**ledger));
    EXPECT_EQ((*ledger)->entries({}).size(), 1U);
}

// The reads that the API offers do not walk through the whole log.
TEST_F(LedgerTest, E1_ReadsUseTheirIndices) {
    const auto ledger = open();
    ASSERT_NE(ledger, nullptr);
    const auto plan = [&](const std::string& sql) {
        sqlite3* other = nullptr;
        EXPECT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
        sqlite3_stmt* statement = nullptr;
        EXPECT_EQ(sqlite3_prepare_v2(other, ("EXPLAIN QUERY PLAN " + sql).c_str(), -1, &statement,
                                     nullptr),
                  SQLITE_OK);
        std::string text;
        while (sqlite3_step(statement) == SQLITE_ROW) {
            text += reinterpret_cast<const char*>(sqlite3_column_text(statement, 3));
        }
        sqlite3_finalize(statement);
        sqlite3_close(other);
        return text;
    };
    EXPECT_NE(plan("SELECT * FROM entries WHERE workload = ?1 AND workload <> '' ORDER BY seq DESC "
                   "LIMIT 10")
                  .find("entries_workload"),
              std::string::npos);
    EXPECT_NE(plan("SELECT * FROM rollouts WHERE ended = 0 ORDER BY n").find("rollouts_open"),
              std::string::npos);
    EXPECT_NE(plan("SELECT intended, ns FROM rollouts WHERE intended <> 0 AND intended > ?1 ORDER "
                   "BY intended")
                  .find("rollouts_intended"),
              std::string::npos);
}

}  // namespace
}  // namespace keel
