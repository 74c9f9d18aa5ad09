// plumb model: what a model is made of, part by part: parameters, FLOPs, bytes kept and sent.
#include "schedules/ir/error.hpp"
#include "schedules/ir/json_document.hpp"
#include "schedules/model/layer_costs.hpp"
#include "tools/command.hpp"
#include "tools/model_options.hpp"
#include "tools/options.hpp"
#include "tools/render/table.hpp"

#include <algorithm>
#include <memory>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  ModelOptions model;
  std::optional<std::uint32_t> stages;
  bool json = false;
};

struct Answer {
  ModelConfig config;
  Layout layout;
  std::vector<PartGroup> groups;  // all that differ, over all stages; times summed
  std::vector<StageBytes> stages;
};

std::string_view to_string(PartClass part_class) {
  switch (part_class) {
    case PartClass::gemm:
      return "gemm";
    case PartClass::attention:
      return "attention";
    case PartClass::memory:
      return "memory";
    case PartClass::all_gather:
      return "all_gather";
    case PartClass::reduce_scatter:
      return "reduce_scatter";
    case PartClass::all_reduce:
      return "all_reduce";
    case PartClass::all_to_all:
      return "all_to_all";
  }
  return "";
}

Bytes kept(const Part& part) {
  Bytes sum;
  for (const KeptTensor& tensor : part.kept)
    if (!tensor.recomputed) sum += tensor.bytes;
  return sum;
}

// Until backward_weight ends: what it reads.
Bytes left(const Part& part) {
  Bytes sum = part.gradient_kept;
  for (const KeptTensor& tensor : part.kept)
    if (tensor.for_weight) sum += tensor.bytes;
  return sum;
}

bool recomputed(const PartGroup& group) {
  for (const Part& part : group.parts)
    for (const KeptTensor& tensor : part.kept)
      if (tensor.recomputed) return true;
  return false;
}

Bytes sent(const Part& part) {
  return part.forward.sent + part.backward_input.sent + part.backward_weight.sent;
}

Answer answer(const Options& options) {
  Answer out;
  out.config = options.model.load();
  const ModelShape& shape = out.config.shape;
  std::uint32_t stages = options.stages.value_or(1);
  if (!options.stages && !options.model.stages.empty())
    stages = static_cast<std::uint32_t>(parse_stages(options.model.stages, shape).size());
  out.layout = options.model.layout(shape, stages, stages);
  for (std::uint32_t s = 0; s < stages; ++s) {
    out.stages.push_back(stage_bytes(shape, out.layout, Stage{s}));
    for (PartGroup& group : stage_groups(shape, out.layout, Stage{s})) {
      const auto same = std::find_if(out.groups.begin(), out.groups.end(), [&](const PartGroup& other) {
        return other.name == group.name && other.parts == group.parts;
      });
      if (same == out.groups.end()) {
        out.groups.push_back(std::move(group));
      } else {
        same->times += group.times;
      }
    }
  }
  return out;
}

std::string billions(std::uint64_t count) {
  const double value = static_cast<double>(count);
  if (value >= 1e12) return fmt::format("{:.3f} T", value / 1e12);
  if (value >= 1e9) return fmt::format("{:.3f} B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.3f} M", value / 1e6);
  return fmt::format("{}", count);
}

std::string giga(double flops) { return fmt::format("{:.1f}", flops / 1e9); }
std::string mebi(Bytes bytes) {
  return bytes.count == 0 ? "" : fmt::format("{:.1f}", static_cast<double>(bytes.count) / (1 << 20));
}
std::string gibi(Bytes bytes) { return fmt::format("{:.2f}", static_cast<double>(bytes.count) / (1 << 30)); }

void print_parts(std::ostream& out, const Answer& answer) {
  render::Table table;
  table.head = {"part",     "parameters",          "forward GFLOP", "backward_input", "backward_weight",
                "kept MiB", "for backward_weight", "sent MiB"};
  for (const PartGroup& group : answer.groups) {
    Work forward, input, weight;
    std::uint64_t parameters = 0;
    Bytes kept_sum, left_sum, sent_sum;
    std::vector<std::vector<std::string>> rows;
    for (const Part& part : group.parts) {
      const auto flops = [](const Work& work) { return work.flops > 0 ? giga(work.flops) : std::string(); };
      rows.push_back({"  " + part.name, part.parameters > 0 ? fmt::format("{}", part.parameters) : "",
                      flops(part.forward), flops(part.backward_input), flops(part.backward_weight),
                      mebi(kept(part)), mebi(left(part)), mebi(sent(part))});
      forward.flops += part.forward.flops;
      input.flops += part.backward_input.flops;
      weight.flops += part.backward_weight.flops;
      parameters += part.parameters;
      kept_sum += kept(part);
      left_sum += left(part);
      sent_sum += sent(part);
    }
    const std::string name = recomputed(group) ? group.name + ", recomputed" : group.name;
    table.rows.push_back({group.times > 1 ? fmt::format("{} x {}", group.times, name) : name,
                          fmt::format("{}", parameters), giga(forward.flops), giga(input.flops),
                          giga(weight.flops), mebi(kept_sum), mebi(left_sum), mebi(sent_sum)});
    table.rows.insert(table.rows.end(), rows.begin(), rows.end());
  }
  out << to_text(table);
}

void print_stages(std::ostream& out, const Answer& answer) {
  render::Table table;
  table.head = {"stage",
                "layers",
                "parameters",
                "weights GiB",
                "gradients GiB",
                "optimizer GiB",
                "kept MiB a microbatch",
                "for backward_weight",
                "message MiB"};
  for (std::size_t s = 0, end = 0; s < answer.stages.size(); s = end) {
    const StageBytes& stage = answer.stages[s];
    const StageContent& content = answer.layout.stages[s];
    for (end = s + 1; end < answer.stages.size() && answer.stages[end] == stage &&
                      answer.layout.stages[end].layers == content.layers;)
      ++end;
    std::string what = end - s > 1 ? fmt::format("{}-{}", s, end - 1) : fmt::format("{}", s);
    if (content.embedding) what += " embedding";
    if (content.multi_token_layers > 0) what += " mtp";
    if (content.head) what += " head";
    table.rows.push_back(
        {what, fmt::format("{}", content.layers), fmt::format("{}", stage.parameters), gibi(stage.weights),
         gibi(stage.gradients), gibi(stage.optimizer_state), mebi(stage.kept_by_forward),
         mebi(stage.kept_by_forward - stage.freed_by_backward_input + stage.added_by_backward_input),
         mebi(stage.activation_message)});
  }
  out << to_text(table);
}

// `128 heads of 192, key/value rank 512, FFN 18432, 256 experts of 2048 (8 a token, 2048 shared) in 58
// layers, …`
std::string sizes(const ModelShape& shape) {
  const AttentionShape& attention = shape.attention;
  std::string text = fmt::format("{} heads of {}", attention.heads, attention.head_dim);
  if (attention.latent) {
    text += fmt::format(", ranks of queries {} and of keys and values {}", attention.latent->query_rank,
                        attention.latent->key_value_rank);
  } else if (attention.key_value_heads != attention.heads) {
    text += fmt::format(", {} for keys and values", attention.key_value_heads);
  }
  text += fmt::format(", FFN {}", shape.ffn);
  if (shape.experts) {
    const ExpertsShape& experts = *shape.experts;
    text += fmt::format(", {} experts of {} ({} a token{}) in {} layers", experts.routed, experts.ffn,
                        experts.per_token,
                        experts.shared_ffn > 0 ? fmt::format(", {} shared", experts.shared_ffn) : "",
                        std::count(experts.in_layer.begin(), experts.in_layer.end(), true));
  }
  return text + fmt::format(", vocabulary {}{}", shape.vocab, shape.tied_embeddings ? " (tied)" : "");
}

std::string joined(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, ", "));
}

void print_text(std::ostream& out, const Answer& answer) {
  const ModelShape& shape = answer.config.shape;
  const Layout& layout = answer.layout;
  const Parallelism& parallelism = layout.parallelism;
  const std::uint64_t all = parameters(shape);
  const std::uint64_t active = active_parameters(shape);
  fmt::print(out, "{}: {} parameters ({}){}, {} layers, hidden {}\n", shape.name, billions(all), all,
             active != all ? fmt::format(", {} met by a token", billions(active)) : "", shape.layers,
             shape.hidden);
  if (shape.architecture == Architecture::transformer) fmt::print(out, "{}\n", sizes(shape));
  if (shape.multi_token_layers > 0)
    fmt::print(out, "and {} MTP module{} of {} together, which the counts above leave out\n",
               shape.multi_token_layers, shape.multi_token_layers == 1 ? "" : "s",
               billions(multi_token_parameters(shape)));
  for (const std::string& warning : answer.config.warnings) fmt::print(out, "note: {}\n", warning);
  if (!answer.config.warnings.empty()) {
    fmt::print(out, "read: {}\nignored: {}\n", joined(answer.config.read), joined(answer.config.ignored));
  }
  fmt::print(
      out,
      "{} sequence{} of {} tokens a microbatch, tp {} ep {} dp {}, {} stage{} ({}); {:.2f} GFLOP a token "
      "forward and backward\n\n",
      layout.micro_batch_size, layout.micro_batch_size == 1 ? "" : "s", layout.sequence, parallelism.tensor,
      parallelism.expert, parallelism.data, layout.stages.size(), layout.stages.size() == 1 ? "" : "s",
      to_megatron(layout.stages), train_flops_per_token(shape, layout.sequence) / 1e9);
  print_parts(out, answer);
  out << "Of one microbatch on one device. kept: from forward to backward_input; for backward_weight: from "
         "there "
         "to backward_weight.\n\n";
  print_stages(out, answer);
}

std::string strings(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ",") + json_quoted(word);
  return "[" + out + "]";
}

std::string work_json(const Work& work) {
  return fmt::format("{{\"flops\":{:.0f},\"moved_bytes\":{},\"sent_bytes\":{},\"workspace_bytes\":{}}}",
                     work.flops, work.moved.count, work.sent.count, work.workspace.count);
}

void print_part(std::ostream& out, const Part& part) {
  fmt::print(out,
             "{{\"name\":{},\"class\":\"{}\",\"parameters\":{},\"expert_parameters\":{},\"forward\":{},"
             "\"backward_input\":{},\"backward_weight\":{},\"kept\":[",
             json_quoted(part.name), to_string(part.part_class), part.parameters, part.expert_parameters,
             work_json(part.forward), work_json(part.backward_input), work_json(part.backward_weight));
  for (std::size_t i = 0; i < part.kept.size(); ++i) {
    const KeptTensor& tensor = part.kept[i];
    fmt::print(out,
               "{}{{\"name\":{},\"bytes\":{},\"for_backward_input\":{},\"for_backward_weight\":{},"
               "\"recomputed\":{}}}",
               i ? "," : "", json_quoted(tensor.name), tensor.bytes.count, tensor.for_input,
               tensor.for_weight, tensor.recomputed);
  }
  fmt::print(out, "],\"gradient_kept_bytes\":{}}}", part.gradient_kept.count);
}

void print_json(std::ostream& out, const Answer& answer) {
  const ModelShape& shape = answer.config.shape;
  const Layout& layout = answer.layout;
  fmt::print(out,
             "{{\"schema\":\"plumb.model/1\",\"name\":{},\"parameters\":{},\"active_parameters\":{},"
             "\"multi_token_parameters\":{},\"layers\":{},\"hidden\":{},\"ffn\":{},\"vocab\":{},\"heads\":{},"
             "\"key_value_heads\":{},\"experts\":{},\"experts_per_token\":{},\"multi_token_layers\":{},"
             "\"sequence\":{},\"train_flops_per_token\":{:.0f},\"micro_batch_size\":{},\"tp\":{},\"ep\":{},"
             "\"dp\":{},\"layout\":{},\"warnings\":{},\"read\":{},\"ignored\":{},\"groups\":[",
             json_quoted(shape.name), parameters(shape), active_parameters(shape),
             multi_token_parameters(shape), shape.layers, shape.hidden, shape.ffn, shape.vocab,
             shape.attention.heads, shape.attention.key_value_heads,
             shape.experts ? shape.experts->routed : 0, shape.experts ? shape.experts->per_token : 0,
             shape.multi_token_layers, layout.sequence, train_flops_per_token(shape, layout.sequence),
             layout.micro_batch_size, layout.parallelism.tensor, layout.parallelism.expert,
             layout.parallelism.data, json_quoted(to_megatron(layout.stages)),
             strings(answer.config.warnings), strings(answer.config.read), strings(answer.config.ignored));
  for (std::size_t g = 0; g < answer.groups.size(); ++g) {
    const PartGroup& group = answer.groups[g];
    fmt::print(out, "{}{{\"name\":{},\"times\":{},\"parts\":[", g ? "," : "", json_quoted(group.name),
               group.times);
    for (std::size_t i = 0; i < group.parts.size(); ++i) {
      if (i > 0) out << ",";
      print_part(out, group.parts[i]);
    }
    out << "]}";
  }
  out << "],\"stages\":[";
  for (std::size_t s = 0; s < answer.stages.size(); ++s) {
    const StageBytes& stage = answer.stages[s];
    const StageContent& content = layout.stages[s];
    fmt::print(
        out,
        "{}{{\"first_layer\":{},\"layers\":{},\"multi_token_layers\":{},\"embedding\":{},\"head\":{},"
        "\"parameters\":{},\"expert_parameters\":{},\"weights_bytes\":{},\"gradients_bytes\":{},"
        "\"optimizer_bytes\":{},\"kept_by_forward_bytes\":{},\"freed_by_backward_input_bytes\":{},"
        "\"added_by_backward_input_bytes\":{},\"activation_message_bytes\":{},\"gradient_message_bytes\":{}}"
        "}",
        s ? "," : "", content.first_layer, content.layers, content.multi_token_layers, content.embedding,
        content.head, stage.parameters, stage.expert_parameters, stage.weights.count, stage.gradients.count,
        stage.optimizer_state.count, stage.kept_by_forward.count, stage.freed_by_backward_input.count,
        stage.added_by_backward_input.count, stage.activation_message.count, stage.gradient_message.count);
  }
  out << "]}\n";
}

int run(const Options& options, Console& console) {
  const Answer found = answer(options);
  options.json ? print_json(console.out, found) : print_text(console.out, found);
  return 0;
}

}  // namespace

Command model_command(CLI::App& app) {
  auto* command = app.add_subcommand(
      "model", "What a model is made of: parameters, FLOPs, and bytes kept and sent, part by part");
  auto options = std::make_shared<Options>();
  options->model.add_model_to(*command, true);
  command->add_option("--stages", options->stages, "Cut it into even stages [1, or as many as --layout has]")
      ->type_name("N")
      ->check(CLI::Range(1u, 100'000u));
  options->model.add_layout_to(*command);
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
