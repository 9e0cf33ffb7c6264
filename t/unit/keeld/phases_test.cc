// The plan: when a phase begins, soaks, is accepted and ends, whatever happens meanwhile.
#include "keeld/rollout/phases.h"

#include <gtest/gtest.h>

#include "keeld/spawn.h"
#include "unit/keeld/peer.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using std::chrono::hours;
using std::chrono::minutes;

// --- acceptance ---

Member member(Verdict verdict, Reason reason, bool followed = true) {
    Member one;
    one.workload = "Deployment/a/x";
    one.judged = true;
    one.verdict = verdict;
    one.reason = reason;
    one.followed = followed;
    one.due = test::at(0);
    return one;
}

Standpoint place(const Member& one, Time now = test::at(60)) {
    return standpoint_of(one, AcceptConfig{}, test::at(0), now);
}

TEST(AcceptanceTest, what_was_due_counts_and_what_was_not_stands_apart) {
    EXPECT_EQ(place(member(Verdict::current, Reason::up_to_date)), Standpoint::newest);
    EXPECT_EQ(place(member(Verdict::current, Reason::up_to_date, false)), Standpoint::newest);
    EXPECT_EQ(place(member(Verdict::roll, Reason::digest_moved)), Standpoint::on_the_way);
    EXPECT_EQ(place(member(Verdict::blocked, Reason::rollout_stalled)), Standpoint::on_the_way);
    EXPECT_EQ(place(member(Verdict::current, Reason::held)), Standpoint::pinned_out);
    EXPECT_EQ(place(member(Verdict::current, Reason::held, false)), Standpoint::newest);
    for (const Reason reason : {Reason::target_rejected, Reason::pinned}) {
        EXPECT_EQ(place(member(Verdict::blocked, reason)), Standpoint::pinned_out);
        EXPECT_EQ(place(member(Verdict::blocked, reason, false)), Standpoint::apart);
    }
    for (const Reason reason : {Reason::scaled_to_zero, Reason::stateful, Reason::too_young,
                                Reason::deployment_paused, Reason::restart_cannot_pull}) {
        EXPECT_EQ(place(member(Verdict::blocked, reason)), Standpoint::apart);
    }
    EXPECT_EQ(place(member(Verdict::ignore, Reason::vetoed)), Standpoint::apart);
    EXPECT_EQ(place(member(Verdict::current, Reason::at_next_run)), Standpoint::apart);
}

// Nothing is accepted on what is not known; what is never known keeps nobody waiting for ever.
TEST(AcceptanceTest, what_is_not_known_is_waited_for_and_not_for_ever) {
    Member one = member(Verdict::blocked, Reason::no_answer, false);
    EXPECT_EQ(place(one), Standpoint::unknown);
    EXPECT_EQ(place(one, test::at(0) + hours(24)), Standpoint::apart);
    one.judged = false;
    EXPECT_EQ(place(one, test::at(0) + hours(24)), Standpoint::unknown);
    const Assessment found = assess({one}, AcceptConfig{}, test::at(0), false, test::at(60));
    EXPECT_FALSE(found.settled);
    EXPECT_TRUE(found.violations.empty());
}

TEST(AcceptanceTest, violations_are_lateness_crash_loops_and_too_many_pinned_out) {
    AcceptConfig accept;
    accept.pinned_out = 1;
    Member late = member(Verdict::roll, Reason::digest_moved);
    EXPECT_TRUE(assess({late}, accept, test::at(0), false, test::at(3600)).violations.empty());
    const Time day = test::at(0) + hours(24);
    EXPECT_EQ(assess({late}, accept, test::at(0), false, test::at(3600)).next, day);
    EXPECT_EQ(assess({late}, accept, test::at(0), false, day).violations.size(), 1U);
    EXPECT_TRUE(assess({late}, accept, test::at(0), true, day).violations.empty()) << "paused";
    Member crashing = member(Verdict::current, Reason::up_to_date);
    crashing.crashing = test::at(0);
    EXPECT_TRUE(assess({crashing}, accept, test::at(0), false, test::at(3599)).violations.empty());
    EXPECT_EQ(assess({crashing}, accept, test::at(0), false, test::at(3600)).violations.size(), 1U);
    const Member pinned = member(Verdict::blocked, Reason::target_rejected);
    EXPECT_TRUE(assess({pinned}, accept, test::at(0), false, day).violations.empty());
    const Assessment two = assess({pinned, pinned}, accept, test::at(0), false, day);
    ASSERT_EQ(two.violations.size(), 1U);
    EXPECT_NE(two.violations[0].find("2 are held back for good"), std::string::npos);
    EXPECT_EQ(two.reasons.at("target-rejected"), 2);
    EXPECT_TRUE(two.settled);
}

// --- phases ---

class PhasesTest : public testing::Test {
  protected:
    PhasesTest() {
        for (const char* name : {"first", "second"}) {
            PhaseConfig phase;
            phase.name = name;
            phase.namespaces = {std::string(name) + "-*"};
            phase.soak = hours(24 * 7);
            phase.automatic = true;
            config.phases.push_back(phase);
            catalogue.upsert(test::enrolled(std::string(name) + "-a"));
        }
        config.mode = Mode::act;
        add("first-a", "x");
        add("first-a", "y");
        add("second-a", "z");
        make();
    }
    ~PhasesTest() override {
        phases->stop();
        run();
    }

    void make() {
        phases = std::make_unique<Phases>(Phases::Parts{
            loop, config, states, clock, catalogue, *ledger, [this] { return may_act; },
            [this](const WorkloadKey& key) { asked.insert(key); },
            [this](std::string ns) -> Task<Expected<void>> {
                readings.push_back(ns);
                std::set<WorkloadKey> keys;
                for (const auto& [key, entry] : catalogue.workloads()) {
                    if (key.ns == ns) keys.insert(key);
                }
                for (const WorkloadKey& key : keys) {
                    Running running;
                    running.known = true;
                    running.crashing = crashing.contains(key.name) ? 1 : 0;
                    running.restarts = restarts;
                    catalogue.set_running(key, running, catalogue.changes());
                }
                co_return Expected<void>{};
            }});
        keel::spawn(loop, phases->run());
        keel::spawn(loop, phases->run_pods());
        phases->start();
        run();
    }
    // As a keeld that starts again.
    void restart() {
        phases->stop();
        run();
        test::await(loop, ledger->durable());
        phases.reset();
        states.clear();
        make();
    }
    void add(const std::string& ns, const std::string& name) {
        catalogue.upsert(test::deployment(ns, name, {test::container("app", "nginx")}));
        verdicts[name] = {Verdict::current, Reason::up_to_date};
    }
    // Judges whoever is asked for, until nobody is.
    void run() {
        for (int turn = 0; turn < 20; ++turn) {
            loop.restart();
            loop.poll();
            for (const WorkloadKey& key : std::exchange(asked, {})) {
                judge(key);
            }
        }
    }
    void judge(const WorkloadKey& key) {
        WorkloadVerdict verdict;
        std::tie(verdict.verdict, verdict.reason) = verdicts[key.name];
        if (verdict.verdict == Verdict::roll) {
            verdict.targets.push_back(Target{"app", test::tag(), "", test::digest(version)});
        }
        phases->judged(key, catalogue.find(key), verdict);
    }
    void set(const std::string& ns, const std::string& name, Verdict verdict, Reason reason) {
        verdicts[name] = {verdict, reason};
        asked.insert(WorkloadKey{WorkloadKind::deployment, ns, name});
        run();
    }
    void rolls(const std::string& ns, const std::string& name) {
        set(ns, name, Verdict::roll, Reason::digest_moved);
    }
    void arrives(const std::string& ns, const std::string& name) {
        set(ns, name, Verdict::current, Reason::up_to_date);
    }
    void pass(Millis time) {
        clock.time += time;
        phases->look();
        run();
    }
    std::string stage(const std::string& name) {
        for (const Phases::View& view : phases->views()) {
            if (view.record.name == name) return view.stage;
        }
        return "";
    }
    OrderResult order(const std::string& action, const std::string& on, bool dry_run = false) {
        Order wish;
        wish.action = action;
        wish.on = on;
        wish.author = "alice";
        wish.reason = "because";
        wish.dry_run = dry_run;
        const OrderResult result = test::await(loop, phases->order(std::move(wish))).front();
        run();
        return result;
    }
    std::vector<std::string> told() {
        test::await(loop, ledger->durable());
        std::vector<std::string> codes;
        for (const Entry& entry : ledger->entries({}))
            codes.insert(codes.begin(), entry.code);
        return codes;
    }

    Loop loop;
    test::TestClock clock;
    Config config;
    PhaseStates states;
    std::set<WorkloadKey> asked;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Catalogue catalogue{[this](const WorkloadKey& key) { asked.insert(key); }};
    std::map<std::string, std::pair<Verdict, Reason>> verdicts;
    std::vector<std::string> readings;
    std::set<std::string> crashing;
    std::unique_ptr<Phases> phases;
    char version = 'a';
    int restarts = 0;
    bool may_act = true;
};

TEST_F(PhasesTest, one_after_the_other_each_with_its_soak) {
    EXPECT_EQ(stage("first"), "soaking") << "nothing is due there";
    EXPECT_EQ(states.at("first"), PhaseState::active);
    EXPECT_EQ(states.count("second"), 0U);
    pass(hours(24 * 7) - Millis(1));
    EXPECT_EQ(stage("first"), "soaking");
    pass(Millis(1));
    EXPECT_EQ(stage("first"), "completed");
    EXPECT_EQ(stage("second"), "soaking");
    pass(hours(24 * 7));
    EXPECT_EQ(stage("second"), "completed");
    EXPECT_EQ(states.at("second"), PhaseState::completed);
    EXPECT_EQ(told(),
              (std::vector<std::string>{"phase-begun", "phase-soaking", "phase-completed",
                                        "phase-begun", "phase-soaking", "phase-completed"}));
}

TEST_F(PhasesTest, nothing_begins_where_nothing_may_be_written) {
    phases->stop();
    run();
    ledger = test::open_ledger(loop);
    may_act = false;
    states.clear();
    make();
    pass(hours(24 * 30));
    EXPECT_TRUE(states.empty());
    EXPECT_EQ(stage("first"), "waiting");
    may_act = true;
    pass(Millis(0));
    EXPECT_EQ(stage("first"), "soaking");
}

// The Lease is taken before workloads are listed: nobody may wait for that by turning.
TEST_F(PhasesTest, nothing_turns_before_the_start) {
    phases->stop();
    run();
    phases = std::make_unique<Phases>(
        Phases::Parts{loop, config, states, clock, catalogue, *ledger, [] { return true; },
                      [](const WorkloadKey&) {},
                      [](std::string) -> Task<Expected<void>> { co_return Expected<void>{}; }});
    keel::spawn(loop, phases->run());
    phases->look();
    loop.restart();
    EXPECT_LT(loop.poll(), 100U);
    EXPECT_TRUE(phases->settled());
}

TEST_F(PhasesTest, the_soak_begins_once_everything_has_rolled) {
    rolls("first-a", "x");
    rolls("first-a", "y");
    restart();
    // The first soak had begun before anything was due: new targets within their time do not end
    // it.
    EXPECT_EQ(stage("first"), "soaking");
    pass(hours(24 * 7));
    EXPECT_EQ(stage("first"), "rolling") << "both are late";
    arrives("first-a", "x");
    EXPECT_EQ(stage("first"), "rolling");
    arrives("first-a", "y");
    EXPECT_EQ(stage("first"), "soaking");
    pass(hours(24 * 7));
    EXPECT_EQ(stage("first"), "completed");
}

TEST_F(PhasesTest, a_target_on_its_way_at_the_end_of_the_soak_is_waited_for) {
    pass(hours(24 * 7) - minutes(1));
    rolls("first-a", "x");
    pass(minutes(1));
    EXPECT_EQ(stage("first"), "soaking");
    pass(hours(5));
    EXPECT_EQ(stage("first"), "soaking");
    arrives("first-a", "x");
    EXPECT_EQ(stage("first"), "completed");
}

// A keeld that starts again has to read what runs first: nobody is late for that.
TEST_F(PhasesTest, a_restart_late_in_the_soak_violates_nothing) {
    rolls("first-a", "x");
    arrives("first-a", "x");
    pass(hours(24 * 3));
    verdicts["x"] = {Verdict::blocked, Reason::no_baseline};
    restart();
    EXPECT_EQ(stage("first"), "soaking");
    pass(hours(23));
    EXPECT_EQ(stage("first"), "soaking");
    arrives("first-a", "x");
    pass(hours(24 * 4) - hours(23));
    EXPECT_EQ(stage("first"), "completed");
    EXPECT_EQ(phases->find("first")->violation, "");
}

TEST_F(PhasesTest, a_newer_target_has_its_own_time) {
    rolls("first-a", "x");
    pass(hours(23));
    version = 'b';
    rolls("first-a", "x");
    pass(hours(23));
    EXPECT_EQ(phases->find("first")->violation, "");
    pass(hours(1));
    EXPECT_NE(phases->find("first")->violation, "");
    EXPECT_EQ(phases->find("first")->soaking, Time{});
}

TEST_F(PhasesTest, pods_are_read_every_ten_minutes_and_at_the_end) {
    EXPECT_TRUE(readings.empty());
    pass(minutes(30));
    EXPECT_TRUE(readings.empty()) << "nothing was due there yet";
    rolls("first-a", "x");
    arrives("first-a", "x");
    EXPECT_EQ(readings.size(), 1U) << "the last reading is half an hour old";
    for (int i = 0; i < 20; ++i)
        pass(minutes(1));
    EXPECT_EQ(readings.size(), 3U);
    pass(hours(24 * 7) - minutes(51));
    const std::size_t before = readings.size();
    pass(minutes(1));
    EXPECT_EQ(readings.size(), before + 1) << "at the end";
    EXPECT_EQ(stage("first"), "completed");
}

// What runs is checked, not what was decided before it was read.
TEST_F(PhasesTest, what_the_last_reading_finds_counts) {
    rolls("first-a", "x");
    arrives("first-a", "x");
    pass(hours(24 * 7) - minutes(1));
    verdicts["y"] = {Verdict::roll, Reason::digest_moved};  // a node went back to an old image
    pass(minutes(1));
    EXPECT_EQ(stage("first"), "soaking");
    arrives("first-a", "y");
    EXPECT_EQ(stage("first"), "completed");
}

TEST_F(PhasesTest, a_crash_loop_over_its_time_begins_the_soak_again) {
    rolls("first-a", "x");
    arrives("first-a", "x");
    pass(minutes(10));
    crashing = {"x"};
    pass(minutes(10));
    crashing.clear();
    restarts = 3;  // between two starts when it was read
    for (int i = 0; i < 5; ++i) {
        pass(minutes(10));
        ++restarts;
    }
    EXPECT_EQ(stage("first"), "soaking");
    pass(minutes(10));
    EXPECT_EQ(stage("first"), "rolling");
    EXPECT_NE(phases->find("first")->violation.find("crash loop"), std::string::npos);
    restart();
    EXPECT_EQ(stage("first"), "rolling");
    pass(minutes(10));
    EXPECT_EQ(stage("first"), "soaking") << "no start since the last look";
    const Time since = phases->find("first")->soaking;
    EXPECT_EQ(since, clock.time);
}

TEST_F(PhasesTest, others_pods_are_not_read) {
    rolls("first-a", "x");
    arrives("first-a", "x");
    pass(minutes(30));
    EXPECT_EQ(readings, (std::vector<std::string>{"first-a"}));
}

TEST_F(PhasesTest, a_person_advances_what_is_accepted_and_nothing_else) {
    config.phases[0].automatic = false;
    EXPECT_EQ(order("phase-advance", "first").code, "not-accepted");
    EXPECT_EQ(order("phase-advance", "second").code, "not-active");
    EXPECT_EQ(order("phase-advance", "third").code, "unknown-phase");
    pass(hours(24 * 30));
    EXPECT_EQ(stage("first"), "accepted");
    EXPECT_EQ(states.count("second"), 0U);
    EXPECT_TRUE(order("phase-advance", "first", true).ok);
    EXPECT_EQ(stage("first"), "accepted") << "only said";
    EXPECT_TRUE(order("phase-advance", "first").ok);
    EXPECT_EQ(stage("first"), "completed");
    EXPECT_EQ(stage("second"), "soaking");
    EXPECT_EQ(order("phase-advance", "first").code, "completed");
    EXPECT_EQ(phases->find("first")->completed_by, "alice");
}

// What was accepted is not any more once it crashes.
TEST_F(PhasesTest, acceptance_is_lost_by_a_violation) {
    config.phases[0].automatic = false;
    rolls("first-a", "x");
    arrives("first-a", "x");
    pass(hours(24 * 7));
    EXPECT_EQ(stage("first"), "accepted");
    crashing = {"x"};
    pass(hours(1));
    pass(hours(1));
    EXPECT_EQ(stage("first"), "rolling");
    EXPECT_EQ(order("phase-advance", "first").code, "not-accepted");
}

TEST_F(PhasesTest, a_paused_phase_ends_only_when_it_is_resumed_and_is_late_for_nothing) {
    rolls("first-a", "x");
    EXPECT_TRUE(order("phase-pause", "first").ok);
    EXPECT_EQ(order("phase-pause", "first").code, "paused");
    EXPECT_EQ(states.at("first"), PhaseState::paused);
    EXPECT_EQ(phases->closed("first-a"), "the phase first is paused by alice: because");
    EXPECT_EQ(phases->closed("second-a"), "");
    restart();
    EXPECT_EQ(states.at("first"), PhaseState::paused);
    pass(hours(24 * 30));
    EXPECT_EQ(stage("first"), "paused");
    EXPECT_EQ(states.count("second"), 0U);
    EXPECT_TRUE(order("phase-resume", "first").ok);
    EXPECT_EQ(order("phase-resume", "first").code, "not-paused");
    EXPECT_EQ(phases->find("first")->violation, "");
    pass(hours(1));
    arrives("first-a", "x");
    EXPECT_EQ(stage("first"), "completed");
}

TEST_F(PhasesTest, one_that_is_paused_before_it_begins_does_not_begin) {
    EXPECT_TRUE(order("phase-pause", "second").ok);
    pass(hours(24 * 7));
    EXPECT_EQ(stage("first"), "completed");
    EXPECT_EQ(stage("second"), "paused");
    EXPECT_EQ(states.at("second"), PhaseState::waiting) << "untouched";
    EXPECT_TRUE(order("phase-resume", "second").ok);
    EXPECT_EQ(stage("second"), "soaking");
}

TEST_F(PhasesTest, a_phase_that_is_taken_out_is_told_and_kept) {
    rolls("first-a", "x");
    const PhaseConfig first = config.phases[0];
    config.phases.erase(config.phases.begin());
    phases->reconfigured();
    run();
    EXPECT_EQ(states.count("first"), 0U) << "its namespaces are released";
    EXPECT_EQ(stage("second"), "soaking");
    EXPECT_EQ(phases->views().back().record.name, "first");
    EXPECT_FALSE(phases->views().back().configured);
    config.phases.insert(config.phases.begin(), first);
    restart();
    EXPECT_EQ(states.at("first"), PhaseState::active);
    const std::vector<std::string> codes = told();
    EXPECT_EQ(std::ranges::count(codes, "phase-gone"), 1);
    EXPECT_EQ(std::ranges::count(codes, "phase-back"), 1);
}

TEST_F(PhasesTest, a_namespace_of_two_phases_is_told) {
    EXPECT_TRUE(phases->conflicts().empty());
    config.phases[1].namespaces.push_back("first-a");
    EXPECT_EQ(phases->conflicts().at("first-a"), "first and second");
}

TEST_F(PhasesTest, the_ledger_gives_back_what_it_was_given) {
    PhaseRecord record;
    record.name = "media";
    record.state = PhaseState::active;
    record.begun = test::at(1);
    record.soaking = test::at(2);
    record.accepted = test::at(3);
    record.paused = test::at(4);
    record.paused_by = "alice";
    record.paused_reason = "why";
    record.violation = "late";
    record.violations = 2;
    record.followed["Deployment/a/x"] =
        Followed{"uid", "app x", test::at(5), test::at(6), test::at(7), 8};
    const std::string json = phase_to_json(record);
    EXPECT_EQ(phase_to_json(phase_from_json("media", json)), json);
    EXPECT_NE(json.find("\"restarts\":8"), std::string::npos);
}

}  // namespace
}  // namespace keel
