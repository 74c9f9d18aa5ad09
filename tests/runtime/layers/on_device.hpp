// Tensors for tests: fresh random values, known on the host to the last bit; outputs poisoned before they are
// written.
#pragma once
#include "runtime/device/buffer.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/stream.hpp"
#include "runtime/layers/lane.hpp"
#include "runtime/layers/scratch.hpp"
#include "runtime/layers/tensor.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace plumb::layers {

/// A tensor with its memory.
struct Owned {
  device::Buffer buffer;
  Tensor tensor;
};

inline std::uint16_t to_bf16(float x) {  // to nearest, ties to even
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits += 0x7FFF + ((bits >> 16) & 1);
  return static_cast<std::uint16_t>(bits >> 16);
}
inline float from_bf16(std::uint16_t x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

/// ||a - b|| / ||b||; infinite where a is no number.
inline double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::isfinite(difference) ? std::sqrt(difference / size) : INFINITY;
}

/// Fails, with a reason, where there is no GPU: such a test belongs to the label `gpu`.
class OnDevice : public ::testing::Test {
 protected:
  OnDevice() : stream(), lane(stream, device::device_info().multiprocessors), scratch_(Bytes{256 << 20}) {
    seed = std::random_device{}();
    RecordProperty("seed", std::to_string(seed));
    generator.seed(seed);
  }
  void TearDown() override {
    if (HasFailure()) std::printf("seed %u\n", seed);
  }

  Scratch scratch() const { return {scratch_.data(), scratch_.bytes()}; }

  /// Normal deviates, rounded to the type; `host` gets exactly what the device has.
  Owned random(DataType type, std::uint64_t rows, std::uint64_t columns, std::vector<double>& host,
               double deviation = 1, double mean = 0) {
    std::normal_distribution<float> normal(static_cast<float>(mean), static_cast<float>(deviation));
    host.resize(rows * columns);
    for (double& x : host) {
      const float value = normal(generator);
      x = static_cast<double>(type == DataType::bf16 ? from_bf16(to_bf16(value)) : value);
    }
    return upload(type, rows, columns, host);
  }
  Owned upload(DataType type, std::uint64_t rows, std::uint64_t columns, const std::vector<double>& host) {
    Owned owned = empty(type, rows, columns);
    if (type == DataType::bf16) {
      std::vector<std::uint16_t> raw;
      for (const double x : host) raw.push_back(to_bf16(static_cast<float>(x)));
      put(owned.tensor.data, raw);
    } else {
      put(owned.tensor.data, std::vector<float>(host.begin(), host.end()));
    }
    return owned;
  }
  /// Every element is NaN.
  Owned empty(DataType type, std::uint64_t rows, std::uint64_t columns) {
    Owned owned;
    owned.tensor = {nullptr, type, rows, columns};
    owned.buffer = device::Buffer(owned.tensor.bytes());
    owned.tensor.data = owned.buffer.data();
    poison(owned.buffer);
    return owned;
  }
  void poison(const device::Buffer& buffer) {
    device::fill(stream, buffer.data(), 0xFF, static_cast<std::size_t>(buffer.bytes().count));
    stream.synchronize();
  }
  template <class T>
  void put(void* to, const std::vector<T>& values) {
    device::copy(stream, to, values.data(), values.size() * sizeof(T));
    stream.synchronize();
  }
  template <class T>
  std::vector<T> get(const void* from, std::size_t count) {
    std::vector<T> values(count);
    device::copy(stream, values.data(), from, count * sizeof(T));
    stream.synchronize();
    return values;
  }
  std::vector<double> download(const Tensor& t) {
    std::vector<double> host;
    if (t.type == DataType::bf16) {
      for (const std::uint16_t x : get<std::uint16_t>(t.data, t.elements()))
        host.push_back(double{from_bf16(x)});
    } else {
      for (const float x : get<float>(t.data, t.elements())) host.push_back(double{x});
    }
    return host;
  }
  std::vector<std::int32_t> random_ids(std::size_t count, std::uint32_t limit) {
    std::vector<std::int32_t> ids(count);
    for (auto& id : ids) id = static_cast<std::int32_t>(generator() % limit);
    return ids;
  }

  unsigned seed = 0;
  std::mt19937 generator;
  device::Stream stream;
  Lane lane;

 private:
  device::Buffer scratch_;
};

/// The accuracy that the two types stand for.
inline double tolerance(DataType type) { return type == DataType::fp32 ? 1e-5 : 1e-2; }

}  // namespace plumb::layers
