// Which measurer a build with CUDA has for a request.
#include "calibrate/measure/local_measurer.hpp"
#include "calibrate/measurer.hpp"
#include "runtime/device/device_info.hpp"
#include "schedules/ir/error.hpp"

namespace plumb {

void require_measurer(const std::string& transport) {
  device::require_device();
  if (transport != "local") {
    throw DeviceError("this build measures ranks of one process (--transport local), not NCCL's");
  }
}

std::unique_ptr<Measurer> make_measurer(const CalibrationRequest& request) {
  require_measurer(request.transport);
  return measure::make_local_measurer(request);
}

}  // namespace plumb
