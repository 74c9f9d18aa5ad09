#include "calibrate/measure/nccl_messages.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <string>

namespace plumb::measure {
namespace {

using ranks::Joint;
using ranks::Round;

// From one event to another, again and again.
std::vector<Duration> spans(TimingEvents& begins, TimingEvents& ends, std::uint32_t count) {
  std::vector<Duration> durations;
  for (std::uint32_t k = 0; k < count; ++k) durations.push_back(device::between(begins[k], ends[k]));
  return durations;
}

}  // namespace

NcclMessages::Channels NcclMessages::channels(Pair pair) {
  NcclLink* const there = rank_.links.between({pair.first, pair.second}, rank_.room.channels);
  NcclLink* const back = rank_.links.between({pair.second, pair.first}, rank_.room.channels);
  return {there, back};
}

void NcclMessages::move(NcclLink& link, Bytes size, std::size_t messages) const {
  link.communicator.begin_group();
  for (std::size_t i = 0; i < messages; ++i) {
    link.own == 0 ? link.communicator.send(rank_.to_send(i), size, 1, link.stream)
                  : link.communicator.receive(rank_.to_receive(i), size, 0, link.stream);
  }
  link.communicator.end_group();
}

SampleSet NcclMessages::time(const TransferTarget& target, const StoppingRule& rule) {
  const TransferKey& key = target.key;
  PLUMB_CHECK(key.ranks.size() == 2);
  const Pair pair{key.ranks[0], key.ranks[1]};
  if (key.kind == TransferKind::hop) {
    rank_.keep_busy(rank_.rank() != pair.first && rank_.rank() != pair.second);
    return rank_.sample(hop(pair, target.size), WarmUp::until_the_clock_settles, rule);
  }
  rank_.keep_busy(false);
  if (key.kind == TransferKind::both_ways)
    return rank_.sample(exchange(pair, target.size), WarmUp::a_few_runs, rule);
  // Several at once are those of several pairs, as many as there are; where there are fewer, each has more.
  std::vector<Pair> pairs{pair};
  if (pair == Pair{0, 1}) {
    for (std::uint32_t r = 2; r + 1 < rank_.rendezvous.ranks() && pairs.size() < key.at_once; r += 2)
      pairs.emplace_back(r, r + 1);
  }
  while (key.at_once % pairs.size() != 0) pairs.pop_back();
  return rank_.sample(there_and_back(pairs, target.size, key.at_once / pairs.size()), WarmUp::a_few_runs,
                      rule);
}

// The hop, from the end of the producing op to the begin of the consuming one, leads from one rank's clock to
// another's. It is not measured across them. A message goes there and, once the other rank has computed, one
// comes back: from the end of A's op to the begin of its next is two hops and B's op, by A's clock alone, and
// how long B's op took from its begin, which is the end of the first hop, to its end, which is the begin of
// the second, is known by B's clock alone. The difference is two hops, whatever the clocks show; one is half
// of it, the mean of both directions.
//
// In situ: whoever has sent goes on computing, less than the other's op, so that it is ready before the
// answer comes and no op is waited for; whoever waits has its receive posted all the while, as in a step. All
// other ranks compute.
Joint NcclMessages::hop(Pair pair, Bytes size) {
  const auto [there, back] = channels(pair);
  NcclRank& rank = rank_;
  const device::Stream& main = rank.bench.streams().main;
  const auto compute = [this] { rank_.bench.layer().launch(WorkKind::forward); };
  const auto go_on = [this] { filler_.launch_one("gemm", rank_.bench.streams().main_lane); };
  Joint joint;
  joint.play = [&rank, &main, there = there, back = back, pair, size, compute, go_on,
                this](std::uint32_t repeats) {
    const bool first = rank.rank() == pair.first;
    const bool second = rank.rank() == pair.second;
    if (first) {
      rank.gate.close(main);
      compute();
    }
    for (std::uint32_t k = 0; k < repeats && (first || second); ++k) {
      NcclLink& sends = first ? *there : *back;
      NcclLink& receives = first ? *back : *there;
      const auto send = [&](const device::Event& after) {
        sends.stream.wait(after);
        move(sends, size);
        go_on();
      };
      const auto receive = [&](const device::Event& consumer) {
        move(receives, size);
        // What comes ahead of its place is copied there.
        if (rank.room.receives_ahead) {
          device::copy(receives.stream, rank.to_receive(1), rank.to_receive(),
                       static_cast<std::size_t>(size.count));
        }
        rank.order.record(receives.stream);
        main.wait(rank.order);
        consumer.record(main);
      };
      if (first) {
        rank.left[k].record(main);
        send(rank.left[k]);
        receive(rank.returned[k]);
        compute();
      } else {
        receive(rank.left[k]);
        compute();
        rank.returned[k].record(main);
        send(rank.returned[k]);
      }
    }
    rank.base.record(main);
    // Everybody has queued everything, and the second waits for its message, before the first begins.
    rank.rendezvous.barrier();
    if (first) rank.gate.open();
    if (!first && !second) return Round{};
    rank.links.wait(rank.base, "messages that go to and fro");
    return Round{spans(rank.left, rank.returned, repeats), first ? rank.gate.clock_mhz() : 0};
  };
  joint.combine = [pair](const std::vector<Round>& rounds, std::uint32_t&) {
    const std::vector<Duration>& around = rounds[pair.first].durations;
    const std::vector<Duration>& computed = rounds[pair.second].durations;
    PLUMB_CHECK(around.size() == computed.size());
    std::vector<Duration> hops;
    for (std::size_t k = 0; k < around.size(); ++k)
      hops.push_back({std::max<std::int64_t>(0, (around[k] - computed[k]).ns / 2)});
    return hops;
  };
  return joint;
}

// Half of the way there and back, by the clock of the first rank of the first pair; nobody computes.
Joint NcclMessages::there_and_back(const std::vector<Pair>& pairs, Bytes size, std::size_t messages) {
  NcclLink* there = nullptr;
  NcclLink* back = nullptr;
  for (const Pair& pair : pairs) {
    const Channels made = channels(pair);
    if (!made.there) continue;
    there = made.there;
    back = made.back;
  }
  NcclRank& rank = rank_;
  Joint joint;
  joint.play = [&rank, there, back, size, messages, this](std::uint32_t repeats) {
    const bool takes_part = there != nullptr;
    const bool first = takes_part && there->own == 0;
    if (first) rank.gate.close(there->stream);
    for (std::uint32_t k = 0; k < repeats && takes_part; ++k) {
      if (first) {
        rank.left[k].record(there->stream);
        move(*there, size, messages);
        move(*back, size, messages);
        rank.returned[k].record(back->stream);
        there->stream.wait(rank.returned[k]);
      } else {
        move(*there, size, messages);
        rank.left[k].record(there->stream);
        back->stream.wait(rank.left[k]);
        move(*back, size, messages);
      }
    }
    if (takes_part) rank.base.record(back->stream);
    rank.rendezvous.barrier();
    if (first) rank.gate.open();
    if (!takes_part) return Round{};
    rank.links.wait(rank.base, "messages that go to and fro");
    return first ? Round{spans(rank.left, rank.returned, repeats), rank.gate.clock_mhz()} : Round{};
  };
  joint.combine = [from = pairs.front().first](const std::vector<Round>& rounds, std::uint32_t&) {
    std::vector<Duration> ways = rounds[from].durations;
    for (Duration& way : ways) way.ns /= 2;
    return ways;
  };
  return joint;
}

// Both send to each other at once, and again when both messages have gone through.
Joint NcclMessages::exchange(Pair pair, Bytes size) {
  const auto [there, back] = channels(pair);
  NcclRank& rank = rank_;
  Joint joint;
  joint.play = [&rank, there = there, back = back, size, this](std::uint32_t repeats) {
    const device::Stream& ticks = rank.bench.streams().copies;
    if (there) {
      rank.gate.close(ticks);
      rank.order.record(ticks);
      for (std::uint32_t k = 0; k <= repeats; ++k) {
        for (NcclLink* link : {there, back}) {
          link->stream.wait(k == 0 ? rank.order : rank.left[k - 1]);
          move(*link, size);
          rank.returned[0].record(link->stream);
          ticks.wait(rank.returned[0]);
        }
        rank.left[k].record(ticks);
      }
    }
    rank.rendezvous.barrier();
    if (!there) return Round{};
    rank.gate.open();
    rank.links.wait(rank.left[repeats], "messages in both directions");
    return Round{between_ticks(rank.left, repeats + 1), rank.gate.clock_mhz()};
  };
  joint.combine = [from = pair.first](const std::vector<Round>& rounds, std::uint32_t&) {
    return rounds[from].durations;
  };
  return joint;
}

}  // namespace plumb::measure
