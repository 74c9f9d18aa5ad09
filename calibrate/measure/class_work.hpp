// Some work of each class, at the model's sizes: what the mutual slowdown is measured with.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/layers/attention.hpp"
#include "runtime/layers/matmul.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace plumb::measure {

class ClassWork {
 public:
  ClassWork(const ModelShape& model, const Layout& layout, layers::ProductAlgorithms& algorithms,
            const layers::Lane& lane);
  ClassWork(const ClassWork&) = delete;
  ClassWork& operator=(const ClassWork&) = delete;

  /// Whether there is work of this class: `gemm`, `attention`, `attention_backward`, `memory`, `send_recv`.
  bool has(const std::string& work_class) const { return work_.contains(work_class); }
  /// Queues all of it once; a message is copied in the lane's stream, whatever multiprocessors that one has.
  void launch(const std::string& work_class, const layers::Lane& lane) const;
  /// Queues its first kernel only.
  void launch_one(const std::string& work_class, const layers::Lane& lane) const;

 private:
  using Launch = std::function<void(const layers::Lane&)>;

  layers::Tensor tensor(std::uint64_t rows, std::uint64_t columns, const layers::Lane& lane);
  layers::Tensor wide(std::uint64_t rows, std::uint64_t columns);
  layers::Scratch scratch(Bytes bytes);
  void add_ffn(const ModelShape& model, std::uint64_t tokens, layers::ProductAlgorithms& algorithms,
               const layers::Lane& lane);
  void add_norm(const ModelShape& model, std::uint64_t tokens, const layers::Lane& lane);
  void add_attention(const ModelShape& model, const Layout& layout, const layers::Lane& lane);

  layers::DataType type_;
  std::vector<device::Buffer> buffers_;
  std::vector<std::unique_ptr<layers::Product>> products_;
  std::optional<layers::Attention> attention_;
  std::map<std::string, std::vector<Launch>> work_;
};

}  // namespace plumb::measure
