#include "module/answer.h"

#include "core/rate_limit.h"

namespace keel::ngx {
namespace {

constexpr std::string_view kDigest = "Docker-Content-Digest";
constexpr std::string_view kLimit = "RateLimit-Limit";
constexpr std::string_view kRemaining = "RateLimit-Remaining";
constexpr std::string_view kSource = "Docker-RateLimit-Source";
constexpr std::string_view kRetry = "Retry-After";

void take_digest(AnswerHeaders& answer, std::string_view text) noexcept {
    const std::optional<Digest> digest = Digest::parse(text);
    if (!digest || (answer.has_digest && *digest != answer.digest)) answer.bad_digest = true;
    if (digest) {
        answer.digest = *digest;
        answer.digest_text = text;
    }
    answer.has_digest = true;
}

// Seconds, or a date.
std::int64_t retry_at(ngx_str_t text, std::int64_t now) noexcept {
    if (const auto seconds = parse_retry_seconds(view(text))) {
        return now + static_cast<std::int64_t>(*seconds) * 1000;
    }
    const time_t date = ngx_parse_http_time(text.data, text.len);
    return date == NGX_ERROR ? 0 : static_cast<std::int64_t>(date) * 1000;
}

}  // namespace

AnswerHeaders read_headers(ngx_http_request_t* r) noexcept {
    AnswerHeaders answer;
    for_each_header(r->headers_out.headers, [&](const ngx_table_elt_t& header) {
        switch (header.key.len) {
            case kDigest.size():
                if (is_header(header, kDigest)) take_digest(answer, view(header.value));
                break;
            case kLimit.size():
                answer.has_rates |= is_header(header, kLimit);
                break;
            case kRemaining.size():
                answer.has_rates |= is_header(header, kRemaining);
                break;
            case kSource.size():
                answer.has_rates |= is_header(header, kSource);
                break;
            case kRetry.size():
                static_assert(kRetry.size() == kHoldHeader.size());
                answer.has_hold |= is_header(header, kHoldHeader);
                answer.has_rates |= is_header(header, kRetry);
                break;
            default:
                break;
        }
    });
    return answer;
}

Rates read_rates(ngx_http_request_t* r, std::int64_t now) noexcept {
    Rates rates;
    for_each_header(r->headers_out.headers, [&](const ngx_table_elt_t& header) {
        const std::string_view text = view(header.value);
        if (is_header(header, kLimit)) {
            rates.limit = parse_rate_limit(text);
        } else if (is_header(header, kRemaining)) {
            rates.remaining = parse_rate_limit(text);
        } else if (is_header(header, kSource)) {
            rates.source = text;
        } else if (is_header(header, kRetry)) {
            rates.retry_at = retry_at(header.value, now);
        }
    });
    return rates;
}

}  // namespace keel::ngx
