#include "sim/dag.hpp"

#include "schedules/ir/dependencies.hpp"
#include "schedules/ir/error.hpp"
#include "sim/arithmetic.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::int64_t longest_step = std::int64_t{100} * 365 * 24 * 3600 * 1'000'000'000;  // 100 years

std::uint64_t pair_key(Stage forward, Stage backward) {
  return (std::uint64_t{forward.value} << 32) | backward.value;
}

// Gives every distinct length of time one small number.
class Interner {
 public:
  explicit Interner(std::vector<std::int64_t>& values) : values_(values) {
    values_ = {0};
    index_.emplace(0, 0);
  }
  std::uint32_t operator()(std::int64_t value) {
    if (value == values_[last_]) return last_;
    const auto [at, added] = index_.try_emplace(value, static_cast<std::uint32_t>(values_.size()));
    if (added) values_.push_back(value);
    return last_ = at->second;
  }

 private:
  std::vector<std::int64_t>& values_;
  std::unordered_map<std::int64_t, std::uint32_t> index_;
  std::uint32_t last_ = 0;
};

// The durations that `CostModel::overrides` gives to single actions of one rank.
class Overrides {
 public:
  Overrides(const CostModel& cost, std::uint32_t ranks) : by_rank_(cost.overrides.empty() ? 0 : ranks) {
    for (const OpOverride& entry : cost.overrides) {
      if (entry.rank.value >= ranks) {
        throw BadInput(describe(entry),
                       fmt::format("there is no rank {} in {} ranks", entry.rank.value, ranks));
      }
      if (entry.duration.ns < 0) throw BadInput(describe(entry), "a duration must not be negative");
      by_rank_[entry.rank.value].push_back({&entry, false});
    }
    for (auto& entries : by_rank_) {
      std::sort(entries.begin(), entries.end(),
                [](const Entry& a, const Entry& b) { return a.given->action < b.given->action; });
      const auto twice = std::adjacent_find(
          entries.begin(), entries.end(),
          [](const Entry& a, const Entry& b) { return a.given->action == b.given->action; });
      if (twice != entries.end()) throw BadInput(describe(*twice->given), "is given twice");
    }
  }
  bool empty() const { return by_rank_.empty(); }

  void apply(std::uint32_t rank, const Action& action, std::int64_t& duration) {
    auto& entries = by_rank_[rank];
    const auto found = std::lower_bound(
        entries.begin(), entries.end(), action,
        [](const Entry& entry, const Action& wanted) { return entry.given->action < wanted; });
    if (found == entries.end() || found->given->action != action) return;
    found->used = true;
    duration = found->given->duration.ns;
  }

  void refuse_unused() const {
    for (const auto& entries : by_rank_) {
      for (const Entry& entry : entries) {
        if (!entry.used) throw BadInput(describe(*entry.given), "the rank has no such action");
      }
    }
  }

 private:
  struct Entry {
    const OpOverride* given;
    bool used;
  };
  static std::string describe(const OpOverride& entry) {
    return fmt::format("op cost of rank {}, {}", entry.rank.value, to_string(entry.action));
  }
  std::vector<std::vector<Entry>> by_rank_;
};

class Builder {
 public:
  Builder(const LoweredSchedule& schedule, const CostModel& cost, const ExecutionOptions& options)
      : schedule_(schedule),
        cost_(cost),
        options_(options),
        overrides_(cost, schedule.ranks()),
        intern_(dag_.lags) {}

  Dag build() {
    check_costs();
    number();
    for (std::uint32_t r = 0; r < schedule_.ranks(); ++r) connect(r);
    overrides_.refuse_unused();
    if (options_.pair_release == PairRelease::forward_first) release_early();
    if (total_ > static_cast<double>(longest_step)) {
      throw BadInput("the costs", "the step would last longer than 100 years");
    }
    return std::move(dag_);
  }

 private:
  void check_costs() {
    if (cost_.stages.size() != 1 && cost_.stages.size() != schedule_.stages) {
      throw BadInput(cost_.name.empty() ? std::string("the costs") : cost_.name,
                     fmt::format("costs of {} stages do not fit a schedule of {}", cost_.stages.size(),
                                 schedule_.stages));
    }
    for (const StageCost& stage : cost_.stages) {
      auto& alone = dag_.alone.emplace_back();
      auto& durations = durations_.emplace_back();
      for (std::size_t k = 0; k < alone.size(); ++k) {
        const OpCost& op = stage.of(static_cast<OpKind>(k));
        std::int64_t sum = 0;
        for (const Segment& segment : op.recipe) {
          if (segment.duration.ns < 0) throw BadInput("a cost", "a duration must not be negative");
          if (segment.duration.ns > longest_step - sum) {
            throw BadInput("a cost", "an op would last longer than 100 years");
          }
          sum += segment.duration.ns;
        }
        alone[k] = derive_alone(op, cost_);
        durations[k] = op.recipe.empty() ? not_given : alone[k].duration.ns;
      }
    }
    const auto check_pair = [](Duration duration) {
      if (duration.ns < 0) throw BadInput("the cost of a pair", "a duration must not be negative");
    };
    if (cost_.any_pair) check_pair(*cost_.any_pair);
    for (const auto& [stages, duration] : cost_.measured_pairs) check_pair(duration);
    for (const auto& [rank, ppm] : options_.slow_ranks_ppm) {
      if (rank.value >= schedule_.ranks()) {
        throw BadInput("a slow rank",
                       fmt::format("there is no rank {} in {} ranks", rank.value, schedule_.ranks()));
      }
    }
    for (const auto& [link, ppm] : options_.slow_links_ppm) {
      if (std::max(link.first, link.second).value >= schedule_.ranks()) {
        throw BadInput("a slow link", fmt::format("there is no link {}-{} in {} ranks", link.first.value,
                                                  link.second.value, schedule_.ranks()));
      }
    }
  }

  // Counts nodes and messages and notes who sends what.
  void number() {
    const std::size_t microbatches_of_stages = std::size_t{schedule_.stages} * schedule_.microbatches;
    dag_.microbatches = schedule_.microbatches;
    dag_.message_of.assign(2 * microbatches_of_stages, Dag::none);
    gradient_maker_.assign(microbatches_of_stages, OpKind::backward);
    // Room for the most that there can be: what is not used is not touched.
    std::size_t steps = 0;
    std::size_t messages = 0;
    for (const LoweredRank& rank : schedule_.per_rank) {
      steps += rank.steps.size();
      messages += rank.messages.size();
    }
    PLUMB_CHECK(steps < Dag::none && messages < Dag::none);
    dag_.nodes.reserve(steps);
    dag_.messages.reserve(messages);

    for (std::uint32_t r = 0; r < schedule_.ranks(); ++r) {
      const LoweredRank& rank = schedule_.per_rank[r];
      dag_.rank_begin.push_back(static_cast<std::uint32_t>(dag_.nodes.size()));
      dag_.message_begin.push_back(static_cast<std::uint32_t>(dag_.messages.size()));
      const Action* last = nullptr;
      for (const Step& step : rank.steps) {
        if (const auto* action = std::get_if<Action>(&step)) {
          last = action;
          dag_.nodes.emplace_back();
          for (const Op& op : *action) {
            if (op.kind == OpKind::backward_input) {
              gradient_maker_[static_cast<std::size_t>(op.stage.value) * schedule_.microbatches +
                              op.microbatch.value] = op.kind;
            }
          }
        } else if (std::holds_alternative<Collective>(step)) {
          dag_.reduces = true;
        } else if (const auto* batch = std::get_if<CommBatch>(&step)) {
          dag_.batched |= batch->waited_together;
          for (const Message& out : rank.messages_of(*batch)) {
            if (!is_send(out.op.kind)) continue;
            const Need need = carried_by(out.op);
            dag_.message_of[slot(need)] = static_cast<std::uint32_t>(dag_.messages.size());
            Dag::Message& made = dag_.messages.emplace_back();
            made.sent_behind = last ? static_cast<std::uint32_t>(dag_.nodes.size()) - 1 : Dag::none;
            made.transfer = intern_(transfer(Rank{r}, out));
            if (need.product == Product::input_gradient) {
              made.maker =
                  gradient_maker_[static_cast<std::size_t>(need.stage.value) * schedule_.microbatches +
                                  need.microbatch.value];
            }
            if (options_.pair_release == PairRelease::forward_first && last && last->is_pair() &&
                out.op.kind == OpKind::send_forward &&
                last->first() == Op{need.stage, need.microbatch, OpKind::forward}) {
              made.early = Dag::none;  // its node's duration is not known yet; release_early() fills it in
            }
          }
        }
      }
    }
    dag_.rank_begin.push_back(static_cast<std::uint32_t>(dag_.nodes.size()));
    dag_.message_begin.push_back(static_cast<std::uint32_t>(dag_.messages.size()));
    dag_.inputs.resize(dag_.nodes.size(), {Dag::none, Dag::none});
  }

  // Durations, and the edges into one rank's nodes.
  void connect(std::uint32_t r) {
    const LoweredRank& rank = schedule_.per_rank[r];
    const auto slow = options_.slow_ranks_ppm.find(Rank{r});
    const std::int64_t ppm = slow == options_.slow_ranks_ppm.end() ? million : slow->second;
    std::uint32_t node = dag_.rank_begin[r];
    for (const Step& step : rank.steps) {
      if (const auto* action = std::get_if<Action>(&step)) {
        Dag::Node& made = dag_.nodes[node];
        made.duration = duration_of(*action);
        if (!overrides_.empty()) overrides_.apply(r, *action, made.duration);
        if (ppm != million) made.duration = scale_ppm(made.duration, ppm);
        total_ += static_cast<double>(made.duration);
        std::size_t slot = 0;
        for (const Op& op : *action) {
          const std::uint32_t message = message_into(op);
          if (message != Dag::none) {
            dag_.inputs[node][slot] = message;
            made.input[slot] = dag_.messages[message].sent_behind;
            made.lag[slot] = dag_.messages[message].transfer;
            total_ += static_cast<double>(dag_.lags[made.lag[slot]]);
          }
          ++slot;
        }
        ++node;
      } else if (const auto* batch = std::get_if<CommBatch>(&step)) {
        for (const Message& in : rank.messages_of(*batch)) {
          if (!is_recv(in.op.kind)) continue;
          const std::uint32_t message = dag_.message_of_op(in.op);
          if (message == Dag::none) continue;
          dag_.messages[message].received_behind = node == dag_.rank_begin[r] ? Dag::none : node - 1;
        }
      }
    }
  }

  // The forwards of pairs leave when they are done: their messages' lags count from before the pair's end.
  void release_early() {
    for (std::uint32_t r = 0; r < schedule_.ranks(); ++r) {
      std::uint32_t node = dag_.rank_begin[r];
      std::uint32_t message = dag_.message_begin[r];
      const Action* last = nullptr;
      for (const Step& step : schedule_.per_rank[r].steps) {
        if (const auto* action = std::get_if<Action>(&step)) {
          last = action;
          ++node;
        } else if (const auto* batch = std::get_if<CommBatch>(&step)) {
          for (const Message& out : schedule_.per_rank[r].messages_of(*batch)) {
            if (!is_send(out.op.kind)) continue;
            Dag::Message& made = dag_.messages[message++];
            if (made.early != Dag::none) continue;
            const PairCost& cost = pair(*last);
            const std::int64_t duration = dag_.nodes[node - 1].duration;
            made.early = intern_(stretch(cost.forward_end.ns, cost.duration.ns, duration) - duration);
          }
        }
      }
    }
    for (std::size_t node = 0; node < dag_.nodes.size(); ++node) {
      for (std::size_t slot = 0; slot < 2; ++slot) {
        if (dag_.inputs[node][slot] == Dag::none) continue;
        const Dag::Message& in = dag_.messages[dag_.inputs[node][slot]];
        dag_.nodes[node].lag[slot] = intern_(dag_.lags[in.transfer] + dag_.lags[in.early]);
      }
    }
  }

  // The message that brings `op` its input from another rank, or none. A stage and a microbatch belong to one
  // rank, so only what another stage makes comes from elsewhere.
  std::uint32_t message_into(const Op& op) const {
    std::uint32_t message = Dag::none;
    visit_needs(op, schedule_.stages, [&](const Need& need) {
      if (need.stage != op.stage) message = dag_.message_of[slot(need)];
    });
    return message;
  }

  std::int64_t duration_of(const Action& action) {
    if (action.is_pair()) return pair(action).duration.ns;
    const Op& op = action.first();
    const std::int64_t duration =
        durations_[durations_.size() == 1 ? 0 : op.stage.value][static_cast<std::size_t>(op.kind)];
    if (duration == not_given) {
      throw BadInput(cost_.name.empty() ? std::string("the costs") : cost_.name,
                     fmt::format("{} runs {}, and the cost of {} is not given", schedule_.name, to_string(op),
                                 words(op.kind)));
    }
    return duration;
  }
  const PairCost& pair(const Action& action) {
    const std::uint64_t key = pair_key(action.first().stage, action.second().stage);
    if (last_pair_ && last_key_ == key) return *last_pair_;
    auto found = dag_.pairs.find(key);
    if (found == dag_.pairs.end()) {
      found = dag_.pairs.emplace(key, pair_cost(action.first().stage, action.second().stage, cost_)).first;
    }
    last_key_ = key;
    last_pair_ = &found->second;
    return found->second;
  }

  std::int64_t transfer(Rank from, const Message& message) {
    // The links are one and the same as a rule; then a stage's message takes one time, worked out once.
    const bool uniform = cost_.links.empty() && options_.slow_links_ppm.empty();
    const std::size_t key = (cost_.stages.size() == 1 ? 0 : message.op.stage.value) * std::size_t{2} +
                            (message.op.kind == OpKind::send_forward ? 0 : 1);
    if (uniform) {
      if (transfers_.empty()) transfers_.assign(cost_.stages.size() * 2, -1);
      if (transfers_[key] >= 0) return transfers_[key];
    }
    const Link& link = cost_.link_between(from, message.peer);
    if (link.latency.ns < 0) throw BadInput("a link's latency", "must not be negative");
    double ns = 0;
    if (link.bandwidth) {
      const double rate = link.bandwidth->value;
      if (!(rate > 0)) throw BadInput("a link's bandwidth", "must be more than 0 bytes a second");
      ns = std::floor(static_cast<double>(bytes_of(message.op, cost_).count) / rate * 1e9 + 0.5);
    }
    if (!(ns >= 0) || ns + static_cast<double>(link.latency.ns) > static_cast<double>(longest_step)) {
      throw BadInput("a link", "a message would be on its way for longer than 100 years");
    }
    std::int64_t time = link.latency.ns + static_cast<std::int64_t>(ns);
    if (!uniform) {
      const auto slow = options_.slow_links_ppm.find({from, message.peer});
      if (slow != options_.slow_links_ppm.end()) time = scale_ppm(time, slow->second);
    } else {
      transfers_[key] = time;
    }
    return time;
  }

  std::size_t slot(const Need& need) const { return message_slot(need, schedule_.microbatches); }

  const LoweredSchedule& schedule_;
  const CostModel& cost_;
  const ExecutionOptions& options_;
  Dag dag_;
  Overrides overrides_;
  Interner intern_;
  std::vector<OpKind> gradient_maker_;  // [stage * microbatches + microbatch] backward or backward_input
  static constexpr std::int64_t not_given = -1;
  std::vector<std::array<std::int64_t, 4>> durations_;  // [stage][kind]
  std::vector<std::int64_t> transfers_;
  double total_ = 0;
  std::uint64_t last_key_ = 0;
  const PairCost* last_pair_ = nullptr;
};

}  // namespace

std::uint32_t Dag::message_of_op(const Op& message) const {
  const Need need = carried_by(message);
  return message_of[message_slot(need, microbatches)];
}

const PairCost& Dag::pair(const Action& action) const {
  return pairs.at(pair_key(action.first().stage, action.second().stage));
}

Dag build_dag(const LoweredSchedule& schedule, const CostModel& cost, const ExecutionOptions& options) {
  return Builder(schedule, cost, options).build();
}

}  // namespace plumb
