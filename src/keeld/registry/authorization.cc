#include "keeld/registry/authorization.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cctype>
#include <optional>
#include <utility>

#include "core/base64.h"
#include "core/signature.h"
#include "core/time.h"
#include "keeld/json.h"
#include "keeld/registry/budget.h"

namespace keel {
namespace {

using std::chrono::seconds;

constexpr Millis kTimeout{15'000};
constexpr std::size_t kMaxAnswer = 1U << 20U;
constexpr seconds kLifetime{60};  // of a token that does not say (distribution specification)
constexpr seconds kLongest{24 * 3600};
constexpr seconds kMargin{10};       // a token is replaced so long before its end, or a fifth
constexpr seconds kHeaderKept{300};  // what has no end of its own
constexpr seconds kRefusedKept{60};
constexpr std::chrono::hours kPlaceKept{1};
constexpr const char* kNobody = "anonymous";

bool same_name(std::string_view one, std::string_view other) {
    return std::ranges::equal(one, other, [](unsigned char a, unsigned char b) {
        return std::tolower(a) == std::tolower(b);
    });
}

// The challenge that is answered: Bearer before Basic. Several header lines are one list.
std::optional<Challenge> challenge_of(const HttpResponse& response) {
    std::optional<Challenge> chosen;
    for (const HttpHeader& header : response.headers) {
        if (!same_name(header.name, "www-authenticate")) continue;
        for (Challenge& one : parse_challenges(header.value)) {
            const bool better = !chosen || (chosen->scheme == Challenge::Scheme::basic &&
                                            one.scheme == Challenge::Scheme::bearer);
            if (one.scheme != Challenge::Scheme::other && better) chosen = std::move(one);
        }
    }
    return chosen;
}

// Nothing but what a question to the realm is made of.
bool same_question(const Challenge& one, const Challenge& other) {
    return one.scheme == other.scheme && one.realm == other.realm && one.service == other.service &&
           one.scope == other.scope;
}

// Says nothing about the key: it is nobody's fault, or will pass.
bool is_refusal(const Error& error) {
    static constexpr std::string_view kRefusals[] = {"denied", "token-empty", "token-refused",
                                                     "token-scope", "realm-invalid"};
    return std::ranges::find(kRefusals, error.code) != std::end(kRefusals);
}

std::string identity_of(const Credential& credential) {
    if (credential.empty()) return {};
    std::string all;
    for (const std::string* part : {&credential.username, &credential.password,
                                    &credential.identity_token, &credential.registry_token}) {
        all += std::to_string(part->size()) + ":" + *part;
    }
    return sha256_hex(all);
}

std::string basic(const Credential& credential) {
    return "Basic " + encode_base64(credential.username + ":" + credential.password);
}

std::string pass_id(const std::string& registry, const Challenge& challenge,
                    const std::string& identity) {
    return registry + "\n" + challenge.realm + "\n" + challenge.service + "\n" + challenge.scope +
           "\n" + identity;
}

// What is asked of the realm for this key.
HttpRequest token_request(const Challenge& challenge, const Credential& credential) {
    std::string query = "service=" + url_encode(challenge.service);
    std::string_view scopes = challenge.scope;
    const bool exchanged = !credential.identity_token.empty();
    if (exchanged) {
        query += "&scope=" + url_encode(scopes);
    } else {
        while (!scopes.empty()) {  // "repository:a:pull repository:b:pull"
            const std::size_t end = std::min(scopes.find(' '), scopes.size());
            if (end > 0) query += "&scope=" + url_encode(scopes.substr(0, end));
            scopes.remove_prefix(std::min(end + 1, scopes.size()));
        }
    }
    HttpRequest request;
    request.url = challenge.realm;
    request.timeout = kTimeout;
    request.max_body = kMaxAnswer;
    if (exchanged) {
        request.method = "POST";
        request.body = "grant_type=refresh_token&client_id=keeld&" + query +
                       "&refresh_token=" + url_encode(credential.identity_token);
        request.headers.push_back({"Content-Type", "application/x-www-form-urlencoded"});
        return request;
    }
    if (!credential.empty()) {
        query += "&account=" + url_encode(credential.username);
        request.headers.push_back({"Authorization", basic(credential)});
    }
    request.url += (challenge.realm.find('?') == std::string::npos ? "?" : "&") + query;
    return request;
}

// How long a token is good for, by what the answer says of it.
Steady::duration lifetime_of(const json_t* answer) {
    const json_t* given = json_object_get(answer, "expires_in");
    seconds lifetime = kLifetime;
    if (json_is_number(given)) {
        const double stated = json_number_value(given);
        if (stated >= 1) lifetime = seconds(static_cast<long>(std::min(stated, 86'400.0)));
    }
    lifetime = std::min(lifetime, kLongest);
    // Real time, as the realm has it. A clock that is off must not make a token immortal or
    // useless.
    if (const auto issued = parse_time(text_of(answer, "issued_at"))) {
        const auto now = std::chrono::time_point_cast<Millis>(std::chrono::system_clock::now());
        const auto age = std::chrono::duration_cast<seconds>(now - *issued);
        if (age > seconds{0} && age < lifetime) lifetime -= age;
    }
    return lifetime - std::min<Steady::duration>(kMargin, Steady::duration(lifetime) / 5);
}

}  // namespace

// A token that is being asked for; everybody who wants the same one waits for it.
struct Authorization::Flight {
    explicit Flight(const asio::any_io_executor& executor) : done(executor) {
        done.expires_at(Steady::time_point::max());
    }
    asio::steady_timer done;
    bool ended = false;
    Pass pass{"", {"cancelled", "cancelled"}, {}};
};

// One request and what became of each key.
struct Authorization::Tried {
    RegistryPath path;
    std::string repository;
    std::string place;
    Challenge challenge;
    HttpRequest request;
    Expected<HttpResponse> response{tl::unexpect, Error{}};
    struct Failure {
        std::string key;
        Error error;
    };
    std::vector<Failure> failures;
    bool credentials = false;  // something but nobody's was refused

    void note(const Key& key, Error error) {
        credentials = credentials || (key.failure.empty() && !key.credential.empty());
        failures.push_back({key.name, std::move(error)});
    }

    // All were refused.
    [[nodiscard]] Error error() const {
        std::string code;
        std::string list;
        for (const Failure& failure : failures) {
            list += (list.empty() ? "" : "; ") + failure.key + ": " + failure.error.text;
            // Nobody's refusal says something only where nobody else was there.
            const bool counts = credentials ? failure.key != kNobody : failure.key == kNobody;
            if (!counts || failure.error.code == "no-credential") continue;
            code = code.empty() || code == failure.error.code ? failure.error.code : "denied";
        }
        const bool misbehaves = code == "token-empty" || code == "realm-invalid";
        if (!credentials && !misbehaves) code = "no-credential";
        const std::string what = path.registry + "/" + repository;
        if (code == "no-credential") {
            return {code, what + " at " + path.base + " wants to know who asks, and there is no " +
                              "usable credential: " + list};
        }
        return {code, what + " at " + path.base + " was refused to everybody: " + list};
    }
};

Authorization::Authorization(Send send) : send_(std::move(send)) {}

void Authorization::expire(Steady::time_point now) {
    std::erase_if(places_, [now](const auto& one) { return one.second.until <= now; });
    std::erase_if(passes_, [now](const auto& one) { return one.second.until <= now; });
}

void Authorization::forget() {
    places_.clear();
    passes_.clear();
}

const Authorization::Pass* Authorization::live(const std::string& id) const {
    const auto found = passes_.find(id);
    return found != passes_.end() && found->second.until > Steady::now() ? &found->second : nullptr;
}

// Unless somebody has a newer one already.
void Authorization::drop(const std::string& id, const std::string& header) {
    const auto found = passes_.find(id);
    if (found != passes_.end() && found->second.header == header) {
        passes_.erase(found);
    }
}

void Authorization::remember(const std::string& place, const Challenge& challenge,
                             const std::string& key) {
    places_.insert_or_assign(place, Place{challenge, key, Steady::now() + kPlaceKept});
}

Task<Expected<HttpResponse>> Authorization::ask(RegistryPath path, std::string repository,
                                                HttpRequest request) {
    const std::string place = path.registry + " " + path.base + path.suffix + " " + repository;
    const auto known = places_.find(place);
    if (known != places_.end() && known->second.until > Steady::now()) {
        Challenge challenge = known->second.challenge;
        co_return co_await answer(std::move(path), std::move(repository), std::move(challenge),
                                  std::move(request));
    }
    HttpRequest plain = request;
    Expected<HttpResponse> response = co_await send_(path, std::move(plain));
    if (!response || response->status != 401) {
        co_return response;
    }
    std::optional<Challenge> challenge = challenge_of(*response);
    if (!challenge) {
        co_return response;
    }
    Challenge first = std::move(*challenge);
    co_return co_await answer(std::move(path), std::move(repository), std::move(first),
                              std::move(request));
}

Task<Expected<HttpResponse>> Authorization::answer(RegistryPath path, std::string repository,
                                                   Challenge challenge, HttpRequest request) {
    const auto tried = std::make_shared<Tried>();
    tried->place = path.registry + " " + path.base + path.suffix + " " + repository;
    tried->path = std::move(path);
    tried->repository = std::move(repository);
    tried->challenge = std::move(challenge);
    if (tried->challenge.scope.empty()) {
        tried->challenge.scope = "repository:" + tried->repository + ":pull";
    }
    tried->request = std::move(request);
    std::optional<std::string> last;  // the key that worked
    if (const auto known = places_.find(tried->place); known != places_.end()) {
        last = known->second.key;
        const std::string id = pass_id(tried->path.registry, tried->challenge, *last);
        const Pass* pass = live(id);
        // Good still: nobody's secrets are read again for it.
        if (pass != nullptr && pass->failure.code.empty()) {
            const std::string header = pass->header;
            HttpRequest with = tried->request;
            with.headers.push_back(HttpHeader{"Authorization", header});
            Expected<HttpResponse> response = co_await send_(tried->path, std::move(with));
            if (!response || (response->status != 401 && response->status != 403)) {
                co_return response;
            }
            ++metrics_.refused;
            drop(id, header);
            if (std::optional<Challenge> fresh = challenge_of(*response)) {
                tried->challenge = std::move(*fresh);
            }
        }
    }
    std::vector<Key> keys;
    if (keys_) {
        const std::string registry = tried->path.registry;
        const std::string name = tried->repository;
        keys = co_await keys_(registry, name);
    }
    keys.push_back(Key{kNobody, {}, {}});
    std::ranges::stable_partition(keys, [&last](const Key& key) {
        return last && key.failure.empty() && identity_of(key.credential) == *last;
    });
    std::vector<Credential> done;
    for (const Key& key : keys) {
        const bool again =
            key.failure.empty() && std::ranges::find(done, key.credential) != done.end();
        if (again) {
            continue;  // the same in many namespaces
        }
        if (key.failure.empty()) {
            done.push_back(key.credential);
        }
        Key one = key;
        const bool settled = co_await try_key(tried, std::move(one));
        if (settled) {
            co_return std::move(tried->response);
        }
    }
    places_.erase(tried->place);  // the next question begins without an opinion
    co_return tl::unexpected<Error>(tried->error());
}

// Whether tried->response is what came of it: an answer, or that nobody could be asked.
Task<bool> Authorization::try_key(std::shared_ptr<Tried> tried, Key key) {
    if (!key.failure.empty()) {
        tried->note(key, Error{"no-credential", key.failure});
        co_return false;
    }
    const std::string registry = tried->path.registry;
    const std::string identity = identity_of(key.credential);
    for (int round = 0; round < 2; ++round) {
        Challenge challenge = tried->challenge;
        const std::string& realm = challenge.realm;
        if (challenge.scheme == Challenge::Scheme::basic && key.credential.username.empty() &&
            key.credential.registry_token.empty()) {
            const bool nobody = key.credential.empty();
            tried->note(key, Error{"no-credential", nobody ? "a user and password are asked for"
                                                           : "is no user and password"});
            co_return false;
        }
        if (challenge.scheme == Challenge::Scheme::bearer && !realm.starts_with("https://") &&
            (!realm.starts_with("http://") || tried->path.base.starts_with("https://"))) {
            tried->note(key, Error{"realm-invalid",
                                   realm.empty() ? "a token is asked for, and no realm named"
                                                 : "the realm " + realm +
                                                       " is not as safe as the registry itself"});
            co_return false;
        }
        std::string id = pass_id(registry, challenge, identity);
        const bool fresh = live(id) == nullptr;
        const std::string at = id;
        const Challenge asked = challenge;
        Key copy = key;
        const Pass pass =
            co_await this->pass(tried->path, std::move(challenge), std::move(copy), std::move(id));
        if (!pass.failure.code.empty()) {
            if (is_refusal(pass.failure)) {
                tried->note(key, pass.failure);
                co_return false;
            }
            tried->response = tl::unexpected<Error>(Error{
                pass.failure.code, key.name + ": " + pass.failure.text, pass.failure.retry_after});
            places_.erase(tried->place);
            co_return true;
        }
        HttpRequest request = tried->request;
        request.headers.push_back(HttpHeader{"Authorization", pass.header});
        Expected<HttpResponse> response = co_await send_(tried->path, std::move(request));
        if (!response || (response->status != 401 && response->status != 403)) {
            if (response) {
                remember(tried->place, asked, identity);
            }
            tried->response = std::move(response);
            co_return true;
        }
        ++metrics_.refused;
        drop(at, pass.header);
        const std::optional<Challenge> again =
            response->status == 401 ? challenge_of(*response) : std::nullopt;
        const bool another = again && !same_question(*again, asked) && !again->scope.empty();
        if (round == 0 && (another || (!fresh && response->status == 401))) {
            if (another) {
                tried->challenge = *again;
            }
            continue;
        }
        const bool scope = again && again->error == "insufficient_scope";
        const bool token = asked.scheme == Challenge::Scheme::bearer && response->status == 401;
        Error why{"denied", "refused with " + std::to_string(response->status)};
        if (token) {
            why.code = scope ? "token-scope" : "token-refused";
            why.text = "the token that " + asked.realm + " gave for " + asked.scope +
                       (scope ? " does not reach so far" : " was refused");
        }
        passes_.insert_or_assign(at, Pass{"", why, Steady::now() + kRefusedKept});
        tried->note(key, std::move(why));
        co_return false;
    }
    tried->note(key, Error{"token-refused", "refused twice, for two different questions"});
    co_return false;
}

Task<Authorization::Pass> Authorization::pass(RegistryPath path, Challenge challenge, Key key,
                                              std::string id) {
    constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
    for (;;) {
        if (const Pass* known = live(id)) {
            co_return *known;
        }
        const bool given = !key.credential.registry_token.empty();
        if (given || challenge.scheme == Challenge::Scheme::basic) {
            const Pass made{
                given ? "Bearer " + key.credential.registry_token : basic(key.credential),
                {},
                Steady::now() + kHeaderKept};
            passes_.insert_or_assign(id, made);
            co_return made;
        }
        const auto under_way = flights_.find(id);
        if (under_way == flights_.end()) {
            break;
        }
        const std::shared_ptr<Flight> flight = under_way->second;
        while (!flight->ended) {
            co_await flight->done.async_wait(kToken);
        }
        if (flight->pass.failure.code != "cancelled") {
            co_return flight->pass;
        }
    }
    const auto executor = co_await asio::this_coro::executor;
    const auto flight = std::make_shared<Flight>(executor);
    flights_[id] = flight;
    struct Landing {  // also of a coroutine that ends in between
        Authorization& owner;
        Flight& flight;
        const std::string& id;
        ~Landing() {
            owner.flights_.erase(id);
            flight.ended = true;
            flight.done.cancel();
        }
    } landing{*this, *flight, id};
    flight->pass = co_await get_token(std::move(path), std::move(challenge), std::move(key));
    if (flight->pass.failure.code.empty() || is_refusal(flight->pass.failure)) {
        passes_.insert_or_assign(id, flight->pass);
    }
    co_return flight->pass;
}

// One request to the realm.
Task<Authorization::Pass> Authorization::get_token(RegistryPath path, Challenge challenge,
                                                   Key key) {
    const Steady::time_point asked = Steady::now();
    const std::string where = challenge.realm;
    ++metrics_.tokens;
    HttpRequest request = token_request(challenge, key.credential);
    const Expected<HttpResponse> answer = co_await send_(std::move(path), std::move(request));
    Pass pass;
    pass.until = asked + kRefusedKept;
    if (!answer) {
        pass.failure = answer.error();
    } else if (answer->status == 429 || answer->status >= 500) {
        pass.failure = registry_refusal(*answer, where);
    } else if (answer->status != 200) {
        const std::string status = std::to_string(answer->status);
        pass.failure = {"denied", "refused by " + where + " (" + status + ")"};
        ++metrics_.refused;
    } else {
        const Json root = parse_json(answer->body);
        std::string token(text_of(root.get(), "token"));
        if (token.empty()) {
            token = text_of(root.get(), "access_token");
        }
        const bool printable =
            std::ranges::all_of(token, [](char c) { return c > ' ' && c < 127; });
        if (token.empty() || !printable) {
            pass.failure = {"token-empty", where + " answered 200 without a token"};
        } else {
            pass.header = "Bearer " + token;
            pass.until = asked + lifetime_of(root.get());
        }
    }
    metrics_.failures += pass.failure.code.empty() ? 0 : 1;
    co_return pass;
}

}  // namespace keel
