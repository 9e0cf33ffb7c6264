// Votes: what they are for, how long they may be given, and what a restart leaves of them.
#include "keeld/rollout/approvals.h"

#include <gtest/gtest.h>

#include "unit/keeld/peer.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using std::chrono::hours;

class ApprovalsTest : public testing::Test {
  protected:
    ApprovalsTest() {
        clock.time = test::at(60);
        workload.key = WorkloadKey{WorkloadKind::deployment, "shop", "cart"};
        workload.uid = "uid-cart";
        wants(2);
        goes_to('b');
    }
    void wants(int votes) {
        WorkloadSettings settings;
        settings.approvals.parsed = votes;
        settings.approvals.value = std::to_string(votes);
        settings.approvals.layer = "annotation";
        settings.approval_deadline.parsed = hours{24};
        verdict.settings = std::make_shared<const WorkloadSettings>(std::move(settings));
    }
    void goes_to(char hex) {
        verdict.targets = {{"app", test::tag(), test::digest('a').to_string(), test::digest(hex)}};
    }
    [[nodiscard]] std::optional<Gate> gate() const {
        const auto closed = approvals.gate(workload, verdict);
        return closed ? std::optional(closed->gate) : std::nullopt;
    }
    [[nodiscard]] std::string text() const { return approvals.gate(workload, verdict)->text; }
    void ask() { approvals.ask(workload, verdict); }
    [[nodiscard]] const Approval& open() const {
        for (const auto& [id, one] : approvals.all()) {
            if (one.archived == Time{}) return one;
        }
        throw std::runtime_error("nothing is asked for");
    }
    OrderResult vote(const std::string& author, const std::string& action, const std::string& on,
                     const char* flag = nullptr) {
        Order order;
        order.author = author;
        order.action = action;
        order.on = on;
        order.args = Json(json_object());
        if (flag != nullptr) json_object_set_new(order.args.get(), flag, json_true());
        return test::await(loop, approvals.order(std::move(order))).front();
    }
    OrderResult demand(const std::string& on, json_t* votes) {
        Order order;
        order.author = "carol";
        order.on = on;
        order.args = Json(json_object());
        json_object_set_new(order.args.get(), "votes", votes);
        return test::await(loop, approvals.demand(std::move(order))).front();
    }
    std::vector<std::string> codes(EntryKind kind) {
        std::vector<std::string> all;
        EXPECT_TRUE(test::await(loop, ledger->durable()));
        for (const Entry& entry : ledger->entries(EntryQuery{})) {
            if (entry.kind == kind) all.insert(all.begin(), entry.code + " " + entry.cause);
        }
        return all;
    }

    Loop loop;
    test::TestClock clock;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Approvals approvals{Approvals::Parts{clock, *ledger}};
    Workload workload;
    WorkloadVerdict verdict;
};

TEST_F(ApprovalsTest, AVoterCountsOnce) {
    EXPECT_EQ(gate(), Gate::awaiting_approval) << "also before anybody was asked";
    ask();
    const std::string id = open().id;
    EXPECT_TRUE(vote("alice", "approve", id).ok);
    EXPECT_EQ(vote("alice", "approve", id).code, "voted");
    EXPECT_EQ(gate(), Gate::awaiting_approval);
    EXPECT_NE(text().find("1 of 2 votes (alice)"), std::string::npos) << text();
    EXPECT_TRUE(vote("bob", "approve", id).ok);
    EXPECT_EQ(gate(), std::nullopt);
    wants(3);
    EXPECT_EQ(gate(), Gate::awaiting_approval) << "settings count as they are now";
    EXPECT_EQ(codes(EntryKind::ordered),
              (std::vector<std::string>{"approved alice", "approved bob"}));
}

TEST_F(ApprovalsTest, P6_VotesAreForOneTargetOfOneWorkload) {
    wants(1);
    ask();
    const Approval first = open();
    EXPECT_EQ(first.identifier, "Deployment/shop/cart:1.27@" + test::digest('b').to_string());
    goes_to('c');
    ask();
    EXPECT_EQ(vote("alice", "approve", first.id).code, "archived");
    EXPECT_EQ(vote("alice", "approve", first.identifier).code, "archived");
    EXPECT_EQ(vote("alice", "approve", "Deployment/shop/cart").code, "which-target");
    EXPECT_EQ(vote("alice", "approve", "deployment/shop/cart:1.27").code, "unknown-approval");
    EXPECT_EQ(gate(), Gate::awaiting_approval);
    EXPECT_EQ(open().digest, test::digest('c').to_string());
    std::string lower = open().identifier;
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
    EXPECT_TRUE(vote("alice", "approve", lower).ok) << "as Keel's bots write it";
    EXPECT_EQ(gate(), std::nullopt);
    workload.uid = "a namesake";
    EXPECT_EQ(gate(), Gate::awaiting_approval);
    workload.uid = "uid-cart";
    goes_to('b');
    EXPECT_EQ(gate(), Gate::awaiting_approval) << "the older one was never approved";
}

TEST_F(ApprovalsTest, AVoteDoesNotOutliveItsRollout) {
    wants(1);
    ask();
    ASSERT_TRUE(vote("alice", "approve", open().id).ok);
    approvals.used(workload.uid, verdict.targets);
    EXPECT_EQ(gate(), Gate::awaiting_approval);
    ask();
    EXPECT_TRUE(open().voters.empty());
}

TEST_F(ApprovalsTest, WhatGetsTooFewVotesInTimeExpiresAndBeginsAnewWithTheNext) {
    ask();
    ASSERT_TRUE(vote("alice", "approve", open().id).ok);
    clock.time += hours{24};
    ask();
    ask();
    EXPECT_EQ(gate(), Gate::approval_rejected);
    EXPECT_EQ(codes(EntryKind::planned),
              (std::vector<std::string>{"approval-asked ", "approval-expired "}));
    EXPECT_TRUE(vote("bob", "approve", open().id).ok);
    ask();
    EXPECT_EQ(gate(), Gate::awaiting_approval) << "alice's vote was for then";
    EXPECT_EQ(open().deadline, clock.time + hours{24});
    EXPECT_TRUE(vote("alice", "approve", open().id).ok);
    EXPECT_EQ(gate(), std::nullopt);
    clock.time += hours{48};
    ask();
    EXPECT_EQ(gate(), std::nullopt) << "enough votes came in time";
}

TEST_F(ApprovalsTest, ARejectionHoldsAgainstAnyNumberOfVotesUntilItIsForgotten) {
    wants(1);
    ask();
    ASSERT_TRUE(vote("alice", "approve", open().id).ok);
    ASSERT_TRUE(vote("bob", "reject", open().id).ok);
    EXPECT_EQ(gate(), Gate::approval_rejected);
    EXPECT_NE(text().find("bob rejected it"), std::string::npos) << text();
    EXPECT_EQ(vote("carol", "approve", open().id).code, "rejected");
    ASSERT_TRUE(vote("bob", "reject", open().id, "undo").ok);
    EXPECT_EQ(gate(), Gate::awaiting_approval);
    ask();
    EXPECT_TRUE(open().voters.empty());
}

TEST_F(ApprovalsTest, WhatWaitsIsNotPutAway) {
    wants(1);
    ask();
    const std::string id = open().id;
    EXPECT_EQ(vote("bob", "reject", id, "archive").code, "pending");
    ASSERT_TRUE(vote("bob", "reject", id).ok);
    EXPECT_TRUE(vote("bob", "reject", id, "archive").ok);
    EXPECT_NE(approvals.find(id)->archived, Time{});
}

TEST_F(ApprovalsTest, P6_VotesOutliveARestart) {
    ask();
    ASSERT_TRUE(vote("alice", "approve", open().id).ok);
    ASSERT_TRUE(demand("deployment/shop/cart", json_integer(3)).ok);
    ask();
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    const Approvals again{Approvals::Parts{clock, *ledger}};
    ASSERT_EQ(again.all().size(), 1U);
    const Approval& one = again.all().begin()->second;
    EXPECT_EQ(approval_to_json(one), approval_to_json(open()));
    EXPECT_EQ(one.voters.size(), 1U);
    EXPECT_EQ(one.needed, 3);
    EXPECT_EQ(again.gate(workload, verdict)->gate, Gate::awaiting_approval);
}

TEST_F(ApprovalsTest, WhatPeopleDemandNeverLoosens) {
    wants(2);
    ASSERT_TRUE(demand("deployment/shop/cart", json_integer(1)).ok);
    ask();
    EXPECT_EQ(open().needed, 2);
    ASSERT_TRUE(demand("deployment/shop/cart", json_integer(3)).ok);
    ask();
    EXPECT_EQ(open().needed, 3);
    wants(0);
    EXPECT_EQ(gate(), Gate::awaiting_approval);
    ASSERT_TRUE(demand("deployment/shop/cart", json_integer(0)).ok);
    EXPECT_EQ(gate(), std::nullopt);
    for (json_t* bad : {json_integer(-1), json_integer(101), json_string("2"), json_null()}) {
        EXPECT_EQ(demand("deployment/shop/cart", bad).code, "bad-action");
    }
    EXPECT_EQ(demand("shop/cart", json_integer(1)).code, "bad-action");
}

TEST_F(ApprovalsTest, V2_GoingBackAsksForOneVote) {
    wants(0);
    EXPECT_EQ(gate(), std::nullopt);
    verdict.vote_because = "the target is older than what runs, and reverts is ask";
    ask();
    EXPECT_EQ(gate(), Gate::awaiting_approval);
    EXPECT_EQ(open().needed, 1);
    EXPECT_NE(text().find("older than what runs"), std::string::npos) << text();
    ASSERT_TRUE(vote("alice", "approve", open().id).ok);
    EXPECT_EQ(gate(), std::nullopt);
}

TEST_F(ApprovalsTest, V5_P6_WhatIsNotDueMayBeAskedFor) {
    wants(0);
    verdict.asks = std::exchange(verdict.targets, {});
    verdict.vote_because = "it crosses to another product or numbering";
    EXPECT_FALSE(approvals.approved(workload.uid, verdict.asks));
    ask();
    EXPECT_FALSE(approvals.approved(workload.uid, verdict.asks));
    ASSERT_TRUE(vote("alice", "approve", open().id).ok);
    EXPECT_TRUE(approvals.approved(workload.uid, verdict.asks));
    EXPECT_FALSE(approvals.approved("another", verdict.asks));

    verdict.targets = std::exchange(verdict.asks, {});  // now it is
    ask();
    EXPECT_EQ(gate(), std::nullopt);
    verdict.targets.front().to = test::digest('c');
    EXPECT_FALSE(approvals.approved(workload.uid, verdict.targets));
}

TEST_F(ApprovalsTest, WhatIsNoApprovalOpensNothing) {
    for (const char* json : {"", "{}", "[]", R"({"uid":"u","targets":"t"})",
                             R"({"uid":"u","targets":"t","needed":0})"}) {
        EXPECT_FALSE(approval_from_json("id", json)) << json;
    }
}

TEST_F(ApprovalsTest, OfArchivedOnesTheNewestAreKept) {
    wants(1);
    for (std::size_t i = 0; i < Approvals::kMaxArchived + 5; ++i) {
        clock.time += std::chrono::seconds{1};
        ask();
        approvals.used(workload.uid, verdict.targets);
    }
    EXPECT_EQ(approvals.all().size(), Approvals::kMaxArchived);
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    EXPECT_EQ(ledger->documents("approval").size(), Approvals::kMaxArchived);
}

}  // namespace
}  // namespace keel
