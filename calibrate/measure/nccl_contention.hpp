// What ranks do together over NCCL, alone and beside computation.
#pragma once
#include "calibrate/measure/class_bench.hpp"
#include "calibrate/measure/nccl_rank.hpp"
#include "calibrate/measurement.hpp"
#include "calibrate/ranks/sample_together.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace plumb::measure {

/// Messages of this model in both directions between ranks 0 and 1 (`send_recv`), or a collective of as many
/// bytes over all ranks.
bool is_communication(const std::string& work_class);

class NcclContention {
 public:
  /// `classes`: rank 0's; nothing on the others. `message`: what the model sends. `dispatches`: it has
  /// experts, and so all-to-alls.
  NcclContention(NcclRank& rank, ClassBench* classes, Bytes message, bool dispatches)
      : rank_(rank), classes_(classes), message_(message), dispatches_(dispatches) {}

  /// A collective that nobody computes beside. All ranks together; the samples on rank 0.
  SampleSet time_collective(const TransferTarget& target, const StoppingRule& rule);

  /// On rank 0, computation beside communication or the other way round: alone, and together. All ranks
  /// together; rank 0 has the result.
  std::optional<Measurement> time(const SlowdownTarget& target, const StoppingRule& rule);
  bool can_time(const SlowdownKey& key) const;

 private:
  struct Communication {
    TransferKind kind;  // both_ways stands for send_recv
    NcclLink* link;     // nothing on a rank that takes no part
    Bytes size;
  };
  Communication communication(const std::string& work_class, std::uint32_t channels);
  void queue(const Communication& what) const;
  ranks::Joint again_and_again(const Communication& what);
  ranks::Joint beside(const Communication& what, const std::string& work_class, int times);
  std::optional<Measurement> computation_beside_communication(const SlowdownKey& key,
                                                              const StoppingRule& rule);
  std::optional<Measurement> communication_beside_computation(const SlowdownKey& key,
                                                              const StoppingRule& rule);

  /// Measured when it is first asked for; on rank 0 its samples.
  const SampleSet& alone(const std::string& work_class, std::uint32_t channels, const StoppingRule& rule);

  NcclRank& rank_;
  ClassBench* classes_;
  Bytes message_;
  bool dispatches_;
  std::map<std::pair<std::string, std::uint32_t>, SampleSet> alone_;  // by class and channels
};

}  // namespace plumb::measure
