// Holds against caches that the test plays: what the ledger wants, what each cache has, and
// everything that may come between.
#include "keeld/catalogue/holds.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <map>
#include <set>

#include "core/holds.h"
#include "keeld/json.h"
#include "unit/keeld/samples.h"
#include "unit/keeld/scripted_peer.h"

namespace keel {
namespace {

using test::at;
using test::Reply;
using test::ScriptedPeer;
using test::tag;

constexpr const char* kIndexType = "application/vnd.oci.image.index.v1+json";
constexpr const char* kImageType = "application/vnd.oci.image.manifest.v1+json";

std::string digest_text(const std::string& body) {
    return "sha256:" + sha256_hex(body);
}

std::string header_of(const std::string& request, const std::string& name) {
    const std::size_t at = request.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const std::size_t from = at + name.size() + 4;
    return request.substr(from, request.find("\r\n", from) - from);
}

// An index of two platforms, each with one layer, and everything that it is made of.
struct Image {
    explicit Image(const std::string& version) {
        json_t* entries = json_array();
        for (const std::string platform : {"amd64", "arm64"}) {
            const std::string layer = version + " for " + platform;
            const Json config(json_pack("{s:s}", "architecture", platform.c_str()));
            const std::string config_text = dump_json(config.get()) + version;
            const Json manifest(json_object());
            json_object_set_new(manifest.get(), "config", descriptor(config_text));
            json_t* layers = json_array();
            json_array_append_new(layers, descriptor(layer));
            json_object_set_new(manifest.get(), "layers", layers);
            const std::string text = dump_json(manifest.get());
            parts[digest_text(text)] = text;
            types[digest_text(text)] = kImageType;
            single = digest_text(text);
            json_t* entry = descriptor(text, false);
            json_object_set_new(
                entry, "platform",
                json_pack("{s:s,s:s}", "os", "linux", "architecture", platform.c_str()));
            json_array_append_new(entries, entry);
            layers_of.push_back(digest_text(layer));
        }
        const Json index(json_object());
        json_object_set_new(index.get(), "manifests", entries);
        const std::string text = dump_json(index.get());
        digest = *Digest::parse(digest_text(text));
        parts[digest_text(text)] = text;
        types[digest_text(text)] = kIndexType;
    }
    json_t* descriptor(const std::string& body, bool keep = true) {
        if (keep) parts[digest_text(body)] = body;
        return json_pack("{s:s,s:I}", "digest", digest_text(body).c_str(), "size",
                         static_cast<json_int_t>(body.size()));
    }

    Digest digest;
    std::string single;  // one platform's manifest
    std::vector<std::string> layers_of;
    std::map<std::string, std::string> parts;
    std::map<std::string, std::string> types;  // of those that are manifests
};

const char* const kSecret = "whsec_QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n";

// One cache: keel_api below /keel, manifests and blobs below /v2.
struct FakeCache {
    explicit FakeCache(Loop& loop, const Clock& the_clock)
        : clock(the_clock),
          never(loop),
          peer(loop, [this](const std::string& line, const std::string& request) {
              return answer(line, request);
          }) {}

    Reply answer(const std::string& line, const std::string& request) {
        const std::string method = line.substr(0, line.find(' '));
        std::string target = line.substr(method.size() + 1);
        if (away) return {"502 Bad Gateway", "", ""};
        if (target.starts_with("/v2/")) {
            return part(target.substr(target.rfind('/') + 1));
        }
        if (method == "GET") return lost ? Reply{"404 Not Found", "", ""} : list();
        return write(method, target, request);
    }

    Reply part(const std::string& rest) {
        const std::string digest = rest.substr(0, rest.find('?'));
        for (const Image* image : images) {
            const auto found = image->parts.find(digest);
            if (found == image->parts.end() || missing.contains(digest)) continue;
            if (limited) return {"429 Too Many Requests", "Retry-After: 3600\r\n", ""};
            if (stuck.contains(digest)) return {"200 OK", "", found->second, &never};
            if (slow.contains(digest)) {
                return {"200 OK", "", found->second, nullptr, std::chrono::milliseconds(100)};
            }
            const auto type = image->types.find(digest);
            const std::string header =
                type != image->types.end() ? "Content-Type: " + type->second + "\r\n" : "";
            return {"200 OK", header,
                    garbled.contains(digest) ? found->second + "x" : found->second};
        }
        return {"404 Not Found", "", ""};
    }

    Reply list() {
        const Json root(json_object());
        json_object_set_new(root.get(), "revision", json_text(std::to_string(set.revision)));
        json_t* items = json_array();
        for (const Hold& hold : set.holds) {
            json_t* item = encode_hold(hold);
            json_object_set_new(item, "answers", json_text(std::to_string(answers)));
            json_object_set_new(item, "unfetchable", json_text(std::to_string(unfetchable)));
            json_object_set_new(item, "ineffective", json_text(std::to_string(ineffective)));
            json_array_append_new(items, item);
        }
        json_object_set_new(root.get(), "holds", items);
        return {"200 OK", "Content-Type: application/json\r\n", dump_json(root.get())};
    }

    Reply write(const std::string& method, const std::string& target, const std::string& request) {
        const std::string body = request.substr(request.find("\r\n\r\n") + 4);
        const std::string id = header_of(request, "webhook-id");
        const auto genuine = Secrets::parse(kSecret)->verify(
            id, header_of(request, "webhook-timestamp"), signed_request(method, target, body),
            header_of(request, "webhook-signature"), clock.now());
        if (!genuine || !ids.insert(id).second) return {"403 Forbidden", "", ""};
        if (before_write) before_write();
        if (header_of(request, "If-Match") != std::to_string(set.revision)) {
            return {"412 Precondition Failed", "", ""};
        }
        const auto about = Tag::parse(target.substr(std::string("/keel/holds/").size()));
        if (!about) return {"400 Bad Request", "", ""};
        writes.push_back(method + " " + about->name);
        if (read_only) {
            return {"503 Service Unavailable", "",
                    R"({"error":{"code":"disk","text":"the disk is full"}})"};
        }
        ++set.revision;
        if (method == "DELETE") {
            const bool was = set.remove(*about);
            return {was ? "200 OK" : "404 Not Found", "", "{}"};
        }
        const Json root = parse_json(body);
        Hold hold;
        hold.tag = *about;
        hold.digest = *Digest::parse(text_of(root.get(), "digest"));
        hold.author = hold.owner = author;
        hold.reason = text_of(root.get(), "reason");
        hold.since = clock.now();
        hold.until = parse_time(text_of(root.get(), "until"));
        hold.verified = parse_time(text_of(root.get(), "verified"));
        kind = text_of(root.get(), "kind");
        const std::string written = R"({"hold":)" + encode_hold_text(hold) + "}";
        EXPECT_TRUE(set.put(std::move(hold)));
        return swallow ? Reply{"502 Bad Gateway", "", ""} : Reply{"200 OK", "", written};
    }

    // Somebody else's.
    void hold_for(const std::string& owner, const Digest& digest,
                  const std::string& name = "1.27") {
        Hold hold;
        hold.tag = tag(name);
        hold.digest = digest;
        hold.author = hold.owner = owner;
        hold.reason = "theirs";
        EXPECT_TRUE(set.put(std::move(hold)));
        ++set.revision;
    }
    [[nodiscard]] const Hold* held(const std::string& name = "1.27") const {
        return set.find(tag(name));
    }
    // That hold; throws, which fails the test, where there is none.
    [[nodiscard]] const Hold& hold() const {
        const Hold* found = held();
        if (found == nullptr) throw std::runtime_error("the cache holds nothing");
        return *found;
    }

    const Clock& clock;
    std::vector<const Image*> images;
    HoldSet set;
    std::string author = "keeld";
    bool away = false;
    bool lost = false;     // something else is where keel_api was
    bool limited = false;  // the registry behind it has had enough
    bool read_only = false;
    bool swallow = false;  // writes, and does not say so
    std::set<std::string> missing;
    std::set<std::string> garbled;
    std::set<std::string> slow;   // comes byte by byte
    std::set<std::string> stuck;  // comes when `never` is raised
    Signal never;
    std::uint64_t answers = 0, unfetchable = 0, ineffective = 0;
    std::string kind;
    std::vector<std::string> writes;
    std::set<std::string> ids;
    std::function<void()> before_write;
    ScriptedPeer peer;
};

// While it lives nothing can be committed to the database: another process writes.
class Locked {
  public:
    explicit Locked(const std::string& path) {
        EXPECT_EQ(sqlite3_open(path.c_str(), &other_), SQLITE_OK);
        EXPECT_EQ(sqlite3_exec(other_, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
    }
    ~Locked() { sqlite3_close(other_); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

  private:
    sqlite3* other_ = nullptr;
};

class HoldsTest : public testing::Test {
  protected:
    HoldsTest() {
        for (FakeCache* cache : {&a, &b}) {
            cache->images = {&one, &two};
            CacheConfig& made = config.caches.emplace_back();
            made.name = cache == &a ? "cache-a" : "cache-b";
            made.api = cache->peer.url("/keel");
            made.lookup["docker.io"] = cache->peer.url();
            made.secrets = *Secrets::parse(kSecret);
        }
        tags.observe(tag(), one.digest, ManifestKind::index, at(-20), "event cache-a");
        tags.observe(tag(), two.digest, ManifestKind::index, at(-10), "event cache-a");
        start();
    }
    ~HoldsTest() override { end(); }

    // As a new process over the same ledger would.
    void start() {
        end();
        holds = std::make_unique<Holds>(
            Holds::Parts{loop, config, clock, http, *ledger, registry, tags,
                         [this](Tag) -> Task<Expected<Answer>> {
                             if (!upstream) co_return fail("unavailable", "not now");
                             co_return Answer{*upstream, ManifestKind::index, "look-up cache-a"};
                         },
                         [this](const Tag& one) { changed.insert(one.name); }});
        for (const char* name : {"cache-a", "cache-b"}) {
            ++running_;
            asio::co_spawn(loop, holds->run(name),
                           [this](const std::exception_ptr&) { --running_; });
        }
    }
    void end() {
        if (!holds) return;
        holds->stop();
        EXPECT_TRUE(test::run_until(loop, [this] { return running_ == 0; }));
        EXPECT_TRUE(test::await(loop, ledger->durable()));
    }
    bool until(const std::function<bool()>& done) { return test::run_until(loop, done); }
    // Rounds of both caches that begin and end from now on.
    void round() { EXPECT_TRUE(test::await(loop, holds->read_now(tag()))); }
    void look() {
        holds->look("cache-a");
        holds->look("cache-b");
    }

    Holds::Wish wish(const Digest& digest, const std::string& reason = "why not") {
        Holds::Wish made;
        made.id = "action-1";
        made.tag = tag();
        made.digest = digest;
        made.author = "alice";
        made.reason = reason;
        return made;
    }
    // "cache-a held, cache-b incomplete!", an exclamation mark where it was not done.
    static std::string told(const std::vector<Holds::Result>& results) {
        std::string all;
        for (const Holds::Result& result : results) {
            all += (all.empty() ? "" : ", ") + result.cache + (result.cache.empty() ? "" : " ") +
                   result.code + (result.ok ? "" : "!");
        }
        return all;
    }
    std::string set(const Holds::Wish& made) { return told(test::await(loop, holds->set(made))); }
    std::string release() {
        return told(test::await(loop, holds->release(wish(one.digest, "enough"))));
    }
    [[nodiscard]] std::string problems() const {
        std::string all;
        for (const Holds::Trouble& trouble : holds->problems()) {
            all += (all.empty() ? "" : " ") + trouble.code;
        }
        return all;
    }
    std::string history() {
        EXPECT_TRUE(test::await(loop, ledger->durable()));
        std::string all;
        for (const Entry& entry : ledger->entries({})) {
            if (entry.kind != EntryKind::held && entry.kind != EntryKind::released) continue;
            std::string line = entry.code + " by " + entry.cause;
            all.insert(0, all.empty() ? line : line + ", ");
        }
        return all;
    }
    [[nodiscard]] std::optional<Held> pulled() const { return tags.find(tag())->held; }

    Image one{"one"};
    Image two{"two"};
    Loop loop;
    HttpClient http{loop, "keeld/test"};
    test::TestClock clock;
    Config config;
    test::ScratchDirectory scratch;
    std::unique_ptr<Ledger> ledger = test::open_ledger(loop, scratch.file("ledger.db"));
    Registry registry{http, config, *ledger,
                      [this] { return Steady::time_point(clock.time.time_since_epoch()); }};
    Tags tags{*ledger};
    std::set<std::string> changed;
    std::optional<Digest> upstream;  // what a look-up finds; nullopt: nobody answers
    std::unique_ptr<Holds> holds;
    // Last: while they end, checks that `holds` began still run.
    FakeCache a{loop, clock};
    FakeCache b{loop, clock};

  private:
    int running_ = 0;
};

TEST_F(HoldsTest, a_hold_is_set_in_every_cache_once_it_is_complete_there) {
    bool noted_first = false;
    a.before_write = [&] {
        noted_first =
            ledger->queued() == 0 && ledger->placed().size() >= 1 && ledger->holds().size() == 1;
    };
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    EXPECT_TRUE(noted_first);
    for (const FakeCache* cache : {&a, &b}) {
        ASSERT_NE(cache->held(), nullptr);
        EXPECT_EQ(cache->hold().digest, one.digest);
        EXPECT_EQ(cache->hold().reason, "why not");
        EXPECT_EQ(cache->hold().until, std::nullopt);
        EXPECT_EQ(cache->hold().verified, clock.time);
        EXPECT_EQ(cache->kind, "index");
        for (const auto& [digest, body] : one.parts) {
            EXPECT_TRUE(std::ranges::any_of(cache->peer.asked, [&](const std::string& line) {
                return line.starts_with("GET ") && line.find(digest) != std::string::npos;
            })) << digest;
        }
    }
    EXPECT_EQ(problems(), "");
    EXPECT_EQ(history(), "set by alice, placed by cache-a, placed by cache-b");
    ASSERT_TRUE(pulled());
    EXPECT_EQ(pulled().value().digest, one.digest);
    EXPECT_EQ(pulled().value().author, "alice");
    EXPECT_TRUE(pulled().value().everywhere);
    EXPECT_EQ(pulled().value().caches, "cache-a, cache-b");
    EXPECT_EQ(tags.find(tag())->pulled(), one.digest);
    EXPECT_EQ(tags.find(tag())->current, two.digest);
    EXPECT_TRUE(changed.contains("1.27"));
}

TEST_F(HoldsTest, without_a_digest_it_is_what_the_tag_answers_now) {
    Holds::Wish made = wish(one.digest);
    made.digest.reset();
    // What it answered when it was last asked is not what it answers now.
    EXPECT_EQ(set(made), "no-answer!");
    EXPECT_EQ(a.held(), nullptr);
    upstream = one.digest;
    EXPECT_EQ(set(made), "cache-a held, cache-b held");
    EXPECT_EQ(a.hold().digest, one.digest);
}

TEST_F(HoldsTest, an_incomplete_digest_is_not_held) {
    for (const std::string& part : {one.layers_of[1], one.single, one.digest.to_string()}) {
        a.missing = b.missing = {part};
        EXPECT_EQ(set(wish(one.digest)), "cache-a incomplete!, cache-b incomplete!") << part;
    }
    a.missing = b.missing = {};
    a.garbled = b.garbled = {one.single};
    EXPECT_EQ(set(wish(one.digest)), "cache-a incomplete!, cache-b incomplete!");
    a.garbled = b.garbled = {one.layers_of[0]};
    EXPECT_EQ(set(wish(one.digest)), "cache-a incomplete!, cache-b incomplete!");
    look();
    round();
    EXPECT_TRUE(a.writes.empty() && b.writes.empty());
    EXPECT_TRUE(ledger->holds().empty());
    EXPECT_EQ(history(), "");
    EXPECT_EQ(release(), "not-held!");
}

TEST_F(HoldsTest, where_it_is_incomplete_only_the_others_hold_it) {
    b.missing = {one.layers_of[0]};
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b incomplete!");
    EXPECT_EQ(b.held(), nullptr);
    EXPECT_EQ(problems(), "hold-not-set");
    EXPECT_FALSE(pulled().value().everywhere);
    EXPECT_NE(pulled().value().caches.find("cache-b does not hold it"), std::string::npos);
    // It is looked at again, and then held there too.
    b.missing = {};
    clock.time += std::chrono::minutes(16);
    look();
    EXPECT_TRUE(until([this] { return b.held() != nullptr; }));
    EXPECT_TRUE(until([this] { return problems().empty(); }));
    EXPECT_TRUE(pulled().value().everywhere);
}

TEST_F(HoldsTest, what_is_refused_says_nothing_of_the_hold_in_force) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    a.missing = b.missing = {two.layers_of[0]};
    EXPECT_EQ(set(wish(two.digest)), "cache-a incomplete!, cache-b incomplete!");
    EXPECT_EQ(problems(), "");
    const auto views = holds->all();
    ASSERT_EQ(views.size(), 1U);
    EXPECT_EQ(views[0].caches.at(0).verified, clock.time);
}

TEST_F(HoldsTest, force_sets_it_at_once_and_marks_it) {
    a.missing = b.missing = {one.layers_of[0]};
    Holds::Wish made = wish(one.digest);
    made.force = true;
    EXPECT_EQ(set(made), "cache-a held, cache-b held");
    EXPECT_EQ(a.hold().verified, std::nullopt);
    EXPECT_TRUE(until([this] { return problems() == "hold-incomplete hold-incomplete"; }))
        << problems();
    a.missing = b.missing = {};
    clock.time += std::chrono::minutes(16);
    look();
    EXPECT_TRUE(until([this] { return a.hold().verified && b.hold().verified; }));
    EXPECT_EQ(problems(), "");
}

TEST_F(HoldsTest, d6_a_registry_that_has_had_enough_is_left_alone) {
    a.limited = b.limited = true;
    Holds::Wish made = wish(one.digest);
    made.force = true;
    EXPECT_EQ(set(made), "cache-a held, cache-b held");
    EXPECT_TRUE(until([this] { return problems() == "hold-incomplete hold-incomplete"; }))
        << problems();
    EXPECT_NE(holds->problems().at(0).text.find("Retry-After: 3600"), std::string::npos);
    EXPECT_NE(holds->problems().at(0).next.find("again " + format_time(at(3600))),
              std::string::npos);
    for (const int minutes : {0, 16, 43}) {
        clock.time += std::chrono::minutes(minutes);
        look();
        round();
        round();
    }
    EXPECT_EQ(
        std::ranges::count_if(a.peer.asked,
                              [](const std::string& line) { return line.starts_with("GET /v2/"); }),
        1);
    a.limited = b.limited = false;
    clock.time += std::chrono::minutes(2);
    look();
    EXPECT_TRUE(until([this] { return a.hold().verified && b.hold().verified; }));
}

TEST_F(HoldsTest, what_came_before_the_time_was_over_need_not_come_again) {
    const auto fetched = std::make_shared<Fetched>();
    a.stuck = {one.layers_of[0]};
    const auto check = [&](Millis time) {
        return test::await(
            loop, check_complete(loop, registry, "cache-a", tag(), one.digest, fetched, time));
    };
    const auto late = check(Millis{700});
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code, "too-long") << late.error().text;
    EXPECT_EQ(fetched->blobs.size(), 3U);
    a.stuck = {};
    a.missing.insert(one.layers_of[1]);
    const auto whole = check(Millis{10'000});
    ASSERT_TRUE(whole) << whole.error().text;
    EXPECT_EQ(whole->blobs, 4U);
    a.never.notify();
}

TEST_F(HoldsTest, a_blob_may_take_as_long_as_it_moves) {
    const auto check = [&](Millis silence) {
        const auto fetched = std::make_shared<Fetched>();
        return test::await(loop, check_complete(loop, registry, "cache-a", tag(), one.digest,
                                                fetched, Millis{15'000}, silence));
    };
    a.slow = {one.layers_of[0]};
    const Steady::time_point began = Steady::now();
    const auto moving = check(Millis{1'000});
    ASSERT_TRUE(moving) << moving.error().text;
    EXPECT_EQ(moving->blobs, 4U);
    EXPECT_GT(Steady::now() - began, Millis{1'000}) << "longer than it may be silent";
    a.slow = {};
    a.stuck = {one.layers_of[0]};
    const auto silent = check(Millis{300});
    ASSERT_FALSE(silent);
    EXPECT_EQ(silent.error().code, "timeout") << silent.error().text;
    EXPECT_NE(silent.error().text.find("nothing came for"), std::string::npos)
        << silent.error().text;
    a.never.notify();
}

TEST_F(HoldsTest, one_platform_for_a_tag_that_answers_an_index_takes_force) {
    Holds::Wish made = wish(*Digest::parse(one.single));
    EXPECT_EQ(set(made), "single-platform!");
    EXPECT_TRUE(ledger->holds().empty());
    made.force = true;
    EXPECT_EQ(set(made), "cache-a held, cache-b held");
}

TEST_F(HoldsTest, a_dry_run_changes_nothing) {
    b.missing = {one.layers_of[0]};
    Holds::Wish made = wish(one.digest);
    made.dry_run = true;
    EXPECT_EQ(set(made), "cache-a would-hold, cache-b incomplete!");
    EXPECT_TRUE(a.writes.empty() && ledger->holds().empty());
    b.missing = {};
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    EXPECT_EQ(told(test::await(loop, holds->release(made))),
              "cache-a would-release, cache-b would-release");
    EXPECT_NE(a.held(), nullptr);
}

TEST_F(HoldsTest, a_cache_that_is_away_gets_it_when_it_is_back) {
    b.away = true;
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b away!");
    EXPECT_EQ(problems(), "hold-not-set");
    b.away = false;
    clock.time += std::chrono::seconds(61);
    look();
    EXPECT_TRUE(until([this] { return b.held() != nullptr; }));
    // And loses it there when it was away while that was released.
    b.away = true;
    EXPECT_EQ(release(), "cache-a released, cache-b away!");
    EXPECT_EQ(problems(), "hold-not-lifted");
    b.away = false;
    look();
    EXPECT_TRUE(until([this] { return b.held() == nullptr; }));
    EXPECT_TRUE(until([this] { return problems().empty() && !pulled(); }));
    EXPECT_TRUE(test::await(loop, ledger->durable()));
    EXPECT_TRUE(ledger->placed().empty());
    EXPECT_EQ(release(), "not-held!");
}

TEST_F(HoldsTest, a_revision_that_has_moved_is_met_by_another_look) {
    int times = 0;
    a.before_write = [&] { a.set.revision += times++ < 2 ? 1 : 0; };
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    EXPECT_EQ(times, 3);
    EXPECT_EQ(a.writes.size(), 1U);
}

TEST_F(HoldsTest, a_cache_of_other_registries_is_not_asked) {
    config.caches[1].lookup = {{"ghcr.io", b.peer.url()}};
    start();
    EXPECT_EQ(set(wish(one.digest)), "cache-a held");
    EXPECT_EQ(problems(), "");
    EXPECT_TRUE(pulled().value().everywhere);
    EXPECT_EQ(release(), "cache-a released");
    config.caches[0].lookup = config.caches[1].lookup;
    start();
    EXPECT_EQ(set(wish(one.digest)), "no-caches!");
    EXPECT_TRUE(b.writes.empty());
}

// Who pulls through it would not get the held digest.
TEST_F(HoldsTest, a_cache_without_a_lookup_path_is_one_that_serves_the_tag) {
    config.caches[1].lookup.clear();
    start();
    const auto results = test::await(loop, holds->set(wish(one.digest)));
    EXPECT_EQ(told(results), "cache-a held, cache-b incomplete!");
    EXPECT_NE(results.at(1).text.find("--force"), std::string::npos) << results.at(1).text;
    EXPECT_FALSE(pulled().value().everywhere);
    EXPECT_NE(pulled().value().caches.find("cache-b does not hold it"), std::string::npos);
    Holds::Wish made = wish(one.digest);
    made.force = true;
    EXPECT_EQ(set(made), "cache-a held, cache-b held");
    EXPECT_TRUE(pulled().value().everywhere);
    EXPECT_EQ(release(), "cache-a released, cache-b released");
    b.hold_for("somebody", one.digest);
    round();
    ASSERT_TRUE(pulled());
    EXPECT_FALSE(pulled().value().everywhere);
}

TEST_F(HoldsTest, what_a_cache_refuses_is_told_and_tried_again) {
    b.read_only = true;
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b refused!");
    EXPECT_NE(holds->problems().at(0).text.find("the disk is full"), std::string::npos);
    b.read_only = false;
    look();
    EXPECT_TRUE(until([this] { return b.held() != nullptr && problems().empty(); }));
}

TEST_F(HoldsTest, without_a_secret_nothing_can_be_written) {
    config.caches[1].secrets.reset();
    start();
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b refused!");
    EXPECT_NE(holds->problems().at(0).text.find("caches[].secret"), std::string::npos);
}

TEST_F(HoldsTest, the_holds_of_others_are_listed_and_never_changed) {
    a.hold_for("somebody", two.digest);
    a.hold_for("somebody", two.digest, "other");
    EXPECT_EQ(set(wish(one.digest)), "cache-a foreign!, cache-b held");
    EXPECT_EQ(a.hold().digest, two.digest);
    EXPECT_FALSE(pulled().value().everywhere);
    EXPECT_EQ(pulled().value().digest, one.digest);
    EXPECT_EQ(holds->all().size(), 3U);
    EXPECT_EQ(release(), "cache-a foreign!, cache-b released");
    EXPECT_EQ(a.hold().owner, "somebody");
    EXPECT_NE(a.held("other"), nullptr);
    EXPECT_TRUE(a.writes.empty());
    EXPECT_EQ(holds->all().size(), 2U);
    EXPECT_EQ(holds->all().at(0).owner, "somebody");
    EXPECT_FALSE(holds->all().at(0).own);
    // Another keeld that signs with the very same secret is somebody else too.
    a.hold_for("keeld", two.digest);
    EXPECT_EQ(release(), "cache-a foreign!");
    EXPECT_TRUE(a.writes.empty());
}

TEST_F(HoldsTest, what_somebody_else_has_replaced_is_no_longer_ours) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    a.hold_for("somebody", two.digest);
    EXPECT_EQ(release(), "cache-a foreign!, cache-b released");
    EXPECT_EQ(a.hold().owner, "somebody");
}

TEST_F(HoldsTest, killed_before_the_answer_it_still_knows_its_own) {
    // The cache has written; neither its answer nor a later look reached anybody.
    a.swallow = b.swallow = true;
    a.before_write = [this] { a.away = true; };
    b.before_write = [this] { b.away = true; };
    const std::string results = set(wish(one.digest));
    EXPECT_EQ(results, "cache-a away!, cache-b away!");
    ASSERT_NE(a.held(), nullptr);
    end();
    for (const PlacedRow& row : ledger->placed())
        EXPECT_EQ(row.owner, "");
    a.away = b.away = a.swallow = b.swallow = false;
    a.before_write = b.before_write = nullptr;
    start();
    EXPECT_EQ(release(), "cache-a released, cache-b released");
    EXPECT_EQ(a.held(), nullptr);
}

TEST_F(HoldsTest, what_is_wanted_next_does_not_hide_what_was_sent) {
    a.swallow = b.swallow = true;
    a.before_write = [this] { a.away = true; };
    b.before_write = [this] { b.away = true; };
    EXPECT_EQ(set(wish(one.digest)), "cache-a away!, cache-b away!");
    ASSERT_NE(a.held(), nullptr);
    Holds::Wish made = wish(one.digest, "other words");
    made.until = at(3600);
    made.force = true;
    EXPECT_EQ(set(made), "cache-a away!, cache-b away!");
    EXPECT_EQ(a.hold().reason, "why not");
    a.away = b.away = a.swallow = b.swallow = false;
    a.before_write = b.before_write = nullptr;
    start();
    EXPECT_TRUE(until(
        [this] { return a.hold().reason == "other words" && b.hold().reason == "other words"; }));
    EXPECT_EQ(a.hold().until, made.until);
    EXPECT_TRUE(until([this] { return problems().empty(); })) << problems();
    EXPECT_EQ(release(), "cache-a released, cache-b released");
}

TEST_F(HoldsTest, the_answer_to_a_write_tells_whose_it_is) {
    b.away = true;
    a.before_write = [this] { a.lost = true; };  // no list is read afterwards
    EXPECT_EQ(set(wish(one.digest)), "cache-a away!, cache-b away!");
    end();
    ASSERT_EQ(ledger->placed().size(), 1U);
    EXPECT_EQ(ledger->placed()[0].owner, "keeld");
}

TEST_F(HoldsTest, killed_between_the_note_and_the_write_it_goes_on) {
    HoldRow row;
    row.tag = tag().to_string();
    row.digest = one.digest.to_string();
    row.author = "alice";
    row.reason = "noted";
    row.since = clock.time;
    ledger->put(row);
    ledger->put(PlacedRow{"cache-a", row.tag, row.digest, "", clock.time, row.reason, {}});
    end();
    start();
    EXPECT_TRUE(until([this] { return a.held() != nullptr && b.held() != nullptr; }));
    EXPECT_TRUE(until([this] { return problems().empty(); }));
}

TEST_F(HoldsTest, a_cache_that_forgot_is_told_again) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    const std::size_t asked = a.peer.asked.size();
    a.set = HoldSet{};
    look();
    EXPECT_TRUE(until([this] { return a.held() != nullptr; }));
    EXPECT_EQ(a.hold().verified, clock.time);
    // It was found complete a moment ago.
    for (std::size_t i = asked; i < a.peer.asked.size(); ++i)
        EXPECT_EQ(a.peer.asked[i].find("/v2/"), std::string::npos) << a.peer.asked[i];
}

TEST_F(HoldsTest, d8_an_answer_404_is_not_a_cache_without_holds) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    a.lost = true;
    const auto read = test::await(loop, holds->read_now(tag()));
    ASSERT_FALSE(read);
    EXPECT_NE(read.error().text.find("404"), std::string::npos) << read.error().text;
    EXPECT_EQ(problems(), "hold-not-set");
    ASSERT_TRUE(pulled());
    EXPECT_TRUE(pulled().value().everywhere);
    EXPECT_EQ(a.writes.size(), 1U);
}

TEST_F(HoldsTest, it_ends_by_itself) {
    Holds::Wish made = wish(one.digest);
    made.until = at(3600);
    EXPECT_EQ(set(made), "cache-a held, cache-b held");
    EXPECT_EQ(a.hold().until, made.until);
    EXPECT_EQ(problems(), "");  // it was never meant to last a day
    clock.time = at(3601);
    look();
    EXPECT_TRUE(until([this] { return a.held() == nullptr && b.held() == nullptr; }));
    EXPECT_TRUE(until([this] { return !pulled() && holds->all().empty(); }));
    EXPECT_EQ(release(), "not-held!");
    const std::string told = history();
    EXPECT_NE(told.find("expired by keeld"), std::string::npos) << told;
}

TEST_F(HoldsTest, it_ends_also_where_the_cache_is_away) {
    Holds::Wish made = wish(one.digest);
    made.until = at(3600);
    EXPECT_EQ(set(made), "cache-a held, cache-b held");
    a.hold_for("somebody", one.digest, "other");
    a.set.holds.back().until = at(1800);
    round();
    ASSERT_TRUE(tags.find(tag("other"))->held);
    a.away = b.away = true;
    clock.time = at(1800);
    look();
    EXPECT_TRUE(until([this] { return !tags.find(tag("other"))->held; }));
    EXPECT_TRUE(pulled());
    clock.time = at(3600);
    look();
    EXPECT_TRUE(until([this] { return !pulled(); }));
}

TEST_F(HoldsTest, its_end_is_announced_a_day_before) {
    Holds::Wish made = wish(one.digest);
    made.until = at(3600 * 72);
    EXPECT_EQ(set(made), "cache-a held, cache-b held");
    EXPECT_EQ(problems(), "");
    clock.time = at(3600 * 48 + 1);
    EXPECT_EQ(problems(), "hold-expiring");
}

TEST_F(HoldsTest, completeness_is_looked_at_again_every_six_hours) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    clock.time += std::chrono::hours(5);
    look();
    round();
    EXPECT_EQ(a.hold().verified, at(0));
    clock.time += std::chrono::hours(1);
    look();
    EXPECT_TRUE(until(
        [this] { return a.hold().verified == clock.time && b.hold().verified == clock.time; }));
    a.missing = {one.layers_of[0]};
    clock.time += std::chrono::hours(6);
    look();
    EXPECT_TRUE(until([this] { return problems() == "hold-incomplete"; })) << problems();
    EXPECT_NE(a.held(), nullptr);
    EXPECT_EQ(a.hold().verified, at(6 * 3600));
}

TEST_F(HoldsTest, answers_that_fail_under_a_hold_are_told_until_one_goes_well) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    a.unfetchable = 1;
    look();
    EXPECT_TRUE(until([this] { return problems() == "hold-unfetchable"; })) << problems();
    a.answers = 1;
    look();
    EXPECT_TRUE(until([this] { return problems().empty(); })) << problems();
    a.ineffective = 4;
    look();
    EXPECT_TRUE(until([this] { return problems() == "hold-ineffective"; })) << problems();
    EXPECT_NE(history().find("ineffective by cache-a"), std::string::npos);
}

TEST_F(HoldsTest, what_was_counted_before_a_restart_is_no_news) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    a.answers = 7;
    a.unfetchable = a.ineffective = 2;
    start();
    round();
    EXPECT_EQ(problems(), "");
    a.unfetchable = 3;
    look();
    EXPECT_TRUE(until([this] { return problems() == "hold-unfetchable"; })) << problems();
}

TEST_F(HoldsTest, another_digest_takes_the_place_of_the_first) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    EXPECT_EQ(set(wish(two.digest, "better")), "cache-a held, cache-b held");
    EXPECT_EQ(a.hold().digest, two.digest);
    EXPECT_EQ(set(wish(two.digest, "other words")), "cache-a held, cache-b held");
    EXPECT_EQ(b.hold().reason, "other words");
    EXPECT_EQ(ledger->holds().size(), 1U);
    EXPECT_NE(history().find("changed by alice"), std::string::npos);
}

TEST_F(HoldsTest, a_hold_that_cannot_be_noted_is_none_then_or_later) {
    {
        const Locked locked(scratch.file("ledger.db"));
        EXPECT_EQ(set(wish(one.digest)), "ledger!");
        EXPECT_TRUE(holds->all().empty());
        round();
        round();
    }
    EXPECT_EQ(history(), "");
    start();
    round();
    round();
    EXPECT_TRUE(holds->all().empty());
    EXPECT_FALSE(pulled());
    EXPECT_TRUE(a.writes.empty());
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
}

TEST_F(HoldsTest, a_hold_that_cannot_be_noted_leaves_the_one_before) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    {
        const Locked locked(scratch.file("ledger.db"));
        EXPECT_EQ(set(wish(two.digest)), "ledger!");
        EXPECT_EQ(release(), "ledger!");
        round();
        round();
        EXPECT_EQ(a.hold().digest, one.digest);
        EXPECT_EQ(holds->all().front().hold.lifted, Time{});
    }
    EXPECT_EQ(history().find("changed"), std::string::npos);
    EXPECT_EQ(history().find("lifted"), std::string::npos);
    start();
    round();
    round();
    EXPECT_EQ(a.hold().digest, one.digest);
    EXPECT_EQ(pulled().value().digest, one.digest);
    EXPECT_EQ(release(), "cache-a released, cache-b released");
}

TEST_F(HoldsTest, what_cannot_be_noted_is_not_sent) {
    a.away = true;
    EXPECT_EQ(set(wish(one.digest)), "cache-a away!, cache-b held");
    a.away = false;
    {
        const Locked locked(scratch.file("ledger.db"));
        clock.time += std::chrono::minutes(1);
        look();
        EXPECT_TRUE(
            until([this] { return holds->all().front().caches.front().state == "refused"; }));
        EXPECT_TRUE(a.writes.empty());
        EXPECT_EQ(ledger->placed().size(), 1U);
    }
    look();
    EXPECT_TRUE(until([this] { return a.held() != nullptr; }));
    EXPECT_EQ(release(), "cache-a released, cache-b released") << "it knows it for its own";
}

TEST_F(HoldsTest, two_that_change_a_hold_at_once_take_turns) {
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    std::vector<std::string> results;
    const auto act = [&](Task<std::vector<Holds::Result>> task) {
        asio::co_spawn(loop, std::move(task),
                       [&](const std::exception_ptr&, const std::vector<Holds::Result>& all) {
                           results.push_back(told(all));
                       });
    };
    Holds::Wish forced = wish(two.digest, "better");
    forced.force = true;
    act(holds->release(wish(one.digest, "enough")));
    act(holds->set(forced));
    EXPECT_TRUE(until([&] { return results.size() == 2; }));
    EXPECT_EQ(a.hold().digest, two.digest);
    EXPECT_NE(history().find("lifted by alice, set by alice"), std::string::npos) << history();
}

TEST_F(HoldsTest, the_caches_holds_are_known_once_all_that_serve_the_tag_were_read) {
    b.away = true;
    start();
    round();
    EXPECT_FALSE(holds->known(tag()));
    b.away = false;
    look();
    EXPECT_TRUE(until([this] { return holds->known(tag()); }));
    b.away = true;
    round();
    EXPECT_TRUE(holds->known(tag()));
}

TEST_F(HoldsTest, what_a_pull_gets_is_read_when_it_is_asked_for) {
    round();
    EXPECT_FALSE(pulled());
    a.hold_for("somebody", one.digest);
    b.hold_for("somebody", one.digest);
    round();
    ASSERT_TRUE(pulled());
    EXPECT_EQ(pulled().value().digest, one.digest);
    EXPECT_EQ(pulled().value().author, "somebody");
    b.away = true;  // look-ups go through cache-a
    round();
    a.away = true;
    EXPECT_FALSE(test::await(loop, holds->read_now(tag())));
}

TEST_F(HoldsTest, a_hold_that_came_or_went_is_remembered) {
    const Time set_at = clock.time;
    EXPECT_EQ(set(wish(one.digest)), "cache-a held, cache-b held");
    EXPECT_EQ(tags.find(tag())->held_at, set_at);
    clock.time = at(100);
    start();  // another process: that is not another hold
    round();
    EXPECT_EQ(tags.find(tag())->held_at, set_at);
    EXPECT_EQ(release(), "cache-a released, cache-b released");
    EXPECT_EQ(tags.find(tag())->held_at, at(100));
    EXPECT_TRUE(test::await(loop, ledger->durable()));
    EXPECT_EQ(Tags(*ledger).find(tag())->held_at, at(100));
}

}  // namespace
}  // namespace keel
