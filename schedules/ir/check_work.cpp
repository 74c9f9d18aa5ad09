#include "schedules/ir/check_parts.hpp"

#include <algorithm>
#include <map>

#include <fmt/format.h>

namespace plumb::checking {
namespace {

class WorkCheck {
 public:
  WorkCheck(const Census& census, Findings& findings) : census_(census), findings_(findings) {}

  void find_split_owners() {
    for (const auto& [at, cell] : census_.cells()) {
      for (const auto& [spot, kind] : cell.parts()) {
        if (spot.rank == cell.home) continue;
        const Op op{Stage{at.first}, Microbatch{at.second}, kind};
        findings_.report(
            ViolationKind::two_owners, spot, op,
            fmt::format(
                "{} is on rank {}, but stage {}'s other work on microbatch {} is on rank {}, where its "
                "activations are; move it there",
                to_string(op), spot.rank.value, at.first, at.second, cell.home.value));
      }
    }
    // ranks_of[stage][rank]: how many microbatches of the stage are at home there.
    std::map<std::uint32_t, std::map<std::uint32_t, std::uint32_t>> ranks_of;
    for (const auto& [at, cell] : census_.cells()) ++ranks_of[at.first][cell.home.value];
    std::map<std::size_t, std::size_t> stages_with;  // how many owners -> how many stages
    for (const auto& [stage, ranks] : ranks_of) ++stages_with[ranks.size()];
    std::size_t copies = 1;
    std::size_t most = 0;
    for (const auto& [count, stages] : stages_with) {
      if (stages > most && count <= 2) copies = count, most = stages;
    }
    for (const auto& [stage, ranks] : ranks_of) {
      if (ranks.size() <= copies) continue;
      std::vector<std::pair<std::uint32_t, std::uint32_t>> by_share;  // microbatches, rank
      for (const auto& [rank, count] : ranks) by_share.emplace_back(count, rank);
      std::sort(by_share.begin(), by_share.end(),
                [](auto a, auto b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
      for (std::size_t i = copies; i < by_share.size(); ++i)
        report_stray_owner(stage, Rank{by_share[i].second}, copies);
    }
  }

  void report_stray_owner(std::uint32_t stage, Rank rank, std::size_t copies) {
    std::optional<Spot> first;
    Op first_op;
    for (const auto& [at, cell] : census_.cells()) {
      if (at.first != stage || cell.home != rank) continue;
      for (const auto& [spot, kind] : cell.parts()) {
        if (spot.rank != rank || (first && first->index <= spot.index)) continue;
        first = spot;
        first_op = {Stage{at.first}, Microbatch{at.second}, kind};
      }
    }
    if (!first) return;
    findings_.report(
        ViolationKind::two_owners, *first, first_op,
        fmt::format("stage {} also lives on rank {}, while the other stages live on {} rank{} each", stage,
                    rank.value, copies, copies == 1 ? "" : "s"));
  }

  void find_missing() {
    std::vector<bool> splits(census_.lowered().stages, false);
    std::map<std::uint32_t, Rank> owner;
    for (const auto& [at, cell] : census_.cells()) {
      if (cell.input || cell.weight) splits[at.first] = true;
      owner.emplace(at.first, cell.home);
    }
    std::map<std::uint32_t, bool> split_only;  // the stage has no fused backward at all
    for (const auto& [at, cell] : census_.cells()) {
      const auto found = split_only.emplace(at.first, true).first;
      if (cell.both) found->second = false;
    }
    // A list of millions helps nobody: beyond this many they are counted.
    constexpr std::size_t most_missing = 100'000;
    std::size_t missing_ops = 0;
    for (std::uint32_t s = 0; s < census_.lowered().stages; ++s) {
      if (!owner.contains(s)) {
        if (++missing_ops > most_missing) continue;
        findings_.report(ViolationKind::missing, -1, -1,
                         to_string(Op{Stage{s}, Microbatch{0}, OpKind::forward}),
                         fmt::format("no rank holds stage {}: all of its {} microbatches are missing", s,
                                     census_.lowered().microbatches));
        continue;
      }
      for (std::uint32_t m = 0; m < census_.lowered().microbatches; ++m) {
        const auto found = census_.cells().find({s, m});
        const Cell cell = found == census_.cells().end() ? Cell{} : found->second;
        const Rank rank = cell.any ? cell.home : home_of_neighbour(s, m, owner.at(s));
        const auto missing = [&](OpKind kind) {
          if (++missing_ops > most_missing) return;
          const Op op{Stage{s}, Microbatch{m}, kind};
          findings_.report(
              ViolationKind::missing, rank.value, -1, to_string(op),
              fmt::format("{} ({} of stage {}, microbatch {}) is in nobody's list; it belongs on rank {}",
                          to_string(op), words(kind), s, m, rank.value));
        };
        if (!cell.forward) missing(OpKind::forward);
        if (cell.both) continue;
        if (!cell.input && !cell.weight) {
          if (splits[s] && split_only[s]) {
            missing(OpKind::backward_input);
            missing(OpKind::backward_weight);
          } else {
            missing(OpKind::backward);
          }
        } else if (!cell.input) {
          missing(OpKind::backward_input);
        } else if (!cell.weight) {
          missing(OpKind::backward_weight);
        }
      }
    }
    if (missing_ops > most_missing) {
      findings_.report(ViolationKind::missing, -1, -1, "",
                       fmt::format("{} more ops are missing", missing_ops - most_missing));
    }
  }

  Rank home_of_neighbour(std::uint32_t stage, std::uint32_t microbatch, Rank otherwise) const {
    for (const std::uint32_t m : {microbatch - 1, microbatch + 1}) {
      const auto found = census_.cells().find({stage, m});
      if (found != census_.cells().end()) return found->second.home;
    }
    return otherwise;
  }

  void find_out_of_order() {
    for (std::uint32_t r = 0; r < census_.lowered().ranks(); ++r) {
      const auto& steps = census_.lowered().per_rank[r].steps;
      for (std::uint32_t i = 0; i < steps.size(); ++i) {
        const auto* action = std::get_if<Action>(&steps[i]);
        if (!action) continue;
        if (action->is_pair() &&
            (action->first().kind != OpKind::forward || action->second().kind != OpKind::backward)) {
          findings_.report(ViolationKind::out_of_order, r, i, to_string(*action),
                           "an overlapped pair is a forward and then a full backward");
        }
        for (const Op& op : *action) {
          if (!census_.in_range(op)) continue;
          for (const Need& need : needs_of(op, census_.lowered().stages)) {
            const auto maker = census_.maker_of(need);
            if (!maker || maker->rank != Rank{r} || maker->index < i) continue;
            const Op made = census_.made_by(need);
            findings_.report(
                ViolationKind::out_of_order, r, i, to_string(op),
                maker->index == i
                    ? fmt::format("{} needs {}, which runs beside it in the same pair", to_string(op),
                                  to_string(made))
                    : fmt::format("{} needs {}, which rank {} runs only at element {}; move {} ahead of it",
                                  to_string(op), to_string(made), r, maker->index, to_string(made)));
          }
        }
      }
    }
  }

 private:
  const Census& census_;
  Findings& findings_;
};

}  // namespace

void check_work(const Census& census, Findings& findings) {
  WorkCheck check(census, findings);
  check.find_split_owners();
  check.find_missing();
  check.find_out_of_order();
}

}  // namespace plumb::checking
