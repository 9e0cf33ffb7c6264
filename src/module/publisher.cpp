// libcurl's multi interface on a loop that belongs to somebody else.

#include "module/publisher.h"

#include <curl/curl.h>

#include <exception>
#include <memory>
#include <string>
#include <vector>

namespace keel::ngx {
namespace {

constexpr long kConnectTimeout = 5'000;    // milliseconds
constexpr long kTimeout = 10'000;          // for one batch, milliseconds
constexpr std::size_t kMaxAnswer = 65536;  // bytes of an answer's body, all of them ignored
constexpr long kMaxIdleConnections = 8;

struct FreeEasy {
    void operator()(CURL* easy) const noexcept { curl_easy_cleanup(easy); }
};
struct FreeMulti {
    void operator()(CURLM* multi) const noexcept { curl_multi_cleanup(multi); }
};
struct FreeList {
    void operator()(curl_slist* list) const noexcept { curl_slist_free_all(list); }
};

struct Target {
    std::string url;
    std::string unix_socket;
    std::string ca;
    std::unique_ptr<CURL, FreeEasy> easy;
    std::unique_ptr<curl_slist, FreeList> headers;
    std::string body;
    std::size_t answered = 0;  // bytes of the answer's body so far
    char error[CURL_ERROR_SIZE] = "";
};

std::size_t ignore_body(char*, std::size_t size, std::size_t count, void* data) noexcept {
    auto& target = *static_cast<Target*>(data);
    target.answered += size * count;
    return target.answered > kMaxAnswer ? 0 : size * count;
}

class Publisher {
  public:
    Publisher(const PublisherHost& host, const PublisherTarget* targets, std::size_t count)
        : host_(host), multi_(curl_multi_init()), targets_(count) {
        if (!multi_) throw std::bad_alloc();
        curl_multi_setopt(multi_.get(), CURLMOPT_SOCKETFUNCTION, watch);
        curl_multi_setopt(multi_.get(), CURLMOPT_SOCKETDATA, this);
        curl_multi_setopt(multi_.get(), CURLMOPT_TIMERFUNCTION, arm);
        curl_multi_setopt(multi_.get(), CURLMOPT_TIMERDATA, this);
        curl_multi_setopt(multi_.get(), CURLMOPT_MAXCONNECTS, kMaxIdleConnections);
        for (std::size_t i = 0; i < count; ++i)
            prepare(targets_[i], i, targets[i]);
    }

    bool post(std::size_t index, const PublisherPost& post) {
        Target& target = targets_.at(index);
        target.body.assign(post.body, post.size);
        target.answered = 0;
        target.error[0] = '\0';
        target.headers.reset();
        for (std::size_t i = 0; i < post.header_count; ++i) {
            curl_slist* longer = curl_slist_append(target.headers.get(), post.headers[i]);
            if (longer == nullptr) return false;
            (void)target.headers.release();
            target.headers.reset(longer);
        }
        CURL* easy = target.easy.get();
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, target.body.data());
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(post.size));
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, target.headers.get());
        return curl_multi_add_handle(multi_.get(), easy) == CURLM_OK;
    }

    void act(curl_socket_t fd, unsigned what) noexcept {
        int events = 0;
        if (what & kPublisherReads) events |= CURL_CSELECT_IN;
        if (what & kPublisherWrites) events |= CURL_CSELECT_OUT;
        if (what & kPublisherBroken) events |= CURL_CSELECT_ERR;
        int running = 0;
        curl_multi_socket_action(multi_.get(), fd, events, &running);
        report_finished();
    }

  private:
    void prepare(Target& target, std::size_t index, const PublisherTarget& from) {
        target.url = from.url;
        if (from.unix_socket != nullptr) target.unix_socket = from.unix_socket;
        if (from.ca != nullptr) target.ca = from.ca;
        target.easy.reset(curl_easy_init());
        CURL* easy = target.easy.get();
        if (easy == nullptr) throw std::bad_alloc();
        curl_easy_setopt(easy, CURLOPT_URL, target.url.c_str());
        curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
        curl_easy_setopt(easy, CURLOPT_PROXY, "");  // the environment is not the configuration
        curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(easy, CURLOPT_USERAGENT, "ngx-keel/" KEEL_VERSION);
        curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, kConnectTimeout);
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, kTimeout);
        // A new connection asks for the name's address again: a companion that moved is found at
        // once.
        curl_easy_setopt(easy, CURLOPT_DNS_CACHE_TIMEOUT, 0L);
        curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
        curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, ignore_body);
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, &target);
        curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, target.error);
        curl_easy_setopt(easy, CURLOPT_PRIVATE, reinterpret_cast<void*>(index));
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        if (!target.unix_socket.empty()) {
            curl_easy_setopt(easy, CURLOPT_UNIX_SOCKET_PATH, target.unix_socket.c_str());
        }
        if (!target.ca.empty()) curl_easy_setopt(easy, CURLOPT_CAINFO, target.ca.c_str());
    }

    // A handle is taken out before its end is told, so that the next post may be given there.
    void report_finished() noexcept {
        int left = 0;
        while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
            if (message->msg != CURLMSG_DONE) continue;
            CURL* easy = message->easy_handle;
            const CURLcode code = message->data.result;
            void* index = nullptr;
            curl_easy_getinfo(easy, CURLINFO_PRIVATE, &index);
            PublisherAnswer answer{};
            curl_off_t retry_after = 0;
            if (code == CURLE_OK) {
                curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &answer.status);
                curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &retry_after);
                answer.retry_after = static_cast<long>(retry_after);
            }
            curl_multi_remove_handle(multi_.get(), easy);
            const auto number = reinterpret_cast<std::size_t>(index);
            if (code != CURLE_OK) {
                const Target& target = targets_[number];
                answer.error = target.error[0] != '\0' ? target.error : curl_easy_strerror(code);
            }
            host_.answered(host_.data, number, answer);
        }
    }

    static int watch(CURL*, curl_socket_t fd, int what, void* data, void*) noexcept {
        const auto& self = *static_cast<Publisher*>(data);
        unsigned wants = 0;
        if (what == CURL_POLL_IN || what == CURL_POLL_INOUT) wants |= kPublisherReads;
        if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT) wants |= kPublisherWrites;
        self.host_.watch(self.host_.data, fd, wants);
        return 0;
    }

    static int arm(CURLM*, long milliseconds, void* data) noexcept {
        const auto& self = *static_cast<Publisher*>(data);
        self.host_.arm(self.host_.data, milliseconds);
        return 0;
    }

    PublisherHost host_;
    std::unique_ptr<CURLM, FreeMulti> multi_;
    std::vector<Target> targets_;
};

void* open(const PublisherHost& host, const PublisherTarget* targets, std::size_t count) noexcept {
    try {
        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) return nullptr;
        return new Publisher(host, targets, count);
    } catch (const std::exception&) {
        return nullptr;
    }
}

bool post(void* publisher, std::size_t target, const PublisherPost& post) noexcept {
    try {
        return static_cast<Publisher*>(publisher)->post(target, post);
    } catch (const std::exception&) {
        return false;
    }
}

void ready(void* publisher, int fd, unsigned what) noexcept {
    static_cast<Publisher*>(publisher)->act(fd, what);
}

void expired(void* publisher) noexcept {
    static_cast<Publisher*>(publisher)->act(CURL_SOCKET_TIMEOUT, 0);
}

constexpr PublisherApi kApi{kPublisherAbi, open, post, ready, expired};

}  // namespace
}  // namespace keel::ngx

extern "C" __attribute__((visibility("default"))) const keel::ngx::PublisherApi*
keel_publisher() noexcept {
    return &keel::ngx::kApi;
}
