#include "tools/interrupt.hpp"

#include <csignal>

namespace plumb::tools {
namespace {

// A signal handler has nothing but the process to tell it where to write.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

InterruptWish::InterruptWish() {
  interrupted = false;
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted.store(true, std::memory_order_relaxed); };
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

InterruptWish::~InterruptWish() { std::signal(SIGINT, SIG_DFL); }

const std::atomic<bool>& InterruptWish::asked() const { return interrupted; }

}  // namespace plumb::tools
