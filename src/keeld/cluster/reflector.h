// Keeps somebody's picture of one collection right: list, then watch, again and again, whatever
// breaks in between.
#pragma once

#include <functional>
#include <string>

#include "keeld/cluster/client.h"
#include "keeld/loop.h"

namespace keel {

// Called on the loop, never inside libcurl. A listing is begin, upsert for every object, end; what
// was known and not upserted between begin and end is gone. A listing that breaks off is followed
// by another begin, not by end. Between listings: upsert and remove.
struct ReflectorHandlers {
    std::function<void()> begin;
    std::function<void(const json_t*)> upsert;
    std::function<void(const json_t*)> remove;
    std::function<void()> end;
    // The state of the connection changed: empty when fine, else what is wrong.
    std::function<void(const std::string&)> problem;
};

class Reflector {
  public:
    // `query`: "fieldSelector=…", already encoded, of list and watch alike; may be empty.
    Reflector(Loop& loop, ClusterClient& client, std::string path, std::string query,
              ReflectorHandlers handlers);
    ~Reflector();

    // Runs until stop(), which may be called at any time. Back-off 0.2 s to 30 s with jitter on
    // errors; a plain end of a watch goes on from the last resourceVersion (bookmarks included);
    // 410, and any other answer that a repetition would not mend, lists again.
    [[nodiscard]] Task<void> run();
    void stop();
    [[nodiscard]] bool synced() const;  // one listing has been completed

  private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace keel
