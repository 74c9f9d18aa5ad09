// What a mistyped word probably meant.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

namespace plumb::tools {

/// ` (did you mean 'compare'?)` for the first word or flag of the command line that is none of the program's
/// and is close to one; empty otherwise.
std::string did_you_mean(const CLI::App& app, int argc, const char* const* argv);

}  // namespace plumb::tools
