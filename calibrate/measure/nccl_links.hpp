// The communicators of a calibration, made as the runtime makes its own, and waits that end.
#pragma once
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/device/communicator.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/device/stream.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace plumb::measure {

/// A communicator of some ranks and the stream of what it does; first in that stream, first done.
struct NcclLink {
  std::vector<std::uint32_t> ranks;
  std::uint32_t own = 0;  // this rank's place among them
  device::Communicator communicator;
  device::Stream stream;
};

class NcclLinks {
 public:
  /// `share`: of the GPU, where this rank has one: there its messages move.
  NcclLinks(Rendezvous& rendezvous, const device::GreenContext* share, std::chrono::milliseconds deadline);

  /// Made when it is first asked for. All ranks ask for the same in the same order; those that are not among
  /// `ranks` get nothing. {a, b} and {b, a} are two: the runtime has one for each direction. `channels`: at
  /// most so many blocks of a kernel.
  NcclLink* between(const std::vector<std::uint32_t>& ranks, std::uint32_t channels);

  /// Until the event has happened. Where NCCL met an error, a rank is gone or the deadline passes, all is
  /// aborted, and a DeviceError says who waited for what.
  void wait(const device::Event& event, const std::string& what);
  /// What waits ends, and nothing can be sent any more.
  void abort() noexcept;

 private:
  static constexpr std::chrono::milliseconds look{2};  // at the others, now and then
  Rendezvous& rendezvous_;
  const device::GreenContext* share_;
  std::chrono::milliseconds deadline_;
  std::map<std::pair<std::vector<std::uint32_t>, std::uint32_t>, std::unique_ptr<NcclLink>> links_;
};

}  // namespace plumb::measure
