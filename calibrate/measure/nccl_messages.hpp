// Messages between two ranks over NCCL: alone, in both directions, several at once, and the hop in situ.
#pragma once
#include "calibrate/measure/class_work.hpp"
#include "calibrate/measure/nccl_rank.hpp"
#include "calibrate/measurement.hpp"
#include "calibrate/ranks/sample_together.hpp"

#include <cstdint>
#include <utility>
#include <vector>

namespace plumb::measure {

class NcclMessages {
 public:
  /// `filler`: has work of class `gemm`, whose first kernel is less than a layer's forward.
  NcclMessages(NcclRank& rank, const ClassWork& filler) : rank_(rank), filler_(filler) {}

  /// All ranks together; the samples on rank 0.
  SampleSet time(const TransferTarget& target, const StoppingRule& rule);

 private:
  using Pair = std::pair<std::uint32_t, std::uint32_t>;
  /// The two channels between a pair of ranks, of which this is one; otherwise nothing.
  struct Channels {
    NcclLink* there = nullptr;  // from the first to the second
    NcclLink* back = nullptr;
  };
  Channels channels(Pair pair);
  /// Queues so many messages as one group, from the first rank of the link to the second.
  void move(NcclLink& link, Bytes size, std::size_t messages = 1) const;

  ranks::Joint hop(Pair pair, Bytes size);
  ranks::Joint there_and_back(const std::vector<Pair>& pairs, Bytes size, std::size_t messages);
  ranks::Joint exchange(Pair pair, Bytes size);

  NcclRank& rank_;
  const ClassWork& filler_;
};

}  // namespace plumb::measure
