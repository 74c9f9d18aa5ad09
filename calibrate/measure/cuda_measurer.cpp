// Which measurer a build with CUDA has for a request.
#include "calibrate/measure/local_measurer.hpp"
#include "calibrate/measure/nccl_measurer.hpp"
#include "calibrate/measurer.hpp"
#include "calibrate/ranks/ranked_measurer.hpp"
#include "runtime/device/current_device.hpp"
#include "runtime/device/device_info.hpp"
#include "schedules/ir/error.hpp"

#include <cstdlib>

namespace plumb {

void require_measurer(const std::string& /*each transport needs the same*/) { device::require_device(); }

std::unique_ptr<Measurer> make_measurer(const CalibrationRequest& request, const ProcessPlace& place) {
  // Kernels are loaded at once: loading one later can wait for a kernel of NCCL's that waits for another
  // rank.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  require_measurer(request.transport);
  if (request.transport == "local") return measure::make_local_measurer(request);
  PLUMB_CHECK(place.rendezvous != nullptr);
  device::use_device(place.device);
  return ranks::make_ranked_measurer(*place.rendezvous, measure::make_nccl_measurer(request, place));
}

}  // namespace plumb
