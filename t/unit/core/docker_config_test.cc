#include "core/docker_config.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace keel {
namespace {

using Found = std::vector<Credential>;

DockerConfig read(std::string_view json) {
    auto config = DockerConfig::parse(json);
    EXPECT_TRUE(config) << (config ? "" : config.error().text);
    return config ? *config : DockerConfig{};
}

// A config whose users are named after their entries.
DockerConfig with_keys(const std::vector<std::string>& keys) {
    std::string json = R"({"auths":{)";
    for (const std::string& key : keys) {
        if (json.back() != '{') json += ",";
        json += "\"" + key + R"(":{"username":")" + key + R"(","password":"p"})";
    }
    return read(json + "}}");
}

std::vector<std::string> users(const DockerConfig& config, std::string_view registry,
                               std::string_view repository) {
    std::vector<std::string> all;
    for (const Credential& one : config.find(registry, repository))
        all.push_back(one.username);
    return all;
}

using Users = std::vector<std::string>;

TEST(DockerConfig, reads_every_way_to_write_a_credential) {
    const DockerConfig config = read(R"({"auths":{
        "a.example":{"auth":"dXNlcjpwYTpzcw=="},
        "b.example":{"username":"user","password":"pass"},
        "c.example":{"identitytoken":"it"},
        "d.example":{"registrytoken":"rt"},
        "e.example":{"auth":"dXNlcjpwYTpzcw==\n","email":"x"},
        "f.example":{}},
        "HttpHeaders":{"x":"y"}})");
    EXPECT_EQ(config.find("a.example", "x"), (Found{{"user", "pa:ss", "", ""}}));
    EXPECT_EQ(config.find("b.example", "x"), (Found{{"user", "pass", "", ""}}));
    EXPECT_EQ(config.find("c.example", "x"), (Found{{"", "", "it", ""}}));
    EXPECT_EQ(config.find("d.example", "x"), (Found{{"", "", "", "rt"}}));
    EXPECT_EQ(config.find("e.example", "x"), (Found{{"user", "pa:ss", "", ""}}));
    EXPECT_TRUE(config.find("f.example", "x").empty());
    EXPECT_TRUE(config.find("z.example", "x").empty());
}

TEST(DockerConfig, reads_the_older_format) {
    const DockerConfig config =
        read(R"({"https://index.docker.io/v1/":{"auth":"dXNlcjpwYXNz","email":"a@b"}})");
    EXPECT_EQ(users(config, "docker.io", "library/nginx"), (Users{"user"}));
}

TEST(DockerConfig, the_hub_has_many_names) {
    for (const std::string key : {"https://index.docker.io/v1/", "index.docker.io", "docker.io",
                                  "https://docker.io", "index.docker.io/v2/"}) {
        EXPECT_EQ(users(with_keys({key}), "docker.io", "library/nginx"), (Users{key}));
        EXPECT_TRUE(users(with_keys({key}), "ghcr.io", "library/nginx").empty());
    }
}

TEST(DockerConfig, the_longest_path_comes_first) {
    const DockerConfig config =
        with_keys({"r.example", "r.example/team/app", "https://r.example/team", "r.example/other"});
    EXPECT_EQ(users(config, "r.example", "team/app/x"),
              (Users{"r.example/team/app", "https://r.example/team", "r.example"}));
    EXPECT_EQ(users(config, "r.example", "x"), (Users{"r.example"}));
}

TEST(DockerConfig, hosts_may_be_globs_label_by_label) {
    const DockerConfig config = with_keys({"*.example.com", "r?.example.org:5000", "*"});
    EXPECT_EQ(users(config, "a.example.com", "x"), (Users{"*.example.com"}));
    EXPECT_TRUE(users(config, "a.b.example.com", "x").empty()) << "a star stays within a label";
    EXPECT_TRUE(users(config, "example.com", "x").empty());
    EXPECT_EQ(users(config, "r1.example.org:5000", "x"), (Users{"r?.example.org:5000"}));
    EXPECT_TRUE(users(config, "r1.example.org", "x").empty()) << "the port is part of it";
    EXPECT_TRUE(users(config, "a.example.com:5000", "x").empty());
    EXPECT_EQ(users(config, "localhost", "x"), (Users{"*"}));
}

TEST(DockerConfig, equal_credentials_are_tried_once) {
    const DockerConfig config = read(
        R"({"auths":{"docker.io":{"auth":"dXNlcjpwYXNz"},"https://index.docker.io/v1/":{"auth":"dXNlcjpwYXNz"}}})");
    EXPECT_EQ(config.find("docker.io", "library/nginx").size(), 1u);
}

TEST(DockerConfig, helpers_are_named_for_their_hosts) {
    const DockerConfig config = read(
        R"({"auths":{"docker.io":{}},"credHelpers":{"1234.dkr.ecr.eu-west-1.amazonaws.com":"ecr-login","gcr.io":"gcloud"}})");
    EXPECT_EQ(config.helper("1234.dkr.ecr.eu-west-1.amazonaws.com"), "ecr-login");
    EXPECT_EQ(config.helper("gcr.io"), "gcloud");
    EXPECT_EQ(config.helper("docker.io"), std::nullopt);
    EXPECT_EQ(read(R"({"credsStore":"pass"})").helper("docker.io"), "pass");
    EXPECT_EQ(helper_question("docker.io"), "https://index.docker.io/v1/");
    EXPECT_EQ(helper_question("gcr.io"), "gcr.io");
    EXPECT_EQ(helper_answer(R"({"ServerURL":"x","Username":"u","Secret":"s"})"),
              (Credential{"u", "s", "", ""}));
    EXPECT_EQ(helper_answer(R"({"Username":"<token>","Secret":"s"})"),
              (Credential{"", "", "s", ""}));
    EXPECT_FALSE(helper_answer("credentials not found in native keychain"));
}

TEST(DockerConfig, what_is_wrong_is_named_and_never_shown) {
    const std::string secret = "c2VjcmV0";  // base64 of "secret": no user
    for (const std::string& json :
         {std::string{""}, std::string{"[]"}, std::string{"nonsense"},
          std::string{R"({"auths":[]})"}, R"({"auths":{"r.example":{"auth":")" + secret + R"("}}})",
          std::string{R"({"auths":{"r.example":{"auth":"%%%"}}})"}}) {
        const auto config = DockerConfig::parse(json);
        ASSERT_FALSE(config) << json;
        EXPECT_EQ(config.error().code, "credentials-invalid");
        EXPECT_EQ(config.error().text.find(secret), std::string::npos);
        EXPECT_EQ(config.error().text.find("secret"), std::string::npos) << config.error().text;
    }
    const auto named = DockerConfig::parse(R"({"auths":{"r.example":{"auth":"%%%"}}})");
    EXPECT_NE(named.error().text.find("r.example"), std::string::npos);
    EXPECT_TRUE(read("{}").empty());
}

}  // namespace
}  // namespace keel
