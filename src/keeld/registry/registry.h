// Questions to registries: through a cache as a pull would ask, or a second source directly.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/digest.h"
#include "core/expected.h"
#include "core/manifest_request.h"
#include "core/reference.h"
#include "keeld/clock.h"
#include "keeld/config.h"
#include "keeld/http/client.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/registry/authorization.h"
#include "keeld/registry/budget.h"
#include "keeld/registry/content.h"
#include "keeld/registry/path.h"
#include "keeld/registry/tag_list.h"

namespace keel {

// One fresh, comparable answer about a tag.
struct Answer {
    Digest digest;
    ManifestKind kind = ManifestKind::unknown;
    std::string source;  // "look-up cache-a", "look-up direct", "upstream"
};

// One request about a repository.
struct RegistryQuestion {
    std::string method = "GET";
    std::string repository;
    std::string rest;  // "manifests/sha256:…", "blobs/…", "tags/list?n=1000"
    HttpHeaders headers;
    std::function<bool(std::string_view)> on_data;  // see HttpRequest
    Millis timeout{15'000};
    Millis idle_timeout{0};  // see HttpRequest
    std::size_t max_body = 4U << 20U;
};

struct RegistryMetrics {
    std::uint64_t lookups = 0;
    std::uint64_t failures = 0;
    std::uint64_t upstream = 0;
    std::uint64_t content = 0;
    std::uint64_t lists = 0;  // of tags
    std::uint64_t pages = 0;  // of them
};

class Registry {
  public:
    // `now`: the monotonic clock of budgets.
    Registry(HttpClient& http, const Config& config, Ledger& ledger, Budget::Now now = Steady::now);

    // HEAD of the tag with the full Accept, the way a node's pull goes; where a registry does not
    // answer that, or without a digest, GET with the body hashed, for a day. Errors: "no-path" (no
    // cache and no direct address for this registry), "held" (the look-up path answers from a
    // hold: a configuration error), "not-found", "denied", "unavailable", "not-comparable",
    // "digest-mismatch" (a body that is not what its header says), Budget's, Authorization's and
    // HttpClient's. None of them says anything about the tag (D8).
    [[nodiscard]] Task<Expected<Answer>> look_up(Tag tag);

    // Whether a pull of this very digest gets a manifest, by HEAD through the path of look_up().
    // Errors as there.
    [[nodiscard]] Task<Expected<Answer>> look_up_digest(Tag tag, Digest digest);

    // The second source: registries.*.upstream, asked anonymously, token challenge answered.
    // "no-second-source" if none.
    [[nodiscard]] Task<Expected<Answer>> ask_upstream(Tag tag);

    // The tags that the repository of the tag has now, by the path of look_up(); bounded in pages,
    // names, bytes and time (TagList::stopped). Errors: "no-path", "not-found", "list-unsupported"
    // (405, 501), "denied", "unavailable", "bad-list", Budget's, Authorization's and HttpClient's,
    // also where only a later page failed: half a list is none.
    [[nodiscard]] Task<Expected<TagList>> list_tags(Tag tag);

    // What `digest` holds; from the ledger where it is known, else fetched by the tag's path and
    // kept. `platforms`: fetch config digests for these only; empty: for all. `with_created`: also
    // when their images were made, from configs of at most 4 MB whose bytes have their digest; that
    // of an image without an index is always read, for it alone names its platform.
    [[nodiscard]] Task<Expected<Content>> content(Tag tag, Digest digest,
                                                  std::vector<std::string> platforms,
                                                  bool with_created = false);
    // Only what is known already.
    [[nodiscard]] const Content* known_content(const Digest& digest);

    // Whose credentials go with questions, and what is known of tokens.
    [[nodiscard]] Authorization& authorization() { return authorization_; }

    [[nodiscard]] bool has_second_source(const std::string& registry) const;
    [[nodiscard]] const RegistryMetrics& metrics() const { return metrics_; }

    // The path through one cache. Errors: "no-path".
    [[nodiscard]] Expected<RegistryPath> path_through(const std::string& cache,
                                                      const std::string& registry) const;
    // Whether there is a way to ask at all. Errors: "no-path", saying what is to be set.
    [[nodiscard]] Expected<void> has_path(const std::string& registry) const;
    // The cache that look_up() goes through for this registry; empty: none.
    [[nodiscard]] std::string cache_of(const std::string& registry) const;
    // One request, authorized where that is asked for. Errors: Budget's, Authorization's,
    // HttpClient's.
    [[nodiscard]] Task<Expected<HttpResponse>> ask(RegistryPath path, RegistryQuestion question);

    // How often each registry is asked.
    [[nodiscard]] Budget& budget() { return budget_; }
    [[nodiscard]] const Budget& budget() const { return budget_; }

    // Look-up addresses that answered from a hold, and a tag that they did it with: nothing that
    // they say is used, and somebody has to mend the configuration. 25 hours after the last
    // such answer it is forgotten: the tag may not be looked up any more.
    [[nodiscard]] std::map<std::string, std::string> holding_lookups(
        Steady::time_point now = Steady::now()) const;

  private:
    using Path = RegistryPath;
    [[nodiscard]] Expected<Path> path_for(const std::string& registry) const;
    [[nodiscard]] Task<Expected<HttpResponse>> get_manifest(Path path, Tag tag, Digest digest);
    [[nodiscard]] Task<Expected<HttpResponse>> send(RegistryPath path, HttpRequest request);
    [[nodiscard]] Task<Expected<Answer>> head(Path path, Tag tag, std::string reference);
    [[nodiscard]] Task<Expected<Answer>> get(Path path, Tag tag, std::string reference);
    [[nodiscard]] Expected<void> not_held(const Path& path, const Tag& tag,
                                          const std::string& reference,
                                          const HttpResponse& response);
    [[nodiscard]] Task<Expected<void>> read_created(Path path, Tag tag, PlatformContent* entry);
    void remember(const Content& content);

    HttpClient& http_;
    const Config& config_;
    Ledger& ledger_;
    Budget budget_;
    Authorization authorization_;
    // What a way answers to HEAD, by registry and base.
    struct Head {
        bool works = false;             // it has answered a tag, so its 404 is one
        Steady::time_point get_until;   // of no use until then: GET is asked instead
        Steady::time_point next_check;  // a 404 is checked by GET again
    };
    std::map<std::string, Head> heads_;
    // What GET was answered with, for a conditional one.
    struct Known {
        std::string etag;
        Answer answer;
    };
    std::map<std::string, Known> known_;  // by registry, base, repository and reference
    std::map<Digest, Content> contents_;
    std::set<Digest> missing_;  // what the ledger does not have either: each verdict asks
    RegistryMetrics metrics_;
    // base → tags, and when they were last answered from a hold
    std::map<std::string, std::map<std::string, Steady::time_point>> holding_;
};

}  // namespace keel
