// A queue of device work.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

struct CUstream_st;

namespace plumb::device {

class Event;

/// Wherever a multiprocessor becomes free, blocks of a higher stream are placed before those of a lower one.
enum class Priority : std::uint8_t { low, normal, high };
/// As the current device counts: none is lower than `low`, and none higher than `high`.
int level_of(Priority priority);

/// A stream of the primary context that waits for no other; GreenContext makes those of a partition.
class Stream {
 public:
  explicit Stream(Priority priority = Priority::normal);
  /// Takes over a handle.
  explicit Stream(CUstream_st* handle) : handle_(handle) {}
  Stream(Stream&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  CUstream_st* handle() const { return handle_; }
  /// What is queued from here on begins when the event has happened. The event must have been recorded: CUDA
  /// lets nobody wait for one that never was.
  void wait(const Event& event) const;
  /// Blocks the host until everything queued is done.
  void synchronize() const;

 private:
  CUstream_st* handle_ = nullptr;
};

/// Copies between any two places CUDA knows, in the stream's order.
void copy(const Stream& stream, void* to, const void* from, std::size_t bytes);
/// Fills with a byte, in the stream's order.
void fill(const Stream& stream, void* to, int byte, std::size_t bytes);
/// Blocks the host until the whole device is done.
void synchronize();

}  // namespace plumb::device
