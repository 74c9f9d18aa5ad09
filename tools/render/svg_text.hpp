// The little that every SVG of ours needs: escaping, exact coordinates, round ticks.
#pragma once
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace plumb::render {

/// For text and attributes of XML and HTML. Characters that XML forbids become U+FFFD.
std::string escaped(std::string_view text);

/// A length in hundredths of a pixel, so that coordinates are integers until they are printed and rectangles
/// meet exactly: `12.5`, `3`.
struct Px {
  std::int64_t hundredths = 0;
  constexpr auto operator<=>(const Px&) const = default;
};
constexpr Px operator+(Px a, Px b) { return {a.hundredths + b.hundredths}; }
constexpr Px operator-(Px a, Px b) { return {a.hundredths - b.hundredths}; }
constexpr Px px(std::int64_t pixels) { return {pixels * 100}; }
std::string to_text(Px length);

/// value / full of a length, rounded down; exact in integers.
Px share(Px length, std::int64_t value, std::int64_t full);

/// 1, 2 or 5 times a power of ten, the smallest such that at most `most` of them make `full`.
std::int64_t round_step(std::int64_t full, std::int64_t most);

/// The unit that a whole time axis is labelled in.
struct TimeUnit {
  std::string_view name;  // `ms`
  std::int64_t ns = 1;
};
TimeUnit unit_for(Duration full);
/// In that unit, without the unit and without needless zeros: `12.5`.
std::string in_unit(Duration duration, const TimeUnit& unit);

}  // namespace plumb::render
