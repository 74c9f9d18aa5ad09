// The smallest words of the language: an Op is one piece of work, an Action is what a rank does at once.
#pragma once
#include "schedules/ir/ids.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>

namespace plumb {

/// The letters are PyTorch's: F forward, I backward_input, W backward_weight, B backward (both halves).
enum class OpKind : std::uint8_t {
  forward,
  backward_input,
  backward_weight,
  backward,
  send_forward,   // SEND_F: this rank's stage sends its output to the next stage
  recv_forward,   // RECV_F: this rank's stage receives its input from the previous stage
  send_backward,  // SEND_B: this rank's stage sends its input gradient to the previous stage
  recv_backward,  // RECV_B: this rank's stage receives its output gradient from the next stage
  reduce_grad,    // the stage's weight gradients are summed over every copy
  unshard,
  reshard,
};

constexpr bool is_compute(OpKind kind) { return kind <= OpKind::backward; }
constexpr bool is_send(OpKind kind) { return kind == OpKind::send_forward || kind == OpKind::send_backward; }
constexpr bool is_recv(OpKind kind) { return kind == OpKind::recv_forward || kind == OpKind::recv_backward; }
constexpr bool is_message(OpKind kind) { return is_send(kind) || is_recv(kind); }
constexpr bool is_collective(OpKind kind) { return kind >= OpKind::reduce_grad; }
/// The op produces the gradient of its stage's input.
constexpr bool gives_input_gradient(OpKind kind) {
  return kind == OpKind::backward_input || kind == OpKind::backward;
}
/// The op produces the gradient of its stage's weights; after it nothing of the microbatch is held.
constexpr bool gives_weight_gradient(OpKind kind) {
  return kind == OpKind::backward_weight || kind == OpKind::backward;
}

/// `F`, `I`, `W`, `B`, `SEND_F` …: the letters of the token.
std::string_view letters(OpKind kind);
/// `forward`, `backward_input` …: the words used in messages and JSON.
std::string_view words(OpKind kind);

/// One piece of work of one stage. Collectives have no microbatch; theirs is 0.
struct Op {
  Stage stage;
  Microbatch microbatch;
  OpKind kind = OpKind::forward;
  constexpr auto operator<=>(const Op&) const = default;
};

/// `0F3`, `2SEND_B7`, `1REDUCE_GRAD`.
std::string to_string(const Op& op);
void append(std::string& out, const Op& op);
std::ostream& operator<<(std::ostream& out, const Op& op);

/// What a rank computes at once: one op, or a forward and a backward that overlap. Compute ops only.
class Action {
 public:
  constexpr Action() = default;
  constexpr explicit Action(Op op) : ops_{op, Op{}} {}
  /// An overlapped pair: the `forward` of one microbatch beside the full `backward` of another.
  constexpr Action(Op forward, Op backward) : ops_{forward, backward}, size_(2) {}

  constexpr bool is_pair() const { return size_ == 2; }
  constexpr std::size_t size() const { return size_; }
  /// The op, or the forward of a pair.
  constexpr const Op& first() const { return ops_[0]; }
  /// The backward of a pair; only where is_pair().
  constexpr const Op& second() const { return ops_[1]; }
  constexpr const Op* begin() const { return ops_.data(); }
  constexpr const Op* end() const { return ops_.data() + size_; }
  constexpr auto operator<=>(const Action&) const = default;

 private:
  std::array<Op, 2> ops_{};
  std::uint8_t size_ = 1;
};

/// `0F3` or `(0F5;7B3)OVERLAP_F_B`.
std::string to_string(const Action& action);
void append(std::string& out, const Action& action);
std::ostream& operator<<(std::ostream& out, const Action& action);

/// Reads one op's token (`0F3`, `3SEND_F1`, `1REDUCE_GRAD`); nothing where it is no token. Strict: no sign,
/// no space, nothing behind it, numbers up to 4,294,967,295.
std::optional<Op> parse_op(std::string_view token);
/// Reads a compute op or an overlapped pair, as strictly.
std::optional<Action> parse_action(std::string_view token);

}  // namespace plumb
