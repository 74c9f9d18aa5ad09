// Ranks of one process on one GPU: messages are copies from one arena to another, ordered by events.
//
// A message is moved when both sides have posted it, by whichever of their threads came second, on a stream
// of the primary context that the two ranks have in this direction. There it finds free multiprocessors: in a
// stream of the sender's partition it would wait for the waves of whatever computes (measured on an H200: a
// step of 8 ranks is 5 % to 25 % longer that way). Its blocks are placed before anybody else's, and those of
// gradient sums, which are for the whole GPU too, behind: a message that came during a sum waited for all of it.
#pragma once
#include "runtime/cuda/step_guard.hpp"
#include "runtime/cuda/transport.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/shared_matrix.hpp"
#include "schedules/ir/lower.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace plumb::cuda {

/// What the workers of one process share: `data_parallel` copies of the schedule's ranks. Outlives their
/// transports.
class LocalExchange {
 public:
  LocalExchange(const LoweredSchedule& schedule, StepGuard& guard,
                const std::vector<SharedPair>& shared = {});
  ~LocalExchange();

  /// One side for each rank of each copy, once.
  std::unique_ptr<Transport> side(Rank rank, std::uint32_t copy);

 private:
  class Side;
  class Channel;
  class Reduction;
  class Meeting;

  Channel& channel(std::uint32_t copy, Rank from, Rank to);

  const LoweredSchedule& schedule_;
  StepGuard& guard_;
  std::uint32_t workers_;
  std::unique_ptr<Meeting> meeting_;
  std::unique_ptr<device::Event> base_;
  std::unique_ptr<device::Stream> base_stream_;
  std::vector<std::unique_ptr<Channel>>
      channels_;  // [(copy x ranks + from) x ranks + to]; few of them are there
  std::vector<std::unique_ptr<Reduction>> reductions_;  // [stage]
  std::vector<std::unique_ptr<device::Stream>> reduction_streams_;
  std::uint32_t pairs_ = 0;                         // that share a matrix, of a copy
  std::vector<std::unique_ptr<Reduction>> shared_;  // [copy x pairs + pair]
};

}  // namespace plumb::cuda
