// What a registry's 401 is answered with: tokens, Basic, and whose credentials are tried.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/challenge.h"
#include "core/expected.h"
#include "keeld/clock.h"
#include "keeld/http/client.h"
#include "keeld/loop.h"
#include "keeld/registry/keys.h"
#include "keeld/registry/path.h"

namespace keel {

struct AuthorizationMetrics {
    std::uint64_t tokens = 0;    // asked for
    std::uint64_t failures = 0;  // of them without a token
    std::uint64_t refused = 0;   // credentials and tokens that a registry or a realm refused
};

// One per keeld, on its loop. What it holds of credentials (tokens, headers) is forgotten when it
// expires, after five minutes at the latest where nothing says when.
class Authorization {
  public:
    // Sends a request as one that counts for the registry of the path (its budget, its circuit).
    using Send = std::function<Task<Expected<HttpResponse>>(RegistryPath, HttpRequest)>;
    explicit Authorization(Send send);

    // Without it everything is asked anonymously.
    void use(Keys keys) { keys_ = std::move(keys); }

    // Sends `request`, which is about this repository, with what the registry wants to see: the
    // key that worked last, then the others in turn, then nobody's. A token is asked for once at a
    // time and kept until shortly before it expires (60 s where that is not said); what was
    // refused is not tried again for as long. A 401 after a fresh token is an answer.
    // Errors: Send's; of the realm "rate-limited", "unavailable" and Send's; when everything was
    // refused "no-credential" (there was nothing but nobody to be tried), "token-empty",
    // "token-refused" (the registry does not take the token it asked for), "token-scope" (nor this
    // one, for its scope), "realm-invalid", or "denied" where they differ; each text names every
    // key that was tried, and why it did not help.
    [[nodiscard]] Task<Expected<HttpResponse>> ask(RegistryPath path, std::string repository,
                                                   HttpRequest request);

    // Forgets what has expired; to be called every now and then. All: also what has not.
    void expire(Steady::time_point now = Steady::now());
    void forget();

    [[nodiscard]] const AuthorizationMetrics& metrics() const { return metrics_; }

  private:
    // A header that answers a challenge, or why there is none.
    struct Pass {
        std::string header;
        Error failure;  // code empty: none
        Steady::time_point until;
    };
    struct Flight;
    // What is known of one repository by one path.
    struct Place {
        Challenge challenge;
        std::string key;  // that worked last: its identity
        Steady::time_point until;
    };
    struct Tried;

    [[nodiscard]] Task<Expected<HttpResponse>> answer(RegistryPath path, std::string repository,
                                                      Challenge challenge, HttpRequest request);
    [[nodiscard]] Task<bool> try_key(std::shared_ptr<Tried> tried, Key key);
    [[nodiscard]] Task<Pass> pass(RegistryPath path, Challenge challenge, Key key, std::string id);
    [[nodiscard]] Task<Pass> get_token(RegistryPath path, Challenge challenge, Key key);
    [[nodiscard]] const Pass* live(const std::string& id) const;
    void drop(const std::string& id, const std::string& header);
    void remember(const std::string& place, const Challenge& challenge, const std::string& key);

    Send send_;
    Keys keys_;
    std::map<std::string, Place> places_;
    std::map<std::string, Pass> passes_;  // by registry, challenge and key
    std::map<std::string, std::shared_ptr<Flight>> flights_;
    AuthorizationMetrics metrics_;
};

}  // namespace keel
