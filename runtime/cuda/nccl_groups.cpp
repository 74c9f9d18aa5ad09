#include "runtime/cuda/nccl_groups.hpp"

#include <algorithm>
#include <numeric>
#include <variant>

namespace plumb::cuda {
namespace {

using Way = std::pair<std::uint32_t, std::uint32_t>;  // from, to

bool share_a_rank(const Way& a, const Way& b) {
  return a.first == b.first || a.first == b.second || a.second == b.first || a.second == b.second;
}

// Ways in rounds: those of a round share no rank, and each way is in the first round that has room for it.
std::vector<std::vector<Way>> in_rounds(const std::vector<Way>& ways) {
  std::vector<std::vector<Way>> rounds;
  for (const Way& way : ways) {
    const auto has_room = [&](const std::vector<Way>& taken) {
      return std::none_of(taken.begin(), taken.end(), [&](const Way& one) { return share_a_rank(one, way); });
    };
    auto round = std::find_if(rounds.begin(), rounds.end(), has_room);
    if (round == rounds.end()) round = rounds.emplace(rounds.end());
    round->push_back(way);
  }
  return rounds;
}

// All ways between ranks of one pipeline that messages go.
std::vector<Way> ways_of(const LoweredSchedule& schedule) {
  std::vector<Way> ways;
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    for (const Message& message : schedule.per_rank[r].messages) {
      const Way way{r, message.peer.value};
      if (is_send(message.op.kind) && std::find(ways.begin(), ways.end(), way) == ways.end())
        ways.push_back(way);
    }
  }
  return ways;
}

class Maker {
 public:
  explicit Maker(const LoweredSchedule& schedule) : ranks_(schedule.ranks()) {}

  std::vector<std::uint32_t> pipeline(std::uint32_t copy) const {
    std::vector<std::uint32_t> workers(ranks_);
    std::iota(workers.begin(), workers.end(), copy * ranks_);
    return workers;
  }
  Way in_copy(const Way& way, std::uint32_t copy) const {
    return {copy * ranks_ + way.first, copy * ranks_ + way.second};
  }

  std::uint32_t add(NcclGroups::Group group) {
    made_.groups.push_back(std::move(group));
    return static_cast<std::uint32_t>(made_.groups.size() - 1);
  }

  // Both workers of a group have to come to it: in rounds, all groups of a round are made at the same time.
  void one_for_each(const std::vector<Way>& ways, std::uint32_t copy) {
    for (const std::vector<Way>& round : in_rounds(ways)) {
      for (const Way& way : round) {
        const Way ends = in_copy(way, copy);
        made_.of_messages[ends] = add({{ends.first, ends.second}});
      }
    }
  }
  void one_for_all(const std::vector<Way>& ways, std::uint32_t copy) {
    const std::uint32_t group = add({pipeline(copy)});
    for (const Way& way : ways) made_.of_messages[in_copy(way, copy)] = group;
  }
  // A worker is in one part of a split, so a round of ways is what a split can be.
  void parts_of_one(const std::vector<Way>& ways, std::uint32_t copy) {
    const auto parent = static_cast<std::uint32_t>(made_.parents.size());
    const std::vector<std::vector<Way>> splits = in_rounds(ways);
    for (std::uint32_t split = 0; split < splits.size(); ++split) {
      for (std::uint32_t part = 0; part < splits[split].size(); ++part) {
        const Way ends = in_copy(splits[split][part], copy);
        made_.of_messages[ends] = add({{ends.first, ends.second}, parent, split, part});
      }
    }
    made_.parents.push_back({pipeline(copy), static_cast<std::uint32_t>(splits.size())});
  }
  void sum(const std::vector<std::uint32_t>& workers) {
    if (workers.size() < 2 || made_.of_sums.contains(workers)) return;
    NcclGroups::Group group{workers};
    group.sums = true;
    made_.of_sums[workers] = add(std::move(group));
  }

  NcclGroups take() { return std::move(made_); }

 private:
  std::uint32_t ranks_;
  NcclGroups made_;
};

}  // namespace

std::vector<std::vector<std::uint32_t>> owners_of_sums(const LoweredSchedule& schedule) {
  std::vector<std::vector<std::uint32_t>> owners(schedule.stages);
  for (std::uint32_t copy = 0; copy < schedule.data_parallel; ++copy) {
    for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
      for (const Step& step : schedule.per_rank[r].steps) {
        const auto* collective = std::get_if<Collective>(&step);
        if (collective) owners[collective->op.stage.value].push_back(copy * schedule.ranks() + r);
      }
    }
  }
  return owners;
}

std::vector<std::uint32_t> workers_of(const SharedPair& pair, std::uint32_t copy, std::uint32_t ranks) {
  if (pair.first == pair.last) return {copy * ranks + pair.first.value};
  std::vector<std::uint32_t> workers{copy * ranks + pair.first.value, copy * ranks + pair.last.value};
  std::sort(workers.begin(), workers.end());
  return workers;
}

NcclGroups nccl_groups(const LoweredSchedule& schedule, const std::vector<SharedPair>& shared,
                       bool shared_threads) {
  Maker maker(schedule);
  const std::vector<Way> ways = ways_of(schedule);
  std::vector<Way> up, down;
  for (const Way& way : ways) (way.first < way.second ? up : down).push_back(way);
  for (std::uint32_t copy = 0; copy < schedule.data_parallel; ++copy) {
    if (schedule.placement == CommPlacement::batched) {
      maker.one_for_all(ways, copy);
    } else if (shared_threads) {
      maker.parts_of_one(up, copy);
      maker.parts_of_one(down, copy);
    } else {
      maker.one_for_each(ways, copy);
    }
  }
  for (const auto& workers : owners_of_sums(schedule)) maker.sum(workers);
  for (std::uint32_t copy = 0; copy < schedule.data_parallel; ++copy) {
    for (const SharedPair& pair : shared) maker.sum(workers_of(pair, copy, schedule.ranks()));
  }
  return maker.take();
}

}  // namespace plumb::cuda
