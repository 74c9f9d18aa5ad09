#include "runtime/bootstrap/agreement.hpp"

#include "runtime/bootstrap/rendezvous.hpp"
#include "schedules/ir/error.hpp"

namespace plumb {
namespace {

std::string to_text(const std::map<std::string, std::string>& map) {
  std::string text;
  for (const auto& [name, value] : map) {
    PLUMB_CHECK((name + value).find_first_of("\t\n") == std::string::npos);
    text += name + '\t' + value + '\n';
  }
  return text;
}

// What is there already stays.
void add_text(const std::string& text, std::map<std::string, std::string>& map) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t tab = text.find('\t', at);
    const std::size_t end = text.find('\n', at);
    if (tab > end || end == std::string::npos) throw DeviceError("another rank's choices cannot be read");
    map.emplace(text.substr(at, tab - at), text.substr(tab + 1, end - tab - 1));
    at = end + 1;
  }
}

}  // namespace

std::map<std::string, std::string> agree(Rendezvous& rendezvous,
                                         const std::map<std::string, std::string>& own) {
  std::map<std::string, std::string> all;
  for (const std::string& one : rendezvous.gather(to_text(own))) add_text(one, all);  // in order of ranks
  const std::string text = rendezvous.broadcast(to_text(all));
  all.clear();
  add_text(text, all);
  return all;
}

}  // namespace plumb
