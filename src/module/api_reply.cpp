#include "module/api_reply.h"

#include <cstdlib>
#include <new>

namespace keel::ngx {

Json checked(json_t* value) {
    if (value == nullptr) throw std::bad_alloc();
    return Json{value};
}

std::string text_of(Json value) {
    std::unique_ptr<char, decltype(&std::free)> text{
        value ? json_dumps(value.get(), JSON_COMPACT) : nullptr, std::free};
    if (!text) throw std::bad_alloc();
    return text.get();
}

json_t* counter(std::uint64_t value) {
    return json_string(std::to_string(value).c_str());
}

void add_tally(json_t* hold, const Tally& tally) {
    json_object_set_new(hold, "answers", counter(tally.answers));
    json_object_set_new(hold, "unfetchable", counter(tally.unfetchable));
    json_object_set_new(hold, "ineffective", counter(tally.ineffective));
}

Reply fault(ngx_uint_t status, const Error& error) {
    return {status, text_of(checked(json_pack("{s:{s:s,s:s}}", "error", "code", error.code.c_str(),
                                              "text", error.text.c_str())))};
}

ngx_int_t send(ngx_http_request_t* r, const Reply& reply) noexcept {
    r->disable_not_modified = 1;  // If-Match is for us, nginx knows no entity tag of this answer
    r->headers_out.status = reply.status;
    r->headers_out.content_length_n = static_cast<off_t>(reply.body.size());
    r->headers_out.content_type = ngx_text(reply.type);
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = nullptr;
    ngx_buf_t* buffer = ngx_create_temp_buf(r->pool, reply.body.size() + 1);
    if (buffer == nullptr) return NGX_HTTP_INTERNAL_SERVER_ERROR;
    buffer->last = ngx_cpymem(buffer->last, reply.body.data(), reply.body.size());
    buffer->last_buf = r == r->main;
    buffer->last_in_chain = 1;
    const ngx_int_t rc = ngx_http_send_header(r);
    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) return rc;
    ngx_chain_t out{buffer, nullptr};
    return ngx_http_output_filter(r, &out);
}

}  // namespace keel::ngx
