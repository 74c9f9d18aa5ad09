#include "runtime/clock_watch.hpp"

#include "runtime/device/device_info.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace plumb {
namespace {
constexpr std::chrono::milliseconds between_readings{5};
}

struct ClockWatch::Impl {
  device::ClockReader reader;
  std::mutex mutex;
  std::condition_variable stop;
  bool stopped = false;
  std::uint64_t sum = 0;
  std::uint64_t count = 0;
  std::thread thread;

  void watch() {
    std::unique_lock lock(mutex);
    do {
      const std::uint32_t mhz = reader.read().mhz;
      sum += mhz;
      count += mhz > 0;
    } while (!stop.wait_for(lock, between_readings, [&] { return stopped; }));
  }

  void join() {
    if (!thread.joinable()) return;
    {
      const std::scoped_lock lock(mutex);
      stopped = true;
    }
    stop.notify_one();
    thread.join();
  }
};

ClockWatch::ClockWatch() : impl_(std::make_unique<Impl>()) {}

ClockWatch::~ClockWatch() { impl_->join(); }

void ClockWatch::start() {
  impl_->join();
  impl_->stopped = false;
  impl_->sum = 0;
  impl_->count = 0;
  impl_->thread = std::thread([this] { impl_->watch(); });
}

std::uint32_t ClockWatch::stop() {
  impl_->join();
  return impl_->count == 0 ? 0 : static_cast<std::uint32_t>((impl_->sum + impl_->count / 2) / impl_->count);
}

}  // namespace plumb
