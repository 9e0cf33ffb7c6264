// The file of holds, which lies on a disk that others may have written to, and the text of one
// hold.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/holds.h"
#include "core/signature.h"
#include "fuzz/require.h"

namespace keel {
namespace {

void check_error(const Error& error) {
    REQUIRE(error.code == "bad-holds");
    for (const char c : error.text) {
        REQUIRE(c >= ' ' && c <= '~');
    }
}

void check_file(std::string_view text) {
    const auto set = decode_holds(text);
    if (!set) {
        check_error(set.error());
        return;
    }
    REQUIRE(set->holds.size() <= kMaxHolds);
    for (const Hold& hold : set->holds) {
        REQUIRE(set->find(hold.tag) == &hold);
        REQUIRE(!hold.digest.empty());
        REQUIRE(is_hold_author(hold.author) && is_hold_author(hold.owner));
    }
    const auto again = decode_holds(encode_holds(*set));
    REQUIRE(again && again->revision == set->revision && again->holds.size() == set->holds.size());
}

// The checksum keeps a fuzzer out: with one that fits, what it made is read to the end.
void check_body(std::string_view body) {
    for (const char* revision : {"7", "0"}) {
        std::string file = "ngx-keel-holds 1 ";
        file.append(revision).append(" ").append(sha256_hex(body)).append("\n").append(body);
        check_file(file);
    }
}

void check_one(std::string_view text) {
    const auto hold = decode_hold_text(text);
    if (!hold) {
        check_error(hold.error());
        return;
    }
    const auto again = decode_hold_text(encode_hold_text(*hold));
    REQUIRE(again && again->tag == hold->tag && again->digest == hold->digest);
    REQUIRE(again->reason == hold->reason && again->owner == hold->owner);
}

}  // namespace
}  // namespace keel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    keel::check_file(text);
    keel::check_body(text);
    keel::check_one(text);
    return 0;
}
