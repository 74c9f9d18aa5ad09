// Matrix products through cuBLASLt, with the algorithm pinned: what was measured is what runs.
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/product_algorithms.hpp"

#include <memory>

namespace plumb::layers {

/// One product, ready to run on any lane with as many multiprocessors.
class Product {
 public:
  /// Takes the algorithm from `algorithms`. Where that has none: times the library's candidates on `lane`, on
  /// random operands of its own (memory is allocated meanwhile), and writes the fastest there.
  Product(const ProductShape& shape, ProductAlgorithms& algorithms, const Lane& lane);
  Product(Product&&) noexcept;
  Product& operator=(Product&&) noexcept;
  ~Product();

  /// The two factors in the order of ProductForm's formula, and the result. `added` with shape.adds in
  /// forward: a tensor like the result; in weight_gradient the result itself is added to. `bias` with
  /// shape.bias: [outputs], in the operands' type.
  void run(const Lane& lane, const void* left, const void* right, void* result, const void* added = nullptr,
           const void* bias = nullptr) const;

  const ProductShape& shape() const { return shape_; }

 private:
  struct Descriptors;
  ProductShape shape_;
  std::unique_ptr<Descriptors> descriptors_;
};

}  // namespace plumb::layers
