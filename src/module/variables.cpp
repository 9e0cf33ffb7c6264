#include "module/variables.h"

#include <array>

#include "module/holds.h"
#include "module/observe.h"

namespace keel::ngx {
namespace {

enum class Field : uintptr_t { registry, repository, name, digest, previous, change, hold };

std::string_view digest_text(ngx_http_request_t* r, const Digest& digest) noexcept {
    if (digest.empty()) return {};
    auto* text = static_cast<char*>(ngx_pnalloc(r->pool, Digest::kMaxText));
    return text == nullptr ? std::string_view{} : std::string_view{text, digest.write(text)};
}

std::string_view field_of(ngx_http_request_t* r, const TagRequest& request, Field field) noexcept {
    switch (field) {
        case Field::registry:
            return {request.registry, request.registry_size};
        case Field::repository:
            return request.repository();
        case Field::name:
            return request.name();
        case Field::digest:
            return {request.digest, request.digest_size};
        case Field::previous:
            if (request.previous != nullptr) return digest_text(r, *request.previous);
            // What is the same was this one before, too.
            return request.change == Change::same
                       ? std::string_view{request.digest, request.digest_size}
                       : std::string_view{};
        case Field::change:
            return to_string(request.change);
        case Field::hold:
            return request.hold == nullptr ? std::string_view{} : request.hold->text;
    }
    return {};
}

// Empty, that is "-" in a log, for what is no observed request for a tag.
ngx_int_t get(ngx_http_request_t* r, ngx_http_variable_value_t* value, uintptr_t data) noexcept {
    const TagRequest* request = tag_request(r);
    std::string_view text;
    if (request != nullptr && request->registry != nullptr && !request->no_tag) {
        text = field_of(r, *request, static_cast<Field>(data));
    }
    value->valid = 1;
    value->no_cacheable = 1;  // an early reader, such as a map in a rewrite, must not freeze it
    value->not_found = text.empty();
    value->len = static_cast<unsigned>(text.size()) & 0x0fffffff;
    value->data = reinterpret_cast<u_char*>(const_cast<char*>(text.data()));
    return NGX_OK;
}

struct Variable {
    ngx_str_t name;
    Field field;
};

}  // namespace

ngx_int_t add_variables(ngx_conf_t* cf) noexcept {
    const std::array<Variable, 7> variables{{
        {ngx_string("keel_registry"), Field::registry},
        {ngx_string("keel_repository"), Field::repository},
        {ngx_string("keel_tag"), Field::name},
        {ngx_string("keel_digest"), Field::digest},
        {ngx_string("keel_previous_digest"), Field::previous},
        {ngx_string("keel_change"), Field::change},
        {ngx_string("keel_hold"), Field::hold},
    }};
    for (const Variable& entry : variables) {
        ngx_str_t name = entry.name;
        ngx_http_variable_t* variable = ngx_http_add_variable(cf, &name, NGX_HTTP_VAR_NOCACHEABLE);
        if (variable == nullptr) return NGX_ERROR;
        variable->get_handler = get;
        variable->data = static_cast<uintptr_t>(entry.field);
    }
    return NGX_OK;
}

}  // namespace keel::ngx
