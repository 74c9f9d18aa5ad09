#include "schedules/model/config.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"

#include <algorithm>
#include <array>
#include <set>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::int64_t largest = std::int64_t{1} << 31;
constexpr std::int64_t most_layers = 100'000;
constexpr std::int64_t most_experts = 1 << 20;

// What a model_type says without a key saying it: the defaults of its configuration class in transformers.
struct Family {
  std::string_view model_type;
  bool qkv_bias = false;
  bool tied = false;
  bool query_key_norm = false;
  bool gate_bias = false;
};
constexpr std::array<Family, 12> families{{
    {"llama"},
    {"mistral"},
    {"phi3"},
    {"gemma", false, true},
    {"qwen2", true},
    {"qwen3", false, false, true},
    {"mixtral"},
    {"qwen2_moe", true},
    {"qwen3_moe", false, false, true},
    {"deepseek_v2"},
    {"deepseek_v3", false, false, false, true},
    {"kimi_k2", false, false, false, true},  // DeepSeek-V3's architecture under a name of its own
}};

// The members of one object, and which of them were read.
class Keys {
 public:
  explicit Keys(JsonView object) : object_(object) {}

  /// null stands for absent, as in the files.
  std::optional<JsonView> find(std::string_view key) {
    auto found = object_.member(key);
    if (found) read_.insert(std::string(key));
    if (found && found->is_null()) found.reset();
    return found;
  }
  /// The first of the names that is there.
  JsonView any(std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names) {
      if (const auto found = find(name)) return *found;
    }
    std::string others;
    for (const std::string_view name : names) {
      if (name != *names.begin()) others += fmt::format("{} \"{}\"", others.empty() ? ", nor" : ",", name);
    }
    object_.fail(fmt::format("has no key \"{}\"{}", *names.begin(), others));
  }
  std::uint64_t size(std::initializer_list<std::string_view> names, std::int64_t most = largest) {
    return static_cast<std::uint64_t>(any(names).integer(1, most));
  }
  std::optional<std::uint64_t> size_if(std::string_view name, std::int64_t least = 1,
                                       std::int64_t most = largest) {
    const auto found = find(name);
    return found ? std::optional(static_cast<std::uint64_t>(found->integer(least, most))) : std::nullopt;
  }
  bool flag(std::string_view name, bool otherwise) {
    const auto found = find(name);
    return found ? found->boolean() : otherwise;
  }
  std::string text(std::string_view name) {
    const auto found = find(name);
    return found ? found->text() : std::string();
  }

  const JsonView& object() const { return object_; }
  void list(ModelConfig& config, const std::string& prefix) const {
    for (const auto& [key, value] : object_.members())
      (read_.contains(key) ? config.read : config.ignored).push_back(prefix + key);
  }

 private:
  JsonView object_;
  std::set<std::string> read_;
};

void read_positions(Keys& keys, ModelShape& shape) {
  shape.max_sequence = keys.size_if("max_position_embeddings").value_or(0);
  // Stretched positions: the model was trained on the shorter sequence.
  if (const auto scaling = keys.find("rope_scaling"); scaling && scaling->is_object()) {
    if (const auto original = scaling->member("original_max_position_embeddings");
        original && !original->is_null())
      shape.max_sequence = static_cast<std::uint64_t>(original->integer(1, largest));
  }
  if (const auto original = keys.size_if("original_max_position_embeddings")) shape.max_sequence = *original;
}

void read_latent(Keys& keys, ModelShape& shape) {
  LatentAttention latent;
  latent.query_rank = keys.size_if("q_lora_rank").value_or(0);
  latent.key_value_rank = keys.size({"kv_lora_rank"});
  latent.rope_dim = keys.size({"qk_rope_head_dim"});
  latent.nope_dim = keys.size({"qk_nope_head_dim"});
  latent.value_dim = keys.size({"v_head_dim"});
  keys.find("num_key_value_heads");  // says nothing beside the latent
  shape.attention.key_value_heads = shape.attention.heads;
  shape.attention.head_dim = latent.rope_dim + latent.nope_dim;
  shape.attention.latent = latent;
}

void read_attention(Keys& keys, ModelShape& shape, const Family& family) {
  AttentionShape& attention = shape.attention;
  attention.heads = keys.size({"num_attention_heads", "n_head"});
  attention.query_key_norm = keys.flag("use_qk_norm", family.query_key_norm);
  const bool bias = keys.flag("attention_bias", false);
  attention.qkv_bias = keys.flag("qkv_bias", bias || family.qkv_bias);
  attention.output_bias = bias;
  if (keys.find("kv_lora_rank")) {
    read_latent(keys, shape);
    return;
  }
  const auto key_value_heads = keys.find("num_key_value_heads");
  attention.key_value_heads =
      key_value_heads ? static_cast<std::uint64_t>(key_value_heads->integer(1, largest)) : attention.heads;
  if (attention.heads % attention.key_value_heads != 0)
    key_value_heads->fail(
        fmt::format("is {}, which does not divide {} heads", attention.key_value_heads, attention.heads));
  if (const auto head_dim = keys.size_if("head_dim")) {
    attention.head_dim = *head_dim;
  } else {
    if (shape.hidden % attention.heads != 0)
      keys.object().fail(fmt::format("has no key \"head_dim\", and {} heads do not divide the hidden size {}",
                                     attention.heads, shape.hidden));
    attention.head_dim = shape.hidden / attention.heads;
  }
}

// Layer i has experts if it is none of mlp_only_layers and (i + 1) % decoder_sparse_step is 0 (Qwen).
std::vector<bool> qwen_layers(Keys& keys, std::uint64_t layers) {
  const std::uint64_t step = keys.size_if("decoder_sparse_step").value_or(1);
  std::vector<bool> in_layer(layers);
  for (std::uint64_t i = 0; i < layers; ++i) in_layer[i] = (i + 1) % step == 0;
  if (const auto dense = keys.find("mlp_only_layers")) {
    for (const JsonView& layer : dense->elements())
      in_layer[static_cast<std::size_t>(layer.integer(0, static_cast<std::int64_t>(layers) - 1))] = false;
  }
  return in_layer;
}

// Layer i has experts from first_k_dense_replace on, every moe_layer_freq-th (DeepSeek).
std::vector<bool> deepseek_layers(Keys& keys, std::uint64_t layers) {
  const std::uint64_t dense = keys.size_if("first_k_dense_replace", 0).value_or(0);
  const std::uint64_t step = keys.size_if("moe_layer_freq").value_or(1);
  std::vector<bool> in_layer(layers);
  for (std::uint64_t i = 0; i < layers; ++i) in_layer[i] = i >= dense && i % step == 0;
  return in_layer;
}

// Three dialects: Mixtral's num_local_experts, Qwen's num_experts, DeepSeek's n_routed_experts.
void read_experts(Keys& keys, ModelShape& shape, const Family& family) {
  ExpertsShape experts;
  if (const auto routed = keys.size_if("n_routed_experts", 0, most_experts)) {
    if (*routed == 0) return;
    experts.routed = *routed;
    experts.ffn = keys.size({"moe_intermediate_size"});
    const auto shared = keys.find("n_shared_experts");
    const std::uint64_t count =
        shared
            ? static_cast<std::uint64_t>(shared->integer(0, largest / static_cast<std::int64_t>(experts.ffn)))
            : 0;
    experts.shared_ffn = count * experts.ffn;
    const std::string method = keys.text("topk_method");
    experts.gate_bias = method.empty() ? family.gate_bias : method == "noaux_tc";
    experts.in_layer = deepseek_layers(keys, shape.layers);
  } else if (const auto local = keys.size_if("num_local_experts", 0, most_experts)) {
    if (*local < 2) return;
    experts.routed = *local;
    experts.ffn = shape.ffn;
    experts.in_layer.assign(shape.layers, true);
  } else if (const auto number = keys.size_if("num_experts", 0, most_experts)) {
    if (*number == 0) return;
    experts.routed = *number;
    experts.ffn = keys.size({"moe_intermediate_size", "intermediate_size"});
    experts.shared_ffn = keys.size_if("shared_expert_intermediate_size", 0).value_or(0);
    experts.shared_gate = experts.shared_ffn > 0;
    experts.in_layer = qwen_layers(keys, shape.layers);
  } else {
    return;
  }
  const JsonView per_token = keys.any({"num_experts_per_tok", "num_experts_per_token"});
  experts.per_token = static_cast<std::uint64_t>(per_token.integer(1, most_experts));
  if (experts.per_token > experts.routed)
    per_token.fail(
        fmt::format("is {}, more than the {} experts there are", experts.per_token, experts.routed));
  // A list without one is a dense model.
  if (std::find(experts.in_layer.begin(), experts.in_layer.end(), true) != experts.in_layer.end())
    shape.experts = std::move(experts);
}

void warn_of_windows(Keys& keys, const ModelShape& shape, ModelConfig& config) {
  const bool used = keys.flag("use_sliding_window", true);
  const auto window = keys.size_if("sliding_window", 0);
  if (used && window && *window > 0 && *window < shape.max_sequence) {
    config.warnings.push_back(fmt::format(
        "attention within a sliding window of {} tokens is counted over whole sequences", *window));
  }
}

void read_llama_like(Keys& keys, ModelConfig& config, const Family& family) {
  ModelShape& shape = config.shape;
  shape.hidden = keys.size({"hidden_size", "n_embd", "d_model"});
  shape.layers = keys.size({"num_hidden_layers", "n_layer", "num_layers"}, most_layers);
  shape.vocab = keys.size({"vocab_size"});
  shape.ffn = keys.size({"intermediate_size", "n_inner", "ffn_dim"});
  read_attention(keys, shape, family);
  shape.ffn_bias = keys.flag("mlp_bias", false);
  shape.tied_embeddings = keys.flag("tie_word_embeddings", family.tied);
  read_positions(keys, shape);
  read_experts(keys, shape, family);
  shape.multi_token_layers = keys.size_if("num_nextn_predict_layers", 0, most_layers).value_or(0);
  warn_of_windows(keys, shape, config);
}

// LayerNorm, two biased linears and GELU.
void make_gpt(ModelShape& shape) {
  shape.norm = NormKind::layer_norm;
  shape.ffn_kind = FfnKind::gelu;
  shape.ffn_bias = true;
}

void read_gpt2(Keys& keys, ModelConfig& config) {
  ModelShape& shape = config.shape;
  make_gpt(shape);
  shape.hidden = keys.size({"n_embd"});
  shape.layers = keys.size({"n_layer"}, most_layers);
  shape.vocab = keys.size({"vocab_size"});
  shape.ffn = keys.size_if("n_inner").value_or(4 * shape.hidden);
  shape.position = PositionKind::learned;
  shape.learned_positions = shape.max_sequence = keys.size({"n_positions", "n_ctx"});
  read_attention(keys, shape, {"gpt2", true});
  shape.attention.output_bias = true;
  shape.tied_embeddings = keys.flag("tie_word_embeddings", true);
}

void read_gpt_neox(Keys& keys, ModelConfig& config) {
  ModelShape& shape = config.shape;
  make_gpt(shape);
  shape.hidden = keys.size({"hidden_size"});
  shape.layers = keys.size({"num_hidden_layers"}, most_layers);
  shape.vocab = keys.size({"vocab_size"});
  shape.ffn = keys.size({"intermediate_size"});
  read_positions(keys, shape);
  const bool bias = keys.flag("attention_bias", true);
  read_attention(keys, shape, {"gpt_neox", bias});
  shape.attention.output_bias = bias;
  shape.tied_embeddings = keys.flag("tie_word_embeddings", false);
  if (keys.flag("use_parallel_residual", true))
    config.warnings.push_back("attention and FFN beside each other are counted one after the other");
}

void read_model(Keys& keys, ModelConfig& config) {
  const std::string type = keys.text("model_type");
  const auto family =
      std::find_if(families.begin(), families.end(), [&](const Family& f) { return f.model_type == type; });
  if (type == "gpt2") return read_gpt2(keys, config);
  if (type == "gpt_neox") return read_gpt_neox(keys, config);
  if (family != families.end()) return read_llama_like(keys, config, *family);
  config.warnings.push_back(
      type.empty()
          ? "there is no model_type; read as a Llama-like model"
          : fmt::format("model_type \"{}\" is not known; read as a Llama-like model", type.substr(0, 60)));
  read_llama_like(keys, config, {});
}

}  // namespace

ModelConfig parse_config(std::string_view content, std::string_view where, std::string_view name) {
  const JsonDocument document(content, where);
  ModelConfig config;
  config.shape.name = name;
  Keys keys(document.root());
  const auto inner = document.root().member("text_config");
  if (inner && inner->is_object() && !document.root().member("hidden_size")) {
    // A model of text and images: its language model stands inside.
    Keys text(*inner);
    config.warnings.push_back("only the language model (text_config) is read");
    read_model(text, config);
    keys.find("text_config");
    keys.list(config, "");
    text.list(config, "text_config/");
  } else {
    read_model(keys, config);
    keys.list(config, "");
  }
  check_model(config.shape, where);
  return config;
}

}  // namespace plumb
