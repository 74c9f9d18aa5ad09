// Reads a Hugging Face config.json into a ModelShape, and says what it made of the file.
#pragma once
#include "schedules/model/model_shape.hpp"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace plumb {

struct ModelConfig {
  ModelShape shape;
  std::vector<std::string> read;      // keys that made the shape
  std::vector<std::string> ignored;   // the others: they change no size, or nothing here knows them
  std::vector<std::string> warnings;  // what may be wrong because of it
  bool operator==(const ModelConfig&) const = default;
};

/// Llama, Mistral, Qwen 2 and 3, Phi-3, Gemma, Mixtral, Qwen-MoE, DeepSeek V2 and V3, GPT-2 and GPT-NeoX by
/// their `model_type`. Any other is read by the keys that those share, with a warning. `name` is the shape's
/// name. Throws BadInput with the JSON pointer: no JSON, a missing key, a size that is none.
ModelConfig parse_config(std::string_view content, std::string_view where, std::string_view name);

/// The config.json files that are built into the program: name -> content.
const std::map<std::string_view, std::string_view>& bundled_models();

}  // namespace plumb
