#include "tools/render/svg_text.hpp"

#include "schedules/ir/error.hpp"

#include <fmt/format.h>

namespace plumb::render {

std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') {
          out += "\xef\xbf\xbd";
        } else {
          out += c;
        }
    }
  }
  return out;
}

namespace {

// value / scale with up to the scale's digits behind the point (scale a power of ten).
std::string decimal(std::int64_t value, std::int64_t scale) {
  std::string text = value < 0 ? "-" : "";
  const std::int64_t size = value < 0 ? -value : value;
  text += std::to_string(size / scale);
  std::int64_t rest = size % scale;
  if (rest == 0) return text;
  text += '.';
  for (scale /= 10; rest > 0; scale /= 10) {
    text += static_cast<char>('0' + rest / scale);
    rest %= scale;
  }
  return text;
}

}  // namespace

std::string to_text(Px length) { return decimal(length.hundredths, 100); }

Px share(Px length, std::int64_t value, std::int64_t full) {
  __extension__ using Wide = __int128;
  PLUMB_CHECK(full > 0);
  return {static_cast<std::int64_t>(Wide{length.hundredths} * value / full)};
}

std::int64_t round_step(std::int64_t full, std::int64_t most) {
  PLUMB_CHECK(most > 0);
  std::int64_t step = 1;
  for (int k = 0; step * most < full; ++k) step = k % 3 == 1 ? step / 2 * 5 : step * 2;
  return step;
}

TimeUnit unit_for(Duration full) {
  if (full.ns < 1'000) return {"ns", 1};
  if (full.ns < 1'000'000) return {"us", 1'000};
  if (full.ns < 100'000'000'000) return {"ms", 1'000'000};
  return {"s", 1'000'000'000};
}

std::string in_unit(Duration duration, const TimeUnit& unit) { return decimal(duration.ns, unit.ns); }

}  // namespace plumb::render
