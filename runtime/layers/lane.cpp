#include "runtime/layers/lane.hpp"

#include "runtime/device/check.hpp"
#include "runtime/device/green_context.hpp"

#include <cublasLt.h>
#include <cudnn.h>

namespace plumb::layers {

Lane::Lane(const device::Stream& stream, std::uint32_t multiprocessors)
    : stream_(stream), multiprocessors_(multiprocessors), product_workspace_(product_workspace_bytes) {
  PLUMB_CUBLAS_CALL(cublasLtCreate(&blas_));
  PLUMB_CUDNN_CALL(cudnnCreate(&dnn_));
  PLUMB_CUDNN_CALL(cudnnSetStream(dnn_, stream.handle()));
}

Lane::~Lane() {
  if (dnn_) static_cast<void>(cudnnDestroy(dnn_));
  if (blas_) static_cast<void>(cublasLtDestroy(blas_));
}

device::Stream pair_forward_stream(const device::GreenContext* share) {
  return share ? share->stream(device::Priority::low) : device::Stream();
}

}  // namespace plumb::layers
