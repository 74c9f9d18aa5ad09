// Numbers that depend on a seed and a place alone: the same on every device and in every cut of a model.
#pragma once
#include "runtime/layers/lane.hpp"
#include "runtime/layers/tensor.hpp"

#include <cstdint>

namespace plumb::layers {

/// Element i becomes amplitude * u, u uniform in [-1, 1), from uniform(seed, i).
void fill_uniform(const Lane& lane, const Tensor& tensor, std::uint64_t seed, float amplitude);

/// What fill_uniform writes before rounding to the tensor's type: SplitMix64's mixing of seed and index.
constexpr float uniform(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed * 0x9E3779B97F4A7C15ULL + (index + 1) * 0xD1342543DE82EF95ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  z ^= z >> 31;
  return static_cast<float>(static_cast<std::int32_t>(static_cast<std::uint32_t>(z >> 32) >> 8)) /
             8388608.0F -
         1.0F;
}

/// Token ids below `limit`, from the same numbers.
void fill_tokens(const Lane& lane, std::int32_t* tokens, std::uint64_t count, std::uint64_t seed,
                 std::uint32_t limit);
/// All elements become `value`.
void fill_constant(const Lane& lane, const Tensor& tensor, float value);
/// One type to the other.
void convert(const Lane& lane, const Tensor& from, const Tensor& to);

}  // namespace plumb::layers
