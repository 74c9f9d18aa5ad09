// Ctrl-C as a wish: the first one asks to stop with what there is, the second ends the process as usual.
#pragma once
#include <atomic>

namespace plumb::tools {

/// While it lives, SIGINT sets a flag, once; then, and afterwards, SIGINT does what it did before.
class InterruptWish {
 public:
  InterruptWish();
  ~InterruptWish();
  InterruptWish(const InterruptWish&) = delete;
  InterruptWish& operator=(const InterruptWish&) = delete;

  const std::atomic<bool>& asked() const;
};

}  // namespace plumb::tools
