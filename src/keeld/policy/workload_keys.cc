#include "keeld/policy/workload_keys.h"

#include <set>
#include <utility>

#include "keeld/policy/settings.h"

namespace keel {
namespace {

// What one workload says about whose credentials its images are pulled with.
struct Source {
    std::string ns;
    std::string account;  // empty: its secrets reach no pod of the workload
    std::vector<std::string> secrets;
};

}  // namespace

WorkloadKeys::WorkloadKeys(const Config& config, const PhaseStates& phases,
                           const Catalogue& catalogue, PullSecrets& secrets)
    : config_(config), phases_(phases), catalogue_(catalogue), secrets_(secrets) {}

Task<std::vector<Key>> WorkloadKeys::keys(std::string registry, std::string repository) {
    std::set<WorkloadKey> consumers;
    for (const auto& [tag, keys] : catalogue_.by_tag()) {
        if (tag.registry == registry && tag.repository == repository) {
            consumers.insert(keys.begin(), keys.end());
        }
    }
    // All of it before the first wait: the catalogue changes meanwhile.
    std::vector<Source> sources;
    for (const WorkloadKey& key : consumers) {
        const CatalogueEntry* entry = catalogue_.find(key);
        const Namespace* ns = catalogue_.find_namespace(key.ns);
        if (entry == nullptr || !standing_of(entry->object, ns, config_, phases_).ours) {
            continue;
        }
        Source source{key.ns, "", entry->object.pull_secrets};
        // Kubernetes gives a pod its ServiceAccount's secrets only where it names none itself.
        if (source.secrets.empty()) {
            const std::string& named = entry->object.service_account;
            source.account = named.empty() ? "default" : named;
        }
        const Setting own = shared_settings_of(entry->object, ns, config_)->image_pull_secret;
        if (!own.value.empty()) {
            source.secrets.insert(source.secrets.begin(), own.value);
        }
        sources.push_back(std::move(source));
    }
    std::vector<Key> keys;
    std::set<std::pair<std::string, std::string>> accounts;
    std::set<std::pair<std::string, std::string>> secrets;
    for (const Source& source : sources) {
        std::vector<std::string> names = source.secrets;
        if (!source.account.empty() && accounts.emplace(source.ns, source.account).second) {
            const std::string ns = source.ns;
            const std::string account = source.account;
            const Expected<std::vector<std::string>> brought =
                co_await secrets_.of_account(ns, account);
            if (brought) {
                names.insert(names.end(), brought->begin(), brought->end());
            } else {
                keys.push_back(Key{"ServiceAccount " + ns + "/" + account,
                                   {},
                                   "it cannot be read: " + brought.error().text});
            }
        }
        for (const std::string& name : names) {
            if (name.empty() || !secrets.emplace(source.ns, name).second) {
                continue;
            }
            const std::string ns = source.ns;
            const std::string secret = name;
            const PullSecret read = co_await secrets_.read(ns, secret);
            const std::string where = "Secret " + ns + "/" + secret;
            if (read.config == nullptr) {
                keys.push_back(Key{where, {}, read.failure});
                continue;
            }
            const std::vector<Credential> fitting = read.config->find(registry, repository);
            for (const Credential& credential : fitting) {
                keys.push_back(Key{where, credential, {}});
            }
            if (fitting.empty()) {
                keys.push_back(Key{where, {}, "it has nothing for " + registry});
            }
        }
    }
    co_return keys;
}

}  // namespace keel
