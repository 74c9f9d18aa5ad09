// Where a model lies: which layers on which stage, and how each stage is spread over devices.
#pragma once
#include "schedules/ir/ids.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// What backward computes again instead of keeping: nothing; what costs little to make again for what it
/// holds (the attention core's scores; with a fused attention the up-projections of latent attention and the
/// experts' activation, and of other models nothing); or whole layers from their input.
enum class Recompute : std::uint8_t { none, selective, full };
enum class WeightType : std::uint8_t { bf16, fp32, fp8 };
enum class GradientType : std::uint8_t { fp32, bf16 };

/// `pipeline` x `tensor` x `data` devices; the experts of a layer are spread over `expert` of the
/// tensor x data devices of a stage, which `expert` divides.
struct Parallelism {
  std::uint32_t pipeline = 1;
  std::uint32_t tensor = 1;
  std::uint32_t data = 1;
  std::uint32_t expert = 1;
  bool sequence_parallel = true;  // with tensor > 1: norms and residuals are split along the sequence
  bool shard_optimizer = true;    // ZeRO-1: optimizer state and master weights are split over data copies
  std::uint64_t devices() const { return std::uint64_t{pipeline} * tensor * data; }
  bool operator==(const Parallelism&) const = default;
};

/// How one microbatch is computed and kept.
struct Numerics {
  WeightType weights = WeightType::bf16;        // and activations; fp8: GEMM inputs in fp8, the rest in bf16
  GradientType gradients = GradientType::fp32;  // the accumulated weight gradients
  bool fused_attention = true;                  // no scores are kept, a log-sum-exp a row instead
  /// The logits are computed again in backward_input instead of kept (in float32) by forward.
  bool fused_loss = true;
  bool dropout = false;  // masks of a byte an element are kept (arXiv 2205.05198's models)
  bool operator==(const Numerics&) const = default;
};

/// What one stage holds of the model, in order: embedding, layers [first_layer, first_layer + layers), MTP
/// modules, then final norm, head and loss.
struct StageContent {
  std::uint64_t first_layer = 0;
  std::uint64_t layers = 0;
  std::uint64_t multi_token_layers = 0;
  bool embedding = false;
  bool head = false;
  Recompute recompute = Recompute::none;
  bool operator==(const StageContent&) const = default;
};

struct Layout {
  Parallelism parallelism;
  Numerics numerics;
  std::uint64_t micro_batch_size = 1;                                   // sequences
  std::uint64_t sequence = 0;                                           // tokens
  std::vector<StageContent> stages;                                     // [stage] of one copy of the model
  std::uint64_t tokens() const { return micro_batch_size * sequence; }  // of one microbatch
  bool operator==(const Layout&) const = default;
};

/// `stages` stages of as equal a number of layers as there can be: the embedding on the first, MTP, norm,
/// head and loss on the last. Where `layers` is no multiple, the stages that have one less are the last, the
/// first, the second to last and so on, so that embedding and head have room. Throws BadInput where a stage
/// would be empty.
std::vector<StageContent> even_stages(const ModelShape& model, std::uint32_t stages);

/// Megatron's `--pipeline-model-parallel-layout`, "Et*3|(tt|)*29,m|L": E embedding, t a layer, m an MTP
/// module, L the loss with norm and head, | the next stage, (x)*n repeated, commas and spaces ignored. Throws
/// BadInput that says where and what was expected, or which layers are missing or left over.
std::vector<StageContent> parse_stages(std::string_view text, const ModelShape& model);
/// The inverse; runs of equal stages are folded where that is shorter.
std::string to_megatron(const std::vector<StageContent>& stages);

/// `none`, `selective` or `full`, for all stages or for some: "full:0-3,selective:5,none" (what names no
/// stage is for the others). Throws BadInput.
void set_recompute(std::vector<StageContent>& stages, std::string_view text);

/// Throws BadInput for what cannot be: tensor does not divide the heads or the FFN, expert does not divide
/// tensor x data or the routed experts, a sequence that tensor does not divide or that is longer than the
/// learned positions, layers on no or two stages,
/// sizes whose bytes would not fit an integer.
void check_layout(const ModelShape& model, const Layout& layout);

}  // namespace plumb
