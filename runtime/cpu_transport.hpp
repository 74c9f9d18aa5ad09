// How one CPU rank's messages and gradient sums reach the other ranks: threads beside it, or processes over
// TCP.
#pragma once
#include "runtime/backend.hpp"
#include "runtime/rank_program.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace plumb {

/// One rank's side; called by the rank's thread alone, but for give_up. A message is complete when both sides
/// have posted it, as under rendezvous. Every wait ends with DeviceError at the deadline or when another rank
/// has failed, and the error names the rank that holds the others up, and its op.
class CpuTransport {
 public:
  CpuTransport() = default;
  CpuTransport(const CpuTransport&) = delete;
  CpuTransport& operator=(const CpuTransport&) = delete;
  virtual ~CpuTransport() = default;

  /// Whose messages these are; it outlives the transport's last call.
  virtual void serve(const RankProgram& program) = 0;

  /// All together.
  virtual void begin_step() = 0;
  /// Since the step began, on one clock for all ranks.
  virtual TimePoint now() const = 0;
  /// The rank moves on to this step of its program. Throws where another rank has failed.
  virtual void at(std::uint32_t step) = 0;
  virtual void post(const MessageStep& message, std::byte* data) = 0;
  virtual void wait(std::uint32_t message) = 0;
  /// In place, once every owner's part is there; added up in the order of copies and ranks.
  virtual void reduce(const ReduceStep& step, std::span<float> gradients) = 0;
  virtual void wait_reduced(std::uint32_t reduction) = 0;

  /// Of the last step: when the message moved, and when the sum was made.
  virtual Interval moved(std::uint32_t message) = 0;
  virtual Interval reduced(std::uint32_t reduction) = 0;

  /// Together: the sums over all workers, added up in their order.
  virtual void sum(std::span<double> values) = 0;
  virtual void give_up(const std::string& why) noexcept = 0;
};

}  // namespace plumb
