// What caches tell: signed events, and their tag tables read over real HTTP, in whatever order
// things break.
#include "keeld/cache/feed.h"

#include <gtest/gtest.h>

#include "keeld/json.h"
#include "unit/keeld/samples.h"
#include "unit/keeld/scripted_peer.h"

namespace keel {
namespace {

using test::at;
using test::digest;
using test::Reply;
using test::ScriptedPeer;

constexpr const char* kEpoch = "5f0c0123456789abcdef0123456789ab";
constexpr const char* kOtherEpoch = "000c0123456789abcdef0123456789ab";

Secrets secrets(char byte) {
    // 32 times the same byte.
    const std::string base64[] = {"QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",
                                  "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="};
    return *Secrets::parse("whsec_" + base64[byte - 'A'] + "\n");
}

TagState state(std::uint64_t seq, char hex = 'a', const std::string& name = "1.27",
               const std::string& epoch = kEpoch) {
    TagState result;
    result.tag = test::tag(name);
    result.digest = digest(hex);
    result.kind = ManifestKind::index;
    result.change = Change::changed;
    result.epoch = epoch;
    result.seq = seq;
    result.first_seen = at(-10);
    result.last_seen = at(-5);
    return result;
}

std::string body_of(const std::vector<TagState>& states, const std::string& cache = "cache-a") {
    std::vector<TagEvent> events;
    for (const TagState& one : states) {
        events.push_back(
            {one.epoch + "-" + std::to_string(one.seq), "/caches/" + cache, at(0), one});
    }
    return encode_batch(events);
}

// A page of a cache's tag table.
Reply page(const std::string& epoch, std::uint64_t seq, const std::vector<TagState>& states,
           std::optional<std::uint64_t> next) {
    const Json root(json_object());
    json_object_set_new(root.get(), "epoch", json_text(epoch));
    json_object_set_new(root.get(), "seq", json_text(std::to_string(seq)));
    json_t* tags = json_array();
    for (const TagState& one : states)
        json_array_append_new(tags, encode_tag_state(one, true));
    json_object_set_new(root.get(), "tags", tags);
    json_object_set_new(root.get(), "next", next ? json_text(std::to_string(*next)) : json_null());
    return {"200 OK", "Content-Type: application/json\r\n", dump_json(root.get())};
}

class FeedTest : public testing::Test {
  protected:
    FeedTest() {
        config.event_secrets = secrets('A');
        for (const char* name : {"cache-a", "cache-b"}) {
            CacheConfig& cache = config.caches.emplace_back();
            cache.name = name;
            cache.api = peer.url("/keel");
        }
        start();
    }
    ~FeedTest() override { end_runs(); }

    // As a new process over the same ledger would.
    void start() {
        end_runs();
        if (feed) {
            EXPECT_TRUE(test::await(loop, ledger->durable()));
        }
        feed = std::make_unique<CacheFeed>(loop, http, config, clock, *ledger,
                                           [this](const CacheNews& one) { news.push_back(one); });
        news.clear();
    }
    void run(const std::string& cache = "cache-a") {
        ++running_;
        asio::co_spawn(loop, feed->run(cache), [this](const std::exception_ptr&) { --running_; });
    }
    void end_runs() {
        if (!feed) return;
        feed->stop();
        EXPECT_TRUE(test::run_until(loop, [this] { return running_ == 0; }));
    }
    bool until(const std::function<bool()>& done) { return test::run_until(loop, done); }

    SignedMessage message(const std::string& body, std::int64_t skew = 0, char secret = 'A') {
        SignedMessage result;
        result.id = "msg-1";
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(
            clock.time.time_since_epoch() + std::chrono::seconds(skew));
        result.timestamp = std::to_string(seconds.count());
        result.body = body;
        result.signature = secrets(secret).sign(result.id, result.timestamp, body);
        return result;
    }
    Expected<void> receive(const SignedMessage& one) {
        return test::await(loop, feed->receive(one));
    }
    Expected<void> receive(const std::vector<TagState>& states,
                           const std::string& cache = "cache-a") {
        return receive(message(body_of(states, cache)));
    }
    [[nodiscard]] CacheFeed::State cache(std::size_t index = 0) const {
        return feed->states().at(index);
    }
    // "1.27=a" for every piece of news, with a question mark where its order is not known.
    [[nodiscard]] std::string told() const {
        std::string all;
        for (const CacheNews& one : news) {
            all += (all.empty() ? "" : " ") + one.state.tag.name + "=" +
                   one.state.digest.to_string().substr(7, 1) + (one.in_order ? "" : "?");
        }
        return all;
    }

    Loop loop;
    HttpClient http{loop, "keeld/test"};
    test::TestClock clock;
    Config config;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop);
    ScriptedPeer::Script script = [](const std::string&, const std::string&) {
        return page(kEpoch, 0, {}, std::nullopt);
    };
    ScriptedPeer peer{loop, [this](const std::string& line, const std::string& request) {
                          return script(line, request);
                      }};
    std::vector<CacheNews> news;
    std::unique_ptr<CacheFeed> feed;

  private:
    int running_ = 0;
};

TEST_F(FeedTest, TakesASignedBatchAndIsDurableThen) {
    ledger->append(Entry{});
    ASSERT_TRUE(receive({state(1), state(2, 'b', "other")}));
    EXPECT_EQ(ledger->queued(), 0U) << "2xx only after the commit";
    ASSERT_EQ(news.size(), 2U);
    EXPECT_EQ(news[0].source, "event cache-a");
    EXPECT_EQ(news[0].state.tag, test::tag());
    EXPECT_EQ(news[1].state.digest, digest('b'));
    EXPECT_EQ(cache().events, 2U);
    EXPECT_EQ(cache().last_event, at(0));
    EXPECT_EQ(feed->metrics().accepted, 1U);
}

TEST_F(FeedTest, RefusesWhatIsNotSignedByItsSecretNow) {
    const std::string body = body_of({state(1)});
    SignedMessage unsigned_one = message(body);
    unsigned_one.signature.clear();
    SignedMessage changed = message(body);
    changed.body[changed.body.find("1.27")] = '2';
    SignedMessage other_id = message(body);
    other_id.id = "msg-2";
    const std::pair<SignedMessage, const char*> cases[] = {
        {unsigned_one, "unsigned"},         {changed, "bad-signature"},
        {other_id, "bad-signature"},        {message(body, 0, 'B'), "bad-signature"},
        {message(body, 301), "clock-skew"}, {message(body, -301), "clock-skew"},
    };
    for (const auto& [one, code] : cases) {
        const auto taken = receive(one);
        ASSERT_FALSE(taken) << code;
        EXPECT_EQ(taken.error().code, code);
    }
    EXPECT_TRUE(news.empty());
    EXPECT_EQ(feed->metrics().refused_signature, 4U);
    EXPECT_EQ(feed->metrics().refused_skew, 2U);
    EXPECT_EQ(feed->metrics().accepted, 0U);
    EXPECT_TRUE(receive(message(body, 299)));
}

TEST_F(FeedTest, WithoutASecretNothingIsAccepted) {
    config.event_secrets.reset();
    EXPECT_EQ(receive({state(1)}).error().code, "bad-signature");
    EXPECT_TRUE(news.empty());
}

TEST_F(FeedTest, AMalformedBatchIsTakenNotAtAll) {
    std::string half = body_of({state(1), state(2, 'b', "other")});
    half.replace(half.rfind(digest('b').to_string()), 7, "sha999:");
    const std::pair<std::string, const char*> cases[] = {
        {"[", "bad-json"}, {"{}", "bad-event"}, {half, "bad-event"}, {"", "bad-json"}};
    for (const auto& [body, code] : cases) {
        const auto taken = receive(message(body));
        ASSERT_FALSE(taken) << body;
        EXPECT_EQ(taken.error().code, code);
    }
    EXPECT_TRUE(news.empty());
    EXPECT_EQ(feed->metrics().refused_malformed, 4U);
}

TEST_F(FeedTest, RepeatedAndReorderedEventsAreDropped) {
    ASSERT_TRUE(receive({state(5, 'b')}));
    ASSERT_TRUE(receive({state(5, 'b')}));
    ASSERT_TRUE(receive({state(4, 'a')}));
    ASSERT_TRUE(receive({state(6, 'c')}));
    EXPECT_EQ(told(), "1.27=b? 1.27=c");
    EXPECT_EQ(cache().stale, 2U);
}

TEST_F(FeedTest, CachesHaveTheirOwnOrder) {
    ASSERT_TRUE(receive({state(5, 'b')}, "cache-a"));
    ASSERT_TRUE(receive({state(1, 'b')}, "cache-b"));
    ASSERT_EQ(news.size(), 2U);
    EXPECT_EQ(news[1].source, "event cache-b");
}

TEST_F(FeedTest, AnUnknownCacheIsCountedAndTheRestTaken) {
    std::vector<TagEvent> events;
    events.push_back({"x-1", "/caches/stranger", at(0), state(1)});
    events.push_back({"x-2", "/caches/cache-a", at(0), state(2)});
    ASSERT_TRUE(receive(message(encode_batch(events))));
    EXPECT_EQ(news.size(), 1U);
    EXPECT_EQ(feed->metrics().unknown_cache, 1U);
}

TEST_F(FeedTest, TellsOfHolds) {
    std::vector<std::string> told;
    feed->on_hold([&told](const std::string& cache, const HoldEvent& event) {
        told.push_back(cache + " " + std::string(to_string(event.news)) + " " + event.tag.name);
    });
    const auto event = [](const char* source) {
        return HoldEvent{"h", source, at(0), test::tag(), digest('a'), HoldNews::expiring, 3};
    };
    const std::string body = encode_hold_batch({event("/caches/cache-b"), event("/caches/other")});
    EXPECT_TRUE(receive(message(body)));
    EXPECT_EQ(told, std::vector<std::string>{"cache-b expiring 1.27"});
    EXPECT_EQ(feed->metrics().unknown_cache, 1U);
    EXPECT_FALSE(receive(message(body, 0, 'B')));
    EXPECT_EQ(told.size(), 1U);
}

TEST_F(FeedTest, ReadsTheWholeTableInPages) {
    script = [](const std::string& line, const std::string&) {
        return line.find("since=2") == std::string::npos
                   ? page(kEpoch, 9, {state(1, 'a', "one"), state(2, 'b', "two")}, 2)
                   : page(kEpoch, 9, {state(7, 'c', "three")}, std::nullopt);
    };
    run();
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    EXPECT_EQ(told(), "one=a two=b three=c");
    EXPECT_EQ(news[0].source, "resync cache-a");
    EXPECT_EQ(peer.asked, (std::vector<std::string>{
                              "GET /keel/tags?limit=100&since=0",
                              std::string("GET /keel/tags?limit=100&since=2&epoch=") + kEpoch}));
    EXPECT_EQ(cache().epoch, kEpoch);
    EXPECT_EQ(cache().seq, 9U);
    EXPECT_EQ(cache().last_resync, at(0));
    EXPECT_EQ(cache().problem, "");
}

TEST_F(FeedTest, P7_AfterARestartOnlyWhatIsNewIsRead) {
    script = [](const std::string&, const std::string&) {
        return page(kEpoch, 9, {state(7)}, std::nullopt);
    };
    run();
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    start();
    EXPECT_EQ(cache().epoch, kEpoch);
    peer.asked.clear();
    script = [](const std::string&, const std::string&) {
        return page(kEpoch, 12, {state(11, 'b')}, std::nullopt);
    };
    run();
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    EXPECT_EQ(peer.asked.at(0), std::string("GET /keel/tags?limit=100&since=9&epoch=") + kEpoch);
    EXPECT_EQ(told(), "1.27=b");
    // What the earlier run had heard already is told again: its order is not known here.
    ASSERT_TRUE(receive({state(8, 'c', "other")}));
    EXPECT_EQ(told(), "1.27=b other=c?");
    ASSERT_TRUE(receive({state(13, 'd', "other")}));
    EXPECT_EQ(told(), "1.27=b other=c? other=d");
}

// After a reset of the zone nothing tells whether what it holds is newer than what was told before.
TEST_F(FeedTest, D5_EpochsAreNeverOrdered) {
    script = [](const std::string&, const std::string&) {
        return page(kEpoch, 9, {state(7)}, std::nullopt);
    };
    run();
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    news.clear();
    script = [](const std::string&, const std::string&) {
        return page(kOtherEpoch, 2, {state(2, 'c', "1.27", kOtherEpoch)}, std::nullopt);
    };
    ASSERT_TRUE(receive({state(1, 'b', "other", kOtherEpoch)}));
    ASSERT_TRUE(until([this] { return cache().resyncs == 2; })) << "read again at once";
    EXPECT_EQ(told(), "other=b? 1.27=c?");
    EXPECT_EQ(cache().epoch, kOtherEpoch);
    EXPECT_EQ(cache().seq, 2U);
    ASSERT_TRUE(receive({state(3, 'd', "1.27", kOtherEpoch)}));
    EXPECT_TRUE(news.back().in_order) << "within the epoch there is order again";
}

TEST_F(FeedTest, AnEpochThatIsGoneIsReadFromTheStart) {
    script = [](const std::string&, const std::string&) {
        return page(kEpoch, 9, {state(7)}, std::nullopt);
    };
    run();
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    start();
    peer.asked.clear();
    script = [](const std::string& line, const std::string&) {
        return line.find("since=0") == std::string::npos
                   ? Reply{"410 Gone", "", "{}"}
                   : page(kOtherEpoch, 3, {state(3, 'b', "1.27", kOtherEpoch)}, std::nullopt);
    };
    run();
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    EXPECT_EQ(told(), "1.27=b?");
    EXPECT_EQ(peer.asked.size(), 2U);
    EXPECT_EQ(cache().seq, 3U);
}

// An event is far ahead of what is still to be read: a page that fails is asked for again all the
// same.
TEST_F(FeedTest, AnEventDuringAResyncSkipsNothing) {
    Signal answered(loop);
    bool broken = true;
    script = [&](const std::string& line, const std::string&) {
        if (line.find("since=0") != std::string::npos) {
            return page(kEpoch, 60, {state(1, 'a', "one"), state(2, 'b', "two")}, 2);
        }
        if (std::exchange(broken, false)) {
            return Reply{"502 Bad Gateway", "", "", &answered};
        }
        return page(kEpoch, 60, {state(3, 'c', "three"), state(50, 'd', "four")}, std::nullopt);
    };
    run();
    ASSERT_TRUE(until([this] { return peer.asked.size() == 2; }));
    ASSERT_TRUE(receive({state(50, 'd', "four")}));
    answered.notify();
    ASSERT_TRUE(until([this] { return !cache().problem.empty(); }));
    EXPECT_NE(cache().problem.find("502"), std::string::npos);
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    EXPECT_EQ(told(), "one=a two=b four=d three=c");
    EXPECT_EQ(peer.asked.at(2), std::string("GET /keel/tags?limit=100&since=2&epoch=") + kEpoch);
    EXPECT_EQ(cache().problem, "");
    EXPECT_EQ(cache().seq, 60U);
}

TEST_F(FeedTest, AnEntryThatCannotBeReadCostsOnlyItselfAndIsTold) {
    script = [](const std::string& line, const std::string&) {
        if (line.find("since=2") != std::string::npos) {
            return page(kEpoch, 9, {state(7, 'c', "three")}, std::nullopt);
        }
        Reply reply = page(kEpoch, 9, {state(1, 'a', "one"), state(2, 'b', "two")}, 2);
        const std::string good = digest('a').to_string();
        reply.body.replace(reply.body.find(good), good.size(), "sha999:a");
        reply.body.replace(reply.body.find("\"tags\":["), 8, "\"tags\":[{},");
        return reply;
    };
    run();
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    EXPECT_EQ(told(), "two=b three=c");
    EXPECT_EQ(cache().problem, "");
    EXPECT_EQ(cache().left_out, 2U);
    EXPECT_NE(cache().unreadable.find("read: 2;"), std::string::npos) << cache().unreadable;
    // Told again in a way that can be read: one is left.
    ASSERT_TRUE(receive({state(10, 'd', "one")}));
    EXPECT_NE(cache().unreadable.find("read: 1;"), std::string::npos) << cache().unreadable;
    EXPECT_EQ(cache().left_out, 2U);
    // Another table.
    ASSERT_TRUE(receive({state(1, 'd', "one", kOtherEpoch)}));
    EXPECT_EQ(cache().unreadable, "");
}

struct BadTable {
    const char* name;
    Reply reply;
};

class FeedBadTable : public FeedTest, public testing::WithParamInterface<BadTable> {};

TEST_P(FeedBadTable, IsAProblemAndNoEndlessLoop) {
    script = [](const std::string&, const std::string&) { return GetParam().reply; };
    run();
    ASSERT_TRUE(until([this] { return !cache().problem.empty(); }));
    EXPECT_EQ(peer.asked.size(), 1U);
    EXPECT_EQ(cache().resyncs, 0U);
    script = [](const std::string&, const std::string&) {
        return page(kEpoch, 9, {state(7)}, std::nullopt);
    };
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; })) << "tried again by itself";
    EXPECT_EQ(cache().problem, "");
    EXPECT_EQ(told(), "1.27=a");
}

INSTANTIATE_TEST_SUITE_P(All, FeedBadTable,
                         testing::Values(BadTable{"NotTheApi", {"404 Not Found", "", "<html>"}},
                                         BadTable{"NoJson", {"200 OK", "", "<html>"}},
                                         BadTable{"NoTags", {"200 OK", "", "{}"}},
                                         BadTable{"Gone", {"410 Gone", "", "{}"}},
                                         BadTable{"NextDoesNotAdvance", page(kEpoch, 9, {}, 0)}),
                         [](const auto& info) { return info.param.name; });

TEST_F(FeedTest, D6_WhatTrafficAskedForIsReadFromWhereItWasLeft) {
    std::map<std::string, Time> seen;
    const auto read = [&] {
        test::await(loop, feed->read_traffic(
                              [&](const SeenTag& one) { seen[one.tag.name] = one.last_seen; }));
    };
    read();
    EXPECT_TRUE(peer.asked.empty()) << "nothing is asked of a cache before its table was read";
    run();
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    peer.asked.clear();
    const auto seen_page = [](std::int64_t seconds, const std::string& name, const char* next) {
        return Reply{"200 OK", "Content-Type: application/json\r\n",
                     std::string(R"({"epoch": "e", "seq": "7", "tags": [{"tag": ")") +
                         test::tag(name).to_string() + R"(", "last_seen": ")" +
                         format_time(at(seconds)) + R"(", "seq": "5"}], "next": )" + next + "}"};
    };
    script = [&](const std::string& line, const std::string&) {
        return line.find("&since=5&epoch=e") != std::string::npos ? seen_page(-30, "two", "null")
                                                                  : seen_page(-20, "one", "\"5\"");
    };
    read();
    EXPECT_EQ(seen, (std::map<std::string, Time>{{"one", at(-20)}, {"two", at(-30)}}));
    EXPECT_EQ(cache().seen_since, at(-20));
    peer.asked.clear();
    script = [&](const std::string&, const std::string&) { return seen_page(3, "one", "null"); };
    read();
    ASSERT_EQ(peer.asked.size(), 1U);
    EXPECT_EQ(peer.asked[0], "GET /keel/tags?limit=1000&seen_since=" + format_time(at(-20)));
    EXPECT_EQ(seen["one"], at(3));
    script = [](const std::string&, const std::string&) { return Reply{"500 Oops", "", ""}; };
    read();
    EXPECT_EQ(cache().seen_since, at(3)) << "asked for again from there";
}

TEST_F(FeedTest, AnEntryOfTrafficThatCannotBeReadCostsOnlyItselfAndIsTold) {
    std::map<std::string, Time> seen;
    std::string last_seen = "yesterday";
    run();
    ASSERT_TRUE(until([this] { return cache().resyncs == 1; }));
    script = [&](const std::string&, const std::string&) {
        return Reply{"200 OK", "Content-Type: application/json\r\n",
                     R"({"epoch": "e", "seq": "7", "tags": [{"tag": ")" +
                         test::tag("one").to_string() + R"(", "last_seen": ")" + last_seen +
                         R"("}, {"tag": ")" + test::tag("two").to_string() +
                         R"(", "last_seen": ")" + format_time(at(-20)) + R"("}], "next": null})"};
    };
    const auto read = [&] {
        test::await(loop, feed->read_traffic(
                              [&](const SeenTag& one) { seen[one.tag.name] = one.last_seen; }));
    };
    read();
    EXPECT_EQ(seen, (std::map<std::string, Time>{{"two", at(-20)}}));
    EXPECT_EQ(cache().problem, "");
    EXPECT_EQ(cache().left_out, 1U);
    EXPECT_NE(cache().unreadable.find("one: last_seen: not a time"), std::string::npos)
        << cache().unreadable;
    last_seen = format_time(at(-10));
    read();
    EXPECT_EQ(seen["one"], at(-10));
    EXPECT_EQ(cache().unreadable, "");
    EXPECT_EQ(cache().left_out, 1U);
}

}  // namespace
}  // namespace keel
