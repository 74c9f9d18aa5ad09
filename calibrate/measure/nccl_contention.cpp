#include "calibrate/measure/nccl_contention.hpp"

#include "calibrate/measure/background.hpp"
#include "schedules/ir/error.hpp"

#include <algorithm>
#include <map>

namespace plumb::measure {
namespace {

using ranks::Joint;
using ranks::Round;

const std::map<std::string, TransferKind> communications{{"send_recv", TransferKind::both_ways},
                                                         {"all_to_all", TransferKind::all_to_all},
                                                         {"all_reduce", TransferKind::all_reduce}};
double typical(const SampleSet& set) { return static_cast<double>(set.summary().median.ns); }

}  // namespace

bool is_communication(const std::string& work_class) { return communications.contains(work_class); }

NcclContention::Communication NcclContention::communication(const std::string& work_class,
                                                            std::uint32_t channels) {
  const TransferKind kind = communications.at(work_class);
  std::vector<std::uint32_t> ranks{0, 1};
  for (std::uint32_t r = 2; r < rank_.rendezvous.ranks() && kind != TransferKind::both_ways; ++r)
    ranks.push_back(r);
  return {kind, rank_.links.between(ranks, channels), message_};
}

void NcclContention::queue(const Communication& what) const {
  NcclLink& link = *what.link;
  device::Communicator& nccl = link.communicator;
  const auto ranks = static_cast<std::uint32_t>(link.ranks.size());
  const auto count = static_cast<std::size_t>(what.size.count) / sizeof(float);
  const std::size_t each = std::max<std::size_t>(1, count / ranks);
  switch (what.kind) {
    case TransferKind::both_ways:
      nccl.begin_group();
      nccl.send(rank_.to_send(), what.size, 1 - link.own, link.stream);
      nccl.receive(rank_.to_receive(), what.size, 1 - link.own, link.stream);
      return nccl.end_group();
    case TransferKind::all_reduce:
      return nccl.all_reduce(rank_.to_send(), count, link.stream);
    case TransferKind::reduce_scatter:
      return nccl.reduce_scatter(rank_.to_send(), rank_.to_receive(), each, link.stream);
    case TransferKind::all_gather:
      return nccl.all_gather(rank_.to_send(), rank_.to_receive(), each, link.stream);
    case TransferKind::all_to_all: {
      const Bytes part{static_cast<std::int64_t>(each * sizeof(float))};
      nccl.begin_group();
      for (std::uint32_t peer = 0; peer < ranks; ++peer) {
        nccl.send(rank_.to_send() + peer * part.count, part, peer, link.stream);
        nccl.receive(rank_.to_receive() + peer * part.count, part, peer, link.stream);
      }
      return nccl.end_group();
    }
    default:
      PLUMB_CHECK(!"something that ranks do together");
  }
}

// One after the other, each timed from the end of the one before it.
Joint NcclContention::again_and_again(const Communication& what) {
  NcclRank& rank = rank_;
  Joint joint;
  joint.play = [&rank, what, this](std::uint32_t repeats) {
    if (what.link) {
      rank.gate.close(what.link->stream);
      for (std::uint32_t k = 0; k <= repeats; ++k) {
        queue(what);
        rank.left[k].record(what.link->stream);
      }
    }
    rank.rendezvous.barrier();
    if (!what.link) return Round{};
    rank.gate.open();
    rank.links.wait(rank.left[repeats], "what ranks do together");
    return Round{between_ticks(rank.left, repeats + 1), rank.gate.clock_mhz()};
  };
  joint.combine = [](const std::vector<Round>& rounds, std::uint32_t&) { return rounds.front().durations; };
  return joint;
}

SampleSet NcclContention::time_collective(const TransferTarget& target, const StoppingRule& rule) {
  const TransferKey& key = target.key;
  rank_.keep_busy(false);
  NcclLink* own = nullptr;
  for (std::uint32_t i = 0; i < key.at_once; ++i) {
    std::vector<std::uint32_t> ranks = key.ranks;
    if (i > 0) ranks = {key.ranks.front() + i, key.ranks.back() - i};
    if (NcclLink* const link = rank_.links.between(ranks, rank_.room.sum_channels)) own = link;
  }
  StoppingRule fewer = rule;
  constexpr Bytes long_ones{128 << 20};  // a tenth of a second and more through sockets
  if (target.size > long_ones) fewer.least = std::min(fewer.least, 3u);
  return rank_.sample(again_and_again({key.kind, own, target.size}), WarmUp::a_few_runs, fewer);
}

// Rank 0 computes while the ranks communicate from before its begin to behind its end: a round in which they
// were ready sooner gives no sample, and the next has more of it.
Joint NcclContention::beside(const Communication& what, const std::string& work_class, int times) {
  NcclRank& rank = rank_;
  const device::Stream& main = rank.bench.streams().main;
  Joint joint;
  joint.play = [&rank, &main, what, work_class, times, this](std::uint32_t repeats) {
    const bool computes = rank.rank() == 0;
    if (what.link) {
      for (std::uint32_t k = 0; k < repeats; ++k) queue(what);
      rank.returned[0].record(what.link->stream);
    }
    if (computes) {
      rank.gate.close(main);
      rank.left[0].record(main);
      for (int i = 0; i < times; ++i) classes_->launch(work_class);
      rank.left[1].record(main);
    }
    rank.rendezvous.barrier();
    if (computes) rank.gate.open();
    if (what.link) rank.links.wait(rank.returned[0], "what ranks do together");
    if (!computes) return Round{};
    rank.links.wait(rank.left[1], "computation beside messages");
    return Round{
        {device::between(rank.left[0], rank.left[1]), device::between(rank.left[0], rank.returned[0])},
        rank.gate.clock_mhz()};
  };
  joint.combine = [times](const std::vector<Round>& rounds, std::uint32_t& repeats) {
    const Duration computed = rounds.front().durations[0];
    const Duration covered = rounds.front().durations[1];
    const double enough =
        1.2 * static_cast<double>(computed.ns) / static_cast<double>(std::max<std::int64_t>(covered.ns, 1));
    repeats = static_cast<std::uint32_t>(std::clamp(repeats * std::min(enough, 8.0) + 1, 1.0, 256.0));
    if (covered < computed) return std::vector<Duration>{};
    return std::vector<Duration>{{computed.ns / times}};
  };
  return joint;
}

const SampleSet& NcclContention::alone(const std::string& work_class, std::uint32_t channels,
                                       const StoppingRule& rule) {
  const auto [known, is_new] = alone_.try_emplace({work_class, channels});
  if (is_new) {
    known->second = rank_.sample(again_and_again(communication(work_class, channels)),
                                 WarmUp::until_the_clock_settles, rule);
  }
  return known->second;
}

std::optional<Measurement> NcclContention::computation_beside_communication(const SlowdownKey& key,
                                                                            const StoppingRule& rule) {
  const SampleSet& other = alone(key.beside, key.communication_sms, rule);
  ClassBench::Alone own;
  int times = 1;
  if (classes_) {
    own = classes_->alone(key.work_class, rule, rank_.sampler);
    // Long enough to meet several of the other's pieces, wherever in one of them it begins.
    times = static_cast<int>(std::clamp(typical(other) / own.once_ns, 4.0, 16.0));
  }
  rank_.rendezvous.barrier();
  ranks::Pace pace;
  pace.round = {};
  const SampleSet together =
      rank_.sample(beside(communication(key.beside, key.communication_sms), key.work_class, times),
                   WarmUp::until_the_clock_settles, rule, pace);
  if (together.samples().empty()) return std::nullopt;
  return Measurement{Slowdown{key, own.each, together.summary()}, together.samples()};
}

std::optional<Measurement> NcclContention::communication_beside_computation(const SlowdownKey& key,
                                                                            const StoppingRule& rule) {
  const SampleSet& own = alone(key.work_class, key.communication_sms, rule);
  std::optional<Background> computing;
  if (classes_) {
    computing.emplace(rank_.bench.streams().main,
                      [classes = classes_, beside = key.beside] { classes->launch(beside); });
  }
  const SampleSet together =
      rank_.sample(again_and_again(communication(key.work_class, key.communication_sms)),
                   WarmUp::until_the_clock_settles, rule);
  if (!classes_) return std::nullopt;
  return Measurement{Slowdown{key, own.summary(), together.summary()}, together.samples()};
}

bool NcclContention::can_time(const SlowdownKey& key) const {
  const bool sends = is_communication(key.work_class);
  const bool beside = is_communication(key.beside);
  if (!classes_ || (sends && beside)) return false;
  if (!dispatches_ && (key.work_class == "all_to_all" || key.beside == "all_to_all")) return false;
  // What communicates takes its multiprocessors from what computes; without it there are none to give.
  if (!sends && !beside)
    return key.communication_sms == 0 && classes_->has(key.work_class) && classes_->has(key.beside);
  // As many as the runtime gives NCCL, and some more.
  if (key.communication_sms != rank_.room.channels && key.communication_sms != 4 * rank_.room.channels)
    return false;
  return classes_->has(sends ? key.beside : key.work_class);
}

std::optional<Measurement> NcclContention::time(const SlowdownTarget& target, const StoppingRule& rule) {
  const SlowdownKey& key = target.key;
  rank_.keep_busy(key.setting.others_busy && rank_.rank() != 0);
  std::optional<Measurement> measured;
  if (is_communication(key.beside)) {
    measured = computation_beside_communication(key, rule);
  } else if (is_communication(key.work_class)) {
    measured = communication_beside_computation(key, rule);
  } else {
    if (classes_) measured = classes_->time(target, rule, rank_.sampler);
    rank_.rendezvous.barrier();
  }
  return measured;
}

}  // namespace plumb::measure
