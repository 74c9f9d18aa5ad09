#include "tests/support/picture.hpp"

#include <set>

namespace plumb::test {

std::string picture(const Schedule& schedule) {
  const Replay times = replay(schedule);
  bool several = false;
  for (const auto& actions : schedule.actions) {
    std::set<Stage> stages;
    for (const Action& action : actions) stages.insert(action.first().stage);
    several = several || stages.size() > 1;
  }
  std::string text;
  for (std::size_t rank = 0; rank < schedule.actions.size(); ++rank) {
    std::string line = "rank " + std::to_string(rank) + " |";
    const std::size_t left = line.size();
    for (std::size_t i = 0; i < times.times[rank].size(); ++i) {
      const Action& action = schedule.actions[rank][i];
      const auto [begin, end] = times.times[rank][i];
      std::string cell;
      for (const Op& op : action) {
        if (!cell.empty()) cell += '+';
        const std::string token = to_string(op);
        cell += several ? token : token.substr(token.find_first_not_of("0123456789"));
      }
      const auto column = [&](std::int64_t time) { return left + static_cast<std::size_t>(time) * 4; };
      line.resize(column(begin), ' ');
      line += cell;
      if (line.size() + 1 < column(end)) line.resize(column(end) - 1, end - begin > 1 ? '-' : ' ');
    }
    text += line + "\n";
  }
  return text;
}

}  // namespace plumb::test
