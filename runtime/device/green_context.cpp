#include "runtime/device/green_context.hpp"

#include "runtime/device/check.hpp"
#include "runtime/device/driver.hpp"
#include "schedules/ir/error.hpp"

#include <string>

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace plumb::device {
namespace {
template <class Function>
Function* driver_function(Function* /*the one declared in cuda.h: only its type is used*/, const char* name) {
  return reinterpret_cast<Function*>(driver::entry_point(name));
}
#define PLUMB_DRIVER(name) driver_function(decltype(&(name)){}, #name)
}  // namespace

GreenContext::~GreenContext() {
  if (handle_) static_cast<void>(PLUMB_DRIVER(cuGreenCtxDestroy)(handle_));
}

Stream GreenContext::stream(Priority priority) const {
  CUstream handle = nullptr;
  const auto create = PLUMB_DRIVER(cuGreenCtxStreamCreate);
  PLUMB_DRIVER_CALL(create(&handle, handle_, CU_STREAM_NON_BLOCKING, level_of(priority)));
  return Stream(handle);
}

std::vector<GreenContext> partition(std::uint32_t ranks) {
  PLUMB_CHECK(ranks > 0);
  int device = 0;
  PLUMB_CUDA_CALL(cudaGetDevice(&device));
  PLUMB_CUDA_CALL(cudaFree(nullptr));  // the primary context exists from here on
  const auto get_resource = PLUMB_DRIVER(cuDeviceGetDevResource);
  const auto split = PLUMB_DRIVER(cuDevSmResourceSplitByCount);
  const auto describe = PLUMB_DRIVER(cuDevResourceGenerateDesc);
  const auto create = PLUMB_DRIVER(cuGreenCtxCreate);

  CUdevResource whole{};
  PLUMB_DRIVER_CALL(get_resource(device, &whole, CU_DEV_RESOURCE_TYPE_SM));
  // Nobody is beside a single rank, and no multiprocessor has to be left over.
  const unsigned each = ranks == 1 ? whole.sm.smCount : whole.sm.smCount / ranks / 8 * 8;
  unsigned count = ranks;
  std::vector<CUdevResource> shares(ranks, whole);
  CUdevResource rest{};
  if (ranks > 1 && each > 0) PLUMB_DRIVER_CALL(split(shares.data(), &count, &whole, &rest, 0, each));
  if (each == 0 || count < ranks) {
    throw DeviceError(
        "a GPU of " + std::to_string(whole.sm.smCount) + " multiprocessors cannot be cut into " +
        std::to_string(ranks) + " shares" +
        (each > 0 ? ": it gives " + std::to_string(count) + " of " + std::to_string(each) : ""));
  }
  std::vector<GreenContext> contexts;
  contexts.reserve(ranks);
  for (CUdevResource& share : shares) {
    CUdevResourceDesc description{};
    PLUMB_DRIVER_CALL(describe(&description, &share, 1));
    CUgreenCtx handle = nullptr;
    PLUMB_DRIVER_CALL(create(&handle, description, device, CU_GREEN_CTX_DEFAULT_STREAM));
    contexts.emplace_back(handle, share.sm.smCount);
  }
  return contexts;
}

}  // namespace plumb::device
