#include "tools/spelling.hpp"

#include "schedules/ir/nearest.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace plumb::tools {
namespace {

std::vector<std::string> words_of(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    words.push_back(command->get_name());
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
  }
  return words;
}

// The first word that is none of the program's where it stands, and the one that it is close to, if any.
struct Mistyped {
  std::string word;
  std::string meant;
};
std::optional<Mistyped> mistyped(const CLI::App& app, int argc, const char* const* argv) {
  const CLI::App* level = &app;
  for (int i = 1; i < argc; ++i) {
    const std::string word = std::string(argv[i]).substr(0, std::string_view(argv[i]).find('='));
    const std::vector<std::string> known = words_of(*level);
    if (std::find(known.begin(), known.end(), word) != known.end()) {
      if (!word.starts_with("-")) level = level->get_subcommand(word);
      continue;
    }
    const bool could_be_command = level == &app && i == 1 && !word.starts_with("-");
    if (!word.starts_with("--") && !could_be_command) continue;
    const std::vector<std::string_view> views(known.begin(), known.end());
    return Mistyped{word.substr(0, 60), std::string(nearest(word, views))};
  }
  return std::nullopt;
}

// `Could not convert: --ranks = x`: only numbers are converted.
std::string no_number(std::string_view text) {
  const std::size_t name = text.find(": "), value = text.find(" = ");
  if (name == std::string_view::npos || value == std::string_view::npos) return std::string(text);
  return std::string(text.substr(name + 2, value - name - 2)) + ": '" + std::string(text.substr(value + 3)) +
         "' is not the number, or the numbers, that it takes";
}

}  // namespace

std::string what_went_wrong(const CLI::App& app, const CLI::ParseError& error, int argc,
                            const char* const* argv) {
  if (argc < 2) return "a command is required; `plumb --help` lists them";
  if (const auto wrong = mistyped(app, argc, argv)) {
    const bool command = !wrong->word.starts_with("-");
    const std::string meant = wrong->meant.empty() ? "" : " (did you mean '" + wrong->meant + "'?)";
    if (command) return "'" + wrong->word + "' is no command; `plumb --help` lists them" + meant;
    if (!meant.empty()) return "'" + wrong->word + "' is no option here" + meant;
  }
  if (dynamic_cast<const CLI::ConversionError*>(&error) != nullptr) return no_number(error.what());
  return error.what();
}

}  // namespace plumb::tools
