// What ends every wait of a host thread: what it waits for, the deadline, or somebody who has given up.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

namespace plumb::cuda {

/// One for all ranks of a process. The first who fails says why; everybody else who waits, or will wait, is
/// told that reason. It does not come back.
class StepGuard {
 public:
  explicit StepGuard(std::chrono::nanoseconds deadline) : deadline_(deadline) {}

  /// Returns when `ready` does true. It is asked without pause at first, and `relaxed` from the beginning
  /// only now and then: asking the driver holds up those who launch. Throws DeviceError where the deadline,
  /// counted from this call, passes first (and gives up for everybody), or somebody has given up. `what`
  /// names the rank, its step and what it waits for, and is called only then.
  template <class Ready, class What>
  void wait(Ready ready, What what, bool relaxed = false) {
    std::uint32_t asked = 0;
    const auto begin = std::chrono::steady_clock::now();
    while (!ready()) {
      if (given_up_.load(std::memory_order_acquire)) lost(what());
      if (!pause(asked++, relaxed, begin)) late(what());
    }
  }

  /// The first reason is the one that counts.
  void give_up(const std::string& reason) noexcept;
  bool given_up() const { return given_up_.load(std::memory_order_acquire); }

 private:
  /// False where the deadline has passed.
  bool pause(std::uint32_t asked, bool relaxed, std::chrono::steady_clock::time_point begin) const;
  [[noreturn]] void lost(const std::string& what);
  [[noreturn]] void late(const std::string& what);

  std::chrono::nanoseconds deadline_;
  std::atomic<bool> given_up_{false};
  std::mutex mutex_;
  std::string reason_;
};

}  // namespace plumb::cuda
