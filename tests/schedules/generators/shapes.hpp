// Every small shape that a generator takes.
#pragma once
#include "schedules/generators/generator.hpp"
#include "schedules/ir/error.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace plumb::test {

inline std::string words_of(const Generator& family, const Shape& shape) {
  std::string text = std::string(family.name) + " on " + std::to_string(shape.ranks) + " ranks, " +
                     std::to_string(shape.microbatches) + " microbatches";
  if (shape.chunks) text += ", " + std::to_string(*shape.chunks) + " chunks";
  if (shape.group) text += ", groups of " + std::to_string(*shape.group);
  return text;
}

/// Calls use(shape) for each legal shape with p <= 8 and m <= 16; with 1 to 3 chunks where the generator
/// takes them, and, beside the default group, with every legal one up to m <= most_grouped.
template <class Use>
void for_every_shape(const Generator& family, std::uint32_t most_grouped, Use use) {
  for (std::uint32_t p = 1; p <= 8; ++p) {
    for (std::uint32_t m = 1; m <= 16; ++m) {
      for (std::uint32_t v = 1; v <= (family.takes_chunks ? 3u : 1u); ++v) {
        const std::uint32_t groups = family.takes_group && m <= most_grouped ? m : 0;
        for (std::uint32_t g = 0; g <= groups; ++g) {
          Shape shape{p, m, std::nullopt, std::nullopt};
          if (family.takes_chunks) shape.chunks = v;
          if (g > 0) shape.group = g;
          try {
            shape = legal_shape(family, shape);
          } catch (const BadInput&) {
            continue;
          }
          use(shape);
        }
      }
    }
  }
}

}  // namespace plumb::test
