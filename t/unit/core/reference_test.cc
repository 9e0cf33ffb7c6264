#include "core/reference.h"

#include <functional>
#include <random>
#include <string>
#include <unordered_set>

#include <gtest/gtest.h>

#include "unit/tree.h"

namespace keel {
namespace {

const std::string kHex64 = "1e20384985d3c49965f444bef39d627768dacc39ea0dca91f2a535edb7591ba3";
const std::string kSha256 = "sha256:" + kHex64;
const std::string kSha512 = "sha512:" + kHex64 + kHex64;

struct Case {
    std::string text;
    std::string registry;
    std::string repository;
    std::string name;
    std::string digest;
    bool name_written;
};

TEST(Reference, reads_the_docker_grammar) {
    const Case cases[] = {
        {"nginx", "docker.io", "library/nginx", "latest", "", false},
        {"nginx:1.27", "docker.io", "library/nginx", "1.27", "", true},
        {"library/nginx", "docker.io", "library/nginx", "latest", "", false},
        {"docker.io/nginx", "docker.io", "library/nginx", "latest", "", false},
        {"index.docker.io/nginx", "docker.io", "library/nginx", "latest", "", false},
        {"index.docker.io/library/nginx:1", "docker.io", "library/nginx", "1", "", true},
        {"registry-1.docker.io/library/nginx:1", "registry-1.docker.io", "library/nginx", "1", "",
         true},
        {"someone/app:v1", "docker.io", "someone/app", "v1", "", true},
        {"a/b/c/d:v1", "docker.io", "a/b/c/d", "v1", "", true},
        {"ghcr.io/a/b:v1", "ghcr.io", "a/b", "v1", "", true},
        {"quay.io/nginx:v1", "quay.io", "nginx", "v1", "", true},
        {"localhost/app", "localhost", "app", "latest", "", false},
        {"localhost:5000/app:1", "localhost:5000", "app", "1", "", true},
        {"cache:5000/app", "cache:5000", "app", "latest", "", false},
        {"cache/app", "docker.io", "cache/app", "latest", "", false},
        {"10.0.20.10:5000/library/app:1", "10.0.20.10:5000", "library/app", "1", "", true},
        {"nginx:1/2", "nginx:1", "2", "latest", "", false},
        {"[::1]/app:1", "[::1]", "app", "1", "", true},
        {"[2001:DB8::1]:5000/a/b:1", "[2001:DB8::1]:5000", "a/b", "1", "", true},
        // No repository has upper case, so this is a host; a host keeps its spelling.
        {"Cache/app:1", "Cache", "app", "1", "", true},
        {"Docker.IO/library/nginx:1", "Docker.IO", "library/nginx", "1", "", true},
        // One word is never a host, whatever it looks like.
        {"localhost", "docker.io", "library/localhost", "latest", "", false},
        {"localhost:5000", "docker.io", "library/localhost", "5000", "", true},
        {"ghcr.io", "docker.io", "library/ghcr.io", "latest", "", false},
        {"nginx@" + kSha256, "docker.io", "library/nginx", "", kSha256, false},
        {"nginx:1.27@" + kSha256, "docker.io", "library/nginx", "1.27", kSha256, true},
        {"ghcr.io/a/b@" + kSha512, "ghcr.io", "a/b", "", kSha512, false},
        {"a__b/c--d/e.f/g_h:_X.y-Z", "docker.io", "a__b/c--d/e.f/g_h", "_X.y-Z", "", true},
        {"app:" + std::string(128, 'x'), "docker.io", "library/app", std::string(128, 'x'), "",
         true},
        {"x.io/" + std::string(255, 'a'), "x.io", std::string(255, 'a'), "latest", "", false},
        {kHex64 + ":1", "docker.io", "library/" + kHex64, "1", "", true},
    };
    for (const Case& each : cases) {
        const auto reference = Reference::parse(each.text);
        ASSERT_TRUE(reference) << each.text << ": " << reference.error().text;
        EXPECT_EQ(reference->spelling, each.text);
        EXPECT_EQ(reference->registry, each.registry) << each.text;
        EXPECT_EQ(reference->repository, each.repository) << each.text;
        EXPECT_EQ(reference->name, each.name) << each.text;
        EXPECT_EQ(reference->name_written, each.name_written) << each.text;
        EXPECT_EQ(reference->digest ? reference->digest->to_string() : "", each.digest)
            << each.text;
    }
}

TEST(Reference, refuses_and_says_where) {
    const struct {
        std::string text;
        std::string says;
    } cases[] = {
        {"", "empty"},
        {kHex64, "image's id"},
        {"Nginx", "character 1, "},
        {"ghcr.io/Me/app", "character 9, "},
        {"ghcr.io/me/", "too early"},
        {"ghcr.io/", "too early"},
        {"/app", "character 1, "},
        {"a//b", "character 3, "},
        {"a..b", "character 3, "},
        {"a___b", "character 4, "},
        {"a._b", "character 3, "},
        {"-a", "character 1, "},
        {"a-", "too early"},
        {"a/-b", "character 3, "},
        {"nginx:", "too early"},
        {"nginx:.1", "character 7, "},
        {"nginx:-1", "character 7, "},
        {"nginx:1 ", "character 8, "},
        {" nginx", "character 1, "},
        {"nginx:1:2", "character 8, "},
        {"nginx:" + std::string(129, 'x'), "more than 128"},
        {"x.io/" + std::string(256, 'a'), "more than 255"},
        {std::string(248, 'a'), "more than 255"},  // "library/" counts
        {"x." + std::string(254, 'a') + "/b", "more than 255"},
        {"nginx@", "too early"},
        {"nginx@sha256", "character 7, "},
        {"nginx@sha256:12", "character 7, "},
        {"nginx@sha256:" + std::string(64, 'A'), "character 7, "},
        {"nginx@md5:" + std::string(32, 'a'), "character 7, "},
        {"nginx@" + kSha256 + "@" + kSha256, "character 7, "},
        {"nginx@" + kSha256 + ":1", "character 7, "},
        {"x_y.io/app", "character 2, "},
        {"-x.io/app", "character 1, "},
        {"x-.io/app", "character 2, "},
        {"x..io/app", "character 3, "},
        {"x.io./app", "character 6, "},
        {"x.io:/app", "character 6, "},
        {"x.io:5a/app", "character 7, "},
        {"[::1/app", "character 5, "},
        {"[]:5/app", "character 2, "},
        {"[::g]:5/app", "character 4, "},
        {"[::1]5:/app", "character 6, "},
        {"nginx\xc3\xa9", "character 6, "},
        {std::string("nginx\0x", 7), "character 6, "},
        {"nginx\n", "character 6, "},
    };
    for (const auto& each : cases) {
        const auto reference = Reference::parse(each.text);
        ASSERT_FALSE(reference) << each.text;
        EXPECT_EQ(reference.error().code, "bad-reference");
        EXPECT_NE(reference.error().text.find(each.says), std::string::npos)
            << reference.error().text;
    }
}

TEST(Reference, errors_carry_nothing_that_acts_on_a_terminal) {
    const auto reference = Reference::parse("x\x1b[31m\n" + std::string(500, 'y'));
    ASSERT_FALSE(reference);
    for (const char c : reference.error().text) {
        EXPECT_TRUE(c >= ' ' && c <= '~') << static_cast<int>(c);
    }
    EXPECT_LT(reference.error().text.size(), 300U);
}

// The file's columns were made from the cluster's own objects, not by this parser.
TEST(Reference, V1_spelling_stays_byte_identical_over_a_real_cluster) {
    constexpr std::size_t kImage = 4;
    constexpr std::size_t kRegistry = 18;
    constexpr std::size_t kRepository = 19;
    constexpr std::size_t kTag = 20;
    constexpr std::size_t kDigest = 21;
    const auto rows = test::read_tsv(test::tree() / "t/data/workloads.tsv");
    ASSERT_EQ(rows.size(), 412U);
    std::size_t untagged = 0;
    std::size_t digest_only = 0;
    for (const auto& row : rows) {
        ASSERT_EQ(row.size(), 24U);
        const auto reference = Reference::parse(row[kImage]);
        ASSERT_TRUE(reference) << row[kImage] << ": " << reference.error().text;
        EXPECT_EQ(reference->spelling, row[kImage]);
        EXPECT_EQ(reference->registry, row[kRegistry]) << row[kImage];
        EXPECT_EQ(reference->repository, row[kRepository]) << row[kImage];
        EXPECT_EQ(reference->digest ? reference->digest->to_string() : "", row[kDigest]);
        EXPECT_EQ(reference->name_written, !row[kTag].empty()) << row[kImage];
        if (!row[kTag].empty()) {
            EXPECT_EQ(reference->name, row[kTag]);
        } else if (row[kDigest].empty()) {
            EXPECT_EQ(reference->name, "latest") << row[kImage];
            ++untagged;
        } else {
            EXPECT_EQ(reference->tag(), std::nullopt) << row[kImage];
            ++digest_only;
        }
        // The tag in full is a reference that means the same.
        if (const auto tag = reference->tag()) {
            EXPECT_EQ(Tag::parse(tag->to_string()), *tag);
            EXPECT_EQ(Reference::parse(tag->to_string())->tag(), tag);
        }
    }
    EXPECT_EQ(untagged, 24U);
    EXPECT_EQ(digest_only, 4U);
}

TEST(Reference, follows_a_tag_unless_only_a_digest_was_written) {
    EXPECT_EQ(Reference::parse("nginx")->tag(), (Tag{"docker.io", "library/nginx", "latest"}));
    EXPECT_EQ(Reference::parse("nginx:1@" + kSha256)->tag(),
              (Tag{"docker.io", "library/nginx", "1"}));
    EXPECT_EQ(Reference::parse("nginx@" + kSha256)->tag(), std::nullopt);
}

TEST(Reference, V1_another_tag_keeps_the_spelling_of_the_rest) {
    const Digest other = *Digest::parse("sha256:" + std::string(64, 'b'));
    const std::string at = "@" + other.to_string();
    const struct {
        std::string text;
        std::string to;
        std::string expected;  // "" for nullopt
    } cases[] = {
        {"nginx:1.27", "1.28", "nginx:1.28"},
        {"docker.io/nginx:1.27", "1.28", "docker.io/nginx:1.28"},
        {"docker.io/library/nginx:1.27", "1.28", "docker.io/library/nginx:1.28"},
        {"index.docker.io/library/nginx:1.27", "1.28", "index.docker.io/library/nginx:1.28"},
        {"X.example:5000/a/b:1", "2", "X.example:5000/a/b:2"},
        {"[2001:DB8::1]:5000/a/b:1", "v2", "[2001:DB8::1]:5000/a/b:v2"},
        // Ports, repositories and tags that look alike: only the last one is the tag.
        {"localhost:5000/5000:5000", "5001", "localhost:5000/5000:5001"},
        {"localhost:5000", "5001", "localhost:5001"},
        {"nginx", "1.28", "nginx:1.28"},
        {"nginx", "latest", "nginx"},
        {"nginx:latest", "latest", "nginx:latest"},
        {"docker.io/nginx", "stable", "docker.io/nginx:stable"},
        {"nginx:1@" + kSha256, "2", "nginx:2" + at},
        {"nginx:1@" + kSha512, "1", "nginx:1" + at},
        {"nginx@" + kSha256, "2", ""},
        {"nginx:1", "", ""},
        {"nginx:1", "-2", ""},
        {"nginx:1", "2/3", ""},
        {"nginx:1", "2" + at, ""},
        {"nginx:1", std::string(129, 'x'), ""},
    };
    for (const auto& each : cases) {
        const auto text = Reference::parse(each.text)->with_tag(each.to, other);
        EXPECT_EQ(text.value_or(""), each.expected) << each.text << " to " << each.to;
        EXPECT_EQ(text.has_value(), !each.expected.empty()) << each.text;
    }
}

// Random references out of the grammar: what with_tag() gives reads back as the same repository at
// the other tag, differs in nothing before it, and leads back.
TEST(Reference, V1_another_tag_is_the_same_reference_at_another_tag) {
    std::mt19937 random(20261122);  // NOLINT(cert-msc51-cpp): the same every time
    const auto one_of = [&random](const std::vector<std::string>& of) {
        return of[random() % of.size()];
    };
    const std::vector<std::string> hosts = {"",
                                            "docker.io/",
                                            "index.docker.io/",
                                            "ghcr.io/",
                                            "localhost/",
                                            "cache:5000/",
                                            "X.example:5000/",
                                            "[::1]/",
                                            "[2001:DB8::1]:5000/"};
    const std::vector<std::string> components = {"a",   "library", "b__c", "d--e",
                                                 "1.2", "5000",    "x_y"};
    const std::vector<std::string> names = {"1",  "5000", "latest",  "1.2.3-alpine3.19",
                                            "_X", "v1",   "a.b-c_d", std::string(128, 'x')};
    const Digest other = *Digest::parse("sha256:" + std::string(64, 'b'));
    for (int i = 0; i < 20'000; ++i) {
        const std::string host = one_of(hosts);
        std::string stem = host + one_of(components);
        for (auto more = random() % 3; more > 0; --more) {
            stem += "/" + one_of(components);
        }
        const std::string name = random() % 4 == 0 ? "" : one_of(names);
        const bool pinned = !name.empty() && random() % 3 == 0;
        const std::string text =
            stem + (name.empty() ? "" : ":" + name) + (pinned ? "@" + kSha256 : "");
        const auto before = Reference::parse(text);
        ASSERT_TRUE(before) << text;
        const std::string to = one_of(names);
        const std::optional<std::string> changed = before->with_tag(to, other);
        ASSERT_TRUE(changed) << text;
        ASSERT_TRUE(changed->starts_with(stem)) << text << " became " << *changed;
        const auto after = Reference::parse(*changed);
        ASSERT_TRUE(after) << text << " became " << *changed;
        EXPECT_EQ(after->tag(), (Tag{before->registry, before->repository, to})) << text;
        EXPECT_EQ(after->digest.has_value(), pinned) << text;
        EXPECT_EQ(after->digest.value_or(other), other) << text;
        // Back again; "latest", once it is written, stays written.
        const Digest first = before->digest.value_or(other);
        const std::string expected = name.empty() && to != "latest" ? text + ":latest" : text;
        EXPECT_EQ(after->with_tag(before->name, first), expected) << text << " by " << to;
    }
}

TEST(Tag, is_read_as_it_is_written) {
    for (const Tag& tag : {Tag{"docker.io", "library/nginx", "1.27"}, Tag{"localhost", "a", "b"},
                           Tag{"[::1]:5000", "a/b/c", "_X"}, Tag{"cache:5000", "a", "5000"},
                           Tag{"registry", "a", "v1"}}) {
        const auto parsed = Tag::parse(tag.to_string());
        ASSERT_TRUE(parsed) << parsed.error().text;
        EXPECT_EQ(*parsed, tag);
    }
    EXPECT_EQ((Tag{"docker.io", "library/nginx", "1.27"}).to_string(),
              "docker.io/library/nginx:1.27");
}

TEST(Tag, refuses_what_is_not_in_full) {
    for (const std::string& text :
         {std::string(), std::string("nginx"), std::string("nginx:1"),
          std::string("docker.io/nginx"), std::string("docker.io/nginx:"),
          std::string("docker.io/:1"), std::string("/nginx:1"), std::string("docker.io/Nginx:1"),
          std::string("docker.io/nginx:1:2"), std::string("x_y/nginx:1"),
          "docker.io/nginx@" + kSha256, "docker.io/nginx:1@" + kSha256}) {
        const auto tag = Tag::parse(text);
        ASSERT_FALSE(tag) << text;
        EXPECT_EQ(tag.error().code, "bad-tag");
    }
}

TEST(Tag, is_a_key) {
    std::unordered_set<Tag> set;
    set.insert({"docker.io", "a", "b"});
    set.insert({"docker.io", "a", "b"});
    set.insert({"docker.io", "b", "a"});
    set.insert({"a", "docker.io", "b"});
    EXPECT_EQ(set.size(), 3U);
    constexpr std::hash<Tag> hash;
    EXPECT_NE(hash({"a", "a", "x"}), hash({"b", "b", "x"}));
}

TEST(Grammar, signature_tags) {
    const std::string dash = "sha256-" + kHex64;
    const std::string long_dash = "sha512-" + kHex64;
    for (const std::string& name : {dash, dash + ".sig", dash + ".att", dash + ".sbom", long_dash,
                                    long_dash + ".sig", long_dash + kHex64}) {
        EXPECT_TRUE(is_signature_tag(name)) << name;
    }
    for (const std::string& name :
         {std::string(), std::string("latest"), std::string("sha256-"), std::string("sha256-abc"),
          dash + "0", dash + kHex64, dash + ".", dash + ".sign", dash + ".sig.sig", "x" + dash,
          "sha256-" + std::string(64, 'A'), "sha384-" + kHex64, dash.substr(0, 70),
          dash + "-sig"}) {
        EXPECT_FALSE(is_signature_tag(name)) << name;
    }
}

TEST(Grammar, parts_on_their_own) {
    EXPECT_TRUE(is_repository("a"));
    EXPECT_TRUE(is_repository("manifests/manifests"));
    EXPECT_TRUE(is_repository(std::string(255, 'a')));
    EXPECT_FALSE(is_repository(std::string(256, 'a')));
    EXPECT_FALSE(is_repository(""));
    EXPECT_FALSE(is_repository("/"));
    EXPECT_FALSE(is_repository("a/"));
    EXPECT_TRUE(is_tag_name("_"));
    EXPECT_TRUE(is_tag_name(std::string(128, 'A')));
    EXPECT_FALSE(is_tag_name(std::string(129, 'A')));
    EXPECT_FALSE(is_tag_name(""));
    EXPECT_FALSE(is_tag_name("a/b"));
    EXPECT_TRUE(is_registry("registry.k8s.io"));
    EXPECT_TRUE(is_registry("[fe80::1]:443"));
    EXPECT_FALSE(is_registry(""));
    EXPECT_FALSE(is_registry("https://ghcr.io"));
    EXPECT_FALSE(is_registry("ghcr.io/a"));
}

}  // namespace
}  // namespace keel
