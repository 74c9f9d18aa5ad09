// How work of one class lasts beside work of another, on one rank.
#pragma once
#include "calibrate/measure/class_work.hpp"
#include "calibrate/measure/rank_bench.hpp"
#include "calibrate/measure/sampler.hpp"
#include "calibrate/measurer.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/matmul.hpp"

#include <map>
#include <string>

namespace plumb::measure {

class ClassBench {
 public:
  /// In the rank's streams, which outlive it.
  ClassBench(const CalibrationRequest& request, layers::ProductAlgorithms& algorithms, RankStreams& streams);

  bool has(const std::string& work_class) const { return work_.has(work_class); }
  /// Queues it once in the rank's main stream.
  void launch(const std::string& work_class) const { work_.launch(work_class, streams_.main_lane); }

  /// A class with nothing beside it.
  struct Alone {
    double once_ns = 0;
    Summary each;
  };
  /// Measured when it is first asked for.
  const Alone& alone(const std::string& work_class, const StoppingRule& rule, Sampler& sampler);

  /// In turns alone and while the other class runs in another stream. `send_recv` is a copy here.
  Measurement time(const SlowdownTarget& target, const StoppingRule& rule, Sampler& sampler);

 private:
  const layers::Lane& copies_or_main(const std::string& work_class) const;
  Timed in_a_row(const layers::Lane& lane, const std::string& work_class, int times) const;
  double once(const std::string& work_class, const StoppingRule& rule, Sampler& sampler);

  RankStreams& streams_;
  ClassWork work_, beside_;
  device::Stream more_copies_;  // a second message has a stream of its own
  layers::Lane more_copies_lane_;
  std::map<std::string, double> once_ns_;  // by class, roughly
  std::map<std::string, Alone> alone_;     // by class
  device::Event begin_{device::EventKind::timing}, end_{device::EventKind::timing};
};

/// Samples of so many in a row, as those of one.
Summary one_of(const SampleSet& samples, int times);

}  // namespace plumb::measure
