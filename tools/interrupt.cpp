#include "tools/interrupt.hpp"

#include <csignal>

namespace plumb::tools {
namespace {

// A signal handler has nothing but the process to tell it where to write.
std::atomic<bool> interrupted{false};
std::atomic<int> by{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void on_signal(int signal) {
  if (!interrupted.exchange(true)) {
    by = signal;
    return;
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

InterruptWish::InterruptWish() {
  interrupted = false;
  by = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

InterruptWish::~InterruptWish() {
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
}

const std::atomic<bool>& InterruptWish::asked() const { return interrupted; }

int InterruptWish::signal() const { return interrupted ? by.load() : 0; }

}  // namespace plumb::tools
