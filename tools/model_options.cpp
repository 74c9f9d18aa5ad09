#include "tools/model_options.hpp"

#include "schedules/ir/error.hpp"
#include "schedules/ir/input.hpp"
#include "schedules/ir/nearest.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

namespace plumb::tools {
namespace {

constexpr std::uint64_t largest = std::uint64_t{1} << 31;
constexpr std::uint32_t most_devices = 1u << 20;

bool has(CLI::App& app, const std::string& flag) { return app.get_option_no_throw(flag) != nullptr; }

// `llama-3-8b/config.json` is called after its folder, any other file after itself.
std::string name_of(const std::filesystem::path& path) {
  if (path.filename() != "config.json") return path.stem().string();
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path().filename();
  return folder.empty() ? "config" : folder.string();
}

ModelConfig load_file(const std::string& given) {
  std::filesystem::path path = given;
  std::error_code ignored;
  if (given != "-" && std::filesystem::is_directory(path, ignored)) path /= "config.json";
  const std::string content = read_input(path.string());
  return given == "-" ? parse_config(content, "standard input", "model")
                      : parse_config(content, path.string(), name_of(path));
}

[[noreturn]] void refuse_name(const std::string& name) {
  std::vector<std::string_view> known{"llama", "gpt", "mlp"};
  std::string list;
  for (const auto& [bundled, content] : bundled_models()) {
    known.push_back(bundled);
    list += fmt::format("{}{}", list.empty() ? "" : ", ", bundled);
  }
  const std::string_view meant = nearest(name, known);
  throw BadInput(
      "--model",
      fmt::format("'{}' is neither a file nor one of {}; llama, gpt and mlp take --hidden and --layers{}",
                  name.substr(0, 60), list, meant.empty() ? "" : fmt::format("; did you mean {}?", meant)));
}

void keep_layers(ModelShape& shape, std::uint64_t layers) {
  shape.layers = layers;
  if (!shape.experts) return;
  std::vector<bool>& in_layer = shape.experts->in_layer;
  in_layer.resize(layers, in_layer.back());
  // Only the dense layers at the begin are left.
  if (std::find(in_layer.begin(), in_layer.end(), true) == in_layer.end()) shape.experts.reset();
}

}  // namespace

void ModelOptions::add_model_to(CLI::App& app, bool positional) {
  app.add_option(
         positional ? "model,--model" : "--model", model,
         "A Hugging Face config.json, a bundled model's name, or llama, gpt, mlp with the flags below")
      ->type_name("FILE|NAME");
  const auto size = [&](const char* flag, std::optional<std::uint64_t>& value, const char* what,
                        const char* type) {
    if (has(app, flag)) return;
    app.add_option(flag, value, what)->type_name(type)->check(CLI::Range(std::uint64_t{1}, largest));
  };
  size("--hidden", hidden, "Hidden size, of a model without a file", "H");
  size("--layers", layers, "Layers; beside a file or a name: that many of its layers", "L");
  size("--heads", heads, "Attention heads", "A");
  size("--kv-heads", key_value_heads, "Key/value heads [as many as heads]", "K");
  size("--ffn", ffn, "Inner size of the FFN [llama: 8/3 H up to a multiple of 256; gpt, mlp: 4 H]", "F");
  size("--vocab", vocab, "Vocabulary [llama: 32000; gpt: 50304]", "V");
}

void ModelOptions::add_batch_to(CLI::App& app) {
  app.add_option("--sequence", sequence, "Tokens of a sequence [what the model was trained on, or 4096]")
      ->type_name("S")
      ->check(CLI::Range(std::uint64_t{1}, largest));
  app.add_option("--micro-batch-size", micro_batch_size, "Sequences of a microbatch")
      ->type_name("B")
      ->check(CLI::Range(std::uint64_t{1}, largest))
      ->capture_default_str();
}

void ModelOptions::add_layout_to(CLI::App& app) {
  const auto degree = [&](const char* flag, std::uint32_t& value, const char* what) {
    if (has(app, flag)) return;
    app.add_option(flag, value, what)->check(CLI::Range(1u, most_devices))->capture_default_str();
  };
  add_batch_to(app);
  degree("--tp", tensor, "Tensor-parallel devices a stage is split over");
  degree("--ep", expert, "Devices of tp x dp over which a layer's experts are spread");
  degree("--dp", data, "Data-parallel copies");
  degree("--cp", context, "Context-parallel devices: not there yet, 1 only");
  app.add_flag("--no-sequence-parallel", no_sequence_parallel,
               "With --tp: norms and residuals on every device instead of split along the sequence");
  app.add_flag("--no-optimizer-sharding", no_optimizer_sharding,
               "Every data-parallel copy holds all optimizer state (without: ZeRO-1)");
  app.add_option("--dtype", weights, "Weights and activations; fp8: the layers' matrix products alone")
      ->check(CLI::IsMember({"bf16", "fp32", "fp8"}))
      ->capture_default_str();
  app.add_option("--gradients", gradients, "Accumulated weight gradients")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  app.add_option(
         "--recompute", recompute,
         "What backward computes again: none, selective (the attention core) or full (whole layers); by "
         "stage as in full:0-3,selective")
      ->capture_default_str();
  app.add_option("--layout", stages, "Megatron's layout string, as in \"Et*3|(tt|)*29,m|L\" [even stages]")
      ->type_name("STRING");
  app.add_flag("--unfused-attention", unfused_attention, "Attention keeps its probabilities");
  app.add_flag("--unfused-loss", unfused_loss, "The head keeps its logits, in float32");
  app.add_flag("--dropout", dropout, "Dropout's masks are kept");
}

ModelConfig ModelOptions::load() const {
  const bool short_form = model.empty() || model == "llama" || model == "gpt" || model == "mlp";
  if (!short_form) {
    const auto refuse = [&](const char* flag, const auto& value) {
      if (value) throw BadInput(flag, fmt::format("is for a model without a file, not for {}", model));
    };
    refuse("--hidden", hidden);
    refuse("--heads", heads);
    refuse("--kv-heads", key_value_heads);
    refuse("--ffn", ffn);
    refuse("--vocab", vocab);
    ModelConfig config;
    const auto bundled = bundled_models().find(model);
    if (bundled != bundled_models().end()) {
      config = parse_config(bundled->second, model, model);
    } else {
      std::error_code ignored;
      if (model.find_first_of("./") == std::string::npos && model != "-" &&
          !std::filesystem::exists(model, ignored))
        refuse_name(model);
      config = load_file(model);
    }
    if (layers) {
      keep_layers(config.shape, *layers);
      check_model(config.shape, "--layers");
    }
    return config;
  }
  const auto needed = [](const char* flag, const std::optional<std::uint64_t>& value) {
    if (!value)
      throw BadInput(flag, "is missing: a model is a --model FILE, or --hidden, --layers and --heads");
    return *value;
  };
  ShortForm form;
  form.kind = model == "gpt"   ? ShortForm::Kind::gpt
              : model == "mlp" ? ShortForm::Kind::mlp
                               : ShortForm::Kind::llama;
  form.hidden = needed("--hidden", hidden);
  form.layers = needed("--layers", layers);
  if (form.kind == ShortForm::Kind::mlp) {
    if (heads) throw BadInput("--heads", "an mlp has none");
    if (key_value_heads) throw BadInput("--kv-heads", "an mlp has none");
    if (vocab) throw BadInput("--vocab", "an mlp has none");
  } else {
    form.heads = needed("--heads", heads);
  }
  form.key_value_heads = key_value_heads;
  form.ffn = ffn;
  form.vocab = vocab;
  form.sequence = sequence;
  return {model_of(form), {}, {}, {}};
}

Layout ModelOptions::layout(const ModelShape& shape, std::uint32_t stage_count, std::uint32_t ranks) const {
  if (context != 1)
    throw BadInput("--cp",
                   "context parallelism is not modelled yet: expected 1 (--tp splits long sequences too)");
  Layout out;
  out.parallelism = {ranks, tensor, data, expert, !no_sequence_parallel, !no_optimizer_sharding};
  out.numerics.weights = weights == "fp32"  ? WeightType::fp32
                         : weights == "fp8" ? WeightType::fp8
                                            : WeightType::bf16;
  out.numerics.gradients = gradients == "bf16" ? GradientType::bf16 : GradientType::fp32;
  out.numerics.fused_attention = !unfused_attention;
  out.numerics.fused_loss = !unfused_loss;
  out.numerics.dropout = dropout;
  out.micro_batch_size = micro_batch_size;
  out.sequence = sequence.value_or(shape.max_sequence > 0 ? shape.max_sequence : 4096);
  if (stages.empty()) {
    out.stages = even_stages(shape, stage_count);
  } else {
    out.stages = parse_stages(stages, shape);
    if (out.stages.size() != stage_count)
      throw BadInput("--layout", fmt::format("has {} stages, expected {}", out.stages.size(), stage_count));
  }
  set_recompute(out.stages, recompute);
  check_layout(shape, out);
  return out;
}

void print_warnings(Console& console, const ModelConfig& config) {
  for (const std::string& warning : config.warnings)
    console.err << "plumb: " << config.shape.name << ": " << warning << "\n";
}

}  // namespace plumb::tools
