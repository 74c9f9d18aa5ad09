#include "runtime/together.hpp"

#include "schedules/ir/error.hpp"

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include <fmt/format.h>

namespace plumb {
namespace {

// What the threads and the one who waits for them share; it outlives a thread that is left behind.
struct Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t running = 0;
  std::exception_ptr failure;
  std::function<void(Worker&)> body;
};

// A failure of the rank's own, told with its name.
std::exception_ptr named(const Worker& worker, const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const BadInput&) {
    return failure;
  } catch (const std::exception& error) {
    const std::string text = error.what();
    if (text.find("rank ") != std::string::npos) return std::make_exception_ptr(DeviceError(text));
    return std::make_exception_ptr(DeviceError(fmt::format("rank {} failed: {}", worker.rank().value, text)));
  } catch (...) {
    return failure;
  }
}

}  // namespace

void run_together(std::vector<std::unique_ptr<Worker>>& workers, const std::function<void(Worker&)>& body,
                  Duration grace) {
  auto shared = std::make_unique<Shared>();
  shared->running = workers.size();
  shared->body = body;
  const auto work = [all = shared.get(), &workers](Worker& worker) {
    std::exception_ptr failure;
    try {
      all->body(worker);
    } catch (...) {
      failure = named(worker, std::current_exception());
    }
    const std::lock_guard lock(all->mutex);
    if (failure && !all->failure) {
      all->failure = failure;
      for (const auto& other : workers) other->abort();
    }
    --all->running;
    all->changed.notify_all();
  };
  std::vector<std::thread> threads;
  for (const auto& worker : workers) threads.emplace_back(work, std::ref(*worker));

  std::unique_lock lock(shared->mutex);
  shared->changed.wait(lock, [&] { return shared->running == 0 || shared->failure; });
  const bool all_back = shared->changed.wait_for(lock, std::chrono::nanoseconds(grace.ns),
                                                 [&] { return shared->running == 0; });
  const std::exception_ptr failure = shared->failure;
  lock.unlock();
  if (!all_back) {
    for (std::thread& thread : threads) thread.detach();
    for (auto& worker : workers) static_cast<void>(worker.release());
    workers.clear();
    static_cast<void>(shared.release());
    std::rethrow_exception(failure);
  }
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace plumb
