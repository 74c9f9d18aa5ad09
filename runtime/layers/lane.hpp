// Where an op runs: a stream, and everything that two ops at the same time may not share.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/device/stream.hpp"

#include <cstdint>

struct cublasLtContext;
struct cudnnContext;

namespace plumb::layers {

/// One host thread at a time issues to a lane. Ops on different lanes share nothing but what they are given,
/// so a forward beside a backward needs two lanes and nothing else.
class Lane {
 public:
  /// `multiprocessors`: how many the stream's work runs on; matrix products are cut for them.
  Lane(const device::Stream& stream, std::uint32_t multiprocessors);
  Lane(Lane&&) = delete;
  Lane& operator=(Lane&&) = delete;
  ~Lane();

  const device::Stream& stream() const { return stream_; }
  std::uint32_t multiprocessors() const { return multiprocessors_; }
  cublasLtContext* blas() const { return blas_; }
  cudnnContext* dnn() const { return dnn_; }
  const device::Buffer& product_workspace() const { return product_workspace_; }

  static constexpr Bytes product_workspace_bytes{64 << 20};

 private:
  const device::Stream& stream_;
  std::uint32_t multiprocessors_;
  device::Buffer product_workspace_;
  cublasLtContext* blas_ = nullptr;
  cudnnContext* dnn_ = nullptr;
};

}  // namespace plumb::layers
