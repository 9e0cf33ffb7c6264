// SQLite with values for errors: a connection and its prepared statements. Knows nothing of what is
// stored.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/expected.h"

struct sqlite3;
struct sqlite3_stmt;

namespace keel {

// A prepared statement. reset(), bind() from left to right, then row() until it is false. Reset
// again as soon as it is no longer read, so that no read transaction stays open.
class Statement {
  public:
    Statement() = default;
    explicit Statement(sqlite3_stmt* handle) : handle_(handle) {}

    Statement& reset();
    Statement& bind(std::string_view text);
    Statement& bind(std::int64_t number);

    // The next row: true, or false at the end. Errors: "ledger".
    [[nodiscard]] Expected<bool> row();
    // Runs it to its end and resets it.
    [[nodiscard]] Expected<void> run();

    // Of the current row; columns count from 0. NULL is "" and 0.
    [[nodiscard]] std::string text(int column) const;
    [[nodiscard]] std::int64_t number(int column) const;

  private:
    struct Finalize {
        void operator()(sqlite3_stmt* handle) const;
    };
    std::unique_ptr<sqlite3_stmt, Finalize> handle_;
    int next_ = 1;
};

class Database {
  public:
    // Opens, and creates for writing. A lock of somebody else is waited for 50 ms, no longer,
    // because the caller is a loop.
    enum class Access { write, read };
    [[nodiscard]] static Expected<Database> open(const std::string& path,
                                                 Access access = Access::write);

    // Statements without parameters and results.
    [[nodiscard]] Expected<void> execute(const std::string& sql);
    // The first column of the first row, "" if there is none.
    [[nodiscard]] Expected<std::string> value(const std::string& sql);
    [[nodiscard]] Expected<Statement> prepare(std::string_view sql);
    [[nodiscard]] bool in_transaction() const;
    // Rows that the last statement changed.
    [[nodiscard]] std::int64_t changes() const;

  private:
    struct Close {
        void operator()(sqlite3* handle) const;
    };
    explicit Database(sqlite3* handle) : handle_(handle) {}

    std::unique_ptr<sqlite3, Close> handle_;
};

}  // namespace keel
