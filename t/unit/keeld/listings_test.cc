// What is known of a repository's tags, over lists and restarts.
#include "keeld/catalogue/listings.h"

#include <gtest/gtest.h>

#include "unit/keeld/peer.h"
#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::at;
using Names = std::vector<std::string>;

class ListingsTest : public testing::Test {
  protected:
    bool list(Names names, int seconds, bool complete = true) {
        return listings->listed("docker.io", "library/redis", std::move(names), complete,
                                at(seconds));
    }
    void restart() {
        bool durable = false;
        const auto flush = [&]() -> Task<void> {
            durable = (co_await ledger->durable()).has_value();
        };
        asio::co_spawn(loop, flush(), asio::detached);
        ASSERT_TRUE(test::run_until(loop, [&] { return durable; }));
        listings = std::make_unique<Listings>(*ledger);
    }
    const Listing& redis() const { return *listings->find("docker.io", "library/redis"); }
    std::optional<std::uint64_t> first(const std::string& name) const {
        return listings->first_seen("docker.io", "library/redis", name);
    }

    Loop loop;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    std::unique_ptr<Listings> listings = std::make_unique<Listings>(*ledger);
};

TEST_F(ListingsTest, V2_TheFirstListThatHadANameIsRemembered) {
    EXPECT_EQ(listings->find("docker.io", "library/redis"), nullptr);
    EXPECT_TRUE(list({"8", "7", "7"}, 0));
    EXPECT_FALSE(list({"7", "8"}, 60)) << "nothing new";
    EXPECT_TRUE(list({"8", "9"}, 120));
    EXPECT_TRUE(list({"7", "8", "9"}, 180)) << "one came back";
    for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(redis().names, (Names{"7", "8", "9"}));
        EXPECT_EQ(redis().number, 4U);
        EXPECT_EQ(redis().at, at(180));
        EXPECT_TRUE(redis().complete);
        EXPECT_EQ(first("7"), 1U);
        EXPECT_EQ(first("8"), 1U);
        EXPECT_EQ(first("9"), 3U);
        EXPECT_EQ(first("10"), std::nullopt);
        EXPECT_EQ(listings->first_seen("docker.io", "library/nginx", "7"), std::nullopt);
        restart();
    }
}

// A name that comes from beyond the end of a list may be older than all that the list had.
TEST_F(ListingsTest, V2_WhatComesFromBeyondACutHasNoOrderYet) {
    list({"b", "d"}, 0, false);
    EXPECT_EQ(first("b"), first("d"));
    list({"b", "c", "d"}, 60, false);
    for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(first("c"), std::nullopt);
        EXPECT_EQ(first("d"), 1U);
        restart();
    }
    list({"c", "d", "e"}, 120);
    for (int i = 0; i < 2; ++i) {
        for (const char* name : {"b", "c", "d", "e"})
            EXPECT_EQ(first(name), 3U) << name;
        EXPECT_FALSE(redis().has("b")) << "a whole list does not have it";
        EXPECT_TRUE(redis().complete);
        restart();
    }
    EXPECT_TRUE(list({"c", "d", "e", "f"}, 180));
    EXPECT_EQ(first("f"), 4U);
    EXPECT_EQ(first("e"), 3U);
}

TEST_F(ListingsTest, V2_AWholeListThatOnlyRepeatsLeavesTheOrder) {
    list({"b"}, 0);
    list({"b", "c"}, 60);
    list({"b"}, 120, false);
    EXPECT_TRUE(list({"b", "c"}, 180)) << "it is whole again";
    EXPECT_EQ(first("b"), 1U);
    EXPECT_EQ(first("c"), 2U);
}

TEST_F(ListingsTest, V2_WhatACutListHadFirstIsOrderedWithEverythingElse) {
    list({"b"}, 0);
    list({"a", "b"}, 60, false);
    EXPECT_TRUE(list({"a", "b"}, 120)) << "the same names, and they have an order now";
    EXPECT_EQ(first("a"), 3U);
    EXPECT_EQ(first("b"), 3U);
}

TEST_F(ListingsTest, D4_WhatIsBeyondTheEndOfAListIsNotGone) {
    list({"7", "8", "9"}, 0);
    EXPECT_TRUE(list({"7"}, 60, false));
    for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(redis().names, (Names{"7", "8", "9"}));
        EXPECT_FALSE(redis().complete);
        EXPECT_EQ(first("9"), 1U);
        restart();
    }
    EXPECT_FALSE(list({"8"}, 120, false)) << "nothing new";
}

TEST_F(ListingsTest, D4_ATagThatTheListLacksIsKnownToHaveBeenThere) {
    list({"7", "8"}, 0);
    list({"8"}, 60);
    for (int i = 0; i < 2; ++i) {
        EXPECT_FALSE(redis().has("7"));
        EXPECT_TRUE(redis().has("8"));
        EXPECT_EQ(first("7"), 1U);
        restart();
    }
}

TEST_F(ListingsTest, AFailureChangesNothingButWhatIsToldOfIt) {
    list({"7"}, 0);
    EXPECT_TRUE(listings->failed("docker.io", "library/redis", "denied"));
    EXPECT_FALSE(listings->failed("docker.io", "library/redis", "denied"));
    EXPECT_EQ(redis().failure, "denied");
    EXPECT_TRUE(redis().known());
    EXPECT_EQ(redis().names, Names{"7"});
    EXPECT_TRUE(list({"7"}, 60)) << "it is over";
    EXPECT_TRUE(redis().failure.empty());
    listings->failed("docker.io", "library/nginx", "unavailable");
    EXPECT_FALSE(listings->find("docker.io", "library/nginx")->known());
}

TEST_F(ListingsTest, D3_WhatIsNoTagIsLeftOut) {
    list({"8", "", "a/b", "-x", "sha256-" + std::string(64, 'a') + ".sig"}, 0, false);
    EXPECT_EQ(redis().names, Names{"8"});
    EXPECT_FALSE(redis().complete);
}

}  // namespace
}  // namespace keel
