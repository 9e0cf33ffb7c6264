// What webhooks release, and that nothing else does.
#include "keeld/policy/pushes.h"

#include <gtest/gtest.h>

#include "unit/keeld/peer.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::at;
using test::digest;
using test::tag;

class PushesTest : public testing::Test {
  protected:
    Loop loop;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Pushes pushes{*ledger};
};

TEST_F(PushesTest, WhatIsAnsweredAfterAWebhookIsReleased) {
    EXPECT_FALSE(pushes.answered(tag(), digest('a'), at(1))) << "nobody named it";
    EXPECT_EQ(pushes.released(tag()), nullptr);
    pushes.named(tag(), at(10));
    EXPECT_TRUE(pushes.is_awaited(tag()));
    EXPECT_TRUE(pushes.awaits("docker.io", "library/nginx"));
    EXPECT_FALSE(pushes.awaits("docker.io", "library/other"));
    EXPECT_FALSE(pushes.awaits("quay.io", "library/nginx"));
    EXPECT_FALSE(pushes.answered(tag(), digest('a'), at(9))) << "asked before it was named";
    EXPECT_EQ(pushes.released(tag()), nullptr);
    EXPECT_TRUE(pushes.answered(tag(), digest('b'), at(10)));
    EXPECT_EQ(*pushes.released(tag()), digest('b'));
    EXPECT_FALSE(pushes.is_awaited(tag()));
    EXPECT_FALSE(pushes.awaits("docker.io", "library/nginx"));
    EXPECT_FALSE(pushes.answered(tag(), digest('c'), at(20))) << "it moved on without a webhook";
    EXPECT_EQ(*pushes.released(tag()), digest('b'));
    EXPECT_EQ(pushes.released(tag("other")), nullptr);
}

TEST_F(PushesTest, ANewWebhookLeavesTheOldReleaseUntilItIsAnswered) {
    pushes.named(tag(), at(10));
    pushes.answered(tag(), digest('b'), at(11));
    pushes.named(tag(), at(20));
    EXPECT_EQ(*pushes.released(tag()), digest('b'));
    pushes.answered(tag(), digest('c'), at(21));
    EXPECT_EQ(*pushes.released(tag()), digest('c'));
}

// D5: the word of one push counts for the first answer after it, and no later one.
TEST_F(PushesTest, D5_WhatWasSaidCountsForTheNextAnswer) {
    pushes.named(tag(), at(10), {digest('a'), "webhook github"});
    EXPECT_EQ(pushes.confirmed_by(tag(), digest('a'), at(9)), nullptr) << "asked before";
    EXPECT_EQ(pushes.confirmed_by(tag(), digest('b'), at(10)), nullptr) << "another digest";
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    const Pushes again(*ledger);
    ASSERT_NE(again.confirmed_by(tag(), digest('a'), at(10)), nullptr) << "over a restart";
    EXPECT_EQ(*again.confirmed_by(tag(), digest('a'), at(10)), "webhook github");
    pushes.answered(tag(), digest('b'), at(11));
    EXPECT_EQ(pushes.confirmed_by(tag(), digest('a'), at(12)), nullptr) << "a stale answer later";
    pushes.named(tag(), at(20));
    EXPECT_EQ(pushes.confirmed_by(tag(), digest('a'), at(20)), nullptr) << "it says nothing";
}

TEST_F(PushesTest, P7_ARestartKnowsThem) {
    pushes.named(tag("done"), at(10));
    pushes.answered(tag("done"), digest('b'), at(11));
    pushes.named(tag("waits"), at(12));
    ledger->put(DocumentRow{"push", "no tag", "{}"});
    ledger->put(DocumentRow{"push", tag("odd").to_string(), "[]"});
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    const Pushes again(*ledger);
    EXPECT_EQ(*again.released(tag("done")), digest('b'));
    EXPECT_TRUE(again.is_awaited(tag("waits")));
    EXPECT_FALSE(again.is_awaited(tag("done")));
    EXPECT_EQ(again.released(tag("waits")), nullptr);
}

TEST_F(PushesTest, TheOldestMakesRoom) {
    for (std::size_t i = 0; i <= Pushes::kMost; ++i) {
        pushes.named(tag("t" + std::to_string(i)), at(static_cast<std::int64_t>(i)));
    }
    EXPECT_FALSE(pushes.is_awaited(tag("t0")));
    EXPECT_TRUE(pushes.is_awaited(tag("t1")));
    ASSERT_TRUE(test::await(loop, ledger->durable()));
    EXPECT_EQ(ledger->documents("push").size(), Pushes::kMost);
}

}  // namespace
}  // namespace keel
