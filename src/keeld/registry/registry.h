// Questions to registries: through a cache as a pull would ask, or a second source directly.
#pragma once

#include <functional>
#include <map>
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
#include "keeld/registry/content.h"
#include "keeld/registry/path.h"

namespace keel {

// What a refusal of a registry means. `where` names what was asked.
[[nodiscard]] Error registry_refusal(int status, const std::string& where,
                                     std::string_view retry_after);

// One fresh, comparable answer about a tag.
struct Answer {
    Digest digest;
    ManifestKind kind = ManifestKind::unknown;
    std::string source;  // "look-up cache-a", "look-up direct", "upstream"
};

struct RegistryMetrics {
    std::uint64_t lookups = 0;
    std::uint64_t failures = 0;
    std::uint64_t upstream = 0;
    std::uint64_t content = 0;
};

class Registry {
  public:
    Registry(HttpClient& http, const Config& config, Ledger& ledger);

    // HEAD of the tag with the full Accept, the way a node's pull goes. Errors: "no-path" (no cache
    // and no direct address for this registry), "held" (the look-up path answers from a hold: a
    // configuration error), "not-found", "denied", "rate-limited", "unavailable", "not-comparable",
    // and HttpClient's. None of them says anything about the tag (D8).
    [[nodiscard]] Task<Expected<Answer>> look_up(Tag tag);

    // Whether a pull of this very digest gets a manifest, by HEAD through the path of look_up().
    // Errors as there.
    [[nodiscard]] Task<Expected<Answer>> look_up_digest(Tag tag, Digest digest);

    // The second source: registries.*.upstream, asked anonymously, token challenge answered.
    // "no-second-source" if none.
    [[nodiscard]] Task<Expected<Answer>> ask_upstream(Tag tag);

    // What `digest` holds; from the ledger where it is known, else fetched by the tag's path and
    // kept. `platforms`: fetch config digests for these only; empty: for all.
    [[nodiscard]] Task<Expected<Content>> content(Tag tag, Digest digest,
                                                  std::vector<std::string> platforms);
    // Only what is known already.
    [[nodiscard]] const Content* known_content(const Digest& digest);

    [[nodiscard]] bool has_second_source(const std::string& registry) const;
    [[nodiscard]] const RegistryMetrics& metrics() const { return metrics_; }

    // The path through one cache. Errors: "no-path".
    [[nodiscard]] Expected<RegistryPath> path_through(const std::string& cache,
                                                      const std::string& registry) const;
    // The cache that look_up() goes through for this registry; empty: none.
    [[nodiscard]] std::string cache_of(const std::string& registry) const;
    // One request for `rest` ("manifests/sha256:…", "blobs/…") of a repository, an anonymous token
    // got where it is asked for. `on_data`: see HttpRequest; such a body may take `timeout`.
    // Errors: HttpClient's; "denied".
    [[nodiscard]] Task<Expected<HttpResponse>> ask(RegistryPath path, std::string method,
                                                   std::string repository, std::string rest,
                                                   std::function<bool(std::string_view)> on_data,
                                                   Millis timeout);

    // Look-up addresses that answered from a hold, and a tag that they did it with: nothing that
    // they say is used, and somebody has to mend the configuration. 25 hours after the last
    // such answer it is forgotten: the tag may not be looked up any more.
    [[nodiscard]] std::map<std::string, std::string> holding_lookups(
        Steady::time_point now = Steady::now()) const;

  private:
    using Path = RegistryPath;
    [[nodiscard]] Expected<Path> path_for(const std::string& registry) const;
    [[nodiscard]] Task<Expected<HttpResponse>> ask_manifest(Path path, std::string method,
                                                            std::string repository,
                                                            std::string reference);
    [[nodiscard]] Task<Expected<HttpResponse>> send(RegistryPath path, HttpRequest request);
    [[nodiscard]] Task<Expected<Answer>> head(Path path, Tag tag, std::string reference);
    void remember(const Content& content);

    HttpClient& http_;
    const Config& config_;
    Ledger& ledger_;
    Authorization authorization_;
    std::map<Digest, Content> contents_;
    RegistryMetrics metrics_;
    // base → tags, and when they were last answered from a hold
    std::map<std::string, std::map<std::string, Steady::time_point>> holding_;
};

}  // namespace keel
