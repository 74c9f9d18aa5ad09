// How fast a GPU's clock was while something ran on it.
#pragma once
#include <cstdint>
#include <memory>

namespace plumb {

/// Asks the driver every few milliseconds for the clock of the current GPU's multiprocessors, on a thread of
/// its own. What the driver says lags by a tenth of a second, so a load has to have lasted for longer.
class ClockWatch {
 public:
  ClockWatch();
  ~ClockWatch();
  ClockWatch(const ClockWatch&) = delete;
  ClockWatch& operator=(const ClockWatch&) = delete;

  /// Begins anew.
  void start();
  /// The mean since start() in MHz; 0 where there is no GPU, or nobody knows.
  std::uint32_t stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace plumb
