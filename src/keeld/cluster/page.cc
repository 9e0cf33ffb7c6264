#include "keeld/cluster/page.h"

#include <jansson.h>

#include "keeld/json.h"

namespace keel {
namespace {

// The punctuation between values; the values themselves are jansson's.
class Walker {
  public:
    explicit Walker(std::string_view text) : rest_(text) {}

    // Skips white space, then takes `c` if it is next.
    bool take(char c) {
        skip_space();
        if (rest_.empty() || rest_.front() != c) return false;
        rest_.remove_prefix(1);
        return true;
    }
    bool next_is(char c) {
        skip_space();
        return !rest_.empty() && rest_.front() == c;
    }
    // The value that comes next; null if there is none.
    Json value() {
        skip_space();
        json_error_t error{};
        Json value{json_loadb(rest_.data(), rest_.size(), JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK,
                              &error)};
        if (value != nullptr) rest_.remove_prefix(static_cast<std::size_t>(error.position));
        return value;
    }
    bool at_end() {
        skip_space();
        return rest_.empty();
    }

  private:
    void skip_space() {
        const std::size_t first = rest_.find_first_not_of(" \t\r\n");
        rest_.remove_prefix(first == std::string_view::npos ? rest_.size() : first);
    }

    std::string_view rest_;
};

bool read_items(Walker& walker, const std::function<void(const json_t*)>& each) {
    if (!walker.take('[')) return false;
    if (walker.take(']')) return true;
    do {
        const Json item = walker.value();
        if (item == nullptr) return false;
        each(item.get());
    } while (walker.take(','));
    return walker.take(']');
}

bool read_member(Walker& walker, ListPage& page, const std::function<void(const json_t*)>& each) {
    const Json key = walker.value();
    if (!json_is_string(key.get()) || !walker.take(':')) return false;
    const std::string_view name = json_string_value(key.get());
    if (name == "items" && walker.next_is('[')) return read_items(walker, each);
    const Json value = walker.value();
    if (name == "metadata") {
        page.resource_version = text_of(value.get(), "resourceVersion");
        page.next = text_of(value.get(), "continue");
    }
    return value != nullptr;
}

bool read_object(Walker& walker, ListPage& page, const std::function<void(const json_t*)>& each) {
    if (!walker.take('{')) return false;
    if (walker.take('}')) return true;
    do {
        if (!read_member(walker, page, each)) return false;
    } while (walker.take(','));
    return walker.take('}') && walker.at_end();
}

}  // namespace

Expected<ListPage> read_list_page(std::string_view text,
                                  const std::function<void(const json_t*)>& each) {
    Walker walker{text};
    ListPage page;
    if (!read_object(walker, page, each)) return fail("bad-answer", "the list is no whole JSON");
    if (page.resource_version.empty()) {
        return fail("bad-answer", "the list has no metadata.resourceVersion");
    }
    return page;
}

}  // namespace keel
