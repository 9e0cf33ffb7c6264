// Lists of tags, page by page: what is taken, what is followed, where it ends.
#include "keeld/registry/tag_list.h"

#include <gtest/gtest.h>

namespace keel {
namespace {

constexpr const char* kBase = "https://registry.example:5000";

std::string page(const std::vector<std::string>& names) {
    std::string list;
    for (const std::string& name : names) {
        list += (list.empty() ? "\"" : ",\"") + name + "\"";
    }
    return R"({"name":"team/app","tags":[)" + list + "]}";
}

std::string next(const std::string& target) {
    return "<" + target + ">; rel=\"next\"";
}

class TagListTest : public testing::Test {
  protected:
    TagListReader reader{kBase, "team/app"};
};

TEST_F(TagListTest, PagesAreReadOneAfterTheOther) {
    EXPECT_EQ(reader.next(), "n=1000");
    ASSERT_TRUE(reader.take(page({"1.2", "1.10"}), next("/v2/team/app/tags/list?n=1000&last=1.2")));
    EXPECT_EQ(reader.next(), "n=1000&last=1.2");
    ASSERT_TRUE(reader.take(page({"latest", "1.2"}), ""));
    EXPECT_EQ(reader.next(), "");
    const TagList list = std::move(reader).result();
    EXPECT_EQ(list.names, (std::vector<std::string>{"1.10", "1.2", "latest"}));
    EXPECT_TRUE(list.complete);
    EXPECT_EQ(list.pages, 2U);
}

TEST_F(TagListTest, NamesThatAreNoTagsAreDroppedAndCounted) {
    ASSERT_TRUE(reader.take(
        R"({"tags":["1.2",".3","a:b","",7,null,"x/y",")" + std::string(129, 'a') + R"("]})", ""));
    const TagList list = std::move(reader).result();
    EXPECT_EQ(list.names, std::vector<std::string>{"1.2"});
    EXPECT_EQ(list.dropped, 7U);
    EXPECT_TRUE(list.complete);
}

TEST_F(TagListTest, ARepositoryWithoutTagsHasAnEmptyList) {
    ASSERT_TRUE(reader.take(R"({"name":"team/app","tags":null})", ""));
    EXPECT_TRUE(std::move(reader).result().names.empty());
}

TEST_F(TagListTest, WhatIsNoListIsAnError) {
    for (const char* body : {"", "[]", "{}", "<html>", R"({"tags":{}})", R"({"tags":"1.2"})"}) {
        TagListReader fresh(kBase, "team/app");
        const Expected<void> taken = fresh.take(body, "");
        ASSERT_FALSE(taken) << body;
        EXPECT_EQ(taken.error().code, "bad-list");
    }
}

struct Elsewhere {
    const char* name;
    const char* link;
};

class TagListElsewhere : public TagListTest, public testing::WithParamInterface<Elsewhere> {};

TEST_P(TagListElsewhere, D6_OnlyTheSameListIsFollowed) {
    ASSERT_TRUE(reader.take(page({"1.2"}), next(GetParam().link)));
    EXPECT_EQ(reader.next(), "");
    const TagList list = std::move(reader).result();
    EXPECT_FALSE(list.complete);
    EXPECT_EQ(list.stopped.code, "list-elsewhere");
    EXPECT_EQ(list.names, std::vector<std::string>{"1.2"});
}

INSTANTIATE_TEST_SUITE_P(
    All, TagListElsewhere,
    testing::Values(Elsewhere{"Host", "https://evil.example:5000/v2/team/app/tags/list?last=1"},
                    Elsewhere{"Port", "https://registry.example/v2/team/app/tags/list?last=1"},
                    Elsewhere{"Scheme",
                              "http://registry.example:5000/v2/team/app/tags/list?last=1"},
                    Elsewhere{"Repository", "/v2/team/other/tags/list?last=1"},
                    Elsewhere{"Path", "/admin?last=1"}, Elsewhere{"File", "file:///etc/passwd"}),
    [](const auto& given) { return given.param.name; });

TEST_F(TagListTest, AnAbsoluteAddressOfTheSameListIsFollowed) {
    ASSERT_TRUE(reader.take(page({"1.2"}),
                            next(std::string(kBase) + "/v2/team/app/tags/list?n=1000&last=1.2")));
    EXPECT_EQ(reader.next(), "n=1000&last=1.2");
}

TEST_F(TagListTest, OtherRelationsAreNotFollowed) {
    ASSERT_TRUE(reader.take(page({"1.2"}), "</v2/team/app/tags/list?last=0>; rel=\"prev\""));
    EXPECT_TRUE(std::move(reader).result().complete);
}

TEST_F(TagListTest, D6_AListThatComesRoundAgainEnds) {
    const std::string first = next("/v2/team/app/tags/list?n=1000&last=a");
    ASSERT_TRUE(reader.take(page({"a"}), first));
    ASSERT_TRUE(reader.take(page({"b"}), first));
    const TagList list = std::move(reader).result();
    EXPECT_EQ(list.stopped.code, "list-loop");
    EXPECT_EQ(list.pages, 2U);
}

TEST_F(TagListTest, D6_AListThatBringsNothingNewEnds) {
    ASSERT_TRUE(reader.take(page({"a"}), next("/v2/team/app/tags/list?last=1")));
    ASSERT_TRUE(reader.take(page({"a"}), next("/v2/team/app/tags/list?last=2")));
    EXPECT_EQ(reader.next(), "");
    EXPECT_EQ(std::move(reader).result().stopped.code, "list-loop");
}

TEST_F(TagListTest, D6_AnEndlessListEnds) {
    std::size_t pages = 0;
    while (!reader.next().empty()) {
        ++pages;
        const std::string name = std::to_string(pages);
        ASSERT_TRUE(reader.take(page({name}), next("/v2/team/app/tags/list?last=" + name)));
    }
    const TagList list = std::move(reader).result();
    EXPECT_EQ(pages, kListPages);
    EXPECT_EQ(list.stopped.code, "list-too-long");
    EXPECT_NE(list.stopped.text.find("team/app"), std::string::npos);
}

TEST_F(TagListTest, D6_ManyNamesOnFewPagesEndItToo) {
    std::size_t number = 0;
    while (!reader.next().empty()) {
        std::vector<std::string> names;
        for (int i = 0; i < 20'000; ++i) {
            names.push_back("1." + std::to_string(++number));
        }
        ASSERT_TRUE(reader.take(page(names), next("/v2/team/app/tags/list?last=" + names.back())));
    }
    const TagList list = std::move(reader).result();
    EXPECT_EQ(list.names.size(), kListNames);
    EXPECT_EQ(list.stopped.code, "list-too-long");
}

}  // namespace
}  // namespace keel
