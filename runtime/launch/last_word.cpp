#include "runtime/launch/last_word.hpp"

#include <thread>
#include <utility>

#include <unistd.h>

namespace plumb {

void end_after(std::string why, std::chrono::milliseconds patience) {
  std::thread([why = std::move(why), patience] {
    std::this_thread::sleep_for(patience);
    const std::string line = "plumb: " + why + "\n";
    static_cast<void>(!write(STDERR_FILENO, line.data(), line.size()));
    _exit(3);
  }).detach();
}

}  // namespace plumb
