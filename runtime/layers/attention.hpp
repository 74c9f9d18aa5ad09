// Causal attention with grouped key/value heads: no scores in memory.
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/scratch.hpp"
#include "runtime/layers/tensor.hpp"

#include <cstdint>
#include <memory>

namespace plumb::layers {

struct AttentionSize {
  DataType type = DataType::bf16;
  std::uint64_t sequences = 1;
  std::uint64_t sequence = 0;  // tokens of one
  std::uint64_t heads = 0;
  std::uint64_t key_value_heads = 0;  // divides heads
  std::uint64_t head_dim = 0;
  std::uint64_t tokens() const { return sequences * sequence; }
  std::uint64_t width() const { return (heads + 2 * key_value_heads) * head_dim; }  // of a row of q, k and v
  bool operator==(const AttentionSize&) const = default;
};

/// `fused`: cuDNN's, for bf16. `plain`: kernels of our own for every type, simple and slow.
enum class AttentionKernel : std::uint8_t { fused, plain };

/// qkv [tokens, width]: of each token its query heads, its key heads, its value heads. o [tokens, heads
/// head_dim]. log_sum_exp: float32 [sequences, heads, sequence]. Scores are scaled by 1 / sqrt(head_dim).
class Attention {
 public:
  /// `fused` where it can be had for this size, `plain` otherwise.
  Attention(const AttentionSize& size, const Lane& lane);
  Attention(const AttentionSize& size, AttentionKernel kernel, const Lane& lane);
  Attention(Attention&&) noexcept;
  Attention& operator=(Attention&&) noexcept;
  ~Attention();

  AttentionKernel kernel() const { return kernel_; }
  /// Of scratch, for the larger of the two.
  Bytes scratch() const;
  void forward(const Lane& lane, Scratch scratch, const Tensor& qkv, const Tensor& o,
               float* log_sum_exp) const;
  /// d_qkv like qkv. There is nothing left for backward_weight.
  void backward(const Lane& lane, Scratch scratch, const Tensor& d_o, const Tensor& qkv, const Tensor& o,
                const float* log_sum_exp, const Tensor& d_qkv) const;

 private:
  struct Plans;
  AttentionSize size_;
  AttentionKernel kernel_;
  std::unique_ptr<Plans> plans_;  // cuDNN's
};

}  // namespace plumb::layers
