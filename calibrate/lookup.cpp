#include "calibrate/lookup.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <fmt/format.h>

namespace plumb {
namespace {

std::int64_t median_of(std::vector<std::int64_t> values) {
  std::sort(values.begin(), values.end());
  const std::int64_t low = values[(values.size() - 1) / 2];
  const std::int64_t high = values[values.size() / 2];
  return low + (high - low + 1) / 2;
}

// What a key was measured at: its one point, or the median over ranks.
using Measured = std::vector<std::pair<const WorkKey*, std::vector<std::int64_t>>>;

std::optional<std::uint32_t> tail_of(const Calibration& calibration, const WorkKey& work,
                                     const Setting& setting) {
  const auto found = std::find_if(
      calibration.work.begin(), calibration.work.end(),
      [&](const TimedWork& one) { return one.tail_ppm && one.work == work && one.setting == setting; });
  return found == calibration.work.end() ? std::nullopt : found->tail_ppm;
}

// All keys that are as `work` but for their shape, with the medians found for them.
Measured candidates(const Calibration& calibration, const WorkKey& work, const Setting& setting,
                    std::optional<std::uint32_t> rank) {
  Measured out;
  for (const TimedWork& one : calibration.work) {
    const WorkKey& key = one.work;
    if (key.kind != work.kind || key.name != work.name || key.model != work.model ||
        key.data_type != work.data_type || one.setting != setting || key.shape.size() != work.shape.size() ||
        (rank && one.rank && *rank != *one.rank)) {
      continue;
    }
    const auto found =
        std::find_if(out.begin(), out.end(), [&](const auto& m) { return m.first->shape == key.shape; });
    if (found == out.end()) {
      out.push_back({&key, {one.time.median.ns}});
    } else {
      found->second.push_back(one.time.median.ns);
    }
  }
  return out;
}

// The one dimension in which the shapes differ; nothing where they are equal, differ in several, or have
// different dimensions.
std::optional<std::string> only_difference(const std::map<std::string, std::int64_t>& a,
                                           const std::map<std::string, std::int64_t>& b) {
  std::optional<std::string> difference;
  for (auto x = a.begin(), y = b.begin(); x != a.end(); ++x, ++y) {
    if (x->first != y->first) return std::nullopt;
    if (x->second == y->second) continue;
    if (difference) return std::nullopt;
    difference = x->first;
  }
  return difference;
}

struct Neighbours {
  std::int64_t below = 0, above = 0;  // sizes, 0: none
  std::int64_t below_ns = 0, above_ns = 0;
};

}  // namespace

Setting main_setting(const Calibration& calibration) {
  std::map<Setting, std::size_t> counts;
  for (const TimedWork& one : calibration.work) ++counts[one.setting];
  const auto is_flushed = [](const auto& count) { return count.first.flushed; };
  if (!std::all_of(counts.begin(), counts.end(), is_flushed)) std::erase_if(counts, is_flushed);
  Setting best;
  std::size_t most = 0;
  for (const auto& [setting, count] : counts) {
    const auto is_partial = [](const Setting& one) {
      return one.idle_others > 0 || one.others_compute != OthersCompute::as_in_steps;
    };
    if (is_partial(setting) && most > 0) continue;
    const bool better = most == 0 || is_partial(best) || setting.others_busy > best.others_busy ||
                        (setting.others_busy == best.others_busy && count > most);
    if (!better) continue;
    best = setting;
    most = count;
  }
  return best;
}

std::optional<FoundDuration> find_duration(const Calibration& calibration, const WorkKey& work,
                                           const Setting& setting, std::optional<std::uint32_t> rank) {
  const Measured all = candidates(calibration, work, setting, rank);
  std::map<std::string, Neighbours> by_dimension;
  for (const auto& [key, times] : all) {
    if (key->shape == work.shape)
      return FoundDuration{{median_of(times)}, false, "", tail_of(calibration, work, setting)};
    const auto dimension = only_difference(key->shape, work.shape);
    if (!dimension) continue;
    Neighbours& near = by_dimension[*dimension];
    const std::int64_t size = key->shape.at(*dimension);
    const std::int64_t wanted = work.shape.at(*dimension);
    if (size < wanted && (near.below == 0 || size > near.below)) {
      near.below = size;
      near.below_ns = median_of(times);
    } else if (size > wanted && (near.above == 0 || size < near.above)) {
      near.above = size;
      near.above_ns = median_of(times);
    }
  }
  // Of several dimensions the one whose neighbours are nearest to each other.
  std::optional<FoundDuration> best;
  double nearest = 0;
  for (const auto& [dimension, near] : by_dimension) {
    if (near.below == 0 || near.above == 0) continue;
    const double ratio = static_cast<double>(near.above) / static_cast<double>(near.below);
    if (best && ratio >= nearest) continue;
    nearest = ratio;
    const double share = static_cast<double>(work.shape.at(dimension) - near.below) /
                         static_cast<double>(near.above - near.below);
    const std::int64_t step = std::llround(share * static_cast<double>(near.above_ns - near.below_ns));
    best = FoundDuration{{near.below_ns + step},
                         true,
                         fmt::format("between {} {} and {}", dimension, near.below, near.above),
                         {}};
  }
  return best;
}

std::optional<FoundDuration> find_duration(const Calibration& calibration, const WorkKey& work) {
  return find_duration(calibration, work, main_setting(calibration));
}

const MeasuredMemory* find_memory(const Calibration& calibration, const WorkKey& work) {
  WorkKey key = work;
  key.kind = WorkKind::forward;
  const auto found = std::find_if(calibration.memory.begin(), calibration.memory.end(),
                                  [&](const MeasuredMemory& m) { return m.work == key; });
  return found == calibration.memory.end() ? nullptr : &*found;
}

const TransferSeries* find_messages(const Calibration& calibration, std::optional<std::uint32_t> from,
                                    std::optional<std::uint32_t> to) {
  const Setting setting = main_setting(calibration);
  const TransferSeries* best = nullptr;
  int best_score = 0;
  for (const TransferSeries& series : calibration.transfers) {
    const bool hop = series.key.kind == TransferKind::hop;
    if (!series.fit || series.key.at_once != 1 || (!hop && series.key.kind != TransferKind::one_way))
      continue;
    const bool these = from && to && series.key.ranks == std::vector<std::uint32_t>{*from, *to};
    const int score = 1 + 4 * static_cast<int>(hop) + 2 * static_cast<int>(these) +
                      static_cast<int>(series.key.setting == setting);
    if (score <= best_score) continue;
    best = &series;
    best_score = score;
  }
  return best;
}

const TransferSeries* find_collective(const Calibration& calibration, TransferKind kind, std::size_t ranks) {
  const auto found = std::find_if(
      calibration.transfers.begin(), calibration.transfers.end(), [&](const TransferSeries& series) {
        return series.fit && series.key.kind == kind && series.key.ranks.size() == ranks;
      });
  return found == calibration.transfers.end() ? nullptr : &*found;
}

}  // namespace plumb
