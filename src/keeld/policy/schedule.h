// When each tag is looked at: one look-up per tag and interval, however many workloads refer to it,
// spread with jitter. An answer that traffic brought counts as one.
#pragma once

#include <functional>
#include <random>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "keeld/catalogue/observations.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/loop.h"
#include "keeld/signal.h"

namespace keel {

class Schedule {
  public:
    // `in_use`: whether some enrolled workload follows the tag; others are not looked at.
    Schedule(Loop& loop, const Config& config, const Clock& clock, const Tags& tags,
             Observations& observations, std::function<bool(const Tag&)> in_use);

    [[nodiscard]] Task<void> run();
    void stop();

    // The tag is in use: it is looked at from now on, at once if nothing fresh is known of it.
    void follow(const Tag& tag);
    // A look-up as soon as possible, whatever the schedule says; of a tag that is not in use, once
    // it comes into use.
    void hint(const Tag& tag);
    // The second source is to be asked as soon as possible, and every minute until it has settled
    // the tag.
    void want_confirmation(const Tag& tag);
    // Its first answer is still to come.
    [[nodiscard]] bool confirmation_under_way(const Tag& tag) const;

  private:
    struct Due {
        Steady::time_point at;
        int failures = 0;
        bool under_way = false;
    };
    [[nodiscard]] Steady::time_point start_due();
    void credit(const Tag& tag, Due& due) const;
    Task<void> look(Tag tag);
    Task<void> ask_second_source(Tag tag);
    [[nodiscard]] Steady::duration jittered(Millis interval);

    Loop& loop_;
    const Config& config_;
    const Clock& clock_;
    const Tags& tags_;
    Observations& observations_;
    std::function<bool(const Tag&)> in_use_;
    std::unordered_map<Tag, Due> due_;
    std::unordered_set<Tag>
        hinted_;  // not in use: a cache told of them while nothing was listed, or nobody runs them
    struct Question {
        Steady::time_point not_before;
        bool answered = false;
    };
    std::unordered_map<Tag, Question> confirm_;
    std::mt19937 random_;
    Signal wake_;
    int under_way_ = 0;
    bool stopped_ = false;
};

}  // namespace keel
