#include "keeld/config.h"

#include <curl/curl.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/docker_config.h"
#include "core/edit_distance.h"
#include "core/policy.h"
#include "core/poll_schedule.h"
#include "core/reference.h"
#include "keeld/address.h"

namespace keel {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

// --- the keys there are ---

struct Key {
    std::string_view path;  // "*" stands for a key that the reader chooses
    bool supported;         // false: of a later version, and told so
};

// Every key of the format. What is not here is unknown.
constexpr auto kKeys = std::to_array<Key>({
    {"mode", true},
    {"timeZone", true},
    {"listen", true},
    {"listen.at", true},
    {"listen.mode", true},
    {"listen.group", true},
    {"listen.serve", true},
    {"listen.tls", false},
    {"listen.trustedProxy", false},
    {"auth", false},
    {"ledger", true},
    {"ledger.path", true},
    {"ledger.keep", true},
    {"ledger.onLoss", true},
    {"ledger.url", false},
    {"kubernetes", true},
    {"kubernetes.kubeconfig", true},
    {"kubernetes.context", true},
    {"kubernetes.namespaces", true},
    {"kubernetes.lease", true},
    {"kubernetes.lease.namespace", true},
    {"kubernetes.lease.name", true},
    {"caches", true},
    {"caches.name", true},
    {"caches.api", true},
    {"caches.secret", true},
    {"caches.lookup", true},
    {"caches.lookup.*", true},
    {"caches.namespace", true},
    {"events", true},
    {"events.secret", true},
    {"webhooks", true},
    {"webhooks.*", true},
    {"webhooks.*.auth", true},
    {"webhooks.*.secret", true},
    {"registries", true},
    {"registries.*", true},
    {"registries.*.through", true},
    {"registries.*.direct", true},
    {"registries.*.upstream", true},
    {"registries.*.credentials", true},
    {"registries.*.credentials.config", true},
    {"registries.*.credentials.helper", true},
    {"registries.*.requests", true},
    {"registries.*.pulls", true},
    {"registries.*.reserve", true},
    {"enrolment", true},
    {"enrolment.label", true},
    {"enrolment.exclude", true},
    {"enrolment.workloadAnnotation", true},
    {"defaults", true},
    {"defaults.policy", true},
    {"defaults.pollSchedule", true},
    {"defaults.reverts", true},
    {"defaults.deadline", true},
    {"defaults.restartKey", true},
    {"defaults.trigger", true},
    {"defaults.restart", false},
    {"defaults.allowPin", false},
    {"defaults.minAge", true},
    {"defaults.soak", true},
    {"defaults.reversible", true},
    {"defaults.step", true},
    {"pacing", true},
    {"pacing.cluster", true},
    {"pacing.namespace", true},
    {"pacing.concurrent", true},
    {"breaker", true},
    {"breaker.failures", true},
    {"breaker.of", true},
    {"breaker.share", true},
    {"windows", true},
    {"windows.name", true},
    {"windows.days", true},
    {"windows.from", true},
    {"windows.to", true},
    {"windows.zone", true},
    {"windows.namespaces", true},
    {"checks", false},
    {"phases", true},
    {"phases.name", true},
    {"phases.namespaces", true},
    {"phases.select", true},
    {"phases.select.matchLabels", true},
    {"phases.select.matchLabels.*", true},
    {"phases.soak", true},
    {"phases.accept", true},
    {"phases.accept.newestWithin", true},
    {"phases.accept.crashLoop", true},
    {"phases.accept.pinnedOut", true},
    {"phases.advance", true},
    {"phases.windows", true},
    {"phases.checks", false},
    {"phases.settings", true},
    {"phases.settings.policy", true},
    {"phases.settings.trigger", true},
    {"phases.settings.pollSchedule", true},
    {"phases.settings.matchPreRelease", true},
    {"phases.settings.step", true},
    {"phases.settings.minAge", true},
    {"phases.settings.soak", true},
    {"phases.settings.reversible", true},
    {"phases.settings.approvals", true},
    {"phases.settings.approvalDeadline", true},
    {"phases.settings.stateful", true},
    {"phases.settings.operator-owned", true},
    {"phases.settings.second-owner", true},
    {"phases.settings.all-at-once", true},
    {"phases.settings.disruption-budget", true},
    {"phases.settings.draining", true},
    {"phases.settings.host-port-in-use", true},
    {"phases.settings.volume-in-use", true},
    {"groups", true},
    {"groups.name", true},
    {"groups.workloads", true},
    {"priorities", true},
    {"priorities.workloads", true},
    {"priorities.value", true},
    {"stateful", true},
    {"stateful.images", true},
    {"watch", false},
    {"notify", false},
    {"hooks", false},
    {"stamp", true},
    {"stamp.enabled", true},
    {"settings", true},
    {"settings.ignoreManagers", true},
    {"settings.imageOwners", true},
    {"coexist", false},
    {"cap", true},
    {"cap.workloads", true},
});

const Key* find_key(std::string_view path) {
    const auto found =
        std::find_if(kKeys.begin(), kKeys.end(), [&](const Key& key) { return key.path == path; });
    return found == kKeys.end() ? nullptr : &*found;
}

// The names directly below `section` ("" is the top).
std::vector<std::string_view> keys_below(std::string_view section) {
    std::vector<std::string_view> names;
    for (const Key& key : kKeys) {
        std::string_view rest = key.path;
        if (!section.empty()) {
            if (!rest.starts_with(section) || rest.size() <= section.size() ||
                rest[section.size()] != '.') {
                continue;
            }
            rest.remove_prefix(section.size() + 1);
        }
        if (rest.find('.') == std::string_view::npos && key.supported) names.push_back(rest);
    }
    return names;
}

std::string in_quotes(std::string_view text) {
    return "\"" + std::string(text) + "\"";
}

std::string joined(const std::vector<std::string_view>& names) {
    std::string text;
    for (const std::string_view name : names) {
        if (!text.empty()) text += ", ";
        text += name == "*" ? "NAME" : name;
    }
    return text;
}

// What somebody who wrote `name` may have meant.
std::string suggestion(std::string_view section, std::string_view name) {
    const std::vector<std::string_view> known = keys_below(section);
    const auto nearest = std::min_element(known.begin(), known.end(), [&](auto a, auto b) {
        return edit_distance(name, a) < edit_distance(name, b);
    });
    if (nearest != known.end() && edit_distance(name, *nearest) <= 1 + nearest->size() / 3) {
        return "did you mean " + in_quotes(*nearest) + "?";
    }
    return "the keys here are " + joined(known);
}

// --- findings ---

class Findings {
  public:
    explicit Findings(std::string file) : file_(std::move(file)) {}

    // `line` counts from 0, as YAML::Mark does; negative: of the file as a whole.
    void add(int line, std::string_view key, std::string_view text) {
        std::string message = file_ + ":";
        if (line >= 0) message += std::to_string(line + 1) + ":";
        message += " ";
        if (!key.empty()) message.append(key).append(": ");
        errors_.push_back(Error{"config", message.append(text)});
    }

    [[nodiscard]] std::vector<Error> take() { return std::move(errors_); }
    [[nodiscard]] bool empty() const { return errors_.empty(); }

  private:
    std::string file_;
    std::vector<Error> errors_;
};

// A place in the file: its node, and the key's path as people read it ("caches[0].api").
struct Place {
    YAML::Node node;
    std::string name;
    int line = -1;
};

// One mapping. Finding a key that is unknown, unsupported or there twice is part of the
// construction.
class Section {
  public:
    // `path`: as in kKeys.
    Section(Findings& findings, const Place& place, std::string path)
        : findings_(findings), place_(place), path_(std::move(path)) {
        if (!place_.node.IsMap()) {
            findings_.add(place_.line, place_.name,
                          "is not a mapping; expected " + joined(keys_below(path_)) + " below it");
            return;
        }
        const bool chosen = find_key(child("*")) != nullptr;
        std::set<std::string> seen;
        for (const auto& item : place_.node) {
            const int line = item.first.Mark().line;
            if (!item.first.IsScalar()) {
                findings_.add(line, place_.name, "has a key that is not a word");
                continue;
            }
            const std::string key = item.first.Scalar();
            if (!seen.insert(key).second) {
                findings_.add(line, full(key), "is written twice");
                continue;
            }
            const Key* known = find_key(child(chosen ? "*" : key));
            if (known == nullptr) {
                findings_.add(line, full(key), "unknown key; " + suggestion(path_, key));
            } else if (!known->supported) {
                findings_.add(line, full(key), "not supported by this version; take it out");
            } else {
                items_.push_back({key, Place{item.second, full(key), line}});
            }
        }
    }

    // Absent and `null` are the same: the default holds.
    [[nodiscard]] const Place* get(std::string_view key) const {
        const Place* place = get_written(key);
        return place == nullptr || place->node.IsNull() ? nullptr : place;
    }
    [[nodiscard]] const Place* get_written(std::string_view key) const {
        for (const auto& [name, place] : items_) {
            if (name == key) return &place;
        }
        return nullptr;
    }
    [[nodiscard]] const std::vector<std::pair<std::string, Place>>& items() const { return items_; }
    [[nodiscard]] std::string full(std::string_view key) const {
        return place_.name.empty() ? std::string(key) : place_.name + "." + std::string(key);
    }
    [[nodiscard]] int line() const { return place_.line; }
    [[nodiscard]] const std::string& name() const { return place_.name; }

  private:
    [[nodiscard]] std::string child(std::string_view key) const {
        return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
    }

    Findings& findings_;
    Place place_;
    std::string path_;
    std::vector<std::pair<std::string, Place>> items_;
};

// --- values ---

bool is_lower_alnum(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}
bool is_alnum(char c) {
    return is_lower_alnum(c) || (c >= 'A' && c <= 'Z');
}

// A DNS label of RFC 1123, as Kubernetes wants for namespaces.
bool is_label(std::string_view text) {
    return !text.empty() && text.size() <= 63 && is_lower_alnum(text.front()) &&
           is_lower_alnum(text.back()) && std::all_of(text.begin(), text.end(), [](char c) {
               return is_lower_alnum(c) || c == '-';
           });
}

// Labels joined by dots, at most 253 bytes.
bool is_subdomain(std::string_view text) {
    if (text.empty() || text.size() > 253) return false;
    while (true) {
        const auto dot = text.find('.');
        if (!is_label(text.substr(0, dot))) return false;
        if (dot == std::string_view::npos) return true;
        text.remove_prefix(dot + 1);
    }
}

// The part of a label or annotation key behind the slash, and a label's value.
bool is_label_word(std::string_view text) {
    return !text.empty() && text.size() <= 63 && is_alnum(text.front()) && is_alnum(text.back()) &&
           std::all_of(text.begin(), text.end(),
                       [](char c) { return is_alnum(c) || c == '-' || c == '_' || c == '.'; });
}

bool is_qualified_name(std::string_view text) {
    const auto slash = text.find('/');
    if (slash == std::string_view::npos) return is_label_word(text);
    return is_subdomain(text.substr(0, slash)) && is_label_word(text.substr(slash + 1));
}

std::optional<int> whole_number(std::string_view text) {
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

// "5/h": so many in a second, minute, hour or day.
std::optional<Rate> parse_rate(std::string_view text) {
    if (text == "unlimited") return Rate{.count = 0, .per = hours{1}};
    const auto slash = text.find('/');
    if (slash == std::string_view::npos) return std::nullopt;
    const auto count = whole_number(text.substr(0, slash));
    if (!count || *count < 1 || *count > 100'000) return std::nullopt;
    const std::string_view unit = text.substr(slash + 1);
    if (unit == "s") return Rate{.count = *count, .per = seconds{1}};
    if (unit == "m") return Rate{.count = *count, .per = minutes{1}};
    if (unit == "h") return Rate{.count = *count, .per = hours{1}};
    if (unit == "d") return Rate{.count = *count, .per = hours{24}};
    return std::nullopt;
}

struct CurlUrlCleanup {
    void operator()(CURLU* url) const { curl_url_cleanup(url); }
};

// What is wrong with a base URL; empty if nothing is. A trailing slash is taken off.
std::string base_url_problem(std::string& text) {
    const std::unique_ptr<CURLU, CurlUrlCleanup> url(curl_url());
    const CURLUcode result = curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0);
    if (result != CURLUE_OK)
        return std::string("is no URL such as https://HOST (") + curl_url_strerror(result) + ")";
    const auto part = [&](CURLUPart which) {
        char* value = nullptr;
        std::string copy;
        if (curl_url_get(url.get(), which, &value, 0) == CURLUE_OK) copy = value;
        curl_free(value);
        return copy;
    };
    const std::string scheme = part(CURLUPART_SCHEME);
    if (scheme != "http" && scheme != "https") return "is not an http:// or https:// URL";
    if (!part(CURLUPART_USER).empty() || !part(CURLUPART_PASSWORD).empty()) {
        return "holds a password; secrets are read from files only";
    }
    if (!part(CURLUPART_QUERY).empty() || !part(CURLUPART_FRAGMENT).empty()) {
        return "has a query or fragment, where a base URL was expected";
    }
    while (text.ends_with('/'))
        text.pop_back();
    return {};
}

// "unix:/path/to/socket:/prefix"
std::string unix_url_problem(const std::string& text) {
    const auto colon = text.find(":/", 5);
    if (!text.starts_with("unix:/") || colon == std::string::npos) {
        return "is not of the form unix:/SOCKET:/PREFIX";
    }
    return {};
}

bool is_time_zone(const std::string& name) {
    if (name == "UTC") return true;
    const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
        return is_alnum(c) || c == '/' || c == '_' || c == '-' || c == '+';
    });
    struct stat status {};
    return plain && !name.empty() &&
           ::stat(("/usr/share/zoneinfo/" + name).c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

// A host[:port] as image references name it, in its normal form.
std::string registry_problem(const std::string& name) {
    const auto reference = Reference::parse(name + "/a/b:c");
    if (!reference || reference->repository != "a/b") return "is not a registry's host[:port]";
    if (reference->registry != name)
        return "is written " + in_quotes(reference->registry) + " in references";
    return {};
}

// Whether such a program is there to be run.
bool is_program(const std::string& name) {
    const char* path = std::getenv("PATH");
    std::string_view rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
    while (!rest.empty()) {
        const std::size_t end = std::min(rest.find(':'), rest.size());
        const std::string file = std::string(rest.substr(0, end)) + "/" + name;
        if (::access(file.c_str(), X_OK) == 0) return true;
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return false;
}

std::string text_of_file(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// --- the sections ---

class Reader {
  public:
    // `files`: whether the files that it names are read, and must be there.
    Reader(const std::string& path, bool files)
        : findings_(path),
          directory_(std::filesystem::absolute(path).parent_path()),
          files_(files) {
        config_.path = path;
    }

    ConfigResult read(std::string text);

  private:
    using Check = std::function<std::string(std::string&)>;  // "" or what is wrong

    void read_top(const Section& top);
    void read_listen(const Place& place);
    void read_ledger(const Section& section);
    void read_kubernetes(const Section& section);
    void read_cache(const Section& section);
    void read_lookup(const Place& place, CacheConfig& cache);
    void read_registry(const std::string& name, const Place& place);
    void read_webhook(const std::string& name, const Place& place);
    std::vector<std::string> webhook_secrets(const Place& place, WebhookAuth auth);
    void read_credentials(const Place& place, CredentialsConfig& credentials);
    void read_enrolment(const Section& section);
    void read_defaults(const Section& section);
    void read_pacing(const Place& place);
    void read_breaker(const Section& section);
    void read_window(const Section& section);
    void read_phase(const Section& section);
    void read_phase_settings(const Section& section, PhaseConfig& phase);
    void read_group(const Section& section);
    void read_priority(const Section& section);
    void read_small_sections(const Section& top);
    void check_together(const Section& top);

    void problem(const Place& place, std::string_view text) {
        findings_.add(place.line, place.name, text);
    }

    // Readers of one value: where the key is absent they leave `value` as it is.
    bool text(const Section& section, std::string_view key, std::string& value,
              const Check& check = nullptr);
    bool scalar(const Place& place, std::string& value, const Check& check = nullptr);
    void texts(const Section& section, std::string_view key, std::vector<std::string>& values,
               const Check& check);
    template <class T>
    void choice(const Section& section, std::string_view key, T& value,
                std::initializer_list<std::pair<std::string_view, T>> choices);
    bool duration(const Section& section, std::string_view key, Millis& value, Millis low,
                  Millis high);
    void rate(const Section& section, std::string_view key, Rate& value);
    void number(const Section& section, std::string_view key, int& value, int low, int high);
    void share(const Section& section, std::string_view key, double& value, double high);
    void file(const Section& section, std::string_view key, std::string& value);
    std::optional<Secrets> secrets(const Section& section, std::string_view key, std::string& path);
    void each(const Place& place, const std::function<void(const Place&)>& visit);

    Findings findings_;
    std::filesystem::path directory_;  // relative paths start here
    bool files_;
    Config config_;
};

bool Reader::scalar(const Place& place, std::string& value, const Check& check) {
    if (!place.node.IsScalar()) {
        problem(place, "is not a single value");
        return false;
    }
    std::string text = place.node.Scalar();
    if (text.find("${") != std::string::npos) {
        problem(place, "holds \"${\": variables are not replaced here; write the value itself");
        return false;
    }
    if (text.empty()) {
        problem(place, "is empty");
        return false;
    }
    const std::string wrong = check ? check(text) : std::string();
    if (!wrong.empty()) {
        problem(place, in_quotes(place.node.Scalar()) + " " + wrong);
        return false;
    }
    value = std::move(text);
    return true;
}

bool Reader::text(const Section& section, std::string_view key, std::string& value,
                  const Check& check) {
    const Place* place = section.get(key);
    return place != nullptr && scalar(*place, value, check);
}

void Reader::each(const Place& place, const std::function<void(const Place&)>& visit) {
    if (!place.node.IsSequence()) {
        problem(place, "is not a list; expected [a, b] or lines that begin with \"- \"");
        return;
    }
    std::size_t index = 0;
    for (const auto& item : place.node) {
        visit(Place{item, place.name + "[" + std::to_string(index++) + "]", item.Mark().line});
    }
}

void Reader::texts(const Section& section, std::string_view key, std::vector<std::string>& values,
                   const Check& check) {
    const Place* place = section.get(key);
    if (place == nullptr) return;
    values.clear();
    each(*place, [&](const Place& item) {
        std::string value;
        if (!scalar(item, value, check)) return;
        if (std::find(values.begin(), values.end(), value) != values.end()) {
            problem(item, in_quotes(value) + " is there twice");
            return;
        }
        values.push_back(std::move(value));
    });
}

template <class T>
void Reader::choice(const Section& section, std::string_view key, T& value,
                    std::initializer_list<std::pair<std::string_view, T>> choices) {
    std::string written;
    text(section, key, written, [&](std::string& given) -> std::string {
        std::vector<std::string_view> names;
        for (const auto& [name, meaning] : choices) {
            if (name == given) {
                value = meaning;
                return {};
            }
            names.push_back(name);
        }
        return "is not known; expected one of " + joined(names);
    });
}

bool Reader::duration(const Section& section, std::string_view key, Millis& value, Millis low,
                      Millis high) {
    std::string written;
    return text(section, key, written, [&](std::string& given) -> std::string {
        const auto parsed = parse_duration(given);
        if (!parsed) return "is not a duration such as 90s, 1h30m or 7d";
        if (*parsed < low || *parsed > high) {
            return "is not between " + format_duration(low) + " and " + format_duration(high);
        }
        value = *parsed;
        return {};
    });
}

void Reader::rate(const Section& section, std::string_view key, Rate& value) {
    std::string written;
    text(section, key, written, [&](std::string& given) -> std::string {
        const auto parsed = parse_rate(given);
        if (!parsed) {
            return "is not a rate; expected N/s, N/m, N/h or N/d with N from 1, or unlimited"
                   " (to write nothing at all: mode: observe)";
        }
        value = *parsed;
        return {};
    });
}

void Reader::number(const Section& section, std::string_view key, int& value, int low, int high) {
    std::string written;
    text(section, key, written, [&](std::string& given) -> std::string {
        const auto count = whole_number(given);
        if (!count || *count < low || *count > high) {
            return "is not a number from " + std::to_string(low) + " to " + std::to_string(high);
        }
        value = *count;
        return {};
    });
}

void Reader::share(const Section& section, std::string_view key, double& value, double high) {
    std::string written;
    text(section, key, written, [&](std::string& given) -> std::string {
        double share = -1;
        const char* const last = given.data() + given.size();
        const auto [end, error] = std::from_chars(given.data(), last, share);
        if (error != std::errc{} || end != last || !(share >= 0 && share <= high)) {
            return std::string("is not a share from 0 to ") + (high < 1 ? "0.9" : "1") +
                   ", such as 0.25";
        }
        value = share;
        return {};
    });
}

// A path that must be a readable regular file; relative ones start at the configuration's
// directory.
void Reader::file(const Section& section, std::string_view key, std::string& value) {
    text(section, key, value, [&](std::string& given) -> std::string {
        given = (directory_ / given).lexically_normal().string();
        if (!files_) return "";
        struct stat status {};
        if (::stat(given.c_str(), &status) != 0 || ::access(given.c_str(), R_OK) != 0) {
            return "cannot be read: " + std::generic_category().message(errno) + " (" + given + ")";
        }
        return S_ISREG(status.st_mode) ? "" : "is not a file";
    });
}

std::optional<Secrets> Reader::secrets(const Section& section, std::string_view key,
                                       std::string& path) {
    const Place* place = section.get(key);
    if (place == nullptr || !scalar(*place, path)) return std::nullopt;
    path = (directory_ / path).lexically_normal().string();
    if (!files_) return std::nullopt;
    const auto content = read_secret_file(path);
    if (!content) {
        problem(*place, content.error().text);
        return std::nullopt;
    }
    auto parsed = Secrets::parse(*content);
    if (!parsed) {
        problem(*place, path + ": " + parsed.error().text +
                            "; expected one whsec_<base64> a line, 24 to 64 bytes decoded");
        return std::nullopt;
    }
    return std::move(*parsed);
}

void Reader::read_top(const Section& top) {
    choice<Mode>(top, "mode", config_.mode, {{"observe", Mode::observe}, {"act", Mode::act}});
    text(top, "timeZone", config_.time_zone, [](std::string& name) -> std::string {
        return is_time_zone(name)
                   ? ""
                   : "is not a time zone of this machine, such as UTC or Europe/Sofia";
    });
    if (const Place* place = top.get("listen")) {
        each(*place, [this](const Place& item) { read_listen(item); });
    } else {
        config_.listen.emplace_back().at = kDefaultListen;
    }
    const auto section = [&](std::string_view key, void (Reader::*read)(const Section&)) {
        if (const Place* place = top.get(key)) {
            (this->*read)(Section(findings_, *place, std::string(key)));
        }
    };
    section("ledger", &Reader::read_ledger);
    if (const Place* place = top.get_written("kubernetes");
        place != nullptr && place->node.IsNull()) {
        problem(*place,
                "is empty; write {} for the cluster that keeld runs in, or take the key out for a "
                "watcher without a cluster");
    }
    section("kubernetes", &Reader::read_kubernetes);
    if (const Place* place = top.get("caches")) {
        each(*place, [this](const Place& item) { read_cache(Section(findings_, item, "caches")); });
    }
    if (const Place* place = top.get("events")) {
        const Section events(findings_, *place, "events");
        std::string path;
        config_.event_secrets = secrets(events, "secret", path);
    }
    if (const Place* place = top.get("webhooks")) {
        const Section webhooks(findings_, *place, "webhooks");
        for (const auto& [name, webhook] : webhooks.items())
            read_webhook(name, webhook);
    }
    if (const Place* place = top.get("registries")) {
        const Section registries(findings_, *place, "registries");
        for (const auto& [name, registry] : registries.items())
            read_registry(name, registry);
    }
    section("enrolment", &Reader::read_enrolment);
    section("defaults", &Reader::read_defaults);
    if (const Place* place = top.get("pacing")) read_pacing(*place);
    section("breaker", &Reader::read_breaker);
    const auto list = [&](const std::string& key, void (Reader::*read)(const Section&)) {
        const Place* place = top.get(key);
        if (place == nullptr) return;
        each(*place, [&](const Place& item) {
            const Section section(findings_, item, key);
            if (item.node.IsMap()) (this->*read)(section);
        });
    };
    list("windows", &Reader::read_window);
    list("phases", &Reader::read_phase);
    list("groups", &Reader::read_group);
    list("priorities", &Reader::read_priority);
    read_small_sections(top);
    if (const Place* place = top.get("stateful")) {
        const Section stateful(findings_, *place, "stateful");
        texts(stateful, "images", config_.stateful_images, nullptr);
    }
}

void Reader::read_listen(const Place& place) {
    const Section section(findings_, place, "listen");
    if (!place.node.IsMap()) return;
    ListenConfig listen;
    if (section.get("at") == nullptr)
        problem(place, "needs \"at\", for example unix:/run/keeld/keeld.sock");
    text(section, "at", listen.at, [](std::string& at) -> std::string {
        const auto address = ListenAddress::parse(at);
        if (!address) return "cannot be listened on: " + address.error().text;
        at = address->to_string();
        return {};
    });
    text(section, "mode", listen.mode, [](std::string& mode) -> std::string {
        const bool octal =
            mode.size() >= 3 && mode.size() <= 4 &&
            std::all_of(mode.begin(), mode.end(), [](char c) { return c >= '0' && c <= '7'; });
        if (!octal || (mode.size() == 4 && mode[0] != '0'))
            return "is not an octal mode such as \"0660\"";
        return {};
    });
    text(section, "group", listen.group, [](std::string& group) -> std::string {
        return ::getgrnam(group.c_str()) != nullptr ? "" : "is not a group of this machine";
    });
    texts(section, "serve", listen.serve, [](std::string& part) -> std::string {
        if (part == "api" || part == "events" || part == "webhooks" || part == "metrics") return {};
        return "is not known; expected some of api, events, webhooks, metrics";
    });
    const auto same = [&](const ListenConfig& other) { return other.at == listen.at; };
    if (!listen.at.ends_with(":0") &&
        std::any_of(config_.listen.begin(), config_.listen.end(), same)) {
        problem(place, in_quotes(listen.at) + " is there twice");
    }
    config_.listen.push_back(std::move(listen));
}

void Reader::read_webhook(const std::string& name, const Place& place) {
    const auto sender = webhook_sender(name);
    if (!sender) {
        std::string all;
        for (std::size_t i = 0; i < kWebhookSenders; ++i) {
            all += (i == 0 ? "" : ", ") + std::string(to_string(static_cast<WebhookSender>(i)));
        }
        problem(place, "is not known; expected one of " + all);
        return;
    }
    const Section section(findings_, place, "webhooks.*");
    if (!place.node.IsMap()) return;
    WebhookConfig& webhook = config_.webhooks[name];
    const Place* auth = section.get("auth");
    const Place* secret = section.get("secret");
    if (auth == nullptr) {
        problem(place, "needs \"auth\": none, basic, bearer or hmac");
        return;
    }
    choice<WebhookAuth>(section, "auth", webhook.auth,
                        {{"none", WebhookAuth::none},
                         {"basic", WebhookAuth::basic},
                         {"bearer", WebhookAuth::bearer},
                         {"hmac", WebhookAuth::hmac}});
    if (webhook.auth == WebhookAuth::hmac && !signs(*sender)) {
        problem(*auth, "is hmac, and this sender does not sign; expected none, basic or bearer");
    } else if (webhook.auth == WebhookAuth::none && secret != nullptr && auth->node.IsScalar() &&
               auth->node.Scalar() == "none") {
        problem(*secret, "is set, and auth is none; take one of them out");
    } else if (webhook.auth != WebhookAuth::none && secret == nullptr) {
        problem(place,
                "needs \"secret\", the file that " + auth->node.Scalar() + " is checked with");
    } else if (webhook.auth != WebhookAuth::none) {
        webhook.secrets = webhook_secrets(*secret, webhook.auth);
    }
}

// One a line.
std::vector<std::string> Reader::webhook_secrets(const Place& place, WebhookAuth auth) {
    constexpr std::size_t kShortest = 8;
    std::string path;
    if (!scalar(place, path) || !files_) return {};
    path = (directory_ / path).lexically_normal().string();
    const auto content = read_secret_file(path);
    if (!content) {
        problem(place, content.error().text);
        return {};
    }
    std::vector<std::string> secrets;
    std::string_view rest = *content;
    for (int line = 1; !rest.empty(); ++line) {
        std::string_view one = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), one.size() + 1));
        while (!one.empty() && (one.back() == ' ' || one.back() == '\r' || one.back() == '\t'))
            one.remove_suffix(1);
        if (one.empty()) continue;
        const bool pair = auth != WebhookAuth::basic || one.find(':') != std::string_view::npos;
        if (one.size() < kShortest || !pair) {
            problem(place, path + ": line " + std::to_string(line) + " is no secret; expected " +
                               (auth == WebhookAuth::basic ? "USER:PASSWORD, " : "") +
                               "8 bytes or more");
            continue;
        }
        secrets.emplace_back(one);
    }
    if (secrets.empty()) problem(place, path + ": holds no secret; expected one a line");
    return secrets;
}

void Reader::read_ledger(const Section& section) {
    text(section, "path", config_.ledger_path, [this](std::string& path) -> std::string {
        path = (directory_ / path).lexically_normal().string();
        return {};
    });
    // Pacing counts what was intended in the last day at most.
    duration(section, "keep", config_.ledger_keep, hours{48}, hours{24 * 36'500});
    choice<bool>(section, "onLoss", config_.ledger_loss_observe,
                 {{"observe", true}, {"act", false}});
}

std::string namespace_problem(const std::string& name) {
    return is_label(name) ? "" : "is not a namespace's name (lower-case letters, digits and -)";
}

void Reader::read_kubernetes(const Section& section) {
    KubernetesConfig kubernetes;
    file(section, "kubeconfig", kubernetes.kubeconfig);
    text(section, "context", kubernetes.context);
    if (const Place* context = section.get("context");
        context != nullptr && section.get("kubeconfig") == nullptr) {
        problem(*context, "is set, but kubernetes.kubeconfig is not");
    }
    texts(section, "namespaces", kubernetes.namespaces, namespace_problem);
    if (const Place* place = section.get("lease")) {
        const Section lease(findings_, *place, "kubernetes.lease");
        text(lease, "namespace", kubernetes.lease_namespace, namespace_problem);
        text(lease, "name", kubernetes.lease_name, [](std::string& name) -> std::string {
            return is_subdomain(name) ? "" : "is not a name that Kubernetes takes";
        });
    }
    config_.kubernetes = std::move(kubernetes);
}

void Reader::read_cache(const Section& section) {
    CacheConfig cache;
    if (section.get("name") == nullptr) {
        findings_.add(section.line(), section.name(),
                      "needs \"name\", as keel_cache_name in nginx has it");
    }
    text(section, "name", cache.name, [](std::string& name) -> std::string {
        return is_label_word(name) ? "" : "is not a cache's name (letters, digits, -, _ and .)";
    });
    if (section.get("api") == nullptr) {
        findings_.add(section.line(), section.name(),
                      "needs \"api\", the URL of the location with keel_api");
    }
    text(section, "api", cache.api, [](std::string& url) -> std::string {
        return url.starts_with("unix:") ? unix_url_problem(url) : base_url_problem(url);
    });
    cache.secrets = secrets(section, "secret", cache.secret);
    if (const Place* place = section.get("lookup")) read_lookup(*place, cache);
    text(section, "namespace", cache.ns, namespace_problem);
    const auto same = [&](const CacheConfig& other) { return other.name == cache.name; };
    if (!cache.name.empty() && std::any_of(config_.caches.begin(), config_.caches.end(), same)) {
        problem(*section.get("name"), in_quotes(cache.name) + " is the name of two caches");
    }
    config_.caches.push_back(std::move(cache));
}

void Reader::read_lookup(const Place& place, CacheConfig& cache) {
    if (place.node.IsScalar()) {
        std::string url;
        if (scalar(place, url, base_url_problem)) cache.lookup["*"] = url;
        return;
    }
    const Section section(findings_, place, "caches.lookup");
    for (const auto& [registry, item] : section.items()) {
        if (const std::string wrong = registry_problem(registry); !wrong.empty()) {
            problem(item, wrong);
        }
        std::string url;
        if (scalar(item, url, base_url_problem)) cache.lookup[registry] = url;
    }
}

void Reader::read_registry(const std::string& name, const Place& place) {
    if (const std::string wrong = registry_problem(name); !wrong.empty()) problem(place, wrong);
    const Section section(findings_, place, "registries.*");
    if (!place.node.IsMap()) return;
    RegistryConfig registry;
    text(section, "through", registry.through, [this](std::string& cache) -> std::string {
        const auto same = [&](const CacheConfig& each) { return each.name == cache; };
        if (std::any_of(config_.caches.begin(), config_.caches.end(), same)) return {};
        std::vector<std::string_view> names;
        for (const CacheConfig& each : config_.caches)
            names.push_back(each.name);
        return "is not the name of a cache; " +
               (names.empty() ? "caches: is empty" : "there are " + joined(names));
    });
    text(section, "direct", registry.direct, base_url_problem);
    text(section, "upstream", registry.upstream, base_url_problem);
    rate(section, "requests", registry.requests);
    rate(section, "pulls", registry.pulls);
    share(section, "reserve", registry.reserve, 0.9);
    if (const Place* credentials = section.get("credentials")) {
        read_credentials(*credentials, registry.credentials);
    }
    const bool through = section.get("through") != nullptr;
    const bool direct = section.get("direct") != nullptr;
    if (through && direct)
        problem(place, "has both through and direct; only one says where it is asked");
    if (!through && !direct)
        problem(place, "needs \"through\" (a cache's name) or \"direct\" (a URL)");
    config_.registries[name] = std::move(registry);
}

void Reader::read_credentials(const Place& place, CredentialsConfig& credentials) {
    using Kind = CredentialsConfig::Kind;
    if (place.node.IsScalar()) {
        std::string word;
        scalar(place, word, [&](std::string& given) -> std::string {
            if (given == "none" || given == "pullSecrets") {
                credentials.kind = given == "none" ? Kind::none : Kind::pull_secrets;
                return {};
            }
            return "is not known; expected none, pullSecrets, {config: FILE} or {helper: NAME}";
        });
        return;
    }
    const Section section(findings_, place, "registries.*.credentials");
    if (!place.node.IsMap()) return;
    file(section, "config", credentials.config);
    text(section, "helper", credentials.helper, [this](std::string& name) -> std::string {
        if (!is_label_word(name)) return "is not a helper's name (letters, digits, -, _ and .)";
        return !files_ || is_program("docker-credential-" + name)
                   ? ""
                   : "needs the program docker-credential-" + name + ", which is not in PATH";
    });
    const bool config = section.get("config") != nullptr;
    const bool helper = section.get("helper") != nullptr;
    if (config == helper) {
        problem(place, config ? "has both config and helper; expected one of them"
                              : "needs config (a file) or helper (a name)");
    }
    credentials.kind = config ? Kind::config : Kind::helper;
    if (credentials.config.empty() || !files_) return;
    const Expected<DockerConfig> parsed = DockerConfig::parse(text_of_file(credentials.config));
    if (!parsed) {
        problem(*section.get("config"),
                in_quotes(credentials.config) + " is not a config.json: " + parsed.error().text);
    }
}

void Reader::read_enrolment(const Section& section) {
    std::string label;
    text(section, "label", label, [this](std::string& given) -> std::string {
        const auto equals = given.find('=');
        const std::string key = given.substr(0, equals);
        const std::string value = equals == std::string::npos ? "" : given.substr(equals + 1);
        if (!is_qualified_name(key) || !is_label_word(value)) {
            return "is not a label KEY=VALUE such as keel.sh/enrolled=true";
        }
        config_.enrolment.label_key = key;
        config_.enrolment.label_value = value;
        return {};
    });
    texts(section, "exclude", config_.enrolment.exclude, namespace_problem);
    choice<bool>(section, "workloadAnnotation", config_.enrolment.workload_annotation,
                 {{"true", true}, {"false", false}});
}

std::string policy_problem(const std::string& text) {
    const Expected<Policy> policy = Policy::parse(text);
    return policy ? "" : "is not a policy: " + policy.error().text;
}

std::string schedule_problem(const std::string& text) {
    const auto schedule = PollSchedule::parse(text);
    return schedule ? "" : "is no schedule: " + schedule.error().text;
}

void Reader::read_defaults(const Section& section) {
    DefaultsConfig& defaults = config_.defaults;
    text(section, "policy", defaults.policy, policy_problem);
    choice<Trigger>(section, "trigger", defaults.trigger,
                    {{"all", Trigger::all}, {"poll", Trigger::all}, {"push", Trigger::push}});
    choice<Step>(section, "step", defaults.step,
                 {{"highest", Step::highest}, {"next", Step::next}});
    text(section, "pollSchedule", defaults.poll_schedule, schedule_problem);
    duration(section, "minAge", defaults.min_age, Millis{0}, hours{24 * 365});
    duration(section, "soak", defaults.soak, Millis{0}, hours{24 * 7});
    choice<bool>(section, "reversible", defaults.reversible, {{"true", true}, {"false", false}});
    choice<Reverts>(
        section, "reverts", defaults.reverts,
        {{"ask", Reverts::ask}, {"follow", Reverts::follow}, {"never", Reverts::never}});
    Millis deadline{};
    if (duration(section, "deadline", deadline, seconds{1}, hours{24}))
        defaults.deadline = deadline;
    text(section, "restartKey", defaults.restart_key, [](std::string& key) -> std::string {
        return is_qualified_name(key) ? "" : "is not an annotation's key";
    });
}

void Reader::read_pacing(const Place& place) {
    if (place.node.IsScalar()) {
        if (place.node.Scalar() == "unlimited") {
            config_.pacing = PacingConfig{.cluster = {.count = 0, .per = hours{1}},
                                          .ns = {.count = 0, .per = hours{1}},
                                          .concurrent = 0};
        } else {
            problem(place, in_quotes(place.node.Scalar()) +
                               " is not known; expected cluster, namespace and concurrent below "
                               "it, or unlimited");
        }
        return;
    }
    const Section section(findings_, place, "pacing");
    rate(section, "cluster", config_.pacing.cluster);
    rate(section, "namespace", config_.pacing.ns);
    std::string concurrent;
    text(section, "concurrent", concurrent, [this](std::string& given) -> std::string {
        const auto count = given == "unlimited" ? 0 : whole_number(given);
        if (!count || *count > 1000 || (*count < 1 && given != "unlimited")) {
            return "is not a number from 1 to 1000, or unlimited";
        }
        config_.pacing.concurrent = *count;
        return {};
    });
}

void Reader::read_breaker(const Section& section) {
    number(section, "failures", config_.breaker.failures, 0, 1000);
    number(section, "of", config_.breaker.of, 1, 1000);
    share(section, "share", config_.breaker.share, 1);
}

// "22:00", also "24:00", into minutes since midnight.
std::optional<minutes> parse_clock(std::string_view text) {
    if (text.size() != 5 || text[2] != ':') return std::nullopt;
    const auto hour = whole_number(text.substr(0, 2));
    const auto minute = whole_number(text.substr(3));
    if (!hour || !minute || *hour < 0 || *minute < 0 || *minute > 59) return std::nullopt;
    const minutes sum = hours{*hour} + minutes{*minute};
    return sum <= hours{24} ? std::optional(sum) : std::nullopt;
}

// A namespace's name in which * and ? stand for other characters.
std::string namespace_glob_problem(const std::string& glob) {
    const bool plain = std::ranges::all_of(
        glob, [](char c) { return is_lower_alnum(c) || c == '-' || c == '*' || c == '?'; });
    return plain ? "" : "is no namespace's name, with * or ? in it or not";
}

std::string workload_glob_problem(const std::string& glob) {
    return std::ranges::count(glob, '/') == 2
               ? ""
               : "is not of the form KIND/NAMESPACE/NAME, such as Deployment/immich/* or */db-*/*";
}

std::string name_problem(const std::string& name) {
    return is_label_word(name) ? "" : "is not a name (letters, digits, -, _ and .)";
}

template <class List>
std::string taken_problem(const List& list, const std::string& name) {
    const bool taken = std::ranges::any_of(list, [&](const auto& one) { return one.name == name; });
    return taken ? "is there twice" : name_problem(name);
}

void Reader::read_window(const Section& section) {
    static constexpr std::string_view kDays[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};
    WindowConfig window;
    if (section.get("name") == nullptr) {
        findings_.add(section.line(), section.name(), "needs \"name\"");
    }
    text(section, "name", window.name,
         [this](std::string& name) { return taken_problem(config_.windows, name); });
    if (section.get("days") != nullptr) {
        std::vector<std::string> days;
        window.days = 0;
        texts(section, "days", days, [&window](std::string& day) -> std::string {
            const auto* found = std::ranges::find(kDays, day);
            if (found == std::end(kDays)) return "is not one of mon tue wed thu fri sat sun";
            window.days |= 1U << static_cast<unsigned>(found - std::begin(kDays));
            return {};
        });
        if (window.days == 0) problem(*section.get("days"), "names no day: it would never open");
    }
    const auto time = [&](std::string_view key, minutes& value, minutes highest) {
        std::string written;
        text(section, key, written, [&](std::string& given) -> std::string {
            const auto parsed = parse_clock(given);
            if (!parsed || *parsed > highest) return "is not a time of day such as \"22:00\"";
            value = *parsed;
            return {};
        });
    };
    time("from", window.from, hours{24} - minutes{1});
    time("to", window.to, hours{24});
    text(section, "zone", window.zone, [](std::string& name) -> std::string {
        return is_time_zone(name) ? "" : "is not a time zone of this machine, such as Europe/Sofia";
    });
    texts(section, "namespaces", window.namespaces, namespace_glob_problem);
    config_.windows.push_back(std::move(window));
}

void Reader::read_phase(const Section& section) {
    PhaseConfig phase;
    if (section.get("name") == nullptr) {
        findings_.add(section.line(), section.name(), "needs \"name\"");
    }
    text(section, "name", phase.name,
         [this](std::string& name) { return taken_problem(config_.phases, name); });
    texts(section, "namespaces", phase.namespaces, namespace_glob_problem);
    if (const Place* select = section.get("select")) {
        const Section labels(findings_, *select, "phases.select");
        if (const Place* match = labels.get("matchLabels")) {
            const Section pairs(findings_, *match, "phases.select.matchLabels");
            for (const auto& [key, item] : pairs.items()) {
                if (!is_qualified_name(key)) problem(item, "is not a label's key");
                scalar(item, phase.selector[key]);
            }
        }
    }
    if (phase.namespaces.empty() && phase.selector.empty()) {
        findings_.add(section.line(), section.name(),
                      "matches nothing; expected namespaces, select.matchLabels or both");
    }
    duration(section, "soak", phase.soak, Millis{0}, hours{24 * 365});
    if (const Place* place = section.get("accept")) {
        const Section accept(findings_, *place, "phases.accept");
        duration(accept, "newestWithin", phase.accept.newest_within, minutes{1}, hours{24 * 365});
        duration(accept, "crashLoop", phase.accept.crash_loop, Millis{0}, hours{24 * 365});
        number(accept, "pinnedOut", phase.accept.pinned_out, 0, 100'000);
    }
    choice<bool>(section, "advance", phase.automatic, {{"approval", false}, {"auto", true}});
    texts(section, "windows", phase.windows, [this](std::string& name) -> std::string {
        const bool known = std::ranges::any_of(
            config_.windows, [&name](const WindowConfig& one) { return one.name == name; });
        return known ? "" : "is not the name of a window";
    });
    if (const Place* place = section.get("settings")) {
        read_phase_settings(Section(findings_, *place, "phases.settings"), phase);
    }
    config_.phases.push_back(std::move(phase));
}

// The same words that the annotations take, checked here because here they are nobody else's fault.
void Reader::read_phase_settings(const Section& section, PhaseConfig& phase) {
    const auto one_of = [](std::initializer_list<std::string_view> words) -> Check {
        const std::vector<std::string_view> known(words);
        return [known](std::string& given) -> std::string {
            return std::ranges::find(known, given) != known.end() ? ""
                                                                  : "is none of " + joined(known);
        };
    };
    const auto whole = [](int lowest, int highest, const char* what) -> Check {
        return [=](std::string& given) -> std::string {
            const auto count = whole_number(given);
            return count && *count >= lowest && *count <= highest
                       ? ""
                       : "is not a number of " + std::string(what) + " from " +
                             std::to_string(lowest) + " to " + std::to_string(highest);
        };
    };
    const Check is_duration = [](std::string& given) -> std::string {
        return parse_duration(given) ? "" : "is not a duration such as 24h";
    };
    const std::pair<std::string_view, Check> kinds[] = {
        {"policy", policy_problem},
        {"trigger", one_of({"all", "poll", "push"})},
        {"pollSchedule", schedule_problem},
        {"matchPreRelease", one_of({"true", "false"})},
        {"step", one_of({"highest", "next"})},
        {"minAge", is_duration},
        {"soak", is_duration},
        {"reversible", one_of({"true", "false"})},
        {"approvals", whole(0, 100, "votes")},
        {"approvalDeadline", whole(1, 8760, "hours")},
        {"stateful", one_of({"allow"})},
        {"operator-owned", one_of({"allow"})},
        {"second-owner", one_of({"allow"})},
        {"all-at-once", one_of({"allow"})},
        {"disruption-budget", one_of({"allow"})},
        {"draining", one_of({"allow"})},
        {"host-port-in-use", one_of({"allow"})},
        {"volume-in-use", one_of({"allow"})},
    };
    for (const auto& [key, check] : kinds) {
        std::string value;
        if (text(section, key, value, check)) {
            phase.settings["keel.sh/" + std::string(key)] = std::move(value);
        }
    }
}

void Reader::read_group(const Section& section) {
    GroupConfig group;
    if (section.get("name") == nullptr || section.get("workloads") == nullptr) {
        findings_.add(section.line(), section.name(), "needs \"name\" and \"workloads\"");
    }
    text(section, "name", group.name,
         [this](std::string& name) { return taken_problem(config_.groups, name); });
    texts(section, "workloads", group.workloads, workload_glob_problem);
    config_.groups.push_back(std::move(group));
}

void Reader::read_priority(const Section& section) {
    PriorityConfig priority;
    texts(section, "workloads", priority.workloads, workload_glob_problem);
    number(section, "value", priority.value, -1'000'000, 1'000'000);
    config_.priorities.push_back(std::move(priority));
}

void Reader::read_small_sections(const Section& top) {
    if (const Place* place = top.get("stamp")) {
        const Section stamp(findings_, *place, "stamp");
        choice<bool>(stamp, "enabled", config_.stamp, {{"true", true}, {"false", false}});
    }
    if (const Place* place = top.get("settings")) {
        const Section settings(findings_, *place, "settings");
        texts(settings, "ignoreManagers", config_.ignored_managers, nullptr);
        texts(settings, "imageOwners", config_.image_owners, nullptr);
    }
    if (const Place* place = top.get("cap")) {
        const Section cap(findings_, *place, "cap");
        number(cap, "workloads", config_.cap, 0, 1'000'000);
    }
}

// What is right by itself and wrong beside the rest.
void Reader::check_together(const Section& top) {
    const Place* caches = top.get("caches");
    const Place* events = top.get("events");
    const bool secret =
        events != nullptr && events->node.IsMap() && events->node["secret"].IsDefined();
    if (!config_.caches.empty() && !secret) {
        const Place* where = events != nullptr ? events : caches;
        findings_.add(
            where != nullptr ? where->line : -1, "events.secret",
            "is missing, and caches are there: their events would be refused; expected the "
            "file that keel_companion in nginx names");
    }
    const bool served = std::ranges::any_of(config_.listen, [](const ListenConfig& listen) {
        return listen.serve.empty() ||
               std::ranges::find(listen.serve, "webhooks") != listen.serve.end();
    });
    if (!config_.webhooks.empty() && !config_.listen.empty() && !served) {
        findings_.add(top.get("webhooks")->line, "webhooks",
                      "has senders, and no listener has webhooks in its serve");
    }
    if (config_.caches.empty() && config_.registries.empty() && !config_.kubernetes) {
        findings_.add(-1, "",
                      "nothing to look at: neither caches nor registries nor kubernetes are there");
    }
    for (const auto& [name, registry] : config_.registries) {
        if (registry.credentials.kind == CredentialsConfig::Kind::pull_secrets &&
            !config_.kubernetes) {
            const Place place{top.get("registries")->node, "registries." + name + ".credentials",
                              -1};
            findings_.add(place.node[name].Mark().line, place.name,
                          "is pullSecrets, and there is no kubernetes: nobody has any");
        }
        for (const CacheConfig& cache : config_.caches) {
            if (cache.name != registry.through || cache.lookup.contains("*") ||
                cache.lookup.contains(name)) {
                continue;
            }
            const Place place{top.get("registries")->node, "registries." + name + ".through", -1};
            findings_.add(place.node[name].Mark().line, place.name,
                          "goes through " + in_quotes(cache.name) +
                              ", whose \"lookup\" has no URL for " + name +
                              ": its tags could never be looked up");
        }
    }
}

ConfigResult Reader::read(std::string text) {
    std::vector<YAML::Node> documents;
    try {
        documents = YAML::LoadAll(text);
    } catch (const YAML::Exception& error) {
        findings_.add(error.mark.line, "", "is not YAML: " + error.msg);
    }
    if (!findings_.empty()) return {std::nullopt, findings_.take()};
    if (documents.size() > 1) {
        findings_.add(documents[1].Mark().line, "",
                      "a second document begins here; only one is read");
    }
    const YAML::Node root = documents.empty() ? YAML::Node() : documents.front();
    const Place place{root.IsNull() ? YAML::Node(YAML::NodeType::Map) : root, "", 0};
    try {
        const Section top(findings_, place, "");
        read_top(top);
        check_together(top);
    } catch (const YAML::Exception& error) {
        findings_.add(error.mark.line, "", error.msg);
    }
    if (!findings_.empty()) return {std::nullopt, findings_.take()};
    config_.text = std::move(text);
    return {std::move(config_), {}};
}

}  // namespace

std::vector<std::string> default_stateful_images() {
    // By the last parts of what their publishers call them. Redis and its kin are left out on
    // purpose: most are caches, and those that keep data run in StatefulSets, which are blocked
    // anyway.
    return {"*/postgres",     "*/postgresql",   "*/postgis",      "*/pgvector",
            "*/timescaledb*", "*/mysql",        "*/mysql-server", "*/mariadb",
            "*/percona*",     "*/mongo",        "*/mongodb*",     "*/couchdb",
            "*/cassandra",    "*/scylla",       "*/clickhouse",   "*/clickhouse-server",
            "*/cockroach",    "*/neo4j",        "*/influxdb",     "*/elasticsearch",
            "*/opensearch",   "*/mssql/server", "*/etcd"};
}

std::vector<std::string> supported_config_keys() {
    std::vector<std::string> keys;
    for (const Key& key : kKeys) {
        if (key.supported) keys.emplace_back(key.path);
    }
    return keys;
}

ConfigResult load_config(const std::string& path) {
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (!file || file.bad()) {
        const std::string reason =
            errno != 0 ? std::generic_category().message(errno) : "no such file";
        return {std::nullopt,
                {Error{"config",
                       path + ": cannot be read: " + reason + "; name the file with --config"}}};
    }
    return Reader(path, true).read(std::move(text));
}

ConfigResult parse_config(const std::string& text, const std::string& path) {
    return Reader(path, false).read(text);
}

}  // namespace keel
