#include "runtime/cuda/nccl_transport.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
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
                             std::uint32_t channels, bool shared_threads, std::chrono::milliseconds deadline,
                             std::vector<SharedPair> shared)
    : schedule_(schedule),
      rendezvous_(rendezvous),
      guard_(guard),
      rank_{rendezvous.rank() % schedule.ranks()},
      copy_(rendezvous.rank() / schedule.ranks()),
      messages_(schedule.per_rank[rank_.value].messages.size()),
      shared_(std::move(shared)) {
  PLUMB_CHECK(rendezvous.ranks() == schedule.ranks() * schedule.data_parallel);
  make_groups(channels, shared_threads, deadline);
  clock_offset_ = rendezvous.clock_offset(host_now).offset;
}

NcclTransport::~NcclTransport() = default;

std::size_t NcclTransport::add_group(std::vector<std::vector<std::uint32_t>>& all,
                                     std::vector<std::uint32_t> workers) const {
  all.push_back(std::move(workers));
  return all.size() - 1;
}

std::vector<NcclTransport::Way> NcclTransport::ways() const {
  std::vector<Way> ways;
  for (std::uint32_t r = 0; r < schedule_.ranks(); ++r) {
    for (const Message& message : schedule_.per_rank[r].messages) {
      const Way way{r, message.peer.value};
      if (is_send(message.op.kind) && std::find(ways.begin(), ways.end(), way) == ways.end())
        ways.push_back(way);
    }
  }
  return ways;
}

// A rank is in one part of a split, so ways that have a rank in common come from different splits.
void NcclTransport::part(device::Communicator& parent, const std::vector<Way>& ways,
                         std::map<Way, std::uint32_t>& found) {
  std::vector<std::vector<Way>> splits;
  for (const Way& way : ways) {
    const auto apart = [&](const Way& other) {
      return other.first != way.first && other.first != way.second && other.second != way.first &&
             other.second != way.second;
    };
    auto split = std::find_if(splits.begin(), splits.end(), [&](const std::vector<Way>& taken) {
      return std::all_of(taken.begin(), taken.end(), apart);
    });
    if (split == splits.end()) split = splits.emplace(splits.end());
    split->push_back(way);
  }
  for (const std::vector<Way>& split : splits) {
    const auto mine = std::find_if(split.begin(), split.end(), [&](const Way& way) {
      return way.first == rank_.value || way.second == rank_.value;
    });
    if (mine == split.end()) {
      static_cast<void>(parent.split(std::nullopt, 0));
      continue;
    }
    found[*mine] = static_cast<std::uint32_t>(groups_.size());
    Group& group = *groups_.emplace_back(std::make_unique<Group>());
    group.workers = {worker_of(Rank{mine->first}), worker_of(Rank{mine->second})};
    group.own = mine->first == rank_.value ? 0 : 1;
    group.communicator = parent.split(static_cast<std::uint32_t>(mine - split.begin()), group.own);
  }
}

// Every worker works out the same list of groups, so that the ids, each made by the first worker of its
// group, find their way, and two workers come to their common groups in the same order.
void NcclTransport::make_groups(std::uint32_t channels, bool shared_threads,
                                std::chrono::milliseconds deadline) {
  const std::uint32_t ranks = schedule_.ranks();
  std::vector<std::vector<std::uint32_t>> all;
  std::map<Way, std::size_t> channel_of;  // workers: from, to
  std::vector<std::size_t> pipeline_of(schedule_.data_parallel);
  std::vector<bool> is_parent;  // [group of all]
  std::map<std::vector<std::uint32_t>, std::size_t> sum_of;
  const bool batched = schedule_.placement == CommPlacement::batched;
  for (std::uint32_t copy = 0; copy < schedule_.data_parallel; ++copy) {
    std::vector<std::uint32_t> pipeline;
    for (std::uint32_t r = 0; r < ranks; ++r) pipeline.push_back(copy * ranks + r);
    if (batched) {
      pipeline_of[copy] = add_group(all, std::move(pipeline));
    } else if (shared_threads) {
      add_group(all, pipeline);  // of the ways up
      add_group(all, pipeline);  // of the ways down
      is_parent.resize(all.size(), true);
    } else {
      for (const Way& way : ways()) {
        const Way ends{copy * ranks + way.first, copy * ranks + way.second};
        channel_of[ends] = add_group(all, {ends.first, ends.second});
      }
    }
  }
  std::vector<std::vector<std::uint32_t>> owners(schedule_.stages);
  for (std::uint32_t copy = 0; copy < schedule_.data_parallel; ++copy) {
    for (std::uint32_t r = 0; r < ranks; ++r) {
      for (const Step& step : schedule_.per_rank[r].steps) {
        const auto* collective = std::get_if<Collective>(&step);
        if (collective) owners[collective->op.stage.value].push_back(copy * ranks + r);
      }
    }
  }
  for (const auto& workers : owners) {
    if (workers.size() > 1 && !sum_of.contains(workers)) sum_of[workers] = add_group(all, workers);
  }
  const auto workers_of = [&](const SharedPair& pair, std::uint32_t copy) {
    std::vector<std::uint32_t> workers{copy * ranks + pair.first.value, copy * ranks + pair.last.value};
    std::sort(workers.begin(), workers.end());
    return workers;
  };
  for (std::uint32_t copy = 0; copy < schedule_.data_parallel; ++copy) {
    for (const SharedPair& pair : shared_) {
      const auto workers = workers_of(pair, copy);
      if (pair.first != pair.last && !sum_of.contains(workers)) sum_of[workers] = add_group(all, workers);
    }
  }

  std::string made;
  for (const auto& workers : all) {
    if (workers.front() != rendezvous_.rank()) continue;
    const device::CommunicatorId id = device::make_communicator_id();
    made.append(reinterpret_cast<const char*>(id.data()), id.size());
  }
  const std::vector<std::string> from_all = rendezvous_.gather(made);
  std::string ids;
  if (rendezvous_.rank() == 0) {
    std::vector<std::size_t> taken(from_all.size());
    for (const auto& workers : all) {
      std::size_t& at = taken[workers.front()];
      ids += from_all[workers.front()].substr(at, sizeof(device::CommunicatorId));
      at += sizeof(device::CommunicatorId);
    }
  }
  ids = rendezvous_.broadcast(ids);
  PLUMB_CHECK(ids.size() == all.size() * sizeof(device::CommunicatorId));

  is_parent.resize(all.size(), false);
  std::vector<std::uint32_t> own(all.size(), no_index);  // [group of all] among groups_
  for (std::size_t g = 0; g < all.size(); ++g) {
    const auto place = std::find(all[g].begin(), all[g].end(), rendezvous_.rank());
    if (place == all[g].end()) continue;
    const auto place_in_it = static_cast<std::uint32_t>(place - all[g].begin());
    device::CommunicatorId id{};
    std::memcpy(id.data(), ids.data() + g * sizeof id, sizeof id);
    device::Communicator communicator(id, static_cast<std::uint32_t>(all[g].size()), place_in_it, channels,
                                      deadline);
    if (is_parent[g]) {
      parents_.push_back(std::move(communicator));
      continue;
    }
    own[g] = static_cast<std::uint32_t>(groups_.size());
    Group& group = *groups_.emplace_back(std::make_unique<Group>());
    group.workers = all[g];
    group.own = place_in_it;
    group.communicator = std::move(communicator);
  }

  std::map<Way, std::uint32_t> parts;  // ranks: from, to
  if (!parents_.empty()) {
    std::vector<Way> up = ways();
    const auto middle =
        std::stable_partition(up.begin(), up.end(), [](const Way& way) { return way.first < way.second; });
    const std::vector<Way> down(middle, up.end());
    up.erase(middle, up.end());
    part(parents_[0], up, parts);
    part(parents_[1], down, parts);
  }

  for (const Message& message : schedule_.per_rank[rank_.value].messages) {
    const bool send = is_send(message.op.kind);
    const Rank from = send ? rank_ : message.peer;
    const Rank to = send ? message.peer : rank_;
    message_groups_.push_back(batched             ? own[pipeline_of[copy_]]
                              : !parents_.empty() ? parts.at({from.value, to.value})
                                                  : own[channel_of.at({worker_of(from), worker_of(to)})]);
  }
  for (const Step& step : schedule_.per_rank[rank_.value].steps) {
    const auto* collective = std::get_if<Collective>(&step);
    if (!collective) continue;
    const auto sum = sum_of.find(owners[collective->op.stage.value]);
    by_stage_.push_back(static_cast<std::uint32_t>(reduction_groups_.size()));
    reduction_groups_.push_back(sum == sum_of.end() ? no_index : own[sum->second]);
    reduction_stages_.push_back(collective->op.stage);
  }
  for (const SharedPair& pair : shared_) {
    const auto sum = sum_of.find(workers_of(pair, copy_));
    shared_groups_.push_back(sum == sum_of.end() ? no_index : own[sum->second]);
  }
  std::sort(by_stage_.begin(), by_stage_.end(),
            [&](auto a, auto b) { return reduction_stages_[a] < reduction_stages_[b]; });
  reductions_ = std::vector<Span>(reduction_groups_.size());
}

std::string NcclTransport::at(std::uint32_t step) const {
  return fmt::format("rank {}{}, {}", rank_.value,
                     schedule_.data_parallel > 1 ? fmt::format(" of copy {}", copy_) : "",
                     step == no_index ? "at the end of its step" : fmt::format("step {}", step));
}

template <class Issue>
void NcclTransport::issue(std::uint32_t step, Issue issue) {
  try {
    issue();
  } catch (const DeviceError& error) {
    const std::string reason = fmt::format("{}: {}", at(step), error.what());
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
}

void NcclTransport::move(Group& group, const Posted& posted, std::uint32_t peer) {
  const Buffer& buffer = posted.message->buffer;
  if (buffer.empty()) return;
  const Bytes bytes{static_cast<std::int64_t>(buffer.bytes)};
  is_send(posted.message->op.kind) ? group.communicator->send(posted.data, bytes, peer, group.stream)
                                   : group.communicator->receive(posted.data, bytes, peer, group.stream);
}

void NcclTransport::post(std::span<const Posted> messages, bool together, std::uint32_t step) {
  if (messages.empty()) return;
  issue(step, [&] {
    // One group: of a whole batch, or of the one message that stands alone.
    Group& group = *groups_[message_groups_[messages.front().message->index]];
    PLUMB_CHECK(together || messages.size() == 1);
    for (const Posted& posted : messages) group.stream.wait(*posted.after);
    for (const Posted& posted : messages) messages_[posted.message->index].begin.record(group.stream);
    group.communicator->begin_group();
    for (const Posted& posted : messages) {
      const auto peer =
          std::find(group.workers.begin(), group.workers.end(), worker_of(posted.message->peer));
      move(group, posted, static_cast<std::uint32_t>(peer - group.workers.begin()));
    }
    group.communicator->end_group();
    for (const Posted& posted : messages) messages_[posted.message->index].end.record(group.stream);
  });
}

const device::Event& NcclTransport::end_of(std::uint32_t message, std::uint32_t /*step*/) {
  return messages_[message].end;
}

void NcclTransport::reduce(const ReduceStep& reduction, std::span<float> gradients,
                           const device::Event& after, std::uint32_t step) {
  reached_[reduction.index] = {&reduction, gradients, &after};
  launch_reductions(false, step);
}

// In the order of stages, as far as they have been reached.
void NcclTransport::launch_reductions(bool all, std::uint32_t step) {
  issue(step, [&] {
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
  Group* group = reduction_groups_[index] == no_index ? nullptr : groups_[reduction_groups_[index]].get();
  const device::Stream& stream = group ? group->stream : base_stream_;
  stream.wait(*waiting.after);
  span.begin.record(stream);
  if (group) {
    group->communicator->all_reduce(waiting.gradients.data(), waiting.gradients.size(), device::Element::fp32,
                                    stream);
  }
  span.end.record(stream);
}

void NcclTransport::wait_for(const device::Event& event, const std::string& what) {
  issue(no_index, [&] {
    guard_.wait(
        [&] {
          if (event.happened()) return true;
          for (const auto& group : groups_) group->communicator->check();
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
}

void NcclTransport::share(std::uint32_t pair, std::span<float> gradients, const device::Event& after) {
  const device::Event done;
  issue(no_index, [&] {
    Group& group = *groups_.at(shared_groups_[pair]);
    group.stream.wait(after);
    group.communicator->all_reduce(gradients.data(), gradients.size(), device::Element::fp32, group.stream);
    done.record(group.stream);
  });
  wait_for(done, "the other half of the gradients of the tied head");
}

// A kernel of NCCL's holds waiting and transfer, so when the transfer began is nobody's to know.
MessageTimes NcclTransport::message_times(std::uint32_t message) {
  return {TimePoint{}, std::nullopt, TimePoint{} + device::between(base_, messages_[message].end)};
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
  for (const auto& group : groups_) {
    if (group->communicator) group->communicator->abort();
  }
  for (device::Communicator& parent : parents_) parent.abort();
  rendezvous_.abort(reason);
}

}  // namespace plumb::cuda
