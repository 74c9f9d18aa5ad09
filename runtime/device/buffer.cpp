#include "runtime/device/buffer.hpp"

#include "runtime/device/check.hpp"

#include <cuda_runtime_api.h>

namespace plumb::device {

Buffer::Buffer(Bytes bytes) : bytes_(bytes) {
  if (bytes.count > 0) PLUMB_CUDA_CALL(cudaMalloc(&data_, static_cast<std::size_t>(bytes.count)));
}

Buffer::~Buffer() {
  if (data_) static_cast<void>(cudaFree(data_));
}

HostBuffer::HostBuffer(Bytes bytes) : bytes_(bytes) {
  PLUMB_CUDA_CALL(cudaMallocHost(&data_, static_cast<std::size_t>(bytes.count)));
}

HostBuffer::~HostBuffer() {
  if (data_) static_cast<void>(cudaFreeHost(data_));
}

}  // namespace plumb::device
