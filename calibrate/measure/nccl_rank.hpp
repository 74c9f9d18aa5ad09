// What everything that is measured over NCCL is measured with.
#pragma once
#include "calibrate/measure/background.hpp"
#include "calibrate/measure/gate.hpp"
#include "calibrate/measure/nccl_links.hpp"
#include "calibrate/measure/rank_bench.hpp"
#include "calibrate/ranks/sample_together.hpp"
#include "runtime/bootstrap/rendezvous.hpp"
#include "runtime/device/buffer.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/message_room.hpp"
#include "schedules/ir/units.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace plumb::measure {

constexpr std::size_t most_nccl_messages = 4;  // at once
/// Events that date what comes again and again.
class TimingEvents {
 public:
  const device::Event& operator[](std::size_t k) {
    while (events_.size() <= k) events_.emplace_back(device::EventKind::timing);
    return events_[k];
  }

 private:
  std::vector<device::Event> events_;
};

struct NcclRank {
  /// `message`: what the model sends; smaller ones are measured in any case. `gradients`: the most that
  /// are added up. `given`: as the runtime has it.
  NcclRank(Rendezvous& meeting, RankBench& place, Sampler& timer, const device::GreenContext* share,
           const device::MessageRoom& given, Bytes message, Bytes gradients);

  std::uint32_t rank() const { return rendezvous.rank(); }
  std::byte* to_send(std::size_t which = 0) const { return at(sent, which); }
  std::byte* to_receive(std::size_t which = 0) const { return at(received, which); }

  /// Rounds of it, warmed up as long as Sampler would; of `pace` the repeats and the round count.
  SampleSet sample(const ranks::Joint& joint, WarmUp warm_up, StoppingRule rule, ranks::Pace pace = {});

  /// From here on this rank computes a layer, or does not. A load that goes on from one figure to the next
  /// keeps the clock where it is.
  void keep_busy(bool busy, Company company = Company::forwards_and_backwards);

  Rendezvous& rendezvous;
  RankBench& bench;
  Sampler& sampler;
  device::MessageRoom room;
  Bytes largest;  // message
  NcclLinks links;
  Gate gate;
  device::Buffer sent, received;  // most_nccl_messages of the largest each; what is added up is in `sent`
  device::Event base{device::EventKind::timing}, order;
  TimingEvents left, returned;

 private:
  std::byte* at(const device::Buffer& buffer, std::size_t which) const {
    return buffer.as<std::byte>() + which * static_cast<std::size_t>(largest.count);
  }
  std::optional<Background> busy_;
  Company company_ = Company::forwards_and_backwards;
};

/// Of what several ranks did in a row, each time when the one before it was done: how long each took, by one
/// rank's clock. The first begins when its rank is ready and not when all are, so it does not count.
std::vector<Duration> between_ticks(TimingEvents& ticks, std::uint32_t count);

}  // namespace plumb::measure
