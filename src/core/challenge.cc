#include "core/challenge.h"

#include <algorithm>
#include <optional>

namespace keel {
namespace {

char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool is(std::string_view text, std::string_view lower_case) {
    return std::ranges::equal(text, lower_case, {}, lower);
}

// RFC 7230.
bool is_token_char(char c) {
    return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') ||
           (c != '\0' && std::string_view{"!#$%&'*+-.^_`|~"}.find(c) != std::string_view::npos);
}

class Reader {
  public:
    explicit Reader(std::string_view text) : rest_(text) {}

    void skip_spaces() {
        while (rest_.starts_with(' ') || rest_.starts_with('\t'))
            rest_.remove_prefix(1);
    }
    // Empty list elements are allowed.
    void skip_commas() {
        skip_spaces();
        while (take(','))
            skip_spaces();
    }
    bool take(char c) {
        if (!rest_.starts_with(c)) return false;
        rest_.remove_prefix(1);
        return true;
    }
    std::string_view token() {
        const auto end = std::ranges::find_if_not(rest_, is_token_char);
        const auto size = static_cast<std::size_t>(end - rest_.begin());
        const std::string_view result = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return result;
    }
    // A token or a quoted string.
    std::optional<std::string> value() {
        if (!take('"')) {
            const std::string_view bare = token();
            return bare.empty() ? std::nullopt : std::optional{std::string{bare}};
        }
        std::string text;
        while (!rest_.empty() && rest_[0] != '"') {
            if (rest_[0] == '\\' && rest_.size() > 1) rest_.remove_prefix(1);
            text += rest_[0];
            rest_.remove_prefix(1);
        }
        return take('"') ? std::optional{text} : std::nullopt;
    }
    // "name=value" if that comes next; the reader stays where it is if not.
    std::optional<std::pair<std::string_view, std::string>> parameter() {
        const std::string_view before = rest_;
        const std::string_view name = token();
        skip_spaces();
        if (!name.empty() && take('=')) {
            skip_spaces();
            if (auto text = value()) return std::pair{name, std::move(*text)};
        }
        rest_ = before;
        return std::nullopt;
    }
    [[nodiscard]] bool at_end() const { return rest_.empty(); }

  private:
    std::string_view rest_;
};

Challenge::Scheme scheme_of(std::string_view name) {
    if (is(name, "basic")) return Challenge::Scheme::basic;
    return is(name, "bearer") ? Challenge::Scheme::bearer : Challenge::Scheme::other;
}

}  // namespace

std::vector<Challenge> parse_challenges(std::string_view header) {
    std::vector<Challenge> all;
    Reader reader{header};
    for (reader.skip_commas(); !reader.at_end(); reader.skip_commas()) {
        const std::string_view scheme = reader.token();
        if (scheme.empty()) break;
        Challenge challenge;
        challenge.scheme = scheme_of(scheme);
        reader.skip_spaces();
        while (auto parameter = reader.parameter()) {
            auto& [name, text] = *parameter;
            if (is(name, "realm")) challenge.realm = std::move(text);
            if (is(name, "service")) challenge.service = std::move(text);
            if (is(name, "scope")) challenge.scope = std::move(text);
            if (is(name, "error")) challenge.error = std::move(text);
            reader.skip_commas();
        }
        all.push_back(std::move(challenge));
    }
    return all;
}

}  // namespace keel
