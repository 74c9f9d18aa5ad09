// Things that are sampled in turns: one after the other, round after round, until all of them have been seen
// often enough. Each so meets the same swings of the device's clock, and what drifts meanwhile drifts for
// all.
#pragma once
#include "calibrate/statistics.hpp"
#include "schedules/ir/units.hpp"

#include <cstddef>
#include <random>
#include <vector>

namespace plumb {

class RoundRobin {
 public:
  /// `things` > 0. `observe`: the least time over which they are looked at; the most is the rule's budget for
  /// each of them, or `most`, or `observe` where that is more.
  RoundRobin(std::size_t things, const StoppingRule& rule, Duration observe, Duration most);

  /// Which one is to be queued next: each once a round, every round in an order of its own, so that no thing
  /// is met by the same phase of what swings, and none always runs behind the same other one. Always the same
  /// orders.
  std::size_t next();

  /// What a turn took, in the order in which turns were given. One that was not `on_time`, whose work the
  /// device had to wait for the host to queue, counts only where a thing has no others.
  void take(std::size_t thing, const Sample& sample, bool on_time);

  /// Whether every thing was seen often enough, or the time is over. `elapsed`: since the first turn that
  /// counts was queued. Never over before each thing has the rule's least number of samples, late ones
  /// included, unless ten times the time is spent.
  bool over(Duration elapsed);

  /// Which of a thing's turns count, of those taken, from 0 on: the ones on time where there are as many as
  /// the rule asks for at the least, otherwise all.
  std::vector<std::size_t> counting(std::size_t thing) const;
  std::vector<Sample> samples(std::size_t thing) const;

 private:
  struct Taken {
    Sample sample;
    bool on_time = true;
  };
  struct Thing {
    std::vector<Taken> all;
    SampleSet on_time;
  };

  StoppingRule rule_;
  Duration observe_, most_;
  std::vector<Thing> things_;
  std::vector<std::size_t> round_;
  std::size_t at_ = 0;  // in the round
  std::minstd_rand order_{1};
};

}  // namespace plumb
