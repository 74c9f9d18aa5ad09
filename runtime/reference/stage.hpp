// One stage of a model on the host: its layers in forward order, backward_input and backward_weight the other
// way.
#pragma once
#include "runtime/reference/layers.hpp"
#include "schedules/ir/ids.hpp"
#include "schedules/ir/units.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"
#include "schedules/model/parameters.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace plumb::reference {

/// What the stage's ops need of memory, a microbatch: the sum of the tensors that they really keep, without
/// gaps.
struct StageNeeds {
  Bytes message;          // the residual stream, in either direction
  Bytes kept_for_input;   // by forward, until backward_input
  Bytes kept_for_weight;  // by forward, until backward_weight
  Bytes gradients_kept;   // by backward_input, until backward_weight
  Bytes workspace;        // of forward or backward_input while they run; backward_weight needs none
  bool operator==(const StageNeeds&) const = default;
};

/// Where an op finds its memory; as large as StageNeeds says, aligned for T.
struct StageMemoryView {
  const std::byte* input = nullptr;  // forward: the stage's input; backward_input: its output's gradient
  std::byte* output = nullptr;       // forward: the stage's output; backward_input: its input's gradient
  std::byte* kept_for_input = nullptr;
  std::byte* kept_for_weight = nullptr;
  std::byte* gradients_kept = nullptr;
  std::byte* workspace = nullptr;
};

/// A microbatch's data, as far as the stage needs it: tokens or input on the first stage, targets or target
/// on the last.
template <class T>
struct StageData {
  std::span<const std::int32_t> tokens;
  std::span<const std::int32_t> targets;
  std::span<const T> input;
  std::span<const T> target;
};

/// Weights and gradients are flat, in the order of `parameters()`. Nothing is allocated by an op.
template <class T>
class Stage {
 public:
  /// Throws BadInput for a model or layout that this runtime does not compute: what stage_parameters refuses,
  /// more than one device a stage, recompute, dropout, unfused attention or loss.
  Stage(const ModelShape& model, const Layout& layout, plumb::Stage stage);

  const std::vector<ParameterSpec>& parameters() const { return parameters_; }
  std::uint64_t elements() const { return elements_of(parameters_); }
  StageNeeds needs() const;
  bool first() const { return content_.embedding; }
  bool last() const { return content_.head; }

  /// Returns the mean loss of the microbatch on the last stage, elsewhere 0.
  double forward(std::span<const T> weights, const StageData<T>& data, const StageMemoryView& memory) const;
  /// The loss's gradient is `loss_scale` times that of the mean. Norms' gains and biases get their gradients
  /// here, since what these need is not kept any longer.
  void backward_input(std::span<const T> weights, std::span<T> gradients, T loss_scale,
                      const StageMemoryView& memory) const;
  void backward_weight(std::span<T> gradients, const StageMemoryView& memory) const;

 private:
  enum class Block : std::uint8_t { for_input, for_weight, gradients, workspace };
  /// A tensor at its place in one of the blocks.
  struct Tensor {
    Block block = Block::for_input;
    std::uint64_t offset = 0;  // bytes
    std::uint64_t count = 0;
  };
  static constexpr std::uint32_t none = 0xffffffff;
  struct Norm {
    std::uint32_t gain = none, bias = none;  // into parameters_
    NormShape shape;
    Tensor x, mean, rstd;
  };
  struct Linear {
    std::uint32_t weight = none, bias = none;
    LinearShape shape;
    Tensor input;
    Tensor gradient;  // of its output
  };
  struct Layer {
    Norm norm_1, norm_2;
    Norm q_norm, k_norm;  // over each head, where the model has them
    Linear qkv, output, up, down;
    Tensor q, k, v, log_sum_exp;
    Tensor pre_activation;  // gate and up, or what goes into gelu
  };

  Tensor place(Block block, std::uint64_t count, std::uint64_t bytes_each = sizeof(T));
  std::uint32_t find(const std::string& name) const;
  Norm make_norm(const std::string& name) { return make_norm(name, {tokens_, model_.hidden}); }
  Norm make_norm(const std::string& name, const NormShape& shape);
  Linear make_linear(const std::string& name, std::uint64_t inputs, std::uint64_t outputs);
  Linear make_linear(const std::string& weight, const std::string& bias, std::uint64_t inputs,
                     std::uint64_t outputs);
  void make_layer(std::uint64_t number);

  std::span<const T> weight(std::span<const T> weights, std::uint32_t parameter) const;
  std::span<T> gradient(std::span<T> gradients, std::uint32_t parameter) const;
  template <class U = T>
  std::span<U> at(const StageMemoryView& memory, const Tensor& tensor) const;

  void forward_norm(std::span<const T> weights, const Norm& norm, std::span<const T> x, std::span<T> y,
                    const StageMemoryView& memory) const;
  /// dx += the norm's input's gradient.
  void backward_norm(std::span<const T> weights, std::span<T> gradients, const Norm& norm,
                     std::span<const T> dy, std::span<T> dx, const StageMemoryView& memory) const;
  /// In place: d is the gradient of the output, then that of the input.
  void backward_head_norm(std::span<const T> weights, std::span<T> gradients, const Norm& norm,
                          std::span<T> d, const StageMemoryView& memory) const;
  void forward_layer(std::span<const T> weights, const Layer& layer, const StageMemoryView& memory) const;
  void backward_layer(std::span<const T> weights, std::span<T> gradients, const Layer& layer,
                      const StageMemoryView& memory) const;
  void backward_weight_of(std::span<T> gradients, const Linear& linear, const StageMemoryView& memory) const;

  ModelShape model_;
  StageContent content_;
  bool mlp_;
  AttentionSizes sizes_;
  std::uint64_t tokens_;
  std::vector<ParameterSpec> parameters_;
  std::array<std::uint64_t, 4> used_{};  // [block] bytes
  std::vector<Layer> layers_;
  std::uint32_t table_ = none, positions_ = none;
  Tensor token_ids_, embedding_gradient_;
  Norm final_norm_;
  Linear head_;
  Tensor targets_, log_sum_exp_;
  Tensor mlp_output_, mlp_target_;
  Tensor stream_, narrow_, narrow_2_, wide_, qkv_;  // workspace
};

}  // namespace plumb::reference
