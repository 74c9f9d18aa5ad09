// The gradients of a stage that several ranks hold, added up.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace plumb::device {
class Stream;
}

namespace plumb::layers {

inline constexpr std::size_t most_copies = 32;

/// Every copy becomes the sum of all, added up in their order; each has `count` elements. The same bits
/// everywhere, since one thread adds and writes them all.
void sum_copies(const device::Stream& stream, std::span<float* const> copies, std::uint64_t count);

}  // namespace plumb::layers
