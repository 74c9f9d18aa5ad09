// Snapshot texts under tests/golden. PLUMB_UPDATE_GOLDEN=1 in the environment writes them anew; read the
// difference before you commit it.
#pragma once
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace plumb::test {

/// Whether `text` is what tests/golden/`name` holds, byte for byte; on failure names the first line that
/// differs.
::testing::AssertionResult matches_golden(std::string_view text, const std::string& name);

}  // namespace plumb::test
