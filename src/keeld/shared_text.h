// Text that many objects repeat (names of containers, digests, platforms), kept once.
#pragma once

#include <boost/flyweight.hpp>
#include <boost/flyweight/no_locking.hpp>
#include <concepts>
#include <string>
#include <string_view>
#include <utility>

namespace keel {

// Reads like a std::string that cannot be changed in place; the size of a pointer. keeld's loop
// alone makes, copies and destroys them: nothing is locked.
class SharedText {
  public:
    SharedText() = default;
    SharedText(std::string text) : text_(std::move(text)) {}
    SharedText(std::string_view text) : text_(std::string(text)) {}
    SharedText(const char* text) : text_(std::string(text)) {}

    operator std::string_view() const { return text_.get(); }
    [[nodiscard]] const std::string& str() const { return text_.get(); }
    [[nodiscard]] bool empty() const { return str().empty(); }

    friend bool operator==(const SharedText& a, const SharedText& b) { return a.text_ == b.text_; }
    template <std::convertible_to<std::string_view> Text>
    friend bool operator==(const SharedText& a, const Text& b) {
        return a.str() == b;
    }

  private:
    boost::flyweight<std::string, boost::flyweights::no_locking> text_;
};

}  // namespace keel
