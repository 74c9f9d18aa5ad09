// The keys under which a model's work is measured and looked up: one place, so that both use the same.
#pragma once
#include "calibrate/measurement.hpp"
#include "schedules/ir/ids.hpp"
#include "schedules/model/layer_costs.hpp"
#include "schedules/model/layout.hpp"
#include "schedules/model/model_shape.hpp"

#include <cstdint>
#include <string_view>

namespace plumb {

/// Whether the stage's backward ends in a gradient of its input. Nothing below the first stage of an mlp
/// wants one, and its backwards are that much shorter; a transformer's first stage needs it for the
/// embedding. A model in one stage stands for any of its stages.
bool makes_input_gradient(const ModelShape& model, const Layout& layout, Stage stage);

/// A whole stage on one device, all that layout.stages[stage] says it holds.
WorkKey stage_work(const ModelShape& model, const Layout& layout, Stage stage, WorkKind kind);

/// One layer on one device; layers with and without experts have different keys. Without recompute.
WorkKey layer_work(const ModelShape& model, const Layout& layout, std::uint64_t layer, WorkKind kind);

/// One part on one device. Parts that are matrix products are `gemm` with m, n, k and count, whoever's they
/// are.
WorkKey part_work(const Part& part, const ModelShape& model, const Layout& layout, WorkKind kind);

/// The class of a part's computation, for the mutual slowdown: `gemm`, `attention`, `attention_backward`,
/// `memory`. Attention's backward is a kernel of another kind than its forward: its blocks fill a rank's
/// multiprocessors to the last wave, the forward's leave some free.
std::string_view class_of(PartClass part, WorkKind kind);

}  // namespace plumb
