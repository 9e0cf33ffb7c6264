// What people write and registries answer: schedules, credentials, challenges.
#include <cstdint>
#include <string_view>

#include "core/challenge.h"
#include "core/docker_config.h"
#include "core/poll_schedule.h"
#include "fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text{reinterpret_cast<const char*>(data), size};
    if (const auto schedule = keel::PollSchedule::parse(text)) {
        const keel::Time now{keel::Millis{1'795'348'800'000}};
        const keel::Time next = schedule->next(now, keel::utc);
        REQUIRE(next > now);
        REQUIRE(schedule->next(next, keel::utc) > next);
    }
    if (const auto config = keel::DockerConfig::parse(text)) {
        for (const keel::Credential& one : config->find("docker.io", "library/nginx")) {
            REQUIRE(!one.empty());
        }
        (void)config->helper("registry.example:5000");
    }
    (void)keel::helper_answer(text);
    (void)keel::parse_challenges(text);
    return 0;
}
