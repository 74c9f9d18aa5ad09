// Ctrl-C as a wish: the first one asks to stop with what there is, the second ends the process as usual.
#pragma once
#include <atomic>

namespace plumb::tools {

/// While it lives, the first SIGINT or SIGTERM sets a flag; the next of either does what it does by itself,
/// and so do all when this object is gone.
class InterruptWish {
 public:
  InterruptWish();
  ~InterruptWish();
  InterruptWish(const InterruptWish&) = delete;
  InterruptWish& operator=(const InterruptWish&) = delete;

  const std::atomic<bool>& asked() const;
  /// Which signal asked; 0: none has.
  int signal() const;
};

}  // namespace plumb::tools
