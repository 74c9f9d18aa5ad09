#include "schedules/ir/schedule.hpp"

namespace plumb {

std::size_t count_ops(const Schedule& schedule) {
  std::size_t ops = 0;
  for (const auto& rank : schedule.actions) {
    for (const Action& action : rank) ops += action.size();
  }
  return ops;
}

}  // namespace plumb
