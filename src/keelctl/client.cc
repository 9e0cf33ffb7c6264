#include "keelctl/client.h"

#include <curl/curl.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace keel::ctl {
namespace {

constexpr std::size_t kPage = 1000;  // the most that keeld gives at once
constexpr long kConnectSeconds = 5;
constexpr long kTotalSeconds = 60;
constexpr long kActionSeconds = 600;

std::size_t collect(char* data, std::size_t size, std::size_t count, void* body) {
    static_cast<std::string*>(body)->append(data, size * count);
    return size * count;
}

bool is_loopback(const std::string& url) {
    return url.starts_with("http://127.") || url.starts_with("http://localhost") ||
           url.starts_with("http://[::1]");
}

}  // namespace

void Client::Handle::operator()(void* curl) const {
    curl_easy_cleanup(curl);
}

Expected<Client> Client::open(const std::string& server) {
    Client client;
    client.server_ = server.starts_with('/') ? "unix:" + server : server;
    if (client.server_.starts_with("unix:/")) {
        client.socket_ = client.server_.substr(5);
        client.base_ = "http://keeld";
    } else if (server.starts_with("http://") || server.starts_with("https://")) {
        client.base_ = server;
        while (client.base_.ends_with('/'))
            client.base_.pop_back();
    } else {
        return fail("usage",
                    "\"" + server + "\" is not a server; expected unix:/PATH or http://HOST:PORT");
    }
    client.curl_.reset(curl_easy_init());
    if (!client.curl_) return fail("usage", "libcurl cannot be started");
    return client;
}

std::string Client::escape(std::string_view text) {
    constexpr std::string_view kPlain = "-._~";
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    std::string result;
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        const bool plain =
            (byte < 0x80 && std::isalnum(byte) != 0) || kPlain.find(c) != std::string_view::npos;
        if (plain) {
            result += c;
        } else {
            result += '%';
            result += kDigits[byte >> 4U];
            result += kDigits[byte & 0xfU];
        }
    }
    return result;
}

tl::unexpected<Error> Client::unreachable(const std::string& why, long number) const {
    std::string text = "no keeld answers at " + server_ + ": ";
    const bool known = number == ENOENT || number == EACCES || number == ECONNREFUSED;
    text += known ? std::generic_category().message(static_cast<int>(number)) : why;
    if (number == EACCES && !socket_.empty()) {
        text +=
            "; run keelctl as a user that may use this socket (listen.mode and listen.group in "
            "keeld.yaml)";
    } else {
        text +=
            "; is it running? If it listens elsewhere, name that with --server or KEELD_URL "
            "(unix:/PATH or http://HOST:PORT)";
    }
    return fail("unreachable", std::move(text));
}

Expected<Answer> Client::get(const std::string& path, const Query& query) {
    std::string url = base_ + path;
    char separator = '?';
    for (const auto& [name, value] : query) {
        if (value.empty()) continue;
        url += separator;
        url += escape(name) + "=" + escape(value);
        separator = '&';
    }
    return perform(path, url, nullptr);
}

Expected<Answer> Client::post(const std::string& path, const std::string& body) {
    return perform(path, base_ + path, &body);
}

// POST with a body, else GET.
Expected<Answer> Client::perform(const std::string& path, const std::string& url,
                                 const std::string* body) {
    struct FreeList {
        void operator()(curl_slist* list) const { curl_slist_free_all(list); }
    };
    std::unique_ptr<curl_slist, FreeList> headers;
    CURL* curl = curl_.get();
    Answer answer;
    std::string reason(CURL_ERROR_SIZE, '\0');
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "keelctl/" KEEL_VERSION);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, body != nullptr ? kActionSeconds : kTotalSeconds);
    if (body != nullptr) {
        headers.reset(curl_slist_append(nullptr, "Content-Type: application/json"));
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, static_cast<long>(body->size()));
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body->c_str());
    }
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason.data());
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer.body);
    if (!socket_.empty()) curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket_.c_str());
    // A proxy of the environment is for the way out of this machine.
    if (!socket_.empty() || is_loopback(base_)) curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");

    const CURLcode result = curl_easy_perform(curl);
    if (result != CURLE_OK) {
        long number = 0;
        curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &number);
        reason.resize(reason.find('\0'));
        return unreachable(reason.empty() ? curl_easy_strerror(result) : reason, number);
    }
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    answer.root.reset(json_loadb(answer.body.data(), answer.body.size(), 0, nullptr));
    const json_t* error = json_object_get(answer.root.get(), "error");
    if (status != 200 && json_is_object(error)) {
        return fail(std::string(text_of(error, "code")), std::string(text_of(error, "text")));
    }
    if (status != 200 ||
        (!json_is_object(answer.root.get()) && !json_is_array(answer.root.get()))) {
        return fail("bad-answer", "what answers at " + server_ + " is not keeld (status " +
                                      std::to_string(status) + " for " + path + ")");
    }
    return answer;
}

Expected<Answer> Client::list(const std::string& path, const Query& query, std::size_t limit) {
    Answer all;
    std::string after;
    while (true) {
        const std::size_t have =
            all.root ? json_array_size(json_object_get(all.root.get(), "items")) : 0;
        const std::size_t wanted = limit == 0 ? kPage : std::min(kPage, limit - have);
        Query page_query = query;
        page_query.emplace_back("limit", std::to_string(wanted));
        page_query.emplace_back("after", after);
        auto page = get(path, page_query);
        if (!page) return page;
        json_t* items = json_object_get(page->root.get(), "items");
        if (!json_is_array(items))
            return fail("bad-answer", server_ + ": " + path + " is not a list");
        const std::string next(text_of(page->root.get(), "next"));
        const std::size_t got = json_array_size(items);
        if (!all.root) {
            all = std::move(*page);
        } else {
            json_array_extend(json_object_get(all.root.get(), "items"), items);
            json_object_set(all.root.get(), "next", json_object_get(page->root.get(), "next"));
            all.body = dump(all.root.get()) + "\n";
        }
        const bool enough = limit != 0 && have + got >= limit;
        if (next.empty() || next == after || got == 0 || enough) return all;
        after = next;
    }
}

}  // namespace keel::ctl
