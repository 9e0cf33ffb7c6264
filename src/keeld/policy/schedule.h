// When each tag is looked at, and each repository's tags are listed: once in the shortest interval
// that anybody asks for, however many workloads do, spread after the tick. An answer that traffic
// brought counts as a look-up.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/policy.h"
#include "core/poll_schedule.h"
#include "keeld/catalogue/listings.h"
#include "keeld/catalogue/observations.h"
#include "keeld/catalogue/tags.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/loop.h"
#include "keeld/signal.h"

namespace keel {

// How often somebody wants to hear of a tag, and of the others in its repository.
struct Wish {
    enum class List : std::uint8_t { never, daily, scheduled };
    PollSchedule schedule;
    List list = List::never;
    bool on_hint = false;  // no schedule: webhooks alone make keeld look

    friend bool operator==(const Wish&, const Wish&) = default;
};

// When the repository of a tag is listed (policy.md, "Triggers"): on the schedule for patterns and
// for tag policies on ordered tags, once a day for other ordered tags, never for the rest.
[[nodiscard]] Wish::List list_rule(const Policy& policy, std::string_view name);

// The moment to ask again after an answer at `answered`: the first tick of any of the schedules,
// and `share` (0 to 1) of the spread after it. The spread is a tenth of the interval to the next
// tick, five minutes at most. A tick less than the spread after the answer has been answered.
[[nodiscard]] Time due_after(Time answered, const std::vector<PollSchedule>& schedules,
                             const Zone& zone, double share);

class Schedule {
  public:
    struct Names {
        std::vector<std::string> names;
        bool complete = false;
        std::string stopped = {};  // why it is not
    };
    struct Parts {
        Loop& loop;
        const Config& config;
        const Clock& clock;
        const Tags& tags;
        Observations& observations;
        Listings& listings;
        // What enrolled workloads want of the tag now; empty: nobody follows it, it is not asked.
        std::function<std::vector<Wish>(const Tag&)> wishes;
        // The tags of the tag's repository. Errors as Registry::list_tags.
        std::function<Task<Expected<Names>>(Tag)> list_tags;
        // The list of this tag's repository, or whether it can be had, is another one than before.
        std::function<void(const Tag&)> listed;
        // Learns what traffic the caches saw; null: there are none.
        std::function<Task<void>()> freshen;
        Millis confirm_again{60'000};  // between two questions to a second source
        Millis freshen_again{1'000};   // between two calls of `freshen`, at least
        // The registry answered about the tag: what, and when it was asked.
        std::function<void(const Tag&, const Digest&, Time)> answered{};
    };
    explicit Schedule(Parts parts);

    [[nodiscard]] Task<void> run();
    void stop();
    // The clock has been set.
    void clock_moved();

    // Somebody who wants this follows the tag: it is looked at from now on, at once if nothing
    // fresh enough is known of it.
    void follow(const Tag& tag, const Wish& wish);
    // A look-up as soon as possible, whatever the schedule says; of a tag that is not in use, once
    // it comes into use.
    void hint(const Tag& tag);
    // Whether somebody's policy may take another tag of the repository.
    [[nodiscard]] bool lists_for_policies(const std::string& registry,
                                          const std::string& repository) const;
    // Its list as soon as possible, whatever the schedule says. Only where the former is true.
    void hint_list(const std::string& registry, const std::string& repository);
    // The second source is to be asked as soon as possible, and every minute until it has settled
    // the tag.
    void want_confirmation(const Tag& tag);
    // Its first answer is still to come.
    [[nodiscard]] bool confirmation_under_way(const Tag& tag) const;

    // Look-ups and lists that are due and not answered yet; one more where it has still to be found
    // out what is due.
    [[nodiscard]] std::size_t waiting() const;
    // Followed tags that are not in their repositories any more, and how that is known (D4).
    [[nodiscard]] const std::map<Tag, std::string>& gone() const { return gone_; }
    [[nodiscard]] bool follows(const Tag& tag) const { return followed_.contains(tag); }

    struct Metrics {
        std::uint64_t lists = 0;
        std::uint64_t list_failures = 0;
        std::uint64_t spared = 0;  // look-ups that were due, but for what traffic had answered
    };
    [[nodiscard]] const Metrics& metrics() const { return metrics_; }

  private:
    // One thing that is asked again and again.
    struct Round {
        Time due;                       // epoch: as soon as possible
        Time answered;                  // when we were last answered
        Time failed;                    // epoch: the last answer was one
        bool told = false;              // the failure said itself when to come back
        Steady::time_point not_before;  // after a failure
        double share = 0;               // of the spread, for this round
        int failures = 0;
        bool queued = false;  // or under way
    };
    struct Followed {
        Round round;
        std::vector<Wish> wishes;
        bool hinted = false;
    };
    using Repository = std::pair<std::string, std::string>;
    struct Listed {
        Round round;
        std::set<std::string> names;  // of followed tags
        bool hinted = false;
    };
    struct Question {
        Steady::time_point not_before;
        bool answered = false;
    };

    [[nodiscard]] Time heard(const Tag& tag, const Followed& followed) const;
    [[nodiscard]] Time due(const Round& round, Time answered,
                           const std::vector<PollSchedule>& schedules) const;
    [[nodiscard]] Time look_due(const Tag& tag, const Followed& followed) const;
    [[nodiscard]] std::vector<PollSchedule> list_schedules(const Repository& repository,
                                                           const Listed& listed) const;
    void schedule_look(const Tag& tag, Followed& followed);
    void schedule_list(const Repository& repository, Listed& listed);
    void forget(const Tag& tag);
    [[nodiscard]] bool freshness_wanted() const;
    [[nodiscard]] Steady::time_point wake_for(const Round& round) const;
    [[nodiscard]] bool is_due(const Round& round) const;

    [[nodiscard]] Steady::time_point queue_due();
    void start_queued();
    void ended_one();
    [[nodiscard]] double share();
    [[nodiscard]] Steady::time_point start_confirmations();
    void ended(Round& round, const Error* error, const std::vector<PollSchedule>& schedules);
    Task<void> look(Tag tag);
    Task<void> list(Tag tag);
    Task<void> ask_second_source(Tag tag);
    void note_gone(const Tag& tag, const Error* refusal);

    Parts parts_;
    std::string zone_name_;
    Zone zone_;
    std::unordered_map<Tag, Followed> followed_;
    std::map<Repository, Listed> listed_;
    std::deque<Tag> looks_;         // due
    std::deque<Repository> lists_;  // due
    std::unordered_set<Tag>
        hinted_;  // not in use: a cache told of them while nothing was listed, or nobody runs them
    std::unordered_map<Tag, Question> confirm_;
    std::map<Tag, std::string> gone_;
    std::mt19937 random_;
    Signal wake_;
    Steady::time_point freshened_;
    Steady::duration freshen_again_{};
    bool looking_ = true;  // what is due has still to be found out
    int under_way_ = 0;
    Metrics metrics_;
    bool stopped_ = false;
};

}  // namespace keel
