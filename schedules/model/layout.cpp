#include "schedules/model/layout.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::string_view layout_flag = "--layout";

// Expands what is in parentheses and what is repeated; every letter remembers where in the text it stood.
class StageTokens {
 public:
  struct Token {
    char letter;
    std::size_t position;
  };

  explicit StageTokens(std::string_view text) : text_(text) {}

  std::vector<Token> read() {
    std::vector<Token> tokens = sequence(0);
    if (at_ < text_.size()) fail(at_, "')' closes nothing");
    return tokens;
  }

  [[noreturn]] static void fail(std::size_t position, std::string_view what) {
    throw BadInput(layout_flag, fmt::format("at character {}: {}", position + 1, what));
  }

 private:
  static constexpr std::size_t most = 1u << 16;  // tokens, so that a short text cannot fill the memory

  std::vector<Token> sequence(int depth) {
    std::vector<Token> out;
    while (at_ < text_.size() && text_[at_] != ')') {
      const char c = text_[at_];
      if (c == ' ' || c == ',' || c == '\t' || c == '\n' || c == '\r') {
        ++at_;
        continue;
      }
      std::vector<Token> item;
      if (c == '(') {
        const std::size_t opened = at_++;
        if (depth == 16) fail(opened, "parentheses are nested deeper than 16");
        item = sequence(depth + 1);
        if (at_ == text_.size()) fail(opened, "'(' is never closed");
        ++at_;
      } else if (std::string_view("EtmL|").find(c) != std::string_view::npos) {
        item.push_back({c, at_++});
      } else {
        fail(at_, fmt::format("'{}' is none of E (embedding), t (layer), m (MTP module), L (loss), | (next "
                              "stage), (…)*n",
                              printable(c)));
      }
      const std::size_t times = repetitions();
      if (item.size() * times + out.size() > most) fail(at_, fmt::format("more than {} letters", most));
      for (std::size_t i = 0; i < times; ++i) out.insert(out.end(), item.begin(), item.end());
    }
    return out;
  }

  std::size_t repetitions() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    if (at_ == text_.size() || text_[at_] != '*') return 1;
    const std::size_t star = at_++;
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    std::size_t number = 0;
    bool any = false;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      number = std::min(most + 1, number * 10 + static_cast<std::size_t>(text_[at_] - '0'));
      any = true;
    }
    if (!any || number == 0) fail(star, "'*' needs a number from 1 behind it");
    return number;
  }

  static std::string printable(char c) {
    return c > ' ' && c < 127 ? std::string(1, c) : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

bool empty(const StageContent& stage) {
  return stage.layers == 0 && stage.multi_token_layers == 0 && !stage.embedding && !stage.head;
}

std::string run(char letter, std::uint64_t count) {
  if (count > 3) return fmt::format("{}*{}", letter, count);
  return std::string(count, letter);
}

std::string letters(const StageContent& stage) {
  return (stage.embedding ? "E" : "") + run('t', stage.layers) + run('m', stage.multi_token_layers) +
         (stage.head ? "L" : "");
}

// All layers once and in order, the embedding in front and the head at the end. `fail(stage, what)` throws.
template <class Fail>
void check_stages(const ModelShape& model, const std::vector<StageContent>& stages, const Fail& fail) {
  const bool embeds = model.architecture == Architecture::transformer;
  for (std::size_t s = 0; s < stages.size(); ++s) {
    if (empty(stages[s])) fail(s, "is empty");
  }
  std::uint64_t layers = 0;
  std::uint64_t multi_token = 0;
  for (std::size_t s = 0; s < stages.size(); ++s) {
    const StageContent& stage = stages[s];
    if (stage.embedding && s != 0) fail(s, "holds the embedding, which belongs on the first stage");
    if (stage.head && s + 1 != stages.size()) fail(s, "holds the head, which belongs on the last stage");
    if (stage.layers > 0 && stage.first_layer != layers)
      fail(s, fmt::format("begins with layer {}, expected layer {}", stage.first_layer, layers));
    if (stage.layers > 0 && multi_token > 0) fail(s, "has layers behind an MTP module");
    if (stage.layers > model.layers - layers)
      fail(s, fmt::format("ends with layer {}; the model has {}", layers + stage.layers - 1, model.layers));
    layers += stage.layers;
    if (stage.multi_token_layers > 0 && layers < model.layers)
      fail(s, fmt::format("has an MTP module before the last {} layers", model.layers - layers));
    if (stage.multi_token_layers > model.multi_token_layers - multi_token)
      fail(s, fmt::format("holds MTP module {}; the model has {}", multi_token + stage.multi_token_layers,
                          model.multi_token_layers));
    multi_token += stage.multi_token_layers;
  }
  const std::size_t last = stages.size() - 1;
  if (layers < model.layers)
    fail(last,
         fmt::format("is the last, but only {} of the model's {} layers are placed", layers, model.layers));
  // No module at all is a choice: training without the extra loss.
  if (multi_token > 0 && multi_token < model.multi_token_layers)
    fail(last, fmt::format("is the last, but only {} of {} MTP modules are placed", multi_token,
                           model.multi_token_layers));
  if (embeds && !stages.front().embedding) fail(0, "has no embedding (E)");
  if (!embeds && stages.front().embedding) fail(0, "holds an embedding, which an mlp does not have");
  if (!stages.back().head) fail(last, "has no head and loss (L)");
}

}  // namespace

std::vector<StageContent> even_stages(const ModelShape& model, std::uint32_t stages) {
  if (stages == 0) throw BadInput("stages", "there must be one at least");
  if (stages > model.layers)
    throw BadInput("stages",
                   fmt::format("{} stages are more than the model's {} layers", stages, model.layers));
  const std::uint64_t most = (model.layers + stages - 1) / stages;
  std::vector<StageContent> out(stages);
  for (StageContent& stage : out) stage.layers = most;
  const std::uint64_t short_ones = most * stages - model.layers;
  for (std::uint64_t i = 0; i < short_ones; ++i) out[i % 2 == 0 ? stages - 1 - i / 2 : i / 2].layers -= 1;
  std::uint64_t first = 0;
  for (StageContent& stage : out) {
    stage.first_layer = first;
    first += stage.layers;
  }
  out.front().embedding = model.architecture == Architecture::transformer;
  out.back().multi_token_layers = model.multi_token_layers;
  out.back().head = true;
  return out;
}

std::vector<StageContent> parse_stages(std::string_view text, const ModelShape& model) {
  if (text.size() > (1u << 16)) throw BadInput(layout_flag, "is longer than 65536 characters");
  const std::vector<StageTokens::Token> tokens = StageTokens(text).read();
  std::vector<StageContent> stages(1);
  std::vector<std::size_t> positions(1, 0);  // [stage]: of its first letter
  std::uint64_t layers = 0;
  bool fresh = true;
  for (const auto [letter, position] : tokens) {
    StageContent& stage = stages.back();
    if (letter == '|') {
      if (empty(stage)) StageTokens::fail(position, fmt::format("stage {} is empty", stages.size() - 1));
      stages.emplace_back().first_layer = layers;
      positions.push_back(position + 1);
      fresh = true;
      continue;
    }
    if (std::exchange(fresh, false)) positions.back() = position;
    const auto fail = [&](std::string_view what) { StageTokens::fail(position, what); };
    if (stage.head) fail("nothing comes behind L, the head and loss");
    if (letter == 'E') {
      if (stages.size() > 1 || !empty(stage)) fail("E, the embedding, comes first of all");
      stage.embedding = true;
    } else if (letter == 't') {
      if (stage.multi_token_layers > 0) fail("a layer (t) behind an MTP module (m)");
      if (layers == model.layers) fail(fmt::format("one layer more than the model's {}", model.layers));
      ++stage.layers;
      ++layers;
    } else if (letter == 'm') {
      ++stage.multi_token_layers;
    } else {
      stage.head = true;
    }
  }
  check_stages(model, stages, [&](std::size_t s, const std::string& what) {
    StageTokens::fail(std::min(positions[s], text.size()), fmt::format("stage {} {}", s, what));
  });
  return stages;
}

std::string to_megatron(const std::vector<StageContent>& stages) {
  std::vector<std::string> each;
  for (const StageContent& stage : stages) each.push_back(letters(stage));
  std::string out;
  for (std::size_t s = 0; s < each.size();) {
    std::size_t end = s + 1;
    while (end < each.size() && each[end] == each[s]) ++end;
    // The last stage of all has no | behind it, so it stays out of the parentheses.
    const std::size_t folded = end == each.size() ? end - 1 - s : end - s;
    std::string plain;
    for (std::size_t i = 0; i < folded; ++i) plain += each[s] + "|";
    const std::string short_form = fmt::format("({}|)*{}", each[s], folded);
    out += folded > 1 && short_form.size() < plain.size() ? short_form : plain;
    if (end == each.size()) out += each[s];
    s = end;
  }
  return out;
}

void set_recompute(std::vector<StageContent>& stages, std::string_view text) {
  constexpr std::string_view where = "--recompute";
  constexpr std::string_view example = "as in full, or full:0-3,selective:5,none";
  std::vector<std::optional<Recompute>> chosen(stages.size());
  std::optional<Recompute> others;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view item = text.substr(begin, end - begin);
    begin = end + 1;
    const std::size_t colon = std::min(item.find(':'), item.size());
    const std::string_view kind = item.substr(0, colon);
    if (kind != "none" && kind != "selective" && kind != "full")
      throw BadInput(where,
                     fmt::format("'{}' is not none, selective or full, {}", kind.substr(0, 60), example));
    const Recompute how = kind == "none"   ? Recompute::none
                          : kind == "full" ? Recompute::full
                                           : Recompute::selective;
    if (colon == item.size()) {
      if (others) throw BadInput(where, fmt::format("'{}': what the other stages do is said twice", text));
      others = how;
      continue;
    }
    const std::string_view range = item.substr(colon + 1);
    const std::size_t dash = std::min(range.find('-'), range.size());
    const auto stage = [&](std::string_view digits) {
      std::size_t number = 0;
      const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
      if (error != std::errc{} || stop != digits.data() + digits.size() || number >= stages.size())
        throw BadInput(where,
                       fmt::format("'{}' in '{}' is not a stage from 0 to {}, {}", digits.substr(0, 60),
                                   item.substr(0, 60), stages.size() - 1, example));
      return number;
    };
    const std::size_t first = stage(range.substr(0, dash));
    const std::size_t last = dash == range.size() ? first : stage(range.substr(dash + 1));
    if (last < first) throw BadInput(where, fmt::format("'{}' ends before it begins", item));
    for (std::size_t s = first; s <= last; ++s) {
      if (chosen[s]) throw BadInput(where, fmt::format("stage {} is named twice", s));
      chosen[s] = how;
    }
  }
  for (std::size_t s = 0; s < stages.size(); ++s)
    stages[s].recompute = chosen[s].value_or(others.value_or(Recompute::none));
}

void check_layout(const ModelShape& model, const Layout& layout) {
  const Parallelism& parallelism = layout.parallelism;
  const std::uint64_t tensor = parallelism.tensor;
  const auto refuse = [](std::string_view where, const std::string& what) { throw BadInput(where, what); };
  if (parallelism.pipeline == 0 || tensor == 0 || parallelism.data == 0 || parallelism.expert == 0)
    refuse("--layout", "a degree of parallelism is 0; 1 means none");
  if (layout.micro_batch_size == 0) refuse("--micro-batch-size", "is 0");
  if (layout.sequence == 0) refuse("--sequence", "is 0");
  if (layout.stages.empty()) refuse("--layout", "has no stages");
  check_stages(model, layout.stages, [&](std::size_t s, const std::string& what) {
    refuse("--layout", fmt::format("stage {} {}", s, what));
  });

  if (model.architecture == Architecture::mlp) {
    if (tensor > 1) refuse("--tp", "an mlp stage is not split; expected 1");
    if (parallelism.expert > 1) refuse("--ep", "an mlp has no experts; expected 1");
  } else {
    const AttentionShape& attention = model.attention;
    if (model.position == PositionKind::learned && layout.sequence > model.learned_positions)
      refuse("--sequence", fmt::format("{} tokens are more than the model's {} learned positions",
                                       layout.sequence, model.learned_positions));
    if (attention.heads % tensor != 0)
      refuse("--tp", fmt::format("{} does not divide the {} attention heads", tensor, attention.heads));
    if (!attention.latent && attention.key_value_heads % tensor != 0 &&
        tensor % attention.key_value_heads != 0)
      refuse("--tp", fmt::format("{} neither divides the {} key/value heads nor is a multiple of them",
                                 tensor, attention.key_value_heads));
    if (model.ffn % tensor != 0)
      refuse("--tp", fmt::format("{} does not divide the FFN's {}", tensor, model.ffn));
    if (model.experts && model.experts->shared_ffn % tensor != 0)
      refuse("--tp",
             fmt::format("{} does not divide the shared experts' {}", tensor, model.experts->shared_ffn));
    if (tensor > 1 && parallelism.sequence_parallel && layout.sequence % tensor != 0)
      refuse("--tp",
             fmt::format("{} does not divide the sequence of {} tokens, which sequence parallelism splits",
                         tensor, layout.sequence));
    if (parallelism.expert > 1 && !model.experts) refuse("--ep", "the model has no experts; expected 1");
    if (model.experts && tensor > 1 && !parallelism.sequence_parallel)
      refuse(
          "tp",
          "experts beside tensor parallelism need sequence parallelism: each device routes its own tokens");
    if (tensor * parallelism.data % parallelism.expert != 0)
      refuse("--ep", fmt::format("{} does not divide tp x dp = {} x {}", parallelism.expert, tensor,
                                 parallelism.data));
    if (model.experts && model.experts->routed % parallelism.expert != 0)
      refuse("--ep", fmt::format("{} does not divide the {} routed experts", parallelism.expert,
                                 model.experts->routed));
  }

  // What a microbatch keeps on a stage, from above: as many elements a token and layer as the widest tensors
  // have, 16 of them, in float32; scores beside.
  const double tokens = static_cast<double>(layout.micro_batch_size) * static_cast<double>(layout.sequence);
  double width = static_cast<double>(model.hidden) + static_cast<double>(model.ffn) +
                 static_cast<double>(model.vocab) +
                 static_cast<double>(model.attention.heads) * static_cast<double>(model.attention.head_dim) +
                 static_cast<double>(model.attention.heads) * static_cast<double>(layout.sequence);
  if (model.attention.latent) {
    const LatentAttention& latent = *model.attention.latent;
    width +=
        static_cast<double>(model.attention.heads) * static_cast<double>(latent.nope_dim + latent.value_dim) +
        static_cast<double>(latent.query_rank + latent.key_value_rank + latent.rope_dim);
  }
  if (model.experts) {
    width += static_cast<double>(model.experts->per_token) *
                 static_cast<double>(model.experts->ffn + model.hidden) +
             static_cast<double>(model.experts->routed + model.experts->shared_ffn);
  }
  const double layers = static_cast<double>(model.layers + model.multi_token_layers + 1);
  if (tokens * width * layers * 16 * 4 > 4e18)
    refuse("--micro-batch-size",
           fmt::format("{} sequences of {} tokens would keep more bytes than can be counted",
                       layout.micro_batch_size, layout.sequence));
}

}  // namespace plumb
