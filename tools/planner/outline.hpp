// What a schedule does, read off a small one of its kind: who holds which stage, and what is held at most.
#pragma once
#include "schedules/generators/generator.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

namespace plumb {

struct Outline {
  /// A stage that a rank holds, and how many of the small schedule's microbatches it takes through it.
  struct Held {
    Stage stage;
    std::uint32_t microbatches = 0;
    auto operator<=>(const Held&) const = default;
  };
  std::vector<std::vector<Held>> ranks;  // [rank], by stage
  /// [rank][of its stages]: the microbatches that are alive when most are, of the schedule asked for.
  std::vector<std::vector<std::uint32_t>> live;
  bool has_pairs = false;  // some forwards run beside a backward
  bool has_whole_backwards = false;
  bool has_split_backwards = false;
  /// The small schedule, with its messages: as many microbatches as asked for, or so many that more of them
  /// would change nothing about what a rank holds at most.
  LoweredSchedule schedule;
};

/// Outlines by generator and shape, each made once. May be called from many threads.
///
/// The small schedule has the smallest multiple of the group, or of the ranks, of at least 4 microbatches a
/// rank. Where a rank holds more with twice that many (GPipe keeps all), `live` goes on growing at that
/// rate. `tests/tools/planner/outline_test` holds every generator to it: no schedule holds less.
class Outlines {
 public:
  /// The shape must be legal.
  const Outline& of(const Generator& generator, const Shape& shape);

 private:
  using Key = std::tuple<const Generator*, std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>;
  static Key key(const Generator& generator, const Shape& shape);
  const Outline& known(const Key& key, const std::function<Outline()>& make);
  /// Without the rest of an outline, which a large schedule would fill memory with.
  const std::vector<std::vector<std::uint32_t>>& live_of(const Generator& generator, const Shape& shape);

  std::mutex mutex_;
  std::map<Key, std::unique_ptr<Outline>> outlines_;
  std::map<Key, std::vector<std::vector<std::uint32_t>>> live_;
};

}  // namespace plumb
