// A share of a GPU's multiprocessors: what stands for a rank where one GPU plays several.
#pragma once
#include "runtime/device/stream.hpp"

#include <cstdint>
#include <utility>
#include <vector>

struct CUgreenCtx_st;

namespace plumb::device {

/// Work in its streams runs on its multiprocessors alone. Memory, events and library handles are those of the
/// primary context and serve all of them.
class GreenContext {
 public:
  GreenContext(CUgreenCtx_st* handle, std::uint32_t multiprocessors)
      : handle_(handle), multiprocessors_(multiprocessors) {}
  GreenContext(GreenContext&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), multiprocessors_(other.multiprocessors_) {}
  GreenContext& operator=(GreenContext&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(multiprocessors_, other.multiprocessors_);
    return *this;
  }
  GreenContext(const GreenContext&) = delete;
  GreenContext& operator=(const GreenContext&) = delete;
  ~GreenContext();

  Stream stream(Priority priority = Priority::normal) const;
  std::uint32_t multiprocessors() const { return multiprocessors_; }

 private:
  CUgreenCtx_st* handle_ = nullptr;
  std::uint32_t multiprocessors_ = 0;
};

/// Cuts the current device into `ranks` equal shares, each the largest multiple of eight multiprocessors that
/// fits, or all of them for one rank alone; the same call gives the same shares in every process, and what is
/// left over belongs to nobody.
/// Throws DeviceError where the device cannot be cut so finely.
std::vector<GreenContext> partition(std::uint32_t ranks);

}  // namespace plumb::device
