#include "tools/planner/refusals.hpp"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

namespace plumb {

void Refusals::add(std::size_t schedule, std::string reason, std::size_t candidates) {
  counts_[{schedule, std::move(reason)}] += candidates;
}

void Refusals::add_memory(std::size_t schedule, Bytes peak, std::string what) {
  auto [entry, is_new] = lacking_.try_emplace(schedule, Lacking{peak, what, 0});
  ++entry->second.candidates;
  if (!is_new && std::tie(peak, what) < std::tie(entry->second.least, entry->second.what)) {
    entry->second.least = peak;
    entry->second.what = std::move(what);
  }
}

void Refusals::merge(const Refusals& other) {
  for (const auto& [key, count] : other.counts_) counts_[key] += count;
  for (const auto& [schedule, lacking] : other.lacking_) {
    const std::size_t before = lacking_.contains(schedule) ? lacking_[schedule].candidates : 0;
    add_memory(schedule, lacking.least, lacking.what);
    lacking_[schedule].candidates = before + lacking.candidates;
  }
}

std::vector<Refusal> Refusals::list(const std::vector<const Generator*>& schedules, Bytes memory) const {
  std::vector<std::pair<std::size_t, Refusal>> rows;
  const auto name = [&](std::size_t schedule) {
    return schedule < schedules.size() ? std::string(schedules[schedule]->name) : std::string();
  };
  for (const auto& [key, count] : counts_) rows.push_back({key.first, {name(key.first), key.second, count}});
  for (const auto& [schedule, lacking] : lacking_) {
    rows.push_back({schedule,
                    {name(schedule),
                     fmt::format("out of memory by at least {}: the least is {} with {}",
                                 to_text(lacking.least - memory), to_text(lacking.least), lacking.what),
                     lacking.candidates}});
  }
  std::stable_sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
    const auto place = [&](std::size_t s) { return s < schedules.size() ? s + 1 : 0; };
    if (a.first != b.first) return place(a.first) < place(b.first);
    return a.second.candidates > b.second.candidates;
  });
  std::vector<Refusal> out;
  for (auto& [schedule, row] : rows) out.push_back(std::move(row));
  return out;
}

}  // namespace plumb
