#include "runtime/cuda/step_guard.hpp"

#include "schedules/ir/error.hpp"

#include <thread>

#include <fmt/format.h>

namespace plumb::cuda {
namespace {
constexpr std::uint32_t spins = 20'000;  // about a millisecond: most waits of a step are shorter
}

bool StepGuard::pause(std::uint32_t asked, bool relaxed, std::chrono::steady_clock::time_point begin) const {
  if (!relaxed && asked < spins) {
    __builtin_ia32_pause();
    return true;
  }
  std::this_thread::sleep_for(std::chrono::microseconds(relaxed ? 50 : 20));
  return std::chrono::steady_clock::now() - begin < deadline_;
}

void StepGuard::give_up(const std::string& reason) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    if (!given_up_.load(std::memory_order_relaxed)) reason_ = reason;
  } catch (...) {
    // No memory for a reason: the step is lost all the same.
  }
  given_up_.store(true, std::memory_order_release);
}

void StepGuard::lost(const std::string& what) {
  const std::lock_guard lock(mutex_);
  throw DeviceError(fmt::format("{}: given up, because of {}", what, reason_));
}

void StepGuard::late(const std::string& what) {
  const std::string reason = fmt::format("{}: nothing came within the deadline of {:.3g} s", what,
                                         std::chrono::duration<double>(deadline_).count());
  give_up(reason);
  throw DeviceError(reason);
}

}  // namespace plumb::cuda
