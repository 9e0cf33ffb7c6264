#include "keeld/registry/registry.h"

#include <algorithm>
#include <utility>

namespace keel {
namespace {

// Digests that the ledger was asked for in vain; asked again after so many others.
constexpr std::size_t kMissing = 10'000;

constexpr const char* kAccept =
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
constexpr auto kHeadUseless = std::chrono::hours(24);  // GET is asked instead
constexpr auto kHeadDoubt = std::chrono::hours(1);     // between checks of a 404
constexpr std::size_t kMostKnown = 10'000;
constexpr auto kHoldingKept = std::chrono::hours(25);  // a look-up every day keeps it

std::string without_trailing_slash(std::string url) {
    while (!url.empty() && url.back() == '/') {
        url.pop_back();
    }
    return url;
}

Scope scope_of(const HttpRequest& request) {
    const std::size_t manifest = request.url.find("/manifests/sha");
    const bool part =
        request.url.find("/blobs/sha") != std::string::npos ||
        (manifest != std::string::npos && request.url.find(':', manifest) != std::string::npos);
    return part ? Scope::part : Scope::whole;
}

Cost cost_of(const HttpRequest& request) {
    const bool manifest = request.url.find("/manifests/") != std::string::npos;
    return manifest && request.method == "GET" ? Cost::pull : Cost::request;
}

bool is_modern(ManifestKind kind) {
    return kind == ManifestKind::index || kind == ManifestKind::image;
}

std::string key_of(const RegistryPath& path) {
    return path.registry + " " + path.base;
}

}  // namespace

Registry::Registry(HttpClient& http, const Config& config, Ledger& ledger, Budget::Now now)
    : http_(http),
      config_(config),
      ledger_(ledger),
      budget_(config, std::move(now)),
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

Expected<void> Registry::has_path(const std::string& registry) const {
    return path_for(registry).map([](const Path&) {});
}

std::string Registry::cache_of(const std::string& registry) const {
    const Expected<Path> path = path_for(registry);
    const std::string name = path ? path->source.substr(path->source.find(' ') + 1) : "";
    const bool known =
        std::ranges::find(config_.caches, name, &CacheConfig::name) != config_.caches.end();
    return known ? name : "";
}

Task<Expected<HttpResponse>> Registry::ask(RegistryPath path, RegistryQuestion question) {
    HttpRequest request;
    request.method = std::move(question.method);
    request.url = path.base + "/v2/" + question.repository + "/" + question.rest;
    if (!path.suffix.empty()) {
        request.url += request.url.find('?') == std::string::npos ? '?' : '&';
        request.url += path.suffix.substr(1);
    }
    const bool manifest = question.rest.starts_with("manifests/");
    request.headers = std::move(question.headers);
    request.headers.push_back(HttpHeader{"Accept", manifest ? kAccept : "*/*"});
    request.timeout = question.timeout;
    request.idle_timeout = question.idle_timeout;
    request.max_body = question.max_body;
    request.follow_redirects = true;
    request.on_data = std::move(question.on_data);
    co_return co_await authorization_.ask(std::move(path), std::move(question.repository),
                                          std::move(request));
}

// Everything that goes to a registry, or for it to where its tokens come from.
Task<Expected<HttpResponse>> Registry::send(RegistryPath path, HttpRequest request) {
    const Cost cost = cost_of(request);
    const Scope scope = scope_of(request);
    const Expected<void> may = budget_.admit(path, cost);
    if (!may) {
        co_return tl::unexpected<Error>(may.error());
    }
    Expected<HttpResponse> response = co_await http_.send(std::move(request));
    budget_.note(path, cost, scope, response);
    co_return response;
}

// An answer from a hold says nothing of the tag, and that look-ups get one is a fault of the
// configuration.
Expected<void> Registry::not_held(const Path& path, const Tag& tag, const std::string& reference,
                                  const HttpResponse& response) {
    if (!response.header("x-keel-hold").empty()) {
        const Steady::time_point now = Steady::now();
        auto& tags = holding_[path.base];
        std::erase_if(tags, [now](const auto& one) { return now - one.second >= kHoldingKept; });
        tags[tag.to_string()] = now;
        return fail("held", path.base + " (" + tag.to_string() +
                                ") answers from a hold; point caches[].lookup at a server block "
                                "with keel_hold off");
    }
    if (const auto found = holding_.find(path.base);
        found != holding_.end() && reference == tag.name) {
        found->second.erase(tag.to_string());
    }
    return {};
}

// Not conditional: an answer to HEAD has no body that If-None-Match could save, and a registry that
// pulls through asks its upstream either way.
Task<Expected<Answer>> Registry::head(Path path, Tag tag, std::string reference) {
    Head& known = heads_[key_of(path)];
    if (Steady::now() < known.get_until) {
        co_return co_await get(std::move(path), std::move(tag), std::move(reference));
    }
    const std::string where = path.base + " (" + tag.to_string() + ")";
    RegistryQuestion question;
    question.method = "HEAD";
    question.repository = tag.repository;
    question.rest = "manifests/" + reference;
    const Expected<HttpResponse> response = co_await ask(path, std::move(question));
    if (!response) {
        co_return tl::unexpected<Error>(response.error());
    }
    const bool by_tag = reference == tag.name;
    const bool unsupported = response->status == 405 || response->status == 501;
    const bool doubtful =
        response->status == 404 && by_tag && !known.works && Steady::now() >= known.next_check;
    const auto digest = Digest::parse(response->header("docker-content-digest"));
    const std::string_view type = response->header("content-type");
    const bool bare = response->status == 200 && (!digest || type.empty()) &&
                      (type.empty() || is_modern(manifest_kind(type)));
    if (unsupported || doubtful || bare) {
        known.next_check = Steady::now() + kHeadDoubt;
        Expected<Answer> answer = co_await get(std::move(path), std::move(tag), reference);
        if (answer) {
            known.get_until = Steady::now() + kHeadUseless;
        }
        co_return answer;
    }
    if (response->status != 200) {
        co_return tl::unexpected<Error>(registry_refusal(*response, where));
    }
    const Expected<void> open = not_held(path, tag, reference, *response);
    if (!open) {
        co_return tl::unexpected<Error>(open.error());
    }
    known.works = known.works || by_tag;
    const ManifestKind kind = manifest_kind(type);
    if (!digest || !is_modern(kind)) {
        co_return fail("not-comparable",
                       where + " answered without a digest, or with the type " + std::string(type));
    }
    co_return Answer{*digest, kind, path.source};
}

// The body decides what the digest is: a proxy may send the header of one and the body of another
// while a tag moves.
Task<Expected<Answer>> Registry::get(Path path, Tag tag, std::string reference) {
    const std::string where = path.base + " (" + tag.to_string() + ")";
    const std::string key = key_of(path) + " " + tag.repository + " " + reference;
    RegistryQuestion question;
    question.repository = tag.repository;
    question.rest = "manifests/" + reference;
    // A body is saved, and what it would cost: only by the very ETag that came with one.
    const auto before = known_.find(key);
    const std::optional<Known> known =
        before != known_.end() ? std::optional(before->second) : std::nullopt;
    if (known) {
        question.headers.push_back(HttpHeader{"If-None-Match", known->etag});
    }
    const Expected<HttpResponse> response = co_await ask(path, std::move(question));
    if (!response) {
        co_return tl::unexpected<Error>(response.error());
    }
    if (known && response->status == 304) {
        co_return known->answer;
    }
    if (response->status != 200) {
        co_return tl::unexpected<Error>(registry_refusal(*response, where));
    }
    const Expected<void> open = not_held(path, tag, reference, *response);
    if (!open) {
        co_return tl::unexpected<Error>(open.error());
    }
    const ManifestKind kind = manifest_kind(response->header("content-type"));
    if (!is_modern(kind)) {
        co_return fail("not-comparable", where + " answered with the type " +
                                             std::string(response->header("content-type")));
    }
    std::optional<Digest> said = Digest::parse(response->header("docker-content-digest"));
    if (!said) {
        said = Digest::parse(reference);
    }
    const Digest::Algorithm algorithm = said ? said->algorithm() : Digest::Algorithm::sha256;
    const Digest digest = digest_of(algorithm, response->body);
    if (said && *said != digest) {
        co_return fail("digest-mismatch", where + " answered with a body that is " +
                                              digest.to_string() + " and not " + said->to_string());
    }
    const Answer answer{digest, kind, path.source};
    if (const std::string_view etag = response->header("etag"); !etag.empty()) {
        if (known_.size() >= kMostKnown) {
            known_.clear();
        }
        known_.insert_or_assign(key, Known{std::string(etag), answer});
    }
    co_return answer;
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
    if (missing_.contains(digest)) {
        return nullptr;
    }
    const std::optional<ContentRow> row = ledger_.content(digest.to_string());
    if (!row) {
        if (missing_.size() == kMissing) {
            missing_.clear();
        }
        missing_.insert(digest);
        return nullptr;
    }
    Expected<Content> content = Content::from_json(row->json);
    return content ? &contents_.insert_or_assign(digest, std::move(*content)).first->second
                   : nullptr;
}

void Registry::remember(const Content& content) {
    contents_.insert_or_assign(content.digest, content);
    missing_.erase(content.digest);
    ledger_.put(ContentRow{content.digest.to_string(), content.to_json()});
}

Task<Expected<TagList>> Registry::list_tags(Tag tag) {
    const Expected<Path> path = path_for(tag.registry);
    if (!path) {
        co_return tl::unexpected<Error>(path.error());
    }
    ++metrics_.lists;
    const std::string where = path->base + " (the tags of " + tag.repository + ")";
    const Steady::time_point deadline = Steady::now() + kListTime;
    TagListReader reader(path->base, tag.repository);
    while (!reader.next().empty()) {
        const auto left = std::chrono::duration_cast<Millis>(deadline - Steady::now());
        if (left <= Millis{0}) {
            reader.stop("list-too-long", "it took more than " + format_duration(kListTime));
            break;
        }
        RegistryQuestion question;
        question.repository = tag.repository;
        question.rest = "tags/list?" + reader.next();
        question.timeout = std::min(question.timeout, left);
        question.max_body = kListBytes;
        ++metrics_.pages;
        const Expected<HttpResponse> response = co_await ask(*path, std::move(question));
        if (!response) {
            co_return tl::unexpected<Error>(response.error());
        }
        if (response->status == 405 || response->status == 501) {
            co_return fail("list-unsupported",
                           where + " answered " + std::to_string(response->status));
        }
        if (response->status != 200) {
            co_return tl::unexpected<Error>(registry_refusal(*response, where));
        }
        const Expected<void> taken = reader.take(response->body, response->header("link"));
        if (!taken) {
            co_return tl::unexpected<Error>(taken.error());
        }
    }
    co_return std::move(reader).result();
}

Task<Expected<HttpResponse>> Registry::get_manifest(Path path, Tag tag, Digest digest) {
    ++metrics_.content;
    const std::string where = path.base + " (" + tag.repository + "@" + digest.to_string() + ")";
    RegistryQuestion question;
    question.repository = tag.repository;
    question.rest = "manifests/" + digest.to_string();
    Expected<HttpResponse> response = co_await ask(std::move(path), std::move(question));
    if (response && response->status != 200) {
        co_return tl::unexpected<Error>(registry_refusal(*response, where));
    }
    // It is kept for good, so nothing else may pass for it.
    if (response && digest_of(digest.algorithm(), response->body) != digest) {
        co_return fail("digest-mismatch", where + " came with another content");
    }
    co_return response;
}

Task<Expected<void>> Registry::read_created(Path path, Tag tag, PlatformContent* entry) {
    ++metrics_.content;
    const std::string where =
        path.base + " (" + tag.repository + ", config " + entry->config.to_string() + ")";
    RegistryQuestion question;
    question.repository = tag.repository;
    question.rest = "blobs/" + entry->config.to_string();
    const Expected<HttpResponse> response = co_await ask(std::move(path), std::move(question));
    if (!response) {
        co_return tl::unexpected<Error>(response.error());
    }
    if (response->status != 200) {
        co_return tl::unexpected<Error>(registry_refusal(*response, where));
    }
    if (digest_of(entry->config.algorithm(), response->body) != entry->config) {
        co_return fail("digest-mismatch", where + " came with another content");
    }
    const Expected<Time> created = created_of(response->body);
    if (!created) {
        co_return fail(created.error().code, where + ": " + created.error().text);
    }
    entry->created = *created;
    if (entry->platform.empty()) {
        entry->platform = platform_of(response->body);
    }
    co_return Expected<void>{};
}

Task<Expected<Content>> Registry::content(Tag tag, Digest digest,
                                          std::vector<std::string> platforms, bool with_created) {
    const auto config_wanted = [with_created](const PlatformContent& entry) {
        return (with_created || entry.platform.empty()) && !entry.created;
    };
    const auto wanted = [&platforms, config_wanted](const PlatformContent& entry) {
        const bool asked = platforms.empty() || entry.platform.empty() ||
                           std::ranges::find(platforms, entry.platform) != platforms.end();
        return asked && (entry.config.empty() || config_wanted(entry));
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
    if (content.digest.empty()) {
        const Expected<HttpResponse> response = co_await get_manifest(*path, tag, digest);
        if (!response) {
            co_return tl::unexpected<Error>(response.error());
        }
        Expected<Content> read =
            Content::from_manifest(digest, response->header("content-type"), response->body);
        if (!read) {
            co_return read;
        }
        content = std::move(*read);
    }
    Expected<void> made;
    for (PlatformContent& entry : content.platforms) {
        if (!wanted(entry)) {
            continue;
        }
        if (entry.config.empty()) {
            const Digest manifest = entry.manifest;
            const Expected<HttpResponse> response = co_await get_manifest(*path, tag, manifest);
            if (!response) {
                continue;  // not every platform of an index is complete in every cache; it stays
                           // unknown
            }
            const Expected<Content> child =
                Content::from_manifest(manifest, response->header("content-type"), response->body);
            if (child && child->kind == ManifestKind::image) {
                entry.config = child->platforms.front().config;
            }
        }
        if (!entry.config.empty() && config_wanted(entry)) {
            PlatformContent* const place = &entry;
            const Expected<void> read = co_await read_created(*path, tag, place);
            made = made ? read : made;
        }
    }
    remember(content);
    if (!made) {
        co_return tl::unexpected<Error>(made.error());
    }
    co_return content;
}

}  // namespace keel
