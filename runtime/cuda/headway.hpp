// Whether a thread gets on.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

namespace plumb::cuda {

/// Deadlines are looked at by whoever waits; who is stuck in a call of the driver's looks at nothing. This is
/// told what a thread does, and says once, from a thread of its own, where it has done nothing for too long.
/// Time in which the whole process is stopped does not count.
class Headway {
 public:
  /// `stuck` gets the last step that was told. Nothing to call: nothing is watched.
  Headway(std::chrono::milliseconds limit, std::function<void(std::uint32_t step)> stuck);
  ~Headway();
  Headway(const Headway&) = delete;
  Headway& operator=(const Headway&) = delete;

  /// The thread is at this step; watched from here on.
  void at(std::uint32_t step) {
    step_.store(step, std::memory_order_relaxed);
    beats_.fetch_add(1, std::memory_order_relaxed);
    watched_.store(true, std::memory_order_relaxed);
  }
  /// It is at nothing.
  void rests() { watched_.store(false, std::memory_order_relaxed); }

 private:
  static constexpr int ticks = 16;  // to the limit
  void watch();

  std::chrono::milliseconds tick_;
  std::function<void(std::uint32_t)> stuck_;
  std::atomic<std::uint32_t> step_{0};
  std::atomic<std::uint64_t> beats_{0};
  std::atomic<bool> watched_{false};
  std::mutex mutex_;
  std::condition_variable ends_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace plumb::cuda
