#include "keelctl/text.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <initializer_list>
#include <utility>

#include "core/digest.h"
#include "keelctl/json.h"

namespace keel::ctl {
namespace {

constexpr std::size_t kDigestDigits = 12;

// Characters, not bytes; good enough for names and sentences, which are mostly ASCII.
std::size_t width(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;
    }));
}

std::string count_of(Millis duration) {
    using std::chrono::duration_cast;
    if (duration < std::chrono::minutes(1)) {
        return std::to_string(duration_cast<std::chrono::seconds>(duration).count()) + "s";
    }
    if (duration < std::chrono::hours(1)) {
        return std::to_string(duration_cast<std::chrono::minutes>(duration).count()) + "m";
    }
    if (duration < std::chrono::hours(48)) {
        return std::to_string(duration_cast<std::chrono::hours>(duration).count()) + "h";
    }
    return std::to_string(duration_cast<std::chrono::days>(duration).count()) + "d";
}

constexpr std::string_view code_of(Colour colour) {
    switch (colour) {
        case Colour::none:
            return "";
        case Colour::bold:
            return "1";
        case Colour::dim:
            return "2";
        case Colour::red:
            return "31";
        case Colour::green:
            return "32";
        case Colour::yellow:
            return "33";
        case Colour::cyan:
            return "36";
    }
    return "";
}

}  // namespace

std::string dump(const json_t* value) {
    char* text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    std::string result = text == nullptr ? "" : text;
    std::free(text);
    return result;
}

std::string printable(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        // C1 controls are U+0080 to U+009F: 0xc2 and a byte below 0xa0.
        const bool c1 =
            byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
        if (c1) ++i;
        if (byte == '\n' || byte == '\t' || byte == '\r') {
            result += ' ';
        } else if (byte < 0x20 || byte == 0x7f || c1) {
            result += '?';
        } else {
            result += text[i];
        }
    }
    return result;
}

std::string age(Time time, Time now) {
    if (time > now) return "in " + count_of(time - now);
    return count_of(now - time);
}

std::string when(Time time, Time now) {
    if (time == Time{}) return "never";
    std::string text = format_time(time);
    text.replace(text.find('T'), 1, " ");
    text.erase(text.find('.'));
    const bool future = time > now;
    return text + "Z (" + age(time, now) + (future ? ")" : " ago)");
}

std::string short_digest(std::string_view digest) {
    const auto colon = digest.find(':');
    if (!Digest::parse(digest)) return std::string(digest);
    return std::string(digest.substr(0, colon + 1 + kDigestDigits));
}

Colour colour_of(std::string_view word) {
    struct Shade {
        Colour colour;
        std::initializer_list<std::string_view> words;
    };
    static const std::array<Shade, 5> shades{{
        {Colour::green, {"current", "done", "verified"}},
        {Colour::red, {"blocked", "failed", "refused"}},
        {Colour::yellow, {"waiting", "superseded", "recalled", "rolled-back"}},
        {Colour::cyan,
         {"roll", "rolling", "verifying", "soaking", "preflight", "intended", "applied"}},
        {Colour::dim, {"ignore"}},
    }};
    for (const Shade& shade : shades) {
        if (std::find(shade.words.begin(), shade.words.end(), word) != shade.words.end())
            return shade.colour;
    }
    return Colour::none;
}

std::string Painter::operator()(Colour colour, std::string_view text) const {
    if (!colours_ || colour == Colour::none) return std::string(text);
    std::string result = "\x1b[";
    return result.append(code_of(colour)).append("m").append(text).append("\x1b[0m");
}

void Table::add(std::vector<Cell> row) {
    for (Cell& cell : row) {
        cell.text = printable(cell.text);
        if (cell.text.empty()) cell.text = "-";
    }
    rows_.push_back(std::move(row));
}

std::string Table::print(const Painter& paint, std::string_view indent, bool with_header) const {
    std::vector<std::size_t> widths(header_.size());
    if (with_header) std::transform(header_.begin(), header_.end(), widths.begin(), width);
    for (const auto& row : rows_) {
        for (std::size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], width(row[i].text));
    }
    std::string result;
    const auto line = [&](const std::vector<Cell>& row) {
        result += indent;
        for (std::size_t i = 0; i < row.size(); ++i) {
            result += paint(row[i].colour, row[i].text);
            if (i + 1 < row.size()) result.append(widths[i] - width(row[i].text) + 2, ' ');
        }
        result += '\n';
    };
    if (with_header) {
        std::vector<Cell> names;
        for (const std::string& name : header_)
            names.emplace_back(name, Colour::dim);
        line(names);
    }
    for (const auto& row : rows_)
        line(row);
    return result;
}

}  // namespace keel::ctl
