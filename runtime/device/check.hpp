// A refused call becomes a DeviceError that says which call, where, and what the library says of it. CUDA's
// own headers stay out of ours: their status types arrive here as integers.
#pragma once

namespace plumb::device::detail {

void check_cuda(int status, const char* call, const char* place);
void check_driver(int status, const char* call, const char* place);
void check_nccl(int status, const char* call, const char* place);
void check_cublas(int status, const char* call, const char* place);
void check_cudnn(int status, const char* call, const char* place);

}  // namespace plumb::device::detail

#define PLUMB_STRINGIFY_(x) #x
#define PLUMB_STRINGIFY(x) PLUMB_STRINGIFY_(x)
#define PLUMB_PLACE __FILE__ ":" PLUMB_STRINGIFY(__LINE__)

/// Runs a call of the CUDA runtime, its driver, NCCL, cuBLASLt or cuDNN; throws DeviceError unless it
/// succeeds.
#define PLUMB_CUDA_CALL(call) ::plumb::device::detail::check_cuda((call), #call, PLUMB_PLACE)
#define PLUMB_DRIVER_CALL(call) ::plumb::device::detail::check_driver((call), #call, PLUMB_PLACE)
#define PLUMB_NCCL_CALL(call) ::plumb::device::detail::check_nccl((call), #call, PLUMB_PLACE)
#define PLUMB_CUBLAS_CALL(call) ::plumb::device::detail::check_cublas((call), #call, PLUMB_PLACE)
#define PLUMB_CUDNN_CALL(call) ::plumb::device::detail::check_cudnn((call), #call, PLUMB_PLACE)
