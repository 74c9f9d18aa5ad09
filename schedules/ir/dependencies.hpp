// The one dependency rule. Checker, lowering, simulator and executor ask here and nowhere else.
//
//   forward(s, m)          waits for forward(s-1, m)
//   backward_input(s, m)   waits for forward(s, m) and for the input gradient of (s+1, m)
//   backward(s, m)         the same
//   backward_weight(s, m)  waits for backward_input(s, m)
//
// "The input gradient of (s, m)" comes from backward_input or backward, whichever the schedule holds. A
// producer on another rank sends a message; one on the same rank hands over in place.
#pragma once
#include "schedules/ir/schedule.hpp"

#include <cstdint>
#include <vector>

namespace plumb {

/// The three things that are made of every (stage, microbatch), each exactly once.
enum class Product : std::uint8_t { activation, input_gradient, weight_gradient };

/// Where an op stands: the action at `position` of `rank`'s list.
struct Place {
  Rank rank;
  std::uint32_t position = 0;
  constexpr auto operator<=>(const Place&) const = default;
};

/// One thing an op waits for.
struct Need {
  Product product = Product::activation;
  Stage stage;
  Microbatch microbatch;
  constexpr auto operator<=>(const Need&) const = default;
};

/// The needs of one op, at most two.
class Needs {
 public:
  constexpr void push(Need need) { items_[size_++] = need; }
  constexpr std::size_t size() const { return size_; }
  constexpr const Need* begin() const { return items_.data(); }
  constexpr const Need* end() const { return items_.data() + size_; }

 private:
  std::array<Need, 2> items_{};
  std::uint8_t size_ = 0;
};

/// Calls `visit` with everything that `op` (a compute op) waits for, in a model of `stages` stages.
template <class Visit>
constexpr void visit_needs(const Op& op, std::uint32_t stages, Visit&& visit) {
  const auto at = [&](Product product, std::uint32_t stage) {
    visit(Need{product, Stage{stage}, op.microbatch});
  };
  switch (op.kind) {
    case OpKind::forward:
      if (op.stage.value > 0) at(Product::activation, op.stage.value - 1);
      break;
    case OpKind::backward_input:
    case OpKind::backward:
      at(Product::activation, op.stage.value);
      if (op.stage.value + 1 < stages) at(Product::input_gradient, op.stage.value + 1);
      break;
    case OpKind::backward_weight:
      at(Product::input_gradient, op.stage.value);
      break;
    default:
      break;
  }
}

/// The same as a value.
constexpr Needs needs_of(const Op& op, std::uint32_t stages) {
  Needs needs;
  visit_needs(op, stages, [&needs](const Need& need) { needs.push(need); });
  return needs;
}

/// Who makes what: for every product of every (stage, microbatch), the place of the op that makes it. There
/// is no rank_of(stage): a stage may live on two ranks, a product comes from one place.
class ProductIndex {
 public:
  /// Of a schedule whose ops are all in range. A product that nobody makes is `absent`; of one made twice,
  /// the last place wins (`check` refuses both).
  explicit ProductIndex(const Schedule& schedule);

  static constexpr std::uint32_t absent = 0xffffffff;

  /// position == absent where nobody makes it.
  Place place(Product product, Stage stage, Microbatch microbatch) const {
    return places_[slot(product, stage, microbatch)];
  }
  Place place(const Need& need) const { return place(need.product, need.stage, need.microbatch); }
  bool has(const Need& need) const { return place(need).position != absent; }

  std::uint32_t stages() const { return stages_; }
  std::uint32_t microbatches() const { return microbatches_; }

 private:
  std::size_t slot(Product product, Stage stage, Microbatch microbatch) const {
    return (static_cast<std::size_t>(stage.value) * microbatches_ + microbatch.value) * 3 +
           static_cast<std::size_t>(product);
  }
  std::uint32_t stages_;
  std::uint32_t microbatches_;
  std::vector<Place> places_;
};

/// On which rank every (stage, microbatch) lives: one word for a stage that lives on one rank, as most do, so
/// that asking touches no memory that grows with the schedule; a row of microbatches for one that lives on
/// two.
class Homes {
 public:
  static constexpr Rank nobody{0xffffffff};

  Homes(std::uint32_t stages, std::uint32_t microbatches) : microbatches_(microbatches), stages_(stages) {}
  /// Of a valid schedule.
  explicit Homes(const Schedule& schedule);

  /// Every (stage, microbatch) is put once.
  void put(Stage stage, Microbatch microbatch, Rank rank) {
    Home& home = stages_[stage.value];
    if (home.rank == nobody) home.rank = rank;
    if (home.rank == rank && home.row == none) return;
    if (home.row == none) add_row(home);
    rows_[home.row + microbatch.value] = rank;
  }
  /// Of what was put.
  Rank of(Stage stage, Microbatch microbatch) const {
    const Home& home = stages_[stage.value];
    return home.row == none ? home.rank : rows_[home.row + microbatch.value];
  }
  /// On how many ranks the stage lives; 3 stands for more than two.
  std::uint32_t copies(Stage stage) const;
  bool some_stage_lives_on_two() const { return !rows_.empty(); }

 private:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  struct Home {
    Rank rank = nobody;
    std::size_t row = none;  // into rows_, where the stage lives on more than one rank
  };
  void add_row(Home& home);

  std::uint32_t microbatches_;
  std::vector<Home> stages_;
  std::vector<Rank> rows_;
};

/// The message that carries `need` from another rank: sent by the stage that made it, received by the stage
/// that waits. An activation goes from stage s to s+1 (SEND_F of s, RECV_F of s+1), an input gradient from s
/// to s-1 (SEND_B of s, RECV_B of s-1).
constexpr Op send_of(const Need& need) {
  return {need.stage, need.microbatch,
          need.product == Product::activation ? OpKind::send_forward : OpKind::send_backward};
}
constexpr Op recv_of(const Need& need) {
  return need.product == Product::activation
             ? Op{Stage{need.stage.value + 1}, need.microbatch, OpKind::recv_forward}
             : Op{Stage{need.stage.value - 1}, need.microbatch, OpKind::recv_backward};
}
/// What the message op carries: the inverse of send_of and recv_of.
constexpr Need carried_by(const Op& message) {
  switch (message.kind) {
    case OpKind::send_forward:
      return {Product::activation, message.stage, message.microbatch};
    case OpKind::send_backward:
      return {Product::input_gradient, message.stage, message.microbatch};
    case OpKind::recv_forward:
      return {Product::activation, Stage{message.stage.value - 1}, message.microbatch};
    default:
      return {Product::input_gradient, Stage{message.stage.value + 1}, message.microbatch};
  }
}
/// A number of its own for every product that messages carry (all but weight gradients): 0 to 2 x stages x
/// microbatches - 1.
constexpr std::size_t message_slot(const Need& carried, std::uint32_t microbatches) {
  return 2 * (std::size_t{carried.stage.value} * microbatches + carried.microbatch.value) +
         (carried.product == Product::activation ? 0 : 1);
}

}  // namespace plumb
