// What is done to the gradients of a whole stage at once.
#pragma once
#include <cstdint>

namespace plumb::device {
class Stream;
}

namespace plumb::cuda {

/// *sum = the sum of squares, in float64 and in a fixed order. `partial`: squares_partials doubles of
/// scratch.
inline constexpr std::uint32_t squares_partials = 1024;
void sum_of_squares(const device::Stream& stream, const float* values, std::uint64_t count, double* partial,
                    double* sum);

}  // namespace plumb::cuda
