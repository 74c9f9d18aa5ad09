// Who slows whom down, arranged for tables and pictures: a matrix for each setting that was measured.
#pragma once
#include "calibrate/calibration.hpp"

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace plumb::render {

struct SlowdownMatrix {
  std::string title;                 // the multiprocessors given to communication, and the setting
  std::vector<std::string> classes;  // in the order in which they were measured
  /// [class, beside]; none where the two were not measured together.
  std::map<std::pair<std::string, std::string>, const Slowdown*> cells;

  /// How many times as long `a` lasts beside `b`, as in 1.106; empty where that was not measured.
  std::string factor(const std::string& a, const std::string& b) const;
};

/// Cells point into the calibration.
std::vector<SlowdownMatrix> slowdown_matrices(const Calibration& calibration);

}  // namespace plumb::render
