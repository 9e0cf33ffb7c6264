#include "keeld/catalogue/listings.h"

#include <algorithm>

#include "core/reference.h"

namespace keel {
namespace {

// Of one repository, those that lists lack included. A list of more counts as one that was cut.
constexpr std::size_t kMostSights = 100'000;

// What a list that was cut lacks may be beyond its end.
void keep_unlisted(const Listings::Known& known, std::vector<std::string>& names) {
    const std::vector<std::string>& before = known.newest.names;
    const auto end = static_cast<std::ptrdiff_t>(names.size());
    for (std::size_t i = 0; i < before.size(); ++i) {
        const bool told = std::binary_search(names.begin(), names.begin() + end, before[i]);
        if (!told && known.first[i] != 0) names.push_back(before[i]);
    }
    std::inplace_merge(names.begin(), names.begin() + end, names.end());
}

}  // namespace

bool Listing::has(const std::string& name) const {
    return std::ranges::binary_search(names, name);
}

Listings::Listings(Ledger& ledger) : ledger_(ledger) {
    for (const ListingRow& row : ledger.listings()) {
        Listing& listing = known_[{row.registry, row.repository}].newest;
        listing.number = row.number;
        listing.at = row.at;
        listing.complete = row.complete;
    }
    for (ListedRow& row : ledger.listed()) {
        Known& known = known_[{row.registry, row.repository}];
        if (row.gone == Time{}) {
            known.newest.names.push_back(std::move(row.name));
            known.first.push_back(row.first);
        } else {
            known.gone.emplace(std::move(row.name), row.first);
        }
    }
}

const Listing* Listings::find(const std::string& registry, const std::string& repository) const {
    const auto found = known_.find({registry, repository});
    return found != known_.end() ? &found->second.newest : nullptr;
}

std::optional<std::uint64_t> Listings::first_seen(const std::string& registry,
                                                  const std::string& repository,
                                                  const std::string& name) const {
    const auto found = known_.find({registry, repository});
    if (found == known_.end()) {
        return std::nullopt;
    }
    const Known& known = found->second;
    const auto at = std::ranges::lower_bound(known.newest.names, name);
    if (at != known.newest.names.end() && *at == name) {
        const std::uint64_t first =
            known.first[static_cast<std::size_t>(at - known.newest.names.begin())];
        return first != 0 ? std::optional(first) : std::nullopt;
    }
    const auto gone = known.gone.find(name);
    return gone != known.gone.end() ? std::optional(gone->second) : std::nullopt;
}

bool Listings::listed(const std::string& registry, const std::string& repository,
                      std::vector<std::string> names, bool complete, Time at) {
    std::erase_if(names, [](const std::string& name) {
        return !is_tag_name(name) || is_signature_tag(name);
    });
    std::ranges::sort(names);
    const auto twice = std::ranges::unique(names);
    names.erase(twice.begin(), twice.end());

    Known& known = known_[{registry, repository}];
    Listing& newest = known.newest;
    complete = complete && names.size() + known.gone.size() <= kMostSights;
    if (!complete) keep_unlisted(known, names);
    // The first whole list after one that was cut: what it has first may be as old as anything.
    const bool same_age = complete && newest.known() && !newest.complete &&
                          std::ranges::any_of(names, [&](const std::string& name) {
                              return !first_seen(registry, repository, name);
                          });
    const bool judge = !newest.known() || newest.complete != complete || !newest.failure.empty() ||
                       newest.names != names;
    ++newest.number;
    newest.at = at;
    newest.complete = complete;
    newest.failure.clear();
    const auto note_list = [&] {
        ledger_.put(ListingRow{registry, repository, newest.number, at, newest.complete});
    };
    if (newest.names == names && !same_age) {
        note_list();
        return judge;
    }
    const auto note = [&](const std::string& name, std::uint64_t first, Time gone) {
        ledger_.put(ListedRow{registry, repository, name, first, gone});
    };
    if (same_age) {
        std::ranges::fill(known.first, newest.number);
        for (auto& [name, first] : known.gone) {
            first = newest.number;
            note(name, first, at);
        }
    }
    const bool ordered = complete || newest.number == 1;
    std::vector<std::uint64_t> first;
    first.reserve(names.size());
    std::size_t before = 0;
    const auto leave_out = [&] {
        const std::string& name = newest.names[before];
        if (known.first[before] != 0) {
            known.gone.emplace(name, known.first[before]);
            note(name, known.first[before], at);
        }
        ++before;
    };
    for (const std::string& name : names) {
        while (before < newest.names.size() && newest.names[before] < name) {
            leave_out();
        }
        if (before < newest.names.size() && newest.names[before] == name) {
            first.push_back(known.first[before++]);
            if (same_age) note(name, first.back(), Time{});
            continue;
        }
        const auto back = known.gone.extract(name);
        const bool room = first.size() < kMostSights;
        first.push_back(!back.empty() ? back.mapped() : ordered && room ? newest.number : 0);
        if (first.back() != 0) note(name, first.back(), Time{});
    }
    while (before < newest.names.size()) {
        leave_out();
    }
    newest.names = std::move(names);
    known.first = std::move(first);
    note_list();
    return judge;
}

bool Listings::failed(const std::string& registry, const std::string& repository,
                      const std::string& why) {
    std::string& failure = known_[{registry, repository}].newest.failure;
    if (failure == why) {
        return false;
    }
    failure = why;
    return true;
}

}  // namespace keel
