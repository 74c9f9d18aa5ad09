// Makes the parts of which stages consist. Inside schedules/model only: layer_costs.hpp is what others use.
#pragma once
#include "schedules/model/layer_costs.hpp"

#include <string>
#include <vector>

namespace plumb {

/// Parts of one microbatch on one device, for one model and layout.
class LayerParts {
 public:
  LayerParts(const ModelShape& model, const Layout& layout);

  std::vector<Part> embedding() const;
  /// A decoder layer (or one of Architecture::mlp), without what is recomputed; see `recompute`.
  std::vector<Part> layer(bool experts) const;
  /// An MTP module (DeepSeek-V3, arXiv 2412.19437 section 2.2): norms of the hidden state and of the next
  /// token's embedding, a projection 2H -> H, a layer, and the shared embedding, head and a loss. `first` of
  /// its stage: there the shared matrices are copied if the stage has none, and the hidden state is kept.
  std::vector<Part> multi_token(const StageContent& content, bool first) const;
  /// Final norm, head and loss.
  std::vector<Part> head(const StageContent& content) const;

  Bytes residual_stream() const { return bytes(rows_ * hidden_, element_); }

 private:
  static Bytes bytes(std::uint64_t elements, std::uint64_t each) {
    return {static_cast<std::int64_t>(elements * each)};
  }
  std::uint64_t shard(std::uint64_t width) const { return (width + tensor_ - 1) / tensor_; }

  Part linear(std::string name, std::uint64_t m, std::uint64_t n, std::uint64_t k, bool fp8) const;
  Part product(std::string name, GemmShape gemm, std::uint64_t rows, bool fp8) const;
  Part elementwise(std::string name, Bytes forward, Bytes backward) const;
  Part norm(std::string name, std::uint64_t rows, std::uint64_t width, NormKind kind, bool keep_input) const;
  Part embed(std::string name, std::uint64_t parameters) const;
  Part residual(std::string name) const;
  void open_block(std::vector<Part>& parts, const std::string& block, std::uint64_t width) const;
  void close_block(std::vector<Part>& parts, const std::string& block) const;
  void grouped_attention(std::vector<Part>& parts) const;
  void latent_attention(std::vector<Part>& parts) const;
  void attention_core(std::vector<Part>& parts, std::uint64_t heads, std::uint64_t key_value_heads,
                      std::uint64_t key_dim, std::uint64_t value_dim) const;
  void dense_ffn(std::vector<Part>& parts, const std::string& prefix, std::uint64_t inner, bool bias,
                 bool keep_input) const;
  void routed_experts(std::vector<Part>& parts) const;
  std::vector<Part> mlp_layer() const;
  void head_and_loss(std::vector<Part>& parts, const std::string& prefix, std::uint64_t parameters,
                     bool copied) const;

  const ModelShape& model_;
  const Numerics numerics_;
  const std::uint64_t hidden_;
  const std::uint64_t tensor_;
  const std::uint64_t expert_;
  const std::uint64_t sequence_;
  const bool split_sequence_;     // tensor > 1 with sequence parallelism
  const std::uint64_t tokens_;    // of a microbatch
  const std::uint64_t rows_;      // tokens whose norms and residuals this device computes
  const std::uint64_t element_;   // bytes of an activation
  const std::uint64_t operand_;   // bytes of an input or output gradient that a linear keeps
  const std::uint64_t gradient_;  // bytes of an accumulated weight gradient
};

/// Marks what backward_input computes again instead of forward keeping it, and adds its cost there. Of a
/// layer that is recomputed in full forward keeps the input of its first part alone.
void recompute(std::vector<Part>& layer, Recompute how, const ModelShape& model, const Numerics& numerics);

/// Whether Recompute::selective computes this part of a layer again.
bool repeated_by_selective(const Part& part, const ModelShape& model, const Numerics& numerics);

}  // namespace plumb
