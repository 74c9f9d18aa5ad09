// How one rank's messages and gradient sums reach the other ranks.
#pragma once
#include "runtime/backend.hpp"
#include "runtime/rank_program.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace plumb::device {
class Event;
class Stream;
}  // namespace plumb::device

namespace plumb::cuda {

/// A message that may be moved once `after` has happened: a send, when its data is there; a receive, when the
/// memory that it writes is free. `after` has been recorded.
struct Posted {
  const MessageStep* message = nullptr;
  void* data = nullptr;
  const device::Event* after = nullptr;
};

/// One rank's side. Called by the rank's thread alone, but for abort. Waits of the host end with DeviceError
/// at the deadline, or when somebody gives up; `step` is the step of the program that is being launched, for
/// the message.
class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;

  /// All ranks together. Work queued in `streams` afterwards begins when the step does.
  virtual void begin_step(std::span<const device::Stream* const> streams) = 0;
  /// Happened when the step began.
  virtual const device::Event& base() const = 0;
  /// When `base` happened, on a clock that all ranks have in common.
  virtual Duration base_time() const = 0;
  virtual void post(std::span<const Posted> messages, bool together, std::uint32_t step) = 0;
  /// An event that happens when the message's data is there, or has been taken; recorded when this returns.
  virtual const device::Event& end_of(std::uint32_t message, std::uint32_t step) = 0;
  /// The sum of all copies' `gradients`, in place, once `after` has happened.
  virtual void reduce(const ReduceStep& reduction, std::span<float> gradients, const device::Event& after,
                      std::uint32_t step) = 0;
  /// Everything that was posted is done.
  virtual void finish_step() = 0;
  /// Behind finish_step, with the other rank of a SharedPair: `gradients` of both become their sum. Blocks.
  virtual void share(std::uint32_t pair, std::span<float> gradients, const device::Event& after) = 0;

  /// Of the last finished step, since `base`; a message's `posted` is 0 where it was as asked for: when what
  /// it is behind was done.
  virtual MessageTimes message_times(std::uint32_t message) = 0;
  virtual Interval reduction_times(std::uint32_t index) = 0;

  /// Together: the sums over all ranks, in their order.
  virtual void sum(std::span<double> values) = 0;
  virtual void give_up(const std::string& reason) noexcept = 0;
};

}  // namespace plumb::cuda
