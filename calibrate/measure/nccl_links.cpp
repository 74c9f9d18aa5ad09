#include "calibrate/measure/nccl_links.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cstring>
#include <thread>

#include <fmt/format.h>

namespace plumb::measure {

NcclLinks::NcclLinks(Rendezvous& rendezvous, const device::GreenContext* share,
                     std::chrono::milliseconds deadline)
    : rendezvous_(rendezvous), share_(share), deadline_(deadline) {}

NcclLink* NcclLinks::between(const std::vector<std::uint32_t>& ranks, std::uint32_t channels) {
  const std::pair key{ranks, channels};
  if (const auto known = links_.find(key); known != links_.end()) return known->second.get();
  // The id is made by the first of them and travels over rank 0.
  std::string mine;
  if (rendezvous_.rank() == ranks.front()) {
    const device::CommunicatorId id = device::make_communicator_id();
    mine.assign(reinterpret_cast<const char*>(id.data()), id.size());
  }
  const std::vector<std::string> ids = rendezvous_.gather(mine);
  const std::string bytes = rendezvous_.broadcast(ids.empty() ? std::string() : ids[ranks.front()]);
  device::CommunicatorId id{};
  PLUMB_CHECK(bytes.size() == id.size());
  std::memcpy(id.data(), bytes.data(), id.size());

  auto& link = links_[key];
  const auto own = std::find(ranks.begin(), ranks.end(), rendezvous_.rank());
  if (own == ranks.end()) return nullptr;
  const auto place = static_cast<std::uint32_t>(own - ranks.begin());
  constexpr auto priority = device::Priority::high;
  link = std::make_unique<NcclLink>(
      NcclLink{ranks,
               place,
               {id, static_cast<std::uint32_t>(ranks.size()), place, channels, deadline_},
               share_ ? share_->stream(priority) : device::Stream(priority)});
  return link.get();
}

void NcclLinks::wait(const device::Event& event, const std::string& what) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + deadline_;
  try {
    for (auto next_look = Clock::now() + look; !event.happened();) {
      // What is waited for takes longer than this, and NCCL's own threads want the cores.
      std::this_thread::sleep_for(std::chrono::microseconds(20));
      if (Clock::now() < next_look) continue;
      next_look = Clock::now() + look;
      for (const auto& [key, link] : links_) {
        if (link) link->communicator.check();
      }
      if (const auto why = rendezvous_.aborted()) throw DeviceError(*why);
      if (Clock::now() > end) {
        throw DeviceError(
            fmt::format("rank {} waited {} ms for {}", rendezvous_.rank(), deadline_.count(), what));
      }
    }
  } catch (const DeviceError&) {
    abort();
    throw;
  }
}

void NcclLinks::abort() noexcept {
  for (const auto& [key, link] : links_) {
    if (link) link->communicator.abort();
  }
}

}  // namespace plumb::measure
