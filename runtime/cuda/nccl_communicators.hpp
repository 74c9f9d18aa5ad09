// The communicators that one worker is in, made when a plan first asks for them.
#pragma once
#include "runtime/cuda/nccl_groups.hpp"
#include "runtime/device/communicator.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/gpu_workers.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace plumb::cuda {

class NcclCommunicators : public NcclSession {
 public:
  /// A communicator of some workers and the stream of what it does.
  struct Group {
    std::vector<std::uint32_t> workers;
    device::Communicator communicator;
    device::Stream stream;
  };

  /// At most so many blocks of a kernel.
  struct Channels {
    std::uint32_t of_messages, of_sums;
  };

  /// All workers together, each with the same plan: [group of the plan] nothing where this worker is not in
  /// it. What an earlier plan had is not made again, and keeps its channels. Throws DeviceError, and aborts
  /// them all.
  std::vector<Group*> join(const NcclGroups& plan, Rendezvous& rendezvous, const Channels& channels,
                           std::chrono::milliseconds deadline);
  /// The share of the current device in which this worker computes and its messages move: the `share`-th of
  /// `shares`; nothing where `shares` is 0. Said before the first join, and the same each time.
  const device::GreenContext* use_share(std::uint32_t shares, std::uint32_t share);
  void abort() noexcept;

 private:
  /// A parent with its parts, or a group that has none. A parent outlives its parts.
  struct Family {
    std::optional<device::Communicator> parent;
    std::vector<std::unique_ptr<Group>> groups;
  };
  /// What tells families apart: their groups' workers, splits and parts, what they are for, and which of
  /// several alike it is in its plan. Messages and sums may have the same workers, and must not wait for each
  /// other.
  using Key = std::pair<std::vector<std::vector<std::uint32_t>>, std::uint32_t>;

  struct Wanted {
    Family* family;
    std::uint32_t parent;               // no_index: a group without one
    std::vector<std::uint32_t> groups;  // of the plan
    bool is_new;
  };

  std::vector<Wanted> families_of(const NcclGroups& plan);
  void make(const NcclGroups& plan, std::vector<Wanted>& wanted, Rendezvous& rendezvous,
            const Channels& channels, std::chrono::milliseconds deadline);

  std::unique_ptr<Group> make_group(std::vector<std::uint32_t> workers, device::Communicator communicator);

  std::vector<device::GreenContext> shares_;
  const device::GreenContext* share_ = nullptr;
  std::map<Key, Family> families_;  // the same on all workers, empty of groups that this one is not in
  bool lost_ = false;
};

}  // namespace plumb::cuda
