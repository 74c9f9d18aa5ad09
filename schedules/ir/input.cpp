#include "schedules/ir/input.hpp"

#include "schedules/ir/error.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include <fmt/format.h>

namespace plumb {

std::string read_input(const std::string& path) {
  const bool from_stdin = path == "-";
  const std::string where = from_stdin ? "standard input" : path;
  std::error_code ignored;
  if (!from_stdin && std::filesystem::is_directory(path, ignored))
    throw BadInput(where, "is a folder, not a file");
  struct Close {
    void operator()(std::FILE* file) const {
      if (file != stdin) std::fclose(file);
    }
  };
  const std::unique_ptr<std::FILE, Close> file(from_stdin ? stdin : std::fopen(path.c_str(), "rb"));
  if (!file) throw BadInput(where, fmt::format("cannot be read: {}", std::strerror(errno)));
  std::string content;
  std::vector<char> block(1 << 20);
  while (const std::size_t count = std::fread(block.data(), 1, block.size(), file.get())) {
    if (std::memchr(block.data(), 0, count) != nullptr) throw BadInput(where, "is binary, not text");
    content.append(block.data(), count);
    if (content.size() > max_input_bytes) {
      throw BadInput(where, fmt::format("is larger than the limit of {} MiB", max_input_bytes >> 20));
    }
  }
  if (std::ferror(file.get())) throw BadInput(where, fmt::format("cannot be read: {}", std::strerror(errno)));
  return content;
}

}  // namespace plumb
