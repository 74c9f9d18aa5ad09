// What a calibration says, as tables and lines of text.
#pragma once
#include "calibrate/calibration.hpp"
#include "tools/render/table.hpp"

#include <string>
#include <vector>

namespace plumb::render {

struct TitledTable {
  std::string title;
  Table table;
};

/// Work, ranks that differ, messages, mutual slowdown, memory, and what is missing: those of which there is
/// something.
std::vector<TitledTable> calibration_tables(const Calibration& calibration);

/// Machine, libraries and command, a line each.
std::vector<std::string> provenance_lines(const Provenance& provenance);

/// `held-out sizes: 61 of 64 within 10 %`: over all series, each size predicted by a fit that never saw it;
/// empty where there is none.
std::string held_out_line(const Calibration& calibration);

}  // namespace plumb::render
