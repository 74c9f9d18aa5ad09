// Looped BFS: GPipe with several chunks a rank, laid round the ranks in a loop. All forwards, chunk by chunk;
// then all backwards in exactly the opposite order. Lamy-Poirier 2022 (Breadth-first pipeline parallelism),
// arXiv 2211.05953.
//
//   bubble  (p-1)(F+Bf) in costs of one chunk, where m >= p: the loop closes without a stall
//   memory  mv chunks
#include "schedules/generators/emit.hpp"
#include "schedules/generators/families.hpp"

namespace plumb::families {
namespace {

Schedule make(const Shape& shape) {
  const std::uint32_t p = shape.ranks, m = shape.microbatches, v = *shape.chunks;
  Schedule schedule = emit::empty_schedule(looped_bfs.name, shape, p * v, std::size_t{2} * m * v);
  for (std::uint32_t rank = 0; rank < p; ++rank) {
    auto& actions = schedule.actions[rank];
    for (std::uint32_t chunk = 0; chunk < v; ++chunk) {
      for (std::uint32_t i = 0; i < m; ++i) actions.push_back(emit::forward(chunk * p + rank, i));
    }
    for (std::uint32_t chunk = v; chunk-- > 0;) {
      for (std::uint32_t i = m; i-- > 0;) actions.push_back(emit::backward(chunk * p + rank, i));
    }
  }
  return schedule;
}

}  // namespace

constinit const Generator looped_bfs{
    .name = "looped-bfs",
    .alias = "",
    .title = "Looped BFS",
    .paper = "Lamy-Poirier 2022, arXiv 2211.05953",
    .limits = "any",
    .bubble = "(p-1)(F+Bf) where m >= p",
    .memory = "mv",
    .picture = R"(p=2 m=4, 4 stages; F = I = W = 1, B = 2, a pair 3; lower case: a rank's second stage
rank 0 |F0 F1 F2 F3 f0 f1 f2 f3          b3--- b2--- b1--- b0--- B3--- B2--- B1--- B0---
rank 1 |   F0 F1 F2 F3 f0 f1 f2 f3 b3--- b2--- b1--- b0--- B3--- B2--- B1--- B0---
)",
    .default_chunks = 2,
    .takes_chunks = true,
    .refuse = emit::every_shape,
    .make = make,
};

}  // namespace plumb::families
