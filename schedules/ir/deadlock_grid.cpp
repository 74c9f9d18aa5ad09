#include "schedules/ir/check_parts.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>

namespace plumb::checking {

std::string deadlock_grid(const LoweredSchedule& lowered, const std::vector<Waiting>& cycle) {
  if (cycle.empty()) return {};
  std::map<std::pair<std::uint32_t, std::int64_t>, bool> marked;
  std::int64_t first = cycle.front().index;
  std::int64_t last = first;
  for (const Waiting& waiting : cycle) {
    marked[{waiting.rank.value, waiting.index}] = true;
    first = std::min(first, waiting.index);
    last = std::max(last, waiting.index);
  }
  first = std::max<std::int64_t>(0, first - 3);
  std::size_t longest = 0;
  for (const LoweredRank& rank : lowered.per_rank) longest = std::max(longest, rank.steps.size());
  last = std::min({last + 3, first + 15, static_cast<std::int64_t>(longest) - 1});
  const auto text_at = [&](std::uint32_t r, std::int64_t i) -> std::string {
    const LoweredRank& list = lowered.per_rank[r];
    if (i >= static_cast<std::int64_t>(list.steps.size())) return "";
    const Step& step = list.steps[static_cast<std::size_t>(i)];
    if (const auto* action = std::get_if<Action>(&step)) {
      return action->is_pair() ? fmt::format("{}+{}", to_string(action->first()), to_string(action->second()))
                               : to_string(action->first());
    }
    if (const auto* batch = std::get_if<CommBatch>(&step)) {
      std::string text;
      for (const Message& message : list.messages_of(*batch))
        text += fmt::format("{}{}", text.empty() ? "" : "+", to_string(message.op));
      return text;
    }
    return to_string(std::get<Collective>(step).op);
  };
  std::vector<std::uint32_t> shown;
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    const bool in_cycle = std::any_of(cycle.begin(), cycle.end(),
                                      [&](const Waiting& waiting) { return waiting.rank.value == r; });
    if (in_cycle || lowered.ranks() <= 16) shown.push_back(r);
  }
  std::size_t width = 4;
  for (const std::uint32_t r : shown) {
    for (std::int64_t i = first; i <= last; ++i) width = std::max(width, text_at(r, i).size());
  }
  std::string out = fmt::format("{:>9}", "element");
  for (std::int64_t i = first; i <= last; ++i) out += fmt::format("  {:^{}}", i, width + 2);
  while (out.back() == ' ') out.pop_back();
  out += '\n';
  for (const std::uint32_t r : shown) {
    out += fmt::format("{:>9}", fmt::format("rank {}", r));
    for (std::int64_t i = first; i <= last; ++i) {
      const std::string text = text_at(r, i);
      const bool mark = marked.contains({r, i});
      out += fmt::format("  {:^{}}", mark ? fmt::format(">{}<", text) : text, width + 2);
    }
    while (!out.empty() && out.back() == ' ') out.pop_back();
    out += '\n';
  }
  return out;
}

}  // namespace plumb::checking
