// The computing half of a rank on a GPU: its stages, arena, streams and the events that date its actions.
#pragma once
#include "runtime/cuda/stage_parameters.hpp"
#include "runtime/device/buffer.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/gpu_workers.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/matmul.hpp"
#include "runtime/layers/model_stage.hpp"
#include "runtime/rank_program.hpp"
#include "runtime/training_plan.hpp"
#include "runtime/worker.hpp"

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace plumb::device {
class GreenContext;
}

namespace plumb::cuda {

/// Two streams: actions run in the first, one after another; the forward of a pair runs in the second, beside
/// the backward, and both are launched layer by layer in turns. Everything here only launches, except where
/// it says otherwise.
class RankCompute {
 public:
  /// On a share of the GPU, or (nullptr) on all of it. Allocates everything; `algorithms` is shared by all
  /// ranks, so that one shape of product is computed in one way. `left_free`: so many of the multiprocessors
  /// products are not cut for.
  RankCompute(const TrainingPlan& plan, Rank rank, const device::GreenContext* share,
              layers::ProductAlgorithms& algorithms, std::uint32_t left_free = 0);
  ~RankCompute();
  /// Gives the parameters their first values. Takes a while, and may run beside other ranks'.
  void initialise();

  /// Between steps: products are computed as `algorithms`, which has all of them, says.
  void choose_products(layers::ProductAlgorithms& algorithms);

  const RankProgram& program() const { return program_; }
  std::span<const StageMemory> stage_memory() const { return stage_memory_; }
  std::array<const device::Stream*, 2> streams() const { return {&first_stream_, &second_stream_}; }
  const device::Stream& stream() const { return first_stream_; }
  const layers::Lane& lane() const { return *first_; }

  void begin_step();
  /// Behind everything that the first stream waits for.
  void compute(const ComputeStep& step);
  void* place(const Buffer& buffer) const;

  /// When the action, or one op of it, ends. Recorded once it has been launched.
  const device::Event& end_of(std::uint32_t position) const { return actions_[position].end; }
  const device::Event& end_of(std::uint32_t position, std::uint8_t op) const;
  /// Of the last finished step.
  Interval interval(std::uint32_t position, const device::Event& base) const;
  /// The two halves of each pair.
  std::vector<SegmentSpan> segments(const device::Event& base) const;

  bool needs_input(Microbatch microbatch) const { return !inputs_[microbatch.value].empty(); }
  bool needs_target(Microbatch microbatch) const { return !targets_[microbatch.value].empty(); }
  /// Blocks until it is copied.
  void load(Microbatch microbatch, const MicrobatchData& data);
  /// Blocks.
  std::vector<std::pair<Microbatch, double>> losses();

  StageParameters& parameters(Stage stage);

 private:
  struct ActionEvents {
    device::Event begin{device::EventKind::timing};
    device::Event end{device::EventKind::timing};
    std::uint32_t halves = no_index;  // into halves_, of a pair
  };
  struct Halves {
    Action action;
    std::array<device::Event, 2> end{device::Event(device::EventKind::timing),
                                     device::Event(device::EventKind::timing)};
  };
  struct Held {
    std::unique_ptr<StageParameters> parameters;
    std::unique_ptr<layers::ModelStage> stage;
  };

  void make_stages(layers::ProductAlgorithms& algorithms);
  void make_data();
  layers::Launching launching(const Op& op, const OpBuffers& buffers, const layers::Lane& lane) const;

  const TrainingPlan& plan_;
  device::Stream first_stream_;
  device::Stream second_stream_;
  std::unique_ptr<layers::Lane> first_;
  std::unique_ptr<layers::Lane> second_;
  std::vector<Held> held_;  // [stage]; empty where it is not held
  std::vector<StageMemory> stage_memory_;
  RankProgram program_;
  device::Buffer arena_;
  std::vector<ActionEvents> actions_;  // [position]
  std::vector<Halves> halves_;
  std::vector<Buffer> inputs_;  // [microbatch] in data_
  std::vector<Buffer> targets_;
  device::Buffer data_;
  device::Buffer losses_;  // float32 [microbatch]
};

}  // namespace plumb::cuda
