// The few functions of the CUDA driver that the runtime library has no words for, looked up when they are
// first needed: a program of ours starts on a machine without a driver, and says there what it lacks.
#pragma once

struct CUctx_st;
struct CUgreenCtx_st;
struct CUstream_st;

namespace plumb::device::driver {

/// The address of a driver function for CUDA 13; throws DeviceError where the driver has none.
void* entry_point(const char* name);

/// Text of a driver's status.
const char* error_text(int status);

}  // namespace plumb::device::driver
