// `keelctl policy try`: what a policy would choose, answered here and without keeld.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

namespace keel::ctl {

struct PolicyTrial {
    std::string policy;
    std::string reference;          // as a workload would have it
    std::vector<std::string> tags;  // what the registry lists
    bool match_pre_release = true;
    std::string step = "highest";  // or "next", as keel.sh/step
    bool json = false;
};

// One case. The policy counts as set on the workload itself. Exit codes of keelctl: 0 for any
// verdict, 2 for what is no reference.
int try_policy(const PolicyTrial& trial, std::ostream& out, std::ostream& err);

// Rows of tab-separated values under a heading that names at least `policy`, `match_pre_release`
// (true, false, or - for the default), `current` (a tag) and `tags` (separated by commas); prints
// the same rows with the columns verdict, reason and selected added. 2 at the first row that cannot
// be read.
int try_policies(std::istream& in, std::ostream& out, std::ostream& err);

}  // namespace keel::ctl
