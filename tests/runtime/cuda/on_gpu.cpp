#include "tests/runtime/cuda/team.hpp"

namespace plumb::test {

Sizes sizes() { return {256, 256, 128, {WeightType::bf16, WeightType::fp32}}; }

}  // namespace plumb::test
