#include "tools/render/slowdown_matrix.hpp"

#include <algorithm>
#include <cstdint>

#include <fmt/format.h>

namespace plumb::render {

std::string SlowdownMatrix::factor(const std::string& a, const std::string& b) const {
  const auto cell = cells.find({a, b});
  return cell == cells.end() ? "" : fmt::format("{:.3f}", slowdown_ppm(*cell->second) / 1e6);
}

std::vector<SlowdownMatrix> slowdown_matrices(const Calibration& calibration) {
  std::map<std::pair<std::uint32_t, Setting>, SlowdownMatrix> all;
  for (const Slowdown& one : calibration.slowdowns) {
    SlowdownMatrix& matrix = all[{one.key.communication_sms, one.key.setting}];
    matrix.title =
        fmt::format("{} SMs for communication, {}", one.key.communication_sms, to_string(one.key.setting));
    for (const std::string& name : {one.key.work_class, one.key.beside}) {
      if (std::find(matrix.classes.begin(), matrix.classes.end(), name) == matrix.classes.end()) {
        matrix.classes.push_back(name);
      }
    }
    matrix.cells[{one.key.work_class, one.key.beside}] = &one;
  }
  std::vector<SlowdownMatrix> out;
  for (auto& [key, matrix] : all) out.push_back(std::move(matrix));
  return out;
}

}  // namespace plumb::render
