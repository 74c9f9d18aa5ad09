// What a calibration says of a model's work, and what of it was used. Private to sim.
#pragma once
#include "calibrate/calibration.hpp"
#include "calibrate/lookup.hpp"
#include "calibrate/measurement.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace plumb {

/// Where a figure is from, the better first. `none`: there was nothing to know.
enum class Source : std::uint8_t { none, measured, interpolated, estimated };
std::string_view to_string(Source source);

/// The weakest source of what the ops of each kind are made of.
class Sources {
 public:
  Source of(WorkKind kind) const { return weakest_[static_cast<std::size_t>(kind)]; }
  void set(WorkKind kind, Source source) { weakest_[static_cast<std::size_t>(kind)] = source; }
  void add(WorkKind kind, Source source) { set(kind, std::max(of(kind), source)); }
  void add(const Sources& other) {
    for (std::size_t k = 0; k < weakest_.size(); ++k) weakest_[k] = std::max(weakest_[k], other.weakest_[k]);
  }

 private:
  std::array<Source, 6> weakest_{};
};

/// Answers for one model and layout. Without a calibration it knows nothing.
class MeasuredWork {
 public:
  MeasuredWork(const Calibration* calibration, const ModelShape& model, const Layout& layout);

  /// Measured, or interpolated between measured neighbours; nothing otherwise. `key()` makes the WorkKey: not
  /// before there is anything to look it up in, for that takes longer than an estimate.
  template <class Key>
  std::optional<FoundDuration> find(const Key& key) const {
    return has_work_ ? find_duration(*calibration_, key(), setting_) : std::nullopt;
  }

  /// One layer with experts as a calibration without single measurements has it, whole; nothing where it is
  /// of another model or layout. Another number of tokens is as many times the work, which counts as
  /// interpolated. Work classes are the calibration's.
  struct Layer {
    std::vector<Segment> segments;
    bool interpolated = false;
  };
  std::optional<Layer> expert_layer(WorkKind kind) const;

 private:
  const Calibration* calibration_;
  Setting setting_;
  bool has_work_ = false;
  bool has_expert_layer_ = false;
  double tokens_share_ = 1;  // of this layout's microbatch over the one that was measured
};

}  // namespace plumb
