#include "tests/support/reference.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

namespace plumb::test {

std::string reference_dir() { return PLUMB_REFERENCE_DIR; }

Action parse_action(const std::string& token) {
  const std::string tail = ")OVERLAP_F_B";
  if (token.starts_with('(') && token.ends_with(tail)) {
    const std::size_t middle = token.find(';');
    const auto forward = parse_op(token.substr(1, middle - 1));
    const auto backward = parse_op(token.substr(middle + 1, token.size() - tail.size() - middle - 1));
    if (forward && backward) return Action(*forward, *backward);
  } else if (const auto op = parse_op(token)) {
    return Action(*op);
  }
  ADD_FAILURE() << "no action: " << token;
  return {};
}

std::vector<ReferenceList> reference_lists(const std::string& prefix) {
  std::vector<ReferenceList> lists;
  for (const auto& entry : std::filesystem::directory_iterator(reference_dir() + "/schedules")) {
    const std::string file = entry.path().stem().string();
    if (!file.starts_with(prefix) || file == "expected_metrics") continue;
    std::ifstream in(entry.path());
    const nlohmann::json json = nlohmann::json::parse(in);
    ReferenceList list;
    list.file = file;
    list.chunks = json.value("v", 1u);
    list.schedule = {file, json.at("stages"), json.at("m"), {}};
    for (const auto& rank : json.at("ranks")) {
      auto& actions = list.schedule.actions.emplace_back();
      for (const auto& token : rank) {
        const Action action = parse_action(token);
        if (is_compute(action.first().kind)) actions.push_back(action);
      }
    }
    if (file.starts_with("dualpipe")) {
      for (const auto& rank : json.at("ranks_with_comms")) {
        auto& elements = list.with_groups.emplace_back();
        for (const auto& element : rank) {
          if (element.is_string()) {
            elements.emplace_back(element.get<std::string>());
          } else {
            elements.emplace_back(element.at("group").get<Group>());
          }
        }
      }
    }
    lists.push_back(std::move(list));
  }
  std::sort(lists.begin(), lists.end(), [](const auto& a, const auto& b) { return a.file < b.file; });
  return lists;
}

::testing::AssertionResult same_actions(const Schedule& ours, const Schedule& theirs) {
  if (ours.stages != theirs.stages || ours.microbatches != theirs.microbatches ||
      ours.ranks() != theirs.ranks()) {
    return ::testing::AssertionFailure() << "the shapes differ";
  }
  for (std::uint32_t rank = 0; rank < ours.ranks(); ++rank) {
    const auto& a = ours.actions[rank];
    const auto& b = theirs.actions[rank];
    const auto [at, there] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    if (at == a.end() && there == b.end()) continue;
    return ::testing::AssertionFailure() << "rank " << rank << " differs at " << at - a.begin()
                                         << "\n  ours   " << tokens(a) << "\n  theirs " << tokens(b);
  }
  return ::testing::AssertionSuccess();
}

std::string tokens(const std::vector<Action>& actions) {
  std::string text;
  for (const Action& action : actions) {
    if (!text.empty()) text += ' ';
    text += to_string(action);
  }
  return text;
}

}  // namespace plumb::test
