#include "sim/critical_path.hpp"

#include "schedules/ir/error.hpp"
#include "sim/dag.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include <boost/graph/compressed_sparse_row_graph.hpp>
#include <boost/graph/topological_sort.hpp>
#include <boost/range/iterator_range.hpp>

namespace plumb {
namespace {

struct Wait {
  std::int64_t lag = 0;  // from the source's end to the target's earliest begin
};
using Graph = boost::compressed_sparse_row_graph<boost::bidirectionalS, boost::no_property, Wait>;
using Vertex = boost::graph_traits<Graph>::vertex_descriptor;

Graph graph_of(const Dag& dag) {
  std::vector<std::pair<std::uint32_t, std::uint32_t>> edges;
  std::vector<Wait> waits;
  for (std::uint32_t r = 0; r < dag.ranks(); ++r) {
    for (std::uint32_t n = dag.rank_begin[r]; n < dag.rank_begin[r + 1]; ++n) {
      if (n > dag.rank_begin[r]) {
        edges.emplace_back(n - 1, n);
        waits.push_back({0});
      }
      for (std::size_t k = 0; k < 2; ++k) {
        if (dag.nodes[n].input[k] == Dag::none) continue;
        edges.emplace_back(dag.nodes[n].input[k], n);
        waits.push_back({dag.lags[dag.nodes[n].lag[k]]});
      }
    }
  }
  return Graph(boost::edges_are_unsorted_multi_pass, edges.begin(), edges.end(), waits.begin(),
               dag.nodes.size());
}

}  // namespace

CriticalPath critical_path(const LoweredSchedule& schedule, const CostModel& cost,
                           const ExecutionOptions& options) {
  const Dag dag = build_dag(schedule, cost, options);
  const Graph graph = graph_of(dag);
  std::vector<Vertex> backwards;  // every vertex behind all that wait for it
  backwards.reserve(dag.nodes.size());
  boost::topological_sort(graph, std::back_inserter(backwards));

  std::vector<std::int64_t> begin(dag.nodes.size(), 0);
  for (auto vertex = backwards.rbegin(); vertex != backwards.rend(); ++vertex) {
    for (const auto edge : boost::make_iterator_range(boost::in_edges(*vertex, graph))) {
      const Vertex from = boost::source(edge, graph);
      begin[*vertex] = std::max(begin[*vertex], begin[from] + dag.nodes[from].duration + graph[edge].lag);
    }
  }
  std::int64_t makespan = 0;
  for (std::size_t n = 0; n < begin.size(); ++n)
    makespan = std::max(makespan, begin[n] + dag.nodes[n].duration);

  // The latest end of every node that leaves the makespan as it is.
  std::vector<std::int64_t> latest(dag.nodes.size(), makespan);
  for (const Vertex vertex : backwards) {
    for (const auto edge : boost::make_iterator_range(boost::out_edges(vertex, graph))) {
      const Vertex to = boost::target(edge, graph);
      latest[vertex] = std::min(latest[vertex], latest[to] - dag.nodes[to].duration - graph[edge].lag);
    }
  }

  CriticalPath path;
  path.begins.resize(dag.ranks());
  path.slack.resize(dag.ranks());
  std::vector<Action> actions;
  std::vector<Rank> rank_of;
  for (std::uint32_t r = 0; r < dag.ranks(); ++r) {
    for (std::uint32_t n = dag.rank_begin[r]; n < dag.rank_begin[r + 1]; ++n) {
      path.begins[r].push_back(TimePoint{begin[n]});
      path.slack[r].push_back(Duration{latest[n] - begin[n] - dag.nodes[n].duration});
      rank_of.push_back(Rank{r});
    }
    for (const Step& step : schedule.per_rank[r].steps) {
      if (const auto* action = std::get_if<Action>(&step)) actions.push_back(*action);
    }
  }
  if (actions.empty()) return path;

  std::uint32_t at = 0;  // the first of those that end last
  for (std::uint32_t n = 0; n < dag.nodes.size(); ++n) {
    if (begin[n] + dag.nodes[n].duration > begin[at] + dag.nodes[at].duration) at = n;
  }
  while (true) {
    const Rank rank = rank_of[at];
    const std::uint32_t first = dag.rank_begin[rank.value];
    path.steps.push_back({rank, at - first, actions[at], TimePoint{begin[at]},
                          TimePoint{begin[at] + dag.nodes[at].duration}, Duration{}});
    const auto binds = [&](std::uint32_t from, std::int64_t lag) {
      return begin[from] + dag.nodes[from].duration + lag == begin[at];
    };
    std::uint32_t from = Dag::none;
    if (at > first && binds(at - 1, 0)) from = at - 1;
    for (std::size_t k = 0; k < 2 && from == Dag::none; ++k) {
      const std::uint32_t input = dag.nodes[at].input[k];
      if (input == Dag::none || !binds(input, dag.lags[dag.nodes[at].lag[k]])) continue;
      from = input;
      path.steps.back().wait = Duration{dag.lags[dag.nodes[at].lag[k]]};
    }
    if (from == Dag::none) break;
    at = from;
  }
  std::reverse(path.steps.begin(), path.steps.end());
  return path;
}

}  // namespace plumb
