// Questions to registries: through a cache as a pull would ask, or a second source directly.
#pragma once

#include <map>
#include <string>

#include "core/challenge.h"
#include "core/digest.h"
#include "core/expected.h"
#include "core/manifest_request.h"
#include "core/reference.h"
#include "keeld/config.h"
#include "keeld/http/client.h"
#include "keeld/ledger/ledger.h"
#include "keeld/loop.h"
#include "keeld/registry/content.h"

namespace keel {

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

  private:
    struct Path {
        std::string base;    // "http://host:port"
        std::string suffix;  // "?ns=docker.io" or empty
        std::string source;
    };
    [[nodiscard]] Expected<Path> path_for(const std::string& registry) const;
    [[nodiscard]] Task<Expected<HttpResponse>> ask(Path path, std::string method,
                                                   std::string repository, std::string reference);
    [[nodiscard]] Task<Expected<HttpResponse>> ask_with_token(HttpRequest request,
                                                              Challenge challenge);
    [[nodiscard]] Task<Expected<Answer>> head(Path path, Tag tag);
    void remember(const Content& content);

    HttpClient& http_;
    const Config& config_;
    Ledger& ledger_;
    std::map<Digest, Content> contents_;
    RegistryMetrics metrics_;
};

}  // namespace keel
