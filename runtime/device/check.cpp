#include "runtime/device/check.hpp"

#include "runtime/device/driver.hpp"
#include "schedules/ir/error.hpp"

#include <string>

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <nccl.h>

namespace plumb::device {
namespace driver {

void* entry_point(const char* name) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult result{};
  PLUMB_CUDA_CALL(cudaGetDriverEntryPointByVersion(name, &address, 13000, cudaEnableDefault, &result));
  if (result != cudaDriverEntryPointSuccess || !address) {
    throw DeviceError(name, PLUMB_PLACE, "the driver of this GPU is older than CUDA 13.0");
  }
  return address;
}

const char* error_text(int status) {
  using GetErrorString = int (*)(int, const char**);
  const char* text = nullptr;
  auto get = reinterpret_cast<GetErrorString>(entry_point("cuGetErrorString"));
  if (get(status, &text) != 0 || !text) return "unknown error";
  return text;
}

}  // namespace driver

namespace detail {
namespace {
// A path as the compiler saw it, from the repository's root on.
std::string short_place(const char* place) {
  const std::string text(place);
  for (const char* root : {"/runtime/", "/calibrate/", "/tests/"}) {
    const auto at = text.rfind(root);
    if (at != std::string::npos) return text.substr(at + 1);
  }
  return text;
}

[[noreturn]] void fail(const char* call, const char* place, const char* text) {
  throw DeviceError(call, short_place(place), text);
}
}  // namespace

void check_cuda(int status, const char* call, const char* place) {
  if (status == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(status);
  static_cast<void>(cudaGetLastError());  // so that the next check reports its own error
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    throw DeviceError(std::string("there is no GPU to run on (") + cudaGetErrorString(error) + ")");
  }
  fail(call, place, cudaGetErrorString(error));
}

void check_driver(int status, const char* call, const char* place) {
  if (status != 0) fail(call, place, driver::error_text(status));
}

void check_nccl(int status, const char* call, const char* place) {
  // In progress is what a communicator that does not block answers; whoever issued the call polls it.
  if (status == ncclSuccess || status == ncclInProgress) return;
  const std::string text =
      std::string(ncclGetErrorString(static_cast<ncclResult_t>(status))) + ": " + ncclGetLastError(nullptr);
  fail(call, place, text.c_str());
}

void check_cublas(int status, const char* call, const char* place) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    fail(call, place, cublasLtGetStatusString(static_cast<cublasStatus_t>(status)));
  }
}

void check_cudnn(int status, const char* call, const char* place) {
  if (status != CUDNN_STATUS_SUCCESS)
    fail(call, place, cudnnGetErrorString(static_cast<cudnnStatus_t>(status)));
}

}  // namespace detail
}  // namespace plumb::device
