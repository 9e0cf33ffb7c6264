// The one loop that everything in keeld runs on, and its coroutine type.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

namespace keel {

namespace asio = boost::asio;

// Single-threaded: one thread calls run(), so nothing in keeld needs a lock.
using Loop = asio::io_context;

template <class T>
using Task = asio::awaitable<T>;

}  // namespace keel
