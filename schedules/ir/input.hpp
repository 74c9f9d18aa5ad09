// What people hand in as a file.
#pragma once
#include <cstddef>
#include <string>

namespace plumb {

/// The most bytes that are read of one input.
inline constexpr std::size_t max_input_bytes = std::size_t{256} << 20;

/// The whole of a file, or of standard input for `-`. Throws BadInput: unreadable, a folder, binary, or
/// beyond max_input_bytes.
std::string read_input(const std::string& path);

}  // namespace plumb
