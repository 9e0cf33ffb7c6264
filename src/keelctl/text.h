// Text for people: times with their age, short digests, colour where there is a terminal, tables.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/time.h"

namespace keel::ctl {

enum class Colour { none, bold, dim, red, green, yellow, cyan };

// Everything that comes from outside goes through here: control characters, which could steer a
// terminal, become "?". A line break becomes a space.
[[nodiscard]] std::string printable(std::string_view text);

// "12s", "3m", "5h", "12d" between the two, in whole units; "in 3m" where `time` is yet to come.
[[nodiscard]] std::string age(Time time, Time now);
// "2026-11-22 12:00:00Z (3m ago)"; "never" for the epoch itself.
[[nodiscard]] std::string when(Time time, Time now);
// "sha256:0123456789ab"; other texts as they are.
[[nodiscard]] std::string short_digest(std::string_view digest);

// The colour that a verdict, a rollout's state or a kind of entry has; none for other words.
[[nodiscard]] Colour colour_of(std::string_view word);

class Painter {
  public:
    explicit Painter(bool colours) : colours_(colours) {}
    [[nodiscard]] std::string operator()(Colour colour, std::string_view text) const;

  private:
    bool colours_;
};

struct Cell {
    Cell(std::string value, Colour shade = Colour::none) : text(std::move(value)), colour(shade) {}
    Cell(const char* value) : text(value) {}
    std::string text;
    Colour colour = Colour::none;
};

// Columns as wide as their widest cell. Cells are made printable, empty ones become "-".
class Table {
  public:
    explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
    void add(std::vector<Cell> row);
    [[nodiscard]] bool empty() const { return rows_.empty(); }
    // Each line begins with `indent`. Without a header if `with_header` is false.
    [[nodiscard]] std::string print(const Painter& paint, std::string_view indent = "",
                                    bool with_header = true) const;

  private:
    std::vector<std::string> header_;
    std::vector<std::vector<Cell>> rows_;
};

}  // namespace keel::ctl
