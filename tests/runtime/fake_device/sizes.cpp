#include "tests/runtime/cuda/team.hpp"

namespace plumb::test {

Sizes sizes() { return {16, 64, 8, {WeightType::fp32}}; }

}  // namespace plumb::test
