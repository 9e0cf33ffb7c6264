// What keeld reads of others: caches, registries, the API server, whoever posts an action. The
// first byte of the input says which of them speaks.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>

#include "core/holds.h"
#include "fuzz/require.h"
#include "keeld/api/action.h"
#include "keeld/cache/answers.h"
#include "keeld/cluster/objects.h"
#include "keeld/json.h"
#include "keeld/registry/content.h"
#include "keeld/registry/manifest_parts.h"

namespace keel {
namespace {

void check_tag(const Tag& tag) {
    const auto again = Tag::parse(tag.to_string());
    REQUIRE(again && *again == tag);
}

void check_holds(std::string_view body) {
    const auto all = decode_cache_holds(body);
    if (!all) {
        REQUIRE(all.error().code == "bad-answer" && !all.error().text.empty());
        return;
    }
    REQUIRE(std::ranges::all_of(all->revision, [](char c) { return c >= '0' && c <= '9'; }));
    for (const CacheHold& hold : all->holds) {
        check_tag(hold.tag);
        REQUIRE(!hold.digest.empty());
        REQUIRE(is_hold_author(hold.author) && is_hold_author(hold.owner));
    }
}

void check_page(std::string_view body) {
    if (const auto page = decode_seen_page(body)) {
        for (const SeenTag& one : page->seen) {
            check_tag(one.tag);
        }
    }
    const auto page = decode_tag_page(body);
    if (!page) {
        REQUIRE(!page.error().code.empty() && !page.error().text.empty());
        return;
    }
    for (const TagState& state : page->tags) {
        check_tag(state.tag);
        REQUIRE(!state.digest.empty());
        REQUIRE(state.epoch == page->epoch);
    }
}

void check_action(std::string_view body) {
    const Time now{Millis{1'795'348'800'000}};
    const auto action = decode_action(body, now);
    if (!action) {
        REQUIRE(action.error().code == "bad-action" && !action.error().text.empty());
        return;
    }
    const HoldWish& wish = action->wish;
    check_tag(wish.tag);
    REQUIRE(is_hold_reason(wish.reason));
    REQUIRE(wish.author.empty() && wish.id.empty());
    if (!action->hold) {
        REQUIRE(!wish.digest && wish.until == Time{} && !wish.force);
        return;
    }
    REQUIRE(!wish.reason.empty());
    REQUIRE(!wish.digest || !wish.digest->empty());
    REQUIRE(wish.until == Time{} || wish.until > now);
}

void require_equal(const Content& one, const Content& other) {
    REQUIRE(one.digest == other.digest && one.kind == other.kind);
    REQUIRE(one.platforms.size() == other.platforms.size());
    for (std::size_t i = 0; i < one.platforms.size(); ++i) {
        REQUIRE(one.platforms[i].platform == other.platforms[i].platform);
        REQUIRE(one.platforms[i].manifest == other.platforms[i].manifest);
        REQUIRE(one.platforms[i].config == other.platforms[i].config);
    }
}

void check_kept(const Content& content) {
    const auto again = Content::from_json(content.to_json());
    REQUIRE(again);
    require_equal(*again, content);
}

// A pod that runs what an entry names runs the content that is wanted there.
void check_manifest(std::string_view body) {
    static const Digest digest = *Digest::parse("sha256:" + std::string(64, 'a'));
    for (const char* type : {"application/vnd.oci.image.index.v1+json",
                             "application/vnd.oci.image.manifest.v1+json"}) {
        const auto content = Content::from_manifest(digest, type, body);
        if (!content) {
            REQUIRE(content.error().code == "bad-manifest");
            continue;
        }
        check_kept(*content);
        for (const PlatformContent& entry : content->platforms) {
            REQUIRE(!entry.manifest.empty());
            REQUIRE(compare_content(entry.manifest, nullptr, *content, entry.platform) ==
                    SameContent::same);
        }
    }
    if (const auto stored = Content::from_json(body)) {
        check_kept(*stored);
    }
}

void check_parts(std::string_view body) {
    for (const ManifestKind kind : {ManifestKind::index, ManifestKind::image}) {
        const auto parts = parts_of_manifest(kind, body);
        if (!parts) {
            REQUIRE(parts.error().code == "incomplete" && !parts.error().text.empty());
            continue;
        }
        REQUIRE(kind == ManifestKind::index ? parts->blobs.empty() : !parts->blobs.empty());
        REQUIRE(kind == ManifestKind::index || parts->manifests.empty());
        for (const ManifestPart& part : parts->manifests) {
            REQUIRE(!part.digest.empty());
        }
        for (const ManifestPart& part : parts->blobs) {
            REQUIRE(!part.digest.empty());
        }
    }
}

void check_object(std::string_view body) {
    const Json object = parse_json(body);
    for (const WorkloadKind kind : kWorkloadKinds) {
        const auto workload = decode_workload(kind, object.get(), "keel.sh/restartedAt");
        if (workload) {
            REQUIRE(workload->key.kind == kind);
            (void)workload->rolled_out();
        } else {
            REQUIRE(!workload.error().text.empty());
        }
    }
    if (const auto pod = decode_pod(object.get())) {
        for (const ContainerStatus& status : pod->containers) {
            const std::string digest = digest_of_image_id(status.image_id);
            REQUIRE(digest.empty() || status.image_id.ends_with(digest));
            (void)repository_of_image_id(status.image_id);
        }
    }
    (void)decode_namespace(object.get());
    (void)decode_identity(object.get());
}

}  // namespace
}  // namespace keel

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
    using Check = void (*)(std::string_view);
    constexpr Check kChecks[] = {keel::check_holds,    keel::check_page,  keel::check_action,
                                 keel::check_manifest, keel::check_parts, keel::check_object};
    kChecks[data[0] % std::size(kChecks)](body);
    return 0;
}
