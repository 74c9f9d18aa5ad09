// Stands in for the device where plumb was built without CUDA.
#include "calibrate/measurer.hpp"
#include "schedules/ir/error.hpp"

namespace plumb {

void require_measurer(const std::string&) {
  throw DeviceError(
      "this plumb was built without CUDA, so it measures nothing; build it with the preset `cuda` where "
      "there is a GPU, "
      "or read PyTorch profiles with --kineto");
}

std::unique_ptr<Measurer> make_measurer(const CalibrationRequest& request, const ProcessPlace&) {
  require_measurer(request.transport);
  return nullptr;
}

}  // namespace plumb
