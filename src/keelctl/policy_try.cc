#include "keelctl/policy_try.h"

#include <algorithm>
#include <array>
#include <istream>
#include <ostream>
#include <string_view>
#include <unordered_map>

#include "core/policy.h"
#include "core/reference.h"
#include "core/tag_shape.h"
#include "keelctl/commands.h"
#include "keelctl/json.h"
#include "keelctl/text.h"

namespace keel::ctl {
namespace {

constexpr std::size_t kMaxPolicies = 1'000;  // compiled ones that are kept

using Views = std::vector<std::string_view>;

void split(std::string_view text, char at, Views& parts) {
    parts.clear();
    for (;;) {
        const std::size_t end = std::min(text.find(at), text.size());
        parts.push_back(text.substr(0, end));
        if (end == text.size()) return;
        text.remove_prefix(end + 1);
    }
}

// --- many rows ---

class Batch {
  public:
    Batch(std::istream& in, std::ostream& out, std::ostream& err) : in_(in), out_(out), err_(err) {}

    int run() {
        if (!read_line()) return wrong("there is no heading");
        if (!read_heading()) return kUnknown;
        out_ << line_ << "\tverdict\treason\tselected\n";
        while (read_line()) {
            if (!decide()) return kUnknown;
        }
        return kFine;
    }

  private:
    static constexpr std::array<std::string_view, 4> kColumns{"policy", "match_pre_release",
                                                              "current", "tags"};

    bool read_line() {
        if (!std::getline(in_, line_)) return false;
        if (line_.ends_with('\r')) line_.pop_back();
        ++number_;
        split(line_, '\t', row_);
        return true;
    }

    bool read_heading() {
        width_ = row_.size();
        for (std::size_t i = 0; i < kColumns.size(); ++i) {
            const auto found = std::ranges::find(row_, kColumns[i]);
            if (found == row_.end()) {
                wrong(
                    "the heading lacks the column \"" + std::string{kColumns[i]} +
                    "\"; it needs policy, match_pre_release, current and tags, separated by tabs");
                return false;
            }
            at_[i] = static_cast<std::size_t>(found - row_.begin());
        }
        return true;
    }

    bool decide() {
        if (row_.size() != width_) {
            wrong("it has " + std::to_string(row_.size()) + " columns, the heading has " +
                  std::to_string(width_));
            return false;
        }
        const std::string_view match = row_[at_[1]];
        if (match != "true" && match != "false" && match != "-") {  // -: as by default, true
            wrong("match_pre_release is \"" + std::string{match} +
                  "\", neither true nor false nor -");
            return false;
        }
        split(row_[at_[3]], ',', tags_);
        const std::string_view current = row_[at_[2]];
        TagChoice choice{Reason::policy_invalid, {}, {}, ""};
        if (const auto& policy = policy_of(row_[at_[0]])) {
            choice = current.empty() ? TagChoice{Reason::no_tag, {}, {}, ""}
                                     : choose_tag(*policy, {current, tags_, match != "false"});
        }
        out_ << line_ << '\t' << to_string(verdict_of(choice.reason)) << '\t'
             << to_string(choice.reason) << '\t'
             << (choice.selected.empty() ? std::string_view{"-"} : choice.selected) << '\n';
        return true;
    }

    const Expected<Policy>& policy_of(std::string_view text) {
        std::string key{text};
        const auto found = policies_.find(key);
        if (found != policies_.end()) return found->second;
        if (policies_.size() == kMaxPolicies) policies_.clear();
        auto policy = Policy::parse(text);
        return policies_.emplace(std::move(key), std::move(policy)).first->second;
    }

    int wrong(const std::string& text) {
        err_ << "keelctl: policy try --batch: line " << std::max<std::size_t>(number_, 1) << ": "
             << printable(text) << "\n";
        return kUnknown;
    }

    std::istream& in_;
    std::ostream& out_;
    std::ostream& err_;
    std::string line_;
    Views row_;  // into line_
    Views tags_;
    std::size_t number_ = 0;
    std::size_t width_ = 0;
    std::array<std::size_t, kColumns.size()> at_{};
    std::unordered_map<std::string, Expected<Policy>> policies_;
};

// --- one case ---

struct Told {
    Reason reason;
    std::string selected;
    std::string beyond;
    std::string sentence;
};

Told decide(const PolicyTrial& trial, const Reference& reference) {
    const auto policy = Policy::parse(trial.policy);
    if (!policy) {
        return {Reason::policy_invalid, "", "",
                "policy \"" + trial.policy.substr(0, 60) + "\": " + policy.error().text};
    }
    if (reference.name.empty()) {
        return {Reason::no_tag, "", "", trial.reference + " names a digest and no tag to follow"};
    }
    const Views listed{trial.tags.begin(), trial.tags.end()};
    const TagChoice choice =
        choose_tag(*policy, {reference.name, listed, trial.match_pre_release,
                             trial.step == "next" ? Step::next : Step::highest});
    return {choice.reason, std::string{choice.selected}, std::string{choice.beyond},
            sentence(*policy, reference.name, choice)};
}

}  // namespace

int try_policy(const PolicyTrial& trial, std::ostream& out, std::ostream& err) {
    const std::string& written = trial.reference;
    if (written.find_first_of("/:@") == std::string::npos && read_shape(written).ordered()) {
        err << "keelctl: " << printable(written)
            << " names an image; write IMAGE:" << printable(written) << "\n";
        return kUnknown;
    }
    const auto reference = Reference::parse(written);
    if (!reference) {
        err << "keelctl: " << printable(reference.error().text) << "\n";
        return kUnknown;
    }
    const Told told = decide(trial, *reference);
    const std::string verdict{to_string(verdict_of(told.reason))};
    const std::string reason{to_string(told.reason)};
    if (trial.json) {
        const Json object{json_pack(
            "{s:s,s:s,s:s,s:s,s:s?,s:s?,s:s}", "policy", trial.policy.c_str(), "reference",
            trial.reference.c_str(), "verdict", verdict.c_str(), "reason", reason.c_str(),
            "selected", told.selected.empty() ? nullptr : told.selected.c_str(), "beyond",
            told.beyond.empty() ? nullptr : told.beyond.c_str(), "sentence",
            told.sentence.c_str())};
        out << dump(object.get()) << "\n";
        return kFine;
    }
    out << verdict << " " << reason;
    if (!told.selected.empty()) out << " " << printable(told.selected);
    out << "\n" << printable(told.sentence) << "\n";
    return kFine;
}

int try_policies(std::istream& in, std::ostream& out, std::ostream& err) {
    return Batch{in, out, err}.run();
}

}  // namespace keel::ctl
