#include "schedules/generators/generator.hpp"

#include "schedules/generators/families.hpp"
#include "schedules/ir/error.hpp"
#include "schedules/ir/nearest.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include <fmt/format.h>

namespace plumb {
namespace {

// In the order in which people are shown them.
// clang-format off
constexpr std::array table{
    &families::gpipe,
    &families::one_f_one_b,
    &families::interleaved_one_f_one_b,
    &families::looped_bfs,
    &families::one_f_one_b_overlap,
    &families::interleaved_one_f_one_b_overlap,
    &families::zb_h1,
    &families::zb_h2,
    &families::interleaved_zb,
    &families::zb_v,
    &families::v_half,
    &families::v_min,
    &families::one_f_one_b_v,
    &families::group_interleaved,
    &families::dualpipe,
    &families::dualpipe_v,
    &families::chimera,
    &families::hanayo,
};
// clang-format on

}  // namespace

std::span<const Generator* const> generators() { return table; }

const Generator* find_generator(std::string_view name) {
  for (const Generator* generator : table) {
    if (generator->name == name || (!generator->alias.empty() && generator->alias == name)) return generator;
  }
  return nullptr;
}

const Generator& generator(std::string_view name) {
  if (const Generator* found = find_generator(name)) return *found;
  std::vector<std::string_view> names;
  for (const Generator* row : table) names.push_back(row->name);
  const std::string_view meant = nearest(name, names);
  throw BadInput(fmt::format("no schedule is called '{}'{}; the schedules are: {}", name.substr(0, 60),
                             meant.empty() ? "" : fmt::format(" (did you mean {}?)", meant),
                             fmt::join(names, " ")));
}

Shape legal_shape(const Generator& generator, Shape shape) {
  const auto refuse = [&](const std::string& why) { throw BadInput(generator.name, why); };
  if (shape.ranks == 0) refuse("needs at least 1 rank");
  if (shape.ranks > max_ranks)
    refuse(fmt::format("{} ranks are beyond the limit of {}", shape.ranks, max_ranks));
  if (shape.microbatches == 0) refuse("needs at least 1 microbatch");
  if (!generator.takes_chunks && shape.chunks && *shape.chunks != generator.default_chunks) {
    refuse(fmt::format("has always {} chunk{} a rank, not {}", generator.default_chunks,
                       generator.default_chunks == 1 ? "" : "s", *shape.chunks));
  }
  if (!generator.takes_group && shape.group) refuse("takes no --group");
  if (!shape.chunks) shape.chunks = generator.default_chunks;
  if (*shape.chunks == 0) refuse("needs at least 1 chunk a rank");
  if (shape.group && *shape.group == 0) refuse("needs at least 1 microbatch a group");
  const std::uint64_t ops = std::uint64_t{shape.ranks} * shape.microbatches;
  // Three ops at most for every stage a rank holds, of one copy of the model.
  if (ops > max_ops / 3 / *shape.chunks) {
    refuse(fmt::format("{} ranks x {} microbatches x {} chunks is beyond the limit of {} ops", shape.ranks,
                       shape.microbatches, *shape.chunks, max_ops));
  }
  if (const auto why = generator.refuse(shape)) refuse(*why);
  return shape;
}

Schedule make_schedule(const Generator& generator, const Shape& shape) {
  return generator.make(legal_shape(generator, shape));
}

LoweredSchedule make_lowered(const Generator& generator, const Shape& shape, const LowerOptions& options) {
  if (options.placement != CommPlacement::batched || !generator.make_batched) {
    return lower(make_schedule(generator, shape), options);
  }
  LoweredSchedule lowered = generator.make_batched(legal_shape(generator, shape));
  lowered.data_parallel = options.data_parallel;
  place_reductions(lowered);
  return lowered;
}

}  // namespace plumb
