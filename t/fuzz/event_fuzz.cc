// The body of POST /v1/events and a secret file, both from others.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/event.h"
#include "core/signature.h"
#include "fuzz/require.h"

namespace keel {
namespace {

void require_equal(const TagEvent& one, const TagEvent& other) {
    REQUIRE(one.id == other.id);
    REQUIRE(one.source == other.source);
    REQUIRE(one.data.tag == other.data.tag);
    REQUIRE(one.data.digest == other.data.digest);
    REQUIRE(one.data.kind == other.data.kind);
    REQUIRE(one.data.change == other.data.change);
    REQUIRE(one.data.previous == other.data.previous);
    REQUIRE(one.data.pending == other.data.pending);
    REQUIRE(one.data.epoch == other.data.epoch);
    REQUIRE(one.data.seq == other.data.seq);
    REQUIRE(one.data.asked_by == other.data.asked_by);
    REQUIRE(one.data.node == other.data.node);
}

// What was accepted can be written and is accepted again as the same.
void check_batch(std::string_view body) {
    const auto batch = decode_batch(body);
    if (!batch) {
        for (const char c : batch.error().text) {
            REQUIRE(c >= ' ' && c <= '~');
        }
        return;
    }
    REQUIRE(batch->events.size() + batch->holds.size() + batch->skipped <= kMaxBatchEvents);
    for (const HoldEvent& event : batch->holds) {
        const auto again = decode_batch(encode_hold_batch({event}));
        REQUIRE(again && again->holds.size() == 1);
        REQUIRE(again->holds.front().tag == event.tag);
        REQUIRE(again->holds.front().digest == event.digest);
        REQUIRE(again->holds.front().news == event.news);
        REQUIRE(again->holds.front().revision == event.revision);
    }
    for (const TagEvent& event : batch->events) {
        REQUIRE(!event.data.digest.empty());
        REQUIRE(is_registry(event.data.tag.registry));
        REQUIRE(is_repository(event.data.tag.repository));
        REQUIRE(is_tag_name(event.data.tag.name));
        const std::string written = encode_batch({event});
        if (written.size() > kMaxBatchBytes) {
            continue;
        }
        const auto again = decode_batch(written);
        REQUIRE(again);
        REQUIRE(again->events.size() == 1);
        require_equal(again->events.front(), event);
    }
}

// Whatever a client calls its node, the event about it can be read.
void check_labels(std::string_view text) {
    TagEvent event;
    event.id = "e-1";
    event.source = "/caches/" + std::string(text);
    event.data.tag = {"docker.io", "library/redis", "8"};
    event.data.digest = *Digest::parse("sha256:" + std::string(64, '0'));
    event.data.epoch = "e";
    event.data.node = text;
    const auto batch = decode_batch(encode_batch({event}));
    REQUIRE(batch || text.empty());  // a cache without a name is none
}

void check_secrets(std::string_view text) {
    const auto secrets = Secrets::parse(text);
    if (!secrets) {
        return;
    }
    const std::string signature = secrets->sign("id", "17", text);
    const Time now{std::chrono::seconds{17}};
    REQUIRE(secrets->verify("id", "17", text, signature, now));
    REQUIRE(!secrets->verify("id", "18", text, signature, now));
    // Any text is a safe signature to look at.
    REQUIRE(!secrets->verify("id", "17", "", text, now));
}

}  // namespace
}  // namespace keel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    keel::check_batch(text);
    keel::check_labels(text);
    keel::check_secrets(text);
    return 0;
}
