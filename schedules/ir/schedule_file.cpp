#include "schedules/ir/schedule_file.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <set>
#include <variant>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace plumb {
namespace {

using nlohmann::json;

constexpr std::string_view schema = "plumb.schedule/1";

// Shows a foreign token in a message: short, and without control characters.
std::string shown(std::string_view text) {
  std::string out = "'";
  for (const char c : text.substr(0, 40)) out += c >= ' ' && c < 127 ? c : '?';
  return out + (text.size() > 40 ? "…'" : "'");
}

using Element = std::variant<Action, Message, Collective>;

// One token that is no group: an op, a pair, a message or a collective.
std::optional<Element> parse_element(std::string_view token) {
  if (const auto action = parse_action(token)) return *action;
  const auto op = parse_op(token);
  if (!op) return std::nullopt;
  if (is_message(op->kind)) return Message{*op, unknown_peer};
  return Collective{*op};
}

constexpr std::string_view token_grammar =
    "a token such as 0F3, 2I1, 2W1, 3B0, (0F5;3B2)OVERLAP_F_B, 1SEND_F0, 2RECV_B4 or 0REDUCE_GRAD";

void push_batch(LoweredRank& rank, const std::vector<Message>& messages, bool waited_together) {
  rank.steps.emplace_back(CommBatch{static_cast<std::uint32_t>(rank.messages.size()),
                                    static_cast<std::uint32_t>(messages.size()), waited_together});
  rank.messages.insert(rank.messages.end(), messages.begin(), messages.end());
}

void push_element(LoweredRank& rank, const Element& element) {
  if (const auto* message = std::get_if<Message>(&element)) return push_batch(rank, {*message}, false);
  if (const auto* action = std::get_if<Action>(&element)) {
    rank.steps.emplace_back(*action);
  } else {
    rank.steps.emplace_back(std::get<Collective>(element));
  }
}

// Flat tokens name no peer: it is the rank of the neighbouring op. Where nobody runs that op the peer stays
// unknown and `check` says what is missing.
void fill_in_peers(LoweredSchedule& lowered) {
  std::map<Op, Rank> rank_of;  // of forward and of whatever makes the input gradient, spelled backward
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    for (const Step& step : lowered.per_rank[r].steps) {
      const auto* action = std::get_if<Action>(&step);
      if (!action) continue;
      for (const Op& op : *action) {
        if (op.kind == OpKind::forward) rank_of.emplace(op, Rank{r});
        if (gives_input_gradient(op.kind))
          rank_of.emplace(Op{op.stage, op.microbatch, OpKind::backward}, Rank{r});
      }
    }
  }
  for (LoweredRank& rank : lowered.per_rank) {
    for (Message& message : rank.messages) {
      if (message.peer != unknown_peer) continue;
      const Op& op = message.op;
      const bool forward = op.kind == OpKind::send_forward || op.kind == OpKind::recv_forward;
      const bool to_next = op.kind == OpKind::send_forward || op.kind == OpKind::recv_backward;
      const Op neighbour{Stage{to_next ? op.stage.value + 1 : op.stage.value - 1}, op.microbatch,
                         forward ? OpKind::forward : OpKind::backward};
      if (const auto found = rank_of.find(neighbour); found != rank_of.end()) message.peer = found->second;
    }
  }
}

// Reads plumb.schedule/1 as the parser meets it: no tree is built, so nothing grows but the schedule.
class ScheduleReader : public nlohmann::json_sax<json> {
 public:
  explicit ScheduleReader(std::string_view where) : where_(where) {}

  ScheduleFile take() {
    for (const char* key : {"schema", "ranks", "stages", "microbatches", "actions"}) {
      if (!keys_.contains(key)) throw BadInput(where_, fmt::format("has no key \"{}\"", key));
    }
    auto& per_rank = file_.lowered.per_rank;
    if (ranks_ > max_ranks)
      throw BadInput(where_, fmt::format("/ranks: {} is beyond the limit of {}", ranks_, max_ranks));
    if (per_rank.size() > ranks_) {
      throw BadInput(where_, fmt::format("/actions has {} lists for {} ranks", per_rank.size(), ranks_));
    }
    per_rank.resize(ranks_);
    for (const LoweredRank& rank : per_rank) {
      file_.has_messages |= !rank.messages.empty();
      for (const Step& step : rank.steps) {
        const auto* batch = std::get_if<CommBatch>(&step);
        if (batch && batch->waited_together) file_.lowered.placement = CommPlacement::batched;
      }
    }
    if (file_.has_messages) fill_in_peers(file_.lowered);
    return std::move(file_);
  }

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t value) override { return scalar(fmt::format("{}", value)); }
  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ == 1) {
      const auto take = [&](std::uint32_t& into) {
        if (value == 0 || value > 0xffffffff)
          fail(fmt::format("{} is not a number from 1 to 4294967295", value));
        into = static_cast<std::uint32_t>(value);
        return true;
      };
      if (key_ == "ranks") return take(ranks_);
      if (key_ == "stages") return take(file_.lowered.stages);
      if (key_ == "microbatches") return take(file_.lowered.microbatches);
    }
    if (in_message_ && message_items_ == 1) {
      if (value >= 0xffffffff) fail("the peer is no rank");
      group_.back().peer = Rank{static_cast<std::uint32_t>(value)};
      ++message_items_;
      return true;
    }
    return scalar(fmt::format("{}", value));
  }
  bool number_float(number_float_t, const string_t& text) override { return scalar(text); }
  bool binary(binary_t&) override { return scalar("binary data"); }

  bool string(string_t& value) override {
    if (depth_ == 1) {
      if (key_ == "schema" && value != schema) fail(fmt::format("{} is not {}", shown(value), schema));
      if (key_ == "name") file_.lowered.name = value;
      if (key_ == "schema" || key_ == "name") return true;
    }
    if (in_message_ && message_items_ == 0) {
      const auto op = parse_op(value);
      if (!op || !is_message(op->kind)) fail(fmt::format("{} is no send or receive token", shown(value)));
      group_.push_back({*op, unknown_peer});
      ++message_items_;
      return true;
    }
    if (in_row_ && !in_group_) {
      const auto element = parse_element(value);
      if (!element) fail(fmt::format("{} is no action; expected {}", shown(value), token_grammar));
      push_element(file_.lowered.per_rank.back(), *element);
      return true;
    }
    return scalar(shown(value));
  }

  bool start_object(std::size_t) override {
    if (++depth_ == 1) return true;
    if (in_row_ && !in_group_) {
      in_group_ = true;
      group_seen_ = false;
      group_.clear();
      return true;
    }
    return nested("an object");
  }
  bool key(string_t& key) override {
    if (depth_ == 1) {
      if (!keys_.insert(key).second)
        throw BadInput(where_, fmt::format("the key {} stands twice", shown(key)));
      key_ = key;
    } else if (in_group_ && skip_ == 0) {
      if (key != "group" || group_seen_)
        fail(fmt::format("{} where the one key \"group\" was expected", shown(key)));
      group_seen_ = true;
    }
    return true;
  }
  bool end_object() override {
    --depth_;
    if (skip_ > 0) {
      --skip_;
    } else if (in_group_) {
      if (!group_seen_) fail("a group element without the key \"group\"");
      push_batch(file_.lowered.per_rank.back(), group_, true);
      in_group_ = false;
    }
    return true;
  }
  bool start_array(std::size_t) override {
    ++depth_;
    if (depth_ == 1) throw BadInput(where_, "is a list, not a plumb.schedule/1 object");
    if (depth_ == 2 && key_ == "actions") return true;
    if (depth_ == 3 && key_ == "actions" && skip_ == 0) {
      in_row_ = true;
      file_.lowered.per_rank.emplace_back();
      return true;
    }
    if (in_group_ && depth_ == 5 && skip_ == 0) return in_list_ = true;
    if (in_group_ && depth_ == 6 && in_list_ && skip_ == 0) {
      in_message_ = true;
      message_items_ = 0;
      return true;
    }
    return nested("a list");
  }
  bool end_array() override {
    --depth_;
    if (skip_ > 0) {
      --skip_;
    } else if (in_message_) {
      if (message_items_ != 2) fail("a message of a group is [token, peer]");
      in_message_ = false;
    } else if (in_list_) {
      in_list_ = false;
    } else if (in_row_) {
      in_row_ = false;
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string text = error.what();
    if (const auto at = text.find("] "); at != std::string::npos) text.erase(0, at + 2);
    throw BadInput(where_, fmt::format("is not JSON at byte {}: {}", position, text.substr(0, 200)));
  }

 private:
  // A value that means nothing here. Beside the known keys anything may stand; inside them nothing else.
  bool scalar(const std::string& found) {
    if (depth_ == 0) throw BadInput(where_, "is not a plumb.schedule/1 object");
    const bool known = key_ == "schema" || key_ == "name" || key_ == "ranks" || key_ == "stages" ||
                       key_ == "microbatches" || key_ == "actions";
    if (known && skip_ == 0) fail(fmt::format("{} does not belong here", found));
    return true;
  }
  bool nested(const char* found) {
    if (depth_ > 64) throw BadInput(where_, "is nested deeper than 64 levels");
    scalar(found);
    ++skip_;
    return true;
  }
  [[noreturn]] void fail(const std::string& what) const {
    std::string pointer = "/" + key_;
    if (key_ == "actions" && !file_.lowered.per_rank.empty()) {
      pointer += fmt::format("/{}", file_.lowered.per_rank.size() - 1);
      if (in_row_) pointer += fmt::format("/{}", file_.lowered.per_rank.back().steps.size());
    }
    throw BadInput(where_, fmt::format("{}: {}", pointer, what));
  }

  std::string where_;
  ScheduleFile file_;
  std::uint32_t ranks_ = 0;
  std::set<std::string> keys_;
  std::string key_;  // of the outermost object
  std::size_t depth_ = 0;
  std::size_t skip_ = 0;  // open brackets inside unknown keys
  bool in_row_ = false;
  bool in_group_ = false;
  bool group_seen_ = false;
  bool in_list_ = false;
  bool in_message_ = false;
  int message_items_ = 0;
  std::vector<Message> group_;
};

ScheduleFile parse_json(std::string_view content, std::string_view where) {
  ScheduleReader reader(where);
  json::sax_parse(content.begin(), content.end(), &reader);
  return reader.take();
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// Splits at a separator; the last part may be empty.
template <class Visit>
void for_each_part(std::string_view text, char separator, Visit visit) {
  for (std::size_t begin = 0;;) {
    const auto end = text.find(separator, begin);
    visit(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    if (end == std::string_view::npos) return;
    begin = end + 1;
  }
}

// A headless form says neither how many microbatches nor how many stages there are. A wrong op must not
// stretch them: the microbatches are as many as the stage with the most different forwards has, the stages
// those that have at least half of them.
void infer_shape(LoweredSchedule& lowered) {
  std::map<std::uint32_t, std::set<std::uint32_t>> forwards;  // stage -> microbatches
  for (const LoweredRank& rank : lowered.per_rank) {
    for (const Step& step : rank.steps) {
      const auto* action = std::get_if<Action>(&step);
      if (!action) continue;
      for (const Op& op : *action) {
        auto& of_stage = forwards[op.stage.value];
        if (op.kind == OpKind::forward) of_stage.insert(op.microbatch.value);
      }
    }
  }
  std::size_t most = 0;
  for (const auto& [stage, microbatches] : forwards) most = std::max(most, microbatches.size());
  std::uint32_t stages = 0;
  for (const auto& [stage, microbatches] : forwards) {
    if (2 * microbatches.size() >= most && microbatches.size() > 0) ++stages;
  }
  lowered.microbatches = static_cast<std::uint32_t>(most);
  lowered.stages = stages;
}

// The CSVs of 2024 wrote B for the input gradient and BW for both halves. They are told by a BW, or by a W
// without any I.
struct Letters {
  bool has_bw = false, has_weight = false, has_input = false;
  bool old() const { return has_bw || (has_weight && !has_input); }
};

void to_present_letters(LoweredSchedule& lowered) {
  for (LoweredRank& rank : lowered.per_rank) {
    for (Step& step : rank.steps) {
      if (auto* action = std::get_if<Action>(&step)) {
        const auto present = [](Op op) {
          if (op.kind == OpKind::backward) op.kind = OpKind::backward_input;
          return op;
        };
        *action = action->is_pair() ? Action(present(action->first()), present(action->second()))
                                    : Action(present(action->first()));
      }
    }
  }
}

ScheduleFile parse_csv(std::string_view content, std::string_view where) {
  ScheduleFile file;
  file.form = ScheduleForm::pytorch_csv;
  Letters seen;
  std::vector<std::pair<std::size_t, std::size_t>> fused;  // rank, step of a BW
  while (!content.empty() && (content.back() == '\n' || content.back() == '\r' || content.back() == ' ')) {
    content.remove_suffix(1);
  }
  std::size_t line = 0;
  for_each_part(content, '\n', [&](std::string_view row) {
    ++line;
    LoweredRank& rank = file.lowered.per_rank.emplace_back();
    auto& elements = file.elements.emplace_back();
    std::uint32_t cell = 0;
    for_each_part(row, ',', [&](std::string_view text) {
      const std::uint32_t at = cell++;
      text = trimmed(text);
      if (text.size() >= 2 && text.front() == '"' && text.back() == '"')
        text = trimmed(text.substr(1, text.size() - 2));
      if (text.empty()) return;
      std::string rewritten;
      const auto bw = text.find("BW");
      if (bw != std::string_view::npos && text.front() != '(') {
        rewritten = std::string(text).erase(bw + 1, 1);
        seen.has_bw = true;
      }
      const auto element = parse_element(rewritten.empty() ? text : std::string_view(rewritten));
      if (!element) {
        throw BadInput(where, fmt::format("line {}, cell {}: {} is no action; expected {}", line, at + 1,
                                          shown(text), token_grammar));
      }
      if (!rewritten.empty()) fused.emplace_back(file.lowered.per_rank.size() - 1, rank.steps.size());
      if (const auto* action = std::get_if<Action>(&*element)) {
        for (const Op& op : *action) {
          seen.has_weight |= op.kind == OpKind::backward_weight;
          seen.has_input |= op.kind == OpKind::backward_input;
        }
      }
      push_element(rank, *element);
      elements.push_back(at);
      file.has_messages |= std::holds_alternative<Message>(*element);
    });
  });
  if (seen.old()) {
    std::vector<Step> kept;
    for (const auto& [rank, step] : fused) kept.push_back(file.lowered.per_rank[rank].steps[step]);
    to_present_letters(file.lowered);
    for (std::size_t k = 0; k < fused.size(); ++k)
      file.lowered.per_rank[fused[k].first].steps[fused[k].second] = kept[k];
  }
  infer_shape(file.lowered);
  if (file.has_messages) fill_in_peers(file.lowered);
  return file;
}

// Our text form: `plumb.schedule/1 NAME ranks=P stages=S microbatches=M`, then `RANK: token token …`, a group
// as `{ 0SEND_F0>1 3RECV_F4<1 }`.
ScheduleFile parse_text(std::string_view content, std::string_view where) {
  ScheduleFile file;
  file.form = ScheduleForm::text;
  std::size_t line = 0;
  std::uint32_t ranks = 0;
  const auto number = [&](std::string_view text) {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
      throw BadInput(where, fmt::format("line {}: {} is no number", line, shown(text)));
    }
    return value;
  };
  for_each_part(content, '\n', [&](std::string_view row) {
    ++line;
    row = trimmed(row);
    if (row.empty() || row.front() == '#') return;
    if (line == 1) {
      std::size_t word = 0;
      for_each_part(row, ' ', [&](std::string_view text) {
        const auto value_of = [&](std::string_view key, std::uint32_t& into) {
          if (text.starts_with(key)) into = number(text.substr(key.size()));
        };
        if (word++ == 1) file.lowered.name = text;
        value_of("ranks=", ranks);
        value_of("stages=", file.lowered.stages);
        value_of("microbatches=", file.lowered.microbatches);
      });
      if (ranks == 0 || file.lowered.stages == 0 || file.lowered.microbatches == 0) {
        throw BadInput(where, "line 1: expected ranks=, stages= and microbatches=, each at least 1");
      }
      return;
    }
    const auto colon = row.find(':');
    if (colon == std::string_view::npos)
      throw BadInput(where, fmt::format("line {}: expected 'RANK: tokens'", line));
    if (number(row.substr(0, colon)) != file.lowered.per_rank.size()) {
      throw BadInput(where, fmt::format("line {}: expected rank {}", line, file.lowered.per_rank.size()));
    }
    LoweredRank& rank = file.lowered.per_rank.emplace_back();
    bool in_group = false;
    std::vector<Message> group;
    for_each_part(row.substr(colon + 1), ' ', [&](std::string_view text) {
      const auto fail = [&] {
        throw BadInput(where, fmt::format("line {}, element {}: {} is no action; expected {}", line,
                                          rank.steps.size(), shown(text), token_grammar));
      };
      if (text.empty()) return;
      if (text == "{" && !in_group) {
        in_group = true;
        group.clear();
      } else if (text == "}" && in_group) {
        in_group = false;
        push_batch(rank, group, true);
        file.lowered.placement = CommPlacement::batched;
      } else if (in_group) {
        const auto arrow = text.find_first_of("<>");
        const auto op = parse_op(text.substr(0, arrow));
        if (arrow == std::string_view::npos || !op || !is_message(op->kind)) fail();
        group.push_back({*op, Rank{number(text.substr(arrow + 1))}});
      } else {
        const auto element = parse_element(text);
        if (!element) fail();
        push_element(rank, *element);
      }
    });
    if (in_group) throw BadInput(where, fmt::format("line {}: a group is not closed", line));
    file.has_messages |= !rank.messages.empty();
  });
  if (file.lowered.per_rank.size() > ranks)
    throw BadInput(where, fmt::format("has more lists than {} ranks", ranks));
  if (ranks > max_ranks)
    throw BadInput(where, fmt::format("{} ranks are beyond the limit of {}", ranks, max_ranks));
  file.lowered.per_rank.resize(ranks);
  if (file.has_messages) fill_in_peers(file.lowered);
  return file;
}

// The stage that lives on two ranks, if there is one, with its second rank.
struct TwoOwners {
  Stage stage;
  Rank first, second;
};
std::optional<TwoOwners> two_owners(const Schedule& schedule) {
  const auto ranks_of = owners(schedule);
  for (std::uint32_t s = 0; s < schedule.stages; ++s) {
    if (ranks_of[s].size() > 1) return TwoOwners{Stage{s}, ranks_of[s][0], ranks_of[s][1]};
  }
  return std::nullopt;
}

void refuse_two_owners(const Schedule& schedule) {
  if (const auto found = two_owners(schedule)) {
    throw BadInput(
        schedule.name,
        fmt::format("PyTorch runs each stage on one rank, and stage {} lives on ranks {} and {}; dualpipe-v "
                    "has the same overlap with one copy of the model and can be exported",
                    found->stage.value, found->first.value, found->second.value));
  }
}

// Collects output in a buffer and hands it to the stream in pieces.
class Writer {
 public:
  explicit Writer(std::ostream& out) : out_(out) {}
  ~Writer() { flush(); }
  std::string text;
  void drain() {
    if (text.size() > (1u << 16)) flush();
  }

 private:
  void flush() {
    out_.write(text.data(), static_cast<std::streamsize>(text.size()));
    text.clear();
  }
  std::ostream& out_;
};

void append_json_head(std::string& text, const std::string& name, std::uint32_t ranks, std::uint32_t stages,
                      std::uint32_t microbatches) {
  text += fmt::format(
      "{{\"schema\":\"{}\",\"name\":{},\"ranks\":{},\"stages\":{},\"microbatches\":{},\"actions\":[", schema,
      json(name).dump(-1, ' ', false, json::error_handler_t::replace), ranks, stages, microbatches);
}

std::string text_head(const std::string& name, std::uint32_t ranks, std::uint32_t stages,
                      std::uint32_t microbatches) {
  return fmt::format("{} {} ranks={} stages={} microbatches={}\n", schema, name.empty() ? "unnamed" : name,
                     ranks, stages, microbatches);
}

}  // namespace

std::string read_input(const std::string& path) {
  const bool from_stdin = path == "-";
  const std::string where = from_stdin ? "standard input" : path;
  std::error_code ignored;
  if (!from_stdin && std::filesystem::is_directory(path, ignored))
    throw BadInput(where, "is a folder, not a file");
  struct Close {
    void operator()(std::FILE* file) const {
      if (file != stdin) std::fclose(file);
    }
  };
  const std::unique_ptr<std::FILE, Close> file(from_stdin ? stdin : std::fopen(path.c_str(), "rb"));
  if (!file) throw BadInput(where, fmt::format("cannot be read: {}", std::strerror(errno)));
  std::string content;
  std::vector<char> block(1 << 20);
  while (const std::size_t count = std::fread(block.data(), 1, block.size(), file.get())) {
    if (std::memchr(block.data(), 0, count) != nullptr) throw BadInput(where, "is binary, not text");
    content.append(block.data(), count);
    if (content.size() > max_input_bytes) {
      throw BadInput(where, fmt::format("is larger than the limit of {} MiB", max_input_bytes >> 20));
    }
  }
  if (std::ferror(file.get())) throw BadInput(where, fmt::format("cannot be read: {}", std::strerror(errno)));
  return content;
}

ScheduleFile parse_schedule(std::string_view content, std::string_view where) {
  if (content.starts_with("\xef\xbb\xbf")) content.remove_prefix(3);
  const auto first = content.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos)
    throw BadInput(where, "is empty; expected plumb.schedule/1 or a PyTorch schedule CSV");
  if (content[first] == '{' || content[first] == '[') return parse_json(content, where);
  if (content.substr(first).starts_with(schema)) return parse_text(content.substr(first), where);
  return parse_csv(content, where);
}

CheckResult check(const ScheduleFile& file) {
  const LoweredSchedule& lowered = file.lowered;
  if (std::uint64_t{lowered.stages} * lowered.microbatches > max_ops / 3) {
    throw BadInput(lowered.name.empty() ? "the schedule" : lowered.name,
                   fmt::format("{} stages x {} microbatches is beyond the limit of {} ops", lowered.stages,
                               lowered.microbatches, max_ops));
  }
  CheckResult result = file.has_messages ? check(lowered) : check(without_messages(lowered));
  if (!file.has_messages) {
    // Collectives stand between the actions of the file but not in what was checked.
    for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
      const auto& steps = lowered.per_rank[r].steps;
      std::vector<std::int64_t> step_of;
      for (std::size_t i = 0; i < steps.size(); ++i) {
        if (std::holds_alternative<Action>(steps[i])) step_of.push_back(static_cast<std::int64_t>(i));
      }
      const auto translate = [&](std::int64_t rank, std::int64_t& index) {
        if (rank == r && index >= 0) index = step_of[static_cast<std::size_t>(index)];
      };
      for (Violation& violation : result.violations) translate(violation.rank, violation.index);
      for (Waiting& waiting : result.deadlock_cycle) translate(waiting.rank.value, waiting.index);
    }
  }
  if (file.form == ScheduleForm::pytorch_csv && result.valid()) {
    const Schedule schedule = without_messages(lowered);
    if (const auto found = two_owners(schedule)) {
      const auto& steps = lowered.per_rank[found->second.value].steps;
      for (std::size_t i = 0; i < steps.size(); ++i) {
        const auto* action = std::get_if<Action>(&steps[i]);
        const Op* op = action ? std::find_if(action->begin(), action->end(),
                                             [&](const Op& o) { return o.stage == found->stage; })
                              : nullptr;
        if (!action || op == action->end()) continue;
        result.violations.push_back(
            {found->second.value, static_cast<std::int64_t>(i), to_string(*op), ViolationKind::two_owners,
             fmt::format(
                 "stage {} lives on ranks {} and {}, and PyTorch, whose format this is, runs each stage on "
                 "one rank; "
                 "dualpipe-v has the same overlap with one owner a stage, and plumb.schedule/1 can hold two",
                 found->stage.value, found->first.value, found->second.value)});
        break;
      }
    }
  }
  if (!file.elements.empty()) {
    const auto translate = [&](std::int64_t rank, std::int64_t& index) {
      if (rank >= 0 && index >= 0)
        index = file.elements[static_cast<std::size_t>(rank)][static_cast<std::size_t>(index)];
    };
    for (Violation& violation : result.violations) translate(violation.rank, violation.index);
    for (Waiting& waiting : result.deadlock_cycle) translate(waiting.rank.value, waiting.index);
  }
  return result;
}

void write_schedule_json(std::ostream& out, const Schedule& schedule) {
  Writer writer(out);
  append_json_head(writer.text, schedule.name, schedule.ranks(), schedule.stages, schedule.microbatches);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    writer.text += r == 0 ? "[" : ",[";
    bool first = true;
    for (const Action& action : schedule.actions[r]) {
      writer.text += first ? "\"" : ",\"";
      first = false;
      append(writer.text, action);
      writer.text += '"';
      writer.drain();
    }
    writer.text += ']';
  }
  writer.text += "]}\n";
}

void write_schedule_json(std::ostream& out, const LoweredSchedule& lowered) {
  Writer writer(out);
  append_json_head(writer.text, lowered.name, lowered.ranks(), lowered.stages, lowered.microbatches);
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    const LoweredRank& rank = lowered.per_rank[r];
    writer.text += r == 0 ? "[" : ",[";
    bool first = true;
    for (const Step& step : rank.steps) {
      if (std::holds_alternative<Collective>(step)) continue;
      if (!first) writer.text += ',';
      first = false;
      if (const auto* action = std::get_if<Action>(&step)) {
        writer.text += '"';
        append(writer.text, *action);
        writer.text += '"';
      } else {
        const auto& batch = std::get<CommBatch>(step);
        if (batch.waited_together) writer.text += "{\"group\":[";
        bool first_message = true;
        for (const Message& message : rank.messages_of(batch)) {
          if (!first_message) writer.text += ',';
          first_message = false;
          writer.text += batch.waited_together ? "[\"" : "\"";
          append(writer.text, message.op);
          writer.text += '"';
          if (batch.waited_together)
            fmt::format_to(std::back_inserter(writer.text), ",{}]", message.peer.value);
        }
        if (batch.waited_together) writer.text += "]}";
      }
      writer.drain();
    }
    writer.text += ']';
  }
  writer.text += "]}\n";
}

void write_schedule_text(std::ostream& out, const Schedule& schedule) {
  Writer writer(out);
  writer.text = text_head(schedule.name, schedule.ranks(), schedule.stages, schedule.microbatches);
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    writer.text += fmt::format("{}:", r);
    for (const Action& action : schedule.actions[r]) {
      writer.text += ' ';
      append(writer.text, action);
      writer.drain();
    }
    writer.text += '\n';
  }
}

void write_schedule_text(std::ostream& out, const LoweredSchedule& lowered) {
  Writer writer(out);
  writer.text = text_head(lowered.name, lowered.ranks(), lowered.stages, lowered.microbatches);
  for (std::uint32_t r = 0; r < lowered.ranks(); ++r) {
    const LoweredRank& rank = lowered.per_rank[r];
    writer.text += fmt::format("{}:", r);
    for (const Step& step : rank.steps) {
      if (std::holds_alternative<Collective>(step)) continue;
      writer.text += ' ';
      if (const auto* action = std::get_if<Action>(&step)) {
        append(writer.text, *action);
      } else {
        const auto& batch = std::get<CommBatch>(step);
        if (batch.waited_together) writer.text += "{ ";
        for (const Message& message : rank.messages_of(batch)) {
          append(writer.text, message.op);
          if (batch.waited_together)
            writer.text += fmt::format("{}{} ", is_send(message.op.kind) ? '>' : '<', message.peer.value);
        }
        if (batch.waited_together) writer.text += '}';
      }
      writer.drain();
    }
    writer.text += '\n';
  }
}

void write_pytorch_csv(std::ostream& out, const Schedule& schedule) {
  refuse_two_owners(schedule);
  Writer writer(out);
  for (const auto& actions : schedule.actions) {
    bool first = true;
    for (const Action& action : actions) {
      if (!first) writer.text += ',';
      first = false;
      append(writer.text, action);
      writer.drain();
    }
    writer.text += '\n';
  }
}

void write_pytorch_csv(std::ostream& out, const LoweredSchedule& lowered) {
  const Schedule schedule = without_messages(lowered);
  refuse_two_owners(schedule);
  if (lowered.placement == CommPlacement::batched) {
    throw BadInput(lowered.name, "PyTorch's CSV has no message groups; use --comms per-op, or --format json");
  }
  // Every stage has its REDUCE_GRAD here, whether or not it has copies.
  LoweredSchedule reduced = lowered;
  for (LoweredRank& rank : reduced.per_rank) {
    std::erase_if(rank.steps, [](const Step& step) { return std::holds_alternative<Collective>(step); });
  }
  reduced.data_parallel = 2;
  place_reductions(reduced);
  Writer writer(out);
  for (const LoweredRank& rank : reduced.per_rank) {
    bool first = true;
    for (const Step& step : rank.steps) {
      if (!first) writer.text += ',';
      first = false;
      if (const auto* action = std::get_if<Action>(&step)) {
        append(writer.text, *action);
      } else if (const auto* batch = std::get_if<CommBatch>(&step)) {
        append(writer.text, rank.messages_of(*batch).front().op);
      } else {
        append(writer.text, std::get<Collective>(step).op);
      }
      writer.drain();
    }
    writer.text += '\n';
  }
}

}  // namespace plumb
