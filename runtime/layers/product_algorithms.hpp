// Which of cuBLASLt's algorithms computes each shape of matrix product. Nothing of it needs a GPU.
#pragma once
#include "runtime/layers/tensor.hpp"

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace plumb::layers {

/// Of y[tokens, outputs] = x[tokens, inputs] w[outputs, inputs]^T:
///   forward          y  = x w^T
///   input_gradient   dx = dy w
///   weight_gradient  dw = dy^T x, in float32
enum class ProductForm : std::uint8_t { forward, input_gradient, weight_gradient };

/// What decides which algorithm is fastest.
struct ProductShape {
  ProductForm form = ProductForm::forward;
  DataType type = DataType::bf16;
  std::uint64_t tokens = 0;
  std::uint64_t inputs = 0;
  std::uint64_t outputs = 0;
  bool adds = false;  // to what is there (weight_gradient), or to another tensor (forward: the residual)
  std::uint32_t multiprocessors = 0;
  bool bias = false;  // forward: a row of `outputs` is added to every token
  auto operator<=>(const ProductShape&) const = default;
};
/// `forward bf16 4096x2048x8192 add bias sms=132`; and back, throwing BadInput.
std::string to_string(const ProductShape& shape);
ProductShape parse_product_shape(std::string_view text);

/// The algorithm chosen for each shape, as cuBLASLt writes it down; good for the version it was made with.
class ProductAlgorithms {
 public:
  using Code = std::array<std::uint64_t, 8>;
  /// Nothing where the shape is not known.
  const Code* find(const ProductShape& shape) const;
  void set(const ProductShape& shape, const Code& code) { codes_[shape] = code; }
  /// shape -> 128 hexadecimal digits; for a calibration to keep. The other way round throws BadInput.
  std::map<std::string, std::string> to_text() const;
  static ProductAlgorithms from_text(const std::map<std::string, std::string>& text);

 private:
  std::map<ProductShape, Code> codes_;
};

}  // namespace plumb::layers
