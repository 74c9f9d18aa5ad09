#include "tests/support/picture.hpp"

#include <algorithm>
#include <cctype>
#include <set>

namespace plumb::test {
namespace {

std::vector<std::set<Stage>> stages_by_rank(const Schedule& schedule) {
  std::vector<std::set<Stage>> stages(schedule.actions.size());
  for (std::size_t rank = 0; rank < stages.size(); ++rank) {
    for (const Action& action : schedule.actions[rank]) {
      for (const Op& op : action) stages[rank].insert(op.stage);
    }
  }
  return stages;
}

}  // namespace

std::string picture(const Schedule& schedule) {
  const Replay times = replay(schedule);
  const auto stages = stages_by_rank(schedule);
  std::size_t most = 0;
  for (const auto& held : stages) most = std::max(most, held.size());
  const std::size_t columns = most > 2 ? 4 : 3;

  std::string text = "p=" + std::to_string(schedule.ranks()) + " m=" + std::to_string(schedule.microbatches) +
                     ", " + std::to_string(schedule.stages) + " stages; F = I = W = 1, B = 2, a pair 3" +
                     (most == 2 ? "; lower case: a rank's second stage\n" : "\n");
  for (std::size_t rank = 0; rank < schedule.actions.size(); ++rank) {
    std::string line = "rank " + std::to_string(rank) + " |";
    const std::size_t left = line.size();
    for (std::size_t i = 0; i < times.times[rank].size(); ++i) {
      const Action& action = schedule.actions[rank][i];
      const auto [begin, end] = times.times[rank][i];
      std::string cell;
      for (const Op& op : action) {
        if (!cell.empty()) cell += '+';
        std::string token = to_string(op);
        if (most <= 2) token.erase(0, token.find_first_not_of("0123456789"));
        if (most == 2 && op.stage != *stages[rank].begin()) {
          token[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(token[0])));
        }
        cell += token;
      }
      const auto column = [&](std::int64_t time) { return left + static_cast<std::size_t>(time) * columns; };
      line.resize(column(begin), ' ');
      line += cell;
      if (line.size() + 1 < column(end)) line.resize(column(end) - 1, '-');
    }
    text += line + "\n";
  }
  return text;
}

}  // namespace plumb::test
