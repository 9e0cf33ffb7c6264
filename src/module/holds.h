// Holds on the pull path: which tag is answered with which digest, from a private copy of what the
// helper has read in DIR/holds, and how the answers turn out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/holds.h"
#include "module/conf.h"
#include "module/control.h"
#include "module/ngx.h"

namespace keel::ngx {

// The hold that a request was answered from; in the request's pool.
struct HeldRequest {
    Digest digest;
    std::string_view text;  // the digest as it is written
    std::uint64_t key = 0;  // hold_key()
    int slot = -1;          // of its tally
};

// This process's copy of the holds.
struct HoldCopy {
    HoldSet set;
    std::vector<std::uint64_t> keys;  // hold_key() of each
    std::vector<int> slots;           // of their tallies
    bool readable = true;             // false: the file could not be read, this was known before
};

// The copy, brought up to date first when the helper has posted other ones: one load where it has
// not. Empty without a state directory. Any process.
[[nodiscard]] const HoldCopy& current_holds(const MainConf& conf) noexcept;

struct AnswerHeaders;
struct TagRequest;

// In the master, once per configuration: makes the board and posts what the file says, so that the
// first request knows it. Says itself what is wrong.
void open_holds(MainConf& conf) noexcept;

// PREACCESS's part: leads a request for a held tag to the held digest. Only where the location
// answers holds.
void apply_hold(ngx_http_request_t* r, TagRequest& request) noexcept;

// Header filter's part, for every answer to a request for a tag: names the hold that it came from,
// and counts whether it did. The name of another cache's hold is dropped where holds are answered
// here, and stays where this cache has no part in them.
void judge_held_answer(ngx_http_request_t* r, TagRequest& request,
                       const AnswerHeaders& answer) noexcept;

}  // namespace keel::ngx
