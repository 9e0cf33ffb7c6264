// keelctl: asks keeld. The process around keelctl/commands.h.
#include <curl/curl.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string_view>
#include <thread>

#include "keelctl/commands.h"

namespace {

constexpr std::chrono::seconds kFollowPause{1};

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

}  // namespace

int main(int argc, char** argv) {
    curl_global_init(CURL_GLOBAL_DEFAULT);
    keel::ctl::Environment environment;
    environment.server = variable("KEELD_URL");
    environment.colours =
        ::isatty(STDOUT_FILENO) == 1 && variable("NO_COLOR").empty() && variable("TERM") != "dumb";
    environment.now = [] {
        return std::chrono::time_point_cast<keel::Millis>(std::chrono::system_clock::now());
    };
    environment.pause = [] {
        std::this_thread::sleep_for(kFollowPause);
        return std::cout.good();
    };
    std::ios::sync_with_stdio(false);
    std::cin.tie(nullptr);
    environment.in = &std::cin;
    const int code = keel::ctl::run(argc, argv, environment, std::cout, std::cerr);
    std::cout.flush();
    curl_global_cleanup();
    return std::cout.good() ? code : keel::ctl::kUnknown;
}
