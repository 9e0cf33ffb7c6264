// What an answer makes of a tag: new, changed, the same, going back; and who may settle that.
#include "keeld/catalogue/tags.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "unit/keeld/peer.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::at;
using test::digest;
using test::tag;

constexpr auto kIndex = ManifestKind::index;

class TagsTest : public testing::Test {
  protected:
    Effect see(char hex, std::int64_t when) {
        return tags.observe(tag(), digest(hex), kIndex, at(when), "event cache-a");
    }
    [[nodiscard]] const TagInfo& info() const { return *tags.find(tag()); }
    // The codes of the log's lines, oldest first.
    std::vector<std::string> log() {
        EXPECT_TRUE(test::await(loop, ledger->durable()));
        std::vector<std::string> codes;
        for (const Entry& entry : ledger->entries({})) {
            EXPECT_EQ(entry.kind, EntryKind::observed);
            EXPECT_EQ(entry.tag, "docker.io/library/nginx:1.27");
            codes.insert(codes.begin(), entry.code);
        }
        return codes;
    }

    Loop loop;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Tags tags{*ledger};
};

struct Step {
    char seen;
    Effect effect;
    char current;
    char pending;  // '-': none
};

struct Sequence {
    const char* name;
    std::vector<Step> steps;
};

class TagSequence : public testing::TestWithParam<Sequence> {};

TEST_P(TagSequence, D5_ADigestGoingBackChangesNothingUntilConfirmed) {
    Loop loop;
    const auto ledger = test::open_ledger(loop);
    Tags tags(*ledger);
    std::int64_t when = 0;
    for (const Step& step : GetParam().steps) {
        const Effect effect = tags.observe(tag(), digest(step.seen), kIndex, at(++when), "x");
        EXPECT_EQ(to_string(effect), to_string(step.effect)) << "at step " << when;
        const TagInfo& info = *tags.find(tag());
        EXPECT_EQ(info.current, digest(step.current)) << "at step " << when;
        EXPECT_EQ(info.pending, step.pending == '-' ? Digest{} : digest(step.pending))
            << "at step " << when;
    }
}

INSTANTIATE_TEST_SUITE_P(All, TagSequence,
                         testing::Values(Sequence{"FirstAndAgain",
                                                  {{'a', Effect::fresh, 'a', '-'},
                                                   {'a', Effect::same, 'a', '-'}}},
                                         Sequence{"Moves",
                                                  {{'a', Effect::fresh, 'a', '-'},
                                                   {'b', Effect::changed, 'b', '-'},
                                                   {'c', Effect::changed, 'c', '-'}}},
                                         Sequence{"GoesBack",
                                                  {{'a', Effect::fresh, 'a', '-'},
                                                   {'b', Effect::changed, 'b', '-'},
                                                   {'a', Effect::revert, 'b', 'a'},
                                                   {'a', Effect::same, 'b', 'a'}}},
                                         Sequence{"GoesBackAndComesAgain",
                                                  {{'a', Effect::fresh, 'a', '-'},
                                                   {'b', Effect::changed, 'b', '-'},
                                                   {'a', Effect::revert, 'b', 'a'},
                                                   {'b', Effect::cleared, 'b', '-'},
                                                   {'b', Effect::same, 'b', '-'}}},
                                         Sequence{"GoesBackTwiceAsFar",
                                                  {{'a', Effect::fresh, 'a', '-'},
                                                   {'b', Effect::changed, 'b', '-'},
                                                   {'c', Effect::changed, 'c', '-'},
                                                   {'b', Effect::revert, 'c', 'b'},
                                                   {'a', Effect::revert, 'c', 'a'}}},
                                         Sequence{"ANewOneEndsTheDoubt",
                                                  {{'a', Effect::fresh, 'a', '-'},
                                                   {'b', Effect::changed, 'b', '-'},
                                                   {'a', Effect::revert, 'b', 'a'},
                                                   {'c', Effect::changed, 'c', '-'}}}),
                         [](const auto& info) { return info.param.name; });

TEST_F(TagsTest, V2_TheFirstDigestEverHasNoHistory) {
    see('a', 1);
    EXPECT_TRUE(info().without_history());
    see('a', 2);
    EXPECT_TRUE(info().without_history());
    see('b', 3);
    EXPECT_FALSE(info().without_history());
}

TEST_F(TagsTest, V2_ASecondSourceOrAnOlderDigestGivesHistory) {
    see('a', 10);
    EXPECT_TRUE(tags.confirm(tag(), digest('a'), at(11), "upstream"));
    EXPECT_FALSE(info().without_history());
    EXPECT_FALSE(tags.confirm(tag(), digest('a'), at(12), "upstream"));  // nothing new in it

    const Tag other = tag("other");
    tags.observe(other, digest('a'), kIndex, at(10), "x");
    tags.remember(other, digest('b'), at(20), at(21), "resync cache-a");
    EXPECT_TRUE(tags.find(other)->without_history()) << "b is younger: nothing precedes a";
    tags.remember(other, digest('c'), at(5), at(6), "resync cache-a");
    EXPECT_FALSE(tags.find(other)->without_history());
    EXPECT_EQ(tags.find(other)->current, digest('a'));
}

TEST_F(TagsTest, D5_OnlyThePendingDigestCanBeConfirmed) {
    see('a', 1);
    see('b', 2);
    see('a', 3);
    EXPECT_FALSE(tags.confirm(tag(), digest('c'), at(4), "upstream"));
    EXPECT_EQ(info().current, digest('b'));
    EXPECT_EQ(info().pending, digest('a'));
    EXPECT_FALSE(tags.confirm(tag("none"), digest('a'), at(4), "upstream"));

    EXPECT_TRUE(tags.confirm(tag(), digest('a'), at(5), "upstream"));
    EXPECT_EQ(info().current, digest('a'));
    EXPECT_TRUE(info().pending.empty());
    EXPECT_EQ(info().since, at(5));
    EXPECT_EQ(info().cause, "upstream");
    EXPECT_EQ(log(), (std::vector<std::string>{"new", "changed", "revert", "changed"}));
}

TEST_F(TagsTest, D5_UpstreamNamingTheCurrentDigestLeavesTheDoubtAboutTheCache) {
    see('a', 1);
    see('b', 2);
    see('a', 3);
    tags.confirm(tag(), digest('b'), at(4), "upstream");
    EXPECT_EQ(info().current, digest('b'));
    EXPECT_EQ(info().pending, digest('a')) << "a pull through the cache still gets a";
}

TEST_F(TagsTest, D7_OnlyWhatChangesSomethingIsLogged) {
    see('a', 1);
    see('a', 2);
    see('b', 3);
    see('b', 4);
    see('a', 5);
    see('a', 6);
    see('b', 7);
    EXPECT_EQ(log(), (std::vector<std::string>{"new", "changed", "revert", "cleared"}));
    const Entry last = ledger->entries({}).front();
    EXPECT_EQ(last.from, digest('a').to_string());
    EXPECT_EQ(last.to, digest('b').to_string());
    EXPECT_EQ(last.cause, "event cache-a");
    EXPECT_EQ(last.at, at(7));
}

TEST_F(TagsTest, RememberingNeverReplacesWhatIsKnown) {
    see('a', 10);
    tags.remember(tag(), digest('a'), at(1), at(2), "resync cache-b");
    EXPECT_EQ(info().seen.at(digest('a')).first, at(10));
    tags.remember(tag(), digest('b'), at(1), at(2), "resync cache-b");
    EXPECT_EQ(info().current, digest('a'));
    EXPECT_EQ(info().seen.at(digest('b')).source, "resync cache-b");
    EXPECT_EQ(see('b', 11), Effect::revert) << "a cache had it before: it goes back";
}

TEST_F(TagsTest, D8_AFailureTellsNothingAboutTheDigest) {
    see('a', 1);
    tags.failed(tag(), "refused");
    EXPECT_EQ(info().current, digest('a'));
    EXPECT_EQ(info().failure, "refused");
    EXPECT_EQ(info().confirmed_at, at(1));
    see('a', 2);
    EXPECT_EQ(info().failure, "");

    tags.failed(tag("unknown"), "refused");
    EXPECT_TRUE(tags.find(tag("unknown"))->current.empty());
    EXPECT_EQ(log(), (std::vector<std::string>{"new"}));
}

TEST_F(TagsTest, LateAnswersDoNotMakeATagLookOlder) {
    see('a', 100);
    see('a', 50);
    EXPECT_EQ(info().confirmed_at, at(100));
    EXPECT_EQ(info().seen.at(digest('a')).last, at(100));
}

TEST(TagsRestart, P7_EverythingThatDecidesSurvivesARestart) {
    const test::ScratchDirectory directory;
    const std::string path = directory.file("ledger.db");
    Loop loop;
    {
        const auto ledger = test::open_ledger(loop, path);
        Tags tags(*ledger);
        tags.observe(tag(), digest('a'), kIndex, at(1), "event cache-a");
        tags.observe(tag(), digest('b'), kIndex, at(2), "event cache-a");
        tags.observe(tag(), digest('a'), kIndex, at(3), "look-up cache-a");
        tags.observe(tag("first"), digest('c'), ManifestKind::image, at(4), "look-up cache-a");
        tags.observe(tag("sure"), digest('d'), kIndex, at(5), "look-up cache-a");
        tags.confirm(tag("sure"), digest('d'), at(6), "upstream");
        ASSERT_TRUE(test::await(loop, ledger->durable()));
    }
    const auto ledger = test::open_ledger(loop, path);
    Tags tags(*ledger);
    ASSERT_EQ(tags.all().size(), 3U);
    const TagInfo& info = *tags.find(tag());
    EXPECT_EQ(info.current, digest('b'));
    EXPECT_EQ(info.pending, digest('a'));
    EXPECT_EQ(info.since, at(2));
    EXPECT_EQ(info.pending_since, at(3));
    EXPECT_EQ(info.seen.at(digest('a')).first, at(1));
    EXPECT_FALSE(info.without_history());
    EXPECT_TRUE(tags.find(tag("first"))->without_history());
    EXPECT_EQ(tags.find(tag("first"))->kind, ManifestKind::image);
    EXPECT_FALSE(tags.find(tag("sure"))->without_history());
    // The doubt goes on where it was.
    EXPECT_EQ(tags.observe(tag(), digest('b'), kIndex, at(9), "x"), Effect::cleared);
}

}  // namespace
}  // namespace keel
