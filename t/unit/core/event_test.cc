#include "core/event.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <jansson.h>

namespace keel {
namespace {

struct JsonRelease {
    void operator()(json_t* value) const noexcept { json_decref(value); }
};
using Json = std::unique_ptr<json_t, JsonRelease>;

Digest digest(char digit) {
    return *Digest::parse("sha256:" + std::string(64, digit));
}

Time time_of(const char* text) {
    return *parse_time(text);
}

TagState sample_state() {
    TagState state;
    state.tag = {"docker.io", "library/redis", "8-alpine"};
    state.digest = digest('b');
    state.kind = ManifestKind::index;
    state.change = Change::changed;
    state.previous = digest('a');
    state.epoch = "5f0c0123456789abcdef0123456789ab";
    state.seq = 184467;
    state.first_seen = time_of("2026-11-22T12:00:00.123Z");
    state.last_seen = time_of("2026-11-22T12:00:01.456Z");
    state.asked_by = Asker::kubelet;
    state.node = "node-3";
    return state;
}

TagEvent sample_event() {
    TagEvent event;
    event.id = "5f0c0123456789abcdef0123456789ab-184467";
    event.source = "/caches/cache-a";
    event.time = time_of("2026-11-22T12:00:00.123Z");
    event.data = sample_state();
    return event;
}

void expect_equal(const TagState& one, const TagState& other) {
    EXPECT_EQ(one.tag, other.tag);
    EXPECT_EQ(one.digest, other.digest);
    EXPECT_EQ(one.kind, other.kind);
    EXPECT_EQ(one.change, other.change);
    EXPECT_EQ(one.previous, other.previous);
    EXPECT_EQ(one.pending, other.pending);
    EXPECT_EQ(one.epoch, other.epoch);
    EXPECT_EQ(one.seq, other.seq);
    EXPECT_EQ(one.first_seen, other.first_seen);
    EXPECT_EQ(one.last_seen, other.last_seen);
    EXPECT_EQ(one.asked_by, other.asked_by);
    EXPECT_EQ(one.node, other.node);
    ASSERT_EQ(one.history.size(), other.history.size());
    for (std::size_t i = 0; i < one.history.size(); ++i) {
        EXPECT_EQ(one.history[i].digest, other.history[i].digest);
        EXPECT_EQ(one.history[i].first_seen, other.history[i].first_seen);
        EXPECT_EQ(one.history[i].last_seen, other.history[i].last_seen);
    }
}

// The sample with one field of the event, or of its data, set to the JSON in `value`; no value, no
// field.
std::string altered(bool in_data, const char* key, const char* value) {
    const Json list(json_loads(encode_batch({sample_event()}).c_str(), 0, nullptr));
    json_t* object = json_array_get(list.get(), 0);
    if (in_data) {
        object = json_object_get(object, "data");
    }
    if (value == nullptr) {
        json_object_del(object, key);
    } else {
        json_object_set_new(object, key,
                            json_loads(value, JSON_DECODE_ANY | JSON_ALLOW_NUL, nullptr));
    }
    const std::unique_ptr<char, decltype(&std::free)> text(json_dumps(list.get(), 0), &std::free);
    return text.get();
}

TEST(Event, has_the_documented_form) {
    const std::string redis = "docker.io/library/redis:8-alpine";
    const std::string a(64, 'a');
    const std::string b(64, 'b');
    EXPECT_EQ(
        encode_batch({sample_event()}),
        R"([{"specversion":"1.0","type":"io.ngx-keel.tag","source":"/caches/cache-a",)"
        R"("id":"5f0c0123456789abcdef0123456789ab-184467","time":"2026-11-22T12:00:00.123Z",)"
        R"("subject":")" +
            redis + R"(","datacontenttype":"application/json","data":{"tag":")" + redis +
            R"(","registry":"docker.io","repository":"library/redis","name":"8-alpine",)" +
            R"("digest":"sha256:)" + b + R"(","kind":"index","change":"changed",)" +
            R"("previous":"sha256:)" + a + R"(","pending":null,)" +
            R"("epoch":"5f0c0123456789abcdef0123456789ab","seq":"184467",)" +
            R"("first_seen":"2026-11-22T12:00:00.123Z","last_seen":"2026-11-22T12:00:01.456Z",)" +
            R"("asked_by":"kubelet","node":"node-3"}}])");
    EXPECT_EQ(encode_batch({}), "[]");
}

TEST(Event, survives_a_round_trip) {
    std::vector<TagEvent> events;
    for (const Change change : {Change::none, Change::fresh, Change::changed, Change::same,
                                Change::revert, Change::confirmed, Change::cleared, Change::held}) {
        TagEvent event = sample_event();
        event.data.change = change;
        event.data.pending = digest('c');
        event.data.previous.reset();
        event.data.seq = ~std::uint64_t{0};
        event.data.asked_by = Asker::keeld;
        event.data.kind = ManifestKind::image;
        event.data.node = "";
        event.data.tag = {"[::1]:5000", "a/b__c", "_X"};
        events.push_back(event);
    }
    const auto batch = decode_batch(encode_batch(events));
    ASSERT_TRUE(batch) << batch.error().text;
    EXPECT_EQ(batch->skipped, 0U);
    ASSERT_EQ(batch->events.size(), events.size());
    for (std::size_t i = 0; i < events.size(); ++i) {
        EXPECT_EQ(batch->events[i].id, events[i].id);
        EXPECT_EQ(batch->events[i].source, events[i].source);
        EXPECT_EQ(batch->events[i].time, events[i].time);
        expect_equal(batch->events[i].data, events[i].data);
    }
}

TEST(Event, state_carries_its_history_where_asked) {
    TagState state = sample_state();
    state.history = {
        {digest('a'), time_of("2026-11-21T12:00:00Z"), time_of("2026-11-22T11:00:00Z")},
        {digest('b'), state.first_seen, state.last_seen}};
    const Json with(encode_tag_state(state, true));
    ASSERT_TRUE(with);
    const auto decoded = decode_tag_state(with.get());
    ASSERT_TRUE(decoded) << decoded.error().text;
    expect_equal(*decoded, state);

    const Json without(encode_tag_state(state, false));
    EXPECT_EQ(json_object_get(without.get(), "history"), nullptr);
    EXPECT_TRUE(decode_tag_state(without.get())->history.empty());
}

TEST(Event, changes_have_names) {
    const struct {
        Change change;
        std::string text;
    } cases[] = {
        {Change::fresh, "new"},     {Change::changed, "changed"},     {Change::same, "same"},
        {Change::revert, "revert"}, {Change::confirmed, "confirmed"}, {Change::cleared, "cleared"},
        {Change::held, "held"},
    };
    for (const auto& each : cases) {
        EXPECT_EQ(to_string(each.change), each.text);
        EXPECT_EQ(parse_change(each.text), each.change);
    }
    EXPECT_EQ(to_string(Change::none), "");
    EXPECT_EQ(parse_change(""), std::nullopt);
    EXPECT_EQ(parse_change("fresh"), std::nullopt);
    EXPECT_EQ(parse_change("Changed"), std::nullopt);
}

TEST(Event, unknown_fields_are_ignored) {
    for (const bool in_data : {false, true}) {
        const auto batch = decode_batch(altered(in_data, "later", R"({"x": [1, null, "\u0041"]})"));
        ASSERT_TRUE(batch) << batch.error().text;
        expect_equal(batch->events.at(0).data, sample_state());
    }
}

HoldEvent sample_hold() {
    return {"h-1",
            "/caches/cache-a",
            time_of("2026-11-22T12:00:00.123Z"),
            {"docker.io", "library/redis", "8-alpine"},
            digest('b'),
            HoldNews::unfetchable,
            7};
}

TEST(Event, holds_are_told_beside_tags) {
    const auto batch = decode_batch(
        R"([{"specversion":"1.0","type":"io.ngx-keel.hold","source":"/caches/cache-a","id":"h-1",)"
        R"("time":"2026-11-22T12:00:00.123Z","data":{"tag":"docker.io/library/redis:8-alpine",)"
        R"("digest":"sha256:)" +
        std::string(64, 'b') + R"(","event":"unfetchable","revision":"7"}}])");
    ASSERT_TRUE(batch) << batch.error().text;
    EXPECT_TRUE(batch->events.empty());
    EXPECT_EQ(batch->skipped, 0U);
    ASSERT_EQ(batch->holds.size(), 1U);
    for (const auto& events : {*batch, *decode_batch(encode_hold_batch({sample_hold()}))}) {
        const HoldEvent& told = events.holds.at(0);
        EXPECT_EQ(told.id, "h-1");
        EXPECT_EQ(told.source, "/caches/cache-a");
        EXPECT_EQ(told.time, time_of("2026-11-22T12:00:00.123Z"));
        EXPECT_EQ(told.tag, sample_hold().tag);
        EXPECT_EQ(told.digest, digest('b'));
        EXPECT_EQ(told.news, HoldNews::unfetchable);
        EXPECT_EQ(told.revision, 7U);
    }
}

TEST(Event, every_news_of_a_hold_has_a_name_that_is_read) {
    for (const HoldNews news : {HoldNews::set, HoldNews::lifted, HoldNews::expiring,
                                HoldNews::unfetchable, HoldNews::ineffective}) {
        HoldEvent event = sample_hold();
        event.news = news;
        const auto batch = decode_batch(encode_hold_batch({event}));
        ASSERT_TRUE(batch) << batch.error().text;
        EXPECT_EQ(batch->holds.at(0).news, news);
    }
}

TEST(Event, holds_that_are_wrong_name_the_field) {
    const std::string good = encode_hold_batch({sample_hold()});
    const struct {
        std::string from;
        std::string to;
        std::string complaint;
    } cases[] = {
        {R"("event":"unfetchable")", R"("event":"same")",
         "event 0: data.event: expected one of the values of the event format"},
        {R"("revision":"7")", R"("revision":7)", "event 0: data.revision: expected a string"},
        {R"("tag":"docker.io/library/redis:8-alpine")", R"("tag":"redis")",
         "event 0: data.tag: expected registry/repository:name"},
        {R"("subject":"docker.io/library/redis:8-alpine")", R"("subject":"docker.io/library/x:8")",
         "event 0: subject: expected the tag of its data"},
    };
    for (const auto& each : cases) {
        std::string body = good;
        ASSERT_NE(body.find(each.from), std::string::npos) << each.from;
        body.replace(body.find(each.from), each.from.size(), each.to);
        const auto batch = decode_batch(body);
        ASSERT_FALSE(batch) << each.to;
        EXPECT_EQ(batch.error().text, each.complaint);
    }
}

TEST(Event, other_types_are_skipped_and_counted) {
    const std::string body = encode_batch({sample_event()});
    const auto batch = decode_batch(
        R"([{"specversion":"1.0","type":"io.ngx-keel.later","data":{"tag":7}},)" + body.substr(1));
    ASSERT_TRUE(batch) << batch.error().text;
    EXPECT_EQ(batch->skipped, 1U);
    EXPECT_EQ(batch->events.size(), 1U);
}

TEST(Event, optional_fields_may_be_missing) {
    for (const char* key : {"subject", "datacontenttype"}) {
        EXPECT_TRUE(decode_batch(altered(false, key, nullptr))) << key;
    }
    for (const char* key : {"previous", "pending"}) {
        EXPECT_TRUE(decode_batch(altered(true, key, nullptr))) << key;
        EXPECT_TRUE(decode_batch(altered(true, key, "null"))) << key;
    }
}

TEST(Event, every_required_field_is_checked_and_named) {
    const std::string bad_digest = "\"sha256:" + std::string(64, 'B') + "\"";
    const std::string long_text = "\"" + std::string(256, 'x') + "\"";
    const struct {
        bool in_data;
        const char* key;
        std::vector<const char*> values;
    } cases[] = {
        {false, "specversion", {"\"0.3\"", "1.0"}},
        {false, "type", {"1"}},
        {false,
         "source",
         {"\"/caches/\"", "\"cache-a\"", "\"/caches/a\\u001b\"", "[]", long_text.c_str()}},
        {false, "id", {"\"\"", "7", long_text.c_str()}},
        {false, "time", {"\"yesterday\"", "1795348800", "\"2026-11-22T12:00:00\""}},
        {false, "subject", {"\"docker.io/library/redis:9\"", "null"}},
        {false, "data", {"null", "[]", "\"{}\"", "true"}},
        {true, "tag", {"\"docker.io/library/redis:9\"", "\"redis:8-alpine\"", "null"}},
        {true, "registry", {"\"\"", "\"ghcr.io\"", "\"http://x\"", "\"docker.io\\u0000\"", "{}"}},
        {true, "repository", {"\"Redis\"", "\"../x\"", "\"\""}},
        {true, "name", {"\"-x\"", "\"\"", "8"}},
        {true, "digest", {"null", "\"\"", "\"sha256:12\"", bad_digest.c_str()}},
        {true, "kind", {"\"list\"", "\"\"", "0"}},
        {true, "change", {"\"moved\"", "null"}},
        {true, "previous", {"\"\"", "false"}},
        {true, "pending", {"\"sha256:\"", "0"}},
        {true, "epoch", {"\"\"", "\"a\\nb\"", "5"}},
        {true,
         "seq",
         {"184467", "\"\"", "\"-1\"", "\"+1\"", "\" 1\"", "\"01\"", "\"1x\"",
          "\"18446744073709551616\"", "\"0x1\"", "\"1.0\""}},
        {true, "first_seen", {"\"\"", "0"}},
        {true, "last_seen", {"\"now\"", "null"}},
        {true, "asked_by", {"\"docker\"", "\"\""}},
        {true, "node", {"null", "\"a\\u001b[31m\"", "\"a\\u0000b\"", long_text.c_str()}},
        {true, "history", {"{}", "null", "[1]", "[{}]", R"([{"digest":"x"}])"}},
    };
    for (const auto& each : cases) {
        std::vector<const char*> values = each.values;
        const std::string key = each.key;
        if (key != "subject" && key != "previous" && key != "pending" && key != "history") {
            values.push_back(nullptr);
        }
        for (const char* value : values) {
            const auto batch = decode_batch(altered(each.in_data, each.key, value));
            ASSERT_FALSE(batch) << key << " = " << (value == nullptr ? "missing" : value);
            if (batch.error().code == "bad-json") {
                EXPECT_NE(std::string(value).find("\\u0000"), std::string::npos) << value;
                continue;
            }
            EXPECT_EQ(batch.error().code, "bad-event");
            EXPECT_EQ(batch.error().text.find("event 0: "), 0U) << batch.error().text;
            // Where a part of the tag does not fit, the tag itself may be named.
            EXPECT_TRUE(batch.error().text.find(key) != std::string::npos ||
                        batch.error().text.find("tag") != std::string::npos)
                << batch.error().text;
        }
    }
}

TEST(Event, hostile_bodies_are_refused) {
    const std::string body = encode_batch({sample_event()});
    std::string deep;
    for (int i = 0; i < 30000; ++i) {
        deep += "[";
    }
    std::string twice = body;
    twice.replace(twice.find("\"seq\""), 5, R"("seq":"1","seq")");
    std::string bad_utf8 = body;
    bad_utf8.replace(bad_utf8.find("node-3"), 6, "nod\xff-3");
    std::string surrogate = body;
    surrogate.replace(surrogate.find("node-3"), 6, "\\ud800");
    const struct {
        const char* what;
        std::string body;
        std::string code;
    } cases[] = {
        {"empty", "", "bad-json"},
        {"blank", "  ", "bad-json"},
        {"cut", body.substr(0, body.size() / 2), "bad-json"},
        {"trailing", body + "x", "bad-json"},
        {"two values", body + body, "bad-json"},
        {"object", "{}", "bad-event"},
        {"scalar", "1", "bad-json"},
        {"array of scalars", "[1]", "bad-event"},
        {"array of arrays", "[[]]", "bad-event"},
        {"a NUL", body + std::string(1, '\0'), "bad-json"},
        {"an escaped NUL", R"(["\u0000"])", "bad-json"},
        {"a NUL as key", R"([{"\u0000": 1}])", "bad-json"},
        {"no UTF-8", bad_utf8, "bad-json"},
        {"half a surrogate", surrogate, "bad-json"},
        {"overlong UTF-8", "[\"\xc0\xaf\"]", "bad-json"},
        {"deep", deep, "bad-json"},
        {"one key twice", twice, "bad-json"},
        {"huge number", "[1e999999]", "bad-json"},
        {"not a number", "[NaN]", "bad-json"},
    };
    for (const auto& each : cases) {
        const auto batch = decode_batch(each.body);
        ASSERT_FALSE(batch) << each.what;
        EXPECT_EQ(batch.error().code, each.code) << each.what << ": " << batch.error().text;
        if (each.code == "bad-json") {
            EXPECT_EQ(batch.error().text.find("line "), 0U) << batch.error().text;
        }
        for (const char c : batch.error().text) {
            ASSERT_TRUE(c >= ' ' && c <= '~') << each.what;
        }
    }
}

TEST(Event, the_second_event_is_named_when_it_is_the_bad_one) {
    const std::string body = encode_batch({sample_event(), sample_event()});
    std::string bad = body;
    bad.replace(bad.rfind("\"index\""), 7, "\"other\"");
    const auto batch = decode_batch(bad);
    ASSERT_FALSE(batch);
    EXPECT_EQ(batch.error().text.find("event 1: data.kind: "), 0U) << batch.error().text;
}

TEST(Event, batches_are_bounded) {
    std::vector<TagEvent> events(kMaxBatchEvents, sample_event());
    ASSERT_LE(encode_batch(events).size(), 2 * kMaxBatchBytes);

    std::string many = "[";
    for (std::size_t i = 0; i < kMaxBatchEvents; ++i) {
        many += R"({"specversion":"1.0","type":"x"},)";
    }
    std::string full = many;
    full.back() = ']';
    EXPECT_EQ(decode_batch(full)->skipped, kMaxBatchEvents);
    const auto over = decode_batch(many + R"({"specversion":"1.0","type":"x"}])");
    ASSERT_FALSE(over);
    EXPECT_EQ(over.error().code, "too-large");

    std::string padded = encode_batch({sample_event()});
    padded.append(kMaxBatchBytes - padded.size(), ' ');
    EXPECT_TRUE(decode_batch(padded));
    const auto long_body = decode_batch(padded + " ");
    ASSERT_FALSE(long_body);
    EXPECT_EQ(long_body.error().code, "too-large");
}

// A node's name may come from a request header; one puller must not make a batch that nobody
// accepts.
TEST(Event, whatever_a_client_says_is_written_so_that_it_can_be_read) {
    const struct {
        std::string node;
        std::string read;
    } cases[] = {
        {"node-3", "node-3"},
        {"n\xc3\xa9"
         "on",
         "n\xc3\xa9"
         "on"},
        {"a\x1b[31m\nb\x7f", "a?[31m?b?"},
        {std::string("a\0b", 3), "a?b"},
        {"a\xff\xc3\xa9", "a???"},
        {"\xed\xa0\x80", "???"},
        {std::string(5000, 'x'), std::string(255, 'x')},
        {std::string(254, 'x') + "\xc3\xa9", std::string(254, 'x') + "?"},
        {"\"\\/<>", "\"\\/<>"},
    };
    for (const auto& each : cases) {
        TagEvent event = sample_event();
        event.data.node = each.node;
        const auto batch = decode_batch(encode_batch({event}));
        ASSERT_TRUE(batch) << batch.error().text;
        EXPECT_EQ(batch->events.at(0).data.node, each.read);
    }
}

TEST(Event, state_errors_name_the_field_alone) {
    const auto none = decode_tag_state(nullptr);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().text, "the object: expected a JSON object");
    const Json state(encode_tag_state(sample_state(), false));
    json_object_del(state.get(), "seq");
    EXPECT_EQ(decode_tag_state(state.get()).error().text, "seq: expected a string");
}

}  // namespace
}  // namespace keel
