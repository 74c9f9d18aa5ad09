// plumb schedules: which schedules there are, and all about one of them.
#include "schedules/generators/generator.hpp"
#include "schedules/ir/json_document.hpp"
#include "tools/command.hpp"
#include "tools/options.hpp"

#include <memory>

#include <fmt/format.h>
#include <fmt/ostream.h>

namespace plumb::tools {
namespace {

struct Options {
  std::string name;
  bool json = false;
};

void print_json(std::ostream& out, const std::vector<const Generator*>& rows) {
  out << "{\"schema\":\"plumb.schedules/1\",\"schedules\":[";
  const char* comma = "";
  for (const Generator* row : rows) {
    fmt::print(out,
               "{}{{\"name\":{},\"alias\":{},\"title\":{},\"paper\":{},\"limits\":{},\"bubble\":{},"
               "\"memory\":{},\"default_chunks\":{},"
               "\"takes_chunks\":{},\"takes_group\":{},\"copies\":{}}}",
               comma, json_quoted(row->name), row->alias.empty() ? "null" : json_quoted(row->alias),
               json_quoted(row->title), json_quoted(row->paper), json_quoted(row->limits),
               json_quoted(row->bubble), json_quoted(row->memory), row->default_chunks, row->takes_chunks,
               row->takes_group, row->copies);
    comma = ",";
  }
  out << "]}\n";
}

void print_one(std::ostream& out, const Generator& row) {
  fmt::print(out, "{} ({}{}{})\n", row.title, row.name, row.alias.empty() ? "" : ", also ", row.alias);
  fmt::print(out, "  paper    {}\n  limits   {}\n  bubble   {}\n  memory   {}\n  copies   {}\n\n{}\n",
             row.paper, row.limits, row.bubble, row.memory, row.copies, row.picture);
  out << "p ranks, m microbatches, v chunks, F forward, I backward_input, W backward_weight, Bf = I + W the "
         "full\n"
         "backward, FB an overlapped pair; costs per chunk, memory in chunks.\n";
}

int run(const Options& options, Console& console) {
  if (!options.name.empty()) {
    const Generator& one = generator(options.name);
    if (options.json) {
      print_json(console.out, {&one});
    } else {
      print_one(console.out, one);
    }
    return 0;
  }
  if (options.json) {
    print_json(console.out, {generators().begin(), generators().end()});
    return 0;
  }
  for (const Generator* row : generators()) fmt::print(console.out, "{:<26} {}\n", row->name, row->limits);
  console.out << "\n`plumb schedules NAME` shows paper, formulas and a picture.\n";
  return 0;
}

}  // namespace

Command schedules_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("schedules", "List the schedules with their legal shapes, or show one");
  command->add_option("name", options->name, "Show paper, formulas and a picture of this one")
      ->type_name("NAME");
  add_json(*command, options->json);
  return {command, [options](Console& console) { return run(*options, console); }};
}

}  // namespace plumb::tools
