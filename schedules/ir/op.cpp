#include "schedules/ir/op.hpp"

#include <array>
#include <charconv>
#include <ostream>

namespace plumb {
namespace {

struct Spelling {
  std::string_view letters;
  std::string_view words;
};
// Indexed by OpKind.
constexpr std::array<Spelling, 11> spellings{{{"F", "forward"},
                                              {"I", "backward_input"},
                                              {"W", "backward_weight"},
                                              {"B", "backward"},
                                              {"SEND_F", "send_forward"},
                                              {"RECV_F", "recv_forward"},
                                              {"SEND_B", "send_backward"},
                                              {"RECV_B", "recv_backward"},
                                              {"REDUCE_GRAD", "reduce_grad"},
                                              {"UNSHARD", "unshard"},
                                              {"RESHARD", "reshard"}}};

void append_number(std::string& out, std::uint32_t value) {
  std::array<char, 10> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
  out.append(digits.data(), end);
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::string_view letters(OpKind kind) { return spellings[static_cast<std::size_t>(kind)].letters; }
std::string_view words(OpKind kind) { return spellings[static_cast<std::size_t>(kind)].words; }

void append(std::string& out, const Op& op) {
  append_number(out, op.stage.value);
  out += letters(op.kind);
  if (!is_collective(op.kind)) append_number(out, op.microbatch.value);
}

void append(std::string& out, const Action& action) {
  if (!action.is_pair()) return append(out, action.first());
  out += '(';
  append(out, action.first());
  out += ';';
  append(out, action.second());
  out += ")OVERLAP_F_B";
}

std::string to_string(const Op& op) {
  std::string out;
  append(out, op);
  return out;
}

std::string to_string(const Action& action) {
  std::string out;
  append(out, action);
  return out;
}

std::ostream& operator<<(std::ostream& out, const Op& op) { return out << to_string(op); }
std::ostream& operator<<(std::ostream& out, const Action& action) { return out << to_string(action); }

std::optional<Op> parse_op(std::string_view token) {
  const char* const end = token.data() + token.size();
  if (token.empty() || !is_digit(token.front())) return std::nullopt;
  Op op;
  const auto [after_stage, stage_error] = std::from_chars(token.data(), end, op.stage.value);
  if (stage_error != std::errc{}) return std::nullopt;
  const char* after_letters = after_stage;
  while (after_letters != end && !is_digit(*after_letters)) ++after_letters;
  const std::string_view spelled(after_stage, static_cast<std::size_t>(after_letters - after_stage));
  for (std::size_t k = 0; k < spellings.size(); ++k) {
    if (spellings[k].letters != spelled) continue;
    op.kind = static_cast<OpKind>(k);
    if (is_collective(op.kind)) return after_letters == end ? std::optional(op) : std::nullopt;
    const auto [rest, error] = std::from_chars(after_letters, end, op.microbatch.value);
    return error == std::errc{} && rest == end && after_letters != end ? std::optional(op) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<Action> parse_action(std::string_view token) {
  constexpr std::string_view suffix = ")OVERLAP_F_B";
  const auto compute = [](std::string_view text) {
    const auto op = parse_op(text);
    return op && is_compute(op->kind) ? op : std::nullopt;
  };
  if (!token.starts_with('(')) {
    const auto op = compute(token);
    return op ? std::optional(Action(*op)) : std::nullopt;
  }
  if (!token.ends_with(suffix)) return std::nullopt;
  const std::string_view inside = token.substr(1, token.size() - 1 - suffix.size());
  const auto middle = inside.find(';');
  if (middle == std::string_view::npos) return std::nullopt;
  const auto first = compute(inside.substr(0, middle));
  const auto second = compute(inside.substr(middle + 1));
  return first && second ? std::optional(Action(*first, *second)) : std::nullopt;
}

}  // namespace plumb
