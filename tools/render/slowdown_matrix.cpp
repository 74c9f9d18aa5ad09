#include "tools/render/slowdown_matrix.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <fmt/format.h>

namespace plumb::render {
namespace {

// Computation first, then what is sent, so that matrices are alike whatever was measured first.
std::size_t place_of(const std::string& work_class) {
  constexpr std::array<std::string_view, 5> computation{"gemm", "attention", "attention_backward", "memory",
                                                        "send_recv"};
  return static_cast<std::size_t>(std::find(computation.begin(), computation.end(), work_class) -
                                  computation.begin());
}

}  // namespace

std::string SlowdownMatrix::factor(const std::string& a, const std::string& b) const {
  const auto cell = cells.find({a, b});
  return cell == cells.end() ? "" : fmt::format("{:.3f}", slowdown_ppm(*cell->second) / 1e6);
}

std::vector<SlowdownMatrix> slowdown_matrices(const Calibration& calibration) {
  std::map<std::pair<std::uint32_t, Setting>, SlowdownMatrix> all;
  for (const Slowdown& one : calibration.slowdowns) {
    SlowdownMatrix& matrix = all[{one.key.communication_sms, one.key.setting}];
    matrix.title = to_string(one.key.setting);
    if (one.key.communication_sms > 0)
      matrix.title = fmt::format("{} SMs for communication, {}", one.key.communication_sms, matrix.title);
    for (const std::string& name : {one.key.work_class, one.key.beside}) {
      if (std::find(matrix.classes.begin(), matrix.classes.end(), name) == matrix.classes.end()) {
        matrix.classes.push_back(name);
      }
    }
    matrix.cells[{one.key.work_class, one.key.beside}] = &one;
  }
  std::vector<SlowdownMatrix> out;
  for (auto& [key, matrix] : all) {
    std::stable_sort(matrix.classes.begin(), matrix.classes.end(),
                     [](const std::string& a, const std::string& b) { return place_of(a) < place_of(b); });
    out.push_back(std::move(matrix));
  }
  return out;
}

}  // namespace plumb::render
