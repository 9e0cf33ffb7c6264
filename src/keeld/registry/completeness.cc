#include "keeld/registry/completeness.h"

#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "keeld/registry/manifest_parts.h"
#include "keeld/signal.h"
#include "keeld/spawn.h"

namespace keel {
namespace {

using Part = ManifestPart;

constexpr int kConcurrent = 4;
// A registry proxy that is asked for the same by several at once may fail some of them.
constexpr int kTries = 3;
constexpr auto kPause = std::chrono::milliseconds(500);

// One check under way, shared by the coroutines that fetch its blobs.
struct Check {
    Check(Loop& the_loop, Registry& the_registry) : loop(the_loop), registry(the_registry) {}

    Loop& loop;
    Registry& registry;
    RegistryPath path;
    Tag tag;
    std::shared_ptr<Fetched> fetched;
    Steady::time_point deadline;
    Millis silence{0};
    Complete found;
    std::set<Digest> known;
    std::deque<Part> manifests;
    std::deque<Part> blobs;
    std::optional<Error> error;  // the first
    int running = 0;
    Signal ended{loop};  // one of them

    [[nodiscard]] Millis left() const {
        const auto rest = std::chrono::duration_cast<Millis>(deadline - Steady::now());
        return std::max(rest, Millis{1});
    }
    void complain(Error what) {
        if (!error) {
            error = std::move(what);
        }
    }
};

// What a status other than 200 means here: that a part is missing, or that nobody could be asked.
Error refusal(const HttpResponse& response, const std::string& where) {
    Error why = registry_refusal(response, where);
    if (why.code == "not-found" || why.code == "denied") {
        why.code = "incomplete";
    }
    return why;
}

std::string name_of(const Check& check, const Part& part) {
    return check.tag.registry + "/" + check.tag.repository + "@" + part.digest.to_string();
}

// Those that are not known yet.
void add(Check& check, std::deque<Part>& to, const std::vector<Part>& parts) {
    for (const Part& part : parts) {
        if (check.known.insert(part.digest).second) {
            to.push_back(part);
        }
    }
}

// What a manifest is made of, noted as still to be fetched.
void add_parts(Check& check, ManifestKind kind, std::string_view body, const std::string& where) {
    const Expected<ManifestParts> parts = parts_of_manifest(kind, body);
    if (!parts) {
        check.complain(Error{parts.error().code, where + ": " + parts.error().text});
        return;
    }
    add(check, check.manifests, parts->manifests);
    add(check, check.blobs, parts->blobs);
}

// GET of one part, tried again where nobody could be asked. Not with a status but 200.
Task<Expected<HttpResponse>> fetch(std::shared_ptr<Check> check, std::string rest,
                                   std::function<bool(std::string_view)> on_data,
                                   std::string where) {
    Error last;
    for (int tried = 0; tried < kTries; ++tried) {
        if (tried > 0) {
            co_await pause_for(check->loop, kPause * tried);
        }
        RegistryPath path = check->path;
        RegistryQuestion question;
        question.repository = check->tag.repository;
        question.rest = rest;
        question.on_data = on_data;
        question.timeout = check->left();
        question.idle_timeout = check->silence;
        Expected<HttpResponse> response =
            co_await check->registry.ask(std::move(path), std::move(question));
        if (!response) {
            last = response.error();
            last.text = where + ": " + last.text;
            if (last.code == "timeout" && check->left() < kPause) {
                last = Error{"too-long", where + ": the time was over before all of it had come; " +
                                             std::to_string(check->fetched->blobs.size()) +
                                             " blobs need not come again"};
            }
            break;  // the cache itself is away; what was cut off shows in its size
        }
        if (response->status == 200) {
            co_return response;
        }
        last = refusal(*response, where);
        if (last.code != "unavailable") {
            break;
        }
    }
    co_return tl::unexpected<Error>(last);
}

Task<void> fetch_manifest(std::shared_ptr<Check> check, Part part) {
    std::string where = "the manifest " + name_of(*check, part);
    std::string name = where;
    std::string rest = "manifests/" + part.digest.to_string();
    std::function<bool(std::string_view)> whole;
    const Expected<HttpResponse> response =
        co_await fetch(check, std::move(rest), std::move(whole), std::move(name));
    if (!response) {
        check->complain(response.error());
        co_return;
    }
    if (digest_of(part.digest.algorithm(), response->body) != part.digest) {
        check->complain(Error{"incomplete", where + " came with another content"});
        co_return;
    }
    const ManifestKind kind = manifest_kind(response->header("content-type"));
    if (kind != ManifestKind::index && kind != ManifestKind::image) {
        check->complain(Error{"incomplete", where + " has the type " +
                                                std::string(response->header("content-type"))});
        co_return;
    }
    if (++check->found.manifests == 1) {
        check->found.kind = kind;
    }
    add_parts(*check, kind, response->body, where);
}

Task<void> fetch_blob(std::shared_ptr<Check> check, Part part) {
    if (check->fetched->blobs.contains(part.digest)) {
        ++check->found.blobs;
        co_return;
    }
    std::string where = "the blob " + name_of(*check, part);
    std::string name = where;
    std::string rest = "blobs/" + part.digest.to_string();
    const auto bytes = std::make_shared<std::int64_t>(0);
    std::function<bool(std::string_view)> drop = [bytes](std::string_view piece) {
        *bytes += static_cast<std::int64_t>(piece.size());
        return true;
    };
    const Expected<HttpResponse> response =
        co_await fetch(check, std::move(rest), std::move(drop), std::move(name));
    if (!response) {
        check->complain(response.error());
    } else if (part.size != kAnySize && *bytes != part.size) {
        check->complain(Error{"incomplete", where + " came with " + std::to_string(*bytes) +
                                                " bytes of " + std::to_string(part.size)});
    } else {
        ++check->found.blobs;
        check->fetched->blobs.insert(part.digest);
    }
}

// Takes one blob after the other until none is left.
Task<void> fetch_blobs(std::shared_ptr<Check> check) {
    while (!check->blobs.empty() && !check->error) {
        const Part part = check->blobs.front();
        check->blobs.pop_front();
        co_await fetch_blob(check, part);
    }
    --check->running;
    check->ended.notify();
}

}  // namespace

Task<Expected<Complete>> check_complete(Loop& loop, Registry& registry, std::string cache, Tag tag,
                                        Digest digest, std::shared_ptr<Fetched> fetched,
                                        Millis time, Millis silence) {
    Expected<RegistryPath> path = registry.path_through(cache, tag.registry);
    if (!path) {
        co_return tl::unexpected<Error>(path.error());
    }
    const auto check = std::make_shared<Check>(loop, registry);
    check->path = std::move(*path);
    check->tag = std::move(tag);
    check->fetched = std::move(fetched);
    check->deadline = Steady::now() + time;
    check->silence = silence;
    check->known.insert(digest);
    check->manifests.push_back(Part{digest, kAnySize});
    while (!check->manifests.empty() && !check->error) {
        const Part part = check->manifests.front();
        check->manifests.pop_front();
        co_await fetch_manifest(check, part);
    }
    check->running = check->error ? 0 : kConcurrent;
    for (int i = 0; i < check->running; ++i) {
        keel::spawn(loop, fetch_blobs(check));
    }
    while (check->running > 0) {
        co_await check->ended.wait_until(Steady::time_point::max());
    }
    if (check->error) {
        co_return tl::unexpected<Error>(*check->error);
    }
    co_return check->found;
}

}  // namespace keel
