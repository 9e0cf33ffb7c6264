#include "keelctl/report.h"

#include <array>
#include <cmath>
#include <map>
#include <vector>

namespace keel::ctl {
namespace {

constexpr std::array<const char*, 10> kColumns{
    "PHASE",    "STATE",  "ON NEWEST",           "SHARE", "ON THE WAY", "PINNED",
    "NOT BACK", "LEAKED", "UPSTREAM→PROVEN p50", "p95"};

std::string count_of(const json_t* object, const char* key) {
    const json_t* value = json_object_get(object, key);
    return std::to_string(json_is_array(value) ? static_cast<json_int_t>(json_array_size(value))
                                               : json_integer_value(value));
}

std::vector<std::string> row_of(const json_t* section, const std::string& name) {
    const json_t* share = json_object_get(section, "share");
    const json_t* times = json_object_get(section, "upstream_to_proven");
    return {name,
            std::string(text_of(section, "state")),
            count_of(section, "newest") + " of " + count_of(section, "workloads"),
            json_is_number(share)
                ? std::to_string(std::lround(std::floor(json_number_value(share) * 100))) + " %"
                : "-",
            count_of(section, "on_the_way"),
            count_of(section, "pinned_out"),
            count_of(section, "failed"),
            count_of(section, "leaked"),
            std::string(text_of(times, "p50")),
            std::string(text_of(times, "p95"))};
}

std::vector<std::vector<std::string>> rows_of(const json_t* report) {
    std::vector<std::vector<std::string>> rows;
    const json_t* phases = json_object_get(report, "phases");
    for (std::size_t i = 0; i < json_array_size(phases); ++i) {
        const json_t* section = json_array_get(phases, i);
        rows.push_back(row_of(section, std::string(text_of(section, "name"))));
    }
    if (rows.size() != 1) {
        rows.push_back(row_of(json_object_get(report, "plan"), "all"));
    }
    return rows;
}

struct Listed {
    const char* key;
    const char* heading;
};
constexpr std::array<Listed, 3> kLists{{{"pinned_out", "Pinned out"},
                                        {"failed", "Failed and not gone back"},
                                        {"leaked", "Leaked: run what no rollout released"}}};

// "12 at-next-run, 3 vetoed"
std::string apart_text(const json_t* plan) {
    std::map<std::string, int> counts;
    const json_t* list = json_object_get(plan, "apart");
    for (std::size_t i = 0; i < json_array_size(list); ++i) {
        ++counts[printable(text_of(json_array_get(list, i), "reason"))];
    }
    std::string text;
    for (const auto& [reason, count] : counts) {
        text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + reason;
    }
    return text;
}

// Text between the bars of a Markdown table, or in a list.
std::string escaped(const std::string& text) {
    std::string result;
    for (const char c : printable(text)) {
        if (c == '|' || c == '*' || c == '_' || c == '`' || c == '<' || c == '[') result += '\\';
        result += c;
    }
    return result.empty() ? "-" : result;
}

}  // namespace

std::string show_report(const json_t* report, const Style& style) {
    Table table({kColumns.begin(), kColumns.end()});
    for (const std::vector<std::string>& row : rows_of(report)) {
        table.add({row.begin(), row.end()});
    }
    std::string text = table.print(style.paint);
    const json_t* plan = json_object_get(report, "plan");
    for (const Listed& each : kLists) {
        const json_t* list = json_object_get(plan, each.key);
        if (json_array_size(list) == 0) continue;
        text += style.paint(Colour::bold, each.heading) + "\n";
        Table lines({"", "", ""});
        for (std::size_t i = 0; i < json_array_size(list); ++i) {
            const json_t* item = json_array_get(list, i);
            lines.add({std::string(text_of(item, "workload")), std::string(text_of(item, "reason")),
                       std::string(text_of(item, "text"))});
        }
        text += lines.print(style.paint, "  ", false);
    }
    const std::string apart = apart_text(plan);
    return apart.empty() ? text : text + style.paint(Colour::bold, "apart") + "  " + apart + "\n";
}

std::string markdown_report(const json_t* report, const Style&) {
    std::string text = "# Phases at " + printable(text_of(report, "at")) + "\n\n|";
    std::string line = "|";
    for (const char* column : kColumns) {
        text += std::string(" ") + column + " |";
        line += " --- |";
    }
    text += "\n" + line + "\n";
    for (const std::vector<std::string>& row : rows_of(report)) {
        text += "|";
        for (const std::string& cell : row)
            text += " " + escaped(cell) + " |";
        text += "\n";
    }
    const json_t* plan = json_object_get(report, "plan");
    for (const Listed& each : kLists) {
        const json_t* list = json_object_get(plan, each.key);
        if (json_array_size(list) == 0) continue;
        text += std::string("\n## ") + each.heading + "\n\n";
        for (std::size_t i = 0; i < json_array_size(list); ++i) {
            const json_t* item = json_array_get(list, i);
            text += "- " + escaped(std::string(text_of(item, "workload"))) + " (" +
                    escaped(std::string(text_of(item, "reason"))) +
                    "): " + escaped(std::string(text_of(item, "text"))) + "\n";
        }
    }
    const std::string apart = apart_text(plan);
    return apart.empty() ? text : text + "\n## Apart\n\n" + escaped(apart) + "\n";
}

}  // namespace keel::ctl
