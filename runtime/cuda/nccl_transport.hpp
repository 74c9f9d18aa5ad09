// Ranks in processes of their own, on one machine or many: messages through NCCL.
#pragma once
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/cuda/headway.hpp"
#include "runtime/cuda/nccl_communicators.hpp"
#include "runtime/cuda/nccl_groups.hpp"
#include "runtime/cuda/step_guard.hpp"
#include "runtime/cuda/transport.hpp"
#include "runtime/device/buffer.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/message_room.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/shared_matrix.hpp"
#include "schedules/ir/lower.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace plumb::cuda {

/// Messages that stand alone have a communicator of two ranks and a stream for each pair and direction: in
/// one communicator everything would wait for what was launched before it. Messages that are waited for
/// together are one group of a communicator of the whole pipeline.
///
/// A message that stands alone can be received ahead, into memory of its way's own, and copied to its place
/// once that is free: its place is free only when the action before the one that needs it is done, and a
/// receive that began then would have that action and the message follow each other. (1F1B on 8 ranks, 16 MiB
/// messages: a forward of 7 ms and a message of 5.5 came every 12.5 ms.) One message a way is so on its way
/// early.
///
/// Gradients are summed in a communicator for
/// each set of owners, in the order of stages: the owners may reach them in different orders.
///
/// NCCL moves a communicator's data with a host thread of its own, which spins while anything is posted.
/// Where ranks share a machine's cores (`shared_threads`), the communicators of all messages towards higher
/// ranks share one, and those towards lower ranks another.
///
/// Every rank issues from one thread. Whoever meets an error, or the deadline, aborts its communicators and
/// tells the others through the rendezvous.
class NcclTransport : public Transport {
 public:
  /// All ranks of all copies together: copy x ranks + rank is the rank in the rendezvous. `communicators` may
  /// be of an earlier transport, and outlives this one. `room`: what its kernels have beside the computation.
  /// `largest`: message.
  NcclTransport(const LoweredSchedule& schedule, Rendezvous& rendezvous, StepGuard& guard,
                NcclCommunicators& communicators, const device::MessageRoom& room, bool shared_threads,
                std::chrono::milliseconds deadline, Bytes largest, std::vector<SharedPair> shared = {},
                std::function<void(const std::string&)> lost = nullptr);
  ~NcclTransport() override;

  void begin_step(std::span<const device::Stream* const> streams) override;
  const device::Event& base() const override { return base_; }
  Duration base_time() const override { return base_time_; }
  void post(std::span<const Posted> messages, bool together, std::uint32_t step) override;
  const device::Event& end_of(std::uint32_t message, std::uint32_t step) override;
  void reduce(const ReduceStep& reduction, std::span<float> gradients, const device::Event& after,
              std::uint32_t step) override;
  void finish_step() override;
  void share(std::uint32_t pair, std::span<float> gradients, const device::Event& after) override;
  MessageTimes message_times(std::uint32_t message) override;
  Interval reduction_times(std::uint32_t index) override;
  void sum(std::span<double> values) override;
  void give_up(const std::string& reason) noexcept override;

 private:
  using Group = NcclCommunicators::Group;
  struct Span {
    device::Event begin{device::EventKind::timing};
    device::Event end{device::EventKind::timing};
  };
  struct Waiting {
    const ReduceStep* reduction = nullptr;
    std::span<float> gradients;
    const device::Event* after = nullptr;
  };

  void make_groups(const device::MessageRoom& room, bool shared_threads, std::chrono::milliseconds deadline);
  std::uint32_t worker_of(Rank rank) const { return copy_ * schedule_.ranks() + rank.value; }
  void launch_reductions(bool all, std::uint32_t step);
  void all_reduce(Waiting& waiting);
  void move(Group& group, const MessageStep& message, void* data, std::uint32_t peer);
  void receive_ahead(Group& group, const device::Buffer& ahead, const Posted& posted);
  std::string explained(const std::string& what);
  /// Runs `issue`, and lets an error say which rank it met at which step and (if it is given) operation.
  template <class Issue>
  void issue(std::uint32_t step, const Op* op, Issue issue);
  void wait_for(const device::Event& event, const std::string& what);
  std::string at(std::uint32_t step, const Op* op) const;

  const LoweredSchedule& schedule_;
  Rendezvous& rendezvous_;
  StepGuard& guard_;
  Rank rank_;
  std::uint32_t copy_;
  NcclCommunicators& communicators_;
  std::map<std::uint32_t, device::Buffer> ahead_;  // [group] where a message waits for its place
  std::vector<Group*> groups_;                   // [group of the plan] nothing where this worker is not in it
  std::vector<std::uint32_t> message_groups_;    // [message]
  std::vector<Span> messages_;                   // [message]
  std::vector<std::uint32_t> reduction_groups_;  // [ReduceStep::index]
  std::vector<Stage> reduction_stages_;          // [ReduceStep::index]
  std::vector<Span> reductions_;                 // [ReduceStep::index]
  std::vector<SharedPair> shared_;
  std::vector<std::uint32_t> shared_groups_;  // [pair] no_index where it is of others, or of one rank
  std::vector<Waiting> reached_;              // [ReduceStep::index] reached in this step
  std::vector<std::uint32_t> by_stage_;       // indices of reductions, by stage
  std::size_t launched_ = 0;                  // of by_stage_
  device::Stream base_stream_;
  device::Event base_{device::EventKind::timing};
  Duration base_time_{};
  Duration clock_offset_{};
  std::thread::id owner_ = std::this_thread::get_id();  // that launches
  bool lost_ = false;
  std::function<void(const std::string&)> tell_lost_;  // NcclOptions::lost
  Headway headway_;                                    // of the rank's thread; it ends before all else
};

}  // namespace plumb::cuda
