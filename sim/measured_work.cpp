#include "sim/measured_work.hpp"

#include <cmath>
#include <string>

#include <fmt/format.h>

namespace plumb {
namespace {

std::string word_of(WeightType type) {
  return type == WeightType::fp8 ? "fp8" : type == WeightType::fp32 ? "fp32" : "bf16";
}

// What the calibration notes of the layer it is of.
bool notes(const Calibration& calibration, const std::string& key, const std::string& value) {
  const auto found = calibration.provenance.notes.find(key);
  return found != calibration.provenance.notes.end() && found->second == value;
}

}  // namespace

std::string_view to_string(Source source) {
  constexpr std::array<std::string_view, 4> words{"estimated", "measured", "interpolated", "estimated"};
  return words[static_cast<std::size_t>(source)];
}

MeasuredWork::MeasuredWork(const Calibration* calibration, const ModelShape& model, const Layout& layout)
    : calibration_(calibration) {
  if (calibration_ == nullptr) return;
  has_work_ = !calibration_->work.empty();
  setting_ = main_setting(*calibration_);
  const auto tokens = calibration_->provenance.notes.find("tokens");
  has_expert_layer_ =
      !calibration_->forward.empty() && model.experts && tokens != calibration_->provenance.notes.end() &&
      notes(*calibration_, "hidden", fmt::format("{}", model.hidden)) &&
      notes(*calibration_, "experts", fmt::format("{}", model.experts->routed)) &&
      notes(*calibration_, "experts_per_token", fmt::format("{}", model.experts->per_token)) &&
      notes(*calibration_, "expert_ffn", fmt::format("{}", model.experts->ffn)) &&
      notes(*calibration_, "tensor", fmt::format("{}", layout.parallelism.tensor)) &&
      notes(*calibration_, "expert_parallel", fmt::format("{}", layout.parallelism.expert)) &&
      notes(*calibration_, "data_type", word_of(layout.numerics.weights));
  if (has_expert_layer_) tokens_share_ = static_cast<double>(layout.tokens()) / std::stod(tokens->second);
}

std::optional<MeasuredWork::Layer> MeasuredWork::expert_layer(WorkKind kind) const {
  if (!has_expert_layer_) return std::nullopt;
  Layer layer;
  layer.segments = kind == WorkKind::forward           ? calibration_->forward
                   : kind == WorkKind::backward_input  ? calibration_->backward_input
                   : kind == WorkKind::backward_weight ? calibration_->backward_weight
                                                       : calibration_->backward;
  layer.interpolated = tokens_share_ != 1;
  for (Segment& segment : layer.segments)
    segment.duration.ns = std::llround(static_cast<double>(segment.duration.ns) * tokens_share_);
  return layer;
}

}  // namespace plumb
