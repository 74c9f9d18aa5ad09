#include "runtime/cuda/nccl_transport.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include <fmt/format.h>

namespace plumb::cuda {
namespace {

TimePoint host_now() {
  return {std::chrono::duration_cast<std::chrono::nanoseconds>(
              std::chrono::steady_clock::now().time_since_epoch())
              .count()};
}

std::string to_bytes(std::span<const double> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

}  // namespace

NcclTransport::NcclTransport(const LoweredSchedule& schedule, Rendezvous& rendezvous, StepGuard& guard,
                             NcclCommunicators& communicators, const device::MessageRoom& room,
                             bool shared_threads, std::chrono::milliseconds deadline, Bytes largest,
                             std::vector<SharedPair> shared,
 std::function<void(const std::string&)> lost)
    : schedule_(schedule),
      rendezvous_(rendezvous),
      guard_(guard),
      rank_{rendezvous.rank() % schedule.ranks()},
      copy_(rendezvous.rank() / schedule.ranks()),
      communicators_(communicators),
      messages_(schedule.per_rank[rank_.value].messages.size()),
      shared_(std::move(shared)),
      tell_lost_(std::move(lost)),
      headway_(deadline + std::chrono::seconds{2}, tell_lost_ ? [this, deadline](std::uint32_t step) {
        tell_lost_(fmt::format("{}: no call of the driver's has come back for {:.3g} s", at(step, nullptr),
                               std::chrono::duration<double>(deadline).count()));
      } : std::function<void(std::uint32_t)>{}) {
  PLUMB_CHECK(rendezvous.ranks() == schedule.ranks() * schedule.data_parallel);
  make_groups(room, shared_threads, deadline);
  for (std::size_t i = 0; i < message_groups_.size(); ++i) {
    const bool alone = schedule.placement != CommPlacement::batched;
    if (room.receives_ahead && alone && is_recv(schedule.per_rank[rank_.value].messages[i].op.kind))
      ahead_.try_emplace(message_groups_[i], largest);
  }
  clock_offset_ = rendezvous.clock_offset(host_now).offset;
}

NcclTransport::~NcclTransport() = default;

void NcclTransport::make_groups(const device::MessageRoom& room, bool shared_threads,
                                std::chrono::milliseconds deadline) {
  const NcclGroups plan = nccl_groups(schedule_, shared_, shared_threads);
  groups_ = communicators_.join(plan, rendezvous_, {room.channels, room.sum_channels}, deadline);
  for (const Message& message : schedule_.per_rank[rank_.value].messages) {
    const bool send = is_send(message.op.kind);
    const std::uint32_t self = worker_of(rank_);
    const std::uint32_t peer = worker_of(message.peer);
    message_groups_.push_back(plan.of_messages.at(send ? std::pair{self, peer} : std::pair{peer, self}));
  }
  const auto sum_of = [&](const std::vector<std::uint32_t>& workers) {
    const auto sum = plan.of_sums.find(workers);
    return sum == plan.of_sums.end() || !groups_[sum->second] ? no_index : sum->second;
  };
  const auto owners = owners_of_sums(schedule_);
  for (const Step& step : schedule_.per_rank[rank_.value].steps) {
    const auto* collective = std::get_if<Collective>(&step);
    if (!collective) continue;
    by_stage_.push_back(static_cast<std::uint32_t>(reduction_groups_.size()));
    reduction_groups_.push_back(sum_of(owners[collective->op.stage.value]));
    reduction_stages_.push_back(collective->op.stage);
  }
  for (const SharedPair& pair : shared_)
    shared_groups_.push_back(sum_of(workers_of(pair, copy_, schedule_.ranks())));
  std::sort(by_stage_.begin(), by_stage_.end(),
            [&](auto a, auto b) { return reduction_stages_[a] < reduction_stages_[b]; });
  reductions_ = std::vector<Span>(reduction_groups_.size());
}

std::string NcclTransport::at(std::uint32_t step, const Op* op) const {
  return fmt::format("rank {}{}, {}{}", rank_.value,
                     schedule_.data_parallel > 1 ? fmt::format(" of copy {}", copy_) : "",
                     step == no_index ? "at the end of its step" : fmt::format("step {}", step),
                     op ? fmt::format(", {}", to_string(*op)) : "");
}

// NCCL may notice before the rendezvous does that a rank is gone, but not which; what it says then helps
// nobody.
std::string NcclTransport::explained(const std::string& what) {
  if (guard_.given_up()) return what;  // what ended the step was said with it
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds{1};
  do {
    if (const auto why = rendezvous_.aborted()) return what.find(*why) == std::string::npos ? *why : what;
    std::this_thread::sleep_for(std::chrono::milliseconds{2});
  } while (std::chrono::steady_clock::now() < until);
  return what;
}

template <class Issue>
void NcclTransport::issue(std::uint32_t step, const Op* op, Issue issue) {
  try {
    issue();
  } catch (const DeviceError& error) {
    const std::string reason = fmt::format("{}: {}", at(step, op), explained(error.what()));
    headway_.rests();
    if (tell_lost_) tell_lost_(reason);
    give_up(reason);
    throw DeviceError(reason);
  }
}

void NcclTransport::begin_step(std::span<const device::Stream* const> streams) {
  owner_ = std::this_thread::get_id();
  launched_ = 0;
  reached_.assign(reductions_.size(), {});
  rendezvous_.barrier();
  base_.record(base_stream_);
  base_.synchronize();
  base_time_ = (host_now() - TimePoint{}) - clock_offset_;
  for (const device::Stream* stream : streams) stream->wait(base_);
  headway_.at(0);
}

void NcclTransport::move(Group& group, const MessageStep& message, void* data, std::uint32_t peer) {
  const Buffer& buffer = message.buffer;
  if (buffer.empty()) return;
  const Bytes bytes{static_cast<std::int64_t>(buffer.bytes)};
  is_send(message.op.kind) ? group.communicator.send(data, bytes, peer, group.stream)
                           : group.communicator.receive(data, bytes, peer, group.stream);
}

void NcclTransport::receive_ahead(Group& group, const device::Buffer& ahead, const Posted& posted) {
  const MessageStep& message = *posted.message;
  PLUMB_CHECK(static_cast<std::int64_t>(message.buffer.bytes) <= ahead.bytes().count);
  messages_[message.index].begin.record(group.stream);
  group.communicator.begin_group();
  move(group, message, ahead.data(), 0);  // of a way's two workers the first sends
  group.communicator.end_group();
  group.stream.wait(*posted.after);
  if (!message.buffer.empty()) device::copy(group.stream, posted.data, ahead.data(), message.buffer.bytes);
  messages_[message.index].end.record(group.stream);
}

void NcclTransport::post(std::span<const Posted> messages, bool together, std::uint32_t step) {
  headway_.at(step);
  if (messages.empty()) return;
  issue(step, &messages.front().message->op, [&] {
    // One group: of a whole batch, or of the one message that stands alone.
    Group& group = *groups_[message_groups_[messages.front().message->index]];
    PLUMB_CHECK(together || messages.size() == 1);
    if (const auto ahead = ahead_.find(message_groups_[messages.front().message->index]);
        ahead != ahead_.end() && is_recv(messages.front().message->op.kind))
      return receive_ahead(group, ahead->second, messages.front());
    for (const Posted& posted : messages) group.stream.wait(*posted.after);
    for (const Posted& posted : messages) messages_[posted.message->index].begin.record(group.stream);
    group.communicator.begin_group();
    for (const Posted& posted : messages) {
      const auto peer =
          std::find(group.workers.begin(), group.workers.end(), worker_of(posted.message->peer));
      move(group, *posted.message, posted.data, static_cast<std::uint32_t>(peer - group.workers.begin()));
    }
    group.communicator.end_group();
    for (const Posted& posted : messages) messages_[posted.message->index].end.record(group.stream);
  });
}

const device::Event& NcclTransport::end_of(std::uint32_t message, std::uint32_t /*step*/) {
  return messages_[message].end;
}

void NcclTransport::reduce(const ReduceStep& reduction, std::span<float> gradients,
                           const device::Event& after, std::uint32_t step) {
  headway_.at(step);
  reached_[reduction.index] = {&reduction, gradients, &after};
  launch_reductions(false, step);
}

// In the order of stages, as far as they have been reached.
void NcclTransport::launch_reductions(bool all, std::uint32_t step) {
  issue(step, nullptr, [&] {
    for (; launched_ < by_stage_.size(); ++launched_) {
      Waiting& waiting = reached_[by_stage_[launched_]];
      if (!waiting.reduction) break;
      all_reduce(waiting);
    }
  });
  PLUMB_CHECK(!all || launched_ == by_stage_.size());
}

void NcclTransport::all_reduce(Waiting& waiting) {
  const std::uint32_t index = waiting.reduction->index;
  Span& span = reductions_[index];
  // A stage that nobody else holds is its own sum.
  Group* group = reduction_groups_[index] == no_index ? nullptr : groups_[reduction_groups_[index]];
  const device::Stream& stream = group ? group->stream : base_stream_;
  stream.wait(*waiting.after);
  span.begin.record(stream);
  if (group) {
    group->communicator.all_reduce(waiting.gradients.data(), waiting.gradients.size(), stream);
  }
  span.end.record(stream);
}

void NcclTransport::wait_for(const device::Event& event, const std::string& what) {
  headway_.at(no_index);
  issue(no_index, nullptr, [&] {
    guard_.wait(
        [&] {
          if (event.happened()) return true;
          for (const Group* group : groups_) {
            if (group) group->communicator.check();
          }
          if (const auto why = rendezvous_.aborted())
            throw DeviceError(fmt::format("waiting for {}: {}", what, *why));
          return false;
        },
        [&] { return "waiting for " + what; }, true);
  });
}

void NcclTransport::finish_step() {
  launch_reductions(true, no_index);
  for (std::uint32_t i = 0; i < messages_.size(); ++i) {
    const Message& message = schedule_.per_rank[rank_.value].messages[i];
    wait_for(messages_[i].end, fmt::format("{} {} rank {}", to_string(message.op),
                                           is_send(message.op.kind) ? "to" : "from", message.peer.value));
  }
  for (std::uint32_t i = 0; i < reductions_.size(); ++i) {
    wait_for(reductions_[i].end,
             fmt::format("the sum of the gradients of stage {}", reduction_stages_[i].value));
  }
  headway_.rests();
}

void NcclTransport::share(std::uint32_t pair, std::span<float> gradients, const device::Event& after) {
  const device::Event done;
  issue(no_index, nullptr, [&] {
    Group& group = *groups_.at(shared_groups_[pair]);
    group.stream.wait(after);
    group.communicator.all_reduce(gradients.data(), gradients.size(), group.stream);
    done.record(group.stream);
  });
  wait_for(done, "the other half of the gradients of the tied head");
  headway_.rests();
}

// A kernel of NCCL's holds waiting and transfer, so when the transfer began is nobody's to know.
MessageTimes NcclTransport::message_times(std::uint32_t message) {
  const Span& span = messages_[message];
  const bool ahead = ahead_.contains(message_groups_[message]) &&
                     is_recv(schedule_.per_rank[rank_.value].messages[message].op.kind);
  const TimePoint posted = ahead ? TimePoint{} + device::between(base_, span.begin) : TimePoint{};
  return {posted, std::nullopt, TimePoint{} + device::between(base_, span.end)};
}

Interval NcclTransport::reduction_times(std::uint32_t index) {
  return {TimePoint{} + device::between(base_, reductions_[index].begin),
          TimePoint{} + device::between(base_, reductions_[index].end)};
}

void NcclTransport::sum(std::span<double> values) {
  const std::vector<std::string> all = rendezvous_.gather(to_bytes(values));
  if (rendezvous_.rank() == 0) {
    std::fill(values.begin(), values.end(), 0.0);
    for (const std::string& one : all) {
      PLUMB_CHECK(one.size() == values.size_bytes());
      for (std::size_t i = 0; i < values.size(); ++i) {
        double value = 0;
        std::memcpy(&value, one.data() + i * sizeof value, sizeof value);
        values[i] += value;
      }
    }
  }
  const std::string sums = rendezvous_.broadcast(to_bytes(values));
  PLUMB_CHECK(sums.size() == values.size_bytes());
  std::memcpy(values.data(), sums.data(), sums.size());
}

void NcclTransport::give_up(const std::string& reason) noexcept {
  guard_.give_up(reason);
  // NCCL and the rendezvous belong to the rank's thread; where that waits here it finds out, and comes here
  // itself.
  if (std::this_thread::get_id() != owner_ || lost_) return;
  lost_ = true;
  headway_.rests();
  // The others first: what NCCL does to end may wait for one that is frozen.
  rendezvous_.abort(reason);
  communicators_.abort();
}

}  // namespace plumb::cuda
