// A rank is not a stage is not a microbatch: the compiler keeps them apart.
#pragma once
#include <compare>
#include <cstdint>
#include <ostream>

namespace plumb {

/// An index of one kind of thing. It indexes vectors through `value`.
template <class Tag>
struct Id {
  std::uint32_t value = 0;
  constexpr Id() = default;
  constexpr explicit Id(std::uint32_t v) : value(v) {}
  constexpr auto operator<=>(const Id&) const = default;
};

template <class Tag>
std::ostream& operator<<(std::ostream& out, Id<Tag> id) {
  return out << id.value;
}

/// A device of the pipeline, 0 .. ranks-1.
using Rank = Id<struct RankTag>;
/// A stage of one copy of the model, 0 .. stages-1 in the order of the forward pass.
using Stage = Id<struct StageTag>;
/// A microbatch of one step, 0 .. microbatches-1, counted over both directions where there are two.
using Microbatch = Id<struct MicrobatchTag>;

}  // namespace plumb
