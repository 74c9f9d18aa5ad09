// Options that all commands share which speak of a model: which one, and how it lies on its devices.
#pragma once
#include "schedules/model/config.hpp"
#include "schedules/model/layout.hpp"
#include "tools/console.hpp"

#include <cstdint>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>

namespace plumb::tools {

/// `--model FILE|NAME` or the short form, and the layout's flags.
struct ModelOptions {
  std::string model;  // a file, its folder, a bundled name; or llama, gpt, mlp with the short form's flags
  std::optional<std::uint64_t> hidden;
  std::optional<std::uint64_t> layers;  // beside a file or a name: that many layers of it
  std::optional<std::uint64_t> heads;
  std::optional<std::uint64_t> key_value_heads;
  std::optional<std::uint64_t> ffn;
  std::optional<std::uint64_t> vocab;

  std::optional<std::uint64_t> sequence;  // [the model's, or 4096]
  std::uint64_t micro_batch_size = 1;
  std::uint32_t tensor = 1;
  std::uint32_t expert = 1;
  std::uint32_t data = 1;
  std::uint32_t context = 1;  // other than 1 is refused
  bool no_sequence_parallel = false;
  bool no_optimizer_sharding = false;
  std::string weights = "bf16";
  std::string gradients = "fp32";
  std::string recompute = "none";
  std::string stages;  // Megatron's layout string; empty: even
  bool unfused_attention = false;
  bool unfused_loss = false;
  bool dropout = false;

  /// `--model --hidden --layers --heads --kv-heads --ffn --vocab`. `positional`: the model may stand bare.
  void add_model_to(CLI::App& app, bool positional = false);
  /// `--sequence --micro-batch-size`.
  void add_batch_to(CLI::App& app);
  /// `--tp --ep --dp --cp --layout --recompute …` and `add_batch_to`. A flag that the command has already
  /// (--layers, --dp) is left to it: it copies the value into the member.
  void add_layout_to(CLI::App& app);

  /// An mlp whose layers nobody counted has as many as this: one a stage, as DualPipe's example has.
  void default_mlp_layers(std::uint64_t count) {
    if (model == "mlp" && !layers) layers = count;
  }
  bool given() const { return !model.empty() || hidden || heads; }
  /// Throws BadInput: nothing known by that name, or what parse_config and model_of refuse.
  ModelConfig load() const;
  /// For a schedule of so many stages a model copy on so many ranks. Checked. Throws BadInput.
  Layout layout(const ModelShape& shape, std::uint32_t stage_count, std::uint32_t ranks) const;
};

/// A config's warnings, a line each on `err`.
void print_warnings(Console& console, const ModelConfig& config);

}  // namespace plumb::tools
