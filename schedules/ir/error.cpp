#include "schedules/ir/error.hpp"

#include <cstdio>
#include <cstdlib>

namespace plumb::detail {

void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "plumb: internal error: %s does not hold (%s:%d). Please report this.\n", condition,
               file, line);
  std::abort();
}

}  // namespace plumb::detail
