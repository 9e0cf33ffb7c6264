#include "keeld/zone.h"

// As the Debian package of the library was built.
#define USE_OS_TZDB 1
#define ONLY_C_LOCALE 1
#define HAS_STRING_VIEW 1
#include <date/tz.h>

namespace keel {

Zone zone_named(const std::string& name) {
    const date::time_zone* zone = nullptr;
    try {
        zone = date::locate_zone(name);
    } catch (const std::exception&) {
        return utc;
    }
    return [zone](Time moment) {
        const date::sys_info info =
            zone->get_info(std::chrono::floor<std::chrono::seconds>(moment));
        // The last offset of a zone ends in the year 32767, which milliseconds can hold.
        return ZoneOffset{info.offset, std::chrono::time_point_cast<Millis>(info.end)};
    };
}

}  // namespace keel
