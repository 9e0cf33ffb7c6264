// What is pinned: the content that runs, named so that any node can pull it.
#include "keeld/api/pins.h"

#include <gtest/gtest.h>

#include <map>

#include "unit/keeld/samples.h"

namespace keel {
namespace {

using test::at;
using test::container;
using test::digest;

class PinsTest : public testing::Test {
  protected:
    void runs(const std::string& name, char hex, int pods, bool init = false) {
        entry.running.known = true;
        entry.running.images.push_back({name, init, digest(hex).to_string(), "linux/amd64", pods});
    }
    [[nodiscard]] std::vector<Pin> pins() {
        entry.references.clear();
        for (const Container& one : entry.object.containers) {
            entry.references.emplace_back(one.image.str());
        }
        return pins_of(entry, tags, [this](const Digest& one) {
            const auto found = contents.find(one);
            return found != contents.end() ? &found->second : nullptr;
        });
    }

    Loop loop;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    Tags tags{*ledger};
    std::map<Digest, Content> contents;
    CatalogueEntry entry{
        test::deployment("shop", "web", {container("app", "docker.io/nginx:1.27")}), {}, {}, 0};
};

TEST_F(PinsTest, WhatRunsIsNamedInTheSpellingOfTheField) {
    runs("app", 'a', 2);
    const std::vector<Pin> found = pins();
    ASSERT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].pinned, "docker.io/nginx:1.27@" + digest('a').to_string());
    EXPECT_EQ(found[0].pods, 2);
    EXPECT_EQ(found[0].note, "");
    entry.object.containers[0].image =
        entry.object.containers[0].image.str() + "@" + digest('a').to_string();
    EXPECT_EQ(pins()[0].pinned, entry.object.containers[0].image) << "a pin stays as it is";
}

TEST_F(PinsTest, OfOnePlatformsPartTheWholeIsNamed) {
    contents[digest('b')] = Content{digest('b'),
                                    ManifestKind::index,
                                    {{"linux/amd64", digest('a'), digest('a'), Time{}},
                                     {"linux/arm64", digest('c'), digest('c'), Time{}}}};
    tags.observe(test::tag(), digest('b'), ManifestKind::index, at(1), "event cache-a");
    runs("app", 'a', 2);
    EXPECT_EQ(pins()[0].pinned, "docker.io/nginx:1.27@" + digest('b').to_string());
    entry.running.images.clear();
    runs("app", 'd', 2);
    EXPECT_EQ(pins()[0].pinned, "docker.io/nginx:1.27@" + digest('d').to_string())
        << "the tag has moved, what runs has not";
}

TEST_F(PinsTest, WhatIsNotKnownIsSaid) {
    EXPECT_EQ(pins()[0].pinned, "");
    EXPECT_EQ(pins()[0].note, "its pods were not read");
    entry.running.known = true;
    EXPECT_EQ(pins()[0].note, "none of its pods runs it");
    runs("app", 'a', 1);
    runs("app", 'b', 3);
    EXPECT_EQ(pins()[0].pinned, "docker.io/nginx:1.27@" + digest('b').to_string());
    EXPECT_EQ(pins()[0].note, "other pods run 1 more");
}

}  // namespace
}  // namespace keel
