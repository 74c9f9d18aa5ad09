// A rank that trains: beside running its program it holds weights, takes data and steps its optimizer.
#pragma once
#include "runtime/backend.hpp"

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace plumb {

/// One microbatch on the host. A transformer's: `tokens` and what follows each, [micro_batch_size x
/// sequence]; an mlp's: `input` and `target`, [tokens x hidden].
struct MicrobatchData {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> next_tokens;
  std::vector<float> input;
  std::vector<float> target;
  bool operator==(const MicrobatchData&) const = default;
};

/// What of a stage outlives a step, flat in the order of stage_parameters.
struct StageState {
  std::vector<float> weights;  // masters
  std::vector<float> first_moments;
  std::vector<float> second_moments;
  bool operator==(const StageState&) const = default;
};

/// Everybody calls what says "together", in the same order; those calls end with DeviceError where somebody
/// doesn't within the deadline.
class Worker : public Backend {
 public:
  virtual Rank rank() const = 0;
  virtual std::uint32_t copy() const = 0;  // of the pipeline: 0 .. data_parallel - 1
  virtual const RankProgram& program() const = 0;
  /// [stage] what the stages' ops need of an arena: the real tensors' bytes.
  virtual std::span<const StageMemory> stage_memory() const = 0;

  /// Whether the rank needs the microbatch's input (its forward of stage 0 is here) or its target (the last
  /// stage's is). Asked for at any time; load() takes all of the data and keeps what is needed.
  virtual bool needs(Microbatch microbatch) const = 0;
  /// Between steps: the data of the next one. Copied.
  virtual void load(Microbatch microbatch, const MicrobatchData& data) = 0;
  /// Between steps: gradients become 0. A step adds to them.
  virtual void clear_gradients() = 0;

  /// Of the last step: the mean loss over the elements of each microbatch whose last stage is here.
  virtual std::vector<std::pair<Microbatch, double>> losses() = 0;
  /// The sum of squares of the held stages' gradients, each stage by its lowest owner in copy 0 alone, so
  /// that the sum over all workers counts everything once; so without what another stage owns.
  virtual double squared_gradient_norm() = 0;
  /// One AdamW step, the `step`-th (from 1), with gradients times `gradient_scale`.
  virtual void update(std::uint64_t step, double learning_rate, double gradient_scale) = 0;

  /// Between steps, of a stage held here: summed gradients as they are now, in float32.
  virtual std::vector<float> gradients(Stage stage) = 0;
  virtual StageState state(Stage stage) = 0;
  /// Also the weights that compute.
  virtual void set_state(Stage stage, const StageState& state) = 0;

  /// Together: the sums over all workers, added up in the order of copies and ranks.
  virtual void sum(std::span<double> values) = 0;
};

}  // namespace plumb
