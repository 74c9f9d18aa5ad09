// A matrix in device memory that belongs to somebody else.
#pragma once
#include "schedules/ir/units.hpp"

#include <cstdint>

namespace plumb::layers {

enum class DataType : std::uint8_t { bf16, fp32 };
constexpr std::uint64_t bytes_of(DataType type) { return type == DataType::bf16 ? 2 : 4; }

/// Row-major, without gaps: `rows` tokens (or outputs of a weight) of `columns` elements.
struct Tensor {
  void* data = nullptr;
  DataType type = DataType::bf16;
  std::uint64_t rows = 0;
  std::uint64_t columns = 0;

  std::uint64_t elements() const { return rows * columns; }
  Bytes bytes() const { return {static_cast<std::int64_t>(elements() * bytes_of(type))}; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  bool operator==(const Tensor&) const = default;
};

}  // namespace plumb::layers
