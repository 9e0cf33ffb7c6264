#include "core/etag.h"

#include <gtest/gtest.h>

namespace keel {
namespace {

TEST(Etag, stands_without_its_quotes_and_mark) {
    EXPECT_EQ(bare_etag("\"sha256:ab\""), "sha256:ab");
    EXPECT_EQ(bare_etag("W/\"sha256:ab\""), "sha256:ab");
    EXPECT_EQ(bare_etag("sha256:ab"), "sha256:ab");
    EXPECT_EQ(bare_etag("w/\"sha256:ab\""), "w/\"sha256:ab\"");  // RFC 9110: W alone
    EXPECT_EQ(bare_etag("\"sha256:ab"), "\"sha256:ab");
    for (const char* nothing : {"", "W/", "\"", "\"\"", "W/\""}) {
        EXPECT_LE(bare_etag(nothing).size(), 2U) << nothing;
    }
}

}  // namespace
}  // namespace keel
