// A point in a stream's work: it can be waited for, and two of them measure the time between.
#pragma once
#include "schedules/ir/units.hpp"

#include <cstdint>
#include <utility>

struct CUevent_st;

namespace plumb::device {

class Stream;

/// `order` costs less than `timing` and has no time.
enum class EventKind : std::uint8_t { order, timing };

class Event {
 public:
  explicit Event(EventKind kind = EventKind::order);
  Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  CUevent_st* handle() const { return handle_; }
  /// The event happens when all that is queued in the stream so far is done.
  void record(const Stream& stream) const;
  bool happened() const;
  /// Blocks the host until it has happened.
  void synchronize() const;

 private:
  CUevent_st* handle_ = nullptr;
};

/// From one event to another; both of EventKind::timing and both have happened.
Duration between(const Event& begin, const Event& end);

}  // namespace plumb::device
