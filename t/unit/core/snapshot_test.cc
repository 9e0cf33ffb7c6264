#include "core/snapshot.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace keel {
namespace {

Digest digest(char digit) {
    return *Digest::parse("sha256:" + std::string(64, digit));
}

Digest wide(char digit) {
    return *Digest::parse("sha512:" + std::string(128, digit));
}

Time at(std::int64_t millis) {
    return Time{Millis{millis}};
}

const std::string kEpoch = "5f0c0123456789abcdef0123456789ab";

// A tag with a digest of its own, and with as much else as there may be.
TagRecord full(std::uint64_t seq = 7) {
    TagRecord tag;
    TagState& state = tag.state;
    state.tag = {"registry.example:5000", "library/redis", "8-alpine"};
    state.history = {{digest('a'), at(1), at(20), ManifestKind::image},
                     {wide('b'), at(2), at(30), ManifestKind::unknown},
                     {digest('c'), at(-3), at(1'800'000'000'000), ManifestKind::index}};
    state.digest = digest('c');
    state.previous = wide('b');
    state.pending = digest('a');
    state.kind = ManifestKind::index;
    state.change = Change::revert;
    state.epoch = kEpoch;
    state.seq = seq;
    state.first_seen = state.history[2].first_seen;
    state.last_seen = state.history[2].last_seen;
    state.asked_by = Asker::kubelet;
    state.node = "node-3";
    tag.changed = at(1'790'000'000'123);
    return tag;
}

TagRecord plain(std::string name, std::uint64_t seq) {
    TagRecord tag;
    tag.state.tag = {"docker.io", "app", std::move(name)};
    tag.state.history = {{digest('d'), at(5), at(6), ManifestKind::image}};
    tag.state.digest = digest('d');
    tag.state.kind = ManifestKind::image;
    tag.state.change = Change::fresh;
    tag.state.epoch = kEpoch;
    tag.state.seq = seq;
    tag.state.first_seen = at(5);
    tag.state.last_seen = at(6);
    tag.changed = at(5);
    return tag;
}

SnapshotHead head() {
    SnapshotHead result;
    result.origin.generation = 1'795'000'000'000;
    result.origin.process = 4711;
    result.origin.process_started = 123'456'789;
    result.epoch = kEpoch;
    result.seq = 9;
    result.written = at(1'795'000'000'777);
    return result;
}

std::string encode(const std::vector<TagRecord>& tags) {
    SnapshotEncoder encoder{head()};
    std::string file;
    for (const TagRecord& tag : tags) {
        encoder.add(tag);
        file += encoder.take();
    }
    encoder.finish();
    return file + encoder.take();
}

std::string sample() {
    return encode({full(), plain("one", 8), plain("two", 9)});
}

// Gives `file` in pieces of at most `piece` bytes.
SnapshotDecoder::Source source(const std::string& file, std::size_t piece) {
    return [&file, piece, done = std::size_t{0}](
               char* to, std::size_t size) mutable -> Expected<std::size_t> {
        size = std::min({size, piece, file.size() - done});
        std::memcpy(to, file.data() + done, size);
        done += size;
        return size;
    };
}

struct Content {
    SnapshotHead head;
    std::vector<TagRecord> tags;
};

Expected<Content> decode(const std::string& file, std::size_t piece = 65'536) {
    SnapshotDecoder decoder{source(file, piece)};
    const Expected<SnapshotHead> read = decoder.head();
    if (!read) return tl::unexpected<Error>(read.error());
    Content content{*read, {}};
    for (;;) {
        Expected<std::optional<TagRecord>> tag = decoder.next();
        if (!tag) return tl::unexpected<Error>(tag.error());
        if (!*tag) return content;
        content.tags.push_back(std::move(**tag));
    }
}

std::string code(const std::string& file) {
    const Expected<Content> content = decode(file);
    return content ? "" : content.error().code;
}

void expect_equal(const TagRecord& one, const TagRecord& other) {
    EXPECT_EQ(one.changed, other.changed);
    EXPECT_EQ(one.state.tag, other.state.tag);
    EXPECT_EQ(one.state.digest, other.state.digest);
    EXPECT_EQ(one.state.kind, other.state.kind);
    EXPECT_EQ(one.state.change, other.state.change);
    EXPECT_EQ(one.state.previous, other.state.previous);
    EXPECT_EQ(one.state.pending, other.state.pending);
    EXPECT_EQ(one.state.epoch, other.state.epoch);
    EXPECT_EQ(one.state.seq, other.state.seq);
    EXPECT_EQ(one.state.first_seen, other.state.first_seen);
    EXPECT_EQ(one.state.last_seen, other.state.last_seen);
    EXPECT_EQ(one.state.asked_by, other.state.asked_by);
    EXPECT_EQ(one.state.node, other.state.node);
    ASSERT_EQ(one.state.history.size(), other.state.history.size());
    for (std::size_t i = 0; i < one.state.history.size(); ++i) {
        EXPECT_EQ(one.state.history[i].digest, other.state.history[i].digest);
        EXPECT_EQ(one.state.history[i].kind, other.state.history[i].kind);
        EXPECT_EQ(one.state.history[i].first_seen, other.state.history[i].first_seen);
        EXPECT_EQ(one.state.history[i].last_seen, other.state.history[i].last_seen);
    }
}

// The number that stands in the file at `place`, changed, and the checksum made right again: what
// somebody would write who means harm or has a bug.
std::string altered(std::string file, std::size_t place, std::string_view bytes) {
    file.replace(place, bytes.size(), bytes);
    Sha256 sum;
    sum.add(std::string_view{file}.substr(0, file.size() - Sha256::kSize));
    file.replace(file.size() - Sha256::kSize, Sha256::kSize, sum.take());
    return file;
}

constexpr std::size_t kFirstTag = kSnapshotHead + 2;

TEST(Snapshot, ComesBackAsItWas) {
    const std::vector<TagRecord> tags{full(), plain("one", 8), plain("two", 9)};
    for (const std::size_t piece : {1U, 7U, 65'536U}) {
        const Expected<Content> content = decode(encode(tags), piece);
        ASSERT_TRUE(content) << content.error().text;
        EXPECT_EQ(content->head.origin.version, kSnapshotVersion);
        EXPECT_EQ(content->head.origin.generation, head().origin.generation);
        EXPECT_EQ(content->head.origin.process, head().origin.process);
        EXPECT_EQ(content->head.origin.process_started, head().origin.process_started);
        EXPECT_EQ(content->head.epoch, kEpoch);
        EXPECT_EQ(content->head.seq, 9U);
        EXPECT_EQ(content->head.written, head().written);
        ASSERT_EQ(content->tags.size(), tags.size());
        for (std::size_t i = 0; i < tags.size(); ++i)
            expect_equal(content->tags[i], tags[i]);
    }
}

TEST(Snapshot, ManyTagsAndNone) {
    std::vector<TagRecord> tags;
    for (std::uint64_t i = 1; i <= 3'000; ++i)
        tags.push_back(plain("t" + std::to_string(i), i));
    const Expected<Content> content = decode(encode(tags), 4'096);
    ASSERT_TRUE(content) << content.error().text;
    ASSERT_EQ(content->tags.size(), tags.size());
    EXPECT_EQ(content->tags.back().state.tag.name, "t3000");
    const Expected<Content> empty = decode(encode({}));
    ASSERT_TRUE(empty);
    EXPECT_TRUE(empty->tags.empty());
}

// doc/snapshot.md, byte for byte, so that a change of the format is one on purpose.
TEST(Snapshot, LooksAsItIsWrittenDown) {
    const std::string file = encode({plain("one", 8)});
    EXPECT_EQ(file.substr(0, 8), "keelsnap");
    EXPECT_EQ(file.substr(8, 8), std::string("\1\0\0\0\130\0\0\0", 8));
    EXPECT_EQ(file.substr(24, 8), std::string("\147\022\0\0\0\0\0\0", 8));
    EXPECT_EQ(file.substr(40, 32), kEpoch);
    EXPECT_EQ(file.substr(72, 8), std::string("\11\0\0\0\0\0\0\0", 8));
    // 10 bytes, seq, changed, one digest with two times, "docker.io" "app" "one"
    constexpr std::size_t kTag = 10 + 8 + 8 + (2 + 8 + 8 + 32) + 9 + 3 + 3;
    EXPECT_EQ(file.substr(kSnapshotHead, 2), std::string("\133\0", 2));
    EXPECT_EQ(kTag, 0133U);
    EXPECT_EQ(file.substr(kFirstTag, 10), std::string("\1\0\1\0\377\377\11\3\3\0", 10));
    EXPECT_EQ(file.substr(kFirstTag + kTag - 15, 15), "docker.ioappone");
    EXPECT_EQ(file.substr(kFirstTag + kTag, 10), std::string("\0\0\1\0\0\0\0\0\0\0", 10));
    EXPECT_EQ(file.size(), kFirstTag + kTag + 10 + Sha256::kSize);
}

TEST(Snapshot, CutAnywhereItIsNotTrusted) {
    const std::string file = sample();
    for (std::size_t size = 0; size < file.size(); ++size) {
        const std::string wrong = code(file.substr(0, size));
        EXPECT_EQ(wrong, size < 8 ? "foreign" : "torn") << "cut to " << size;
    }
    EXPECT_EQ(code(file), "");
}

TEST(Snapshot, WithAnyBitTurnedItIsNotTrusted) {
    const std::string file = sample();
    for (std::size_t i = 0; i < file.size(); ++i) {
        for (int bit = 0; bit < 8; ++bit) {
            std::string flipped = file;
            flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
            EXPECT_NE(code(flipped), "") << "byte " << i << " bit " << bit;
        }
    }
}

TEST(Snapshot, WithSomethingBehindItIsNotTrusted) {
    EXPECT_EQ(code(sample() + '\0'), "damaged");
    EXPECT_EQ(code(sample() + sample()), "damaged");
}

TEST(Snapshot, ForeignFilesAreTold) {
    for (const std::string& text : {std::string{}, std::string(1'000, '\0'), std::string("{}\n"),
                                    std::string("ngx-keel-holds 1 7 0000\n")})
        EXPECT_EQ(code(text), "foreign");
}

TEST(Snapshot, NewerVersionIsTold) {
    const std::string file = altered(sample(), 8, std::string("\2\0\0\0", 4));
    const Expected<Content> content = decode(file);
    ASSERT_FALSE(content);
    EXPECT_EQ(content.error().code, "newer");
    EXPECT_NE(content.error().text.find("version 2"), std::string::npos);
    // Whose it is can still be read.
    const Expected<SnapshotOrigin> origin = decode_snapshot_origin(file);
    ASSERT_TRUE(origin);
    EXPECT_EQ(origin->generation, head().origin.generation);
    EXPECT_EQ(code(altered(sample(), 8, std::string("\0\0\0\0", 4))), "damaged");
    EXPECT_EQ(code(altered(sample(), 12, std::string("\131", 1))), "damaged");
}

TEST(Snapshot, OriginNeedsItsBytes) {
    const std::string file = sample();
    EXPECT_EQ(decode_snapshot_origin("").error().code, "foreign");
    EXPECT_EQ(decode_snapshot_origin(std::string_view{file}.substr(0, 39)).error().code, "torn");
    EXPECT_EQ(decode_snapshot_origin(std::string_view{file}.substr(0, 40))->process, 4711U);
}

// The checksum is right, and what it covers is not.
TEST(Snapshot, FieldsThatMakeNoSenseAreNotTrusted) {
    const auto tag = [](std::size_t place, char value) {
        return code(altered(sample(), kFirstTag + place, std::string(1, value)));
    };
    EXPECT_EQ(tag(0, 8), "damaged") << "change";
    EXPECT_EQ(tag(1, 3), "damaged") << "asker";
    EXPECT_EQ(tag(2, 0), "damaged") << "no digest";
    EXPECT_EQ(tag(2, 2), "damaged") << "fewer digests than there are";
    EXPECT_EQ(tag(2, 17), "damaged") << "more digests than there may be";
    EXPECT_EQ(tag(3, 3), "damaged") << "current";
    EXPECT_EQ(tag(3, '\377'), "damaged") << "no current";
    EXPECT_EQ(tag(4, 3), "damaged") << "previous";
    EXPECT_EQ(tag(4, 2), "damaged") << "previous is current";
    EXPECT_EQ(tag(5, 2), "damaged") << "pending is current";
    EXPECT_EQ(tag(5, '\377'), "") << "nothing pending";
    EXPECT_EQ(tag(6, 0), "damaged") << "registry";
    EXPECT_EQ(tag(9, 7), "damaged") << "node longer than there is";
    EXPECT_EQ(code(altered(sample(), kFirstTag + 10, std::string(8, '\0'))), "damaged") << "seq";
    EXPECT_EQ(code(altered(sample(), kFirstTag + 10, std::string(8, '\377'))), "damaged") << "seq";
    EXPECT_EQ(tag(26, 0), "damaged") << "no algorithm";
    EXPECT_EQ(tag(26, 3), "damaged") << "unknown algorithm";
    EXPECT_EQ(tag(27, 4), "damaged") << "kind";
    const std::string file = sample();
    const std::size_t name = file.find("registry.example");
    for (const char c : {'\0', '/', 'A', '"', '\n', '\200'}) {
        EXPECT_EQ(code(altered(file, name, std::string(1, c))), "damaged") << "registry " << c;
        EXPECT_EQ(code(altered(file, file.find("node-3"), std::string(1, c))),
                  c == '/' || c == 'A' || c == '"' ? "" : "damaged")
            << "node " << c;
    }
    EXPECT_EQ(code(altered(file, file.find("8-alpine"), "-")), "damaged") << "name";
    EXPECT_EQ(code(altered(file, file.find("library"), "L")), "damaged") << "repository";
    // The third digest made the same as the first.
    EXPECT_EQ(code(altered(file, file.find(std::string(32, '\314')), std::string(32, '\252'))),
              "damaged");
    // Number of tags.
    EXPECT_EQ(code(altered(file, file.size() - Sha256::kSize - 8, "\2")), "damaged");
}

TEST(Snapshot, TagThatIsTooLarge) {
    std::string file = sample();
    EXPECT_EQ(code(altered(file, kSnapshotHead, "\377\377")), "damaged");
    TagRecord tag = plain(std::string(128, 'n'), 1);
    tag.state.tag.registry = std::string(255, 'r');
    tag.state.tag.repository = std::string(255, 'p');
    tag.state.node = std::string(300, 'x');
    tag.state.history.clear();
    for (int i = 0; i < 20; ++i)
        tag.state.history.push_back(
            {wide(static_cast<char>(i < 10 ? '0' + i : 'a' + i - 10)), {}, {}});
    tag.state.digest = tag.state.history[0].digest;
    const std::string bytes = encode_snapshot_tag(tag);
    EXPECT_LT(bytes.size(), kMaxSnapshotRecord);
    const Expected<TagRecord> again = decode_snapshot_tag(bytes);
    ASSERT_TRUE(again) << again.error().text;
    EXPECT_EQ(again->state.history.size(), kMaxSnapshotHistory);
    EXPECT_EQ(again->state.node.size(), 255U);
}

TEST(Snapshot, WhatTheDiskSaysComesThrough) {
    SnapshotDecoder decoder{[](char*, std::size_t) -> Expected<std::size_t> {
        return fail("disk", "cannot read it: Input/output error");
    }};
    const Expected<SnapshotHead> read = decoder.head();
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, "disk");
}

}  // namespace
}  // namespace keel
