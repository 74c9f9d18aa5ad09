// What is done to the gradients of a whole stage at once.
#pragma once
#include <array>
#include <cstdint>
#include <span>

namespace plumb::device {
class Stream;
}

namespace plumb::cuda {

inline constexpr std::size_t most_copies = 32;

/// Every copy becomes the sum of all, added up in their order; each has `count` elements. The same bits
/// everywhere, since one thread adds and writes them all.
void sum_copies(const device::Stream& stream, std::span<float* const> copies, std::uint64_t count);

/// *sum = the sum of squares, in float64 and in a fixed order. `partial`: squares_partials doubles of
/// scratch.
inline constexpr std::uint32_t squares_partials = 1024;
void sum_of_squares(const device::Stream& stream, const float* values, std::uint64_t count, double* partial,
                    double* sum);

}  // namespace plumb::cuda
