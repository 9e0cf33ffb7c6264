#include "core/challenge.h"

#include <gtest/gtest.h>

namespace keel {
namespace {

using Scheme = Challenge::Scheme;

TEST(Challenge, bearer_names_realm_service_and_scope) {
    const auto all = parse_challenges(
        R"(Bearer realm="https://auth.example/token?x=1",service="registry.example",scope="repository:a/b:pull,push")");
    ASSERT_EQ(all.size(), 1u);
    EXPECT_EQ(all[0].scheme, Scheme::bearer);
    EXPECT_EQ(all[0].realm, "https://auth.example/token?x=1");
    EXPECT_EQ(all[0].service, "registry.example");
    EXPECT_EQ(all[0].scope, "repository:a/b:pull,push");
}

TEST(Challenge, several_on_one_line_stay_in_order) {
    const auto all = parse_challenges(
        R"(Negotiate, Basic realm="a \"b\"" , bEaReR Realm=https ,service = "s",error="x", Digest qop="auth")");
    ASSERT_EQ(all.size(), 4u);
    EXPECT_EQ(all[0].scheme, Scheme::other);
    EXPECT_EQ(all[1].scheme, Scheme::basic);
    EXPECT_EQ(all[1].realm, "a \"b\"");
    EXPECT_EQ(all[2].scheme, Scheme::bearer);
    EXPECT_EQ(all[2].realm, "https");
    EXPECT_EQ(all[2].service, "s");
    EXPECT_EQ(all[3].scheme, Scheme::other);
}

TEST(Challenge, what_cannot_be_read_ends_the_list) {
    EXPECT_TRUE(parse_challenges("").empty());
    EXPECT_TRUE(parse_challenges(" , ,").empty());
    EXPECT_TRUE(parse_challenges("=").empty());
    const auto cut = parse_challenges(R"(Bearer realm="https://auth)");
    ASSERT_FALSE(cut.empty());
    EXPECT_TRUE(cut[0].realm.empty());
    EXPECT_EQ(parse_challenges("Negotiate abc==")[0].scheme, Scheme::other);
}

}  // namespace
}  // namespace keel
