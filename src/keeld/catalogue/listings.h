// What is known of the tags that a repository has: its newest list, and in which of our lists each
// name stood first.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/time.h"
#include "keeld/ledger/ledger.h"

namespace keel {

struct Listing {
    std::vector<std::string> names;  // in byte order, each once; a cut list keeps earlier ones
    Time at;                         // of that list; epoch: none has been read yet
    bool complete = false;           // false: it was cut at a bound, more names may exist
    std::uint64_t number = 0;        // how many lists of it were read
    std::string failure;             // of the last attempt; empty after a success

    [[nodiscard]] bool known() const { return number > 0; }
    [[nodiscard]] bool has(const std::string& name) const;
};

// Loaded from the ledger at start; every list is queued there before it is told. One per keeld, on
// its loop.
class Listings {
  public:
    explicit Listings(Ledger& ledger);

    // Null: its list was never asked for.
    [[nodiscard]] const Listing* find(const std::string& registry,
                                      const std::string& repository) const;
    // The number of the list of this repository that had the name first; also of names that lists
    // lack by now. nullopt: none had it, or a cut one, which says nothing of its age (V2).
    [[nodiscard]] std::optional<std::uint64_t> first_seen(const std::string& registry,
                                                          const std::string& repository,
                                                          const std::string& name) const;

    // A list as the registry told it; what is no name of a tag, or one of signatures, is left out.
    // Returns whether judging again may come to something else.
    bool listed(const std::string& registry, const std::string& repository,
                std::vector<std::string> names, bool complete, Time at);
    // It could not be read; what was known stays. Returns whether that is news.
    bool failed(const std::string& registry, const std::string& repository, const std::string& why);

    // Every repository whose list was asked for, by registry and repository.
    using Key = std::pair<std::string, std::string>;
    struct Known {
        Listing newest;
        std::vector<std::uint64_t> first;                        // beside newest.names
        std::map<std::string, std::uint64_t, std::less<>> gone;  // and their first lists
    };
    [[nodiscard]] const std::map<Key, Known>& all() const { return known_; }

  private:
    Ledger& ledger_;
    std::map<Key, Known> known_;
};

}  // namespace keel
