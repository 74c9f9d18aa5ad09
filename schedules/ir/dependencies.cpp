#include "schedules/ir/dependencies.hpp"

namespace plumb {

ProductIndex::ProductIndex(const Schedule& schedule)
    : stages_(schedule.stages),
      microbatches_(schedule.microbatches),
      places_(std::size_t{3} * schedule.stages * schedule.microbatches, Place{Rank{0}, absent}) {
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    const auto& actions = schedule.actions[r];
    for (std::uint32_t position = 0; position < actions.size(); ++position) {
      for (const Op& op : actions[position]) {
        const Place place{Rank{r}, position};
        if (op.kind == OpKind::forward) places_[slot(Product::activation, op.stage, op.microbatch)] = place;
        if (gives_input_gradient(op.kind)) {
          places_[slot(Product::input_gradient, op.stage, op.microbatch)] = place;
        }
        if (gives_weight_gradient(op.kind)) {
          places_[slot(Product::weight_gradient, op.stage, op.microbatch)] = place;
        }
      }
    }
  }
}

}  // namespace plumb
