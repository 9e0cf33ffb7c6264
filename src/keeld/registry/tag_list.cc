#include "keeld/registry/tag_list.h"

#include <curl/curl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "core/reference.h"
#include "keeld/json.h"

namespace keel {
namespace {

struct UrlDelete {
    void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using Url = std::unique_ptr<CURLU, UrlDelete>;

std::string part_of(CURLU* url, CURLUPart part) {
    char* text = nullptr;
    if (curl_url_get(url, part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) {
        return "";
    }
    std::string copy(text);
    curl_free(text);
    return copy;
}

// The target of the first `<target>; rel="next"` of a Link header (RFC 8288).
std::optional<std::string> next_of(std::string_view link) {
    while (!link.empty()) {
        const std::size_t open = link.find('<');
        const std::size_t close = link.find('>', open == std::string_view::npos ? 0 : open);
        if (open == std::string_view::npos || close == std::string_view::npos) {
            return std::nullopt;
        }
        const std::string_view target = link.substr(open + 1, close - open - 1);
        link.remove_prefix(close + 1);
        const std::string_view parameters = link.substr(0, link.find('<'));
        if (parameters.find("rel=\"next\"") != std::string_view::npos ||
            parameters.find("rel=next") != std::string_view::npos) {
            return std::string(target);
        }
    }
    return std::nullopt;
}

}  // namespace

TagListReader::TagListReader(std::string base, std::string repository)
    : base_(std::move(base)),
      repository_(std::move(repository)),
      next_("n=" + std::to_string(kListPage)) {}

Expected<void> TagListReader::take(std::string_view body, std::string_view link) {
    asked_.push_back(std::exchange(next_, std::string()));
    bytes_ += body.size();
    ++list_.pages;
    const Json root = parse_json(body);
    const json_t* tags = json_object_get(root.get(), "tags");
    if (!json_is_object(root.get()) || (!json_is_array(tags) && !json_is_null(tags))) {
        return fail("bad-list", base_ + " (" + repository_ +
                                    "): what it answered is no list of "
                                    "tags");
    }
    const std::size_t before = names_.size();
    std::size_t at = 0;
    json_t* item = nullptr;
    json_array_foreach(tags, at, item) {
        const std::string_view name =
            json_is_string(item)
                ? std::string_view(json_string_value(item), json_string_length(item))
                : std::string_view();
        if (is_tag_name(name)) {
            names_.emplace(name);
        } else {
            ++list_.dropped;
        }
    }
    if (const std::optional<std::string> target = next_of(link)) {
        follow(*target, names_.size() > before);
    }
    return {};
}

// Only its query is taken: the rest is what was asked before, or it is not followed.
void TagListReader::follow(std::string_view link, bool brought) {
    const std::string path = "/v2/" + repository_ + "/tags/list";
    const Url ours(curl_url());
    const Url theirs(curl_url());
    const std::string here = base_ + path;
    const std::string target(link);
    const bool read = ours && theirs &&
                      curl_url_set(ours.get(), CURLUPART_URL, here.c_str(), 0) == CURLUE_OK &&
                      curl_url_set(theirs.get(), CURLUPART_URL, here.c_str(), 0) == CURLUE_OK &&
                      curl_url_set(theirs.get(), CURLUPART_URL, target.c_str(), 0) == CURLUE_OK;
    const auto same = [&](CURLUPart part) {
        return part_of(ours.get(), part) == part_of(theirs.get(), part);
    };
    if (!read || !same(CURLUPART_SCHEME) || !same(CURLUPART_HOST) || !same(CURLUPART_PORT) ||
        !part_of(theirs.get(), CURLUPART_PATH).ends_with(path)) {
        stop("list-elsewhere", "the next page is said to be at " + target.substr(0, 200) +
                                   ", which is not this repository's list");
        return;
    }
    std::string query = part_of(theirs.get(), CURLUPART_QUERY);
    if (query.empty() || std::ranges::find(asked_, query) != asked_.end()) {
        stop("list-loop", "the next page is one that was read before");
    } else if (!brought) {
        stop("list-loop", "a page brought no name");
    } else if (list_.pages >= kListPages) {
        stop("list-too-long", "it has more than " + std::to_string(kListPages) + " pages");
    } else if (names_.size() >= kListNames) {
        stop("list-too-long", "it has more than " + std::to_string(kListNames) + " names");
    } else if (bytes_ >= kListBytes) {
        stop("list-too-long", "it has more than " + std::to_string(kListBytes) + " bytes");
    } else {
        next_ = std::move(query);
    }
}

void TagListReader::stop(std::string code, std::string text) {
    next_.clear();
    list_.complete = false;
    list_.stopped =
        Error{std::move(code), base_ + " (" + repository_ + "), after " +
                                   std::to_string(list_.pages) + " pages of its tags: " + text};
}

TagList TagListReader::result() && {
    list_.names.reserve(names_.size());
    while (!names_.empty()) {
        list_.names.push_back(std::move(names_.extract(names_.begin()).value()));
    }
    return std::move(list_);
}

}  // namespace keel
