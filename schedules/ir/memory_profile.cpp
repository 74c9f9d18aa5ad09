#include "schedules/ir/memory_profile.hpp"

namespace plumb {

std::string_view to_string(MemoryUse use) {
  constexpr std::array<std::string_view, memory_uses> names{
      "weights",         "gradients", "optimizer", "activations", "weight_gradient_remnants",
      "receive_buffers", "workspace", "reserve"};
  return names[static_cast<std::size_t>(use)];
}

Bytes MemoryBreakdown::total() const {
  Bytes sum;
  for (const Bytes bytes : by_use) sum += bytes;
  return sum;
}

}  // namespace plumb
