// Matrix products through cuBLASLt, with the algorithm pinned: what was measured is what runs.
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/tensor.hpp"

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
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

/// One product, ready to run on any lane with as many multiprocessors.
class Product {
 public:
  /// Takes the algorithm from `algorithms`. Where that has none: times the library's candidates on `lane`, on
  /// random operands of its own (memory is allocated meanwhile), and writes the fastest there.
  Product(const ProductShape& shape, ProductAlgorithms& algorithms, const Lane& lane);
  Product(Product&&) noexcept;
  Product& operator=(Product&&) noexcept;
  ~Product();

  /// The two factors in the order of the formula above, and the result. `added` with shape.adds in forward: a
  /// tensor like the result; in weight_gradient the result itself is added to. `bias` with shape.bias:
  /// [outputs], in the operands' type.
  void run(const Lane& lane, const void* left, const void* right, void* result, const void* added = nullptr,
           const void* bias = nullptr) const;

  const ProductShape& shape() const { return shape_; }

 private:
  struct Descriptors;
  ProductShape shape_;
  std::unique_ptr<Descriptors> descriptors_;
};

}  // namespace plumb::layers
