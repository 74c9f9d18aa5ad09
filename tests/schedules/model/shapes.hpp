// Models that several tests use, written out so that no reader of files is involved.
#pragma once
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

namespace plumb::testing {

inline ModelShape llama(std::uint64_t hidden, std::uint64_t layers, std::uint64_t heads,
                        std::uint64_t key_value_heads, std::uint64_t ffn, std::uint64_t vocab) {
  ModelShape model;
  model.name = "llama";
  model.hidden = hidden;
  model.layers = layers;
  model.ffn = ffn;
  model.vocab = vocab;
  model.attention = {heads, key_value_heads, hidden / heads, false, false, false, {}};
  return model;
}

/// The GPTs of arXiv 2205.05198 and 2401.10241: GELU, 4H, LayerNorm, biases, learned positions.
inline ModelShape gpt(std::uint64_t hidden, std::uint64_t layers, std::uint64_t heads) {
  ModelShape model = llama(hidden, layers, heads, heads, 4 * hidden, 51200);
  model.name = "gpt";
  model.attention.qkv_bias = model.attention.output_bias = model.ffn_bias = true;
  model.norm = NormKind::layer_norm;
  model.ffn_kind = FfnKind::gelu;
  model.position = PositionKind::learned;
  model.learned_positions = 2048;
  return model;
}

inline ModelShape mixtral_8x7b() {
  ModelShape model = llama(4096, 32, 32, 8, 14336, 32000);
  model.name = "mixtral";
  model.experts = ExpertsShape{8, 2, 14336, 0, false, false, std::vector<bool>(32, true)};
  return model;
}

inline ModelShape deepseek_v3() {
  ModelShape model = llama(7168, 61, 128, 128, 18432, 129280);
  model.name = "deepseek-v3";
  model.attention.head_dim = 192;
  model.attention.latent = LatentAttention{1536, 512, 64, 128, 128};
  std::vector<bool> in_layer(61, true);
  in_layer[0] = in_layer[1] = in_layer[2] = false;
  model.experts = ExpertsShape{256, 8, 2048, 2048, false, true, in_layer};
  model.multi_token_layers = 1;
  return model;
}

/// DualPipe's example stage: a layer each, H = 512 there; here small.
inline ModelShape mlp(std::uint64_t hidden, std::uint64_t layers) {
  ModelShape model;
  model.architecture = Architecture::mlp;
  model.name = "mlp";
  model.hidden = hidden;
  model.layers = layers;
  model.ffn = 4 * hidden;
  model.ffn_kind = FfnKind::gelu;
  model.position = PositionKind::none;
  return model;
}

inline Layout layout_of(const ModelShape& model, std::uint32_t stages, std::uint64_t micro_batch_size,
                        std::uint64_t sequence) {
  Layout layout;
  layout.micro_batch_size = micro_batch_size;
  layout.sequence = sequence;
  layout.parallelism.pipeline = stages;
  layout.stages = even_stages(model, stages);
  return layout;
}

}  // namespace plumb::testing
