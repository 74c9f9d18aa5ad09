// What to type next: a plan in the words of the frameworks that train.
#pragma once
#include "tools/planner/search.hpp"

#include <optional>
#include <string>
#include <vector>

namespace plumb {

/// Megatron-LM's flags (names of its megatron/training/arguments.py, core v0.15), in lines that belong
/// together; nothing where it has no such schedule. It runs 1F1B, interleaved 1F1B, and the interleaved one
/// that hides the experts' all-to-all behind the other direction's computation.
std::optional<std::vector<std::string>> megatron_flags(const LayoutPlan& plan, const ModelShape& model,
                                                       std::uint64_t global_batch);

/// torchtitan's configuration (names of its job_config.py), TOML line by line. Schedules that PyTorch has no
/// class for come from `csv`, a file that `write_pytorch_csv` wrote; nothing for those that keep a stage on
/// two ranks, which PyTorch's format has no way to say.
std::optional<std::vector<std::string>> torchtitan_config(const LayoutPlan& plan, std::uint64_t global_batch,
                                                          const std::string& csv);

}  // namespace plumb
