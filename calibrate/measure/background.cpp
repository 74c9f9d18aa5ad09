#include "calibrate/measure/background.hpp"

#include "runtime/device/current_device.hpp"
#include "runtime/device/event.hpp"
#include "schedules/ir/error.hpp"

#include <array>
#include <cstddef>

namespace plumb::measure {

namespace {
void keep_busy(const std::stop_token& stop, const device::Stream& stream,
               const std::function<void()>& launch) {
  std::array<device::Event, 3> behind;
  for (const device::Event& event : behind) event.record(stream);
  for (std::size_t run = 0; !stop.stop_requested(); run = (run + 1) % behind.size()) {
    behind[run].synchronize();
    launch();
    behind[run].record(stream);
  }
  stream.synchronize();
}
}  // namespace

Background::Background(const device::Stream& stream, std::function<void()> launch)
    : thread_(
          [&stream, launch = std::move(launch), gpu = device::current_device()](const std::stop_token& stop) {
            try {
              device::use_device(gpu);
              keep_busy(stop, stream, launch);
            } catch (const DeviceError&) {
              // A device that fails tells everybody: the thread that measures has the same error, and can say
              // it.
            }
          }) {}

}  // namespace plumb::measure
