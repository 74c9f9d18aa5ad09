// NVIDIA's Multi-Process Service, without which the processes of one GPU take turns instead of running
// together.
#pragma once
#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace plumb {

/// A daemon of its own in a folder of its own, for as long as this object lives. It changes no setting of the
/// GPU. However this process ends, the daemon ends with it: a helper process waits for just that.
class Mps {
 public:
  /// `control`: the program that starts it and speaks with it. Throws DeviceError with what it said where it
  /// does not start.
  explicit Mps(const std::string& control = "nvidia-cuda-mps-control");
  Mps(const Mps&) = delete;
  Mps& operator=(const Mps&) = delete;
  /// Returns when the daemon has been told to end and its folder is gone.
  ~Mps();

  /// What the processes that use it need in their environment.
  std::vector<std::pair<std::string, std::string>> environment() const;
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
  int alive_ = -1;  // the helper's pipe: it closes when we end
  int helper_ = -1;
};

/// Whether somebody's daemon is there already, so that none is needed.
bool mps_is_running(const std::string& control = "nvidia-cuda-mps-control");

}  // namespace plumb
