#include "keeld/cluster/pull_secrets.h"

#include "core/base64.h"
#include "keeld/json.h"

namespace keel {
namespace {

constexpr std::chrono::minutes kKept{1};

std::string path_of(const std::string& ns, const char* resource, const std::string& name) {
    return "/api/v1/namespaces/" + query_escape(ns) + "/" + resource + "/" + query_escape(name);
}

PullSecret unusable(std::string why) {
    return {nullptr, std::move(why)};
}

PullSecret decode(const json_t* object) {
    const std::string_view type = text_of(object, "type");
    const char* key = type == "kubernetes.io/dockerconfigjson" ? ".dockerconfigjson"
                      : type == "kubernetes.io/dockercfg"      ? ".dockercfg"
                                                               : nullptr;
    if (key == nullptr) {
        return unusable("its type is " + std::string(type) +
                        "; expected kubernetes.io/dockerconfigjson");
    }
    const std::string_view encoded = text_of(json_object_get(object, "data"), key);
    const auto text = decode_base64(encoded);
    if (!text) {
        return unusable(std::string("its ") + key + " is missing or is not base64");
    }
    Expected<DockerConfig> config = DockerConfig::parse(*text);
    if (!config) {
        return unusable(std::string("its ") + key + " cannot be read: " + config.error().text);
    }
    return {std::make_shared<const DockerConfig>(std::move(*config)), {}};
}

}  // namespace

PullSecrets::PullSecrets(ClusterClient& client) : client_(client) {}

void PullSecrets::expire(Steady::time_point now) {
    std::erase_if(secrets_, [now](const auto& one) { return one.second.until <= now; });
    std::erase_if(accounts_, [now](const auto& one) { return one.second.until <= now; });
}

Task<PullSecret> PullSecrets::read(std::string ns, std::string name) {
    const Place place{ns, name};
    const auto known = secrets_.find(place);
    if (known != secrets_.end() && known->second.until > Steady::now()) {
        co_return known->second.value;
    }
    const std::string path = path_of(ns, "secrets", name);
    const Expected<Json> object = co_await client_.get(path);
    PullSecret secret;
    if (object) {
        secret = decode(object->get());
    } else if (object.error().code == "not-found") {
        secret.failure = "it does not exist";
    } else if (object.error().code == "forbidden") {
        secret.failure =
            "keeld may not read it: grant get on secrets in " + ns + " (conf/kubernetes/rbac.yaml)";
    } else {
        secret.failure = "it cannot be read: " + object.error().text;
        co_return secret;  // the API server's trouble, not the secret's
    }
    secrets_.insert_or_assign(place, Kept<PullSecret>{secret, Steady::now() + kKept});
    co_return secret;
}

Task<Expected<std::vector<std::string>>> PullSecrets::of_account(std::string ns, std::string name) {
    const Place place{ns, name};
    const auto known = accounts_.find(place);
    if (known != accounts_.end() && known->second.until > Steady::now()) {
        co_return known->second.value;
    }
    const std::string path = path_of(ns, "serviceaccounts", name);
    const Expected<Json> object = co_await client_.get(path);
    if (!object) {
        co_return tl::unexpected<Error>(object.error());
    }
    std::vector<std::string> names;
    const json_t* list = json_object_get(object->get(), "imagePullSecrets");
    for (std::size_t i = 0; i < json_array_size(list); ++i) {
        names.emplace_back(text_of(json_array_get(list, i), "name"));
    }
    accounts_.insert_or_assign(place, Kept<std::vector<std::string>>{names, Steady::now() + kKept});
    co_return names;
}

}  // namespace keel
