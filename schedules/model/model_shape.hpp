// What a model is made of: counts and sizes, whatever runs it and however it is cut.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

/// `transformer`: embedding, decoder layers, final norm, head, cross-entropy. `mlp`: DualPipe's example
/// stage, Linear H -> ffn, GELU, Linear ffn -> H without biases, a layer each, and MSE against a target.
enum class Architecture : std::uint8_t { transformer, mlp };
enum class NormKind : std::uint8_t { rms_norm, layer_norm };  // layer_norm has a bias
enum class FfnKind : std::uint8_t { swiglu, gelu };           // three linears, or two
enum class PositionKind : std::uint8_t { rotary, learned, none };

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): queries and keys/values through low ranks.
struct LatentAttention {
  std::uint64_t query_rank = 0;  // 0: queries are projected directly
  std::uint64_t key_value_rank = 0;
  std::uint64_t rope_dim = 0;   // of a head's query and of the one shared key
  std::uint64_t nope_dim = 0;   // of a head's query and key
  std::uint64_t value_dim = 0;  // of a head's value
  bool operator==(const LatentAttention&) const = default;
};

struct AttentionShape {
  std::uint64_t heads = 0;
  std::uint64_t key_value_heads = 0;  // == heads: multi-head; fewer: grouped
  std::uint64_t head_dim = 0;         // of queries and keys; with `latent`, nope_dim + rope_dim
  bool qkv_bias = false;
  bool output_bias = false;
  bool query_key_norm = false;  // an RMSNorm over head_dim each (Qwen3)
  std::optional<LatentAttention> latent;
  bool operator==(const AttentionShape&) const = default;
};

/// A mixture of experts in place of the dense FFN.
struct ExpertsShape {
  std::uint64_t routed = 0;
  std::uint64_t per_token = 0;
  std::uint64_t ffn = 0;         // inner size of one routed expert
  std::uint64_t shared_ffn = 0;  // inner size of all shared experts together; 0: none
  bool shared_gate = false;      // a sigmoid gate over the shared expert (Qwen2-MoE)
  bool gate_bias = false;        // the router's per-expert correction bias (DeepSeek-V3)
  /// [layer]: does it have experts? A layer without has the dense FFN.
  std::vector<bool> in_layer;
  bool operator==(const ExpertsShape&) const = default;
};

struct ModelShape {
  Architecture architecture = Architecture::transformer;
  std::string name;
  std::uint64_t hidden = 0;
  std::uint64_t layers = 0;
  std::uint64_t ffn = 0;    // inner size of the dense FFN
  std::uint64_t vocab = 0;  // mlp: 0
  AttentionShape attention;
  std::optional<ExpertsShape> experts;
  NormKind norm = NormKind::rms_norm;
  FfnKind ffn_kind = FfnKind::swiglu;
  PositionKind position = PositionKind::rotary;
  bool ffn_bias = false;
  std::uint64_t learned_positions = 0;   // rows of the position table, with PositionKind::learned
  bool tied_embeddings = false;          // head and embedding are one matrix
  std::uint64_t multi_token_layers = 0;  // MTP modules behind the last layer (DeepSeek-V3: 1)
  std::uint64_t max_sequence =
      0;  // the sequence it was trained on (before its positions were stretched); 0: not said

  bool has_experts(std::uint64_t layer) const { return experts && experts->in_layer[layer]; }
  bool operator==(const ModelShape&) const = default;
};

/// Throws BadInput for a model that cannot be: a size of 0 or beyond 2^31, key/value heads that do not divide
/// the heads, more experts a token than there are, more than 10^15 parameters.
void check_model(const ModelShape& model, std::string_view where);

/// A model in a few numbers, for people without a file.
struct ShortForm {
  enum class Kind : std::uint8_t {
    llama,  // RMSNorm, SwiGLU, rotary positions, no biases
    gpt,    // LayerNorm, GELU, learned positions, biases, head and embedding tied: GPT-2's
    mlp,    // DualPipe's example stage
  };
  Kind kind = Kind::llama;
  std::uint64_t hidden = 0;
  std::uint64_t layers = 0;
  std::uint64_t heads = 0;                       // not of an mlp
  std::optional<std::uint64_t> key_value_heads;  // [heads]
  std::optional<std::uint64_t> ffn;       // [llama: 8/3 hidden, up to a multiple of 256; else 4 hidden]
  std::optional<std::uint64_t> vocab;     // [llama: 32000; gpt: 50304]
  std::optional<std::uint64_t> sequence;  // rows of gpt's position table [2048]
};
/// Throws BadInput that names the flag.
ModelShape model_of(const ShortForm& form);

}  // namespace plumb
