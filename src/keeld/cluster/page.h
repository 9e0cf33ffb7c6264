// A list answer of the API server, read item by item.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "core/expected.h"

struct json_t;

namespace keel {

struct ListPage {
    std::string resource_version;
    std::string next;  // the continue token; empty on the last page
};

// Walks {"metadata": …, "items": […]} in whatever order the members come. Each item is decoded
// alone, given to `each` (borrowed) and freed, so that a page costs its text and one item. Items of
// a page that turns out to be broken later have been given away by then. Errors: "bad-answer".
[[nodiscard]] Expected<ListPage> read_list_page(std::string_view text,
                                                const std::function<void(const json_t*)>& each);

}  // namespace keel
