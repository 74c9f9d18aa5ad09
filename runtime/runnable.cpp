#include "runtime/runnable.hpp"

#include "runtime/reference/stage.hpp"

namespace plumb {

void require_runnable(const TrainingPlan& plan) {
  // The host's stages refuse what no device computes, and hold nothing.
  for (std::uint32_t s = 0; s < plan.layout.stages.size(); ++s)
    static_cast<void>(reference::Stage<float>(plan.model, plan.layout, Stage{s}));
}

}  // namespace plumb
