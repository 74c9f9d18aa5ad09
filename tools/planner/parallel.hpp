// All cores at one list of independent pieces of work.
#pragma once
#include <cstddef>
#include <functional>

namespace plumb {

/// Calls work(0) … work(count - 1), each once, on `threads` threads (0: all cores), in no order. What a call
/// throws is thrown here once all threads have ended: of the smallest index, whatever the threads.
void for_each_in_parallel(std::size_t count, const std::function<void(std::size_t)>& work,
                          unsigned threads = 0);

}  // namespace plumb
