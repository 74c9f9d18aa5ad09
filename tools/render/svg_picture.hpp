// Timelines as SVG in the field's colours: a row a rank, width is time, white is bubble.
#pragma once
#include "schedules/ir/memory_profile.hpp"
#include "schedules/ir/timeline.hpp"
#include "sim/report.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace plumb::render {

struct PictureInput {
  const Timeline& timeline;
  const MemoryProfile* memory = nullptr;  // curves in GiB where it has bytes, otherwise in chunks
  const Report* report = nullptr;         // adds step time and bubble to the title
  std::string title = {};                 // default: the timeline's name
};

struct SvgOptions {
  /// Pixels across, margins included; 0: wide enough that most numbers fit, between 900 and most_width.
  std::uint32_t width = 0;
  std::uint32_t most_width = 8000;  // of a width that is not given
  bool memory = false;              // a memory curve under each timeline
  bool legend = true;
  /// A tooltip on every action and on every wait (its cause).
  bool tooltips = true;
};

/// All timelines on one shared time axis, and one memory scale, one under the other. A rank's row shows each
/// action as a cell with its microbatch and letter; a pair is one cell with a black border around its two
/// parts, the forward left. The second direction or chunk of a rank has a darker shade. Gradient reductions
/// are a grey strip at the row's foot.
///
/// A whole SVG document: no script, no style sheet, no reference to anything outside; same input, same bytes.
std::string svg_picture(const std::vector<PictureInput>& inputs, const SvgOptions& options = {});

/// The number of compute ops that the picture would draw: an SVG of more than about 5,000 is slow to show.
std::uint64_t count_cells(const std::vector<PictureInput>& inputs);

/// What the colours and letters mean, as a picture of its own.
std::string svg_legend();

/// The forward's part of a pair's width, in thousandths: what the shortest single forward takes beside the
/// shortest single backward, a third where the timeline has none; between a fifth and a half.
std::int64_t forward_share_milli(const Timeline& timeline);

}  // namespace plumb::render
