#include "sim/program.hpp"

#include "schedules/ir/error.hpp"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace plumb {
namespace {

// Numbers the links in the order in which they are first used.
class Links {
 public:
  explicit Links(Duplex duplex) : duplex_(duplex) {}
  std::uint32_t operator()(std::uint32_t from, std::uint32_t to) {
    if (duplex_ == Duplex::half && from > to) std::swap(from, to);
    const std::uint64_t key = (std::uint64_t{from} << 32) | to;
    for (const auto& [known, link] : latest_) {
      if (known == key) return link;
    }
    const std::uint32_t link =
        numbers_.try_emplace(key, static_cast<std::uint32_t>(numbers_.size())).first->second;
    latest_[turn_++ % 4] = {key, link};
    return link;
  }
  std::uint32_t count() const { return static_cast<std::uint32_t>(numbers_.size()); }

 private:
  Duplex duplex_;
  std::unordered_map<std::uint64_t, std::uint32_t> numbers_;
  std::pair<std::uint64_t, std::uint32_t> latest_[4]{{~0ull, 0}, {~0ull, 0}, {~0ull, 0}, {~0ull, 0}};
  std::size_t turn_ = 0;
};

// Numbers the recipes: those of single ops by stage and kind, behind them the pairs in the order in which
// they are first met.
class RecipeNumbers {
 public:
  RecipeNumbers(std::size_t stages, std::vector<plumb::Action>& pairs)
      : stages_(static_cast<std::uint32_t>(stages)), pairs_(pairs) {}
  std::uint32_t operator()(const plumb::Action& action) {
    if (action.is_pair()) return 4 * stages_ + pair(action);
    return (stages_ == 1 ? 0 : 4 * action.first().stage.value) +
           static_cast<std::uint32_t>(action.first().kind);
  }

 private:
  std::uint32_t pair(const plumb::Action& action) {
    const std::uint64_t key = (std::uint64_t{action.first().stage.value} << 32) | action.second().stage.value;
    if (key == last_key_) return last_;
    const auto [found, added] = numbers_.try_emplace(key, static_cast<std::uint32_t>(pairs_.size()));
    if (added) pairs_.push_back(action);
    last_key_ = key;
    return last_ = found->second;
  }

  std::uint32_t stages_;  // with costs of their own
  std::vector<plumb::Action>& pairs_;
  std::unordered_map<std::uint64_t, std::uint32_t> numbers_;
  std::uint64_t last_key_ = ~0ull;
  std::uint32_t last_ = 0;
};

}  // namespace

Program compile(const LoweredSchedule& schedule, const Dag& dag, const ExecutionOptions& options) {
  PLUMB_CHECK(dag.messages.size() < (std::size_t{1} << 28));
  Program program;
  program.actions.resize(dag.nodes.size());
  program.messages.resize(dag.messages.size());
  std::size_t items = 0;
  for (const LoweredRank& rank : schedule.per_rank) items += rank.steps.size() + 2 * rank.messages.size();
  program.items.reserve(items);
  Links links(options.duplex);
  RecipeNumbers recipes(dag.alone.size(), program.pairs);
  const auto push = [&](Program::Kind kind, std::uint32_t message) {
    program.items.push_back({(static_cast<std::uint32_t>(kind) << 28) | message});
  };
  for (std::uint32_t r = 0; r < schedule.ranks(); ++r) {
    const LoweredRank& rank = schedule.per_rank[r];
    program.item_begin.push_back(static_cast<std::uint32_t>(program.items.size()));
    std::uint32_t node = dag.rank_begin[r];
    std::uint32_t sent = dag.message_begin[r];
    bool behind_wait = false;  // since the last action
    for (const Step& step : rank.steps) {
      if (const auto* action = std::get_if<plumb::Action>(&step)) {
        Program::Action& made = program.actions[node];
        made.duration = dag.nodes[node].duration;
        made.input = dag.inputs[node];
        push(Program::Kind::action, recipes(*action));
        behind_wait = false;
        ++node;
      } else if (const auto* batch = std::get_if<CommBatch>(&step)) {
        const bool waits = batch->waited_together;
        for (const plumb::Message& message : rank.messages_of(*batch)) {
          const bool send = is_send(message.op.kind);
          const std::uint32_t m = send ? sent++ : dag.message_of_op(message.op);
          PLUMB_CHECK(m != Dag::none);
          Program::Message& made = program.messages[m];
          if (send) {
            made.transfer = dag.lags[dag.messages[m].transfer];
            made.from = static_cast<std::int32_t>(r);
            made.to = static_cast<std::int32_t>(message.peer.value);
            made.link = links(r, message.peer.value);
            made.group_send = waits;
            made.early = dag.lags[dag.messages[m].early] < 0 && !waits;
          } else {
            made.meets = waits;
            if (!waits && !behind_wait) continue;
          }
          push(send ? (waits ? Program::Kind::group_send : Program::Kind::send)
                    : (waits ? Program::Kind::group_receive : Program::Kind::receive),
               m);
        }
        if (waits) push(Program::Kind::wait, 0);
        behind_wait |= waits;
      }
    }
  }
  program.item_begin.push_back(static_cast<std::uint32_t>(program.items.size()));
  program.links = links.count();
  return program;
}

}  // namespace plumb
