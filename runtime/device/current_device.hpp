// Which of the machine's GPUs a thread launches on.
#pragma once
#include <cstdint>

namespace plumb::device {

std::uint32_t current_device();
/// The thread that calls it launches there from then on.
void use_device(std::uint32_t device);

}  // namespace plumb::device
