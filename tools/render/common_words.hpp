// What most names in a list say alike.
#pragma once
#include <string>
#include <vector>

namespace plumb::render {

struct CommonWords {
  std::string common;              // said once: `bf16 hidden=64, whole GPU`
  std::vector<std::string> names;  // what each says besides, in the order given
};

/// Names of measurements: words, what is in brackets being one, then more behind commas. Sizes (`hidden=64`),
/// what is in brackets, data types, and what stands behind a comma are common if more than half of the names
/// have them, of three or more; any other word stays.
CommonWords common_words(const std::vector<std::string>& names);

}  // namespace plumb::render
