// The lists of the original projects, read from the folder that PLUMB_REFERENCE_DIR names. They do not ship;
// a test that needs them begins with PLUMB_NEEDS_REFERENCE().
#pragma once
#include "schedules/ir/schedule.hpp"

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

namespace plumb::test {

/// Where the reference data is; empty without it.
std::string reference_dir();

#define PLUMB_NEEDS_REFERENCE()               \
  if (::plumb::test::reference_dir().empty()) \
  GTEST_SKIP()                                \
      << "NOT TESTED against the original projects' lists: configure with -DPLUMB_REFERENCE_DIR=<folder>"

/// One element of a list with its communication: an action, or the messages of one group as (token, peer).
using Group = std::vector<std::pair<std::string, std::uint32_t>>;
using Element = std::variant<std::string, Group>;

struct ReferenceList {
  std::string file;   // without .json
  Schedule schedule;  // computation alone; `name` is the file's
  std::uint32_t chunks = 1;
  std::vector<std::vector<Element>> with_groups;  // DualPipe and DualPipeV only
};

/// All lists whose file name begins with `prefix`, by file name. `dualpipe_` does not find `dualpipev_`.
std::vector<ReferenceList> reference_lists(const std::string& prefix);

/// `0F3` or `(0F5;7B3)OVERLAP_F_B`. Fails the test and gives a default Action for anything else.
Action parse_action(const std::string& token);

/// Rank by rank and token by token; on failure names the first position that differs.
::testing::AssertionResult same_actions(const Schedule& ours, const Schedule& theirs);

/// The rank's tokens, separated by one space: the form in which tests write small lists by hand.
std::string tokens(const std::vector<Action>& actions);

}  // namespace plumb::test
