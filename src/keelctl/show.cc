#include "keelctl/show.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

namespace keel::ctl {
namespace {

std::string digest_text(std::string_view digest, const Style& style) {
    return printable(style.wide ? std::string(digest) : short_digest(digest));
}

// A time member with its age, or `otherwise`.
std::string when_of(const json_t* object, const char* key, const Style& style,
                    const std::string& otherwise = "never") {
    const auto time = parse_time(text_of(object, key));
    return time ? when(*time, style.now) : otherwise;
}

std::string age_of(const json_t* object, const char* key, const Style& style) {
    const auto time = parse_time(text_of(object, key));
    return time ? age(*time, style.now) : "-";
}

// "2026-11-22 12:00:00Z" of a log line; its age is the next column.
std::string at_of(const json_t* object, const char* key) {
    const auto time = parse_time(text_of(object, key));
    if (!time) return "-";
    std::string text = format_time(*time);
    text.replace(text.find('T'), 1, " ");
    return text;
}

// Any JSON value in one line, where the shape is not known beforehand.
std::string any(const json_t* value, const Style& style) {
    if (json_is_string(value)) {
        const std::string_view text = text_of(value);
        if (const auto time = parse_time(text)) return when(*time, style.now);
        return digest_text(text, style);
    }
    if (json_is_boolean(value)) return json_is_true(value) ? "yes" : "no";
    if (value == nullptr || json_is_null(value)) return "-";
    if (json_is_object(value)) {
        std::string result;
        const char* key = nullptr;
        json_t* member = nullptr;
        json_object_foreach(const_cast<json_t*>(value), key, member) {
            if (json_is_null(member)) continue;
            if (!result.empty()) result += ", ";
            std::string name = printable(key);
            std::replace(name.begin(), name.end(), '_', ' ');
            result += name + " " + any(member, style);
        }
        return result.empty() ? "-" : result;
    }
    if (json_is_array(value)) {
        std::string result;
        for (std::size_t i = 0; i < json_array_size(value); ++i) {
            if (i > 0) result += ", ";
            result += any(json_array_get(value, i), style);
        }
        return result.empty() ? "-" : result;
    }
    return printable(dump(value));
}

bool holds_objects(const json_t* value) {
    if (json_is_array(value)) return json_is_object(json_array_get(value, 0));
    const char* key = nullptr;
    json_t* member = nullptr;
    json_object_foreach(const_cast<json_t*>(value), key, member) {
        if (json_is_object(member)) return true;
    }
    return false;
}

// One member of the status: a line, or an indented line for each of what it holds.
std::string status_section(const char* key, const json_t* value, const Style& style) {
    constexpr std::size_t kName = 12;
    std::string name = printable(key);
    std::string line = style.paint(Colour::bold, name);
    line.append(name.size() < kName ? kName - name.size() : 1, ' ');
    if (!holds_objects(value)) return line + any(value, style) + "\n";
    std::string result;
    const auto add = [&](const std::string& text) {
        result += result.empty() ? line : std::string(std::max(kName, name.size() + 1), ' ');
        result += text + "\n";
    };
    for (std::size_t i = 0; i < json_array_size(value); ++i)
        add(any(json_array_get(value, i), style));
    const char* inner = nullptr;
    json_t* member = nullptr;
    json_object_foreach(const_cast<json_t*>(value), inner, member) {
        add(printable(inner) + ": " + any(member, style));
    }
    return result;
}

Cell word(std::string_view text) {
    return {std::string(text), colour_of(text)};
}

// "sha256:aa → sha256:bb"
std::string move_text(const json_t* object, const Style& style) {
    const std::string from = digest_text(text_of(object, "from"), style);
    const std::string to = digest_text(text_of(object, "to"), style);
    if (from.empty() || to.empty()) return from + to;
    return from + " → " + to;
}

template <class Visit>
void each_item(const json_t* list, const char* key, const Visit& visit) {
    const json_t* items = json_object_get(list, key);
    for (std::size_t i = 0; i < json_array_size(items); ++i)
        visit(json_array_get(items, i));
}

// --- why ---

void add_line(Table& table, const char* name, const std::string& text) {
    if (!text.empty()) table.add({Cell(name, Colour::dim), text});
}

std::string running_text(const json_t* container, const Style& style) {
    std::string result;
    each_item(container, "running", [&](const json_t* image) {
        if (!result.empty()) result += "; ";
        const std::string_view digest = text_of(image, "digest");
        result += digest.empty() ? "(unknown content)" : digest_text(digest, style);
        if (const json_t* pods = json_object_get(image, "pods"); json_is_integer(pods)) {
            const auto count = json_integer_value(pods);
            result += " in " + std::to_string(count) + (count == 1 ? " pod" : " pods");
        }
        if (const auto since = parse_time(text_of(image, "since")))
            result += ", as of " + when(*since, style.now);
    });
    return result;
}

std::string target_text(const json_t* container, const char* key, const Style& style) {
    const json_t* target = json_object_get(container, key);
    if (!json_is_object(target)) return {};
    std::string result = printable(text_of(target, "name"));
    if (const auto digest = text_of(target, "digest"); !digest.empty()) {
        result += " at " + digest_text(digest, style);
    }
    if (const auto image = text_of(target, "image"); !image.empty())
        result += ", written as " + printable(image);
    if (const auto seen = parse_time(text_of(target, "seen")))
        result += ", seen " + when(*seen, style.now);
    return result;
}

std::string setting_text(const json_t* setting) {
    const std::string_view value = text_of(setting, "value");
    if (value.empty()) return {};
    std::string result = printable(value) + ", from " + printable(text_of(setting, "layer"));
    std::string losers;
    each_item(setting, "overridden", [&](const json_t* loser) {
        losers += losers.empty() ? "; overrides " : ", ";
        losers += json_is_object(loser) ? printable(text_of(loser, "value")) + " of " +
                                              printable(text_of(loser, "layer"))
                                        : printable(text_of(loser));
        if (const auto note = text_of(loser, "note"); !note.empty()) {
            losers += " (" + printable(note) + ")";
        }
    });
    return result + losers;
}

std::string freshness_text(const json_t* container, const Style& style) {
    const json_t* freshness = json_object_get(container, "freshness");
    if (!json_is_object(freshness)) return {};
    std::string result = "confirmed " + when_of(freshness, "confirmed", style);
    if (const auto by = text_of(freshness, "by"); !by.empty()) result += " by " + printable(by);
    if (const auto failure = text_of(freshness, "failure"); !failure.empty()) {
        result += "; last failure: " + printable(failure);
    }
    return result;
}

// "sha256:… by alice until … (reason)"
std::string hold_text(const json_t* hold, const Style& style) {
    if (!json_is_object(hold)) return {};
    std::string result =
        digest_text(text_of(hold, "digest"), style) + " by " + printable(text_of(hold, "author"));
    const auto until = parse_time(text_of(hold, "until"));
    result += until ? " until " + when(*until, style.now) : "";
    result += " (" + printable(text_of(hold, "reason")) + ")";
    if (const auto caches = text_of(hold, "caches"); !caches.empty())
        result += ": " + printable(caches);
    return result;
}

// Listed tags whose names have no order.
std::string unordered_text(const json_t* container) {
    const json_t* unordered = json_object_get(json_object_get(container, "list"), "unordered");
    const json_int_t count = json_integer_value(json_object_get(unordered, "count"));
    if (count == 0) return {};
    std::string result = std::to_string(count) + (count == 1 ? " tag: " : " tags: ");
    json_int_t shown = 0;
    each_item(unordered, "names", [&](const json_t* name) {
        result += (shown++ == 0 ? "" : " ") + printable(text_of(name));
    });
    return result + (shown < count ? " …" : "");
}

std::string show_container(const json_t* container, const Style& style) {
    const std::string_view verdict = text_of(container, "verdict");
    std::string result = "  " + style.paint(Colour::bold, printable(text_of(container, "name")));
    if (json_is_true(json_object_get(container, "init"))) result += " (init)";
    result += ": " + style.paint(colour_of(verdict), printable(verdict)) + " (" +
              printable(text_of(container, "reason")) + ")\n";
    Table table({"", ""});
    add_line(table, "because", std::string(text_of(container, "sentence")));
    add_line(table, "reference", std::string(text_of(container, "reference")));
    add_line(table, "tag", std::string(text_of(container, "tag")));
    add_line(table, "running", running_text(container, style));
    add_line(table, "target", target_text(container, "target", style));
    add_line(table, "newest", target_text(container, "newest", style));
    add_line(table, "allowed", target_text(container, "allowed", style));
    add_line(table, "no order", unordered_text(container));
    add_line(table, "held at", hold_text(json_object_get(container, "hold"), style));
    const json_t* settings = json_object_get(container, "settings");
    const char* key = nullptr;
    json_t* setting = nullptr;
    json_object_foreach(const_cast<json_t*>(settings), key, setting) {
        const bool written = text_of(setting, "layer") != "default";
        if (written || std::string_view(key) == "policy") {
            add_line(table, printable(key).c_str(), setting_text(setting));
        }
    }
    each_item(settings, "faults",
              [&](const json_t* fault) { add_line(table, "fault", std::string(text_of(fault))); });
    add_line(table, "freshness", freshness_text(container, style));
    return result + table.print(style.paint, "    ", false);
}

std::string show_gates(const json_t* workload, const Style& style) {
    Table table({"", "", ""});
    each_item(workload, "gates", [&](const json_t* gate) {
        const bool open = json_is_true(json_object_get(gate, "open"));
        std::string text(text_of(gate, "text"));
        if (const auto until = parse_time(text_of(gate, "until"))) {
            text += (text.empty() ? "until " : "; until ") + when(*until, style.now);
        }
        table.add({std::string(text_of(gate, "gate")),
                   open ? Cell("open", Colour::green) : Cell("closed", Colour::yellow), text});
    });
    if (table.empty()) return {};
    return style.paint(Colour::bold, "gates") + "\n" + table.print(style.paint, "  ", false);
}

std::string targets_text(const json_t* rollout, const Style& style) {
    std::string result;
    each_item(rollout, "targets", [&](const json_t* target) {
        if (!result.empty()) result += ", ";
        result += printable(text_of(target, "container")) + ": ";
        const std::string_view image = text_of(target, "image");
        result += image.empty() ? move_text(target, style)
                                : printable(text_of(target, "from_image")) + " → " +
                                      printable(image) + " (" + move_text(target, style) + ")";
    });
    return result;
}

std::string show_rollout(const json_t* rollout, const Style& style) {
    const std::string_view state = text_of(rollout, "state");
    if (!json_is_object(rollout)) return {};
    std::string result = style.paint(Colour::bold, "rollout") + " " +
                         printable(text_of(rollout, "id")) + ": " +
                         style.paint(colour_of(state), printable(state));
    if (const auto reason = text_of(rollout, "reason"); !reason.empty())
        result += " (" + printable(reason) + ")";
    result += "\n";
    Table table({"", ""});
    add_line(table, "text", std::string(text_of(rollout, "text")));
    add_line(table, "targets", targets_text(rollout, style));
    add_line(table, "cause", std::string(text_of(rollout, "cause")));
    for (const char* key : {"created", "intended", "applied", "deadline", "ended"}) {
        add_line(table, key, when_of(rollout, key, style, ""));
    }
    return result + table.print(style.paint, "    ", false);
}

// "docker.io (look-up cache-a): 812 requests, 9 pulls; 76 of 100 left per 6h"
std::string way_text(const char* registry, const json_t* way, const Style& style) {
    std::string result = printable(registry) + " (" + printable(text_of(way, "by")) + "): ";
    result += printable(text_of(way, "requests")) + " requests";
    for (const char* key : {"pulls", "postponed", "failures"}) {
        const std::string_view count = text_of(way, key);
        if (!count.empty() && count != "0") result += ", " + printable(count) + " " + key;
    }
    if (const json_t* limit = json_object_get(way, "rate_limit"); json_is_object(limit)) {
        result += "; " + any(json_object_get(limit, "remaining"), style) + " of " +
                  any(json_object_get(limit, "limit"), style) + " left per " +
                  printable(text_of(limit, "window"));
    }
    const json_t* waits = json_object_get(way, "waits");
    if (json_is_object(waits)) {
        result += "; " + style.paint(Colour::red, printable(text_of(waits, "code"))) +
                  (json_is_true(json_object_get(waits, "pulls_only")) ? " (pulls)" : "") +
                  " until " + when_of(waits, "until", style);
    }
    return result;
}

std::string show_registries(const json_t* registries, const Style& style) {
    std::string result;
    const char* name = nullptr;
    json_t* registry = nullptr;
    json_object_foreach(const_cast<json_t*>(registries), name, registry) {
        const auto add = [&](const std::string& text) {
            result += (result.empty() ? style.paint(Colour::bold, "registries") + "  "
                                      : std::string(12, ' ')) +
                      text + "\n";
        };
        each_item(registry, "ways", [&](const json_t* way) { add(way_text(name, way, style)); });
        if (json_array_size(json_object_get(registry, "ways")) == 0) {
            add(printable(name) + ": not asked yet");
        }
    }
    return result;
}

}  // namespace

std::string show_status(const json_t* status, const Style& style) {
    std::string result;
    const char* key = nullptr;
    json_t* value = nullptr;
    json_object_foreach(const_cast<json_t*>(status), key, value) {
        if (std::string_view(key) == "registries") {
            result += show_registries(value, style);
        } else if (std::string_view(key) != "problems") {
            result += status_section(key, value, style);
        }
    }
    const json_t* problems = json_object_get(status, "problems");
    if (json_array_size(problems) == 0)
        return result + style.paint(Colour::green, "no problems") + "\n";
    const std::size_t count = json_array_size(problems);
    result +=
        style.paint(Colour::red, std::to_string(count) + (count == 1 ? " problem" : " problems")) +
        "\n";
    each_item(status, "problems", [&](const json_t* problem) {
        result += "  " + style.paint(Colour::red, printable(text_of(problem, "code"))) + "  " +
                  printable(text_of(problem, "text")) + "\n";
        result += "    since " + when_of(problem, "since", style) + "\n";
        if (const auto next = text_of(problem, "next"); !next.empty())
            result += "    next: " + printable(next) + "\n";
    });
    return result;
}

std::string show_workload(const json_t* workload, const Style& style) {
    const std::string_view verdict = text_of(workload, "verdict");
    std::string result = style.paint(Colour::bold, printable(text_of(workload, "workload"))) +
                         ": " + style.paint(colour_of(verdict), printable(verdict)) + " (" +
                         printable(text_of(workload, "reason")) + ")\n";
    Table table({"", ""});
    add_line(table, "because", std::string(text_of(workload, "sentence")));
    add_line(table, "next", std::string(text_of(workload, "next")));
    add_line(table, "enrolled by", std::string(text_of(workload, "enrolled_by")));
    result += table.print(style.paint, "  ", false);
    result += style.paint(Colour::bold, "containers") + "\n";
    each_item(workload, "containers",
              [&](const json_t* container) { result += show_container(container, style); });
    result += show_rollout(json_object_get(workload, "rollout"), style);
    return result + show_gates(workload, style);
}

std::string show_workloads(const json_t* list, const Style& style) {
    Table table({"WORKLOAD", "VERDICT", "REASON", "ENROLLED BY", "IMAGES"});
    each_item(list, "items", [&](const json_t* item) {
        std::string images;
        each_item(item, "containers", [&](const json_t* container) {
            images += images.empty() ? "" : ", ";
            images += printable(text_of(container, "reference"));
        });
        table.add({std::string(text_of(item, "workload")), word(text_of(item, "verdict")),
                   std::string(text_of(item, "reason")), std::string(text_of(item, "enrolled_by")),
                   images});
    });
    return table.print(style.paint);
}

std::string show_tags(const json_t* list, const Style& style) {
    Table table({"TAG", "DIGEST", "KIND", "SINCE", "CONFIRMED", "BY", "WORKLOADS", "REMARK"});
    each_item(list, "items", [&](const json_t* item) {
        std::string remark;
        if (const auto pending = text_of(item, "pending"); !pending.empty()) {
            remark = "going back to " + digest_text(pending, style) + ", unconfirmed";
        }
        const std::string_view failure = text_of(item, "failure");
        if (!failure.empty()) remark += (remark.empty() ? "" : "; ") + std::string(failure);
        if (const auto held = hold_text(json_object_get(item, "hold"), style); !held.empty())
            remark += (remark.empty() ? "held at " : "; held at ") + held;
        const std::size_t consumers = json_array_size(json_object_get(item, "workloads"));
        table.add({std::string(text_of(item, "tag")), digest_text(text_of(item, "digest"), style),
                   std::string(text_of(item, "kind")), age_of(item, "since", style),
                   age_of(item, "confirmed", style), std::string(text_of(item, "confirmed_by")),
                   std::to_string(consumers),
                   Cell(remark, failure.empty() ? Colour::yellow : Colour::red)});
    });
    return table.print(style.paint);
}

std::string show_holds(const json_t* list, const Style& style) {
    Table table({"TAG", "HELD AT", "BY", "UNTIL", "NEWEST", "CACHE", "STATE", "VERIFIED", "REASON",
                 "REMARK"});
    each_item(list, "items", [&](const json_t* item) {
        const auto until = parse_time(text_of(item, "until"));
        each_item(item, "caches", [&](const json_t* cache) {
            const std::string_view state = text_of(cache, "state");
            const bool held = state == "held" || state == "foreign";
            table.add(
                {std::string(text_of(item, "tag")), digest_text(text_of(item, "digest"), style),
                 std::string(text_of(item, "author")),
                 until ? when(*until, style.now) : std::string("released"),
                 digest_text(text_of(item, "newest"), style), std::string(text_of(cache, "cache")),
                 Cell(std::string(state), held ? Colour::green : Colour::yellow),
                 age_of(cache, "verified", style), std::string(text_of(item, "reason")),
                 std::string(held ? "" : text_of(cache, "text"))});
        });
    });
    return table.print(style.paint);
}

std::string show_watches(const json_t* list, const Style& style) {
    Table table({"WORKLOAD", "CONTAINER", "TAG", "STATE", "CONFIRMED", "BECAUSE", "NEXT"});
    each_item(list, "items", [&](const json_t* item) {
        const std::string_view tag = text_of(item, "tag");
        const bool fires = json_is_true(json_object_get(item, "can_fire"));
        table.add({std::string(text_of(item, "workload")), std::string(text_of(item, "container")),
                   std::string(tag.empty() ? text_of(item, "reference") : tag),
                   Cell(std::string(text_of(item, "state")), fires ? Colour::green : Colour::red),
                   age_of(item, "confirmed", style), std::string(text_of(item, "sentence")),
                   std::string(text_of(item, "next"))});
    });
    return table.print(style.paint);
}

std::string show_change(const json_t* change, const Style& style) {
    std::string text;
    for (const char* part : {"enrolled", "rolled", "released"}) {
        const json_t* names = json_object_get(change, part);
        const std::size_t count = json_array_size(names);
        text += style.paint(Colour::bold, part) + " " + std::to_string(count) + "\n";
        for (std::size_t i = 0; i < count; ++i) {
            const json_t* name = json_array_get(names, i);
            text += "  " + printable(json_is_string(name) ? json_string_value(name) : "") + "\n";
        }
    }
    if (const std::size_t unknown = json_array_size(json_object_get(change, "unknown"))) {
        text += std::to_string(unknown) +
                " of the enrolled have not been looked at yet: they may be rolled, too\n";
    }
    const std::string refused(text_of(change, "refused"));
    return text + (refused.empty() ? "within the limit\n" : printable(refused) + "\n");
}

std::string show_results(const json_t* answer, const Style& style) {
    bool caches = false;
    each_item(answer, "results",
              [&](const json_t* item) { caches = caches || !text_of(item, "cache").empty(); });
    Table table(caches ? std::vector<std::string>{"ON", "CACHE", "RESULT", "TEXT"}
                       : std::vector<std::string>{"ON", "RESULT", "TEXT"});
    each_item(answer, "results", [&](const json_t* item) {
        const bool ok = json_is_true(json_object_get(item, "ok"));
        std::vector<Cell> row{std::string(text_of(item, "on"))};
        if (caches) row.emplace_back(std::string(text_of(item, "cache")));
        row.emplace_back(std::string(text_of(item, "code")), ok ? Colour::green : Colour::red);
        row.emplace_back(std::string(text_of(item, "text")));
        table.add(std::move(row));
    });
    return table.print(style.paint);
}

std::string show_phases(const json_t* list, const Style& style) {
    Table table({"PHASE", "STATE", "STAGE", "BEGUN", "UNTIL", "ON NEWEST", "BECAUSE"});
    each_item(list, "items", [&](const json_t* item) {
        const json_t* counts = json_object_get(item, "counts");
        const auto count = [counts](const char* key) {
            return std::to_string(json_integer_value(json_object_get(counts, key)));
        };
        const bool counted = json_is_object(counts);
        table.add({std::string(text_of(item, "name")), word(text_of(item, "state")),
                   word(text_of(item, "stage")), when_of(item, "begun", style, "-"),
                   when_of(item, "until", style, "-"),
                   counted ? count("newest") + " of " + count("workloads") : std::string(),
                   std::string(text_of(item, "text"))});
    });
    return table.print(style.paint);
}

std::string show_pins(const json_t* list, const Style& style) {
    Table table({"WORKLOAD", "CONTAINER", "RUNNING", "PODS", "REMARK"});
    each_item(list, "items", [&](const json_t* item) {
        each_item(item, "pins", [&](const json_t* pin) {
            table.add({std::string(text_of(item, "workload")),
                       std::string(text_of(pin, "container")), std::string(text_of(pin, "pinned")),
                       std::to_string(json_integer_value(json_object_get(pin, "pods"))),
                       std::string(text_of(pin, "note"))});
        });
    });
    return table.print(style.paint);
}

std::string show_leftovers(const json_t* list, const Style& style) {
    Table table({"ON", "KEY", "VALUE", "WHERE", "WRITTEN BY", "WITHOUT IT"});
    each_item(list, "items", [&](const json_t* item) {
        std::string managers;
        std::size_t at = 0;
        const json_t* manager = nullptr;
        json_array_foreach(json_object_get(item, "managers"), at, manager) {
            managers.append(managers.empty() ? "" : ", ").append(json_string_value(manager));
        }
        const bool stays = !json_is_true(json_object_get(item, "removable"));
        table.add({std::string(text_of(item, "on")), std::string(text_of(item, "key")),
                   std::string(text_of(item, "value")),
                   std::string(text_of(item, "where")) + (stays ? ", not touched" : ""), managers,
                   std::string(text_of(item, "then"))});
    });
    return table.print(style.paint);
}

std::string show_approvals(const json_t* list, const Style& style) {
    Table table({"ID", "ASKED", "STATE", "VOTES", "BEFORE", "FOR", "BECAUSE"});
    each_item(list, "items", [&](const json_t* item) {
        const auto count = [item](const char* key) {
            return std::to_string(json_integer_value(json_object_get(item, key)));
        };
        std::string votes = count("votesReceived") + " of " + count("votesRequired");
        const char* name = nullptr;
        json_t* at = nullptr;
        json_object_foreach(json_object_get(item, "voters"), name, at) {
            votes.append(" ").append(name);
        }
        const std::string_view rejected = text_of(item, "rejectedBy");
        if (!rejected.empty()) votes.append(", not ").append(rejected);
        const bool archived = json_is_true(json_object_get(item, "archived"));
        const std::string_view said = text_of(item, "reason");
        table.add({std::string(text_of(item, "id")), age_of(item, "createdAt", style),
                   archived ? "archived" : word(text_of(item, "state")), votes,
                   when_of(item, "deadline", style, "-"), std::string(text_of(item, "identifier")),
                   std::string(said.empty() ? text_of(item, "message") : said)});
    });
    return table.print(style.paint);
}

std::string show_pending(const json_t* list, const Style& style) {
    Table table({"WORKLOAD", "PRIORITY", "SINCE", "EARLIEST", "GATE", "BECAUSE", "TARGETS"});
    each_item(list, "items", [&](const json_t* item) {
        const json_t* gate = json_array_get(json_object_get(item, "gates"), 0);
        table.add({std::string(text_of(item, "workload")),
                   std::to_string(json_integer_value(json_object_get(item, "priority"))),
                   when_of(item, "since", style, "-"), when_of(item, "earliest", style, "-"),
                   word(text_of(gate, "gate")), std::string(text_of(gate, "text")),
                   targets_text(item, style)});
    });
    return table.print(style.paint);
}

std::string show_rollouts(const json_t* list, const Style& style) {
    Table table({"CREATED", "AGE", "ROLLOUT", "WORKLOAD", "STATE", "REASON", "TARGETS"});
    each_item(list, "items", [&](const json_t* item) {
        table.add({at_of(item, "created"), age_of(item, "created", style),
                   std::string(text_of(item, "id")), std::string(text_of(item, "workload")),
                   word(text_of(item, "state")), std::string(text_of(item, "reason")),
                   targets_text(item, style)});
    });
    return table.print(style.paint);
}

std::string show_history(const json_t* list, const Style& style, bool with_header) {
    Table table({"AT", "AGE", "KIND", "ABOUT", "CODE", "CHANGE", "TEXT"});
    const json_t* items = json_object_get(list, "items");
    for (std::size_t i = json_array_size(items); i > 0; --i) {
        const json_t* item = json_array_get(items, i - 1);
        std::string about(text_of(item, "workload"));
        const std::string_view container = text_of(item, "container");
        if (!about.empty() && !container.empty()) about.append(" ").append(container);
        if (about.empty()) about = text_of(item, "tag");
        std::string text(text_of(item, "text"));
        const std::string_view cause = text_of(item, "cause");
        if (text.empty() && !cause.empty()) text.append("by ").append(cause);
        table.add({at_of(item, "at"), age_of(item, "at", style), word(text_of(item, "kind")), about,
                   std::string(text_of(item, "code")), move_text(item, style), text});
    }
    return table.print(style.paint, "", with_header);
}

}  // namespace keel::ctl
