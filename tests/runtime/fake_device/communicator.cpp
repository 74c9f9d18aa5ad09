// NCCL behind runtime/device/communicator.hpp, between the threads of one process: in a group all at once,
// every message waiting for its peer.
#include "runtime/device/communicator.hpp"

#include "runtime/device/stream.hpp"
#include "schedules/ir/error.hpp"
#include "tests/runtime/fake_device/connections.hpp"
#include "tests/runtime/fake_device/queue.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

struct ncclComm {
  struct Half {
    void* data = nullptr;
    std::int64_t bytes = 0;
    bool done = false;
  };
  struct Sum {
    std::vector<float*> parts;
    std::size_t arrived = 0;
    bool done = false;
  };
  struct Common;
  /// Ranks that part: those of one color meet again.
  struct Split {
    std::size_t arrived = 0;
    std::map<std::uint32_t, std::vector<std::uint32_t>> keys;  // [color]
    std::map<std::uint32_t, std::shared_ptr<Common>> parts;    // [color]
  };
  struct Common {
    std::mutex mutex;
    std::condition_variable changed;
    std::uint32_t ranks = 0;
    std::uint32_t joined = 0;
    bool aborted = false;
    std::map<std::pair<std::uint32_t, std::uint32_t>, std::deque<std::shared_ptr<Half>>> sends,
        receives;  // from, to
    std::map<std::uint64_t, Sum> sums;
    std::map<std::uint64_t, Split> splits;
  };
  struct Operation {
    bool send = false;
    std::uint32_t peer = 0;
    std::shared_ptr<Half> half;
    const plumb::device::Stream* stream = nullptr;
  };
  std::shared_ptr<Common> common;
  std::uint32_t rank = 0;
  std::uint64_t sums = 0;
  std::uint64_t splits = 0;
  std::vector<Operation> group;
};

namespace plumb::device {
namespace {
std::mutex communicators_mutex;
std::map<CommunicatorId, std::shared_ptr<ncclComm::Common>> communicators;
std::atomic<std::uint64_t> ids{0};
std::atomic<bool> connections_break{false};

using Half = ncclComm::Half;
// Moves what both sides are there for.
void match(ncclComm::Common& common, std::pair<std::uint32_t, std::uint32_t> ends) {
  auto& sends = common.sends[ends];
  auto& receives = common.receives[ends];
  while (!sends.empty() && !receives.empty()) {
    PLUMB_CHECK(sends.front()->bytes == receives.front()->bytes);
    std::memcpy(receives.front()->data, sends.front()->data, static_cast<std::size_t>(sends.front()->bytes));
    sends.front()->done = receives.front()->done = true;
    sends.pop_front();
    receives.pop_front();
  }
  common.changed.notify_all();
}
}  // namespace

}  // namespace plumb::device

namespace plumb::test {
void let_connections_break(bool broken) { device::connections_break = broken; }
}  // namespace plumb::test

namespace plumb::device {

CommunicatorId make_communicator_id() {
  CommunicatorId id{};
  const std::uint64_t number = ++ids;
  std::memcpy(id.data(), &number, sizeof number);
  return id;
}

Communicator::Communicator(const CommunicatorId& id, std::uint32_t ranks, std::uint32_t rank, std::uint32_t,
                           std::chrono::milliseconds deadline)
    : handle_(new ncclComm), deadline_(deadline) {
  {
    const std::lock_guard lock(communicators_mutex);
    auto& common = communicators[id];
    if (!common) common = std::make_shared<ncclComm::Common>();
    common->ranks = ranks;
    handle_->common = common;
  }
  handle_->rank = rank;
  std::unique_lock lock(handle_->common->mutex);
  ++handle_->common->joined;
  handle_->common->changed.notify_all();
  if (!handle_->common->changed.wait_for(lock, deadline, [&] { return handle_->common->joined == ranks; }))
    throw DeviceError("NCCL waited for its ranks to come together");
}
Communicator::~Communicator() { delete handle_; }

std::optional<Communicator> Communicator::split(std::optional<std::uint32_t> color, std::uint32_t key) {
  ncclComm::Common& common = *handle_->common;
  std::unique_lock lock(common.mutex);
  ncclComm::Split& split = common.splits[handle_->splits++];
  if (color) {
    split.keys[*color].push_back(key);
    if (auto& part = split.parts[*color]; !part) part = std::make_shared<ncclComm::Common>();
  }
  ++split.arrived;
  common.changed.notify_all();
  if (!common.changed.wait_for(lock, deadline_, [&] { return split.arrived == common.ranks; }))
    throw DeviceError("NCCL waited for its ranks to part");
  if (!color) return std::nullopt;
  auto* made = new ncclComm;
  made->common = split.parts.at(*color);
  const std::vector<std::uint32_t>& keys = split.keys.at(*color);
  made->common->ranks = static_cast<std::uint32_t>(keys.size());
  made->rank = static_cast<std::uint32_t>(
      std::count_if(keys.begin(), keys.end(), [&](std::uint32_t other) { return other < key; }));
  return Communicator(made, deadline_);
}

void Communicator::begin_group() { handle_->group.clear(); }
void Communicator::send(const void* data, Bytes bytes, std::uint32_t peer, const Stream& stream) {
  handle_->group.push_back(
      {true, peer, std::make_shared<Half>(Half{const_cast<void*>(data), bytes.count, false}), &stream});
}
void Communicator::receive(void* data, Bytes bytes, std::uint32_t peer, const Stream& stream) {
  handle_->group.push_back({false, peer, std::make_shared<Half>(Half{data, bytes.count, false}), &stream});
}
void Communicator::end_group() {
  if (handle_->group.empty()) return;
  handle_->group.front().stream->handle()->push(
      [common = handle_->common, rank = handle_->rank, group = std::move(handle_->group)] {
        std::unique_lock lock(common->mutex);
        for (const auto& operation : group) {
          const std::pair ends =
              operation.send ? std::pair{rank, operation.peer} : std::pair{operation.peer, rank};
          (operation.send ? common->sends : common->receives)[ends].push_back(operation.half);
          match(*common, ends);
        }
        common->changed.wait(lock, [&] {
          return common->aborted ||
                 std::all_of(group.begin(), group.end(), [](const auto& o) { return o.half->done; });
        });
      });
  handle_->group.clear();
}
void Communicator::all_reduce(void* data, std::size_t count, const Stream& stream) {
  stream.handle()->push(
      [common = handle_->common, rank = handle_->rank, round = handle_->sums++, data, count] {
        std::unique_lock lock(common->mutex);
        ncclComm::Sum& sum = common->sums[round];
        sum.parts.resize(common->ranks);
        sum.parts[rank] = static_cast<float*>(data);
        if (++sum.arrived == common->ranks) {
          for (std::size_t i = 0; i < count; ++i) {
            float total = 0;
            for (const float* part : sum.parts) total += part[i];
            for (float* part : sum.parts) part[i] = total;
          }
          sum.done = true;
          common->changed.notify_all();
        }
        common->changed.wait(lock, [&] { return common->aborted || sum.done; });
      });
}
void Communicator::check() const {
  const std::lock_guard lock(handle_->common->mutex);
  if (handle_->common->aborted || connections_break)
    throw DeviceError("NCCL: the remote process has exited or there was a network error");
}
void Communicator::abort() noexcept {
  const std::lock_guard lock(handle_->common->mutex);
  handle_->common->aborted = true;
  handle_->common->changed.notify_all();
}

}  // namespace plumb::device
