#include "schedules/model/parameters.hpp"

#include "schedules/ir/error.hpp"

#include <cmath>

#include <fmt/format.h>

namespace plumb {
namespace {

class Lister {
 public:
  explicit Lister(const ModelShape& model) : model_(model) {}

  void matrix(std::string name, std::uint64_t rows, std::uint64_t columns, double deviation) {
    add({std::move(name), rows, columns, 0, 0, static_cast<float>(deviation), true, false});
  }
  void vector(std::string name, std::uint64_t width, float value) {
    add({std::move(name), 1, width, 0, value, 0, false, false});
  }
  void norm(const std::string& name) {
    vector(name + ".gain", model_.hidden, 1);
    if (model_.norm == NormKind::layer_norm) vector(name + ".bias", model_.hidden, 0);
  }
  void last_is_copied() { parameters_.back().copied = true; }
  std::vector<ParameterSpec> take() { return std::move(parameters_); }

 private:
  void add(ParameterSpec parameter) {
    parameter.offset = next_;
    next_ += parameter.elements();
    parameters_.push_back(std::move(parameter));
  }
  const ModelShape& model_;
  std::vector<ParameterSpec> parameters_;
  std::uint64_t next_ = 0;
};

void refuse_what_nobody_computes(const ModelShape& model, const StageContent& content) {
  const auto refuse = [&](bool present, const char* what) {
    if (present) {
      throw BadInput(model.name.empty() ? std::string("the model") : model.name,
                     std::string("has ") + what + ", which can be simulated but not run");
    }
  };
  refuse(model.experts.has_value(), "experts");
  refuse(model.attention.latent.has_value(), "latent attention");
  refuse(content.multi_token_layers > 0, "multi-token prediction modules");
}

}  // namespace

std::vector<ParameterSpec> stage_parameters(const ModelShape& model, const StageContent& content) {
  refuse_what_nobody_computes(model, content);
  Lister list(model);
  constexpr double deviation = 0.02;
  const double residual = deviation / std::sqrt(2.0 * static_cast<double>(model.layers));
  const auto fan_in = [](std::uint64_t inputs) { return 1 / std::sqrt(static_cast<double>(inputs)); };
  const bool mlp = model.architecture == Architecture::mlp;
  if (content.embedding && !mlp) {
    list.matrix("embedding.weight", model.vocab, model.hidden, deviation);
    if (model.position == PositionKind::learned) {
      list.matrix("embedding.positions", model.learned_positions, model.hidden, deviation);
    }
  }
  for (std::uint64_t n = content.first_layer; n < content.first_layer + content.layers; ++n) {
    const std::string layer = fmt::format("layers.{}.", n);
    if (mlp) {
      list.matrix(layer + "up.weight", model.ffn, model.hidden, fan_in(model.hidden));
      list.matrix(layer + "down.weight", model.hidden, model.ffn, fan_in(model.ffn));
      continue;
    }
    const AttentionShape& attention = model.attention;
    const std::uint64_t qkv = (attention.heads + 2 * attention.key_value_heads) * attention.head_dim;
    list.norm(layer + "norm_1");
    list.matrix(layer + "qkv.weight", qkv, model.hidden, deviation);
    if (attention.qkv_bias) list.vector(layer + "qkv.bias", qkv, 0);
    if (attention.query_key_norm) {
      list.vector(layer + "q_norm.gain", attention.head_dim, 1);
      list.vector(layer + "k_norm.gain", attention.head_dim, 1);
    }
    list.matrix(layer + "output.weight", model.hidden, attention.heads * attention.head_dim, residual);
    if (attention.output_bias) list.vector(layer + "output.bias", model.hidden, 0);
    list.norm(layer + "norm_2");
    const bool gated = model.ffn_kind == FfnKind::swiglu;
    const std::string up = layer + (gated ? "gate_up" : "up");
    const std::uint64_t width = gated ? 2 * model.ffn : model.ffn;
    list.matrix(up + ".weight", width, model.hidden, deviation);
    if (model.ffn_bias) list.vector(up + ".bias", width, 0);
    list.matrix(layer + "down.weight", model.hidden, model.ffn, residual);
    if (model.ffn_bias) list.vector(layer + "down.bias", model.hidden, 0);
  }
  if (content.head && !mlp) {
    list.norm("final_norm");
    if (!model.tied_embeddings || !content.embedding) {
      list.matrix(head_name(model), model.vocab, model.hidden, deviation);
      if (model.tied_embeddings) list.last_is_copied();
    }
  }
  return list.take();
}

std::string head_name(const ModelShape& model) {
  return model.tied_embeddings ? "embedding.weight" : "head.weight";
}

std::optional<ParameterSpec> shared_matrix(const ModelShape& model, const StageContent& content) {
  if (!model.tied_embeddings || content.embedding == content.head) return std::nullopt;
  for (const ParameterSpec& parameter : stage_parameters(model, content)) {
    if (parameter.name == head_name(model)) return parameter;
  }
  return std::nullopt;
}

std::uint64_t elements_of(std::span<const ParameterSpec> parameters) {
  return parameters.empty() ? 0 : parameters.back().offset + parameters.back().elements();
}

std::uint64_t stream_of(std::uint64_t seed, std::string_view name) {
  std::uint64_t hash = mixed(seed + 0x9e3779b97f4a7c15);
  for (const char c : name) hash = mixed(hash ^ static_cast<unsigned char>(c));
  return hash;
}

void initialise(const ParameterSpec& parameter, std::uint64_t seed, std::span<float> values) {
  PLUMB_CHECK(values.size() == parameter.elements());
  const std::uint64_t stream = stream_of(seed, parameter.name);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = parameter.mean + (parameter.deviation == 0 ? 0.0f : parameter.deviation * noise(stream, i));
  }
}

}  // namespace plumb
