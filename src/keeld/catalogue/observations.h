// The one place where answers about tags become knowledge: news of caches, our own look-ups, the
// second source.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/reference.h"
#include "keeld/cache/feed.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/loop.h"
#include "keeld/registry/registry.h"
#include "keeld/signal.h"

namespace keel {

class Observations {
  public:
    // `changed`: something about the tag is to be judged again. `settle`: a look-up of the tag is
    // wanted soon.
    Observations(Loop& loop, const Clock& clock, Ledger& ledger, Tags& tags, Registry& registry,
                 std::function<void(const Tag&)> changed, std::function<void(const Tag&)> settle);

    void take(CacheNews news);

    // A fresh look at the tag, recorded; joins one that is under way. Errors as Registry::look_up.
    [[nodiscard]] Task<Expected<Answer>> look_up(Tag tag);

    // Asks the second source and records what it confirms. Errors as Registry::ask_upstream.
    [[nodiscard]] Task<Expected<Answer>> confirm(Tag tag);

  private:
    struct Flight {
        explicit Flight(Loop& loop) : done(loop) {}
        Expected<Answer> answer{tl::unexpect, Error{}};
        bool ended = false;
        asio::steady_timer done;
    };

    void remember_history(const CacheNews& news);
    void log_received(const CacheNews& news, const Digest& answered, Effect effect);
    [[nodiscard]] Digest current(const Tag& tag) const;

    Loop& loop_;
    const Clock& clock_;
    Ledger& ledger_;
    Tags& tags_;
    Registry& registry_;
    std::function<void(const Tag&)> changed_;
    std::function<void(const Tag&)> settle_;
    std::unordered_map<Tag, std::shared_ptr<Flight>> flights_;
};

}  // namespace keel
