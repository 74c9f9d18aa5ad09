#include "schedules/ir/pytorch_csv.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/schedule_elements.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>

namespace plumb {
namespace {

// A headless form says neither how many microbatches nor how many stages there are. A wrong op must not
// stretch them: the microbatches are as many as the stage with the most different forwards has, the stages
// those that have at least half of them.
void infer_shape(LoweredSchedule& lowered) {
  std::map<std::uint32_t, std::set<std::uint32_t>> forwards;  // stage -> microbatches
  for (const LoweredRank& rank : lowered.per_rank) {
    for (const Step& step : rank.steps) {
      const auto* action = std::get_if<Action>(&step);
      if (!action) continue;
      for (const Op& op : *action) {
        auto& of_stage = forwards[op.stage.value];
        if (op.kind == OpKind::forward) of_stage.insert(op.microbatch.value);
      }
    }
  }
  std::size_t most = 0;
  for (const auto& [stage, microbatches] : forwards) most = std::max(most, microbatches.size());
  std::uint32_t stages = 0;
  for (const auto& [stage, microbatches] : forwards) {
    if (2 * microbatches.size() >= most && microbatches.size() > 0) ++stages;
  }
  lowered.microbatches = static_cast<std::uint32_t>(most);
  lowered.stages = stages;
}

// The CSVs of 2024 wrote B for the input gradient and BW for both halves. They are told by a BW, or by a W
// without any I.
struct Letters {
  bool has_bw = false, has_weight = false, has_input = false;
  bool old() const { return has_bw || (has_weight && !has_input); }
};

void to_present_letters(LoweredSchedule& lowered) {
  for (LoweredRank& rank : lowered.per_rank) {
    for (Step& step : rank.steps) {
      if (auto* action = std::get_if<Action>(&step)) {
        const auto present = [](Op op) {
          if (op.kind == OpKind::backward) op.kind = OpKind::backward_input;
          return op;
        };
        *action = action->is_pair() ? Action(present(action->first()), present(action->second()))
                                    : Action(present(action->first()));
      }
    }
  }
}

void refuse_two_owners(const Schedule& schedule) {
  if (const auto found = two_owners(schedule)) {
    throw BadInput(
        schedule.name,
        fmt::format("PyTorch runs each stage on one rank, and stage {} lives on ranks {} and {}; dualpipe-v "
                    "has the same overlap with one copy of the model and can be exported",
                    found->stage.value, found->first.value, found->second.value));
  }
}

}  // namespace

ScheduleFile parse_pytorch_csv(std::string_view content, std::string_view where) {
  ScheduleFile file;
  file.form = ScheduleForm::pytorch_csv;
  Letters seen;
  std::vector<std::pair<std::size_t, std::size_t>> fused;  // rank, step of a BW
  while (!content.empty() && (content.back() == '\n' || content.back() == '\r' || content.back() == ' ')) {
    content.remove_suffix(1);
  }
  std::size_t line = 0;
  for_each_part(content, '\n', [&](std::string_view row) {
    ++line;
    LoweredRank& rank = file.lowered.per_rank.emplace_back();
    auto& elements = file.elements.emplace_back();
    std::uint32_t cell = 0;
    for_each_part(row, ',', [&](std::string_view text) {
      const std::uint32_t at = cell++;
      text = trimmed(text);
      if (text.size() >= 2 && text.front() == '"' && text.back() == '"')
        text = trimmed(text.substr(1, text.size() - 2));
      if (text.empty()) return;
      std::string rewritten;
      const auto bw = text.find("BW");
      if (bw != std::string_view::npos && text.front() != '(') {
        rewritten = std::string(text).erase(bw + 1, 1);
        seen.has_bw = true;
      }
      const auto element = parse_element(rewritten.empty() ? text : std::string_view(rewritten));
      if (!element) {
        throw BadInput(where, fmt::format("line {}, cell {}: {} is no action; expected {}", line, at + 1,
                                          shown(text), token_grammar));
      }
      if (!rewritten.empty()) fused.emplace_back(file.lowered.per_rank.size() - 1, rank.steps.size());
      if (const auto* action = std::get_if<Action>(&*element)) {
        for (const Op& op : *action) {
          seen.has_weight |= op.kind == OpKind::backward_weight;
          seen.has_input |= op.kind == OpKind::backward_input;
        }
      }
      push_element(rank, *element);
      elements.push_back(at);
      file.has_messages |= std::holds_alternative<Message>(*element);
    });
  });
  if (seen.old()) {
    std::vector<Step> kept;
    for (const auto& [rank, step] : fused) kept.push_back(file.lowered.per_rank[rank].steps[step]);
    to_present_letters(file.lowered);
    for (std::size_t k = 0; k < fused.size(); ++k)
      file.lowered.per_rank[fused[k].first].steps[fused[k].second] = kept[k];
  }
  infer_shape(file.lowered);
  if (file.has_messages) fill_in_peers(file.lowered);
  return file;
}

std::optional<TwoOwners> two_owners(const Schedule& schedule) {
  const auto ranks_of = owners(schedule);
  for (std::uint32_t s = 0; s < schedule.stages; ++s) {
    if (ranks_of[s].size() > 1) return TwoOwners{Stage{s}, ranks_of[s][0], ranks_of[s][1]};
  }
  return std::nullopt;
}

void write_pytorch_csv(std::ostream& out, const Schedule& schedule) {
  refuse_two_owners(schedule);
  Writer writer(out);
  for (const auto& actions : schedule.actions) {
    bool first = true;
    for (const Action& action : actions) {
      if (!first) writer.text += ',';
      first = false;
      append(writer.text, action);
      writer.drain();
    }
    writer.text += '\n';
  }
}

void write_pytorch_csv(std::ostream& out, const LoweredSchedule& lowered) {
  const Schedule schedule = without_messages(lowered);
  refuse_two_owners(schedule);
  if (lowered.placement == CommPlacement::batched) {
    throw BadInput(lowered.name, "PyTorch's CSV has no message groups; use --comms per-op, or --format json");
  }
  // Every stage has its REDUCE_GRAD here, whether or not it has copies.
  LoweredSchedule reduced = lowered;
  for (LoweredRank& rank : reduced.per_rank) {
    std::erase_if(rank.steps, [](const Step& step) { return std::holds_alternative<Collective>(step); });
  }
  reduced.data_parallel = 2;
  place_reductions(reduced);
  Writer writer(out);
  for (const LoweredRank& rank : reduced.per_rank) {
    bool first = true;
    for (const Step& step : rank.steps) {
      if (!first) writer.text += ',';
      first = false;
      if (const auto* action = std::get_if<Action>(&step)) {
        append(writer.text, *action);
      } else if (const auto* batch = std::get_if<CommBatch>(&step)) {
        append(writer.text, rank.messages_of(*batch).front().op);
      } else {
        append(writer.text, std::get<Collective>(step).op);
      }
      writer.drain();
    }
    writer.text += '\n';
  }
}

}  // namespace plumb
