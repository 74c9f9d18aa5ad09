// Who can make a schedule. A generator is a row of one table: a name, its limits and pure functions.
#pragma once
#include "schedules/ir/lower.hpp"
#include "schedules/ir/schedule.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace plumb {

/// What a schedule is made for. `chunks` and `group` only where the generator takes them.
struct Shape {
  std::uint32_t ranks = 1;
  std::uint32_t microbatches = 1;
  std::optional<std::uint32_t> chunks;  // stages a rank holds of one copy; default: the generator's
  std::optional<std::uint32_t> group;   // microbatches a group; default: the generator's
};

/// One schedule family. Formulas use p ranks, m microbatches, v chunks, F forward, I backward_input, W
/// backward_weight, Bf = I + W the full backward and FB an overlapped pair, each per chunk.
struct Generator {
  std::string_view name;     // `dualpipe`
  std::string_view alias;    // another accepted name, or empty
  std::string_view title;    // `DualPipe`
  std::string_view paper;    // where it is published
  std::string_view limits;   // legal shapes, for people
  std::string_view bubble;   // closed form of idle time a rank and its condition
  std::string_view memory;   // peak live activations, in chunks
  std::string_view picture;  // ASCII, small
  std::uint32_t default_chunks = 1;
  bool takes_chunks = false;  // otherwise default_chunks is the only number
  bool takes_group = false;
  std::uint32_t copies = 1;  // of the model's parameters a rank holds, against its share of one copy
  /// Why the shape is not legal, or nothing. `chunks` is filled in; `group` is as the user gave it.
  std::optional<std::string> (*refuse)(const Shape& shape) = nullptr;
  Schedule (*make)(const Shape& shape) = nullptr;
  /// The message groups of the author's own runtime, where it has some; otherwise `lower` places them.
  LoweredSchedule (*make_batched)(const Shape& shape) = nullptr;
};

/// The table, in the order in which `plumb schedules` prints it.
std::span<const Generator* const> generators();

/// By name or alias; nullptr if there is none.
const Generator* find_generator(std::string_view name);

/// By name or alias; throws BadInput that lists the names (and the nearest one).
const Generator& generator(std::string_view name);

/// Fills in defaults, checks limits and max_ops, makes the schedule. Throws BadInput naming the limit.
Schedule make_schedule(const Generator& generator, const Shape& shape);

/// make_schedule, then messages: the author's own groups for `batched` where there are some, else `lower`.
LoweredSchedule make_lowered(const Generator& generator, const Shape& shape, const LowerOptions& options);

/// Defaults filled in. Throws BadInput for a shape that is not legal.
Shape legal_shape(const Generator& generator, Shape shape);

}  // namespace plumb
