// Schedules and timelines as text, a row a rank, for a terminal.
#pragma once
#include "schedules/ir/schedule.hpp"
#include "schedules/ir/timeline.hpp"

#include <cstddef>
#include <optional>
#include <string>

namespace plumb::render {

/// The caller asks the terminal and NO_COLOR. Every picture says the same without colours.
enum class Colour : std::uint8_t { off, ansi256 };

struct TerminalOptions {
  Colour colour = Colour::off;
  /// Columns to stay within, row names included; 0: as many as the picture needs.
  std::size_t width = 0;
  /// How long one column lasts; nothing: short enough for every label where `width` allows it, otherwise the
  /// whole timeline is scaled to `width`. With a quantum a picture that is too wide is cut, and says so.
  std::optional<Duration> quantum = std::nullopt;
};

/// A row a rank, one column `quantum`. An action begins with its letter and microbatch (the stage in front
/// where its rank holds several) and is drawn out with `-` to its end; a pair is `forward+backward`; idle
/// time is `.`. A label that does not fit is cut to the letter; what is shorter than half a column is left
/// out, and a note counts it. Below: an axis, and what the letters mean.
std::string picture(const Timeline& timeline, const TerminalOptions& options = {});

/// The same without times: every action takes one step and stands at the first step at which its inputs are
/// there (in its list's order, where the list never ends: `check` says why).
std::string step_grid(const Schedule& schedule, const TerminalOptions& options = {});

}  // namespace plumb::render
