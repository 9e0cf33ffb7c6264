// What webhooks have released for workloads that they alone move (keel.sh/trigger: push): the
// digest that a tag answered when somebody had said that it was pushed.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "core/digest.h"
#include "core/reference.h"
#include "core/time.h"
#include "keeld/ledger/ledger.h"

namespace keel {

// Loaded from the ledger at start; every change is queued there before it is told. One per keeld,
// on its loop.
class Pushes {
  public:
    explicit Pushes(Ledger& ledger);

    static constexpr std::size_t kMost = 4096;  // tags; the one named longest ago makes room

    // What a sender that shows who it is says of a push.
    struct Word {
        Digest digest;       // empty: nothing
        std::string source;  // "webhook github"
    };
    // A webhook named the tag: what it answers from now on counts.
    void named(const Tag& tag, Time at, Word word = {});
    // Who said that the tag was pushed at just what it answers now, asked at `asked`; null: nobody,
    // or the registry has answered already since.
    [[nodiscard]] const std::string* confirmed_by(const Tag& tag, const Digest& digest,
                                                  Time asked) const;
    // The registry answered; `asked`: when it was asked. Returns whether that released a digest.
    bool answered(const Tag& tag, const Digest& digest, Time asked);

    // The digest that may be rolled; null: no webhook named the tag, or nobody answered since.
    [[nodiscard]] const Digest* released(const Tag& tag) const;
    // Named, and not answered since.
    [[nodiscard]] bool is_awaited(const Tag& tag) const;
    // Whether any tag of the repository is.
    [[nodiscard]] bool awaits(const std::string& registry, const std::string& repository) const;

  private:
    struct Push {
        Time named;
        Digest digest;
        bool awaited = true;
        Word word;  // until it is answered
    };
    void save(const Tag& tag, const Push& push);

    Ledger& ledger_;
    std::map<Tag, Push> all_;
};

}  // namespace keel
