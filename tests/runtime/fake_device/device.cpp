// A device without hardware behind runtime/device's headers: memory is the host's, every stream is a thread
// that works off its queue with random pauses, and an event that nobody has recorded cannot be waited for.
// What is not ordered by an event happens in an order that changes from run to run.
#include "runtime/device/buffer.hpp"
#include "runtime/device/current_device.hpp"
#include "runtime/device/device_info.hpp"
#include "runtime/device/event.hpp"
#include "runtime/device/green_context.hpp"
#include "runtime/device/memory_state.hpp"
#include "runtime/device/stream.hpp"
#include "schedules/ir/error.hpp"
#include "tests/runtime/fake_device/queue.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <new>

namespace plumb::device {
namespace {

TimePoint host_now() {
  return {std::chrono::duration_cast<std::chrono::nanoseconds>(
              std::chrono::steady_clock::now().time_since_epoch())
              .count()};
}

// A moment in a stream that has come or not.
struct Moment {
  std::mutex mutex;
  std::condition_variable changed;
  bool come = false;
  TimePoint time;

  void arrive() {
    const std::lock_guard lock(mutex);
    time = host_now();
    come = true;
    changed.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return come; });
  }
};

// All streams, for synchronize().
std::mutex all_mutex;
std::map<CUstream_st*, std::shared_ptr<CUstream_st>> all;

}  // namespace
}  // namespace plumb::device

using plumb::device::Moment;

struct CUevent_st {
  std::mutex mutex;
  std::shared_ptr<Moment> recorded;
  std::shared_ptr<Moment> latest() {
    const std::lock_guard lock(mutex);
    PLUMB_CHECK(recorded != nullptr);
    return recorded;
  }
};

namespace plumb::device {

int level_of(Priority) { return 0; }
Stream::Stream(Priority) {
  const auto made = std::make_shared<CUstream_st>();
  handle_ = made.get();
  const std::lock_guard lock(all_mutex);
  all[handle_] = made;
}
Stream::~Stream() {
  if (!handle_) return;
  std::shared_ptr<CUstream_st> own;  // ends outside of the lock, when nobody else waits for it
  const std::lock_guard lock(all_mutex);
  own = all.extract(handle_).mapped();
}
void Stream::wait(const Event& event) const {
  handle_->push([moment = event.handle()->latest()] { moment->wait(); });
}
void Stream::synchronize() const { handle_->drain(); }

void copy(const Stream& stream, void* to, const void* from, std::size_t bytes) {
  stream.handle()->push([=] { std::memcpy(to, from, bytes); });
}
void fill(const Stream& stream, void* to, int byte, std::size_t bytes) {
  stream.handle()->push([=] { std::memset(to, byte, bytes); });
}
void synchronize() {
  std::vector<std::shared_ptr<CUstream_st>> streams;
  {
    const std::lock_guard lock(all_mutex);
    for (const auto& [handle, stream] : all) streams.push_back(stream);
  }
  for (const auto& stream : streams) stream->drain();
}

Event::Event(EventKind) : handle_(new CUevent_st) {}
Event::~Event() { delete handle_; }
void Event::record(const Stream& stream) const {
  auto moment = std::make_shared<Moment>();
  {
    const std::lock_guard lock(handle_->mutex);
    handle_->recorded = moment;
  }
  stream.handle()->push([moment] { moment->arrive(); });
}
bool Event::happened() const {
  const auto moment = handle_->latest();
  const std::lock_guard lock(moment->mutex);
  return moment->come;
}
void Event::synchronize() const { handle_->latest()->wait(); }
Duration between(const Event& begin, const Event& end) {
  PLUMB_CHECK(begin.happened() && end.happened());
  return end.handle()->latest()->time - begin.handle()->latest()->time;
}

Buffer::Buffer(Bytes bytes)
    : data_(::operator new (static_cast<std::size_t>(std::max<std::int64_t>(bytes.count, 1)),
                            std::align_val_t{256})),
      bytes_(bytes) {}
// As with CUDA, memory is given back when the whole device is done.
Buffer::~Buffer() {
  if (!data_) return;
  synchronize();
  ::operator delete (data_, std::align_val_t{256});
}

MemoryState memory_state() { return {{std::int64_t{1} << 40}, {std::int64_t{1} << 40}}; }
DeviceInfo device_info() {
  DeviceInfo info;
  info.multiprocessors = 132;
  return info;
}
void require_device() {}

GreenContext::~GreenContext() = default;
Stream GreenContext::stream(Priority priority) const { return Stream(priority); }
std::vector<GreenContext> partition(std::uint32_t ranks) {
  std::vector<GreenContext> shares;
  for (std::uint32_t i = 0; i < ranks; ++i) shares.emplace_back(nullptr, 8);
  return shares;
}

std::uint32_t current_device() { return 0; }
void use_device(std::uint32_t) {}

}  // namespace plumb::device
