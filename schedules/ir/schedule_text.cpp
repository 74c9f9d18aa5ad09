#include "schedules/ir/schedule_text.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/schedule_elements.hpp"

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>

namespace plumb {
namespace {

std::string text_head(const std::string& name, std::uint32_t ranks, std::uint32_t stages,
                      std::uint32_t microbatches) {
  return fmt::format("{} {} ranks={} stages={} microbatches={}\n", schedule_schema,
                     name.empty() ? "unnamed" : name, ranks, stages, microbatches);
}

}  // namespace

ScheduleFile parse_schedule_text(std::string_view content, std::string_view where) {
  ScheduleFile file;
  file.form = ScheduleForm::text;
  std::size_t line = 0;
  std::uint32_t ranks = 0;
  const auto number = [&](std::string_view text) {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
      throw BadInput(where, fmt::format("line {}: {} is no number", line, shown(text)));
    }
    return value;
  };
  for_each_part(content, '\n', [&](std::string_view row) {
    ++line;
    row = trimmed(row);
    if (row.empty() || row.front() == '#') return;
    if (line == 1) {
      std::size_t word = 0;
      for_each_part(row, ' ', [&](std::string_view text) {
        const auto value_of = [&](std::string_view key, std::uint32_t& into) {
          if (text.starts_with(key)) into = number(text.substr(key.size()));
        };
        if (word++ == 1) file.lowered.name = text;
        value_of("ranks=", ranks);
        value_of("stages=", file.lowered.stages);
        value_of("microbatches=", file.lowered.microbatches);
      });
      if (ranks == 0 || file.lowered.stages == 0 || file.lowered.microbatches == 0) {
        throw BadInput(where, "line 1: expected ranks=, stages= and microbatches=, each at least 1");
      }
      return;
    }
    const auto colon = row.find(':');
    if (colon == std::string_view::npos)
      throw BadInput(where, fmt::format("line {}: expected 'RANK: tokens'", line));
    if (number(row.substr(0, colon)) != file.lowered.per_rank.size()) {
      throw BadInput(where, fmt::format("line {}: expected rank {}", line, file.lowered.per_rank.size()));
    }
    LoweredRank& rank = file.lowered.per_rank.emplace_back();
    bool in_group = false;
    std::vector<Message> group;
    for_each_part(row.substr(colon + 1), ' ', [&](std::string_view text) {
      const auto fail = [&] {
        throw BadInput(where, fmt::format("line {}, element {}: {} is no action; expected {}", line,
                                          rank.steps.size(), shown(text), token_grammar));
      };
      if (text.empty()) return;
      if (text == "{" && !in_group) {
        in_group = true;
        group.clear();
      } else if (text == "}" && in_group) {
        in_group = false;
        push_batch(rank, group, true);
        file.lowered.placement = CommPlacement::batched;
      } else if (in_group) {
        const auto arrow = text.find_first_of("<>");
        const auto op = parse_op(text.substr(0, arrow));
        if (arrow == std::string_view::npos || !op || !is_message(op->kind)) fail();
        group.push_back({*op, Rank{number(text.substr(arrow + 1))}});
      } else {
        const auto element = parse_element(text);
        if (!element) fail();
        push_element(rank, *element);
      }
    });
    if (in_group) throw BadInput(where, fmt::format("line {}: a group is not closed", line));
    file.has_messages |= !rank.messages.empty();
  });
  if (file.lowered.per_rank.size() > ranks)
    throw BadInput(where, fmt::format("has more lists than {} ranks", ranks));
  if (ranks > max_ranks)
    throw BadInput(where, fmt::format("{} ranks are beyond the limit of {}", ranks, max_ranks));
  file.lowered.per_rank.resize(ranks);
  if (file.has_messages) fill_in_peers(file.lowered);
  return file;
}

void write_schedule_text(std::ostream& out, const Schedule& schedule) {
  Writer writer(out);
  writer.text = text_head(schedule.name, schedule.ranks(), schedule.stages, schedule.microbatches);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    writer.text += fmt::format("{}:", r);
    for (const Action& action : schedule.actions[r]) {
      writer.text += ' ';
      append(writer.text, action);
      writer.drain();
    }
    writer.text += '\n';
  }
}

void write_schedule_text(std::ostream& out, const LoweredSchedule& lowered) {
  Writer writer(out);
  writer.text = text_head(lowered.name, lowered.ranks(), lowered.stages, lowered.microbatches);
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    const LoweredRank& rank = lowered.per_rank[r];
    writer.text += fmt::format("{}:", r);
    for (const Step& step : rank.steps) {
      if (std::holds_alternative<Collective>(step)) continue;
      writer.text += ' ';
      if (const auto* action = std::get_if<Action>(&step)) {
        append(writer.text, *action);
      } else {
        const auto& batch = std::get<CommBatch>(step);
        if (batch.waited_together) writer.text += "{ ";
        for (const Message& message : rank.messages_of(batch)) {
          append(writer.text, message.op);
          if (batch.waited_together)
            writer.text += fmt::format("{}{} ", is_send(message.op.kind) ? '>' : '<', message.peer.value);
        }
        if (batch.waited_together) writer.text += '}';
      }
      writer.drain();
    }
    writer.text += '\n';
  }
}

}  // namespace plumb
