// Messages to and from a rank's neighbours while it computes, as in a step.
#pragma once
#include "calibrate/measure/nccl_links.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/stream.hpp"
#include "schedules/ir/units.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace plumb::measure {

/// NCCL's kernels hold multiprocessors while they wait and send, and what computes beside them takes longer.
/// How much depends on where they happen to run: on a share of 16 with two receives waiting, products
/// took 1.0 or 1.43 times as long, and stayed at it. So messages come and go: each rank always has a receive
/// from each neighbour posted, and sends behind its ops, to one neighbour and the other in turns, unless the
/// message before is still on its way. Nobody's computation waits for any of them.
///
/// Ranks do not compute equally often, so at the end they tell each other how much was sent and received, and
/// make up for the difference. From begin to end nothing may wait for the whole device, as giving back its
/// memory does.
class NeighbourMessages {
 public:
  struct Messages {
    Bytes bytes;
    const void* sent = nullptr;
    std::array<void*, 2> received{};  // from the rank before and from the one behind
    std::uint32_t channels = 1;
  };
  /// All ranks together: connects the neighbours. `compute`: this rank's ops.
  NeighbourMessages(Rendezvous& rendezvous, NcclLinks& links, const device::Stream& compute,
                    const Messages& messages);

  /// Each rank when it likes.
  void begin();
  /// Behind what is in the main stream so far; nothing before begin and after end. By any thread.
  void send_behind_op();
  /// All ranks together. Everything has come when this returns. Where a rank is gone, all is aborted
  /// (DeviceError).
  void end();

 private:
  struct Way {
    std::uint32_t from = 0, to = 0;
    NcclLink* link = nullptr;  // nothing where this rank is at neither end
    std::size_t place = 0;     // where it receives
    std::uint32_t messages = 0;
    device::Event made, done;
    bool on_its_way() const { return messages > 0 && !done.happened(); }
  };
  void move(Way& way);
  std::vector<Way*> own(std::uint32_t Way::*end);
  std::string counts(std::uint32_t Way::*end);

  Rendezvous& rendezvous_;
  NcclLinks& links_;
  const device::Stream& compute_;
  Messages messages_;
  std::vector<Way> ways_;  // of all ranks, in one order
  std::size_t next_ = 0;   // of those that it sends
  std::mutex mutex_;
  bool open_ = false;
};

}  // namespace plumb::measure
