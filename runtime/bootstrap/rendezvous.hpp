// Where the processes of one job meet: small messages over TCP with rank 0 in the middle. It carries NCCL's
// id, clock offsets, figures and traces, never tensors.
#pragma once
#include "runtime/bootstrap/launcher.hpp"
#include "runtime/bootstrap/socket.hpp"
#include "schedules/ir/units.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace plumb {

/// This rank's clock minus rank 0's, right to within the uncertainty (half of the quickest round trip).
struct ClockOffset {
  Duration offset;
  Duration uncertainty;
  bool operator==(const ClockOffset&) const = default;
};

/// All ranks call the same functions in the same order. Each throws DeviceError on every rank that is still
/// there when some rank does not come within the deadline (the ranks are named), is gone, has aborted (with
/// its reason), or calls something else. After that every call throws the same. One thread a rank.
class Rendezvous {
 public:
  /// Waits for all. A single rank needs nobody and no network.
  explicit Rendezvous(const Placement& placement,
                      std::chrono::milliseconds deadline = std::chrono::seconds{60});

  std::uint32_t rank() const { return rank_; }
  std::uint32_t ranks() const { return ranks_; }
  std::chrono::milliseconds limit() const { return limit_; }
  /// Of rank 0's machine, as the ranks were told.
  const std::string& host() const { return host_; }
  /// Of this machine, as the others can reach it: on rank 0's, `host`.
  std::string address() const;

  /// [rank] what each gave, on rank 0; empty on the others.
  std::vector<std::string> gather(std::string_view mine);
  /// What rank 0 gave, on every rank; the others' argument is not looked at.
  std::string broadcast(std::string_view of_rank_0);
  /// Nobody leaves before all have come.
  void barrier();
  ClockOffset clock_offset(const std::function<TimePoint()>& now);

  /// What this rank is at from now on, for the messages that it throws: `training step 12, its checkpoint`.
  void at(std::string what) { at_ = std::move(what); }

  /// Tells every rank, which learn it in their next call, or by asking `aborted`.
  void abort(std::string_view why) noexcept;
  /// Whether some rank has aborted or is gone, and why; waits for nothing. Rank 0 passes it on when it asks.
  std::optional<std::string> aborted();

 private:
  enum class Kind : std::uint8_t { hello, welcome, refusal, data, abort };
  enum class Call : std::uint8_t { join, gather, broadcast, barrier, clock };
  struct Frame {
    Kind kind = Kind::data;
    Call call = Call::join;
    std::uint32_t sequence = 0;
    std::string payload;
  };
  static constexpr std::size_t header_size = 16;

  void accept_all(const Placement& placement, Deadline deadline);
  void join(const Placement& placement, Deadline deadline);
  std::string refusal_of(const Frame& hello, const Placement& placement, std::uint32_t& rank) const;
  void begin(Call call);
  Deadline deadline() const;
  bool send(const Socket& socket, const Frame& frame, Deadline deadline) const;
  std::optional<Frame> receive(const Socket& socket, Deadline deadline, Io& status) const;
  void send_to(std::uint32_t rank, std::string_view payload);
  /// On rank 0 one frame of each other rank; on the others rank 0's frame, index 0.
  std::vector<std::string> collect(const std::vector<std::uint32_t>& from);
  std::string checked(std::uint32_t from, const Frame& frame);
  /// Everyone this rank talks to: all others on rank 0, rank 0 on the others.
  std::vector<std::uint32_t> neighbours() const;
  [[noreturn]] void fail(const std::string& why);
  std::string words(Call call) const;
  std::string here() const;

  std::uint32_t rank_ = 0;
  std::uint32_t ranks_ = 1;
  std::chrono::milliseconds limit_;
  std::string host_;  // of rank 0
  std::string at_ = "at the rendezvous";
  std::vector<Socket> peers_;  // [rank] on rank 0; on the others only [0]
  Call call_ = Call::join;
  std::uint32_t sequence_ = 0;
  std::optional<std::string> failure_;
};

/// `2, 5 to 7`: for messages.
std::string rank_list(const std::vector<std::uint32_t>& ascending);

}  // namespace plumb
