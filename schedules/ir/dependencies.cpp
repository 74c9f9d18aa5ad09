#include "schedules/ir/dependencies.hpp"

#include <algorithm>

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

Homes::Homes(const Schedule& schedule) : Homes(schedule.stages, schedule.microbatches) {
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    for (const Action& action : schedule.actions[r]) {
      const Op& op = action.first();
      if (op.kind == OpKind::forward) put(op.stage, op.microbatch, Rank{r});
    }
  }
}

void Homes::add_row(Home& home) {
  home.row = rows_.size();
  rows_.resize(rows_.size() + microbatches_, home.rank);
}

std::uint32_t Homes::copies(Stage stage) const {
  const Home& home = stages_[stage.value];
  if (home.row == none) return home.rank == nobody ? 0 : 1;
  std::vector<Rank> found;
  for (std::uint32_t m = 0; m < microbatches_ && found.size() < 3; ++m) {
    const Rank rank = rows_[home.row + m];
    if (std::find(found.begin(), found.end(), rank) == found.end()) found.push_back(rank);
  }
  return static_cast<std::uint32_t>(found.size());
}

}  // namespace plumb
