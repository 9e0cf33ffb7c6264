#include "keeld/registry/registry.h"

#include <algorithm>
#include <utility>

#include "core/challenge.h"
namespace keel {
namespace {

constexpr const char* kAccept =
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
constexpr std::size_t kMaxManifest = 4U << 20U;
constexpr Millis kTimeout{15'000};
constexpr auto kHoldingKept = std::chrono::hours(25);  // a look-up every day keeps it

std::string without_trailing_slash(std::string url) {
    while (!url.empty() && url.back() == '/') {
        url.pop_back();
    }
    return url;
}

}  // namespace

Error registry_refusal(int status, const std::string& url, std::string_view retry_after) {
    const std::string text = url + " answered " + std::to_string(status);
    if (status == 404) {
        return {"not-found",
                text + "; through a cache that may also mean an upstream that refuses or fails"};
    }
    if (status == 401 || status == 403) {
        return {"denied", text};
    }
    if (status == 429) {
        return {"rate-limited",
                text + (retry_after.empty() ? "" : "; Retry-After: " + std::string(retry_after))};
    }
    return {"unavailable", text};
}

Registry::Registry(HttpClient& http, const Config& config, Ledger& ledger)
    : http_(http),
      config_(config),
      ledger_(ledger),
      authorization_([this](RegistryPath path, HttpRequest request) {
          return send(std::move(path), std::move(request));
      }) {}

bool Registry::has_second_source(const std::string& registry) const {
    const auto found = config_.registries.find(registry);
    return found != config_.registries.end() && !found->second.upstream.empty();
}

Expected<Registry::Path> Registry::path_through(const std::string& name,
                                                const std::string& registry) const {
    const auto cache = std::ranges::find(config_.caches, name, &CacheConfig::name);
    if (cache != config_.caches.end()) {
        auto found = cache->lookup.find(registry);
        found = found != cache->lookup.end() ? found : cache->lookup.find("*");
        if (found != cache->lookup.end()) {
            return Path{registry, without_trailing_slash(found->second),
                        "?ns=" + url_encode(registry), "look-up " + name};
        }
    }
    return fail("no-path", "caches[].lookup of " + name + " names no URL for " + registry);
}

Expected<Registry::Path> Registry::path_for(const std::string& registry) const {
    const auto configured = config_.registries.find(registry);
    if (configured != config_.registries.end() && !configured->second.direct.empty()) {
        return Path{registry, without_trailing_slash(configured->second.direct), "",
                    "look-up direct"};
    }
    for (const CacheConfig& cache : config_.caches) {
        if (configured != config_.registries.end() && !configured->second.through.empty() &&
            configured->second.through != cache.name) {
            continue;
        }
        if (Expected<Path> path = path_through(cache.name, registry)) {
            return path;
        }
    }
    return fail("no-path",
                "no cache looks up " + registry + " and registries." + registry +
                    ".direct is not set; add it to caches[].lookup or registries in keeld.yaml");
}

std::string Registry::cache_of(const std::string& registry) const {
    const Expected<Path> path = path_for(registry);
    const std::string name = path ? path->source.substr(path->source.find(' ') + 1) : "";
    const bool known =
        std::ranges::find(config_.caches, name, &CacheConfig::name) != config_.caches.end();
    return known ? name : "";
}

Task<Expected<HttpResponse>> Registry::ask(RegistryPath path, std::string method,
                                           std::string repository, std::string rest,
                                           std::function<bool(std::string_view)> on_data,
                                           Millis timeout) {
    HttpRequest request;
    request.method = std::move(method);
    request.url = path.base + "/v2/" + repository + "/" + rest + path.suffix;
    request.headers.push_back(HttpHeader{"Accept", kAccept});
    request.timeout = timeout;
    request.max_body = kMaxManifest;
    request.follow_redirects = true;
    request.on_data = std::move(on_data);
    HttpRequest again = request;
    Expected<HttpResponse> response = co_await send(path, std::move(request));
    if (!response || response->status != 401) {
        co_return response;
    }
    std::vector<Challenge> challenges = parse_challenges(response->header("www-authenticate"));
    Expected<std::string> header =
        co_await authorization_.answer(path, repository, std::move(challenges));
    if (!header) {
        co_return tl::unexpected<Error>(header.error());
    }
    if (header->empty()) {
        co_return response;
    }
    again.headers.push_back(HttpHeader{"Authorization", std::move(*header)});
    co_return co_await send(std::move(path), std::move(again));
}

Task<Expected<HttpResponse>> Registry::send(RegistryPath path, HttpRequest request) {
    (void)path;
    co_return co_await http_.send(std::move(request));
}

Task<Expected<HttpResponse>> Registry::ask_manifest(Path path, std::string method,
                                                    std::string repository, std::string reference) {
    std::string rest = "manifests/" + reference;
    std::function<bool(std::string_view)> whole;
    co_return co_await ask(std::move(path), std::move(method), std::move(repository),
                           std::move(rest), std::move(whole), kTimeout);
}

Task<Expected<Answer>> Registry::head(Path path, Tag tag, std::string reference) {
    const std::string source = path.source;
    const std::string base = path.base;
    const std::string where = path.base + " (" + tag.to_string() + ")";
    const std::string method = "HEAD";
    const Expected<HttpResponse> response =
        co_await ask_manifest(std::move(path), method, tag.repository, reference);
    if (!response) {
        co_return tl::unexpected<Error>(response.error());
    }
    if (response->status != 200) {
        co_return tl::unexpected<Error>(
            registry_refusal(response->status, where, response->header("retry-after")));
    }
    if (!response->header("x-keel-hold").empty()) {
        const Steady::time_point now = Steady::now();
        auto& tags = holding_[base];
        std::erase_if(tags, [now](const auto& one) { return now - one.second >= kHoldingKept; });
        tags[tag.to_string()] = now;
        co_return fail(
            "held",
            where +
                " answers from a hold; point caches[].lookup at a server block with keel_hold off");
    }
    if (const auto found = holding_.find(base); found != holding_.end() && reference == tag.name) {
        found->second.erase(tag.to_string());
    }
    const auto digest = Digest::parse(response->header("docker-content-digest"));
    const ManifestKind kind = manifest_kind(response->header("content-type"));
    if (!digest || (kind != ManifestKind::index && kind != ManifestKind::image)) {
        co_return fail("not-comparable", where + " answered without a digest, or with the type " +
                                             std::string(response->header("content-type")));
    }
    co_return Answer{*digest, kind, source};
}

Task<Expected<Answer>> Registry::look_up(Tag tag) {
    Expected<Path> path = path_for(tag.registry);
    if (!path) {
        co_return tl::unexpected<Error>(path.error());
    }
    ++metrics_.lookups;
    std::string reference = tag.name;
    Expected<Answer> answer = co_await head(std::move(*path), std::move(tag), std::move(reference));
    metrics_.failures += answer ? 0 : 1;
    co_return answer;
}

Task<Expected<Answer>> Registry::look_up_digest(Tag tag, Digest digest) {
    Expected<Path> path = path_for(tag.registry);
    if (!path) {
        co_return tl::unexpected<Error>(path.error());
    }
    std::string reference = digest.to_string();
    co_return co_await head(std::move(*path), std::move(tag), std::move(reference));
}

std::map<std::string, std::string> Registry::holding_lookups(Steady::time_point now) const {
    std::map<std::string, std::string> all;
    for (const auto& [base, tags] : holding_) {
        for (const auto& [tag, last] : tags) {
            if (now - last < kHoldingKept) {
                all.emplace(base, tag);
            }
        }
    }
    return all;
}

Task<Expected<Answer>> Registry::ask_upstream(Tag tag) {
    if (!has_second_source(tag.registry)) {
        co_return fail("no-second-source", "registries." + tag.registry + ".upstream is not set");
    }
    ++metrics_.upstream;
    Path path{tag.registry, without_trailing_slash(config_.registries.at(tag.registry).upstream),
              "", "upstream"};
    std::string reference = tag.name;
    co_return co_await head(std::move(path), std::move(tag), std::move(reference));
}

const Content* Registry::known_content(const Digest& digest) {
    if (const auto found = contents_.find(digest); found != contents_.end()) {
        return &found->second;
    }
    const std::optional<ContentRow> row = ledger_.content(digest.to_string());
    if (!row) {
        return nullptr;
    }
    Expected<Content> content = Content::from_json(row->json);
    return content ? &contents_.insert_or_assign(digest, std::move(*content)).first->second
                   : nullptr;
}

void Registry::remember(const Content& content) {
    contents_.insert_or_assign(content.digest, content);
    ledger_.put(ContentRow{content.digest.to_string(), content.to_json()});
}

Task<Expected<Content>> Registry::content(Tag tag, Digest digest,
                                          std::vector<std::string> platforms) {
    const auto wanted = [&platforms](const PlatformContent& entry) {
        return entry.config.empty() &&
               (platforms.empty() ||
                std::ranges::find(platforms, entry.platform) != platforms.end());
    };
    Content content;
    if (const Content* known = known_content(digest)) {
        content = *known;
        if (std::ranges::none_of(content.platforms, wanted)) {
            co_return content;
        }
    }
    const Expected<Path> path = path_for(tag.registry);
    if (!path) {
        co_return tl::unexpected<Error>(path.error());
    }
    const std::string method = "GET";
    if (content.digest.empty()) {
        ++metrics_.content;
        const std::string reference = digest.to_string();
        const Expected<HttpResponse> response =
            co_await ask_manifest(*path, method, tag.repository, reference);
        if (!response) {
            co_return tl::unexpected<Error>(response.error());
        }
        if (response->status != 200) {
            const std::string where =
                path->base + " (" + tag.repository + "@" + digest.to_string() + ")";
            co_return tl::unexpected<Error>(registry_refusal(response->status, where, ""));
        }
        Expected<Content> read =
            Content::from_manifest(digest, response->header("content-type"), response->body);
        if (!read) {
            co_return read;
        }
        content = std::move(*read);
    }
    for (PlatformContent& entry : content.platforms) {
        if (!wanted(entry)) {
            continue;
        }
        ++metrics_.content;
        const std::string reference = entry.manifest.to_string();
        const Expected<HttpResponse> response =
            co_await ask_manifest(*path, method, tag.repository, reference);
        if (!response || response->status != 200) {
            continue;  // not every platform of an index is complete in every cache; it stays
                       // unknown
        }
        const Expected<Content> child = Content::from_manifest(
            entry.manifest, response->header("content-type"), response->body);
        if (child && child->kind == ManifestKind::image) {
            entry.config = child->platforms.front().config;
        }
    }
    remember(content);
    co_return content;
}

}  // namespace keel
