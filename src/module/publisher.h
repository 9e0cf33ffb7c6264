// The border between the module and the publisher, a shared object of its own
// (ngx_keel_publisher.so) that only nginx's helper process opens: libcurl and the 32 libraries
// behind it stay out of master and workers. The publisher owns no loop: it says which sockets and
// which moment it waits for, and is told when they come.
#pragma once

#include <cstddef>

namespace keel::ngx {

inline constexpr unsigned kPublisherAbi = 1;  // grows with every change in this file

enum PublisherWants : unsigned { kPublisherReads = 1, kPublisherWrites = 2, kPublisherBroken = 4 };

struct PublisherTarget {
    const char* url;
    const char* unix_socket;  // or null
    const char* ca;           // PEM file, or null: the system's
};

struct PublisherPost {
    const char* body;  // copied
    std::size_t size;
    const char* const* headers;  // "name: value", copied
    std::size_t header_count;
};

struct PublisherAnswer {
    long status;        // of HTTP; 0 when there was no answer
    long retry_after;   // seconds, 0 when the answer did not say
    const char* error;  // why there was no answer; null otherwise
};

// What the helper offers. Called on its loop, from within one of the publisher's functions.
struct PublisherHost {
    void* data;
    // What to wait for on `fd`, a set of PublisherWants; 0: nothing any more, and the descriptor is
    // about to close.
    void (*watch)(void* data, int fd, unsigned wants) noexcept;
    // To call expired() in so many milliseconds instead of what was asked before; negative: never.
    void (*arm)(void* data, long milliseconds) noexcept;
    // A post is over. Its target is free for the next, which may be given right here.
    void (*answered)(void* data, std::size_t target, const PublisherAnswer& answer) noexcept;
};

struct PublisherApi {
    unsigned abi;
    // Targets are numbered as given. Null when libcurl refuses; what is pointed to is copied.
    void* (*open)(const PublisherHost& host, const PublisherTarget* targets,
                  std::size_t count) noexcept;
    // One at a time for each target. False when it could not even be begun: answered() is not
    // called then.
    bool (*post)(void* publisher, std::size_t target, const PublisherPost& post) noexcept;
    void (*ready)(void* publisher, int fd, unsigned what) noexcept;
    void (*expired)(void* publisher) noexcept;
};

inline constexpr char kPublisherSymbol[] = "keel_publisher";
using PublisherEntry = const PublisherApi* (*)() noexcept;

}  // namespace keel::ngx
