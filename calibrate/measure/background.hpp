// Keeps a stream busy while something else is measured.
#pragma once
#include "runtime/device/stream.hpp"

#include <functional>
#include <stop_token>
#include <thread>

namespace plumb::measure {

/// A thread that queues `launch` into the stream again and again, a few ahead of the device, until it is
/// destroyed; then the stream is idle.
class Background {
 public:
  Background(const device::Stream& stream, std::function<void()> launch);
  Background(Background&&) = default;
  ~Background() = default;

  /// Lets it end without waiting for that, which the destructor does.
  void stop() { thread_.request_stop(); }

 private:
  std::jthread thread_;
};

}  // namespace plumb::measure
