#include "tools/origin.hpp"

#include <array>
#include <ctime>
#include <fstream>
#include <string_view>

#include <unistd.h>

extern char** environ;

namespace plumb::tools {

Origin origin() {
  Origin out;
  out.version = PLUMB_VERSION;
  out.commit = build_commit();
  std::ifstream command("/proc/self/cmdline", std::ios::binary);
  for (std::string word; std::getline(command, word, '\0');) out.argv.push_back(word);
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    const auto equals = text.find('=');
    constexpr std::array<std::string_view, 4> prefixes{"CUDA_", "NCCL_", "PLUMB_", "CUBLAS_"};
    for (const std::string_view prefix : prefixes) {
      if (text.starts_with(prefix) && equals != std::string_view::npos) {
        out.environment[std::string(text.substr(0, equals))] = text.substr(equals + 1);
      }
    }
  }
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) == 0) out.host = name.data();
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  out.time = text.data();
  return out;
}

}  // namespace plumb::tools
