// An op's launches in pieces, so that those of two ops can take turns.
#pragma once
#include <coroutine>
#include <utility>

namespace plumb::layers {

/// A coroutine that launches a piece of an op, half a layer, whenever it is resumed. What an op launches, and
/// in which order, is the same however it is resumed.
class Launching {
 public:
  struct promise_type {
    Launching get_return_object() {
      return Launching(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { throw; }  // to whoever resumed
  };
  /// What the coroutine awaits between two pieces.
  static constexpr std::suspend_always pause{};

  Launching(Launching&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Launching& operator=(Launching&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Launching(const Launching&) = delete;
  Launching& operator=(const Launching&) = delete;
  ~Launching() {
    if (handle_) handle_.destroy();
  }

  /// Launches the next piece. False once nothing is left.
  bool next() {
    if (!handle_.done()) handle_.resume();
    return !handle_.done();
  }
  void finish() {
    while (next()) {
    }
  }

 private:
  explicit Launching(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

/// Piece after piece in turns, until both have launched everything.
inline void interleave(Launching first, Launching second) {
  for (bool left = true; left;) {
    left = first.next();
    left = second.next() || left;
  }
}

}  // namespace plumb::layers
