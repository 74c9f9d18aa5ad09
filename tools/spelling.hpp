// What a mistyped word probably meant.
#pragma once
#include <string>

#include <CLI/CLI.hpp>

namespace plumb::tools {

/// The parser's error for people: an unknown command by name, and what a mistyped word probably meant.
std::string what_went_wrong(const CLI::App& app, const CLI::ParseError& error, int argc,
                            const char* const* argv);

}  // namespace plumb::tools
