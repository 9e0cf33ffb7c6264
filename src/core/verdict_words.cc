#include "core/verdict_words.h"

namespace keel {
namespace {

// Enumerators begin at 0 and have no gaps.
template <class T>
std::optional<T> parse(std::string_view text, T last) {
    for (int i = 0; i <= static_cast<int>(last); ++i) {
        if (to_string(static_cast<T>(i)) == text) return static_cast<T>(i);
    }
    return std::nullopt;
}

template <class T>
std::string all_words(T last) {
    std::string words;
    for (int i = 0; i <= static_cast<int>(last); ++i) {
        words += i > 0 ? " " : "";
        words += to_string(static_cast<T>(i));
    }
    return words;
}

}  // namespace

std::optional<Verdict> parse_verdict(std::string_view text) noexcept {
    return parse(text, Verdict::ignore);
}

std::optional<Reason> parse_reason(std::string_view text) noexcept {
    return parse(text, Reason::not_monitored);
}

std::string known_verdicts() {
    return all_words(Verdict::ignore);
}

std::string known_reasons() {
    return all_words(Reason::not_monitored);
}

}  // namespace keel
