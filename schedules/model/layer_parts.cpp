// Sources. FLOPs: a product m x n x k is 2mnk, and twice that in backward, half of it for each operand's
// gradient (arXiv 2401.10241, table 1, whose numbers a test repeats). Kept bytes: arXiv 2205.05198, section
// 4, from which the fused kernels differ as said where they do. Tensor parallelism: the same paper, figure 5.
#include "schedules/model/layer_parts.hpp"

#include <algorithm>
#include <utility>

namespace plumb {
namespace {

constexpr std::uint64_t float32 = 4;
constexpr std::uint64_t int32 = 4;

std::uint64_t bytes_of(WeightType type) { return type == WeightType::fp32 ? 4 : 2; }
double product_flops(std::uint64_t m, std::uint64_t n, std::uint64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

constexpr bool for_input = true;
constexpr bool for_weight = true;

void keep(Part& part, std::string name, Bytes bytes, bool input, bool weight = false) {
  part.kept.push_back({std::move(name), bytes, input, weight});
}

}  // namespace

LayerParts::LayerParts(const ModelShape& model, const Layout& layout)
    : model_(model),
      numerics_(layout.numerics),
      hidden_(model.hidden),
      tensor_(layout.parallelism.tensor),
      expert_(layout.parallelism.expert),
      sequence_(layout.sequence),
      split_sequence_(tensor_ > 1 && layout.parallelism.sequence_parallel),
      tokens_(layout.tokens()),
      rows_(split_sequence_ ? tokens_ / tensor_ : tokens_),
      element_(bytes_of(numerics_.weights)),
      operand_(numerics_.weights == WeightType::fp8 ? 1 : element_),
      gradient_(numerics_.gradients == GradientType::fp32 ? 4 : 2) {}

// A linear leaves its output's gradient for backward_weight; who calls adds the input it keeps.
Part LayerParts::linear(std::string name, std::uint64_t m, std::uint64_t n, std::uint64_t k, bool fp8) const {
  return product(std::move(name), {m, n, k, 1}, m, fp8);
}

// `rows` in all are spread over gemm.count products of gemm.m (rounded up) each.
Part LayerParts::product(std::string name, GemmShape gemm, std::uint64_t rows, bool fp8) const {
  const std::uint64_t operand = fp8 ? operand_ : element_;
  Part part;
  part.name = std::move(name);
  part.part_class = PartClass::gemm;
  part.gemm = gemm;
  part.fp8 = fp8 && numerics_.weights == WeightType::fp8;
  part.parameters = gemm.n * gemm.k * gemm.count;
  const Bytes input = bytes(rows * gemm.k, operand);
  const Bytes output = bytes(rows * gemm.n, element_);
  const Bytes output_gradient = bytes(rows * gemm.n, operand);
  const Bytes weight = bytes(part.parameters, operand);
  const double flops = product_flops(rows, gemm.n, gemm.k);
  part.forward = {flops, input + weight + output, {}, {}};
  part.backward_input = {
      flops, output_gradient + weight + bytes(rows * gemm.k, element_), {}, bytes(rows * gemm.k, element_)};
  // The accumulated gradient is read and written.
  part.backward_weight = {flops, input + output_gradient + bytes(2 * part.parameters, gradient_), {}, {}};
  part.gradient_kept = output_gradient;
  return part;
}

Part LayerParts::elementwise(std::string name, Bytes forward, Bytes backward) const {
  Part part;
  part.name = std::move(name);
  part.forward.moved = forward;
  part.backward_input.moved = backward;
  return part;
}

// The gains' gradients are small reductions and are computed in backward_input, so that x can go with it.
Part LayerParts::norm(std::string name, std::uint64_t rows, std::uint64_t width, NormKind kind,
                      bool keep_input) const {
  const Bytes tensor = bytes(rows * width, element_);
  Part part = elementwise(std::move(name), tensor * 2, tensor * 3);
  part.backward_input.workspace = tensor * 2;  // the output's gradient and the input's
  part.parameters = kind == NormKind::layer_norm ? 2 * width : width;
  if (keep_input) keep(part, "x", tensor, for_input);
  if (kind == NormKind::layer_norm) keep(part, "mean", bytes(rows, float32), for_input);
  keep(part, "rstd", bytes(rows, float32), for_input);
  return part;
}

// The block's output added to the residual stream; with dropout first.
Part LayerParts::residual(std::string name) const {
  const Bytes tensor = residual_stream();
  Part part = elementwise(std::move(name), tensor * 3, tensor * 3);
  if (numerics_.dropout) {
    keep(part, "mask", bytes(rows_ * hidden_, 1), for_input);
    part.forward.moved += bytes(rows_ * hidden_, 1);
    part.backward_input.moved += bytes(rows_ * hidden_, 1);
  }
  return part;
}

// Before a block's column-parallel linear. With the sequence split, the shard is what is kept, so
// backward_weight gathers once more; otherwise everybody has the whole tensor and only gradients are summed.
void LayerParts::open_block(std::vector<Part>& parts, const std::string& block, std::uint64_t width) const {
  if (tensor_ == 1) return;
  Part part;
  const Bytes gathered = bytes(tokens_ * width, operand_);
  const Bytes gradient = bytes(tokens_ * width, element_);
  if (split_sequence_) {
    part.name = block + "_gather";
    part.part_class = PartClass::all_gather;
    part.forward = {0, {}, gathered, gathered};
    part.backward_weight = {0, {}, gathered, gathered};
  } else {
    part.name = block + "_copy";
    part.part_class = PartClass::all_reduce;
  }
  part.backward_input = {0, {}, gradient, gradient};
  parts.push_back(part);
}

// Behind a block's row-parallel linear.
void LayerParts::close_block(std::vector<Part>& parts, const std::string& block) const {
  if (tensor_ == 1) return;
  Part part;
  const Bytes whole = bytes(tokens_ * hidden_, element_);
  part.forward = {0, {}, whole, whole};
  if (split_sequence_) {
    part.name = block + "_scatter";
    part.part_class = PartClass::reduce_scatter;
    // The gathered gradient is what the linear before leaves for backward_weight: not transient.
    part.backward_input = {0, {}, whole, {}};
  } else {
    part.name = block + "_sum";
    part.part_class = PartClass::all_reduce;
  }
  parts.push_back(part);
}

// softmax(q k^T) v on this device's heads. Fused: FlashAttention's set (arXiv 2205.14135), q, k, v, o and a
// float32 log-sum-exp a row; its recomputed scores are part of how efficient it is, not of its FLOPs.
// Otherwise the probabilities, and with dropout a mask and what it lets through (2205.05198, section 4.1).
void LayerParts::attention_core(std::vector<Part>& parts, std::uint64_t heads, std::uint64_t key_value_heads,
                                std::uint64_t key_dim, std::uint64_t value_dim) const {
  const Bytes q = bytes(tokens_ * heads * key_dim, element_);
  const Bytes k = bytes(tokens_ * key_value_heads * key_dim, element_);
  const Bytes v = bytes(tokens_ * key_value_heads * value_dim, element_);
  const Bytes o = bytes(tokens_ * heads * value_dim, element_);
  const std::uint64_t scores = tokens_ * sequence_ * heads;
  const Bytes log_sum_exp = bytes(tokens_ * heads, float32);
  const bool fused = numerics_.fused_attention;
  Part part;
  part.name = "attention";
  part.part_class = PartClass::attention;
  part.forward.flops = product_flops(scores, key_dim + value_dim, 1);
  part.backward_input.flops = 2 * part.forward.flops;
  part.forward.moved = q + k + v + o;
  part.backward_input.moved = (q + k + v + o) * 2;
  part.backward_input.workspace = o;  // its gradient
  keep(part, "q", q, for_input);
  keep(part, "k", k, for_input);
  keep(part, "v", v, for_input);
  keep(part, "o", o, fused, for_weight);  // `output` reads it too
  if (fused) {
    keep(part, "log_sum_exp", log_sum_exp, for_input);
    part.forward.moved += log_sum_exp;
    part.backward_input.moved += log_sum_exp;
  } else {
    keep(part, "probabilities", bytes(scores, element_), for_input);
    part.forward.workspace = bytes(scores, element_);
    part.backward_input.workspace += bytes(scores, element_);
    // Scores out, softmax in and out, the second product's operand; backward: the probabilities' gradient
    // out, softmax's two in and one out, and an operand of each of the three other products.
    part.forward.moved += bytes(4 * scores, element_);
    part.backward_input.moved += bytes(7 * scores, element_);
    if (numerics_.dropout) {
      keep(part, "mask", bytes(scores, 1), for_input);
      keep(part, "dropped", bytes(scores, element_), for_input);
      part.forward.moved += bytes(2 * scores, element_) + bytes(scores, 1);
      part.backward_input.moved += bytes(2 * scores, element_) + bytes(scores, 1);
    }
  }
  parts.push_back(std::move(part));

  Part output = linear("output", tokens_, hidden_, heads * value_dim, true);
  output.forward.workspace = bytes(tokens_ * hidden_, element_);
  if (model_.attention.output_bias) output.parameters += hidden_;
  parts.push_back(std::move(output));
  close_block(parts, "attention");
  parts.push_back(residual("residual_1"));
}

// Multi-head and grouped-query attention. Where there are fewer key/value heads than devices, each has a
// whole one.
void LayerParts::grouped_attention(std::vector<Part>& parts) const {
  const AttentionShape& shape = model_.attention;
  const std::uint64_t heads = shape.heads / tensor_;
  const std::uint64_t key_value_heads = std::max<std::uint64_t>(1, shape.key_value_heads / tensor_);
  const std::uint64_t width = (heads + 2 * key_value_heads) * shape.head_dim;
  open_block(parts, "attention", hidden_);
  Part qkv = linear("qkv", tokens_, width, hidden_, true);
  keep(qkv, "input", bytes(rows_ * hidden_, operand_), !for_input, for_weight);
  if (shape.qkv_bias) qkv.parameters += width;
  parts.push_back(std::move(qkv));
  const std::uint64_t turned = tokens_ * (heads + key_value_heads);  // rows of q and k
  if (shape.query_key_norm) {
    Part part = norm("qk_norm", turned, shape.head_dim, NormKind::rms_norm, true);
    part.parameters = 2 * shape.head_dim;
    parts.push_back(std::move(part));
  }
  if (model_.position == PositionKind::rotary) {
    const Bytes in_and_out = bytes(2 * turned * shape.head_dim, element_);
    parts.push_back(elementwise("rope", in_and_out, in_and_out));
  }
  attention_core(parts, heads, key_value_heads, shape.head_dim, shape.head_dim);
}

// DeepSeek-V2's (arXiv 2405.04434, section 2.1; HF's names in brackets). The projections down to the ranks
// (q_a, kv_a) and their norms are whole on every device of a tensor group and work on its own tokens; the
// ones up from there (q_b, kv_b) are split by heads, so it is the latents that are gathered. Keys are kept
// per head, each with a copy of the shared rotary part, as fused attention reads them.
void LayerParts::latent_attention(std::vector<Part>& parts) const {
  const AttentionShape& shape = model_.attention;
  const LatentAttention& latent = *shape.latent;
  const std::uint64_t heads = shape.heads / tensor_;
  const std::uint64_t key_dim = latent.nope_dim + latent.rope_dim;
  const bool low_rank_query = latent.query_rank > 0;
  const std::uint64_t down_width = latent.query_rank + latent.key_value_rank + latent.rope_dim;
  Part down = linear(low_rank_query ? "qkv_down" : "kv_down", rows_, down_width, hidden_, true);
  keep(down, "input", bytes(rows_ * hidden_, operand_), !for_input, for_weight);
  if (shape.qkv_bias) down.parameters += down_width;
  parts.push_back(std::move(down));

  const std::uint64_t normed = latent.query_rank + latent.key_value_rank;
  Part latent_norm = norm("latent_norm", rows_, normed, NormKind::rms_norm, true);
  if (low_rank_query) keep(latent_norm, "query_rstd", bytes(rows_, float32), for_input);
  parts.push_back(std::move(latent_norm));
  open_block(parts, "attention", low_rank_query ? down_width : hidden_ + down_width);

  // Without a rank, queries come from the norm's output, which `kv_down` keeps.
  Part q = linear(low_rank_query ? "q_up" : "q", tokens_, heads * key_dim,
                  low_rank_query ? latent.query_rank : hidden_, true);
  if (low_rank_query) keep(q, "input", bytes(rows_ * latent.query_rank, operand_), !for_input, for_weight);
  parts.push_back(std::move(q));
  Part kv =
      linear("kv_up", tokens_, heads * (latent.nope_dim + latent.value_dim), latent.key_value_rank, true);
  kv.forward.workspace = bytes(tokens_ * heads * latent.nope_dim, element_);  // until it stands beside rope's
  keep(kv, "input", bytes(rows_ * latent.key_value_rank, operand_), !for_input, for_weight);
  parts.push_back(std::move(kv));

  // Turns the queries' rotary part in place and puts the keys together.
  const Bytes turned = bytes(2 * tokens_ * heads * (latent.rope_dim + key_dim), element_);
  parts.push_back(elementwise("rope", turned, turned));
  attention_core(parts, heads, heads, key_dim, latent.value_dim);
}

// `keep_input`: not where a part before keeps the same tensor.
void LayerParts::dense_ffn(std::vector<Part>& parts, const std::string& prefix, std::uint64_t inner,
                           bool bias, bool keep_input) const {
  const bool gated = model_.ffn_kind == FfnKind::swiglu;
  const std::uint64_t width = shard(inner);
  const std::uint64_t up_width = gated ? 2 * width : width;
  Part up = linear(prefix + (gated ? "gate_up" : "up"), tokens_, up_width, hidden_, true);
  if (keep_input) keep(up, "input", bytes(rows_ * hidden_, operand_), !for_input, for_weight);
  if (bias) up.parameters += up_width;
  parts.push_back(std::move(up));

  Part activation =
      elementwise(prefix + (gated ? "swiglu" : "gelu"), bytes(tokens_ * (up_width + width), element_),
                  bytes(tokens_ * (2 * up_width + width), element_));
  activation.backward_input.workspace = bytes(tokens_ * width, element_);  // its output's gradient
  keep(activation, gated ? "gate_and_up" : "pre_activation", bytes(tokens_ * up_width, element_), for_input);
  parts.push_back(std::move(activation));

  Part down = linear(prefix + "down", tokens_, hidden_, width, true);
  down.forward.workspace = bytes(tokens_ * hidden_, element_);
  keep(down, "input", bytes(tokens_ * width, operand_), !for_input, for_weight);
  if (bias) down.parameters += hidden_;
  parts.push_back(std::move(down));
}

// Routed experts are whole and spread over the expert group; every device routes its own tokens, and with
// balanced routing (the only case a formula knows) receives as many as it sends. A token's weights travel
// with it and multiply inside the activation, so that no expert's output has to be kept for their gradient.
// Shared experts are split over the tensor group as a dense FFN is.
void LayerParts::routed_experts(std::vector<Part>& parts) const {
  const ExpertsShape& shape = *model_.experts;
  Part router = linear("router", rows_, shape.routed, hidden_, false);
  router.gradient_kept = bytes(rows_ * shape.routed, float32);
  if (shape.gate_bias) router.parameters += shape.routed;
  keep(router, "input", bytes(rows_ * hidden_, element_), !for_input, for_weight);  // of shared experts too
  keep(router, "scores", bytes(rows_ * shape.routed, float32), for_input);
  keep(router, "chosen", bytes(rows_ * shape.per_token, int32), for_input);
  parts.push_back(std::move(router));

  if (shape.shared_ffn > 0) {
    open_block(parts, "shared", hidden_);
    dense_ffn(parts, "shared_", shape.shared_ffn, false, false);
    close_block(parts, "shared");
    if (shape.shared_gate) {
      Part gate = elementwise("shared_gate", residual_stream() * 3, residual_stream() * 4);
      gate.parameters = hidden_;
      gate.backward_weight.moved = residual_stream();
      keep(gate, "output", residual_stream(), for_input);
      keep(gate, "gate", bytes(rows_, float32), for_input);
      gate.gradient_kept = bytes(rows_, float32);
      parts.push_back(std::move(gate));
    }
  }

  const bool gated = model_.ffn_kind == FfnKind::swiglu;
  const std::uint64_t received = rows_ * shape.per_token;
  const std::uint64_t here = shape.routed / expert_;
  const std::uint64_t each = (received + here - 1) / here;
  const Bytes operands = bytes(received * hidden_, operand_);
  const Bytes elements = bytes(received * hidden_, element_);
  // Permuting reads and writes each row once. fp8 goes out in fp8 and comes back in bf16, in both directions
  // (DeepSeek-V3, arXiv 2412.19437, section 3.3.3). Without a group only the permuting is left.
  Part dispatch = elementwise("dispatch", operands * 2, elements * 2);
  Part combine = elementwise("combine", elements * 2, operands * 2);
  combine.forward.workspace = elements;
  dispatch.backward_input.workspace = elements;
  if (expert_ > 1) {
    dispatch.part_class = combine.part_class = PartClass::all_to_all;
    dispatch.forward.sent = combine.backward_input.sent = operands;
    dispatch.forward.workspace = operands;  // permuted, not yet sent
    dispatch.backward_input.sent = combine.forward.sent = elements;
  }
  parts.push_back(std::move(dispatch));

  const std::uint64_t up_width = gated ? 2 * shape.ffn : shape.ffn;
  Part up =
      product(gated ? "experts_gate_up" : "experts_up", {each, up_width, hidden_, here}, received, true);
  keep(up, "input", operands, !for_input, for_weight);
  up.expert_parameters = up.parameters;
  parts.push_back(std::move(up));
  Part activation = elementwise(gated ? "experts_swiglu" : "experts_gelu",
                                bytes(received * (up_width + shape.ffn), element_),
                                bytes(received * (2 * up_width + shape.ffn), element_));
  activation.backward_input.workspace = bytes(received * shape.ffn, element_);
  keep(activation, gated ? "gate_and_up" : "pre_activation", bytes(received * up_width, element_), for_input);
  keep(activation, "weights", bytes(received, float32), for_input);
  parts.push_back(std::move(activation));
  Part down = product("experts_down", {each, hidden_, shape.ffn, here}, received, true);
  down.forward.workspace = elements;
  keep(down, "input", bytes(received * shape.ffn, operand_), !for_input, for_weight);
  down.expert_parameters = down.parameters;
  parts.push_back(std::move(down));
  parts.push_back(std::move(combine));
}

std::vector<Part> LayerParts::mlp_layer() const {
  const std::uint64_t inner = model_.ffn;
  std::vector<Part> parts;
  Part first = linear("linear_1", tokens_, inner, hidden_, true);
  keep(first, "input", bytes(tokens_ * hidden_, operand_), !for_input, for_weight);
  if (model_.ffn_bias) first.parameters += inner;
  parts.push_back(std::move(first));
  Part gelu = elementwise("gelu", bytes(2 * tokens_ * inner, element_), bytes(3 * tokens_ * inner, element_));
  gelu.backward_input.workspace = bytes(tokens_ * inner, element_);
  keep(gelu, "pre_activation", bytes(tokens_ * inner, element_), for_input);
  parts.push_back(std::move(gelu));
  Part second = linear("linear_2", tokens_, hidden_, inner, true);
  second.forward.workspace = bytes(tokens_ * hidden_, element_);
  keep(second, "input", bytes(tokens_ * inner, operand_), !for_input, for_weight);
  if (model_.ffn_bias) second.parameters += hidden_;
  parts.push_back(std::move(second));
  return parts;
}

std::vector<Part> LayerParts::layer(bool experts) const {
  if (model_.architecture == Architecture::mlp) return mlp_layer();
  std::vector<Part> parts;
  parts.push_back(norm("norm_1", rows_, hidden_, model_.norm, true));
  model_.attention.latent ? latent_attention(parts) : grouped_attention(parts);
  parts.push_back(norm("norm_2", rows_, hidden_, model_.norm, true));
  if (experts) {
    routed_experts(parts);
  } else {
    open_block(parts, "ffn", hidden_);
    dense_ffn(parts, "", model_.ffn, model_.ffn_bias, true);
    close_block(parts, "ffn");
  }
  parts.push_back(residual("residual_2"));
  return parts;
}

// A lookup: forward copies rows, backward_weight adds the output's gradient to the rows, backward_input has
// nothing to do but leave that gradient.
Part LayerParts::embed(std::string name, std::uint64_t parameters) const {
  const Bytes output = bytes(tokens_ * hidden_, element_);
  Part part = elementwise(std::move(name), output * 2, {});
  part.backward_weight.moved = output + bytes(2 * tokens_ * hidden_, gradient_);
  part.forward.workspace = tensor_ > 1 ? output : Bytes{};
  part.parameters = parameters;
  keep(part, "token_ids", bytes(tokens_, int32), !for_input, for_weight);
  part.gradient_kept = output;
  return part;
}

std::vector<Part> LayerParts::embedding() const {
  std::vector<Part> parts;
  Part part = embed("embedding", shard(model_.vocab) * hidden_);
  if (model_.position == PositionKind::learned) part.parameters += model_.learned_positions * hidden_;
  if (numerics_.dropout) keep(part, "mask", bytes(rows_ * hidden_, 1), for_input);
  parts.push_back(std::move(part));
  close_block(parts, "embedding");
  return parts;
}

std::vector<Part> LayerParts::multi_token(const StageContent& content, bool first) const {
  const std::uint64_t matrix = shard(model_.vocab) * hidden_;
  std::vector<Part> parts;
  Part lookup = embed("mtp_embedding", first && !content.embedding ? matrix : 0);
  lookup.copied_parameters = lookup.parameters;
  parts.push_back(std::move(lookup));
  close_block(parts, "mtp_embedding");
  // The hidden state is kept by `mtp_norm` of the module before, if there is one here.
  parts.push_back(norm("mtp_embedding_norm", rows_, hidden_, model_.norm, true));
  parts.push_back(norm("mtp_hidden_norm", rows_, hidden_, model_.norm, first));
  // Whole on every device of a tensor group, for its own tokens.
  Part projection = linear("mtp_projection", rows_, hidden_, 2 * hidden_, true);
  keep(projection, "input", bytes(rows_ * 2 * hidden_, operand_), !for_input, for_weight);
  parts.push_back(std::move(projection));
  std::vector<Part> inner = layer(model_.layers > 0 && model_.has_experts(model_.layers - 1));
  recompute(inner, content.recompute, model_, numerics_);
  std::move(inner.begin(), inner.end(), std::back_inserter(parts));
  parts.push_back(norm("mtp_norm", rows_, hidden_, model_.norm, true));
  // A tied matrix is here already: the embedding's, or the copy above.
  const bool has_matrix = !first || content.head || model_.tied_embeddings;
  head_and_loss(parts, "mtp_", has_matrix ? 0 : matrix, true);
  return parts;
}

// Fused (the default): the logits live while the loss is computed, forward keeps a log-sum-exp a token, and
// backward_input makes the logits again, from which d(logits) comes in place. Otherwise forward keeps them in
// float32 (2205.05198, section 4.3). The head's product is never in fp8.
void LayerParts::head_and_loss(std::vector<Part>& parts, const std::string& prefix, std::uint64_t parameters,
                               bool copied) const {
  const std::uint64_t vocab = shard(model_.vocab);
  const Bytes logits = bytes(tokens_ * vocab, element_);
  const bool fused = numerics_.fused_loss;
  const auto opened = parts.size();
  open_block(parts, prefix + "head", hidden_);
  if (fused && split_sequence_) parts[opened].backward_input.sent += parts[opened].forward.sent;
  Part head = linear(prefix + "head", tokens_, vocab, hidden_, false);
  head.parameters = parameters;
  head.copied_parameters = copied ? parameters : 0;
  head.forward.workspace = logits;
  keep(head, "input", bytes(rows_ * hidden_, element_), fused, for_weight);
  if (fused) {
    head.backward_input.flops += head.forward.flops;
    head.backward_input.moved += head.forward.moved;
  }
  parts.push_back(std::move(head));

  Part loss =
      elementwise(prefix + "loss", logits, fused ? logits * 2 : bytes(tokens_ * vocab, float32) + logits);
  loss.forward.workspace = logits;
  keep(loss, "targets", bytes(tokens_, int32), for_input);
  if (fused) {
    keep(loss, "log_sum_exp", bytes(tokens_, float32), for_input);
  } else {
    keep(loss, "logits", bytes(tokens_ * vocab, float32), for_input);
    loss.forward.moved += bytes(tokens_ * vocab, float32);
  }
  parts.push_back(std::move(loss));
  if (tensor_ > 1) {
    // A token's largest logit, its sum of exponentials and its target's logit, over all slices of the
    // vocabulary.
    Part sum;
    sum.name = prefix + "loss_sum";
    sum.part_class = PartClass::all_reduce;
    sum.forward.sent = bytes(3 * tokens_, float32);
    parts.push_back(std::move(sum));
  }
}

std::vector<Part> LayerParts::head(const StageContent& content) const {
  std::vector<Part> parts;
  if (model_.architecture == Architecture::mlp) {
    const Bytes output = bytes(tokens_ * hidden_, element_);
    Part loss = elementwise("loss", output * 2, output * 3);  // mean squared error
    keep(loss, "output", output, for_input);
    keep(loss, "target", output, for_input);
    parts.push_back(std::move(loss));
    return parts;
  }
  // An MTP module on this stage keeps the same hidden state.
  parts.push_back(norm("final_norm", rows_, hidden_, model_.norm, content.multi_token_layers == 0));
  const std::uint64_t matrix = shard(model_.vocab) * hidden_;
  const bool has_matrix = model_.tied_embeddings && (content.embedding || content.multi_token_layers > 0);
  head_and_loss(parts, "", has_matrix ? 0 : matrix, model_.tied_embeddings);
  return parts;
}

// What costs little to make again, for what it holds. Scores, where they are in memory (2205.05198, section
// 5). With fused attention: of latent attention queries, keys and values from their latents, and of experts
// the activation (Megatron-LM's mla_up_proj and moe_act); none of it communicates beyond the latents' gather.
bool repeated_by_selective(const Part& part, const ModelShape& model, const Numerics& numerics) {
  if (!numerics.fused_attention) return part.part_class == PartClass::attention;
  if (part.name == "experts_swiglu" || part.name == "experts_gelu") return true;
  const bool latents = model.attention.latent && model.attention.latent->query_rank > 0;
  return latents && (part.name == "attention_gather" || part.name == "q_up" || part.name == "kv_up" ||
                     part.name == "rope");
}

void recompute(std::vector<Part>& layer, Recompute how, const ModelShape& model, const Numerics& numerics) {
  const auto again = [](Part& part) {
    part.backward_input.flops += part.forward.flops;
    part.backward_input.moved += part.forward.moved;
    part.backward_input.sent += part.forward.sent;
  };
  if (how == Recompute::full) {
    for (Part& part : layer) {
      again(part);
      for (KeptTensor& tensor : part.kept) tensor.recomputed = true;
    }
    layer.front().kept.front().recomputed = false;
    return;
  }
  if (how == Recompute::none) return;
  bool behind_repeated = false;  // the part before is made again
  for (Part& part : layer) {
    const bool repeated = repeated_by_selective(part, model, numerics);
    if (repeated) again(part);
    for (KeptTensor& tensor : part.kept) {
      if (!numerics.fused_attention) {
        tensor.recomputed =
            repeated && (tensor.name == "probabilities" || tensor.name == "mask" || tensor.name == "dropped");
      } else if (behind_repeated && !repeated) {
        // What the repeated parts make, not what the part adds of its own.
        tensor.recomputed =
            tensor.name == "q" || tensor.name == "k" || tensor.name == "v" || tensor.name == "input";
      }
    }
    behind_repeated = repeated;
  }
}

}  // namespace plumb
