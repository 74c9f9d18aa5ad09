#include "runtime/cuda/headway.hpp"

#include <utility>

namespace plumb::cuda {

Headway::Headway(std::chrono::milliseconds limit, std::function<void(std::uint32_t)> stuck)
    : tick_(limit / ticks + std::chrono::milliseconds{1}), stuck_(std::move(stuck)) {
  if (stuck_) thread_ = std::thread([this] { watch(); });
}

Headway::~Headway() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  ends_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Headway::watch() {
  std::uint64_t seen = 0;
  int without = 0;  // ticks
  std::unique_lock lock(mutex_);
  while (!ends_.wait_for(lock, tick_, [&] { return over_; })) {
    const std::uint64_t beats = beats_.load(std::memory_order_relaxed);
    without = watched_.load(std::memory_order_relaxed) && beats == seen ? without + 1 : 0;
    seen = beats;
    if (without < ticks) continue;
    stuck_(step_.load(std::memory_order_relaxed));
    return;
  }
}

}  // namespace plumb::cuda
