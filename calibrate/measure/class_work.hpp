// One piece of work of each class, at the model's sizes: what the mutual slowdown is measured with.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/layers/attention.hpp"
#include "runtime/layers/matmul.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace plumb::measure {

class ClassWork {
 public:
  ClassWork(const ModelShape& model, const Layout& layout, layers::ProductAlgorithms& algorithms,
            const layers::Lane& lane);
  /// Whether there is work of this class: `gemm`, `attention`, `attention_backward`, `memory` (the
  /// activation), `send_recv`.
  bool has(const std::string& work_class) const;
  /// Queues it once; a message is copied in the lane's stream, whatever multiprocessors that one has.
  void launch(const std::string& work_class, const layers::Lane& lane) const;

 private:
  layers::Tensor tensor(std::uint64_t rows, std::uint64_t columns, const layers::Lane& lane);

  layers::DataType type_;
  bool gated_;
  std::vector<device::Buffer> buffers_;
  layers::Tensor x_, w_, up_, activated_, qkv_, d_qkv_, o_, d_o_, message_, received_;
  float* log_sum_exp_ = nullptr;
  std::optional<layers::Product> product_;
  std::optional<layers::Attention> attention_;
  device::Buffer scratch_;
};

}  // namespace plumb::measure
