#include "tools/spelling.hpp"

#include "schedules/ir/nearest.hpp"

#include <algorithm>
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

// ` (did you mean 'compare'?)` for the first word or flag that is none of the program's and is close to one.
std::string did_you_mean(const CLI::App& app, int argc, const char* const* argv) {
  const CLI::App* level = &app;
  for (int i = 1; i < argc; ++i) {
    const std::string word = std::string(argv[i]).substr(0, std::string_view(argv[i]).find('='));
    const std::vector<std::string> known = words_of(*level);
    if (std::find(known.begin(), known.end(), word) != known.end()) {
      if (!word.starts_with("-")) level = level->get_subcommand(word);
      continue;
    }
    const bool could_be_command = level == &app && i == 1;
    if (!word.starts_with("--") && !could_be_command) continue;
    const std::vector<std::string_view> views(known.begin(), known.end());
    const std::string_view meant = nearest(word, views);
    return meant.empty() ? "" : " (did you mean '" + std::string(meant) + "'?)";
  }
  return "";
}

}  // namespace

std::string what_went_wrong(const CLI::App& app, const CLI::ParseError& error, int argc,
                            const char* const* argv) {
  std::string text = error.what();
  const std::string first = argc > 1 ? argv[1] : "";
  const std::vector<std::string> known = words_of(app);
  if (!first.empty() && !first.starts_with("-") &&
      std::find(known.begin(), known.end(), first) == known.end()) {
    text = "'" + first.substr(0, 60) + "' is no command; `plumb --help` lists them";
  }
  return text + did_you_mean(app, argc, argv);
}

}  // namespace plumb::tools
