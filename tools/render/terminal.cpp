#include "tools/render/terminal.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"
#include "sim/idle.hpp"
#include "tools/render/palette.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include <fmt/format.h>

namespace plumb::render {
namespace {

// One line of characters, each with a background; runs of one background share an escape sequence.
class Line {
 public:
  explicit Line(Colour colour) : colour_(colour) {}
  void add(std::string_view text, int background = none, bool bold = false) {
    if (colour_ == Colour::ansi256 && (background != background_ || bold != bold_)) {
      if (background_ != none) text_ += "\x1b[0m";
      if (background != none) {
        fmt::format_to(std::back_inserter(text_), "\x1b[{}38;5;16;48;5;{}m", bold ? "1;" : "", background);
      }
      background_ = background;
      bold_ = bold;
    }
    text_ += text;
  }
  std::string finish() {
    add("");
    return std::move(text_);
  }

  static constexpr int none = -1;

 private:
  Colour colour_;
  std::string text_;
  int background_ = none;
  bool bold_ = false;
};

std::string row_name(std::uint32_t rank, std::size_t digits) {
  return fmt::format("rank {:>{}} |", rank, digits);
}
std::size_t digits_of(std::size_t ranks) { return fmt::formatted_size("{}", ranks == 0 ? 0 : ranks - 1); }

std::string label_of(const Op& op, bool with_stage) {
  return with_stage ? fmt::format("{}{}{}", op.stage.value, letters(op.kind), op.microbatch.value)
                    : fmt::format("{}{}", letters(op.kind), op.microbatch.value);
}
std::string label_of(const Action& action, bool with_stage) {
  std::string label = label_of(action.first(), with_stage);
  if (action.is_pair()) label += "+" + label_of(action.second(), with_stage);
  return label;
}

// An op's cell: the longest of its labels that fits, never a number cut short.
std::string cell(const Op& op, bool with_stage, std::size_t width, char fill) {
  std::string text = label_of(op, with_stage);
  if (text.size() > width) text = letters(op.kind);
  text.resize(width, fill);
  return text;
}

void add_cell(Line& line, const Action& action, Rank rank, const Shading& shading, bool with_stage,
              std::size_t width, char fill) {
  if (width == 0) return;
  const auto background = [&](const Op& op) { return ansi_fill(op.kind, shading.of(rank, op)); };
  const Op& first = action.first();
  if (!action.is_pair()) {
    line.add(cell(first, with_stage, width, fill), background(first));
    return;
  }
  // The forward gets the room of its label, at most half; the plus stands between.
  const Op& second = action.second();
  if (width < 3) {
    line.add(width == 1 ? "+" : "F+", background(first), true);
    return;
  }
  const std::size_t wanted = label_of(first, with_stage).size();
  const std::size_t left =
      label_of(action, with_stage).size() <= width ? wanted : std::min((width - 1) / 2, wanted);
  line.add(cell(first, with_stage, left, fill) + "+", background(first), true);
  line.add(cell(second, with_stage, width - left - 1, fill), background(second), true);
}

std::string legend(const std::array<bool, 4>& kinds, bool pairs, const Shading& shading, Colour colour,
                   std::string_view idle) {
  Line line(colour);
  constexpr std::array<OpKind, 4> order{OpKind::forward, OpKind::backward, OpKind::backward_input,
                                        OpKind::backward_weight};
  bool any = false;
  const auto gap = [&] {
    if (any) line.add("   ");
    any = true;
  };
  for (const OpKind kind : order) {
    if (!kinds[static_cast<std::size_t>(kind)]) continue;
    gap();
    line.add(letters(kind), ansi_fill(kind, 0));
    line.add(fmt::format(" {}", words(kind)));
  }
  if (pairs) {
    gap();
    line.add("F+", ansi_fill(OpKind::forward, 0), true);
    line.add("B", ansi_fill(OpKind::backward, 0), true);
    line.add(" overlapped");
  }
  gap();
  line.add(idle);
  if (colour == Colour::ansi256) {
    for (std::size_t k = 0; k < shading.names().size(); ++k) {
      gap();
      line.add("  ", ansi_fill(OpKind::forward, static_cast<std::uint32_t>(k)));
      line.add(fmt::format(" {}", shading.names()[k]));
    }
  }
  return line.finish() + "\n";
}

struct Seen {
  std::array<bool, 4> kinds{};
  bool pairs = false;
  void add(const Action& action) {
    if (action.is_pair()) {
      pairs = true;
    } else {
      kinds[static_cast<std::size_t>(action.first().kind)] = true;
    }
  }
};

// The column nearest to a time, halves up.
std::int64_t column_of(Duration since, Duration quantum) {
  __extension__ using Wide = __int128;
  return static_cast<std::int64_t>((Wide{since.ns} * 2 + quantum.ns) / (Wide{quantum.ns} * 2));
}

// The longest column that still lets most actions show their whole label.
Duration natural_quantum(const Timeline& timeline, const Shading& shading) {
  std::vector<std::int64_t> wanted;
  for (std::uint32_t r = 0; r < timeline.ranks.size(); ++r) {
    for (const ComputeSpan& span : timeline.ranks[r].compute) {
      if (span.begin == span.end) continue;
      const auto columns =
          static_cast<std::int64_t>(label_of(span.action, shading.several_stages(Rank{r})).size()) + 1;
      wanted.push_back((span.end - span.begin).ns / columns);
    }
  }
  if (wanted.empty()) return {1};
  const auto tenth = wanted.begin() + static_cast<std::ptrdiff_t>(wanted.size() / 10);
  std::nth_element(wanted.begin(), tenth, wanted.end());
  return {std::max<std::int64_t>(1, *tenth)};
}

constexpr std::int64_t most_columns = 100'000;

}  // namespace

std::string picture(const Timeline& timeline, const TerminalOptions& options) {
  const Shading shading(timeline);
  const StepBounds bounds = step_bounds(timeline);
  const Duration makespan = bounds.makespan();
  const std::size_t digits = digits_of(timeline.ranks.size());
  const std::size_t margin = row_name(0, digits).size() + 1;
  const std::int64_t room = options.width == 0
                                ? most_columns
                                : std::max<std::int64_t>(8, static_cast<std::int64_t>(options.width) -
                                                                static_cast<std::int64_t>(margin));
  const Duration natural = natural_quantum(timeline, shading);
  Duration quantum = options.quantum.value_or(natural);
  PLUMB_CHECK(quantum.ns > 0);
  if (!options.quantum && column_of(makespan, quantum) > room) quantum = {(makespan.ns + room - 1) / room};
  const std::int64_t columns = column_of(makespan, quantum);
  const std::int64_t shown = std::min(columns, room);
  // Where cells are narrow the stage goes first; without it a letter still begins every label.
  const bool stages_fit = quantum <= natural;
  const char drawn_out = options.colour == Colour::off ? '-' : ' ';

  std::string text;
  Seen seen;
  std::size_t too_short = 0;
  for (std::uint32_t r = 0; r < timeline.ranks.size(); ++r) {
    Line line(options.colour);
    line.add(row_name(r, digits));
    std::int64_t at = 0;
    for (const ComputeSpan& span : timeline.ranks[r].compute) {
      const std::int64_t begin = std::min(shown, column_of(span.begin - bounds.begin, quantum));
      const std::int64_t end = std::min(shown, column_of(span.end - bounds.begin, quantum));
      seen.add(span.action);
      if (begin == end && begin < shown) ++too_short;
      line.add(std::string(static_cast<std::size_t>(begin - at), '.'));
      add_cell(line, span.action, Rank{r}, shading, stages_fit && shading.several_stages(Rank{r}),
               static_cast<std::size_t>(end - begin), drawn_out);
      at = end;
    }
    line.add(std::string(static_cast<std::size_t>(shown - at), '.'));
    line.add("|");
    text += line.finish() + "\n";
  }

  // Ticks at round times, far enough apart for their text.
  Duration tick{1};
  for (std::int64_t k = 0; tick.ns < quantum.ns * 12; ++k)
    tick.ns = k % 3 == 1 ? tick.ns / 2 * 5 : tick.ns * 2;
  std::string axis(margin - 1, ' ');
  for (Duration time; column_of(time, quantum) + 8 <= shown || time.ns == 0; time += tick) {
    axis.resize(margin - 1 + static_cast<std::size_t>(column_of(time, quantum)), ' ');
    axis += fmt::format("'{}", to_text(time));
  }
  while (axis.ends_with(' ')) axis.pop_back();
  text += axis + "\n";
  text +=
      fmt::format("{:{}}makespan {}, one column {}\n", "", margin - 1, to_text(makespan), to_text(quantum));
  text += std::string(margin - 1, ' ') + legend(seen.kinds, seen.pairs, shading, options.colour, ". idle");
  if (shown < columns) {
    text += fmt::format("note: cut after {} of {}\n", to_text(quantum * shown), to_text(makespan));
  }
  if (too_short > 0) {
    text += fmt::format("note: {} action{} shorter than half a column {} not drawn\n", too_short,
                        too_short == 1 ? "" : "s", too_short == 1 ? "is" : "are");
  }
  return text;
}

namespace {

// [rank][position] -> the first step at which the action can run when every action takes one step. Nothing
// where some rank waits for ever or an op is out of range.
std::optional<std::vector<std::vector<std::uint32_t>>> steps_of(const Schedule& schedule) {
  for (const auto& actions : schedule.actions) {
    for (const Action& action : actions) {
      for (const Op& op : action) {
        if (op.stage.value >= schedule.stages || op.microbatch.value >= schedule.microbatches) return {};
      }
    }
  }
  const ProductIndex products(schedule);
  std::vector<std::vector<std::uint32_t>> steps(schedule.ranks());
  // A rank whose next action waits for (rank, position) is woken when that is done.
  struct Waiter {
    std::uint32_t rank;
    std::uint32_t position;
  };
  std::vector<std::vector<Waiter>> waiting(schedule.ranks());  // [producer's rank]
  std::vector<std::uint32_t> ready;
  for (std::uint32_t r = schedule.ranks(); r-- > 0;) ready.push_back(r);
  std::size_t done = 0;
  while (!ready.empty()) {
    const std::uint32_t r = ready.back();
    ready.pop_back();
    bool blocked = false;
    while (!blocked && steps[r].size() < schedule.actions[r].size()) {
      const Action& action = schedule.actions[r][steps[r].size()];
      std::uint32_t step = steps[r].empty() ? 0 : steps[r].back() + 1;
      for (const Op& op : action) {
        for (const Need& need : needs_of(op, schedule.stages)) {
          const Place place = products.place(need);
          if (place.position == ProductIndex::absent) return {};
          if (place.rank == Rank{r}) continue;
          const auto& theirs = steps[place.rank.value];
          if (place.position >= theirs.size()) {
            waiting[place.rank.value].push_back({r, place.position});
            blocked = true;
            break;
          }
          step = std::max(step, theirs[place.position] + 1);
        }
        if (blocked) break;
      }
      if (blocked) break;
      steps[r].push_back(step);
      ++done;
      std::erase_if(waiting[r], [&](const Waiter& waiter) {
        if (waiter.position >= steps[r].size()) return false;
        ready.push_back(waiter.rank);
        return true;
      });
    }
  }
  std::size_t all = 0;
  for (const auto& actions : schedule.actions) all += actions.size();
  if (done < all) return {};
  return steps;
}

}  // namespace

std::string step_grid(const Schedule& schedule, const TerminalOptions& options) {
  const Shading shading(schedule);
  const std::size_t digits = digits_of(schedule.ranks());
  const std::size_t margin = row_name(0, digits).size();
  const auto steps = steps_of(schedule);
  std::size_t widest = 1;
  std::size_t length = 0;
  Seen seen;
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    for (std::size_t k = 0; k < schedule.actions[r].size(); ++k) {
      const Action& action = schedule.actions[r][k];
      seen.add(action);
      widest = std::max(widest, label_of(action, shading.several_stages(Rank{r})).size());
      length = std::max<std::size_t>(length, (steps ? (*steps)[r][k] : k) + 1);
    }
  }
  const std::size_t cell_width = widest + 1;
  std::size_t shown = length;
  if (options.width > 0)
    shown = std::min(
        length, std::max<std::size_t>(1, (options.width - std::min(options.width, margin)) / cell_width));
  shown = std::min<std::size_t>(shown, most_columns);

  std::string text = fmt::format("{:<{}}", "step", margin);
  for (std::size_t step = 0; step < shown; ++step) {
    std::string number = std::to_string(step);
    if (number.size() > widest) number.clear();
    text += fmt::format("{:<{}}", number, cell_width);
  }
  while (text.ends_with(' ')) text.pop_back();
  text += "\n";
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    Line line(options.colour);
    line.add(row_name(r, digits));
    std::size_t at = 0;
    for (std::size_t k = 0; k < schedule.actions[r].size(); ++k) {
      const std::size_t step = steps ? (*steps)[r][k] : k;
      if (step >= shown) break;
      for (; at < step; ++at) line.add(fmt::format("{:<{}}", ".", cell_width));
      const Action& action = schedule.actions[r][k];
      const std::size_t width = label_of(action, shading.several_stages(Rank{r})).size();
      add_cell(line, action, Rank{r}, shading, shading.several_stages(Rank{r}), width, ' ');
      line.add(std::string(cell_width - width, ' '));
      ++at;
    }
    for (; at < shown; ++at) line.add(fmt::format("{:<{}}", ".", cell_width));
    std::string row = line.finish();
    while (row.ends_with(' ')) row.pop_back();
    text += row + "\n";
  }
  text += std::string(margin, ' ') + legend(seen.kinds, seen.pairs, shading, options.colour, ". waits");
  if (shown < length) text += fmt::format("note: cut after {} of {} steps\n", shown, length);
  if (!steps)
    text += "note: the lists do not run to their end; every action stands at its place in its list\n";
  return text;
}

}  // namespace plumb::render
