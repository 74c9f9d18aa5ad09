#include "tests/support/golden.hpp"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

namespace plumb::test {

::testing::AssertionResult matches_golden(std::string_view text, const std::string& name) {
  const std::string path = std::string(PLUMB_SOURCE_DIR) + "/tests/golden/" + name;
  if (std::getenv("PLUMB_UPDATE_GOLDEN") != nullptr) {
    std::ofstream(path, std::ios::binary) << text;
    return ::testing::AssertionSuccess();
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) return ::testing::AssertionFailure() << path << " is missing; PLUMB_UPDATE_GOLDEN=1 writes it";
  const std::string golden{std::istreambuf_iterator<char>(in), {}};
  if (golden == text) return ::testing::AssertionSuccess();
  std::istringstream ours{std::string(text)};
  std::istringstream theirs(golden);
  std::string a;
  std::string b;
  for (int line = 1;; ++line) {
    const bool more_a = static_cast<bool>(std::getline(ours, a));
    const bool more_b = static_cast<bool>(std::getline(theirs, b));
    if (more_a && more_b && a == b) continue;
    return ::testing::AssertionFailure()
           << path << ":" << line << "\n  golden: " << (more_b ? b.substr(0, 300) : "(ended)")
           << "\n  now:    " << (more_a ? a.substr(0, 300) : "(ended)")
           << "\nPLUMB_UPDATE_GOLDEN=1 takes the new text";
  }
}

}  // namespace plumb::test
