// A snapshot file, and one tag of it: from the disk, where anybody may have been.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "core/reference.h"
#include "core/snapshot.h"
#include "fuzz/require.h"

namespace keel {
namespace {

SnapshotDecoder::Source source(std::string_view file) {
    return
        [file, done = std::size_t{0}](char* to, std::size_t size) mutable -> Expected<std::size_t> {
            size = std::min({size, std::size_t{37}, file.size() - done});
            std::memcpy(to, file.data() + done, size);
            done += size;
            return size;
        };
}

bool known_code(const Error& error) {
    return error.code == "foreign" || error.code == "newer" || error.code == "torn" ||
           error.code == "damaged";
}

// What was read can be trusted as far as its parts go.
void check_content(const TagRecord& tag) {
    const TagState& state = tag.state;
    REQUIRE(!state.digest.empty());
    REQUIRE(!state.history.empty() && state.history.size() <= kMaxSnapshotHistory);
    REQUIRE(is_repository(state.tag.repository));
    REQUIRE(is_tag_name(state.tag.name));
    REQUIRE(state.previous != state.digest && state.pending != state.digest);
    for (const char c : state.tag.registry + state.node) {
        REQUIRE(c > ' ' && c <= '~');
    }
}

// As the whole file is; and the same with a head and an end that are right, so that what lies
// between is looked at.
void check_file(std::string_view file) {
    SnapshotDecoder decoder{source(file)};
    const Expected<SnapshotHead> head = decoder.head();
    if (!head) {
        REQUIRE(known_code(head.error()));
        return;
    }
    const Expected<SnapshotOrigin> origin = decode_snapshot_origin(file);
    REQUIRE(origin && origin->generation == head->origin.generation);
    SnapshotEncoder encoder{*head};
    for (;;) {
        const Expected<std::optional<TagRecord>> tag = decoder.next();
        if (!tag) {
            REQUIRE(known_code(tag.error()));
            return;
        }
        if (!*tag) break;
        check_content(**tag);
        encoder.add(**tag);
    }
    encoder.finish();
    const std::string again = encoder.take();
    // Byte for byte but for fields that nobody reads.
    REQUIRE(again.size() == file.size());
}

void check_repaired(std::string_view tags) {
    SnapshotEncoder encoder{SnapshotHead{}};
    std::string file = encoder.take();
    file.append(tags);
    file.append(2, '\0');
    std::uint64_t count = 0;
    for (std::size_t at = 0; at + 2 <= tags.size();) {
        const std::size_t size = static_cast<unsigned char>(tags[at]) |
                                 std::size_t{static_cast<unsigned char>(tags[at + 1])} << 8;
        if (size == 0) break;
        at += 2 + size;
        ++count;
    }
    for (int i = 0; i < 8; ++i)
        file.push_back(static_cast<char>(count >> (8 * i)));
    Sha256 sum;
    sum.add(file);
    check_file(file + sum.take());
}

void check_tag(std::string_view bytes) {
    const Expected<TagRecord> tag = decode_snapshot_tag(bytes);
    if (!tag) {
        REQUIRE(tag.error().code == "damaged");
        return;
    }
    check_content(*tag);
    REQUIRE(encode_snapshot_tag(*tag) == bytes);
}

}  // namespace
}  // namespace keel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    keel::check_file(text);
    keel::check_repaired(text);
    keel::check_tag(text);
    return 0;
}
