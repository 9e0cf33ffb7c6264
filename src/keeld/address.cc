#include "keeld/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <charconv>

namespace keel {
namespace {

constexpr std::string_view kExpected = "expected unix:/PATH, 127.0.0.1:PORT or [::1]:PORT";

tl::unexpected<Error> wrong(std::string_view text, std::string_view what) {
    std::string message = "\"";
    message.append(text).append("\" ").append(what).append("; ").append(kExpected);
    return fail("listen", std::move(message));
}

bool is_loopback(const std::string& host, bool bracketed) {
    in_addr four{};
    in6_addr six{};
    if (bracketed) {
        return ::inet_pton(AF_INET6, host.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
    }
    return ::inet_pton(AF_INET, host.c_str(), &four) == 1 && (ntohl(four.s_addr) >> 24U) == 127;
}

}  // namespace

std::string ListenAddress::to_string() const {
    if (!socket.empty()) return "unix:" + socket;
    const bool six = host.find(':') != std::string::npos;
    return (six ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Expected<ListenAddress> ListenAddress::parse(std::string_view text) {
    ListenAddress address;
    if (text.starts_with("unix:")) {
        address.socket = text.substr(5);
        if (!address.socket.starts_with('/')) return wrong(text, "is not an absolute path");
        if (address.socket.size() >= sizeof(sockaddr_un::sun_path)) {
            return wrong(text, "is longer than a socket's name may be (107 bytes)");
        }
        return address;
    }
    const auto colon = text.rfind(':');
    if (colon == std::string_view::npos) return wrong(text, "has no port");
    const std::string_view port = text.substr(colon + 1);
    std::string_view host = text.substr(0, colon);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
    if (error != std::errc() || end != port.data() + port.size()) {
        return wrong(text, "has no port from 0 to 65535");
    }
    const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
    if (bracketed) host = host.substr(1, host.size() - 2);
    address.host = host;
    if (!is_loopback(address.host, bracketed)) {
        return wrong(text,
                     "is not a loopback address, and others are not supported by this version");
    }
    return address;
}

}  // namespace keel
