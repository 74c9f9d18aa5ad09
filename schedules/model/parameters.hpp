// The parameters of a stage, in the one order in which every backend, checkpoint and comparison has them, and
// how they begin. A parameter's first value depends on the seed, its name and its place in it, never on how
// the model is cut or what computes it.
#pragma once
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// One parameter tensor, row-major: a linear's weight is [outputs, inputs], a norm's gain or a bias [1,
/// width].
struct ParameterSpec {
  std::string name;  // `layers.3.qkv.weight`, `embedding.weight`, `head.weight` …
  std::uint64_t rows = 0;
  std::uint64_t columns = 0;
  std::uint64_t offset = 0;  // its first element in the stage's parameters
  /// Begins as `mean` plus noise of this deviation; gains are 1, biases 0, both without noise.
  float mean = 0;
  float deviation = 0;
  bool decays = false;  // takes part in weight decay: matrices do, gains and biases don't
  /// Another stage owns it: a tied head's matrix, where the embedding is elsewhere. Both hold the same values
  /// and, once a step has ended, the same gradient: the sum of what each of them adds.
  bool copied = false;

  std::uint64_t elements() const { return rows * columns; }
  bool operator==(const ParameterSpec&) const = default;
};

/// The parameters of a stage of a model that is not spread over a tensor or expert group, one behind another:
///
///   embedding   embedding.weight [vocab, hidden], and embedding.positions [learned_positions, hidden]
///   layer n     layers.n.norm_1.gain (.bias), .qkv.weight [(heads + 2 key_value_heads) head_dim, hidden]
///   (.bias): queries,
///               then keys, then values, head by head; with norms of queries and keys .q_norm.gain and
///               .k_norm.gain [1, head_dim]; .output.weight [hidden, heads head_dim] (.bias);
///               .norm_2.gain (.bias); .gate_up.weight [2 ffn, hidden], gate first, or .up.weight [ffn,
///               hidden] (.bias); .down.weight [hidden, ffn] (.bias)
///   layer n of an mlp   layers.n.up.weight [ffn, hidden], layers.n.down.weight [hidden, ffn]
///   head        final_norm.gain (.bias), head.weight [vocab, hidden]; a tied head has embedding.weight
///               instead, copied, or nothing more where the embedding is on the same stage
///
/// Weights begin with a deviation of 0.02; those that end a residual branch (output, down) with 0.02 / sqrt(2
/// layers), as GPT-2's. An mlp's have 1 / sqrt(inputs). Throws BadInput naming what no runtime of ours
/// computes: experts, latent attention, MTP modules.
std::vector<ParameterSpec> stage_parameters(const ModelShape& model, const StageContent& content);

/// The name of the head's matrix: embedding.weight where it is tied.
std::string head_name(const ModelShape& model);

/// The matrix that the first and the last stage share, in the parameters of one of them: nothing where there
/// is none, or only one of it.
std::optional<ParameterSpec> shared_matrix(const ModelShape& model, const StageContent& content);

/// How many elements a stage's parameters have together.
std::uint64_t elements_of(std::span<const ParameterSpec> parameters);

/// The first values, in `values` (as many as the tensor has elements). Noise is the sum of four uniform
/// 16-bit numbers: close to a normal distribution, and integer arithmetic up to its one multiplication, so
/// the same everywhere.
void initialise(const ParameterSpec& parameter, std::uint64_t seed, std::span<float> values);

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): every bit of the input reaches every bit of
/// the output.
constexpr std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// A deviate of mean 0 and deviation 1 at a place of a stream: what parameters and synthetic data are made
/// of. Four uniform numbers of 0 .. 65535 have mean 2 x 65535 and variance 4 (65536^2 - 1) / 12, whose root
/// is 37837.2.
constexpr float noise(std::uint64_t stream, std::uint64_t index) {
  const std::uint64_t bits = mixed(stream + (index + 1) * 0x9e3779b97f4a7c15);
  const auto sum = static_cast<std::int32_t>((bits & 0xffff) + ((bits >> 16) & 0xffff) +
                                             ((bits >> 32) & 0xffff) + (bits >> 48));
  return static_cast<float>(sum - 2 * 65535) * (1.0f / 37837.2273f);
}
/// The stream of a name under a seed.
std::uint64_t stream_of(std::uint64_t seed, std::string_view name);

}  // namespace plumb
