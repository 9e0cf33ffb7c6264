#include "keeld/ledger/sqlite.h"

#include <sqlite3.h>

#include <cstring>
#include <system_error>

namespace keel {
namespace {

constexpr int kBusyMs = 50;

// SQLite's own sentence, and the operating system's where it has one ("database or disk is full (No
// space left …)").
tl::unexpected<Error> failure(sqlite3* handle) {
    std::string text = sqlite3_errmsg(handle);
    const int primary = sqlite3_extended_errcode(handle) & 0xff;
    const bool from_system =
        primary == SQLITE_IOERR || primary == SQLITE_FULL || primary == SQLITE_CANTOPEN;
    const int number = sqlite3_system_errno(handle);
    if (from_system && number != 0) {
        text += " (" + std::generic_category().message(number) + ")";
    }
    return fail("ledger", std::move(text));
}

}  // namespace

void Statement::Finalize::operator()(sqlite3_stmt* handle) const {
    sqlite3_finalize(handle);
}

Statement& Statement::reset() {
    sqlite3_reset(handle_.get());
    sqlite3_clear_bindings(handle_.get());
    next_ = 1;
    return *this;
}

Statement& Statement::bind(std::string_view text) {
    // A null data pointer would be bound as NULL.
    const char* data = text.data() == nullptr ? "" : text.data();
    sqlite3_bind_text(handle_.get(), next_++, data, static_cast<int>(text.size()),
                      SQLITE_TRANSIENT);
    return *this;
}

Statement& Statement::bind(std::int64_t number) {
    sqlite3_bind_int64(handle_.get(), next_++, number);
    return *this;
}

Expected<bool> Statement::row() {
    switch (sqlite3_step(handle_.get())) {
        case SQLITE_ROW:
            return true;
        case SQLITE_DONE:
            return false;
        default: {
            auto error = failure(sqlite3_db_handle(handle_.get()));
            sqlite3_reset(handle_.get());
            return error;
        }
    }
}

Expected<void> Statement::run() {
    Expected<bool> more = row();
    while (more && *more)
        more = row();
    if (!more) return tl::unexpected(more.error());
    sqlite3_reset(handle_.get());
    return {};
}

std::string Statement::text(int column) const {
    const void* data = sqlite3_column_blob(handle_.get(), column);
    if (data == nullptr) return {};
    const int size = sqlite3_column_bytes(handle_.get(), column);
    return {static_cast<const char*>(data), static_cast<std::size_t>(size)};
}

std::int64_t Statement::number(int column) const {
    return sqlite3_column_int64(handle_.get(), column);
}

void Database::Close::operator()(sqlite3* handle) const {
    sqlite3_close_v2(handle);
}

Expected<Database> Database::open(const std::string& path, Access access) {
    sqlite3* handle = nullptr;
    const int flags =
        SQLITE_OPEN_NOMUTEX | (access == Access::read ? SQLITE_OPEN_READONLY
                                                      : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    const int result = sqlite3_open_v2(path.c_str(), &handle, flags, nullptr);
    Database database(handle);
    if (handle == nullptr) return fail("ledger", "no memory for SQLite");
    if (result != SQLITE_OK) return failure(handle);
    sqlite3_extended_result_codes(handle, 1);
    sqlite3_busy_timeout(handle, kBusyMs);
    return database;
}

Expected<void> Database::execute(const std::string& sql) {
    if (sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
        return failure(handle_.get());
    }
    return {};
}

Expected<std::string> Database::value(const std::string& sql) {
    auto statement = prepare(sql);
    if (!statement) return tl::unexpected(statement.error());
    const auto row = statement->row();
    if (!row) return tl::unexpected(row.error());
    return *row ? statement->text(0) : std::string();
}

Expected<Statement> Database::prepare(std::string_view sql) {
    sqlite3_stmt* statement = nullptr;
    const int result = sqlite3_prepare_v3(handle_.get(), sql.data(), static_cast<int>(sql.size()),
                                          SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
    if (result != SQLITE_OK) return failure(handle_.get());
    return Statement(statement);
}

bool Database::in_transaction() const {
    return sqlite3_get_autocommit(handle_.get()) == 0;
}

std::int64_t Database::changes() const {
    return sqlite3_changes64(handle_.get());
}

}  // namespace keel
