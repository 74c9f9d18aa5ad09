#include "calibrate/provenance.hpp"

#include <algorithm>
#include <cctype>

namespace plumb {
namespace {

// The word with a letter and a digit that names the chip: `H200` of `NVIDIA H200`, `A100` of
// `NVIDIA A100-SXM4-80GB`; all of the name where there is none.
std::string chip_of(std::string_view name) {
  std::string lower;
  for (const char c : name) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  std::size_t from = 0;
  while (from < lower.size()) {
    const std::size_t to = std::min(lower.find_first_of(" -_", from), lower.size());
    const std::string word = lower.substr(from, to - from);
    const bool letter_first = !word.empty() && std::isalpha(static_cast<unsigned char>(word.front())) != 0;
    const bool digits =
        std::any_of(word.begin(), word.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (letter_first && digits) return word;
    from = to + 1;
  }
  return lower;
}

}  // namespace

bool same_gpu_class(std::string_view a, std::string_view b) {
  return a.empty() || b.empty() || chip_of(a) == chip_of(b);
}

}  // namespace plumb
