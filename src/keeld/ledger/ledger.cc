#include "keeld/ledger/ledger.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <variant>

#include "keeld/ledger/schema.h"
#include "keeld/ledger/sqlite.h"
#include "keeld/random_id.h"

namespace keel {
namespace {

constexpr std::array<std::string_view, 13> kKinds{
    "observed", "received", "decided", "intended", "applied", "verified", "outcome",
    "refused",  "started",  "held",    "released", "ordered", "planned"};
constexpr std::chrono::seconds kRetry{1};
// A prune deletes so many rows at a time, so that the loop is not held up after a long pause.
constexpr std::int64_t kPruneRows = 5000;
constexpr std::string_view kMemory = ":memory:";

struct EraseRejected {
    std::string uid;
    std::string tag;
    std::string digest;
};

struct ErasePlaced {
    std::string cache;
    std::string tag;
};

struct EraseDocument {
    std::string kind;
    std::string key;
};

struct Prune {
    Time before;
};

using Operation = std::variant<Entry, SightingRow, TagRow, CursorRow, ContentRow, RolloutRow,
                               RejectedRow, EraseRejected, HoldRow, PlacedRow, ErasePlaced,
                               ListingRow, ListedRow, DocumentRow, EraseDocument, Prune>;

std::int64_t millis(Time time) {
    return time.time_since_epoch().count();
}
Time time_of(std::int64_t millis) {
    return Time(Millis(millis));
}

std::string message_of(int number) {
    return std::generic_category().message(number);
}

// The advisory lock beside the database that makes one keeld its only owner. Apart from SQLite's
// own locks, so that others may read. The file stays: removing it would race with the next owner.
class OwnerLock {
  public:
    OwnerLock() = default;
    OwnerLock(OwnerLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    OwnerLock& operator=(OwnerLock&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~OwnerLock() {
        if (fd_ >= 0) ::close(fd_);
    }

    [[nodiscard]] static Expected<OwnerLock> take(const std::string& database) {
        const std::string path = database + ".lock";
        OwnerLock lock;
        lock.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (lock.fd_ < 0) {
            const std::string directory = std::filesystem::path(database).parent_path().string();
            return fail("ledger", database + ": not writable: " + path + ": " + message_of(errno) +
                                      "; " + directory + " must exist and be writable for keeld");
        }
        if (::flock(lock.fd_, LOCK_EX | LOCK_NB) != 0) {
            if (errno != EWOULDBLOCK) {
                return fail("ledger", database + ": cannot be locked: " + message_of(errno));
            }
            return fail("ledger", database + ": used by another keeld" + owner(lock.fd_) +
                                      "; stop that one or give this one another ledger.path");
        }
        // For people and for the message above; the lock itself does not depend on it.
        const std::string pid = std::to_string(::getpid()) + "\n";
        if (::ftruncate(lock.fd_, 0) == 0) {
            [[maybe_unused]] const auto written = ::pwrite(lock.fd_, pid.data(), pid.size(), 0);
        }
        return lock;
    }

  private:
    static std::string owner(int fd) {
        std::array<char, 16> text{};
        const auto size = ::pread(fd, text.data(), text.size(), 0);
        int pid = 0;
        if (size <= 0 || std::from_chars(text.data(), text.data() + size, pid).ec != std::errc()) {
            return {};
        }
        return " (process " + std::to_string(pid) + ")";
    }

    int fd_ = -1;
};

// The statement that writes a row of `columns` and replaces the one with the same `key` columns, if
// any.
std::string upsert(std::string_view table, std::string_view key,
                   std::initializer_list<std::string_view> columns) {
    std::string names;
    std::string marks;
    std::string sets;
    for (const std::string_view column : columns) {
        const std::string separator = names.empty() ? "" : ", ";
        names.append(separator).append(column);
        marks.append(separator).append("?");
        sets.append(separator).append(column).append(" = excluded.").append(column);
    }
    std::string sql = "INSERT INTO ";
    sql.append(table).append(" (").append(names).append(") VALUES (").append(marks);
    sql.append(") ON CONFLICT (").append(key).append(") DO UPDATE SET ").append(sets);
    return sql;
}

constexpr const char* kSightingColumns =
    "tag, digest, first_seen, last_seen, source, first, confirmed";
constexpr const char* kTagColumns =
    "tag, current, kind, since, pending, pending_since, confirmed_at, confirmed_by, held_at";
constexpr const char* kRolloutColumns =
    "id, workload, uid, ns, state, reason, text, targets, marker_key, marker, old_marker, cause, "
    "generation, attempt, created, intended, applied, deadline, ended";
constexpr const char* kEntryColumns =
    R"(seq, at, kind, workload, uid, container, tag, "from", "to", rollout, code, cause, text)";

SightingRow read_sighting(const Statement& row) {
    return {.tag = row.text(0),
            .digest = row.text(1),
            .first_seen = time_of(row.number(2)),
            .last_seen = time_of(row.number(3)),
            .source = row.text(4),
            .first = row.number(5) != 0,
            .confirmed = row.number(6) != 0};
}

TagRow read_tag(const Statement& row) {
    return {.tag = row.text(0),
            .current = row.text(1),
            .kind = row.text(2),
            .since = time_of(row.number(3)),
            .pending = row.text(4),
            .pending_since = time_of(row.number(5)),
            .confirmed_at = time_of(row.number(6)),
            .confirmed_by = row.text(7),
            .held_at = time_of(row.number(8))};
}

CursorRow read_cursor(const Statement& row) {
    return {.cache = row.text(0),
            .epoch = row.text(1),
            .seq = static_cast<std::uint64_t>(row.number(2))};
}

ContentRow read_content(const Statement& row) {
    return {.digest = row.text(0), .json = row.text(1)};
}

RolloutRow read_rollout(const Statement& row) {
    return {.id = row.text(0),
            .workload = row.text(1),
            .uid = row.text(2),
            .ns = row.text(3),
            .state = row.text(4),
            .reason = row.text(5),
            .text = row.text(6),
            .targets = row.text(7),
            .marker_key = row.text(8),
            .marker = row.text(9),
            .old_marker = row.text(10),
            .cause = row.text(11),
            .generation = row.number(12),
            .attempt = static_cast<int>(row.number(13)),
            .created = time_of(row.number(14)),
            .intended = time_of(row.number(15)),
            .applied = time_of(row.number(16)),
            .deadline = time_of(row.number(17)),
            .ended = time_of(row.number(18))};
}

RejectedRow read_rejected(const Statement& row) {
    return {.uid = row.text(0),
            .workload = row.text(1),
            .tag = row.text(2),
            .digest = row.text(3),
            .rollout = row.text(4),
            .at = time_of(row.number(5)),
            .text = row.text(6)};
}

HoldRow read_hold(const Statement& row) {
    return {.tag = row.text(0),
            .digest = row.text(1),
            .id = row.text(2),
            .author = row.text(3),
            .reason = row.text(4),
            .since = time_of(row.number(5)),
            .until = time_of(row.number(6)),
            .forced = row.number(7) != 0,
            .lifted = time_of(row.number(8)),
            .lifted_by = row.text(9)};
}

PlacedRow read_placed(const Statement& row) {
    return {.cache = row.text(0),
            .tag = row.text(1),
            .digest = row.text(2),
            .owner = row.text(3),
            .verified = time_of(row.number(4)),
            .reason = row.text(5),
            .until = time_of(row.number(6))};
}

ListingRow read_listing(const Statement& row) {
    return {.registry = row.text(0),
            .repository = row.text(1),
            .number = static_cast<std::uint64_t>(row.number(2)),
            .at = time_of(row.number(3)),
            .complete = row.number(4) != 0};
}

ListedRow read_listed(const Statement& row) {
    return {.registry = row.text(0),
            .repository = row.text(1),
            .name = row.text(2),
            .first = static_cast<std::uint64_t>(row.number(3)),
            .gone = time_of(row.number(4))};
}

DocumentRow read_document(const Statement& row) {
    return {.kind = row.text(0), .key = row.text(1), .json = row.text(2)};
}

std::pair<Time, std::string> read_intended(const Statement& row) {
    return {time_of(row.number(0)), row.text(1)};
}

Entry read_entry(const Statement& row) {
    return {.seq = static_cast<std::uint64_t>(row.number(0)),
            .at = time_of(row.number(1)),
            .kind = parse_entry_kind(row.text(2)).value_or(EntryKind::observed),
            .workload = row.text(3),
            .uid = row.text(4),
            .container = row.text(5),
            .tag = row.text(6),
            .from = row.text(7),
            .to = row.text(8),
            .rollout = row.text(9),
            .code = row.text(10),
            .cause = row.text(11),
            .text = row.text(12)};
}

// Turns what SQLite says of a file that cannot be used into what a person can do about it.
tl::unexpected<Error> unusable(const std::string& path, const Error& cause) {
    return fail("ledger", path + ": cannot be used: " + cause.text +
                              "; restore it from a copy, or move it away: keeld then begins a new "
                              "one and only observes");
}

struct Found {
    bool empty = false;  // nothing in it yet
    int schema = 0;
};

// Whose database it is, before anything that would change it.
Expected<Found> inspect(Database& database, const std::string& path) {
    const auto application = database.value("PRAGMA application_id");
    if (!application) return unusable(path, application.error());
    const auto tables = database.value("SELECT count(*) FROM sqlite_master");
    if (!tables) return unusable(path, tables.error());
    Found found;
    found.empty = *tables == "0";
    if (found.empty) return found;
    if (*application != std::to_string(kLedgerApplication)) {
        return fail("ledger",
                    path + ": is another program's database; give keeld a ledger.path of its own");
    }
    const auto schema = database.value("SELECT value FROM meta WHERE key = 'schema'");
    if (!schema) return unusable(path, schema.error());
    const char* end = schema->data() + schema->size();
    if (std::from_chars(schema->data(), end, found.schema).ec != std::errc()) {
        return unusable(path, Error{"ledger", "its schema number is missing"});
    }
    if (found.schema > kLedgerSchema) {
        return fail("ledger", path + ": newer than this keeld (schema " + *schema +
                                  ", this one knows " + std::to_string(kLedgerSchema) +
                                  "); use the keeld that wrote it, or a later one");
    }
    return found;
}

// The tables that decisions rest on; the log itself may be large, and a hole in it misleads nobody.
Expected<void> check_state(Database& database, const std::string& path) {
    for (const char* table : {"rollouts", "rejected", "tags", "sightings", "cursors", "holds",
                              "placed", "listings", "listed", "documents"}) {
        const auto there = database.value(
            std::string("SELECT count(*) FROM sqlite_master WHERE name = '") + table + "'");
        if (!there) return unusable(path, there.error());
        if (*there == "0") continue;  // of a schema that is still to be migrated
        const auto check = database.value(std::string("PRAGMA quick_check(") + table + ")");
        if (!check) return unusable(path, check.error());
        if (*check != "ok") {
            return unusable(path, Error{"ledger", std::string(table) + ": " + *check});
        }
    }
    return {};
}

// A ledger reached by two names is still one.
std::string real_path(const std::string& path) {
    std::error_code ignored;
    const auto canonical = std::filesystem::weakly_canonical(path, ignored);
    return ignored ? path : canonical.string();
}

}  // namespace

std::string_view to_string(EntryKind kind) {
    return kKinds.at(static_cast<std::size_t>(kind));
}

std::optional<EntryKind> parse_entry_kind(std::string_view text) {
    const auto* found = std::find(kKinds.begin(), kKinds.end(), text);
    if (found == kKinds.end()) return std::nullopt;
    return static_cast<EntryKind>(found - kKinds.begin());
}

class Ledger::Impl {
  public:
    Impl(Loop& loop, std::string path, OwnerLock lock, Database database)
        : loop_(loop),
          path_(std::move(path)),
          lock_(std::move(lock)),
          database_(std::move(database)),
          retry_(loop) {}

    ~Impl() {
        // What nobody waited for is worth a last try; a waiter learns how it went.
        try {
            retry_.cancel();
            finish(commit());
        } catch (const std::exception&) {
            // No memory: what is queued is lost, as with a SIGKILL.
        }
    }

    Expected<void> prepare();

    void push(Operation operation, std::string key);
    Task<Expected<void>> durable();

    template <class Row>
    std::vector<Row> rows(
        const std::string& sql, Row (*read)(const Statement&),
        const std::vector<std::variant<std::int64_t, std::string>>& values = {}) const;

    [[nodiscard]] const std::string& problem() const {
        return damage_.empty() ? problem_ : damage_;
    }

    std::string id_;
    bool created_ = false;
    std::vector<Operation> queue_;

  private:
    // What the waiters of one commit share. The timer never expires: cancelling it wakes them.
    struct Turn {
        explicit Turn(Loop& loop) : done(loop, asio::steady_timer::time_point::max()) {}
        asio::steady_timer done;
        Expected<void> result = fail("ledger", "the wait was cancelled");
    };

    Expected<void> create_or_migrate(int from);
    Expected<void> apply(const Entry& entry);
    Expected<void> apply(const SightingRow& row);
    Expected<void> apply(const TagRow& row);
    Expected<void> apply(const CursorRow& row);
    Expected<void> apply(const ContentRow& row);
    Expected<void> apply(const RolloutRow& row);
    Expected<void> apply(const RejectedRow& row);
    Expected<void> apply(const EraseRejected& row);
    Expected<void> apply(const HoldRow& row);
    Expected<void> apply(const PlacedRow& row);
    Expected<void> apply(const ErasePlaced& row);
    Expected<void> apply(const ListingRow& row);
    Expected<void> apply(const ListedRow& row);
    Expected<void> apply(const DocumentRow& row);
    Expected<void> apply(const EraseDocument& row);
    Expected<void> apply(const Prune& prune);

    Expected<void> write_queue();
    Expected<void> commit();
    void finish(const Expected<void>& result);
    void arm_retry();

    Loop& loop_;
    std::string path_;
    std::string problem_;
    OwnerLock lock_;  // outlives the database
    mutable Database database_;
    asio::steady_timer retry_;
    bool armed_ = false;
    std::shared_ptr<Turn> turn_;  // of the commit that is posted
    // State rows in the queue by table and key: a later one takes the place of an earlier one, so
    // that a ledger that cannot write does not grow without end. All of the queue is one
    // transaction, so nothing else can see a difference.
    std::unordered_map<std::string, std::size_t> latest_;
    bool more_to_prune_ = false;
    mutable std::string
        damage_;  // a read that failed: from then on nothing is durable, so nobody acts
    std::shared_ptr<char> alive_ = std::make_shared<char>();

    Statement begin_, commit_, rollback_;
    Statement entry_, sighting_, tag_, cursor_, content_, rollout_, rejected_, erase_rejected_;
    Statement hold_, placed_, erase_placed_, listing_, listed_, document_, erase_document_;
    Statement prune_entries_, prune_rollouts_, prune_holds_, prune_listed_;
};

Expected<void> Ledger::Impl::prepare() {
    const auto found = inspect(database_, path_);
    if (!found) return tl::unexpected(found.error());
    created_ = found->empty;

    const auto journal = database_.value("PRAGMA journal_mode = WAL");
    if (!journal) return unusable(path_, journal.error());
    if (*journal != "wal" && path_ != kMemory) {
        return fail(
            "ledger",
            path_ + ": this file system cannot do SQLite's WAL (it is a network file system?)");
    }
    // FULL: a commit returns after its fsync. The cache is small because reads are few.
    auto done = database_.execute(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -1024; PRAGMA journal_size_limit = "
        "4194304; "
        "PRAGMA trusted_schema = OFF");
    if (!done) return unusable(path_, done.error());
    if (found->schema < kLedgerSchema) {
        done = create_or_migrate(found->schema);
        if (!done) return unusable(path_, done.error());
    }
    if (auto sound = check_state(database_, path_); !sound) return sound;
    const auto id = database_.value("SELECT value FROM meta WHERE key = 'id'");
    if (!id) return unusable(path_, id.error());
    id_ = *id;

    const std::pair<Statement&, std::string> statements[] = {
        {begin_, "BEGIN IMMEDIATE"},
        {commit_, "COMMIT"},
        {rollback_, "ROLLBACK"},
        {entry_,
         R"(INSERT INTO entries (at, kind, workload, uid, container, tag, "from", "to", rollout, code,
            cause, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?))"},
        {sighting_,
         upsert("sightings", "tag, digest",
                {"tag", "digest", "first_seen", "last_seen", "source", "first", "confirmed"})},
        {tag_, upsert("tags", "tag",
                      {"tag", "current", "kind", "since", "pending", "pending_since",
                       "confirmed_at", "confirmed_by", "held_at"})},
        {cursor_, upsert("cursors", "cache", {"cache", "epoch", "seq"})},
        {content_, upsert("contents", "digest", {"digest", "json"})},
        {rollout_, upsert("rollouts", "id",
                          {"id", "workload", "uid", "ns", "state", "reason", "text", "targets",
                           "marker_key", "marker", "old_marker", "cause", "generation", "attempt",
                           "created", "intended", "applied", "deadline", "ended"})},
        {rejected_, upsert("rejected", "uid, tag, digest",
                           {"uid", "workload", "tag", "digest", "rollout", "at", "text"})},
        {erase_rejected_, "DELETE FROM rejected WHERE uid = ? AND tag = ? AND digest = ?"},
        {prune_entries_,
         "DELETE FROM entries WHERE seq IN (SELECT seq FROM entries WHERE at < ? LIMIT ?)"},
        {prune_rollouts_,
         "DELETE FROM rollouts WHERE n IN (SELECT n FROM rollouts WHERE ended <> 0 AND ended < ? "
         "LIMIT ?)"},
        {hold_, upsert("holds", "tag",
                       {"tag", "digest", "id", "author", "reason", "since", "until", "forced",
                        "lifted", "lifted_by"})},
        {placed_, upsert("placed", "cache, tag",
                         {"cache", "tag", "digest", "owner", "verified", "reason", "until"})},
        {erase_placed_, "DELETE FROM placed WHERE cache = ? AND tag = ?"},
        {prune_holds_,
         "DELETE FROM holds WHERE tag IN (SELECT tag FROM holds WHERE lifted <> 0 AND lifted < ? "
         "AND tag NOT IN (SELECT tag FROM placed) LIMIT ?)"},
        {listing_, upsert("listings", "registry, repository",
                          {"registry", "repository", "number", "at", "complete"})},
        {listed_, upsert("listed", "registry, repository, name",
                         {"registry", "repository", "name", "first", "gone"})},
        {document_, upsert("documents", "kind, key", {"kind", "key", "json"})},
        {erase_document_, "DELETE FROM documents WHERE kind = ? AND key = ?"},
        {prune_listed_,
         "DELETE FROM listed WHERE (registry, repository, name) IN (SELECT registry, repository, "
         "name FROM listed WHERE gone <> 0 AND gone < ? LIMIT ?)"},
    };
    for (const auto& [statement, sql] : statements) {
        auto prepared = database_.prepare(sql);
        if (!prepared) return unusable(path_, prepared.error());
        statement = std::move(*prepared);
    }
    return {};
}

Expected<void> Ledger::Impl::create_or_migrate(int from) {
    std::string sql = "BEGIN IMMEDIATE;";
    for (int step = from; step < kLedgerSchema; ++step)
        sql += kLedgerSteps[step];
    if (from == 0) {
        const auto now = std::chrono::time_point_cast<Millis>(std::chrono::system_clock::now());
        sql += "PRAGMA application_id = " + std::to_string(kLedgerApplication) + ";";
        sql += "INSERT INTO meta VALUES ('id', '" + random_id(32) + "'), ('created', '" +
               std::to_string(millis(now)) + "');";
    }
    sql += "INSERT INTO meta VALUES ('schema', '" + std::to_string(kLedgerSchema) +
           "') ON CONFLICT (key) DO UPDATE SET value = excluded.value; COMMIT";
    auto done = database_.execute(sql);
    if (!done && database_.in_transaction()) {
        [[maybe_unused]] const auto undone = database_.execute("ROLLBACK");
    }
    return done;
}

// --- writing ---

void Ledger::Impl::push(Operation operation, std::string key) {
    if (!key.empty()) {
        const auto [place, added] = latest_.emplace(std::move(key), queue_.size());
        if (!added) {
            queue_[place->second] = std::move(operation);
            return;
        }
    }
    queue_.push_back(std::move(operation));
    arm_retry();
}

Task<Expected<void>> Ledger::Impl::durable() {
    if (!damage_.empty()) co_return fail("ledger", damage_);
    if (queue_.empty()) co_return Expected<void>();
    if (!turn_) {
        turn_ = std::make_shared<Turn>(loop_);
        // Whatever else is ready to run in this turn of the loop queues its rows before the commit.
        asio::post(loop_, [this, alive = std::weak_ptr<char>(alive_)] {
            if (!alive.expired()) finish(commit());
        });
    }
    const std::shared_ptr<Turn> turn = turn_;
    constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
    co_await turn->done.async_wait(kToken);
    co_return turn->result;
}

Expected<void> Ledger::Impl::commit() {
    if (!damage_.empty()) return fail("ledger", damage_);
    if (queue_.empty()) return {};
    more_to_prune_ = false;
    auto done = write_queue();
    if (!done) {
        if (database_.in_transaction()) {
            [[maybe_unused]] const auto undone = rollback_.run();
        }
        return fail("ledger", path_ + ": cannot be written: " + done.error().text + "; " +
                                  std::to_string(queue_.size()) +
                                  " changes are kept in memory and tried again every second");
    }
    std::vector<Operation> left;
    if (more_to_prune_) {
        const auto prune = std::find_if(
            queue_.begin(), queue_.end(),
            [](const Operation& operation) { return std::holds_alternative<Prune>(operation); });
        left.push_back(std::move(*prune));
    }
    queue_.clear();
    latest_.clear();
    for (Operation& operation : left)
        push(std::move(operation), "prune");
    return {};
}

Expected<void> Ledger::Impl::write_queue() {
    if (auto begun = begin_.run(); !begun) return begun;
    for (const Operation& operation : queue_) {
        auto applied = std::visit([this](const auto& row) { return apply(row); }, operation);
        if (!applied) return applied;
    }
    return commit_.run();
}

void Ledger::Impl::finish(const Expected<void>& result) {
    problem_ = result ? std::string() : result.error().text;
    if (!result) arm_retry();
    const std::shared_ptr<Turn> turn = std::exchange(turn_, nullptr);
    if (!turn) return;
    turn->result = result;
    turn->done.cancel();
}

// Also carries what was queued without anybody waiting for it.
void Ledger::Impl::arm_retry() {
    if (armed_) return;
    armed_ = true;
    retry_.expires_after(kRetry);
    retry_.async_wait([this, alive = std::weak_ptr<char>(alive_)](boost::system::error_code error) {
        if (error || alive.expired()) return;
        armed_ = false;
        finish(commit());
    });
}

Expected<void> Ledger::Impl::apply(const Entry& entry) {
    entry_.reset().bind(millis(entry.at)).bind(to_string(entry.kind)).bind(entry.workload);
    entry_.bind(entry.uid).bind(entry.container).bind(entry.tag).bind(entry.from).bind(entry.to);
    entry_.bind(entry.rollout).bind(entry.code).bind(entry.cause).bind(entry.text);
    return entry_.run();
}

Expected<void> Ledger::Impl::apply(const SightingRow& row) {
    sighting_.reset().bind(row.tag).bind(row.digest).bind(millis(row.first_seen));
    sighting_.bind(millis(row.last_seen)).bind(row.source);
    sighting_.bind(std::int64_t{row.first}).bind(std::int64_t{row.confirmed});
    return sighting_.run();
}

Expected<void> Ledger::Impl::apply(const TagRow& row) {
    tag_.reset().bind(row.tag).bind(row.current).bind(row.kind).bind(millis(row.since));
    tag_.bind(row.pending).bind(millis(row.pending_since)).bind(millis(row.confirmed_at));
    return tag_.bind(row.confirmed_by).bind(millis(row.held_at)).run();
}

Expected<void> Ledger::Impl::apply(const CursorRow& row) {
    cursor_.reset().bind(row.cache).bind(row.epoch);
    return cursor_.bind(static_cast<std::int64_t>(row.seq)).run();
}

Expected<void> Ledger::Impl::apply(const ContentRow& row) {
    return content_.reset().bind(row.digest).bind(row.json).run();
}

Expected<void> Ledger::Impl::apply(const RolloutRow& row) {
    rollout_.reset().bind(row.id).bind(row.workload).bind(row.uid).bind(row.ns).bind(row.state);
    rollout_.bind(row.reason).bind(row.text).bind(row.targets).bind(row.marker_key);
    rollout_.bind(row.marker).bind(row.old_marker).bind(row.cause).bind(row.generation);
    rollout_.bind(std::int64_t{row.attempt}).bind(millis(row.created)).bind(millis(row.intended));
    return rollout_.bind(millis(row.applied))
        .bind(millis(row.deadline))
        .bind(millis(row.ended))
        .run();
}

Expected<void> Ledger::Impl::apply(const RejectedRow& row) {
    rejected_.reset().bind(row.uid).bind(row.workload).bind(row.tag).bind(row.digest);
    return rejected_.bind(row.rollout).bind(millis(row.at)).bind(row.text).run();
}

Expected<void> Ledger::Impl::apply(const EraseRejected& row) {
    return erase_rejected_.reset().bind(row.uid).bind(row.tag).bind(row.digest).run();
}

Expected<void> Ledger::Impl::apply(const HoldRow& row) {
    hold_.reset().bind(row.tag).bind(row.digest).bind(row.id).bind(row.author).bind(row.reason);
    hold_.bind(millis(row.since)).bind(millis(row.until)).bind(std::int64_t{row.forced});
    return hold_.bind(millis(row.lifted)).bind(row.lifted_by).run();
}

Expected<void> Ledger::Impl::apply(const PlacedRow& row) {
    placed_.reset().bind(row.cache).bind(row.tag).bind(row.digest).bind(row.owner);
    return placed_.bind(millis(row.verified)).bind(row.reason).bind(millis(row.until)).run();
}

Expected<void> Ledger::Impl::apply(const ErasePlaced& row) {
    return erase_placed_.reset().bind(row.cache).bind(row.tag).run();
}

Expected<void> Ledger::Impl::apply(const ListingRow& row) {
    listing_.reset().bind(row.registry).bind(row.repository);
    listing_.bind(static_cast<std::int64_t>(row.number)).bind(millis(row.at));
    return listing_.bind(std::int64_t{row.complete}).run();
}

Expected<void> Ledger::Impl::apply(const ListedRow& row) {
    listed_.reset().bind(row.registry).bind(row.repository).bind(row.name);
    return listed_.bind(static_cast<std::int64_t>(row.first)).bind(millis(row.gone)).run();
}

Expected<void> Ledger::Impl::apply(const DocumentRow& row) {
    return document_.reset().bind(row.kind).bind(row.key).bind(row.json).run();
}

Expected<void> Ledger::Impl::apply(const EraseDocument& row) {
    return erase_document_.reset().bind(row.kind).bind(row.key).run();
}

Expected<void> Ledger::Impl::apply(const Prune& prune) {
    for (Statement* statement :
         {&prune_entries_, &prune_rollouts_, &prune_holds_, &prune_listed_}) {
        auto done = statement->reset().bind(millis(prune.before)).bind(kPruneRows).run();
        if (!done) return done;
        more_to_prune_ = more_to_prune_ || database_.changes() == kPruneRows;
    }
    return {};
}

// --- reading ---

template <class Row>
std::vector<Row> Ledger::Impl::rows(
    const std::string& sql, Row (*read)(const Statement&),
    const std::vector<std::variant<std::int64_t, std::string>>& values) const {
    std::vector<Row> result;
    auto statement = database_.prepare(sql);
    Expected<bool> more = false;
    if (statement) {
        for (const auto& value : values) {
            std::visit([&](const auto& bound) { statement->bind(bound); }, value);
        }
        for (more = statement->row(); more && *more; more = statement->row()) {
            result.push_back(read(*statement));
        }
    }
    if (!statement || !more) {
        const Error& error = statement ? more.error() : statement.error();
        damage_ = path_ + ": cannot be read: " + error.text +
                  "; nothing is decided until keeld is started again";
    }
    return result;
}

Ledger::Ledger(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Ledger::~Ledger() = default;

Expected<std::unique_ptr<Ledger>> Ledger::open(Loop& loop, const std::string& path) {
    std::string real = path;
    OwnerLock lock;
    if (path != kMemory) {
        real = real_path(path);
        auto taken = OwnerLock::take(real);
        if (!taken) return tl::unexpected(taken.error());
        lock = std::move(*taken);
    }
    auto database = Database::open(real);
    if (!database) return fail("ledger", real + ": cannot be opened: " + database.error().text);
    auto impl = std::make_unique<Impl>(loop, real, std::move(lock), std::move(*database));
    if (auto prepared = impl->prepare(); !prepared) return tl::unexpected(prepared.error());
    return std::unique_ptr<Ledger>(new Ledger(std::move(impl)));
}

Expected<void> Ledger::check(const std::string& path) {
    const std::string real = real_path(path);
    const std::string directory = std::filesystem::path(real).parent_path().string();
    if (::access(directory.c_str(), W_OK | X_OK) != 0) {
        return fail("ledger", real + ": not writable: " + message_of(errno) + "; " + directory +
                                  " must exist and be writable for keeld");
    }
    if (::access(real.c_str(), F_OK) != 0) return {};
    if (::access(real.c_str(), R_OK | W_OK) != 0) {
        return fail("ledger", real + ": not writable: " + message_of(errno));
    }
    auto database = Database::open(real, Database::Access::read);
    if (!database) return fail("ledger", real + ": cannot be opened: " + database.error().text);
    const auto found = inspect(*database, real);
    if (!found) return tl::unexpected(found.error());
    return found->empty ? Expected<void>() : check_state(*database, real);
}

const std::string& Ledger::id() const {
    return impl_->id_;
}
bool Ledger::created() const {
    return impl_->created_;
}

void Ledger::append(Entry entry) {
    if (told_) told_(entry);
    impl_->push(std::move(entry), "");
}

void Ledger::on_append(std::function<void(const Entry&)> told) {
    told_ = std::move(told);
}

void Ledger::put(SightingRow row) {
    std::string key = "sighting " + row.tag + " " + row.digest;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::put(TagRow row) {
    std::string key = "tag " + row.tag;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::put(CursorRow row) {
    std::string key = "cursor " + row.cache;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::put(ContentRow row) {
    std::string key = "content " + row.digest;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::put(RolloutRow row) {
    std::string key = "rollout " + row.id;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::put(RejectedRow row) {
    std::string key = "rejected " + row.uid + " " + row.tag + " " + row.digest;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::erase_rejected(std::string uid, std::string tag, std::string digest) {
    std::string key = "rejected " + uid + " " + tag + " " + digest;
    impl_->push(EraseRejected{std::move(uid), std::move(tag), std::move(digest)}, std::move(key));
}

void Ledger::put(HoldRow row) {
    std::string key = "hold " + row.tag;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::put(PlacedRow row) {
    std::string key = "placed " + row.cache + " " + row.tag;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::erase_placed(std::string cache, std::string tag) {
    std::string key = "placed " + cache + " " + tag;
    impl_->push(ErasePlaced{std::move(cache), std::move(tag)}, std::move(key));
}

void Ledger::put(ListingRow row) {
    std::string key = "listing " + row.registry + " " + row.repository;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::put(ListedRow row) {
    std::string key = "listed " + row.registry + " " + row.repository + " " + row.name;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::put(DocumentRow row) {
    std::string key = "document " + row.kind + " " + row.key;
    impl_->push(std::move(row), std::move(key));
}

void Ledger::erase_document(std::string kind, std::string key) {
    std::string row = "document " + kind + " " + key;
    impl_->push(EraseDocument{std::move(kind), std::move(key)}, std::move(row));
}

void Ledger::prune(Time before) {
    impl_->push(Prune{before}, "prune");
}

Task<Expected<void>> Ledger::durable() {
    return impl_->durable();
}
const std::string& Ledger::problem() const {
    return impl_->problem();
}
std::size_t Ledger::queued() const {
    return impl_->queue_.size();
}

std::vector<SightingRow> Ledger::sightings() const {
    return impl_->rows(std::string("SELECT ") + kSightingColumns + " FROM sightings",
                       read_sighting);
}

std::vector<TagRow> Ledger::tags() const {
    return impl_->rows(std::string("SELECT ") + kTagColumns + " FROM tags", read_tag);
}

std::vector<CursorRow> Ledger::cursors() const {
    return impl_->rows("SELECT cache, epoch, seq FROM cursors", read_cursor);
}

std::optional<ContentRow> Ledger::content(const std::string& digest) const {
    auto found =
        impl_->rows("SELECT digest, json FROM contents WHERE digest = ?", read_content, {digest});
    if (found.empty()) return std::nullopt;
    return std::move(found.front());
}

std::vector<RolloutRow> Ledger::open_rollouts() const {
    return impl_->rows(
        std::string("SELECT ") + kRolloutColumns + " FROM rollouts WHERE ended = 0 ORDER BY n",
        read_rollout);
}

std::vector<RolloutRow> Ledger::rollouts(const std::string& workload, const std::string& after,
                                         int limit) const {
    std::string sql = std::string("SELECT ") + kRolloutColumns + " FROM rollouts WHERE 1";
    std::vector<std::variant<std::int64_t, std::string>> values;
    if (!workload.empty()) {
        sql += " AND workload = ?";
        values.emplace_back(workload);
    }
    if (!after.empty()) {
        sql += " AND n < (SELECT n FROM rollouts WHERE id = ?)";
        values.emplace_back(after);
    }
    sql += " ORDER BY n DESC LIMIT ?";
    values.emplace_back(std::int64_t{std::clamp(limit, 1, 1000)});
    return impl_->rows(sql, read_rollout, values);
}

std::vector<std::pair<Time, std::string>> Ledger::intended_since(Time since) const {
    return impl_->rows(
        "SELECT intended, ns FROM rollouts WHERE intended <> 0 AND intended > ? ORDER BY intended",
        read_intended, {millis(since)});
}

std::vector<RejectedRow> Ledger::rejected() const {
    return impl_->rows(
        "SELECT uid, workload, tag, digest, rollout, at, text FROM rejected ORDER BY at",
        read_rejected);
}

std::vector<HoldRow> Ledger::holds() const {
    return impl_->rows(
        "SELECT tag, digest, id, author, reason, since, until, forced, lifted, lifted_by FROM "
        "holds ORDER BY tag",
        read_hold);
}

std::vector<PlacedRow> Ledger::placed() const {
    return impl_->rows("SELECT cache, tag, digest, owner, verified, reason, until FROM placed",
                       read_placed);
}

std::vector<ListingRow> Ledger::listings() const {
    return impl_->rows("SELECT registry, repository, number, at, complete FROM listings",
                       read_listing);
}

std::vector<ListedRow> Ledger::listed() const {
    return impl_->rows(
        "SELECT registry, repository, name, first, gone FROM listed ORDER BY registry, repository, "
        "name",
        read_listed);
}

std::vector<DocumentRow> Ledger::documents(const std::string& kind) const {
    return impl_->rows("SELECT kind, key, json FROM documents WHERE kind = ? ORDER BY key",
                       read_document, {kind});
}

std::vector<Entry> Ledger::entries(const EntryQuery& query) const {
    std::string sql = std::string("SELECT ") + kEntryColumns + " FROM entries WHERE 1";
    std::vector<std::variant<std::int64_t, std::string>> values;
    if (query.after) {
        sql += " AND seq < ?";
        values.emplace_back(static_cast<std::int64_t>(*query.after));
    }
    if (query.since) {
        sql += " AND at >= ?";
        values.emplace_back(millis(*query.since));
    }
    if (!query.workload.empty()) {
        // The second condition lets the planner use the partial index.
        sql += " AND workload = ? AND workload <> ''";
        values.emplace_back(query.workload);
    }
    if (query.kind) {
        sql += " AND kind = ?";
        values.emplace_back(std::string(to_string(*query.kind)));
    }
    sql += " ORDER BY seq DESC LIMIT ?";
    values.emplace_back(std::int64_t{std::clamp(query.limit, 1, 1000)});
    return impl_->rows(sql, read_entry, values);
}

}  // namespace keel
