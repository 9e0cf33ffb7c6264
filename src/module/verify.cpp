#include "module/verify.h"

#include <openssl/evp.h>

#include <array>

namespace keel::ngx {
namespace {

// OpenSSL 3 looks an algorithm up each time that it is not told which implementation to use, and a
// context is an allocation or three: both are kept for the life of the process.
struct Implementations {
    EVP_MD* sha256 = nullptr;
    EVP_MD* sha512 = nullptr;

    EVP_MD* of(Digest::Algorithm algorithm) noexcept {
        const bool wide = algorithm == Digest::Algorithm::sha512;
        EVP_MD*& kept = wide ? sha512 : sha256;
        if (kept == nullptr) kept = EVP_MD_fetch(nullptr, wide ? "SHA512" : "SHA256", nullptr);
        return kept;
    }
};
Implementations implementations;

struct IdleContexts {
    std::array<EVP_MD_CTX*, 8> contexts;
    std::size_t count = 0;

    EVP_MD_CTX* take() noexcept { return count > 0 ? contexts[--count] : EVP_MD_CTX_new(); }
    void give(EVP_MD_CTX* context) noexcept {
        if (count < contexts.size()) {
            contexts[count++] = context;
        } else {
            EVP_MD_CTX_free(context);
        }
    }
};
IdleContexts idle;

}  // namespace

BodyHash* BodyHash::start(ngx_http_request_t* r, Table table, const Answer& answer) noexcept {
    static_assert(std::is_trivially_destructible_v<BodyHash>);
    const Digest::Algorithm algorithm =
        answer.digest.empty() ? Digest::Algorithm::sha256 : answer.digest.algorithm();
    EVP_MD* md = implementations.of(algorithm);
    ngx_pool_cleanup_t* cleanup = ngx_pool_cleanup_add(r->pool, sizeof(BodyHash));
    if (md == nullptr || cleanup == nullptr) return nullptr;
    auto* hash = new (cleanup->data) BodyHash{};
    hash->answer_ = answer;
    hash->table_ = table;
    hash->algorithm_ = algorithm;
    EVP_MD_CTX* context = idle.take();
    if (context == nullptr) return nullptr;
    if (EVP_DigestInit_ex2(context, md, nullptr) != 1) {
        idle.give(context);
        return nullptr;
    }
    hash->context_ = context;
    cleanup->handler = on_request_end;
    r->filter_need_in_memory = 1;
    return hash;
}

bool BodyHash::add(const ngx_chain_t* in) noexcept {
    for (; in != nullptr; in = in->next) {
        const ngx_buf_t* buffer = in->buf;
        if (ngx_buf_in_memory(buffer)) {
            const auto size = static_cast<std::size_t>(buffer->last - buffer->pos);
            whole_ = whole_ && EVP_DigestUpdate(context_, buffer->pos, size) == 1;
            seen_ += static_cast<off_t>(size);
        } else if (ngx_buf_size(buffer) != 0) {
            whole_ = false;
        }
        // The mark of the end may come on its own, after the client has got the last byte.
        if (buffer->last_buf || seen_ == answer_.length) return true;
    }
    return false;
}

Digest BodyHash::finish() noexcept {
    std::array<std::uint8_t, EVP_MAX_MD_SIZE> bytes{};
    unsigned size = 0;
    const bool done = EVP_DigestFinal_ex(context_, bytes.data(), &size) == 1;
    release();
    const bool complete = answer_.length < 0 || answer_.length == seen_;
    if (!done || !whole_ || !complete) return {};
    return Digest::from_bytes(algorithm_, {bytes.data(), size});
}

void BodyHash::release() noexcept {
    idle.give(context_);
    context_ = nullptr;
}

void end_hashing() noexcept {
    while (idle.count > 0)
        EVP_MD_CTX_free(idle.take());
    EVP_MD_free(implementations.sha256);
    EVP_MD_free(implementations.sha512);
    implementations = {};
}

void BodyHash::on_request_end(void* data) noexcept {
    auto& hash = *static_cast<BodyHash*>(data);
    if (hash.context_ == nullptr) return;
    hash.release();
    hash.table_.count(Counter::cut);
}

}  // namespace keel::ngx
