#include "schedules/model/model_shape.hpp"

#include "schedules/ir/error.hpp"

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::uint64_t largest = std::uint64_t{1} << 31;
constexpr std::uint64_t most_layers = 100'000;
constexpr std::uint64_t most_experts = 1u << 20;
constexpr double most_parameters = 1e15;

double product(std::uint64_t a, std::uint64_t b) { return static_cast<double>(a) * static_cast<double>(b); }

// Of one layer's matrices, from above; in double, so that nothing can overflow before it is refused.
double largest_layer(const ModelShape& model) {
  const AttentionShape& attention = model.attention;
  double sum = 3 * product(model.hidden, model.ffn);
  sum += 4 * static_cast<double>(model.hidden) * product(attention.heads, attention.head_dim);
  if (attention.latent) {
    const LatentAttention& latent = *attention.latent;
    const double ranks =
        static_cast<double>(latent.query_rank) + static_cast<double>(latent.key_value_rank) + 1;
    sum += ranks * (static_cast<double>(model.hidden) +
                    static_cast<double>(attention.heads) *
                        static_cast<double>(latent.nope_dim + latent.rope_dim + latent.value_dim));
    sum += static_cast<double>(model.hidden) * product(attention.heads, latent.value_dim);
  }
  if (model.experts) {
    sum += 3 * static_cast<double>(model.experts->routed) * product(model.hidden, model.experts->ffn) +
           3 * product(model.hidden, model.experts->shared_ffn);
  }
  return sum;
}

}  // namespace

void check_model(const ModelShape& model, std::string_view where) {
  const auto refuse = [&](const std::string& what) { throw BadInput(where, what); };
  const auto size = [&](std::string_view name, std::uint64_t value, std::uint64_t most = largest) {
    if (value == 0 || value > most) refuse(fmt::format("{} is {}, expected 1 to {}", name, value, most));
  };
  size("hidden", model.hidden);
  size("layers", model.layers, most_layers);
  size("ffn", model.ffn);
  if (model.multi_token_layers > most_layers)
    refuse(fmt::format("{} MTP modules are more than {}", model.multi_token_layers, most_layers));
  if (model.architecture == Architecture::transformer) {
    const AttentionShape& attention = model.attention;
    size("vocab", model.vocab);
    size("heads", attention.heads);
    size("head_dim", attention.head_dim);
    size("kv-heads", attention.key_value_heads);
    if (attention.heads % attention.key_value_heads != 0)
      refuse(fmt::format("{} key/value heads do not divide {} heads", attention.key_value_heads,
                         attention.heads));
    // Rotary positions turn pairs of a head's elements.
    if (model.position == PositionKind::rotary && !attention.latent && attention.head_dim % 2 != 0)
      refuse(fmt::format("a head has {} elements, and rotary positions need an even number",
                         attention.head_dim));
    if (attention.latent) {
      const LatentAttention& latent = *attention.latent;
      if (latent.query_rank > 0) size("query rank", latent.query_rank);
      size("key/value rank", latent.key_value_rank);
      size("rope_dim", latent.rope_dim);
      size("nope_dim", latent.nope_dim);
      size("value_dim", latent.value_dim);
    }
    if (model.position == PositionKind::learned) size("positions", model.learned_positions);
    if (model.experts) {
      const ExpertsShape& experts = *model.experts;
      size("experts", experts.routed, most_experts);
      size("experts a token", experts.per_token, most_experts);
      if (experts.per_token > experts.routed)
        refuse(fmt::format("{} experts a token are more than the {} there are", experts.per_token,
                           experts.routed));
      size("an expert's ffn", experts.ffn);
      if (experts.shared_ffn > 0) size("the shared experts' ffn", experts.shared_ffn);
      if (experts.in_layer.size() != model.layers)
        refuse(fmt::format("says of {} layers whether they have experts; it has {}", experts.in_layer.size(),
                           model.layers));
    }
  }
  const double parameters =
      static_cast<double>(model.layers + model.multi_token_layers) * largest_layer(model) +
      2 * product(model.vocab, model.hidden) + product(model.learned_positions, model.hidden);
  if (parameters > most_parameters) refuse(fmt::format("would have about {:.1e} parameters", parameters));
}

ModelShape model_of(const ShortForm& form) {
  const bool mlp = form.kind == ShortForm::Kind::mlp;
  const auto needed = [](std::string_view flag, std::uint64_t value, std::uint64_t most = largest) {
    if (value == 0 || value > most) throw BadInput(flag, fmt::format("is {}, expected 1 to {}", value, most));
  };
  needed("--hidden", form.hidden);
  needed("--layers", form.layers, most_layers);
  if (!mlp) needed("--heads", form.heads);
  ModelShape model;
  model.hidden = form.hidden;
  model.layers = form.layers;
  if (mlp) {
    model.architecture = Architecture::mlp;
    model.ffn_kind = FfnKind::gelu;
    model.position = PositionKind::none;
    model.ffn = form.ffn.value_or(4 * form.hidden);
    model.name = fmt::format("mlp {} x {}", form.layers, form.hidden);
    check_model(model, "--ffn");
    return model;
  }
  if (form.hidden % form.heads != 0)
    throw BadInput("--heads", fmt::format("{} do not divide the hidden size of {}", form.heads, form.hidden));
  model.attention.heads = form.heads;
  model.attention.key_value_heads = form.key_value_heads.value_or(form.heads);
  model.attention.head_dim = form.hidden / form.heads;
  if (form.kind == ShortForm::Kind::gpt) {
    model.name = fmt::format("gpt {} x {}", form.layers, form.hidden);
    model.norm = NormKind::layer_norm;
    model.ffn_kind = FfnKind::gelu;
    model.position = PositionKind::learned;
    model.learned_positions = model.max_sequence = form.sequence.value_or(2048);
    model.attention.qkv_bias = model.attention.output_bias = model.ffn_bias = true;
    model.tied_embeddings = true;
    model.ffn = form.ffn.value_or(4 * form.hidden);
    model.vocab = form.vocab.value_or(50304);
  } else {
    model.name = fmt::format("llama {} x {}", form.layers, form.hidden);
    model.ffn = form.ffn.value_or((8 * form.hidden / 3 + 255) / 256 * 256);
    model.vocab = form.vocab.value_or(32000);
  }
  check_model(model, "the model");
  return model;
}

}  // namespace plumb
