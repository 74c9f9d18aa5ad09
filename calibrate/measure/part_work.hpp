// Single parts of a layer on tensors of their own, to be launched by themselves.
#pragma once
#include "calibrate/measurement.hpp"
#include "runtime/device/buffer.hpp"
#include "runtime/layers/attention.hpp"
#include "runtime/layers/matmul.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plumb::measure {

/// One kind of op of a part. Parts that do the same (a layer's norms) are one.
struct PartPiece {
  std::string part;  // as in schedules/model/layer_parts: `gate_up`, `attention`
  WorkKind kind = WorkKind::forward;
  std::function<void(const layers::Lane&)> launch;
};

class PartWork {
 public:
  /// The products, activation, attention and norm of the model's layers without experts.
  PartWork(const ModelShape& model, const Layout& layout, layers::ProductAlgorithms& algorithms,
           const layers::Lane& lane);
  PartWork(PartWork&&) = delete;  // pieces refer to it

  const std::vector<PartPiece>& all() const { return pieces_; }
  /// Nothing where it is not among them.
  const PartPiece* find(std::string_view part, WorkKind kind) const;
  /// The first product of the FFN and its activation.
  const PartPiece& product() const { return *find(product_, WorkKind::forward); }
  const PartPiece& elementwise() const { return *find(activation_, WorkKind::forward); }

 private:
  void add(const std::string& part, WorkKind kind, std::function<void(const layers::Lane&)> launch);
  void add_attention(const ModelShape& model, const Layout& layout, layers::ProductAlgorithms& algorithms,
                     const layers::Lane& lane);
  void add_norm(const ModelShape& model, const layers::Lane& lane);
  void linear(const std::string& name, std::uint64_t inputs, std::uint64_t outputs, bool adds,
              layers::ProductAlgorithms& algorithms, const layers::Lane& lane);
  layers::Tensor place(std::uint64_t rows, std::uint64_t columns, layers::DataType type);
  layers::Tensor filled(std::uint64_t rows, std::uint64_t columns, const layers::Lane& lane);
  layers::Tensor tensor(std::uint64_t columns, const layers::Lane& lane) {
    return filled(tokens_, columns, lane);
  }
  float* floats(std::uint64_t count);
  layers::Scratch scratch(Bytes bytes);

  std::uint64_t tokens_;
  layers::DataType type_;
  std::string product_, activation_;
  std::vector<device::Buffer> buffers_;
  std::vector<std::unique_ptr<layers::Product>> products_;
  std::optional<layers::Attention> attention_;
  std::vector<PartPiece> pieces_;
};

}  // namespace plumb::measure
