// How fast a GPU's clock was while something ran on it.
#pragma once
#include <cstdint>
#include <memory>

namespace plumb {

/// Counts the cycles of the current GPU's multiprocessors from start() to stop(). The driver's own figure is
/// a tenth of a second old and says what was asked for; under a load that is at its power limit the chip is
/// slower than that.
class ClockWatch {
 public:
  ClockWatch();
  ~ClockWatch();
  ClockWatch(const ClockWatch&) = delete;
  ClockWatch& operator=(const ClockWatch&) = delete;

  /// Begins anew. Both wait for the GPU, and want it idle.
  void start();
  /// The mean since start() in MHz, of the middle multiprocessor; 0 where there is no GPU.
  std::uint32_t stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace plumb
