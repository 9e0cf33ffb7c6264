#include "core/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <new>

#include "core/glob.h"

namespace keel {
namespace {

constexpr std::size_t kMaxPattern = 1'000;     // bytes
constexpr std::uint32_t kMatchLimit = 20'000;  // steps of PCRE2 for one name
constexpr std::uint32_t kHeapLimit = 1'024;    // kB
constexpr const char* kKeyGroup = "compare";

struct FreeCode {
    void operator()(pcre2_code* code) const noexcept { pcre2_code_free(code); }
};
struct FreeMatch {
    void operator()(pcre2_match_data* match) const noexcept { pcre2_match_data_free(match); }
};
struct FreeContext {
    void operator()(pcre2_match_context* context) const noexcept {
        pcre2_match_context_free(context);
    }
};

Expected<void> check_length(std::string_view text) {
    if (text.empty()) return fail("pattern-invalid", "the pattern is empty");
    if (text.size() > kMaxPattern) {
        return fail("pattern-invalid", "the pattern is longer than 1000 bytes");
    }
    return {};
}

}  // namespace

struct Pattern::Compiled {
    std::unique_ptr<pcre2_code, FreeCode> code;
    std::unique_ptr<pcre2_match_data, FreeMatch> match;
    std::unique_ptr<pcre2_match_context, FreeContext> limits;
};

Expected<Pattern::Pointer> Pattern::glob(std::string_view text) {
    if (auto checked = check_length(text); !checked) return tl::unexpected(checked.error());
    auto pattern = std::make_shared<Pattern>();
    pattern->glob_ = text;
    return pattern;
}

Expected<Pattern::Pointer> Pattern::regexp(std::string_view text) {
    if (auto checked = check_length(text); !checked) return tl::unexpected(checked.error());
    auto compiled = std::make_shared<Compiled>();
    int error = 0;
    PCRE2_SIZE offset = 0;
    compiled->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                       PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
    if (!compiled->code) {
        std::array<PCRE2_UCHAR, 160> message{};
        pcre2_get_error_message(error, message.data(), message.size());
        return fail("pattern-invalid", std::string{reinterpret_cast<char*>(message.data())} +
                                           " at character " + std::to_string(offset + 1));
    }
    (void)pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE);  // else interpreted
    compiled->match.reset(pcre2_match_data_create_from_pattern(compiled->code.get(), nullptr));
    compiled->limits.reset(pcre2_match_context_create(nullptr));
    if (!compiled->match || !compiled->limits) throw std::bad_alloc();
    pcre2_set_match_limit(compiled->limits.get(), kMatchLimit);
    pcre2_set_heap_limit(compiled->limits.get(), kHeapLimit);
    auto pattern = std::make_shared<Pattern>();
    pattern->key_group_ = pcre2_substring_number_from_name(compiled->code.get(),
                                                           reinterpret_cast<PCRE2_SPTR>(kKeyGroup));
    pattern->compiled_ = std::move(compiled);
    return pattern;
}

Pattern::Match Pattern::match(std::string_view name, std::string_view& key) const noexcept {
    key = name;
    if (!compiled_) return matches_glob(glob_, name) ? Match::yes : Match::no;
    const int found =
        pcre2_match(compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(),
                    0, 0, compiled_->match.get(), compiled_->limits.get());
    if (found == PCRE2_ERROR_NOMATCH) return Match::no;
    if (found < 0) return Match::too_expensive;
    if (!names_key()) return Match::yes;
    const auto group = static_cast<std::uint32_t>(key_group_);
    const PCRE2_SIZE* at = pcre2_get_ovector_pointer(compiled_->match.get());
    if (group >= pcre2_get_ovector_count(compiled_->match.get()) || at[2 * group] == PCRE2_UNSET ||
        at[2 * group] >= at[2 * group + 1]) {
        return Match::no;
    }
    key = name.substr(at[2 * group], at[2 * group + 1] - at[2 * group]);
    return Match::yes;
}

Pattern::Match Pattern::match(std::string_view name) const noexcept {
    std::string_view key;
    return match(name, key);
}

}  // namespace keel
