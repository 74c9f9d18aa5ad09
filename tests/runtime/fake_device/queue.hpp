// A stream of the fake device: a thread and what it has yet to do.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <queue>
#include <thread>
#include <utility>

struct CUstream_st {
  CUstream_st() : thread_([this] { work(); }) {}
  CUstream_st(const CUstream_st&) = delete;
  CUstream_st& operator=(const CUstream_st&) = delete;
  ~CUstream_st() {
    push(nullptr);
    thread_.join();
  }

  /// The thread ends behind an empty task.
  void push(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.push(std::move(task));
    ++pushed_;
    changed_.notify_all();
  }
  /// Until everything pushed so far is done.
  void drain() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this, until = pushed_] { return done_ >= until; });
  }

 private:
  void work() {
    // A pause ahead of one task in eight, of another length in every stream.
    std::uint64_t random = reinterpret_cast<std::uintptr_t>(this) | 1;
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return !tasks_.empty(); });
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop();
      lock.unlock();
      random = random * 6364136223846793005ULL + 1442695040888963407ULL;
      if (random >> 61 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random >> 32 & 127));
      if (task) task();
      lock.lock();
      ++done_;
      changed_.notify_all();
      if (!task) return;
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::queue<std::function<void()>> tasks_;
  std::uint64_t pushed_ = 0;
  std::uint64_t done_ = 0;
  std::thread thread_;
};
