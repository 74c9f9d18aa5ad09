#include "schedules/ir/units.hpp"

#include "schedules/ir/error.hpp"

#include <array>
#include <cmath>
#include <ostream>
#include <utility>

#include <fmt/format.h>

namespace plumb {
namespace {

constexpr std::int64_t largest = std::int64_t{1} << 53;  // 104 days in nanoseconds, 8 PiB

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// A decimal number times `scale`, rounded half up to a whole number, without floating point: `1.5` and
// 1'000'000 give 1'500'000 on every machine.
std::int64_t scaled_decimal(std::string_view digits, std::int64_t scale, std::string_view text,
                            std::string_view what) {
  __extension__ using Wide = __int128;
  const auto refuse = [&](const char* why) { throw BadInput(what, fmt::format("'{}' {}", text, why)); };
  Wide whole = 0;
  std::size_t i = 0;
  for (; i < digits.size() && is_digit(digits[i]); ++i) {
    whole = whole * 10 + (digits[i] - '0');
    if (whole > largest) refuse("is too large");
  }
  bool any = i > 0;
  Wide fraction = 0;
  Wide denominator = 1;
  if (i < digits.size() && digits[i] == '.') {
    for (++i; i < digits.size() && is_digit(digits[i]); ++i) {
      any = true;
      if (denominator >= Wide{1'000'000'000'000'000}) continue;  // beyond any unit's resolution
      fraction = fraction * 10 + (digits[i] - '0');
      denominator *= 10;
    }
  }
  if (!any || i != digits.size()) refuse("is not a non-negative decimal number with a unit");
  const Wide value = whole * scale + (fraction * scale * 2 + denominator) / (denominator * 2);
  if (value > largest) refuse("is too large");
  return static_cast<std::int64_t>(value);
}

struct Unit {
  std::string_view name;
  std::int64_t scale;
};

template <std::size_t n>
std::int64_t parse_with_unit(std::string_view text, std::string_view what, const std::array<Unit, n>& units,
                             std::string_view expected) {
  std::size_t split = text.size();
  while (split > 0 && !is_digit(text[split - 1]) && text[split - 1] != '.') --split;
  const std::string_view name = text.substr(split);
  if (name.empty()) throw BadInput(what, fmt::format("'{}' has no unit; expected {}", text, expected));
  for (const Unit& unit : units) {
    if (unit.name == name) return scaled_decimal(text.substr(0, split), unit.scale, text, what);
  }
  throw BadInput(what,
                 fmt::format("'{}' is not a non-negative number with one of the units {}", text, expected));
}

}  // namespace

Duration parse_duration(std::string_view text, std::string_view what) {
  constexpr std::array<Unit, 4> units{{{"ns", 1}, {"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}}};
  return {parse_with_unit(text, what, units, "ns us ms s, as in 1.5ms")};
}

Bytes parse_bytes(std::string_view text, std::string_view what) {
  constexpr std::array<Unit, 9> units{{{"B", 1},
                                       {"kB", 1'000},
                                       {"MB", 1'000'000},
                                       {"GB", 1'000'000'000},
                                       {"TB", 1'000'000'000'000},
                                       {"KiB", 1ll << 10},
                                       {"MiB", 1ll << 20},
                                       {"GiB", 1ll << 30},
                                       {"TiB", 1ll << 40}}};
  return {parse_with_unit(text, what, units, "B KiB MiB GiB TiB kB MB GB TB, as in 80GiB")};
}

std::string to_text(Duration duration) {
  const double ns = static_cast<double>(duration.ns);
  const double size = std::abs(ns);
  if (size < 1e3) return fmt::format("{} ns", duration.ns);
  if (size < 1e6) return fmt::format("{:.4g} us", ns / 1e3);
  if (size < 1e9) return fmt::format("{:.4g} ms", ns / 1e6);
  return fmt::format("{:.4g} s", ns / 1e9);
}

std::string to_text(Bytes bytes) {
  double value = static_cast<double>(bytes.count);
  constexpr std::array names{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  std::size_t k = 0;
  while (std::abs(value) >= 1024 && k + 1 < names.size()) value /= 1024, ++k;
  return k == 0 ? fmt::format("{} B", bytes.count) : fmt::format("{:.4g} {}", value, names[k]);
}

std::ostream& operator<<(std::ostream& out, Duration duration) { return out << duration.ns << "ns"; }
std::ostream& operator<<(std::ostream& out, TimePoint time) { return out << "@" << time.ns << "ns"; }
std::ostream& operator<<(std::ostream& out, Bytes bytes) { return out << bytes.count << "B"; }

}  // namespace plumb
