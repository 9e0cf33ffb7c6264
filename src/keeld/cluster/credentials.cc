#include "keeld/cluster/credentials.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fstream>
#include <iterator>

#include "core/base64.h"

namespace keel {
namespace {

constexpr std::chrono::minutes kFileAge{1};
// A plugin's credential is replaced a little before its end, as requests take time.
constexpr std::chrono::seconds kBeforeExpiry{10};

// The content, empty if it cannot be read.
std::string file_text(const std::string& path) {
    std::ifstream file{path};
    if (!file) return {};
    return {std::istreambuf_iterator<char>{file}, {}};
}

// Replaces `text` by the file's content, or keeps it where there is nothing to be read now.
Expected<void> refresh(const std::string& path, std::string& text) {
    if (path.empty()) return {};
    std::string content = file_text(path);
    if (!content.empty()) text = std::move(content);
    if (text.empty()) return fail("credentials", path + ": cannot be read, or is empty");
    return {};
}

}  // namespace

// While it lives the plugin is running; then everybody who waits for it goes on.
struct Credentials::Running {
    Credentials& owner;
    explicit Running(Credentials& credentials) : owner(credentials) { owner.running_ = true; }
    ~Running() {
        owner.running_ = false;
        ++owner.runs_;
        owner.ended_.cancel();
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
};

Credentials::Credentials(Loop& loop, ClusterAccess access)
    : access_(std::move(access)), tls_(access_.tls), token_(access_.token), ended_(loop) {
    // From here on libcurl gets texts: a changed certificate is another connection.
    for (std::string* file : {&tls_.ca_file, &tls_.cert_file, &tls_.key_file})
        file->clear();
    ended_.expires_at(Steady::time_point::max());
}

Task<Expected<ClusterCredential>> Credentials::get(std::shared_ptr<Credentials> self) {
    for (;;) {
        if (self->needs_files()) {
            const Expected<void> read = self->read_files();
            if (!read) co_return tl::unexpected<Error>(read.error());
        }
        if (!self->needs_plugin()) co_return *self->current_;
        if (self->running_) {
            const std::uint64_t runs = self->runs_;
            co_await self->ended_.async_wait(asio::as_tuple(asio::use_awaitable));
            if (self->runs_ == runs)
                co_return fail("cancelled", "waiting for a credential: cancelled");
            if (self->failure_) co_return tl::unexpected<Error>(*self->failure_);
            if (self->plugin_) co_return *self->current_;
            continue;
        }
        const Running running{*self};
        ClusterAccess access = self->access_;
        Expected<ExecCredential> plugin = co_await run_exec_plugin(std::move(access));
        if (!plugin) {
            self->failure_ = plugin.error();
            co_return tl::unexpected<Error>(plugin.error());
        }
        self->failure_.reset();
        self->plugin_ = std::move(*plugin);
        self->compose();
        co_return *self->current_;
    }
}

bool Credentials::refused(const ClusterCredential& used) {
    if (current_ && *current_ != used) return true;
    if (access_.exec) {
        plugin_.reset();
        return true;
    }
    if (!read_files()) return false;
    return *current_ != used;
}

bool Credentials::needs_files() const {
    return !read_at_ || Steady::now() - *read_at_ > kFileAge;
}

bool Credentials::needs_plugin() const {
    if (!access_.exec) return false;
    if (!plugin_) return true;
    // Real time on purpose: the plugin's issuer has no other clock.
    const auto now = std::chrono::time_point_cast<Millis>(std::chrono::system_clock::now());
    return plugin_->expires && now + kBeforeExpiry >= *plugin_->expires;
}

Expected<void> Credentials::read_files() {
    struct File {
        const std::string& path;
        std::string& text;
    };
    for (const File& file :
         {File{access_.tls.ca_file, tls_.ca_pem}, File{access_.tls.cert_file, tls_.cert_pem},
          File{access_.tls.key_file, tls_.key_pem}, File{access_.token_file, token_}}) {
        const Expected<void> read = refresh(file.path, file.text);
        if (!read) return read;
    }
    while (token_.ends_with('\n') || token_.ends_with('\r'))
        token_.pop_back();
    read_at_ = Steady::now();
    compose();
    return {};
}

void Credentials::compose() {
    TlsOptions tls = tls_;
    std::string token = token_;
    if (plugin_) {
        token = plugin_->token;
        if (!plugin_->cert_pem.empty()) {
            tls.cert_pem = plugin_->cert_pem;
            tls.key_pem = plugin_->key_pem;
        }
    }
    std::string authorization;
    if (!token.empty()) {
        authorization = "Bearer " + token;
    } else if (!access_.username.empty()) {
        authorization = "Basic " + encode_base64(access_.username + ":" + access_.password);
    }
    // The same object as long as nothing changed, so that credentials can be compared.
    const bool same = current_ && *current_->tls == tls;
    current_ = ClusterCredential{
        std::move(authorization),
        same ? current_->tls : std::make_shared<const TlsOptions>(std::move(tls))};
}

}  // namespace keel
