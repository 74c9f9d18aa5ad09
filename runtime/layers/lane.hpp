// Where an op runs: a stream, and everything that two ops at the same time may not share.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/device/stream.hpp"

#include <cstdint>
#include <functional>
#include <utility>

namespace plumb::device {
class GreenContext;
}

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

  /// `queued` is told the name of each part of a stage (schedules/model/layer_costs) once its work stands in
  /// the stream: whoever times parts where they run records an event there. Nothing by default.
  void on_part(std::function<void(const char*)> queued) { part_queued_ = std::move(queued); }
  void part(const char* name) const {
    if (part_queued_) part_queued_(name);
  }

 private:
  std::function<void(const char*)> part_queued_;
  const device::Stream& stream_;
  std::uint32_t multiprocessors_;
  device::Buffer product_workspace_;
  cublasLtContext* blas_ = nullptr;
  cudnnContext* dnn_ = nullptr;
};

/// Where the forward of an overlapped pair runs, on a rank's share of the GPU or (nullptr) on all of it; the
/// backward runs in the stream of everything else. On a share the backward's blocks go first and the forward
/// fills what they leave free: two products that want the same multiprocessors only get into each other's
/// way. Measured on an H200 (tests/bench/cuda/pairs): of what both take in turn, a pair takes 0.96 to 0.97 on
/// 64, 32 and 16 multiprocessors; with equal priorities 0.97 to 1.02; on the whole GPU it makes no
/// difference.
device::Stream pair_forward_stream(const device::GreenContext* share);

}  // namespace plumb::layers
