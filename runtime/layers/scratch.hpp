// Memory that an op uses while it runs and leaves to the next.
#pragma once
#include "runtime/layers/tensor.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/units.hpp"

#include <cstddef>
#include <cstdint>

namespace plumb::layers {

/// What is left of a block. Passed by value: what a function takes from its copy is free again when it
/// returns, for what follows in the same stream.
class Scratch {
 public:
  static constexpr std::int64_t alignment = 256;
  static constexpr Bytes rounded(Bytes bytes) {
    return {(bytes.count + alignment - 1) / alignment * alignment};
  }

  Scratch() = default;
  Scratch(void* begin, Bytes bytes)
      : next_(static_cast<std::byte*>(begin)), end_(static_cast<std::byte*>(begin) + bytes.count) {}

  void* take(Bytes bytes) {
    std::byte* place = next_;
    PLUMB_CHECK(end_ - next_ >= rounded(bytes).count);
    next_ += rounded(bytes).count;
    return place;
  }
  Tensor take(DataType type, std::uint64_t rows, std::uint64_t columns) {
    Tensor tensor{nullptr, type, rows, columns};
    tensor.data = take(tensor.bytes());
    return tensor;
  }

 private:
  std::byte* next_ = nullptr;
  std::byte* end_ = nullptr;
};

}  // namespace plumb::layers
