#include "tools/render/palette.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace plumb::render {
namespace {

// By kind in the order of OpKind: forward, backward_input, backward_weight, backward.
constexpr std::array<std::array<std::string_view, shades>, 4> fills{
    {{"#fdc27b", "#f59b42", "#e07b1f", "#ffe3bf"},
     {"#d3efc0", "#b2dd97", "#93c977", "#e8f7dc"},
     {"#9cc7f2", "#6ba7e5", "#4c8dd0", "#c8e0f8"},
     {"#7cc36b", "#56aa50", "#3f9142", "#a5d896"}}};
constexpr std::array<std::array<int, shades>, 4> ansi{
    {{215, 208, 172, 223}, {157, 150, 114, 194}, {117, 75, 69, 153}, {77, 71, 65, 120}}};

std::size_t row(OpKind kind) { return std::min<std::size_t>(static_cast<std::size_t>(kind), 3); }

}  // namespace

std::string_view fill(OpKind kind, std::uint32_t shade) { return fills[row(kind)][shade % shades]; }
int ansi_fill(OpKind kind, std::uint32_t shade) { return ansi[row(kind)][shade % shades]; }

std::string_view fill(IdleCause cause) {
  constexpr std::array<std::string_view, idle_causes> colours{"#f2d16b", "#e8795a", "#b565a7", "#4fa3c7",
                                                              "#c9bfae"};
  return colours[static_cast<std::size_t>(cause)];
}

std::string words(IdleCause cause) {
  std::string text(to_string(cause));
  std::replace(text.begin(), text.end(), '_', ' ');
  return text;
}

Shading::Shading(const Schedule& schedule)
    : stages_(schedule.ranks()), entry_(schedule.microbatches, schedule.ranks()) {
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    for (const Action& action : schedule.actions[r]) {
      for (const Op& op : action) add(Rank{r}, op);
    }
  }
  finish(schedule.microbatches);
}

Shading::Shading(const Timeline& timeline)
    : stages_(timeline.ranks.size()),
      entry_(timeline.microbatches, static_cast<std::uint32_t>(timeline.ranks.size())) {
  for (std::uint32_t r = 0; r < timeline.ranks.size(); ++r) {
    for (const ComputeSpan& span : timeline.ranks[r].compute) {
      for (const Op& op : span.action) add(Rank{r}, op);
    }
  }
  finish(timeline.microbatches);
}

void Shading::add(Rank rank, const Op& op) {
  std::vector<std::uint32_t>& stages = stages_[rank.value];
  const auto at = std::lower_bound(stages.begin(), stages.end(), op.stage.value);
  if (at == stages.end() || *at != op.stage.value) stages.insert(at, op.stage.value);
  if (op.kind == OpKind::forward && op.stage.value == 0 && op.microbatch.value < entry_.size()) {
    entry_[op.microbatch.value] = rank.value;
  }
}

void Shading::finish(std::uint32_t microbatches) {
  std::vector<std::uint32_t> entries;
  for (std::uint32_t m = 0; m < microbatches; ++m) {
    if (entry_[m] == stages_.size()) {  // the list lacks its first forward
      entry_[m] = 0;
      continue;
    }
    const auto at = std::find(entries.begin(), entries.end(), entry_[m]);
    const auto direction = static_cast<std::uint32_t>(at - entries.begin());
    if (at == entries.end()) entries.push_back(entry_[m]);
    entry_[m] = direction;
  }
  by_direction_ = entries.size() > 1;
  std::size_t used = entries.size();
  if (!by_direction_) {
    used = 0;
    for (const auto& stages : stages_) used = std::max(used, stages.size());
  }
  if (used < 2) return;
  for (std::size_t k = 0; k < std::min<std::size_t>(used, shades); ++k) {
    names_.push_back(fmt::format("{} {}", by_direction_ ? "direction" : "chunk", k + 1));
  }
  // With more of them than shades, the colours come round again.
  if (used > shades) {
    for (std::size_t k = 0; k < shades; ++k) names_[k] += fmt::format(", {} …", k + 1 + shades);
  }
}

std::uint32_t Shading::of(Rank rank, const Op& op) const {
  if (by_direction_) return (op.microbatch.value < entry_.size() ? entry_[op.microbatch.value] : 0) % shades;
  const std::vector<std::uint32_t>& stages = stages_[rank.value];
  const auto at = std::lower_bound(stages.begin(), stages.end(), op.stage.value);
  return static_cast<std::uint32_t>(at - stages.begin()) % shades;
}

}  // namespace plumb::render
